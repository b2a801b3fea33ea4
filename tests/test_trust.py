"""Stores whose values can be trusted: sealed, rekeyed, of codecs that run no code, compressed."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from click.testing import CliRunner

import objstore
from objstore import (
    BadSignature,
    Compression,
    CorruptRecord,
    DecodeError,
    EncodeError,
    Json,
    Msgpack,
    Pickle,
    ReadOnlyStore,
    Store,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    record,
)
from objstore.cli.commands import objstore as command_line
from objstore.codecs.keyring import KeyRing
from objstore.engines.base import IDENTITY_KEY
from objstore.record import LARGE

pytestmark = pytest.mark.usefixtures("forked_checks")

KEY = bytes(range(32))
OLD = bytes(range(100, 132))
KINDS = ["signing_key", "encryption_key"]
IDS = {key: KeyRing([key]).newest.hex() for key in (KEY, OLD)}

VALUES = {
    "small": {"a": 1},
    "list": list(range(10_000)),
    "array": np.arange(100_000.0),
    "x" * 1000: "a long key",
    ("user", 1): None,
}


@pytest.fixture
def location(everywhere):
    """A place for a store, on each engine, servers among them."""
    return everywhere


@dataclass
class Person:
    name: str
    born: int


def fill(store):
    store.update(VALUES)
    store.set("tagged", "value", ttl=1000, tags=["red"])
    store.namespace("users")["ada"] = 1815


def assert_filled(store):
    for key, value in VALUES.items():
        assert np.array_equal(store[key], value) if key == "array" else store[key] == value
    assert store["tagged"] == "value"
    assert set(store.range(tag="red")) == {"tagged"}
    assert dict(store.namespace("users")) == {"ada": 1815}


def plant(store, key, stored, tree_key=None):
    """Put bytes under a key, as one can who has the file."""
    tree_key = tree_key or store._space.tree_key(key)
    store._engine.transact(lambda txn: txn.put(tree_key, stored))


def plain(store, key, payload):
    """A plain record that fits its digest."""
    return record.pack(store._space.tree_key(key), payload)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OBJSTORE_SIGNING_KEY", "OBJSTORE_ENCRYPTION_KEY", "OBJSTORE_PICKLE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.mark.parametrize("kind", KINDS)
class TestSealedStores:
    def test_everything_comes_back_in_every_way(self, location, kind):
        with Store(location, **{kind: KEY}) as store:
            fill(store)
            assert_filled(store)
            assert len(dict(store.items())) == len(VALUES) + 1
            assert store.get_many(["small"]) == {"small": {"a": 1}}
            with store.transaction() as txn:
                txn["small"] = txn["list"][:2]
                txn.namespace("users")["ada"] += 1
            with store.snapshot() as snap:
                assert snap["small"] == [0, 1]
                assert snap["array"].sum() == VALUES["array"].sum()
                assert not snap["array"].flags.writeable
            with store.edit("small") as small:
                small.append(2)
            assert store.increment("count", 5) == 5
            assert store.compare_and_set("small", [0, 1, 2], "new")
            assert store.touch("tagged", 5)
            assert (store["tagged"], store.pop("small")) == ("value", "new")
            assert 4 < store.ttl("tagged") <= 5
            assert store.namespace("users")["ada"] == 1816
            assert store.check().ok

    def test_arrays_are_private_and_writable(self, location, kind):
        with Store(location, **{kind: KEY}) as store:
            store["array"] = VALUES["array"]
            for _ in range(2):
                array = store["array"]
                array += 1
                assert array[0] == 1

    def test_opened_again_it_takes_its_key_and_no_other(self, path, kind):
        with Store(path, **{kind: KEY}) as store:
            fill(store)
            stats = store.stats()
            assert (stats.sealing, stats.key) == ("signed" if kind == "signing_key" else "encrypted", IDS[KEY])
        with Store(path, **{kind: [OLD, KEY]}) as store:
            assert_filled(store)
        with pytest.raises(BadSignature, match=f"with key {IDS[KEY]}, which is none of those given") as caught:
            Store(path, **{kind: OLD})
        assert caught.value.key is None
        (other,) = set(KINDS) - {kind}
        with pytest.raises(BadSignature, match=f"give {kind} and not {other}"):
            Store(path, **{other: KEY})

    def test_by_the_environment(self, path, environment, kind):
        variable = f"OBJSTORE_{kind.upper()}"
        environment.setenv(variable, KEY.hex())
        with Store(path) as store:
            fill(store)
            assert store.stats().key == IDS[KEY]
        with Store(path) as store:
            assert_filled(store)
        environment.setenv(variable, OLD.hex())
        with pytest.raises(BadSignature, match="none of those given"):
            Store(path)

    def test_a_store_that_is_not_sealed_is_refused_where_a_key_is_given(self, path, environment, kind):
        with Store(path) as store:
            store["a"] = 1
        with pytest.raises(BadSignature, match="is not sealed, and a key was given"):
            Store(path, **{kind: KEY})
        environment.setenv(f"OBJSTORE_{kind.upper()}", KEY.hex())
        with pytest.raises(BadSignature, match="signing_key=False, encryption_key=False"):
            Store(path)
        with Store(path, signing_key=False, encryption_key=False) as store:
            assert store["a"] == 1

    def test_without_the_key_all_but_the_values_is_there(self, path, tmp_path, kind):
        with Store(path, **{kind: KEY}) as store:
            fill(store)
        with Store(path) as store:
            assert set(store) == {*VALUES, "tagged"}
            assert store.namespaces() == ["users"]
            assert store.entry("tagged").tags == ("red",)
            assert "small" in store
            for read in (
                lambda: store["small"],
                lambda: store["array"],
                lambda: store.get("small"),
                lambda: store.view("array"),
                lambda: list(store.items()),
                lambda: store.namespace("users")["ada"],
                lambda: store.pop("small"),
            ):
                with pytest.raises(BadSignature, match=f"no {kind} was given") as caught:
                    read()
                assert caught.value.key in ("small", "array", ("user", 1), "ada")
            for write in (
                lambda: store.update(small=1),
                lambda: store.set("new", 1, ttl=5),
                lambda: store.touch("tagged", 1),
                lambda: store.__setitem__("small", 1),
            ):
                with pytest.raises(BadSignature, match=f"no {kind} was given"):
                    write()
            report = store.check()
            assert report.ok
            assert report.unverified == report.entries == len(VALUES) + 2
            store.backup(tmp_path / "backup.store")
            store.compact()
            assert store.delete("small")
        with Store(tmp_path / "backup.store", "r", **{kind: KEY}) as store:
            assert_filled(store)
            assert store.check() == (len(VALUES) + 2, (), (), False, 0)

    def test_a_check_verifies_every_seal(self, path, kind):
        with Store(path, **{kind: KEY}) as store:
            fill(store)
            plant(store, "small", plain(store, "small", b"\x80\x05K\x01."))
            users = store.namespace("users")
            moved = store._engine.get(users._space.tree_key("ada"))
            other = users._space.tree_key("eve")
            moved = moved[:-8] + record.digest(moved[:-8], record.key_digest(other))
            plant(store, "eve", moved, other)
            report = store.check()
            assert not report.ok
            assert {(each.namespace, each.key) for each in report.damaged} == {("", "small"), ("users", "eve")}
            assert "not sealed" in report.damaged[0].reason or "not sealed" in report.damaged[1].reason
        report = objstore.check(path, **{kind: KEY})
        assert len(report.damaged) == 2
        report = objstore.check(path)  # what has no seal is seen without a key
        assert [each.key for each in report.damaged] == ["small"]
        report = objstore.check(path, **{kind: OLD})
        assert f"key {IDS[KEY]}" in report.problems[0]

    def test_salvage_believes_seals_only(self, path, tmp_path, kind):
        with Store(path, **{kind: KEY}) as store:
            fill(store)
            plant(store, "small", plain(store, "small", b"\x80\x05K\x01."))
        with pytest.raises(BadSignature, match="none of those given"):
            objstore.salvage(path, tmp_path / "b.store", **{kind: OLD})
        report = objstore.salvage(path, tmp_path / "b.store", **{kind: KEY})
        assert [lost.key for lost in report.lost] == ["small"]
        with Store(tmp_path / "b.store", **{kind: KEY}) as store:
            assert "small" not in store
            assert store["tagged"] == "value"
            assert dict(store.namespace("users")) == {"ada": 1815}
            assert store.check().ok
        assert objstore.salvage(path, tmp_path / "c.store").lost == ()
        with Store(tmp_path / "c.store", **{kind: KEY}) as store, pytest.raises(BadSignature):
            store["small"]

    def test_salvage_without_identity_and_key_gives_nothing_that_could_not_be_read(self, path, tmp_path, kind):
        with Store(path, **{kind: KEY}) as store:
            store["a"] = 1
            store_id = store.stats().id
            plant(store, None, b"damaged", IDENTITY_KEY)
        for options in ({}, {"store_id": store_id}):
            with pytest.raises(StoreCorrupt, match="give its key, and its id as store_id"):
                objstore.salvage(path, tmp_path / "b.store", **options)
            assert not (tmp_path / "b.store").exists()

    def test_salvage_without_the_identity_takes_the_id(self, path, tmp_path, kind):
        with Store(path, codec="msgpack", **{kind: KEY}) as store:
            store.update({"a": [1], "b": {"c": 2}})
            store_id = store.stats().id
            plant(store, None, b"damaged", IDENTITY_KEY)
        with pytest.raises(StoreCorrupt, match="give it as store_id"):
            objstore.salvage(path, tmp_path / "b.store", **{kind: KEY})
        report = objstore.salvage(path, tmp_path / "b.store", store_id=store_id, **{kind: KEY})
        assert (report.entries, report.lost) == (2, ())
        with Store(tmp_path / "b.store", **{kind: KEY}) as store:
            assert (dict(store), store.stats().codec) == ({"a": [1], "b": {"c": 2}}, "msgpack")


def test_nothing_is_made_where_the_package_is_missing(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ModuleNotFoundError, match="pip install cryptography"):
        Store(path, encryption_key=KEY)
    assert not path.exists()


def put_all(store, stop):
    while not stop.is_set():
        store["busy"] = os.urandom(8)


@pytest.mark.parametrize("kind", KINDS)
class TestRekeying:
    def test_the_new_key_alone_is_needed_afterwards(self, location, kind):
        at = f"memory://{kind}" if location == "memory://" else location
        first = Store(at, **{kind: OLD})  # stays open, and with it what is in memory
        fill(first)
        before = {entry.key: (entry.tags, entry.expires_at) for entry in first.entries()}
        with Store(at, **{kind: [KEY, OLD]}) as store:
            seen = []
            report = store.rekey(progress=lambda done, total: seen.append((done, total)))
            assert report == (len(VALUES) + 2, (), ())
            assert seen
            assert all(done <= total for done, total in seen)
            assert store.stats().key == IDS[KEY]
            assert {entry.key: (entry.tags, entry.expires_at) for entry in store.entries()} == before
            assert store.rekey() == (0, (), ())
        with Store(at, **{kind: KEY}) as store:
            assert_filled(store)
            assert store.check().ok
        with pytest.raises(BadSignature, match=f"with key {IDS[KEY]}"):
            Store(at, **{kind: OLD})
        with pytest.raises(BadSignature, match=f"key {IDS[KEY]}, which is none of those given"):
            first["small"]
        first.close()

    def test_what_was_interrupted_is_gone_on_with(self, path, monkeypatch, kind):
        from objstore import rekeying

        monkeypatch.setattr(rekeying, "_BATCH_RECORDS", 10)
        with Store(path, **{kind: OLD}) as store:
            store.update(dict.fromkeys(range(95), "value"))
        with Store(path, **{kind: [KEY, OLD]}) as store:

            def interrupt(done, _total):
                if done >= 30:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                store.rekey(progress=interrupt)
            assert store.stats().key == IDS[OLD]
            assert set(store.values()) == {"value"}
        with Store(path, **{kind: [KEY, OLD]}) as store:
            assert store.rekey() == (65, (), ())
        with Store(path, **{kind: KEY}) as store:
            assert set(store.values()) == {"value"}

    def test_what_no_key_opens_is_told_and_left(self, path, kind):
        with Store(path, **{kind: OLD}) as store:
            fill(store)
            forged = plain(store, "small", b"\x80\x05K\x01.")
            plant(store, "small", forged)
            plant(store, "list", b"damaged")
        with Store(path, **{kind: [KEY, OLD]}) as store:
            report = store.rekey()
            assert (report.resealed, report.needed) == (len(VALUES), ())
            assert [each.key for each in report.refused] == ["list", "small"]
            assert store.entry("small").raw() == forged
        with Store(path, **{kind: KEY}) as store, pytest.raises(BadSignature):
            store["small"]

    def test_others_write_meanwhile(self, path, monkeypatch, kind):
        from objstore import rekeying

        monkeypatch.setattr(rekeying, "_BATCH_RECORDS", 20)
        with Store(path, durability="process", **{kind: OLD}) as store:
            store.update(dict.fromkeys(range(500), "value"))
        with Store(path, **{kind: [KEY, OLD]}) as store:
            stop = threading.Event()
            writer = threading.Thread(target=put_all, args=(store, stop))
            writer.start()
            report = store.rekey()
            stop.set()
            writer.join()
            assert report.needed == ()
            assert set(store.range(stop=500).values()) == {"value"}
            assert len(store["busy"]) == 8
        with Store(path, **{kind: KEY}) as store:
            assert store.check().ok

    def test_a_key_that_others_still_write_with_is_still_needed(self, path, kind):
        with Store(path, durability="process", **{kind: OLD}) as old, Store(path, **{kind: [KEY, OLD]}) as store:
            old["a"] = 1

            def write_on(*_progress):
                old["a"] = 1

            assert store.rekey(progress=write_on).needed == (IDS[OLD],)
            assert store.stats().key == IDS[OLD]
            other = store.namespace("other")
            assert store.rekey().needed == ()
            assert store.stats().key == other.stats().key == IDS[KEY]
            with pytest.raises(BadSignature, match="none of those given"):
                old.stats()

    def test_where_it_makes_no_sense(self, path, kind):
        with Store(path) as store, pytest.raises(StoreError, match="is not sealed; open it with its keys"):
            store.rekey()
        with Store(path, "n", **{kind: OLD}) as store:
            store["a"] = 1
        with Store(path) as store, pytest.raises(StoreError, match="open it with its keys, newest first"):
            store.rekey()
        with Store(path, "r", **{kind: [KEY, OLD]}) as store, pytest.raises(ReadOnlyStore):
            store.rekey()
        with pytest.raises(StoreClosed):
            store.rekey()

    def test_by_the_command_line(self, path, environment, kind):
        variable = f"OBJSTORE_{kind.upper()}"
        environment.setenv(variable, OLD.hex())
        with Store(path) as store:
            fill(store)
        environment.setenv(variable, f"{KEY.hex()},{OLD.hex()}")
        result = CliRunner().invoke(command_line, ["rekey", str(path)])
        assert result.exit_code == 0, result.output
        assert f"no key but {IDS[KEY]} is needed any more\n{len(VALUES) + 2} records sealed anew" in result.output
        environment.setenv(variable, KEY.hex())
        result = CliRunner().invoke(command_line, ["get", str(path), "small"])
        assert result.output == "{'a': 1}\n"
        environment.delenv(variable)
        result = CliRunner().invoke(command_line, ["get", str(path), "small"])
        assert result.exit_code == 1
        assert f"no {kind} was given" in result.output
        result = CliRunner().invoke(command_line, ["check", str(path)])
        assert (result.exit_code, f"{len(VALUES) + 2} seals not verified" in result.output) == (0, True)
        result = CliRunner().invoke(command_line, ["info", str(path)])
        assert IDS[KEY] in result.output


class TestCodecs:
    @pytest.mark.parametrize("codec", ["msgpack", "json"])
    def test_it_is_recorded(self, path, codec):
        value = {"name": "Ada", "born": [1815, None, True]}
        with Store(path, codec=codec) as store:
            store["a"] = value
            store["array"] = np.arange(100_000)
        with Store(path) as store:
            assert store["a"] == value
            assert store["array"].sum() == np.arange(100_000).sum()
            assert store.entry("a").codec == store.stats().codec == codec
            with store.snapshot() as snap:
                assert not snap["array"].flags.owndata
            with pytest.raises(EncodeError, match=f"cannot be encoded as {codec}"):
                store["object"] = object()
        with pytest.raises(StoreError, match=f"has codec '{codec}', not 'pickle'"):
            Store(path, codec="pickle")

    def test_bytes(self, location):
        with Store(location, codec="bytes") as store:
            store["a"] = b"\x80\x05K\x01."  # looks like a pickle
            store["large"] = bytearray(b"x" * 100_000)
            assert store["a"] == b"\x80\x05K\x01."
            assert store["large"] == b"x" * 100_000
            with pytest.raises(EncodeError, match="bytes"):
                store["text"] = "text"

    def test_a_type(self, path):
        ada = Person("Ada", 1815)
        with Store(path, codec=Msgpack(Person)) as store:
            store["ada"] = ada
            assert store["ada"] == ada
            with pytest.raises(EncodeError):
                store["bob"] = "Bob"
            assert "bob" not in store
        with Store(path) as store:
            assert store["ada"] == {"name": "Ada", "born": 1815}

    def test_a_record_of_another_codec_is_refused_whatever_it_says(self, location):
        with Store(location, codec="msgpack") as store:
            store["a"] = 1
            for stored in (
                plain(store, "a", b"\x80\x05K\x01."),
                record.pack(store._space.tree_key("a"), b"\x80\x05K\x01.", tags=("red",)),
                record.pack(store._space.tree_key("a"), b"1", codec=3),
            ):
                plant(store, "a", bytes(stored))
                for read in (lambda: store["a"], lambda: list(store.items()), lambda: store.get_many(["a"])):
                    with pytest.raises(DecodeError, match=r"its codec is '(pickle|json)', and 'msgpack'") as caught:
                        read()
                    assert caught.value.key == "a"
                assert store.entry("a").codec in ("pickle", "json")
            store["a"] = 2
            assert store["a"] == 2

    def test_an_allow_list(self, location):
        with Store(location, codec=Pickle(allow=[Person])) as store:
            store["ada"] = Person("Ada", 1815)
            assert store["ada"] == Person("Ada", 1815)
            with pytest.raises(EncodeError, match="allow"):
                store["path"] = os.getcwd
            plant(store, "bad", plain(store, "bad", b"cos\ngetcwd\n(tR."))
            with pytest.raises((DecodeError, CorruptRecord)):
                store["bad"]

    def test_names_that_have_moved(self, path):
        with Store(path) as store:
            store["ada"] = Person("Ada", 1815)
            stored = store.entry("ada").raw()[:-8]
            assert __name__.encode() in stored
            old = "x" * len(__name__)
            plant(store, "ada", plain(store, "ada", stored.replace(__name__.encode(), old.encode())))
            with pytest.raises(DecodeError, match="ModuleNotFoundError"):
                store["ada"]
        with Store(path, codec=Pickle(rename={f"{old}.Person": Person})) as store:
            assert store["ada"] == Person("Ada", 1815)

    @pytest.mark.parametrize(
        "gives", [("text", ()), (None, ()), (b"", [5]), (b"", [memoryview(b"1234")[::2]]), b"no pair"]
    )
    def test_one_of_your_own_that_gives_what_could_not_be_read(self, location, gives):
        with Store(location, codec=Wrong(gives)) as store:
            with pytest.raises(EncodeError, match="cannot be encoded as wrong") as caught:
                store["a"] = 1
            assert caught.value.key == "a"
            assert len(store) == 0

    def test_one_of_your_own_may_give_arrays_as_frames(self, location):
        array = np.arange(20_000.0)
        with Store(location, codec=Wrong((b"", [memoryview(array)]))) as store:
            store["a"] = 1
            assert bytes(store["a"]) == array.tobytes()

    def test_one_of_your_own(self, path):
        with Store(path, codec=Reversed()) as store:
            store["a"] = "text"
            assert store["a"] == "text"
            assert store.entry("a").codec == "reversed"
            assert store.entry("a").raw()[8:-8] == b"txet"
        with pytest.raises(StoreError, match="has codec 'reversed', which this objstore does not know; give it as"):
            Store(path)
        with Store(path, codec=Reversed()) as store:
            assert store["a"] == "text"


class Reversed:
    """A codec of somebody's own: text, backwards."""

    name = "reversed"
    number = 200
    runs_code = False

    def encode(self, value):
        return value[::-1].encode(), ()

    def decode(self, payload, frames):
        assert not frames
        return payload.tobytes().decode()[::-1]


