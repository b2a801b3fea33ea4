"""A cache for its user: how it is opened, that its bounds hold, what goes first, and what it counts.

How it works within is in `test_eviction`, and what other processes do to it in `test_cache_processes`.  The long form
of the random programs:

    OBJSTORE_CACHE_STEPS=100000 python -m pytest tests/test_cache.py -k programs -s

OBJSTORE_SEED replays them.
"""

from __future__ import annotations

import os
import pickle
import random
import re
from collections import Counter, OrderedDict
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate, pairwise

import numpy as np
import pytest
from books import assert_kept, ledger_of, recount

from objstore import Cache, ReadOnlyStore, Store, StoreClosed, StoreFull, StoreNotFound, WrongKind, salvage
from objstore.engines.base import put
from objstore.eviction import METER, Ledger, room_for

pytestmark = pytest.mark.usefixtures("forked_checks")

STEPS = int(os.environ.get("OBJSTORE_CACHE_STEPS", "700"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.fixture
def cache(location, clock):
    """A cache of ten records."""
    with Cache(location, max_entries=10, clock=clock) as cache:
        yield cache


def fill(cache, count=10):
    cache.update((number, number) for number in range(count))


class TestOpening:
    @pytest.mark.parametrize("flag", ["c", "n"])
    @pytest.mark.parametrize("options", [{}, {"policy": "lfu"}, {"durability": "full"}])
    def test_a_new_one_needs_a_bound_or_a_ttl(self, path, flag, options):
        with pytest.raises(TypeError, match=r"max_size.*max_entries.*ttl.*Store"):
            Cache(path, flag, **options)
        assert not path.exists() or not (path / "data.mdb").exists()

    def test_none_is_replaced_by_one_without_bounds(self, path):
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
        with pytest.raises(TypeError, match="Store"):
            Cache(path, "n")
        with Cache(path) as cache:
            assert dict(cache) == {"a": 1}

    @pytest.mark.parametrize("bounds", [{"max_size": 10_000}, {"max_entries": 3}, {"ttl": 10}, {"ttl": timedelta(1)}])
    def test_one_of_them_is_enough(self, location, bounds):
        with Cache(location, **bounds) as cache:
            cache["a"] = 1
            assert cache["a"] == 1
            stats = cache.stats()
            assert (stats.max_size, stats.max_entries, stats.policy) == (
                bounds.get("max_size"),
                bounds.get("max_entries"),
                "lru",
            )

    @pytest.mark.parametrize("name", ["max_size", "max_entries"])
    @pytest.mark.parametrize(("bound", "error"), [("10", TypeError), (1.5, TypeError), (True, TypeError)])
    def test_a_bound_is_a_whole_number(self, path, name, bound, error):
        with pytest.raises(error, match=name):
            Cache(path, **{name: bound})
        assert not path.exists()

    @pytest.mark.parametrize("name", ["max_size", "max_entries"])
    @pytest.mark.parametrize("bound", [0, -1, 1 << 63, 1 << 100])
    def test_a_bound_is_positive_and_no_more_than_can_be_counted(self, path, name, bound):
        with pytest.raises(ValueError, match=name):
            Cache(path, **{name: bound})
        assert not path.exists()

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), 1e10])
    def test_a_ttl_is_a_time(self, path, ttl):
        with pytest.raises(ValueError, match="ttl"):
            Cache(path, ttl=ttl)
        with pytest.raises(TypeError, match="ttl"):
            Cache(path, ttl="1")
        assert not path.exists()

    @pytest.mark.parametrize("policy", ["LRU", "", "random", 1])
    def test_a_policy_is_one_of_three(self, path, policy):
        with pytest.raises(ValueError, match="'lru', 'lfu', 'fifo'"):
            Cache(path, max_entries=1, policy=policy)
        assert not path.exists()

    def test_the_largest_bounds(self, location):
        most = (1 << 63) - 1
        with Cache(location, max_size=most, max_entries=most) as cache:
            fill(cache)
            assert cache.stats().max_size == cache.stats().max_entries == most

    @pytest.mark.parametrize("flag", ["r", "w", "c"])
    def test_stores_and_caches_are_not_taken_for_each_other(self, path, flag):
        Store(path).close()
        with pytest.raises(WrongKind, match="Store"):
            Cache(path, flag, max_entries=10)
        with pytest.raises(WrongKind, match="Store"):
            Cache(path, flag)
        Cache(path, "n", max_entries=10).close()
        with pytest.raises(WrongKind, match="Cache"):
            Store(path, flag)

    @pytest.mark.parametrize("flag", ["r", "w"])
    @pytest.mark.parametrize("options", [{}, {"max_entries": 10}])
    def test_what_must_be_there_is_not_made(self, path, flag, options):
        with pytest.raises(StoreNotFound):
            Cache(path, flag, **options)
        assert not path.exists()

    def test_what_is_recorded_is_what_is_not_named(self, path):
        Cache(path, max_entries=10, policy="fifo").close()
        for options in ({}, {"ttl": 5}, {"flag": "w"}, {"flag": "r"}):
            with Cache(path, **options) as cache:
                stats = cache.stats()
                assert (stats.max_size, stats.max_entries, stats.policy) == (None, 10, "fifo")

    def test_the_last_who_names_one_sets_it(self, path):
        with Cache(path, max_entries=10) as first:
            fill(first)
            with Cache(path, max_size=5_000, policy="lfu") as second:
                assert first.stats().max_entries == second.stats().max_entries == 10
                assert first.stats().max_size == second.stats().max_size == 5_000
                assert first.stats().policy == second.stats().policy == "lfu"
            with Cache(path, max_entries=4):
                assert len(first) == 4
                assert_kept(first)
            fill(first)
            assert len(first) == 4

    @pytest.mark.parametrize("bounds", [{"max_size": 30_000}, {"max_entries": 7}])
    def test_what_is_too_much_goes_when_it_is_opened(self, path, bounds):
        with Cache(path, max_entries=2_000) as cache:
            fill(cache, 2_000)
        with Cache(path, **bounds) as cache:
            assert_kept(cache)
            assert 0 < len(cache) < 400
            assert cache.stats().evicted == 2_000 - len(cache)
            assert cache.check().ok

    def test_a_reader_sets_no_bounds_and_writes_nothing(self, path):
        with Cache(path, max_entries=10) as cache:
            fill(cache)
        with Cache(path, "r", max_entries=4) as reader:
            assert [reader[number] for number in range(10)] == list(range(10))
            assert (reader.stats().hits, reader.stats().max_entries) == (10, 10)
            for write in (lambda: reader.set("a", 1), lambda: reader.update(a=1), lambda: reader.pop(1), reader.clear):
                with pytest.raises(ReadOnlyStore):
                    write()
            assert reader.stats().hits == 10
        with Cache(path) as cache:
            assert cache.stats().hits == 0
            assert len(cache) == 10

    def test_its_durability_is_process_unless_another_is_named(self, tmp_path):
        for durability in ("process", "relaxed", "full"):
            options = {} if durability == "process" else {"durability": durability}
            with Cache(tmp_path / durability, max_entries=1, **options) as cache:
                assert cache.stats().durability == durability
            with Cache(tmp_path / durability) as cache:
                assert cache.stats().durability == durability

    def test_a_pickled_handle_opens_the_same(self, path):
        with Cache(path, max_entries=10, ttl=50) as cache:
            fill(cache)
            for handle in (cache, cache.namespace("n")):
                with pickle.loads(pickle.dumps(handle)) as again:
                    assert type(again) is Cache
                    assert dict(again) == dict(handle)
                    assert again.stats().max_entries == 10
                    again["b"] = 1
                    assert again.ttl("b") is not None
                    assert handle["b"] == 1

    def test_what_it_looks_like(self, cache):
        fill(cache, 3)
        assert repr(cache) == f"<Cache {cache.location!r}, 3 items>"
        assert repr(cache.namespace("n")) == f"<Cache {cache.location!r}, namespace 'n', 0 items>"
        cache.close()
        assert repr(cache).endswith("closed>")

    def test_a_closed_one_is_closed(self, cache):
        cache["a"] = 1
        cache.close()
        cache.close()
        for use in (
            lambda: cache["a"],
            lambda: cache.set("a", 1),
            lambda: cache.update(a=1),
            lambda: cache.get_many(["a"]),
            lambda: cache.view("a"),
            cache.stats,
            cache.expire,
            cache.clear,
            lambda: cache.transaction().__enter__(),
        ):
            with pytest.raises(StoreClosed):
                use()

    def test_a_default_ttl_is_that_of_the_handle(self, path, clock):
        with Cache(path, ttl=10, clock=clock) as brief, Cache(path, clock=clock) as other:
            brief["a"] = 1
            brief.namespace("n")["a"] = 1
            brief.set("kept", 1, ttl=None)
            other["b"] = 1
            with brief.transaction() as txn:
                txn["c"] = 1
            assert [brief.ttl(key) for key in ("a", "b", "c", "kept")] == [10, None, 10, None]
            clock.advance(10)
            assert set(brief) == {"b", "kept"}
            assert len(brief.namespace("n")) == 0


