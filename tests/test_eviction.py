"""What evicts in a cache, looked at from within: races, damage, leftovers, and what it says of itself.

What a user sees is in `test_cache`, and other processes are in `test_cache_processes`.
"""

from __future__ import annotations

import logging
import threading

import pytest

from objstore import Cache, StoreCorrupt
from objstore.engines.base import put
from objstore.eviction import BATCH, LEDGER_KEY, Ledger, _meter_key
from objstore.usage import Usage

pytestmark = pytest.mark.usefixtures("forked_checks")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.fixture
def cache(location, clock):
    with Cache(location, max_entries=10, clock=clock) as cache:
        yield cache


class Handler(logging.Handler):
    """Remembers the keys that were evicted, and what the cache had to say at that time."""

    def __init__(self, cache):
        super().__init__()
        self.keys = []
        self.cache = cache

    def emit(self, record):
        key, namespace, location = record.args
        assert location == self.cache.location
        self.cache["logged"] = key  # it is no transaction where this is called
        self.keys.append((namespace, key))


@pytest.fixture
def told(cache, caplog):
    """The keys of which the log says that they were evicted, with their namespaces."""
    handler = Handler(cache)
    with caplog.at_level(logging.DEBUG, "objstore"):
        logging.getLogger("objstore").addHandler(handler)
        yield handler.keys
        logging.getLogger("objstore").removeHandler(handler)


class TestUsage:
    def test_what_another_thread_takes_may_be_used_meanwhile(self):
        usage = Usage()
        for key in (b"a", b"b"):
            usage.note(key)

        class Meddled(dict):
            """A record is used while another thread is about to take what was noted of it."""

            def pop(self, key, *default):
                if threading.current_thread() is threading.main_thread() and key == b"a":
                    other.start()
                    other.join(0.2)
                return dict.pop(self, key, *default)

        other = threading.Thread(target=lambda: used.append(usage.use_of(b"b")))
        used = []
        usage.fold()
        usage._last_use = Meddled(usage._last_use)
        taken = usage.take()
        other.join()
        assert taken.uses.keys() == {b"a", b"b"}
        assert used == [None]

    def test_what_is_given_back_is_there_again(self):
        usage = Usage()
        for note in (b"a", b"a", None, b"b"):
            usage.note(note)
        taken = usage.take()
        assert (taken.hits, taken.misses, {key: uses for key, (uses, _) in taken.uses.items()}) == (
            3,
            1,
            {b"a": 2, b"b": 1},
        )
        usage.note(b"a")
        usage.give_back(taken)
        again = usage.take()
        assert (again.hits, again.misses, again.uses[b"a"][0]) == (4, 1, 3)
        assert again.uses[b"a"][1] > taken.uses[b"a"][1]
        assert not usage.has_any()


class TestRoom:
    def test_what_is_overwritten_needs_no_room_of_others(self, cache):
        cache.update((number, number) for number in range(10))
        cache.update((number, -number) for number in range(5))
        assert dict(cache) == {number: -number if number < 5 else number for number in range(10)}
        assert cache.stats().evicted == 0

    def test_a_ledger_that_counts_too_much_is_put_right(self, cache):
        cache.update((number, number) for number in range(5))
        ledger = Ledger.read(cache._engine.read())
        ledger.entries = 1 << 40
        cache._engine.transact(put, LEDGER_KEY, ledger.pack())
        cache["a"] = 1
        cache["b"] = 2
        assert dict(cache) == {"a": 1, "b": 2}
        assert cache.check().ok

    def test_it_is_found_where_all_that_was_remembered_has_gone(self, cache):
        cache.update((number, number) for number in range(10))
        cache._usage.worst.update((_meter_key(b"@gone" + bytes((number,))), bytes(8)) for number in range(16))
        cache["one more"] = 1
        assert len(cache) == 10
        assert cache.check().ok


class TestDamage:
    @pytest.mark.parametrize("damaged", [b"", b"\x01", b"\x01" + b"\xff" * 60, b"\x80", b"?" * 5000])
    def test_records_are_overwritten_deleted_and_evicted(self, cache, damaged):
        cache.update((number, number) for number in range(10))
        for number in (1, 2, 3):
            cache._engine.transact(put, cache._space.tree_key(number), damaged)
        cache[1] = "sound"
        del cache[2]
        assert cache[1] == "sound"
        for number in range(40):
            cache["new", number] = number
        assert len(cache) <= 10
        assert not cache.check().damaged

    def test_what_a_damaged_record_of_a_dropped_namespace_left_behind_is_swept(self, cache, clock):
        namespace = cache.namespace("gone")
        namespace.set("key", 1, ttl=10)
        tree_key = namespace._space.tree_key("key")
        cache._engine.transact(put, tree_key, b"\x01" + b"\xff" * 60)
        cache.drop_namespace("gone")
        clock.advance(20)
        cache["a"] = 1
        assert cache["a"] == 1
        assert list(cache._engine.read().scan_keys(b"\x02", b"\x03")) == []
        assert cache.stats().expired == 0


