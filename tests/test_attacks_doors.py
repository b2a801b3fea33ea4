"""Attacks at every door: whatever reads a value refuses a forged one, whatever does not need it goes on.

A store has many ways in.  Each is tried with a plain pickle, a pickle behind a header, a genuine record of another key,
and a genuine one whose tags were changed.
"""

from __future__ import annotations

import mmap
import pickle

import attacker
import numpy as np
import pytest
from attacker import (
    KEY,
    SEALINGS,
    fitting,
    head_of,
    headed,
    nothing_runs,  # noqa: F401
    open_sealed,
    plain,
    plant,
    rewritten,
    stolen,
    tree_key,
)
from doors import OTHERS, READING, VICTIM, WRITING, in_savepoint, in_snapshot, in_transaction, one

from objstore import BadSignature, Store
from objstore.codecs.pickling import Pickle
from objstore.space import TAGS, index_entries

pytestmark = pytest.mark.usefixtures("forked_checks")

TAG = "tag"

FORGED = {
    "a plain pickle": lambda place, _mine, _other: plain(place),
    "a pickle with a header": lambda place, _mine, _other: headed(place),
    "a record of another key": lambda place, _mine, other: fitting(place, head_of(other)),
    "a record with other tags": lambda place, mine, _other: rewritten(place, mine, tags=(TAG, "more")),
}


@pytest.fixture(params=FORGED)
def forgery(request):
    return request.param


@pytest.fixture(params=SEALINGS)
def attacked(request, location, forgery):
    """A sealed store in which one record is forged; its tag stands in the index, wherever the record has it."""
    with open_sealed(location, request.param) as store:
        store.update(OTHERS)
        store.set(VICTIM, [3], tags=(TAG,))
        place = tree_key(store, VICTIM)
        plant(store, place, FORGED[forgery](place, stolen(store, VICTIM), stolen(store, "a")))
        yield store


DOORS = {
    "of the store, for reading": READING,
    "of the store, for writing": WRITING,
    "of a snapshot": {name: in_snapshot(function) for name, function in READING.items()},
    "of a verified snapshot": {name: in_snapshot(function, verify=True) for name, function in READING.items()},
    "of a transaction": {name: in_transaction(function) for name, function in (READING | WRITING).items()},
    "of a savepoint": {name: in_savepoint(function) for name, function in WRITING.items()},
}


def refuses_at(door, store, **expected):
    """Raise where this door lets anything through."""
    with pytest.raises(BadSignature, **expected) as caught:
        door(store)
    return caught.value


@pytest.mark.parametrize("doors", DOORS)
def test_what_reads_the_value_refuses_it(attacked, doors):
    before = stolen(attacked, VICTIM)
    for name, door in DOORS[doors].items():
        error = refuses_at(door, attacked)
        assert error.key == VICTIM, name
        assert repr(VICTIM) in str(error), name
        # Nothing was changed, and everybody else is as he was.
        assert stolen(attacked, VICTIM) == before, name
    assert {key: attacked[key] for key in OTHERS} == OTHERS
    assert len(attacked) == 3


@pytest.mark.parametrize("verify", [False, True])
def test_a_view_refuses_it(attacked, verify):
    if not attacked.supports("view"):
        pytest.skip("an engine in memory has nothing to show")
    with pytest.raises(BadSignature):
        attacked.view(VICTIM, verify=verify)


def test_a_tag_is_no_way_in(attacked, forgery):
    """What is found by a tag is asked for it, and a forged record may say that it bears one."""
    tagged = attacked.range(tag=TAG)
    if forgery == "a record with other tags":
        assert list(tagged) == [VICTIM]
        for door in (lambda: list(tagged.items()), lambda: list(tagged.values()), lambda: tagged[VICTIM]):
            with pytest.raises(BadSignature):
                door()
    else:
        assert list(tagged.items()) == []