def one_by_one(cache, items):
    for key, value in items:
        cache[key] = value


def updating(cache, items):
    cache.update(items)


def loading(cache, items):
    cache.load(items, batch_bytes=3_000)


def set_each(cache, items):
    for number, (key, value) in enumerate(items):
        cache.set(key, value, ttl=[None, 100][number % 2], tags=["even", "odd"][: number % 3])


def in_a_transaction(cache, items):
    with cache.transaction() as txn:
        for number, (key, value) in enumerate(items):
            with suppress(ZeroDivisionError), txn.transaction() as savepoint:
                savepoint[key] = value
                savepoint.namespace("n")[key] = value
                1 / (number % 3)


def in_namespaces(cache, items):
    for number, (key, value) in enumerate(items):
        cache.namespace(f"n{number % 3}")[key] = value


def modifying(cache, items):
    for key, value in items:
        cache.modify(key, lambda _, value=value: value, default=None)
        cache.touch(key, 50)
        cache.compare_and_set(key, Equal(), [value])


class Equal:
    """Equal to everything."""

    def __eq__(self, other):
        return True

    __array_ufunc__ = None  # to arrays, too
    __hash__ = None


def editing(cache, items):
    for key, value in items:
        with cache.edit(key, default_factory=list) as edited:
            edited[:] = [value]  # more of them might be too large


