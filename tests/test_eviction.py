"""What evicts in a cache, looked at from within: races, damage, leftovers, and what it says of itself.

What a user sees is in `test_cache`, and other processes are in `test_cache_processes`.
"""

from __future__ import annotations

import threading

import pytest

from objstore import Cache
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