class Wrong:
    """A codec of somebody's own that gives what it is told."""

    name = "wrong"
    number = 201
    runs_code = False

    def __init__(self, gives):
        self.gives = gives

    def encode(self, _value):
        return self.gives

    def decode(self, _payload, frames):
        return frames[0]


class TestCodecsOfNamespaces:
    def test_each_may_have_its_own(self, location):
        with Store(location) as store:
            users = store.namespace("users", codec="json")
            blobs = store.namespace("blobs", codec="bytes")
            store["a"], users["a"], blobs["a"] = {1}, [1], b"1"
            assert (store["a"], users["a"], blobs["a"]) == ({1}, [1], b"1")
            assert store.namespace("users")["a"] == [1]
            with store.transaction() as txn:
                txn.namespace("users")["b"] = [2]
                txn.namespace("more", codec="msgpack")["c"] = (3,)
            with store.snapshot() as snap:
                assert snap.namespace("users")["b"] == [2]
                assert snap.namespace("more")["c"] == [3]
            assert store.namespaces() == ["blobs", "more", "users"]
            assert store.check().ok
            with pytest.raises(StoreError, match="namespace 'users' has codec 'json', not 'msgpack'"):
                store.namespace("users", codec="msgpack")

    def test_it_is_known_from_the_first_moment(self, path):
        with Store(path) as store:
            store.namespace("users", codec="json")
        with Store(path) as store:
            users = store.namespace("users")
            with pytest.raises(EncodeError, match="json"):
                users["set"] = object()
            assert len(users) == 0
            assert store.check().ok

    def test_it_is_salvaged(self, path, tmp_path):
        with Store(path) as store:
            store.namespace("users", codec="json")["a"] = [1]
        objstore.salvage(path, tmp_path / "b.store")
        with Store(tmp_path / "b.store") as store:
            assert store.namespace("users")["a"] == [1]
            assert store.namespace("users").entry("a").codec == "json"

    def test_one_that_runs_code_is_not_taken_on_trust(self, location):
        with Store(location, codec="msgpack") as store:
            store.namespace("old", codec="pickle")["a"] = {1}
            for source in (store, store.snapshot()):
                with pytest.raises(StoreError, match="namespace 'old' has codec 'pickle', which runs code"):
                    source.namespace("old")
            assert store.namespace("old", codec="pickle")["a"] == {1}
            store.drop_namespace("old")
            store.namespace("old")["a"] = [1]
            assert store.namespace("old").entry("a").codec == "msgpack"

    def test_one_of_your_own_is_given_again(self, location):
        with Store(location) as store:
            store.namespace("own", codec=Reversed())["a"] = "text"
            with pytest.raises(StoreError, match="one of somebody's own; give it as codec"):
                store.namespace("own")
            assert store.namespace("own", codec=Reversed())["a"] == "text"

    def test_who_comes_late_is_told(self, location):
        with Store(location) as store:
            early = store.namespace("users")
            store.namespace("users", codec="json")["a"] = [1]
            with pytest.raises(StoreError, match="has another codec than 'pickle' by now; open it anew"):
                early["b"] = 1
            with pytest.raises(DecodeError, match="its codec is 'json'"):
                early["a"]
            assert early.delete("a")
            assert store.check().ok

    @pytest.mark.parametrize("ttl", [None, 50])
    def test_who_comes_late_overwrites_nothing(self, location, ttl):
        with Store(location) as store:
            early = store.namespace("users", codec="bytes")
            early["a"] = b"1"
            store.drop_namespace("users")
            users = store.namespace("users", codec="json")
            users["q"] = [1]
            for write in (
                lambda: early.set("q", b"x", ttl=ttl),
                lambda: early.update({"q": b"x"}, ttl=ttl),
                lambda: early.load({"q": b"x"}, ttl=ttl),
            ):
                with pytest.raises(StoreError, match="has another codec than 'bytes' by now"):
                    write()
            assert users["q"] == [1]

    def test_a_type_for_a_namespace(self, path):
        import pickle

        with Store(path, codec="json") as store:
            people = store.namespace("people", codec=Json(Person))
            people["ada"] = Person("Ada", 1815)
            pickled = pickle.dumps(people)
            with pickle.loads(pickled) as back:
                assert back["ada"] == Person("Ada", 1815)