def counting(cache, items):
    for key, _ in items:
        cache.increment(key, 1)
        cache.increment(("many", key), 10**300)


def adding(cache, items):
    for key, value in items:
        cache.add(key, value)
        cache.setdefault(("default", key), value)


def removing(cache, items):
    for number, (key, value) in enumerate(items):
        cache[key] = value
        if number % 3 == 0:
            cache.pop(key)
        elif number % 7 == 0:
            with suppress(KeyError):
                cache.popitem()
        elif number % 11 == 0:
            cache.delete_many([key, number - 1])
    cache["last"] = 1  # so that something is there


WAYS = [
    one_by_one,
    set_each,
    updating,
    loading,
    in_a_transaction,
    in_namespaces,
    modifying,
    editing,
    counting,
    adding,
    removing,
]


class Value:
    """Values of all sizes, each with a pickle of its own."""

    def __init__(self, rng):
        self.rng = rng

    def __call__(self):
        kind = self.rng.randrange(8)
        if kind == 0:
            return np.arange(self.rng.randrange(12_000))
        if kind == 1:
            return bytes(self.rng.randrange(1_950, 2_050))  # about where a record gets pages of its own
        if kind == 2:
            return bytes(self.rng.randrange(20_000))
        return self.rng.randrange(1 << self.rng.randrange(1, 500))


@pytest.mark.parametrize("bounds", [{"max_size": 130_000}, {"max_size": 200_000, "max_entries": 20}])
@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_stored_in_whatever_way_the_bounds_hold(location, clock, rng, bounds, way):
    value = Value(rng)
    with Cache(location, clock=clock, **bounds) as cache:
        for _ in range(2):
            keys = [rng.choice((number, f"k{number}", "long" * rng.randrange(100, 200))) for number in range(50)]
            way(cache, [(rng.choice(keys), value()) for _ in range(50)])
            assert_kept(cache)
            clock.advance(60)
        assert ledger_of(cache).entries
        assert location != "memory://" or cache.check().ok  # which takes a process on the other engine


