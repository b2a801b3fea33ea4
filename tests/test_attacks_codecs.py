"""Attacks on stores without a seal: what a codec is given there may come from anybody.

A codec that runs no code stays one, whatever a record says of itself; an allow-list holds at every way to a value; a
process whose environment forbids pickles reads none.  What the codecs do with single payloads is tried in
`test_codecs_*.py`; here it is the way from the file to them.
"""

from __future__ import annotations

import copyreg
import os
import pickle
import shutil
import struct
import sys
import zlib
from contextlib import suppress

import attacker
import pytest
from attacker import (
    FORMS,
    KEY,
    NUMBERS,
    PICKLE,
    SEALINGS,
    fitting,
    headed,
    nothing_runs,  # noqa: F401
    open_sealed,
    plain,
    plant,
    refuses,
    stolen,
    tree_key,
)
from doors import READING, VICTIM, WRITING, in_snapshot, in_transaction
from programs import run

import objstore
from objstore import BadSignature, CorruptRecord, DecodeError, Pickle, Store, StoreError

SAFE = {"bytes": b"value", "json": [3], "msgpack": [3]}

DOORS = {
    **READING,
    **WRITING,
    **{f"{name} in a snapshot": in_snapshot(function) for name, function in READING.items()},
    **{f"{name} in a transaction": in_transaction(function) for name, function in (READING | WRITING).items()},
    "view": lambda store: store.view(VICTIM) if store.supports("view") else store[VICTIM],
}
TOUCHES = {name for name in DOORS if name.startswith("touch")}  # which decode nothing


def planted_forms(place, codec):
    """Every way to write down a pickle, for somebody who wants it unpickled."""
    for payload in FORMS.values():
        yield plain(place, payload)
        yield headed(place, payload)
        for number in (NUMBERS[codec], 2, 3, 4, 128, 254):
            yield headed(place, payload, codec=number)
        yield headed(place, payload, flags=1, fields=struct.pack("<q", 1 << 60))
        packed = zlib.compress(payload)
        sizes = struct.pack("<BHQ", 1, 1, len(payload))
        for number in (1, NUMBERS[codec]):
            yield headed(place, packed, codec=number, flags=0x10, fields=sizes)
        frame = struct.pack("<HQ", 1, 0) + b"\0" * 8
        yield headed(place, payload, flags=8, fields=frame)
        yield headed(place, b"\x80\x05\x97." + payload, flags=8, fields=frame)
        yield headed(place, b"\x1e" + payload + b"\n" + payload, codec=NUMBERS[codec])
    yield headed(
        place, b"\xc7" + bytes([len(PICKLE)]) + b"\x4e" + PICKLE, codec=NUMBERS[codec]
    )  # an array, to MessagePack


class TestSafeCodecs:
    @pytest.fixture(params=SAFE)
    def safe(self, request, location):
        with Store(location, codec=request.param) as store:
            store.update({"a": SAFE[request.param], VICTIM: SAFE[request.param]})
            yield store

    def test_nothing_is_unpickled(self, safe, monkeypatch):
        place, codec = tree_key(safe, VICTIM), safe.stats().codec
        monkeypatch.setattr(Pickle, "decode", lambda *_: attacker.sing("unpickled"))
        for forged in planted_forms(place, codec):
            plant(safe, place, forged)
            try:
                value = safe[VICTIM]
            except (DecodeError, CorruptRecord):
                refuses(safe, VICTIM, (DecodeError, CorruptRecord))
            else:  # bytes are what they are, and have been written by whoever can write
                assert isinstance(value, bytes)
                assert codec == "bytes"
        assert safe["a"] == SAFE[codec]

    @pytest.mark.parametrize("form", [plain, headed])
    def test_at_no_door(self, safe, form):
        place = tree_key(safe, VICTIM)
        plant(safe, place, form(place))
        for name, door in DOORS.items():
            if name in TOUCHES:
                continue
            with pytest.raises(DecodeError) as caught:
                door(safe)
            assert caught.value.key == VICTIM, name
        assert safe.entry(VICTIM).codec == "pickle"
        assert safe.delete(VICTIM)

    def test_what_is_touched_is_not_decoded(self, safe):
        place = tree_key(safe, VICTIM)
        plant(safe, place, plain(place))
        assert safe.touch(VICTIM, 60)
        refuses(safe, VICTIM, DecodeError)

    @pytest.mark.parametrize("sealing", SEALINGS)
    def test_sealed_ones_call_it_a_bad_seal(self, location, sealing):
        for codec, value in SAFE.items():
            with open_sealed(
                location if location == "memory://" else f"{location}.{codec}", sealing, codec=codec
            ) as store:
                store[VICTIM] = value
                place = tree_key(store, VICTIM)
                for forged in planted_forms(place, codec):
                    plant(store, place, forged)
                    refuses(store, VICTIM)

    def test_a_codec_of_ones_own_gets_its_own_number_only(self, location):
        class Own:
            name, number, runs_code = "own", 200, False

            def encode(self, value):
                return b"\x80" + value, ()

            def decode(self, payload, _frames):
                return bytes(payload)

        with Store(location, codec=Own()) as store:
            store[VICTIM] = b"value"
            place = tree_key(store, VICTIM)
            assert stolen(store, VICTIM)[0] == 1
            for number in (1, 2, 3, 4, 128, 199, 201, 254):
                plant(store, place, headed(place, codec=number))
                refuses(store, VICTIM, DecodeError)
            plant(store, place, plain(place))
            refuses(store, VICTIM, DecodeError)