class TestForbidden:
    @pytest.mark.parametrize("codec", ["pickle", Pickle(allow=[Person])])
    def test_unsealed_pickles_are_neither_read_nor_written(self, path, environment, codec):
        with Store(path, codec=codec) as store:
            store["a"] = 1
            store.namespace("safe", codec="json")["a"] = 1
        environment.setenv("OBJSTORE_PICKLE", "forbid")
        with Store(path, codec=codec) as store:
            assert list(store) == ["a"]
            with pytest.raises(BadSignature, match="OBJSTORE_PICKLE=forbid") as caught:
                store["a"]
            assert caught.value.key == "a"
            with pytest.raises(BadSignature, match="OBJSTORE_PICKLE=forbid"):
                store["b"] = 1
            assert store.namespace("safe")["a"] == 1
            assert store.check().ok
        environment.setenv("OBJSTORE_PICKLE", "allow")
        with Store(path) as store:
            assert store["a"] == 1

    @pytest.mark.parametrize("kind", KINDS)
    def test_sealed_ones_are(self, path, environment, kind):
        environment.setenv("OBJSTORE_PICKLE", "forbid")
        with Store(path, **{kind: KEY}) as store:
            store["a"] = {1}
            assert store["a"] == {1}

    def test_a_word_that_is_none_is_an_error_and_not_permission(self, path, environment):
        environment.setenv("OBJSTORE_PICKLE", "Forbid")
        with pytest.raises(ValueError, match="OBJSTORE_PICKLE is 'forbid' or 'allow', not 'Forbid'"):
            Store(path)