def test_it_holds_after_each_commit(path, rng):
    """Seen by somebody who looks at each."""
    value = Value(rng)
    with Cache(path, max_size=130_000) as cache:
        transact, commits = cache._engine._transact, []

        def watched(*arguments, **options):
            result = transact(*arguments, **options)
            assert_kept(cache)
            commits.append(result)
            return result

        cache._engine._transact = watched
        for number in range(100):
            cache[number] = number
        cache.update((number, bytes(100)) for number in range(500))
        cache["large"] = bytes(100_000)
        for _ in range(50):
            cache[rng.randrange(20)] = value()
        del cache._engine._transact
        assert len(commits) > 150


class TestWhatIsTooLarge:
    @pytest.fixture
    def cache(self, location, clock):
        with Cache(location, max_size=20_000, clock=clock) as cache:
            fill(cache, 20)
            yield cache

    @pytest.mark.parametrize("value", [bytes(20_000), np.zeros(20_000)], ids=["bytes", "array"])
    @pytest.mark.parametrize("key", ["too large", "long" * 500, ("a", 1)], ids=["text", "long", "tuple"])
    def test_it_is_refused_by_name_and_nothing_changes(self, cache, key, value):
        before = dict(cache), ledger_of(cache).pack()
        for store in (cache, cache.namespace("n")):
            for write in (
                lambda store=store: store.set(key, value, ttl=5, tags=["a"]),
                lambda store=store: store.update({"b": 1, key: value, "c": 1}),
                lambda store=store: store.add(key, value),
                lambda store=store: store.setdefault(key, value),
                lambda store=store: store.modify(key, lambda _: value, default=0),
                lambda store=store: store.load({"b": 1, key: value}.items()),
            ):
                with pytest.raises(StoreFull, match=f"{re.escape(str(key)[:4])}.*20000.*nothing was stored") as caught:
                    write()
                assert "max_size" in str(caught.value)
        assert (dict(cache), ledger_of(cache).pack()) == before
        assert cache.check().ok

    def test_what_was_there_before_stays(self, cache):
        cache["a"] = "small"
        with pytest.raises(StoreFull):
            cache["a"] = bytes(30_000)
        assert cache["a"] == "small"

    def test_a_transaction_goes_on_after_it(self, cache):
        with cache.transaction() as txn:
            txn["a"] = 1
            with pytest.raises(StoreFull):
                txn["b"] = bytes(30_000)
            txn["c"] = 1
        assert (cache["a"], "b" in cache, cache["c"]) == (1, False, 1)
        assert_kept(cache)

    def test_what_just_fits_has_it_for_itself(self, cache, path):
        most = room(cache, "a", bytes(10_000))
        with Cache(path, max_size=most) as cache:
            fill(cache)
            cache["a"] = bytes(10_000)
            assert list(cache) == ["a"]
            assert_kept(cache)
            cache["b"] = 1
            assert list(cache) == ["b"]
        with Cache(path, max_size=most - 1) as cache:
            with pytest.raises(StoreFull):
                cache["a"] = bytes(10_000)
            assert list(cache) == ["b"]


def room(cache, key, value):
    tree_key, packed = cache._space.pack(key, value)
    return room_for(tree_key, len(bytes(packed)))


class TestALargeOneAmongTinyOnes:
    def test_others_get_in_between(self, path, clock):
        with Cache(path, max_size=100_000, clock=clock) as cache:
            fill(cache, 2_000)
            transact, between = cache._transact, []

            def watched(function, *arguments):
                try:
                    return transact(function, *arguments)
                finally:
                    between.append(ledger_of(cache).evicted)
                    if function.__name__ == "make_room":
                        other["theirs", len(between)] = 1

            with Cache(path, clock=clock) as other:
                cache._transact = watched
                cache["large"] = bytes(90_000)
                cache._transact = transact
            assert cache["large"] == bytes(90_000)
            assert len(between) > 8
            steps = [after - before for before, after in pairwise(between)]
            assert max(steps) <= 2 * 64
            assert_kept(cache)
            assert cache.check().ok

    def test_in_a_transaction_it_is_all_done_at_once(self, location, clock):
        with Cache(location, max_size=100_000, clock=clock) as cache:
            fill(cache, 2_000)
            with cache.transaction() as txn:
                txn["large"] = bytes(90_000)
                assert txn["large"] == bytes(90_000)
                raised = len(txn)
            assert len(cache) == raised < 200
            assert_kept(cache)