class TestWhatNeedsNoValue:
    def test_goes_on(self, attacked):
        assert VICTIM in attacked
        assert len(attacked) == 3
        assert list(attacked) == [*OTHERS, VICTIM]
        assert attacked.last() == VICTIM
        assert VICTIM in attacked.keys() & {VICTIM}
        assert "3 items" in repr(attacked)
        assert [entry.key for entry in attacked.entries()] == [*OTHERS, VICTIM]
        assert attacked.entry(VICTIM).raw() == stolen(attacked, VICTIM)
        assert VICTIM in repr(attacked.entry(VICTIM))
        assert attacked.ttl(VICTIM) is None
        assert attacked.add(VICTIM, [4]) is False
        assert attacked.expire() == 0
        assert attacked.stats().entries == 3
        assert len(list(zip(range(2), attacked.items(), strict=False))) == 2

    @pytest.mark.parametrize(
        "removal",
        [
            lambda store: store.delete(VICTIM),
            lambda store: store.delete_many([VICTIM]),
            lambda store: store.range(prefix="v").clear(),
            lambda store: store.__delitem__(VICTIM) or True,
        ],
    )
    def test_it_can_be_removed(self, attacked, removal):
        assert removal(attacked)
        assert dict(attacked) == OTHERS

    def test_all_can_be_removed(self, attacked):
        attacked.clear()
        assert len(attacked) == 0

    @pytest.mark.parametrize(
        "writing",
        [
            lambda store: store.__setitem__(VICTIM, [9]),
            lambda store: store.set(VICTIM, [9], ttl=60, tags=("new",)),
            lambda store: store.update({VICTIM: [9]}),
            lambda store: store.load({VICTIM: [9]}),
            in_transaction(lambda txn: txn.__setitem__(VICTIM, [9])),
        ],
    )
    def test_it_can_be_overwritten(self, attacked, writing):
        writing(attacked)
        assert dict(attacked) == {**OTHERS, VICTIM: [9]}

    def test_an_iteration_gives_what_comes_before_it(self, attacked):
        seen = []
        with pytest.raises(BadSignature):
            for key, value in attacked.items():
                seen.append((key, value))
        assert seen == list(OTHERS.items())


def test_in_a_namespace_all_is_the_same(location, forgery):
    for sealing in SEALINGS:
        with open_sealed(location if location == "memory://" else f"{location}.{sealing}", sealing) as store:
            users = store.namespace("users")
            users.update(OTHERS)
            users.set(VICTIM, [3], tags=(TAG,))
            place = tree_key(users, VICTIM)
            plant(store, place, FORGED[forgery](place, stolen(users, VICTIM), stolen(users, "a")))
            for door in (READING | WRITING).values():
                with pytest.raises(BadSignature):
                    door(users)
            with store.snapshot() as snapshot, pytest.raises(BadSignature):
                snapshot.namespace("users")[VICTIM]
            with store.transaction() as txn, pytest.raises(BadSignature):
                txn.namespace("users")[VICTIM]
            assert len(store) == 0
            assert users.delete(VICTIM)
            assert dict(users) == OTHERS


def test_a_forged_index_shows_nothing_that_a_record_does_not_say(attacked):
    place = tree_key(attacked, "a")
    for entry in index_entries(place, 1, (TAG,)):
        plant(attacked, entry, b"")
    plant(attacked, TAGS + b"\0" * 7 + place, b"")
    assert "a" not in list(attacked.range(tag=TAG))
    assert attacked.expire() == 0
    assert attacked["a"] == [1]


class TestWithoutTheKey:
    """A sealed store whose key is not given can be listed; no value is read or written."""

    @pytest.fixture(params=SEALINGS)
    def locked(self, request, tmp_path):
        with open_sealed(tmp_path / "a.store", request.param) as store:
            store.update(OTHERS)
            store[VICTIM] = [3]
        with Store(tmp_path / "a.store") as store:
            yield store

    @pytest.mark.parametrize("planted", [None, plain, headed])
    @pytest.mark.parametrize("doors", DOORS)
    def test_genuine_or_planted_nothing_is_read(self, locked, doors, planted):
        if planted is not None:
            plant(locked, tree_key(locked, VICTIM), planted(tree_key(locked, VICTIM)))
        option = "signing_key" if locked.stats().sealing == "signed" else "encryption_key"
        for door in DOORS[doors].values():
            refuses_at(door, locked, match=f"no {option} was given")

    def test_nor_written(self, locked):
        for write in (
            lambda: locked.__setitem__("new", 1),
            lambda: locked.set("new", 1, ttl=5),
            lambda: locked.update(new=1),
            lambda: locked.add("new", 1),
            lambda: locked.setdefault("new", 1),
        ):
            with pytest.raises(BadSignature):
                write()
        assert list(locked) == [*OTHERS, VICTIM]

    def test_what_needs_no_value_goes_on(self, locked):
        assert len(locked) == 3
        assert locked.entry("a").codec == "pickle"
        assert locked.delete("a")
        assert locked.check().unverified == 2


