"""Copying a store to another place: all that is in it, from any engine to any other, killed and begun again, beside
others who write.

The long form of the kills:

    OBJSTORE_KILLS=1000 OBJSTORE_SEED=1 python -m pytest tests/test_copying.py -k any_moment -s
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from children import results

import objstore
from objstore import (
    BadSignature,
    Cache,
    ReadOnlyStore,
    Store,
    StoreError,
    StoreExists,
    StoreLocked,
    StoreNotFound,
    WrongKind,
)
from objstore.audit import audit
from objstore.copying import records as copied_records
from objstore.copying import stores, work
from objstore.engines.base import put
from objstore.engines.memory import MemoryEngine
from objstore.engines.redis import leases

KEY = bytes(range(32))
OLD_KEY = bytes(range(32, 64))
LONG = "k" * 600

# From where, and to where.
LOCAL_WAYS = list(itertools.product(("lmdb", "memory"), repeat=2))
WAYS = [*LOCAL_WAYS, ("lmdb", "servers"), ("servers", "lmdb")]

KILLS = int(os.environ.get("OBJSTORE_KILLS", "7"))


class End:
    """Where a store is copied from, or to, on some engine."""

    def __init__(self, engine, location):
        self.engine = engine
        self.location = location
        self.kept = []

    def keep(self, kind=Store, **options):
        """Have a store there, where the engine loses what nobody has open."""
        if self.engine == "memory":
            self.kept.append(kind(self.location, **options))

    def open(self, kind=Store, flag="c", **options):
        self.keep(kind, **options)
        return kind(self.location, flag, **options)


def end(request, engine, name):
    """A place where nothing is yet, on an engine."""
    if engine == "servers":
        return End(engine, request.getfixturevalue("on_servers"))
    path = request.getfixturevalue("place") / name
    return End(engine, str(path) if engine == "lmdb" else f"memory://{path}")


@pytest.fixture(params=WAYS, ids="-to-".join)
def ends(request):
    """A place to copy from and one to copy to, on any two engines."""
    both = [end(request, engine, name) for engine, name in zip(request.param, ("a.store", "b.store"), strict=True)]
    yield both
    for store in itertools.chain(*(end.kept for end in both)):
        store.close()


@pytest.fixture
def place(place):
    """The directory of stores that need not last, as a path."""
    return Path(place)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(copied_records, "_BATCH_RECORDS", 20)


@pytest.fixture
def short_leases(monkeypatch):
    """Servers take who was killed for alive for half a second only."""
    monkeypatch.setattr(leases, "LEASE", 0.5)
    monkeypatch.setattr(leases, "_RENEWED_EVERY", 0.1)


def contents(store):
    """Everything in a store, record by record, as it is stored, with what it says of itself."""
    spaces = [store, *map(store.namespace, store.namespaces())]
    return {
        (space._space.name, entry.key): (entry.raw(), entry.expires_at, entry.tags, entry.codec)
        for space in spaces
        for entry in space.entries()
    }


def values(store):
    spaces = [store, *map(store.namespace, store.namespaces())]
    return {(space._space.name, key): value for space in spaces for key, value in space.items()}


def fill(store):
    """One of each kind; how many records that are."""
    store.update({number: "x" * number for number in range(300)})
    store.set("soon", 1, ttl=1000, tags=("red", "blue"))
    store.set("gone", 1, ttl=0.000001)
    store[LONG] = "long"
    store["large"] = pickle.PickleBuffer(bytearray(range(256)) * 1000)
    users = store.namespace("users")
    users.set(("user", 1), {"name": "Ada"}, tags=("red",))
    users[LONG] = "long, too"
    store.namespace("raw", codec="bytes")["a"] = b"bytes"
    store.namespace("nothing", codec="bytes")
    emptied = store.namespace("emptied")
    emptied["a"] = 1
    del emptied["a"]
    assert memoized(store)(3) == 9
    return 308 - 1


def memoized(store, computed=None):
    @store.memoize(name="square", version="1")
    def square(number):
        if computed is not None:
            computed.append(number)
        return number * number

    return square


def check(store):
    """What `Store.check` finds of records and books; of files without a process of its own."""
    if store._engine.name != "lmdb":
        found = store.check()
    else:
        found = audit(store.location, store._engine.read().scan(b""), store._keys)
    assert (list(found.damaged), list(found.problems), found.unverified) == ([], [], 0)
    return found


class TestEverything:
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_it_is_all_there_byte_by_byte(self, ends, compression):
        source, target = ends
        target.keep()
        with source.open(compression=compression) as store:
            count = fill(store)
            before = contents(store)
            names = store.namespaces()
            report = objstore.copy(source.location, target.location)
        assert report == (count, 0, count, 0, 0, ())
        assert report.ok
        with target.open(flag="r") as store:
            assert contents(store) == before
            assert store.namespaces() == names == ["emptied", "nothing", "raw", "users"]
            assert store.namespace("raw")["a"] == b"bytes"
            assert store.namespace("nothing")._space.codec.name == "bytes"
            assert 900 < store.ttl("soon") < 1000
            assert list(store.range(tag="red")) == ["soon"]
            assert list(store.namespace("users").range(tag="red")) == [("user", 1)]
            assert store[LONG] == "long"
            assert "gone" not in store
            assert bytes(store["large"]) == bytes(range(256)) * 1000
            computed = []
            assert memoized(store, computed)(3) == 9
            assert computed == []
            check(store)

    def test_open_stores_are_copied_too(self, ends):
        source, target = ends
        with source.open() as old, target.open() as new:
            count = fill(old)
            assert objstore.copy(old, new).verified == count
            assert contents(new) == contents(old)
            assert not new.closed
            check(new)

    def test_a_copy_of_nothing(self, ends):
        source, target = ends
        target.keep()
        with source.open():
            assert objstore.copy(source.location, target.location) == (0, 0, 0, 0, 0, ())
        with target.open(flag="r") as store:
            assert len(store) == 0
            check(store)

    def test_there_and_back(self, ends, place):
        source, target = ends
        target.keep()
        with source.open() as store:
            fill(store)
            before = contents(store)
            objstore.copy(source.location, target.location)
        objstore.copy(target.location, place / "back.store")
        with Store(place / "back.store", "r") as store:
            assert contents(store) == before
            check(store)

    def test_what_has_expired_is_left_out_by_the_clock_of_the_source(self, place, clock):
        with Store(place / "a.store", clock=clock) as old, Store("memory://", clock=clock) as new:
            old.set("a", 1, ttl=10)
            old.set("b", 1, ttl=20)
            clock.advance(15)
            assert objstore.copy(old, new).copied == 1
            assert list(new) == ["b"]
            assert new.ttl("b") == 5

    def test_records_larger_than_a_batch(self, ends, monkeypatch):
        monkeypatch.setattr(copied_records, "_BATCH_BYTES", 10_000)
        source, target = ends
        target.keep()
        with source.open() as store:
            store.update({number: os.urandom(25_000 * (number % 2)) for number in range(9)})
            before = contents(store)
            assert objstore.copy(source.location, target.location).copied == 9
        with target.open(flag="r") as store:
            assert contents(store) == before

    def test_nothing_is_decoded(self, ends):
        source, target = ends
        target.keep()
        with source.open() as store:
            store["bomb"] = Bomb()
            assert objstore.copy(source.location, target.location).ok

    def test_an_engine_that_promises_less(self, ends, monkeypatch, small_batches):
        monkeypatch.setattr(MemoryEngine, "capabilities", frozenset({"transaction"}))
        source, target = ends
        target.keep()
        with source.open() as store:
            count = fill(store)
            before = contents(store)
            with pytest.raises(Enough):
                objstore.copy(source.location, target.location, progress=enough(150))
            del before["", 5], store[5]
            report = objstore.copy(source.location, target.location)
        assert report.removed == 1
        assert report.verified == count - 1
        assert report.present > 100
        with target.open(flag="r") as store:
            assert contents(store) == before
            check(store)


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemError('unpickled')",)


class Enough(Exception):
    """Who copies has enough of it."""


def enough(after):
    def progress(done, _total):
        if done >= after:
            raise Enough

    return progress


class OwnCodec:
    """A codec of somebody's own, which a copy never sees."""

    name, number, runs_code = "own", 200, False

    def encode(self, value):
        return value.encode()[::-1], ()

    def decode(self, payload, _frames):
        return bytes(payload)[::-1].decode()