class TestFigures:
    def test_hits_and_misses_of_every_kind(self, cache, clock):
        cache["a"] = 1
        cache.set("brief", 1, ttl=10)
        cache["array"] = np.zeros(20_000)
        hits = misses = 0

        def counts():
            stats = cache.stats()
            return stats.hits, stats.misses

        assert counts() == (0, 0)
        assert (cache["a"], cache.get("a"), cache.setdefault("a", 2)) == (1, 1, 1)
        hits += 3
        assert counts() == (hits, misses)
        assert cache.get("none") is None
        with pytest.raises(KeyError):
            cache["none"]
        misses += 2
        assert counts() == (hits, misses)
        assert cache.get_many(["a", "none", "brief", "b" * 1000]) == {"a": 1, "brief": 1}
        hits, misses = hits + 2, misses + 2
        assert counts() == (hits, misses)
        for _ in range(3):  # by different ways, the first one tells of the others
            assert len(cache["array"]) == 20_000
        hits += 3
        assert counts() == (hits, misses)
        clock.advance(10)
        assert cache.get("brief") is None
        assert cache.get_many(["brief"]) == {}
        misses += 2
        assert counts() == (hits, misses)
        namespace = cache.namespace("n")
        namespace["x"] = 1
        assert (namespace["x"], namespace.get("y")) == (1, None)
        hits, misses = hits + 1, misses + 1
        assert counts() == (hits, misses)
        assert namespace.stats().hits == hits

    def test_a_view_counts_as_read(self, path):
        with Cache(path, max_entries=10) as cache:
            cache["array"] = np.zeros(20_000)
            assert len(cache.view("array")) == 20_000
            with pytest.raises(KeyError):
                cache.view("none")
            assert (cache.stats().hits, cache.stats().misses) == (1, 1)

    def test_they_are_those_of_all_handles_and_stay(self, path):
        with Cache(path, max_entries=10) as first, Cache(path) as second:
            first["a"] = 1
            assert (second["a"], first["a"], second.get("b")) == (1, 1, None)
            assert (first.stats().hits, second.stats().misses) == (2, 1)
        with Cache(path) as cache:
            assert (cache.stats().hits, cache.stats().misses) == (2, 1)
            assert [cache["a"] for _ in range(200)]
        with Cache(path, "r") as cache:
            assert (cache.stats().hits, cache.stats().misses) == (202, 1)

    def test_entries_and_bytes_are_those_of_all_namespaces(self, cache):
        fill(cache, 3)
        cache.namespace("n").update(a=1, b=bytes(5_000))
        stats = cache.stats()
        assert (stats.entries, stats.bytes) == recount(cache)
        assert stats.entries == 5
        assert cache.namespace("n").stats() == stats

    def test_what_is_evicted_and_what_expires(self, cache, clock):
        fill(cache, 25)
        assert cache.stats().evicted == 15
        cache.clear()
        assert (cache.stats().evicted, cache.stats().entries, cache.stats().bytes) == (15, 0, 0)
        for number in range(5):
            cache.set(number, 1, ttl=10)
        clock.advance(10)
        assert len(cache) == 0
        assert cache.stats().entries == 5
        assert cache.expire() == 5
        assert (cache.stats().expired, cache.stats().entries, cache.stats().bytes) == (5, 0, 0)

    def test_a_large_bytes_counts_by_pages(self, cache):
        cache["a"] = bytes(10_000)
        assert 3 * 4096 < cache.stats().bytes < 3 * 4096 + 100


class TestExpiry:
    def test_writes_sweep_what_has_expired_a_little_each(self, location, clock):
        with Cache(location, max_entries=1_000, clock=clock) as cache:
            for number in range(20):
                (cache.namespace("n") if number % 2 else cache).set(number, 1, ttl=10, tags=["t"])
            clock.advance(10)
            left = []
            for number in range(4):
                cache["new", number] = 1
                left.append(cache.stats().entries)
            assert left[-1] == 4
            assert max(before - after for before, after in zip([20, *left], left, strict=False)) <= 8
            assert cache.stats().expired == 20
            assert cache.stats().evicted == 0
            assert cache.check().ok

    def test_what_is_alive_is_not_swept(self, cache, clock):
        cache.set("a", 1, ttl=10)
        cache.touch("a", 100)
        cache.set("b", 1, ttl=10)
        cache["b"] = 2
        clock.advance(50)
        cache["c"] = 1
        assert dict(cache) == {"a": 1, "b": 2, "c": 1}
        assert cache.stats().expired == 0


