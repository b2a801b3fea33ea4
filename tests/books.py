"""The books of a cache, counted anew."""

from __future__ import annotations

from objstore.eviction import Ledger, room_for
from objstore.space import prefix_in


def ledger_of(cache):
    """The ledger as it stands there."""
    return Ledger.read(cache._engine.read())


def recount(cache):
    """Records of all namespaces, and the bytes that they count, as they lie there."""
    return _recount(cache._engine.read())


def _recount(reader):
    sizes = [
        room_for(tree_key, len(stored)) for tree_key, stored in reader.scan(b"\x00") if prefix_in(tree_key) is not None
    ]
    return len(sizes), sum(sizes)


def assert_kept(cache):
    """In the last state, the cache is within its bounds, and its ledger counts what is there."""
    reader = cache._engine.read()
    ledger = Ledger.read(reader)
    assert (ledger.entries, ledger.bytes) == _recount(reader)
    assert not ledger.lacks(0, 0)