class TestKinds:
    def test_a_codec_of_somebodys_own_need_not_be_there(self, ends):
        source, target = ends
        target.keep(codec=OwnCodec())
        with source.open(codec=OwnCodec()) as store:
            store["a"] = "abc"
            store.namespace("pickles", codec="pickle")["a"] = 1
            assert objstore.copy(source.location, target.location).copied == 2
        with target.open(flag="r", codec=OwnCodec()) as store:
            assert store["a"] == "abc"
            assert store.namespace("pickles", codec="pickle")["a"] == 1
            check(store)

    @pytest.mark.parametrize("bounds", [{"max_entries": 50}, {"max_size": 20_000}, {"ttl": 100}])
    @pytest.mark.parametrize("ends", LOCAL_WAYS, indirect=True, ids="-to-".join)
    def test_a_cache_has_the_same_bounds_and_nothing_is_evicted(self, ends, bounds):
        source, target = ends
        target.keep(Cache, ttl=1)
        with source.open(Cache, policy="lfu", **bounds) as cache:
            cache.update(dict.fromkeys(range(100), "x" * 100))
            cache.namespace("more")["a"] = 1
            before, figures = contents(cache), cache.stats()
            report = objstore.copy(source.location, target.location)
        assert report == (figures.entries, 0, figures.entries, 0, 0, ())
        with target.open(Cache, "r", ttl=1) as cache:
            assert contents(cache) == before
            found = cache.stats()
            check(cache)
            for name in ("entries", "bytes", "max_size", "max_entries", "policy"):
                assert getattr(found, name) == getattr(figures, name)
            assert found.evicted == 0

    def test_servers_remember_the_bounds_of_a_cache(self, place, on_servers):
        with Cache(place / "a.cache", max_entries=50, policy="lfu") as cache:
            cache.update(dict.fromkeys(range(100)))
            cache.namespace("more").set("a", 1, ttl=1000, tags=("red",))
            before = contents(cache)
        assert objstore.copy(place / "a.cache", on_servers) == (50, 0, 50, 0, 0, ())
        with Cache(on_servers, "r") as cache:
            assert contents(cache) == before
        assert objstore.copy(on_servers, place / "b.cache") == (50, 0, 50, 0, 0, ())
        with Cache(place / "b.cache", "r") as cache:
            assert contents(cache) == before
            assert (cache.stats().max_entries, cache.stats().policy) == (50, "lfu")
            check(cache)

    def test_a_cache_that_has_a_bound_keeps_it(self, place):
        with Cache(place / "a.cache", max_entries=50) as old, Cache("memory://", max_entries=80) as new:
            old.update(dict.fromkeys(range(100)))
            assert objstore.copy(old, new).copied == 50
            assert new.stats().max_entries == 80

    def test_pickles_that_are_forbidden_are_copied(self, place, monkeypatch):
        with Store(place / "a.store") as store:
            store["a"] = 1
        monkeypatch.setenv("OBJSTORE_PICKLE", "forbid")
        assert objstore.copy(place / "a.store", place / "b.store").ok
        monkeypatch.delenv("OBJSTORE_PICKLE")
        with Store(place / "b.store") as store:
            assert store["a"] == 1