class TestTags:
    def test_what_is_evicted_goes_with_its_tags_and_its_end(self, cache, clock):
        for number in range(30):
            (cache.namespace("n") if number % 2 else cache).set(
                number if number % 3 else "long" * 200 + str(number), number, ttl=100, tags=["all", f"t{number}"]
            )
        assert cache.stats().entries == 10
        index = list(cache._engine.read().scan_keys(b"\x02", b"\x04"))
        assert len(index) == 30
        tagged = len(list(cache.range(tag="all"))) + len(list(cache.namespace("n").range(tag="all")))
        assert tagged == 10
        assert cache.check().ok
        cache.delete_tag("all")
        cache.namespace("n").delete_tag("all")
        assert cache.stats().entries == cache.stats().bytes == 0
        assert list(cache._engine.read().scan_keys(b"\x02", b"\x04")) == []
        assert cache.check().ok


class TestNamespaces:
    def test_all_are_under_the_one_bound(self, cache):
        names = ["a", "b", "c"]
        for number in range(30):
            cache.namespace(names[number % 3])[number] = number
        assert sum(len(cache.namespace(name)) for name in names) == cache.stats().entries == 10
        assert cache.check().ok

    def test_one_with_a_codec_of_its_own_gives_way_to_others(self, cache):
        own = cache.namespace("own", codec="bytes")
        for number in range(10):
            own[number] = bytes((number,))
        fill(cache, 30)
        for number in range(5):
            own[number] = b"again"
        assert own[4] == b"again"
        assert len(own) + len(cache) == 10
        assert cache.check().ok

    def test_one_that_is_dropped_leaves_its_room(self, cache):
        namespace = cache.namespace("n")
        fill(namespace)
        cache.drop_namespace("n")
        assert (cache.stats().entries, cache.stats().bytes) == (0, 0)
        fill(cache)
        fill(namespace, 3)
        assert cache.stats().entries == 10
        assert cache.check().ok


class TestTheAudit:
    """What somebody has changed in the books is found."""

    @pytest.mark.parametrize(
        ("field", "problem"), [("entries", "counts 11 records of 10"), ("bytes", "bytes of"), ("hits", None)]
    )
    def test_a_ledger_that_counts_otherwise(self, cache, field, problem):
        fill(cache)
        ledger = ledger_of(cache)
        setattr(ledger, field, getattr(ledger, field) + 1)
        cache._engine.transact(put, b"\x00c", ledger.pack())
        problems = cache.check().problems
        assert len(problems) == (problem is not None)
        assert problem is None or problem in problems[0]

    def test_an_entry_of_the_meter_that_is_missing_or_one_too_many(self, cache):
        fill(cache)
        assert cache.check().ok

        def of_another(txn):
            key, stored = txn.get_first(METER, b"\x06", 1)[0]
            txn.delete(key)
            txn.put(key + b"x", stored)

        cache._engine.transact(of_another)
        assert cache.check().problems == ("the meter of the cache has not one entry for each record",)
        cache._engine.transact(lambda txn: txn.delete_range(METER, b"\x06"))
        assert "the meter of the cache has not one entry for each record" in cache.check().problems

    def test_a_damaged_entry_of_the_meter_goes_first(self, cache):
        fill(cache)
        key, _ = next(iter(cache._engine.read().scan(METER, b"\x06")))
        cache._engine.transact(put, key, b"?")
        cache._usage.reset()
        for number in range(40):
            cache["new", number] = 1
        assert_kept(cache)
        assert cache.check().ok

    def test_a_store_has_no_ledger(self, path):
        with Store(path) as store:
            store["a"] = 1
            store._engine.transact(put, b"\x00c", bytes(65))
            assert not store.check().ok

    def test_a_store_into_which_somebody_put_a_ledger_is_salvaged_as_a_store(self, path, tmp_path):
        with Store(path) as store:
            store["a"] = 1
            store._engine.transact(put, b"\x00c", Ledger(max_entries=1).pack())
        assert salvage(path, tmp_path / "b.store").entries == 1
        with Store(tmp_path / "b.store") as salvaged:
            assert dict(salvaged) == {"a": 1}
            assert salvaged.check().ok

    def test_salvaging_tells_that_the_bounds_are_lost(self, path, tmp_path):
        with Cache(path, max_entries=10) as cache:
            fill(cache)
            cache._engine.transact(put, b"\x00c", b"?")
        report = salvage(path, tmp_path / "b.store")
        assert (report.entries, report.problems) == (
            10,
            ("the bounds of the cache are lost; give them when it is opened",),
        )
        with Cache(tmp_path / "b.store", max_entries=10) as salvaged:
            assert len(salvaged) == 10
            assert salvaged.check().ok