class Harmless:
    """Allowed.  Its state is whatever a pickle says."""

    def __init__(self, *what):
        self.what = what


def text(content):
    return b"X" + struct.pack("<I", len(content.encode())) + content.encode()


def glob(module, name):
    return text(module) + text(name) + b"\x93"


ME = Harmless.__module__
ALLOWED = f"{ME}.Harmless"
SING = glob("attacker", "sing")
CALL = b"(" + text("it ran") + b"tR."
OBJECT = b"\x80\x04" + glob(ME, "Harmless") + b")R"
EXTENSION = 0x70FF

HOSTILE = {
    "reduce": b"\x80\x04" + SING + CALL,
    "by GLOBAL": b"\x80\x02cattacker\nsing\n(X\x02\0\0\0ittR.",
    "by GLOBAL, protocol 0": b"cattacker\nsing\n(Vit\ntR.",
    "by INST": b"(Vit\niattacker\nsing\n.",
    "by OBJ": b"\x80\x02(cattacker\nsing\nX\x02\0\0\0ito.",
    "by NEWOBJ": b"\x80\x02cattacker\nCanary\n)\x81.",
    "by NEWOBJ_EX": b"\x80\x04" + glob("attacker", "Canary") + b")}\x92.",
    "dotted": b"\x80\x04" + glob(ME, "attacker.sing") + CALL,
    "dotted from what is allowed": b"\x80\x04" + glob(ME, "Harmless.__init__.__globals__") + b".",
    "of a module": b"\x80\x04" + glob(ME, "Harmless.__module__") + b".",
    "built on an instance, how it is pickled": OBJECT + b"}(" + text("__reduce__") + b"K\x01ub.",
    "built on the class": b"\x80\x04" + glob(ME, "Harmless") + b"}(" + text("evil") + b"K\x01ub.",
    "built on an instance, its class": b"\x80\x04" + glob(ME, "Harmless") + b")R}(" + text("__class__") + b"K\x01ub.",
    "an extension": b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + CALL,
    "a persistent id": b"\x80\x02K\x01Q.",
    "a persistent id, protocol 0": b"Pid\n.",
    "not text": b"\x80\x04K\x01K\x02\x93.",
    "no name": b"\x80\x04" + glob("", "") + b".",
    "builtins": b"\x80\x04" + glob("builtins", "eval") + b"(" + text("1") + b"tR.",
    "builtins of Python 2": b"c__builtin__\neval\n(V1\ntR.",
    "by the memo": b"\x80\x04" + text("attacker") + b"\x94" + text("sing") + b"\x94h\0h\1\x93" + CALL,
    "with a newline": b"\x80\x04" + glob("attacker\n", "sing") + b".",
    "with a zero": b"\x80\x04" + glob("attacker", "sing\0") + b".",
    "in letters that look the same": b"\x80\x04" + glob("\uff41ttacker", "sing") + b".",
    "in other case": b"\x80\x04" + glob(ME, "harmless") + b".",
    "of the allowed module": b"\x80\x04" + glob(ME, "os") + b".",
    "os": b"\x80\x04" + glob("os", "system") + b"(" + text("true") + b"tR.",
    "hostile arguments": b"\x80\x04" + glob(ME, "Harmless") + b"(" + SING + b"tR.",
}