SEALS = {
    "none": {},
    "signed": {"signing_key": KEY},
    "encrypted": {"encryption_key": KEY},
    "signed again": {"signing_key": OLD_KEY},
}


def of_target(options):
    return {f"target_{name}": key for name, key in options.items()}


class TestSeals:
    @pytest.mark.parametrize("seal", SEALS)
    def test_the_copy_is_sealed_with_the_same_keys(self, ends, seal):
        source, target = ends
        options = SEALS[seal]
        target.keep(**options)
        with source.open(**options) as store:
            count = fill(store)
            before = values(store)
            told = objstore.copy(source.location, target.location, **options)
        assert told == (count, 0, count, 0, 0, ())
        with target.open(flag="r", **options) as store:
            assert {name: value for name, value in values(store).items() if name[1] != "large"} == {
                name: value for name, value in before.items() if name[1] != "large"
            }
            check(store)

    @pytest.mark.parametrize(("seal", "other"), list(itertools.permutations(SEALS, 2)))
    def test_or_with_others(self, place, seal, other):
        source, target = place / "a.store", place / "b.store"
        with Store(source, **SEALS[seal]) as store:
            count = fill(store)
            before = values(store)
        others = of_target(SEALS[other] or {"signing_key": False, "encryption_key": False})
        report = objstore.copy(source, target, **SEALS[seal], **others)
        assert report == (count, 0, count, 0, 0, ())
        with Store(target, "r", **SEALS[other]) as store:
            assert before.keys() == values(store).keys()
            assert store["soon"] == 1
            assert store.namespace("users")[LONG] == "long, too"
            check(store)
        with Store(target) as store:
            assert (store.stats().sealing or "none") == other.split()[0]

    def test_after_a_new_key_all_is_sealed_with_that(self, place):
        source, target = place / "a.store", place / "b.store"
        with Store(source, signing_key=OLD_KEY) as store:
            store["old"] = 1
        with Store(source, signing_key=[KEY, OLD_KEY]) as store:
            store["new"] = 2
        assert objstore.copy(source, target, signing_key=[KEY, OLD_KEY]).copied == 2
        with Store(target, signing_key=KEY) as store:
            assert dict(store) == {"old": 1, "new": 2}
            check(store)

    def test_the_keys_of_the_environment(self, place, monkeypatch):
        monkeypatch.setenv("OBJSTORE_SIGNING_KEY", KEY.hex())
        with Store(place / "a.store") as store:
            store["a"] = 1
        assert objstore.copy(place / "a.store", place / "b.store").ok
        with Store(place / "b.store") as store:
            assert store["a"] == 1
            assert store.stats().sealing == "signed"

    def test_what_has_no_seal_in_a_sealed_store_stays_behind(self, place):
        with Store(place / "a.store", signing_key=KEY) as old, Store("memory://", signing_key=KEY) as new:
            old["a"] = old["b"] = 1
            with Store("memory://") as forger:
                forger["b"] = "forged"
                old._apply(old._space.put, old._space.tree_key("b"), forger.entry("b").raw())
            report = objstore.copy(old, new)
            assert report.copied == report.verified == 1
            assert [(damage.key, damage.namespace) for damage in report.lost] == [("b", "")]
            assert "not sealed" in report.lost[0].reason
            assert list(new) == ["a"]

    def test_what_is_sealed_in_a_store_that_is_not_stays_behind(self, place):
        with Store(place / "a.store") as old, Store("memory://") as new:
            with Store("memory://", signing_key=KEY) as sealed:
                sealed["b"] = 1
                old._apply(old._space.put, old._space.tree_key("b"), sealed.entry("b").raw())
            assert "is sealed" in objstore.copy(old, new).lost[0].reason
            assert list(new) == []

    @pytest.mark.parametrize("seal", ["signed", "encrypted"])
    def test_a_missing_key_is_asked_for(self, place, seal):
        source, target = place / "a.store", place / "b.store"
        Store(source, **SEALS[seal]).close()
        option = next(iter(SEALS[seal]))
        with pytest.raises(BadSignature, match=f"give {option}"):
            objstore.copy(source, target)
        assert not target.exists()
        Store(target).close()
        with pytest.raises(BadSignature, match=f"give target_{option}"):
            objstore.copy(target, source)
        with pytest.raises(BadSignature, match="is none of those given"):
            objstore.copy(source, target, **{option: OLD_KEY})