# Which goes first

CAPACITY = 200


def zipf(rng, length):
    """Keys of which few are asked for often, and many seldom."""
    weights = list(accumulate(1 / rank for rank in range(1, 2_001)))
    return rng.choices(range(2_000), cum_weights=weights, k=length)


def with_scans(rng, length):
    """The same, and now and then somebody reads a thousand keys that nobody asks for again."""
    trace, fresh = [], 10_000
    while len(trace) < length:
        trace += zipf(rng, 1_500)
        trace += range(fresh, fresh + 500)
        fresh += 500
    return trace


def exact(policy, trace):
    """Hits of a cache that always evicts the very first."""
    kept, uses, hits = OrderedDict(), Counter(), 0
    for key in trace:
        if key in kept:
            hits += 1
            if policy != "fifo":
                kept.move_to_end(key)
        else:
            if len(kept) == CAPACITY:
                gone = min(kept, key=uses.__getitem__) if policy == "lfu" else next(iter(kept))
                del kept[gone], uses[gone]
            kept[key] = None
        uses[key] += 1
    return hits


def sampled(policy, trace, location="memory://"):
    """Hits of a `Cache`."""
    with Cache(location, max_entries=CAPACITY, policy=policy) as cache:
        for key in trace:
            if key not in cache:
                cache[key] = None
            else:
                assert cache[key] is None
        return cache.stats().hits


class TestPolicies:
    """Against the exact policies.

    Over 12 seeds of each, the shares of hits (0.41 to 0.66) were never further apart than 0.004.
    """

    FURTHEST = 0.015

    @pytest.mark.parametrize("make", [zipf, with_scans])
    @pytest.mark.parametrize("policy", ["lru", "lfu", "fifo"])
    def test_nearly_as_many_are_found_as_by_the_exact_one(self, rng, policy, make):
        trace = make(rng, 6_000)
        wanted, found = exact(policy, trace) / len(trace), sampled(policy, trace) / len(trace)
        assert abs(wanted - found) <= self.FURTHEST

    @pytest.mark.parametrize("policy", ["lru", "lfu"])
    def test_what_is_used_stays(self, location, policy):
        with Cache(location, max_entries=100, policy=policy) as cache:
            fill(cache, 100)
            cache.get_many(range(5))
            for number in range(1_000):
                cache["cold", number] = number
                assert [cache[hot] for hot in range(5)] == list(range(5))
            assert all(hot in cache for hot in range(5))
            assert cache.stats().evicted == 1_000

    def test_what_was_used_often_stays_through_a_scan(self, location):
        with Cache(location, max_entries=100, policy="lfu") as cache:
            for _ in range(5):
                cache.get_many(range(10))
                fill(cache, 10)
            for number in range(1_000):
                cache["scanned", number] = number
            assert [key for key in cache if not isinstance(key, tuple)] == list(range(10))

    @pytest.mark.parametrize("policy", ["lru", "lfu", "fifo"])
    def test_in_a_small_one_the_very_first_goes(self, location, policy):
        with Cache(location, max_entries=5, policy=policy) as cache:
            for number in range(5):
                cache[number] = number
            for number in (0, 2, 0, 4, 1, 2):
                assert cache[number] == number
            for number in range(5, 8):
                cache[number] = number
                cache[number] = number
            gone = {"lru": {3, 0, 4}, "lfu": {3, 4, 1}, "fifo": {0, 1, 2}}[policy]
            assert set(range(8)) - set(cache) == gone

    def test_what_another_handle_and_a_namespace_used_stays(self, path):
        with Cache(path, max_entries=20) as cache, Cache(path) as other:
            namespace = other.namespace("n")
            namespace["hot"] = 1
            for number in range(200):
                cache[number] = number
                assert namespace["hot"] == 1

    def test_the_policy_may_change(self, path):
        with Cache(path, max_entries=20) as cache:
            for policy in ("lfu", "fifo", "lru", "lfu"):
                with Cache(path, policy=policy):
                    for number in range(60):
                        cache[policy, number] = number
                        assert cache.get((policy, 0)) in (0, None)
                assert (policy, 59) in cache
                assert ((policy, 0) in cache) == (policy != "fifo")
                assert_kept(cache)


