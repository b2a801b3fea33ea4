"""The books of a cache, counted anew."""

from __future__ import annotations

from objstore.eviction import Ledger, room_for
from objstore.space import prefix_in


def ledger_of(cache):
    """The ledger as it stands there."""
    return Ledger.read(cache._engine.read())


def recount(cache):
    """Records of all namespaces, and the bytes that they count, as they lie there."""
    sizes = [
        room_for(tree_key, len(stored))
        for tree_key, stored in cache._engine.read().scan(b"\x00")
        if prefix_in(tree_key) is not None
    ]
    return len(sizes), sum(sizes)


def assert_kept(cache):
    """The cache is within its bounds, and its ledger counts what is there."""
    ledger = ledger_of(cache)
    assert (ledger.entries, ledger.bytes) == recount(cache)
    assert not ledger.lacks(0, 0)