class TestAllowList:
    @pytest.fixture(autouse=True)
    def registered(self):
        """An extension code for the canary, which this process has used already."""
        copyreg.add_extension("attacker", "sing", EXTENSION)
        pickle.loads(b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + b".")
        yield
        copyreg.remove_extension("attacker", "sing", EXTENSION)
        copyreg.clear_extension_cache()

    @pytest.fixture
    def restricted(self, location):
        with Store(location, codec=Pickle(allow=[ALLOWED])) as store:
            store["a"] = [1]
            store[VICTIM] = Harmless(1)
            yield store

    @pytest.mark.parametrize("attack", HOSTILE)
    def test_what_is_not_on_it_is_refused_at_every_door(self, restricted, attack):
        place = tree_key(restricted, VICTIM)
        before = dict(vars(Harmless))
        payload = HOSTILE[attack]
        for forged in (plain(place, payload), headed(place, payload)):
            if forged[0] not in (1, 0x80):
                continue  # a plain record begins as protocol 2 does
            plant(restricted, place, forged)
            for name, door in DOORS.items():
                if name not in TOUCHES:
                    with pytest.raises(DecodeError) as caught:
                        door(restricted)
                    assert caught.value.key == VICTIM
                    assert attacker.ran == []
        assert dict(vars(Harmless)) == before
        assert restricted["a"] == [1]

    def test_each_of_them_would_do_something_without_the_list(self, location):
        """What is refused above is not refused because it is no pickle: most of it does what it is for."""
        works = []
        with Store(location) as store:
            for attack, payload in HOSTILE.items():
                store[VICTIM] = None
                place = tree_key(store, VICTIM)
                if attack in ("os", "built on the class"):
                    continue
                plant(store, place, headed(place, payload))
                with suppress(StoreError):
                    store[VICTIM]
                    works.append(attack)
        attacker.ran.clear()
        assert {"reduce", "by GLOBAL", "by INST", "by OBJ", "dotted", "by the memo", "an extension"} <= set(works)
        assert len(works) >= 14

    def test_what_is_on_it_may_have_any_state_and_no_more(self, restricted):
        """The limit of an allow-list, which the documentation tells: attributes are for whoever wrote the pickle."""
        place = tree_key(restricted, VICTIM)
        state = b"\x80\x04" + glob(ME, "Harmless") + b")R}(" + text("what") + text("anything") + b"ub."
        plant(restricted, place, plain(place, state))
        assert restricted[VICTIM].what == "anything"

    def test_it_holds_in_namespaces(self, restricted):
        users = restricted.namespace("users")
        users[VICTIM] = Harmless(2)
        place = tree_key(users, VICTIM)
        for payload in HOSTILE.values():
            plant(users, place, headed(place, payload))
            refuses(users, VICTIM, DecodeError)

    def test_nothing_else_is_imported(self, restricted):
        place = tree_key(restricted, VICTIM)
        sys.modules.pop("this", None)
        plant(restricted, place, plain(place, b"\x80\x04" + glob("this", "s") + b"."))
        refuses(restricted, VICTIM, DecodeError)
        assert "this" not in sys.modules


FORBIDDEN = """
import os, sys
from contextlib import suppress
sys.path.insert(0, "tests")
import attacker
from attacker import KEY, plain, headed, plant, refuses, tree_key
from objstore import BadSignature, Pickle, Store

path, memory = sys.argv[1], "memory://"
"""


