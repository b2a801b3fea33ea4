"""What evicts in a cache, looked at from within: races, damage, leftovers, and what it says of itself.

What a user sees is in `test_cache`, and other processes are in `test_cache_processes`.
"""

from __future__ import annotations

import threading

import pytest

from objstore import Cache
from objstore.eviction import _meter_key
from objstore.usage import Usage


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.fixture
def cache(location, clock):
    with Cache(location, max_entries=10, clock=clock) as cache:
        yield cache


def write(cache, change):
    """Apply `change(txn)` behind the back of the cache."""
    return cache._engine.transact(change)


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

    def test_it_is_found_where_all_that_was_remembered_has_gone(self, cache):
        cache.update((number, number) for number in range(10))
        cache._usage.worst[:] = [(0, number, _meter_key(b"@gone" + bytes((number,)))) for number in range(16)]
        cache["one more"] = 1
        assert len(cache) == 10
        assert cache.check().ok


class TestDamage:
    @pytest.mark.parametrize("damaged", [b"", b"\x01", b"\x01" + b"\xff" * 60, b"\x80", b"?" * 5000])
    def test_records_are_overwritten_deleted_and_evicted(self, cache, damaged):
        cache.update((number, number) for number in range(10))
        for number in (1, 2, 3):
            write(cache, lambda txn, key=cache._space.tree_key(number): txn.put(key, damaged))
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
        write(cache, lambda txn: txn.put(tree_key, b"\x01" + b"\xff" * 60))
        cache.drop_namespace("gone")
        clock.advance(20)
        cache["a"] = 1
        assert cache["a"] == 1
        assert list(cache._engine.read().scan_keys(b"\x02", b"\x03")) == []
        assert cache.stats().expired == 0