# Random programs


class Model:
    """What there may be in a cache: what is there has the last value that was stored."""

    def __init__(self, cache, clock, rng):
        self.cache, self.clock, self.rng = cache, clock, rng
        self.stored = {name: {} for name in ("", "n", "m")}

    def step(self):
        name = self.rng.choice(list(self.stored))
        handle = self.cache.namespace(name) if name else self.cache
        self.rng.choice([self.set, self.set, self.many, self.get, self.remove, self.whole, self.work, self.wait])(
            handle, self.stored[name]
        )

    def key(self):
        return self.rng.choice([self.rng.randrange(40), "k" * self.rng.randrange(600), ("t", self.rng.randrange(9))])

    def value(self):
        return self.rng.choice([self.rng.randrange(10**9), bytes(self.rng.randrange(6_000)), "x" * 30])

    def set(self, handle, stored):
        key, value, ttl = self.key(), self.value(), self.rng.choice([None, None, 5])
        handle.set(key, value, ttl=ttl, tags=self.rng.choice([(), ("a",), ("a", "b")]))
        stored[key] = value, None if ttl is None else self.clock.now + ttl
        assert handle[key] == value

    def many(self, handle, stored):
        items = [(self.key(), self.value()) for _ in range(self.rng.randrange(12))]
        handle.update(items)
        stored.update((key, (value, None)) for key, value in items)

    def get(self, handle, stored):
        keys = [self.key() for _ in range(5)]
        for key, value in [*handle.get_many(keys).items(), *((key, handle.get(key, self)) for key in keys)]:
            assert value is self or self.right(stored, key, value)

    def right(self, stored, key, value):
        wanted, end = stored[key]
        return value == wanted and (end is None or self.clock.now < end)

    def remove(self, handle, stored):
        key = self.key()
        self.rng.choice([handle.delete, lambda key: handle.pop(key, None)])(key)
        stored.pop(key, None)
        assert key not in handle

    def whole(self, handle, stored):
        what = self.rng.randrange(6)
        if what == 0:
            handle.clear()
            stored.clear()
        elif what == 1:
            handle.delete_tag("a")
            assert list(handle.range(tag="a")) == []
        elif what == 2:
            handle.expire()

    def work(self, handle, stored):
        changed = dict(stored)
        with suppress(ZeroDivisionError), handle.transaction() as txn:
            self.set(txn, changed)
            with suppress(ZeroDivisionError), txn.transaction() as savepoint:
                inner = dict(changed)
                self.many(savepoint, inner)
                self.remove(savepoint, inner)
                1 / self.rng.randrange(2)
                changed = inner
            1 / self.rng.randrange(3)
            self.set(txn, changed)
            stored.clear()
            stored.update(changed)

    def wait(self, _handle, _stored):
        self.clock.advance(self.rng.choice([0, 1, 3]))

    def look(self):
        assert_kept(self.cache)
        for name, stored in self.stored.items():
            for key, value in (self.cache.namespace(name) if name else self.cache).items():
                assert self.right(stored, key, value)


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo"])
@pytest.mark.parametrize("bounds", [{"max_size": 30_000}, {"max_entries": 15}])
def test_random_programs_find_what_they_stored_or_nothing(location, clock, seed, bounds, policy):
    steps = STEPS // 12
    rng = random.Random(f"{seed} {location[:6]} {bounds} {policy}")
    with Cache(location, clock=clock, policy=policy, **bounds) as cache:
        model = Model(cache, clock, rng)
        for number in range(steps):
            model.step()
            if number % 5 == 0:
                model.look()
        assert cache.stats().evicted
        assert cache.check().ok