class TestDamage:
    def test_a_damaged_record_is_left_behind_and_told(self, place):
        source, target = place / "a.store", place / "b.store"
        with Store(source) as store:
            store["a"] = "x" * 1000
            store.namespace("users")["b"] = "y" * 1000
        (source / "data.mdb").write_bytes((source / "data.mdb").read_bytes().replace(b"y" * 1000, b"z" * 1000))
        report = objstore.copy(source, target)
        assert not report.ok
        assert report == (1, 0, 1, 0, 0, (("users", "b", "its bytes do not fit their digest"),))
        with Store(target) as store:
            assert values(store) == {("", "a"): "x" * 1000}
            check(store)

    def test_a_namespace_whose_name_is_lost(self, place):
        source, target = place / "a.store", place / "b.store"
        with Store(source) as store:
            store["a"] = 1
            users = store.namespace("users")
            users["b"] = 2
            catalogued = store._engine.get(users._space._catalog_key)
            store._engine.transact(put, users._space._catalog_key, catalogued.replace(b"users", b"other"))
        report = objstore.copy(source, target)
        assert report.copied == 1
        assert [damage.key for damage in report.lost] == ["b"]
        assert "name of its namespace is lost" in report.lost[0].reason

    def test_what_no_record_there_may_be(self, place, monkeypatch):
        monkeypatch.setattr(MemoryEngine, "max_record_bytes", 1000)
        with Store(place / "a.store") as old, Store("memory://") as new:
            old["small"], old["large"] = 1, "x" * 2000
            report = objstore.copy(old, new)
            assert report.copied == report.verified == 1
            assert report.differing == 0
            assert [damage.key for damage in report.lost] == ["large"]
            assert "1000 is the most" in report.lost[0].reason