class TestTelling:
    def test_what_is_evicted_is_told_once_with_its_namespace(self, cache, told):
        cache.namespace("n")["a"] = 1
        cache.update((number, number) for number in range(10))
        present = {(name, key) for name in ("", "n") for key in (cache.namespace(name) if name else cache)}
        gone = {("n", "a"), *(("", number) for number in range(10))} - present
        assert gone <= set(told)
        assert len(told) == cache.stats().evicted

    def test_what_gives_way_to_a_large_value_is_told_when_it_is_gone(self, tmp_path, caplog):
        with (
            caplog.at_level(logging.DEBUG, "objstore"),
            Cache(tmp_path / "a.store", max_size=40_000) as cache,
        ):
            cache.update((number, number) for number in range(1000))
            caplog.clear()
            before = cache.stats().evicted
            cache["large"] = bytes(30_000)
            told = [record.args[0] for record in caplog.records]
            assert len(told) == len(set(told)) == cache.stats().evicted - before > 2 * BATCH
            assert not any(key in cache for key in told)

    def test_what_a_transaction_evicts_is_told_at_its_end(self, cache, told):
        cache.update((number, number) for number in range(10))
        with cache.transaction() as txn:
            txn["a"] = 1
            txn.namespace("n")["a"] = 1
            assert told == []
        assert len(told) >= 2

    def test_what_an_aborted_transaction_would_have_evicted_is_not_told(self, cache, told):
        cache.update((number, number) for number in range(10))
        with pytest.raises(ZeroDivisionError), cache.transaction() as txn:
            txn["a"] = 1
            raise ZeroDivisionError
        assert told == []
        cache["b"] = 1
        assert len(told) == cache.stats().evicted

    def test_nobody_pays_for_it_who_does_not_want_to_know(self, cache):
        for number in range(100):
            cache[number] = number
        assert cache._usage.evicted == []


class TestNotes:
    def test_however_much_is_read_they_are_few(self, cache):
        cache.update((number, number) for number in range(10))
        for _ in range(3_000):
            cache.get_many(range(10))
        assert len(cache._usage.noted) <= 5_000
        assert cache.stats().hits == 30_000

    def test_however_often_transactions_overwrite_they_are_few(self, cache):
        for number in range(5_000):
            with cache.transaction() as txn:
                txn["a"] = number
        assert len(cache._usage.noted) < 5_000

    def test_what_was_read_is_not_lost_with_a_write_that_fails(self, cache):
        cache["a"] = 1
        assert [cache["a"] for _ in range(5)] == [1] * 5

        def fail(txn):
            raise ZeroDivisionError

        cache._usage._next_merge = 0.0
        with pytest.raises(ZeroDivisionError):
            cache._apply(fail)
        assert cache.stats().hits == 5
        cache["b"] = 1
        assert cache.stats().hits == 5

    def test_what_is_on_its_way_is_counted(self, cache):
        cache["a"] = 1
        assert cache["a"] == 1
        seen = []
        cache._usage._next_merge = 0.0
        cache._apply(lambda txn: seen.append(cache._usage.counted()))
        assert seen == [(1, 0)]
        assert cache._usage.counted() == (0, 0)
        assert cache.stats().hits == 1

    def test_of_too_many_records_the_newest_uses_are_remembered(self):
        usage = Usage()
        for number in range(70_000):
            usage.note(number.to_bytes(4, "big"))
            if not number % 1_000:
                usage.fold()
        usage.fold()
        assert len(usage._uses) == len(usage._last_use) <= 1 << 16
        assert usage.use_of((69_999).to_bytes(4, "big")) is not None
        assert usage.use_of((0).to_bytes(4, "big")) is None
        assert usage.counted() == (70_000, 0)


class TestOpening:
    def test_who_names_the_bounds_that_are_there_waits_for_nobody(self, path):
        with Cache(path, max_entries=10) as cache, cache.transaction() as txn:
            txn["a"] = 1
            with Cache(path, max_entries=10, policy="lru") as second:
                assert "a" not in second
            with Cache(path) as third:
                assert third.stats().max_entries == 10

    @pytest.mark.parametrize(
        "damaged",
        [b"", b"xx", b"\x09" + bytes(64), bytes(65), b"\x01" + bytes(56) + b"\xff" * 8],
        ids=["empty", "short", "policy 9", "policy 0", "misses"],
    )
    def test_a_damaged_ledger_is_found_and_the_store_closed_again(self, path, damaged):
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
            cache._engine.transact(put, LEDGER_KEY, damaged)
            assert cache.check().problems == ("the ledger of the cache is missing or damaged",)
            with pytest.raises(StoreCorrupt, match="begin anew"):
                cache["b"] = 1
            assert cache["a"] == 1
        with pytest.raises(StoreCorrupt, match="flag 'n'") as caught:
            Cache(path)
        with Cache(path, "n", max_entries=10) as cache:  # while the error is there, with what it refers to
            assert len(cache) == 0
        assert caught