class TestForbidden:
    """OBJSTORE_PICKLE=forbid, in a process of its own."""

    @pytest.fixture(autouse=True)
    def forbidden(self, monkeypatch):
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")

    def run(self, tmp_path, program):
        return run(program, tmp_path / "a.store", prelude=FORBIDDEN)

    def test_no_pickle_is_read_or_written(self, tmp_path, monkeypatch):
        monkeypatch.delenv("OBJSTORE_PICKLE")
        with Store(tmp_path / "a.store") as store:
            store["a"] = store[VICTIM] = 1
            store.namespace("users")["a"] = 1
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
        assert "done" in self.run(
            tmp_path,
            """
            for place in (path, memory):
                for codec in (None, "pickle", Pickle(), Pickle(allow=[]), Pickle(rename={})):
                    with Store(place, codec=codec) as store:
                        for form in (plain, headed):
                            for each in (store, store.namespace("users")):
                                spot = tree_key(each, "victim")
                                plant(store, spot, form(spot))
                                assert "OBJSTORE_PICKLE=forbid" in str(refuses(each, "victim", BadSignature))
                                for write in (
                                    lambda: each.__setitem__("b", 1),
                                    lambda: each.update({"b": 1}),
                                    lambda: each.set("b", 1, ttl=5),
                                    lambda: each.add("b", 1),
                                    lambda: each.load({"b": 1}),
                                    lambda: each.setdefault("b", 1),
                                ):
                                    try:
                                        write()
                                    except BadSignature as exc:
                                        assert exc.key == "b"
                                    else:
                                        raise AssertionError("it was written")
                                assert "b" not in each
                                assert "victim" in each
                                plant(store, spot, None)
                        with store.snapshot() as snapshot:
                            for each in (snapshot, snapshot.namespace("users")):
                                for key in each:
                                    refuses(each, key, BadSignature)
            assert not attacker.ran
            print("done")
            """,
        )

    def test_what_runs_no_code_or_is_sealed_goes_on(self, tmp_path):
        assert "done" in self.run(
            tmp_path,
            """
            for codec in ("msgpack", "json", "bytes"):
                with Store(f"{path}.{codec}", codec=codec) as store:
                    store["a"] = b"1" if codec == "bytes" else 1
                    assert store["a"]
                    objects = store.namespace("objects", codec="pickle")
                    spot = tree_key(objects, "victim")
                    plant(store, spot, plain(spot))
                    refuses(objects, "victim", BadSignature)
            for options in ({"signing_key": KEY}, {"encryption_key": KEY}):
                for codec in (None, Pickle(allow=[])):
                    with Store(memory, codec=codec, **options) as store:
                        store["a"] = store.namespace("users")["a"] = {1, 2} if codec is None else [1]
                        assert store["a"] == store.namespace("users")["a"]
                        spot = tree_key(store, "victim")
                        plant(store, spot, plain(spot))
                        refuses(store, "victim", BadSignature)
            assert not attacker.ran
            print("done")
            """,
        )

    @pytest.mark.parametrize("said", ["Forbid", "forbidden", "1", "yes", " forbid", "no"])
    def test_a_slip_of_the_pen_is_not_taken_for_leave(self, tmp_path, monkeypatch, said):
        monkeypatch.setenv("OBJSTORE_PICKLE", said)
        for place in (tmp_path / "a.store", "memory://"):
            with pytest.raises(ValueError, match="OBJSTORE_PICKLE is 'forbid' or 'allow'"):
                Store(place)

    def test_and_makes_no_store(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbidden")
        with pytest.raises(ValueError, match="OBJSTORE_PICKLE"):
            Store(tmp_path / "a.store")
        assert not (tmp_path / "a.store").exists()

    @pytest.mark.parametrize("said", ["allow", ""])
    def test_allow_is_as_ever(self, location, monkeypatch, said):
        monkeypatch.setenv("OBJSTORE_PICKLE", said)
        with Store(location) as store:
            store["a"] = {1, 2}
            assert store["a"] == {1, 2}


@pytest.mark.parametrize("sealing", SEALINGS)
def test_who_gives_a_sealed_store_no_key_and_forbids_pickles_reads_nothing(tmp_path, sealing, monkeypatch):
    with open_sealed(tmp_path / "a.store", sealing) as store:
        store[VICTIM] = 1
    monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
    with Store(tmp_path / "a.store") as store:
        refuses(store, VICTIM, BadSignature)
        place = tree_key(store, VICTIM)
        plant(store, place, fitting(place, PICKLE))
        refuses(store, VICTIM, BadSignature)
    assert KEY.hex() not in os.environ.values()


def exported(store, directory):
    """Export a store in every way; which keys are left out, by format.  A dump is restored, and exported again."""
    left_out = {}
    for form in ("pickle", "jsonl"):
        report = objstore.export(store, directory / form, form)
        left_out[form] = [damage.key for damage in report.why]
        assert attacker.ran == []
    dump = directory / "a.dump"
    assert objstore.export(store, dump, "dump", force=True).exported == len(store)
    assert attacker.ran == []
    shutil.rmtree(directory / "pickle")
    os.unlink(directory / "jsonl")
    return left_out, dump


class TestExport:
    """The way out is no way around: what is refused to who reads is refused to who exports."""

    def assert_refused(self, store, directory, forged):
        plant(store, tree_key(store, VICTIM), forged)
        left_out, dump = exported(store, directory)
        assert left_out == {"pickle": [VICTIM], "jsonl": [VICTIM]}
        with Store("memory://", codec=store._space.codec) as other:  # a dump takes along what it does not read
            assert objstore.restore(dump, other).ok
            assert exported(other, directory)[0] == left_out
            refuses(other, VICTIM, (DecodeError, CorruptRecord, BadSignature))

    @pytest.mark.parametrize("codec", ["json", "msgpack"])
    def test_a_codec_that_runs_no_code(self, tmp_path, codec):
        with Store("memory://", codec=codec) as store:
            store.update({"a": SAFE[codec], VICTIM: SAFE[codec]})
            place = tree_key(store, VICTIM)
            for form in (plain, headed):
                self.assert_refused(store, tmp_path, form(place))

    def test_a_namespace_that_says_it_holds_pickles(self, tmp_path):
        with Store("memory://", codec="json") as store:
            store["a"] = [1]
            evil = store.namespace("evil", codec="pickle")
            evil[VICTIM] = 1
            plant(store, tree_key(evil, VICTIM), plain(tree_key(evil, VICTIM)))
            report = objstore.export(store, tmp_path / "a", "pickle")
        assert (report.exported, [damage.key for damage in report.why]) == (1, [VICTIM])
        assert "runs code" in report.why[0].reason

    @pytest.mark.parametrize("attack", ["reduce", "by GLOBAL", "by NEWOBJ_EX", "dotted", "builtins", "os"])
    def test_an_allow_list(self, tmp_path, attack):
        with Store("memory://", codec=Pickle(allow=[ALLOWED])) as store:
            store.update({"a": [1], VICTIM: [2]})
            self.assert_refused(store, tmp_path, headed(tree_key(store, VICTIM), HOSTILE[attack]))

    def test_pickles_that_are_forbidden(self, tmp_path, monkeypatch):
        with Store(tmp_path / "a.store") as store:
            store[VICTIM] = [1]
            plant(store, tree_key(store, VICTIM), plain(tree_key(store, VICTIM)))
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
        with Store(tmp_path / "a.store", "r") as store:
            left_out, dump = exported(store, tmp_path)
        assert left_out == {"pickle": [VICTIM], "jsonl": [VICTIM]}
        assert objstore.restore(dump, tmp_path / "b.store").ok
        with Store(tmp_path / "b.store", "r") as store:
            refuses(store, VICTIM, BadSignature)

    @pytest.mark.parametrize("sealing", SEALINGS)
    def test_a_seal(self, tmp_path, sealing):
        with open_sealed("memory://", sealing) as store:
            store.update({"a": [1], VICTIM: [2]})
            place = tree_key(store, VICTIM)
            for forged in (plain(place), headed(place), fitting(place, stolen(store, "a")[:-8])):
                plant(store, place, forged)
                for form in ("pickle", "jsonl", "dump"):
                    report = objstore.export(store, tmp_path / f"{form}-{len(os.listdir(tmp_path))}", form)
                    assert (report.exported, [damage.key for damage in report.why]) == (1, [VICTIM])

    def test_and_it_would_be_noticed(self, tmp_path):
        """An export of a store of pickles does run what is in them, as reading does."""
        with Store("memory://") as store:
            store[VICTIM] = 1
            plant(store, tree_key(store, VICTIM), plain(tree_key(store, VICTIM)))
            objstore.export(store, tmp_path / "a.jsonl", "jsonl")
        assert attacker.ran.pop() == ("it ran",)