class TestChangedAfterItWasVerified:
    """What is verified is what is decoded: a large record lies in a map of the file, which others can write."""

    @pytest.fixture(params=SEALINGS)
    def changing(self, request, tmp_path, monkeypatch):
        """A store, and a seal that lets the adversary write into the file as soon as it was verified."""
        with open_sealed(tmp_path / "a.store", request.param) as store:
            array = np.arange(50_000, dtype=np.int64)
            store["array"] = {"array": array, "text": "before" * 10}
            stored = stolen(store, "array")
            path = tmp_path / "a.store" / "data.mdb"
            at = path.read_bytes().index(stored)
            file = path.open("r+b")
            window = mmap.mmap(file.fileno(), 0)
            genuine = type(store._space.seal).open
            looked = []

            def verify_and_be_overtaken(seal, place, head, inside_at):
                inside = genuine(seal, place, head, inside_at)
                looked.append(inside_at)
                window[at + inside_at : at + len(stored)] = b"\xee" * (len(stored) - inside_at)
                return inside

            monkeypatch.setattr(type(store._space.seal), "open", verify_and_be_overtaken)
            yield store, array, looked, lambda: window.__setitem__(slice(at, at + len(stored)), stored)
            window.close()
            file.close()

    @pytest.mark.parametrize(
        "door",
        {
            "[]": lambda store: store["array"],
            "view": lambda store: store.view("array"),
            "snapshot": lambda store: store.snapshot()["array"],
            "verified snapshot": lambda store: store.snapshot(verify=True)["array"],
            "items of a snapshot": lambda store: dict(store.snapshot().items())["array"],
            "entry of a snapshot": lambda store: store.snapshot().entry("array").value,
            "get_many": lambda store: store.get_many(["array"])["array"],
        }.items(),
        ids=lambda door: door[0],
    )
    def test_the_codec_gets_what_was_verified(self, changing, door):
        store, array, looked, put_back = changing
        for _ in range(2):  # the second time, a handle may know that large records are there
            try:
                value = door[1](store)
            except BadSignature:
                pytest.fail("it was looked at again after it was verified, and was another")
            assert looked
            assert value["text"] == "before" * 10
            assert np.array_equal(value["array"], array)
            put_back()

    def test_and_it_would_be_noticed_if_it_were_a_view(self, changing):
        store, _, _, _ = changing
        before = bytes(store._engine.view(tree_key(store, "array"))[-100:])
        store["array"]
        assert bytes(store._engine.view(tree_key(store, "array"))[-100:]) != before


def test_nothing_is_expanded_or_decoded_behind_a_bad_seal(attacked, monkeypatch):
    """pgAdmin unpickled a session first and looked at its code then."""
    from objstore import space

    def never(*_arguments, **_options):
        attacker.sing("too early")
        raise AssertionError("it was decoded before it was verified")

    monkeypatch.setattr(space, "expand", never)
    monkeypatch.setattr(Pickle, "decode", never)
    attacked._space._decode = never
    place = tree_key(attacked, VICTIM)
    bombs = {
        "of sizes": rewritten(place, stolen(attacked, "a"), compressed=(3, (1 << 40,))),
        "of zlib": headed(place, bytes(1000), flags=0x10, fields=b"\1\1\0" + (1 << 30).to_bytes(8, "little")),
        "nested": plain(place, b"\x80\x05" + b"]" * 100_000 + b"a" * 99_999 + b"."),
        "doubled": plain(place, b"\x80\x05]" + b"2(2e" * 60 + b"."),
        "long": plain(place, b"\x80\x05\x8b" + (1 << 30).to_bytes(4, "little") + b"."),
    }
    for bomb in bombs.values():
        plant(attacked, place, bomb)
        for door in (
            READING["[]"],
            READING["range"],
            READING["entry"],
            WRITING["pop"],
            WRITING["modify"],
            in_snapshot(one),
        ):
            with pytest.raises(BadSignature):
                door(attacked)


def test_a_namespace_with_another_codec_is_sealed_as_well(location):
    with open_sealed(location, "signed", codec="msgpack") as store:
        objects = store.namespace("objects", codec="pickle")
        objects[VICTIM] = {1, 2}
        place = tree_key(objects, VICTIM)
        for forged in (plain(place), headed(place)):
            plant(store, place, forged)
            with pytest.raises(BadSignature):
                objects[VICTIM]
        assert pickle.loads(forged[8:-8]) is None
        assert attacker.ran.pop() == ("it ran",)
        assert KEY not in forged