@pytest.mark.parametrize("method", ["zstd", "lz4", "zlib"])
class TestCompressed:
    def test_it_is_smaller_and_comes_back_by_any_handle(self, path, method):
        text = "words and words " * 1000
        array = np.arange(200_000)
        with Store(path, compression=method) as store:
            store["text"], store["small"], store["array"] = text, 1, array
            store.set("tagged", text, ttl=100, tags=["red"])
            assert store.entry("text").size < len(text) / 5
            assert store.entry("array").size < array.nbytes
        with Store(path) as store:
            assert (store["text"], store["small"], store["tagged"]) == (text, 1, text)
            assert np.array_equal(store["array"], array)
            assert dict(store.items())["text"] == text
            with store.snapshot() as snap:
                assert np.array_equal(snap["array"], array)
            assert store.touch("tagged", 50)
            assert store["tagged"] == text
            assert store.check().ok

    def test_noise_is_left_alone_and_shown_without_a_copy(self, path, rng, method):
        noise = np.frombuffer(rng.randbytes(1 << 20), np.uint8)
        with Store(path, compression=method) as store:
            store["noise"] = noise
            store["both"] = [noise, np.zeros(100_000)]
            with store.snapshot() as snap:
                shown = snap["noise"]
                assert np.array_equal(shown, noise)
                assert store.stats().held[0].bytes >= 1 << 20
                one, other = snap["both"]
                assert np.array_equal(one, noise)
                assert not other.any()
            del shown, one, other
            assert store.entry("both").size < (1 << 20) + 100_000

    def test_with_a_seal(self, path, method):
        text = "words and words " * 1000
        with Store(path, compression=method, encryption_key=KEY) as store:
            store["text"] = text
            assert store["text"] == text
            assert store.entry("text").size < len(text) / 5

    def test_what_would_be_too_large_is_not_expanded(self, path, method):
        with Store(path, compression=method) as store:
            store["text"] = "x" * 100_000
        with Store(path, compression=Compression(method, max_size=50_000)) as store:
            with pytest.raises(DecodeError, match="max_size") as caught:
                store["text"]
            assert caught.value.key == "text"
            store["whole"] = "y" * 100_000
            assert store["whole"] == "y" * 100_000
            assert store.entry("whole").size > 100_000

    def test_damage_is_found_in_views_too(self, path, method):
        array = np.zeros(LARGE)
        with Store(path, compression=method) as store:
            store["array"] = array
            stored = bytearray(store.entry("array").raw())
            stored[-20] ^= 1
            plant(store, "array", bytes(stored))
            with pytest.raises(CorruptRecord, match="buffer"):
                store["array"]
            with pytest.raises(CorruptRecord, match="buffer"):
                store.view("array")