class TestInterrupted:
    @pytest.mark.parametrize("engine", ["lmdb", "servers"])
    def test_it_goes_on_after_it_was_killed(self, request, place, small_batches, short_leases, engine):
        source, target = place / "a.store", end(request, engine, "b.store").location
        with Store(source) as store:
            count = fill(store)
            before = contents(store)
        for least in (40, 100, 180, 250):
            for done in results(partial(copy_so_much, source, target, least)):
                assert least <= done < least + 20
                break  # which kills it
            assert done - 1 <= records(target) <= done  # one has expired
        sent = []
        report = objstore.copy(source, target, progress=lambda done, _total: sent.append(done))
        there = count - report.copied
        assert report == (count - there, there, count, 0, 0, ())
        assert 240 < there < sent[0] <= there + 21
        with Store(target) as store:
            assert contents(store) == before
            assert store.namespaces() == ["emptied", "nothing", "raw", "users"]
            check(store)

    @pytest.mark.parametrize(("engine", "kills"), [("lmdb", KILLS), ("servers", -(-KILLS // 4))])
    def test_it_goes_on_after_it_was_killed_at_any_moment(
        self, request, place, small_batches, short_leases, rng, engine, kills
    ):
        source, target = place / "a.store", end(request, engine, "b.store").location
        with Store(source) as store:
            store.update({number: rng.randbytes(100) for number in range(3000)})
            expected = contents(store)

        copies = there = 0
        for _ in range(kills):
            for _ in results(partial(copy_so_much, source, target, 1, on=True)):
                time.sleep(rng.random() ** 3 / 5)
                break  # which kills it, unless it has ended
            before, there = there, records(target)
            assert there >= before
            if not is_begun(target):
                assert_whole(target, expected)
                Store(target, "n").close()
                copies, there = copies + 1, 0
        print(f"{kills} kills, {copies} copies")
        if is_begun(target):
            objstore.copy(source, target)
            assert_whole(target, expected)

    def test_killed_before_it_could_note_how_far_it_was(self, ends, small_batches, monkeypatch):
        source, target = ends
        target.keep()
        with source.open() as store:
            count = fill(store)
            before = contents(store)
            with monkeypatch.context() as patch:
                notes = itertools.count()
                note = work.Copying._note

                def note_no_more(self):
                    if next(notes) == 5:
                        raise Enough
                    note(self)

                patch.setattr(work.Copying, "_note", note_no_more)
                with pytest.raises(Enough):
                    objstore.copy(source.location, target.location)
            report = objstore.copy(source.location, target.location)
        assert report == (count - 100, 100, count, 0, 0, ())
        with target.open(flag="r") as store:
            assert contents(store) == before
            check(store)

    @pytest.mark.parametrize("after", [1, 150, 310, 600])
    def test_what_changed_before_it_went_on_is_taken_over(self, ends, small_batches, after):
        source, target = ends
        target.keep()
        with source.open() as store:
            count = fill(store)
            with pytest.raises(Enough):
                objstore.copy(source.location, target.location, progress=enough(after))
            store[0] = store["new"] = "changed"
            del store[1], store.namespace("users")[LONG]
            store.drop_namespace("raw")
            before = contents(store)
            report = objstore.copy(source.location, target.location)
        assert report.ok
        assert report.verified == count + 1 - 3
        with target.open(flag="r") as store:
            assert contents(store) == before
            check(store)

    def test_while_it_is_begun_it_is_a_sound_store_and_nobody_takes_it_for_another(self, ends, small_batches, place):
        source, target = ends
        target.keep()
        with source.open() as store, Store(place / "other.store") as other:
            fill(store)
            with pytest.raises(Enough):
                objstore.copy(store, target.location, progress=enough(100))
            with pytest.raises(StoreExists, match="begun copy of another store"):
                objstore.copy(other, target.location)
            with pytest.raises(StoreError, match="itself a copy that is not whole"):
                objstore.copy(target.location, other)
            with target.open(flag="r") as begun:
                assert begun.namespaces() == ["emptied", "nothing", "raw", "users"]
                check(begun)
            objstore.copy(store, target.location)
            with target.open(flag="r") as whole:
                assert len(whole) == len(store)
            assert objstore.copy(target.location, other).ok

    def test_a_cache_evicts_nothing_meanwhile(self, place, small_batches):
        source, target = place / "a.cache", place / "b.cache"
        with Cache(source, max_entries=200) as cache:
            cache.update(dict.fromkeys(range(200)))
        with pytest.raises(Enough):
            objstore.copy(source, target, progress=enough(100))
        assert objstore.copy(source, target) == (100, 100, 200, 0, 0, ())
        with Cache(target) as cache:
            assert set(cache) == set(range(200))
            assert (cache.stats().max_entries, cache.stats().evicted) == (200, 0)
            check(cache)


def records(location):
    """How many records there are, but for what says how far a copy is."""
    with Store(location, "r") as store:
        return check(store).entries - (work.begun_in(store) is not None)


def copy_so_much(source, target, least, send, on=False):
    """Copy, and say so when so many records are done; then wait for the end, unless it shall go `on`."""

    def progress(done, _total):
        if done >= least:
            send(done)
            while not on:
                signal.pause()

    objstore.copy(source, target, progress=progress)


def assert_whole(location, expected):
    with Store(location, "r") as store:
        assert contents(store) == expected
        check(store)


def is_begun(location):
    """Whether a copy there is not whole."""
    with Store(location, "r") as store:
        return work.begun_in(store) is not None


class TestBesideOthers:
    def test_what_is_written_meanwhile_is_taken_over(self, ends, small_batches):
        source, target = ends
        target.keep()
        with source.open() as store:
            count = fill(store)

            def write(done, _total):
                if done == 100:
                    store[0] = "changed"
                    store["new"] = 1
                    del store[1]
                    store.namespace("later")["a"] = 1

            report = objstore.copy(store, target.location, progress=write)
            before = contents(store)
        assert report == (count + 3, 0, count + 1, 1, 0, ())
        with target.open(flag="r") as copied:
            assert contents(copied) == before
            check(copied)

    def test_who_never_stops_is_told(self, ends, small_batches):
        source, target = ends
        target.keep()
        with source.open() as store:
            fill(store)

            def write(done, total):
                assert done <= total
                store[0] = str(done)

            report = objstore.copy(store, target.location, progress=write)
            assert report.differing == 1
            assert not report.ok
            with target.open() as copied:
                assert copied.keys() == store.keys()
                check(copied)
            assert objstore.copy(store, target.location, merge=True).copied == 1

    @pytest.mark.parametrize("seal", SEALS)
    def test_and_sealed(self, place, small_batches, seal):
        with Store(place / "a.store", **SEALS[seal]) as old, Store("memory://", **SEALS[seal]) as new:
            fill(old)

            def write(done, _total):
                if done == 100:
                    old[0] = "another value"
                    old.set(1, old[1], ttl=1000)
                    old.set(2, old[2], tags=("red",))

            assert objstore.copy(old, new, progress=write).copied == len(values(old)) + 1 + 3
            assert new[0] == "another value"
            assert new.ttl(1) is not None
            assert list(new.range(tag="red")) == [2, "soon"]

    def test_only_one_copies_into_a_store(self, ends, monkeypatch):
        monkeypatch.setattr(stores, "_SECONDS_AFTER_DEATH", 0.1)
        source, target = ends
        with source.open() as store:
            fill(store)
            target.keep()
            refused = []

            def copy_again(_done, _total):
                with pytest.raises(StoreLocked, match="somebody copies"):
                    objstore.copy(store, target.location)
                refused.append(1)

            objstore.copy(store, target.location, progress=copy_again)
            assert refused

    def test_progress(self, ends, small_batches):
        source, target = ends
        target.keep()
        seen = []
        with source.open() as store:
            count = 300
            store.update(dict.fromkeys(range(count)))
            objstore.copy(store, target.location, progress=lambda *told: seen.append(told))
        done = [told[0] for told in seen]
        assert done == sorted(set(done))
        assert {total for _, total in seen} == {2 * count}
        assert done[-1] == 2 * count
        assert len(done) == 2 * -(-count // 20)


class TestMerging:
    def test_what_both_have_is_replaced_and_the_rest_stays(self, ends):
        source, target = ends
        with source.open() as old, target.open() as new:
            old.update({"a": 1, "b": 2})
            old.namespace("users")["x"] = 1
            new.update({"b": 3, "c": 4})
            new.namespace("users")["y"] = 2
            with pytest.raises(StoreExists, match="holds something already"):
                objstore.copy(old, new)
            assert objstore.copy(old, new, merge=True) == (3, 0, 3, 0, 0, ())
            assert values(new) == {("", "a"): 1, ("", "b"): 2, ("", "c"): 4, ("users", "x"): 1, ("users", "y"): 2}
            assert objstore.copy(old, new, merge=True) == (0, 3, 3, 0, 0, ())
            check(new)

    def test_nor_is_the_rest_removed_by_who_goes_on_without(self, ends, small_batches):
        source, target = ends
        with source.open() as old, target.open() as new:
            old.update(dict.fromkeys(range(100)))
            new["mine"] = 1
            with pytest.raises(Enough):
                objstore.copy(old, new, merge=True, progress=enough(50))
            assert objstore.copy(old, new).ok
            assert len(new) == 101

    def test_a_namespace_with_another_codec(self, ends):
        source, target = ends
        with source.open() as old, target.open() as new:
            old.namespace("raw", codec="bytes")["a"] = b"a"
            new.namespace("raw")["b"] = 1
            with pytest.raises(StoreError, match="another codec than the one that is copied: 'pickle'"):
                objstore.copy(old, new, merge=True)
            assert values(new) == {("raw", "b"): 1}


class TestRefusals:
    def test_what_makes_no_sense(self, place):
        source, target = place / "a.store", place / "b.store"
        with pytest.raises(StoreNotFound):
            objstore.copy(source, target)
        assert not target.exists()
        with Store(source) as store:
            with pytest.raises(ValueError, match="into itself"):
                objstore.copy(store, store)
            with pytest.raises(ValueError, match="into itself"):
                objstore.copy(source, source)
            with pytest.raises(ValueError, match="not a namespace"):
                objstore.copy(store.namespace("users"), target)
            with pytest.raises(ValueError, match="give keys with a location"):
                objstore.copy(store, target, signing_key=KEY)
            with pytest.raises(ValueError, match="not both"):
                objstore.copy(store, target, target_signing_key=KEY, target_encryption_key=KEY)
            for memory in ("memory://", "memory://nobody"):
                with pytest.raises(ValueError, match="ends with its last handle"):
                    objstore.copy(store, memory)
        assert not target.exists()

    def test_a_target_that_is_not_the_same(self, place):
        source = place / "a.store"
        Store(source).close()
        with Cache("memory://", ttl=1) as cache, Store("memory://", codec="bytes") as raw:
            with pytest.raises(WrongKind, match="is a Cache, and the source a Store"):
                objstore.copy(source, cache)
            with pytest.raises(StoreError, match="codec 'bytes', and the source 'pickle'"):
                objstore.copy(source, raw)
        Cache(place / "b.cache", ttl=1).close()
        with pytest.raises(WrongKind):
            objstore.copy(source, place / "b.cache")

    def test_a_target_that_is_only_read(self, place):
        Store(place / "a.store").close()
        Store(place / "b.store").close()
        with Store(place / "b.store", "r") as reader, pytest.raises(ReadOnlyStore):
            objstore.copy(place / "a.store", reader)

    def test_a_backup_is_not_the_store_itself(self, place):
        with Store(place / "a.store") as store:
            store["a"] = 1
            store.backup(place / "b.store")
            store["b"] = 2
        assert objstore.copy(place / "a.store", place / "b.store", merge=True).copied == 1


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "objstore", "copy", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


class TestCommand:
    def test_it_copies_and_tells(self, place):
        source, target = place / "a.store", place / "b.store"
        with Store(source) as store:
            store["a"] = "x" * 1000
            store["b"] = "y" * 1000
        done = run(source, target, "--target-signing-key", "NEW_KEY", NEW_KEY=KEY.hex())
        assert (done.returncode, done.stdout) == (0, "2 records copied; 2 compared and the same\n"), done.stderr
        with Store(target, signing_key=KEY) as store:
            assert store["a"] == "x" * 1000
        done = run(source, target, "--target-signing-key", "NEW_KEY", NEW_KEY=KEY.hex())
        assert done.returncode == 1
        assert "holds something already" in done.stderr
        (source / "data.mdb").write_bytes((source / "data.mdb").read_bytes().replace(b"y" * 1000, b"z" * 1000))
        done = run(source, target, "--merge", "--target-signing-key", "NEW_KEY", NEW_KEY=KEY.hex())
        assert done.returncode == 1
        assert done.stdout == (
            "damaged: 'b': its bytes do not fit their digest\n"
            "0 records copied, 1 were there, 1 left behind; 1 compared and the same\n"
        )

    def test_what_is_refused(self, place):
        done = run("memory://a", place / "b.store")
        assert done.returncode == 2
        done = run(place / "a.store", place / "b.store")
        assert done.returncode == 1
        assert done.stderr.startswith("Error: there is no store")
