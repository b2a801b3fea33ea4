"""Who is compared with `Cache` and `memoize`, and how each is set up.

What is not installed is left out.  The defaults of each are named where they matter, above all what an acknowledged
write survives: as in `contender`, only what is in one class of safety is compared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.contender import FULL, KILL
from objstore import Store
from objstore.cache import Cache

try:
    import diskcache
except ImportError:
    diskcache = None
try:
    import joblib
except ImportError:
    joblib = None
try:
    import cachier
except ImportError:
    cachier = None

PACKAGES = ["objstore", "lmdb", "diskcache", "joblib", "cachier", "watchdog", "numpy"]

UNBOUNDED = 1 << 40

ours: Any = Cache
ours_too: Any = Store


# Caches


class Contender(NamedTuple):
    """A cache in one way to have it: `get(key)`, `set(key, value)` and `delete(key)` of a handle, and `len`."""

    name: str
    safety: str
    how: str
    """What one writes to have it so, for the reader of a table."""
    open: Callable[[str, int], Any]
    """The cache in a directory that is bounded to so many bytes."""


def caches() -> list[Contender]:
    """All that are installed; the first is ours."""
    found = [
        Contender(
            "objstore",
            KILL,
            'as it is: policy "lru", durability "process"',
            lambda path, bound: ours(path, max_size=bound),
        ),
        Contender(
            "objstore, full",
            FULL,
            'durability "full"',
            lambda path, bound: ours(path, max_size=bound, durability="full"),
        ),
    ]
    if diskcache is None:
        return found
    return [
        *found,
        Contender(
            "diskcache",
            KILL,
            "as it is: policy least-recently-stored, 10 culled a set, sqlite_synchronous=1",
            lambda path, bound: diskcache.Cache(path, size_limit=bound, timeout=60),
        ),
        Contender(
            "diskcache, lru",
            KILL,
            'eviction_policy="least-recently-used", which writes when it reads',
            lambda path, bound: diskcache.Cache(
                path, size_limit=bound, timeout=60, eviction_policy="least-recently-used"
            ),
        ),
        Contender(
            "FanoutCache",
            KILL,
            "as it is: 8 shards, least-recently-stored; a write that waits longer than 0.01 s is given up",
            lambda path, bound: diskcache.FanoutCache(path, shards=8, size_limit=bound),
        ),
        Contender(
            "diskcache, full",
            FULL,
            "sqlite_synchronous=2",
            lambda path, bound: diskcache.Cache(path, size_limit=bound, timeout=60, sqlite_synchronous=2),
        ),
    ]


def by_name(name: str) -> Contender:
    return next(contender for contender in caches() if contender.name == name)


# Memoized functions


class Memo(NamedTuple):
    """A way to memoize: `decorate` gives the function with a memory in a directory of its own."""

    name: str
    how: str
    decorate: Callable[[Callable[..., Any]], Any]
    close: Callable[[], object]


def memos(directory: str) -> Iterator[Memo]:
    """All that are installed; the first is ours."""
    cache = ours(f"{directory}/cache", max_size=UNBOUNDED)
    yield Memo("Cache.memoize", 'durability "process"', cache.memoize, cache.close)
    store = ours_too(f"{directory}/store", durability="process")
    yield Memo("Store.memoize", 'durability "process"', store.memoize, store.close)
    yield Memo("lru_cache", "in memory, of one process", functools.lru_cache(maxsize=None), lambda: None)
    if diskcache is not None:
        peer = diskcache.Cache(f"{directory}/diskcache", size_limit=UNBOUNDED)
        yield Memo("diskcache", "`Cache.memoize()`, as it is but for the size limit", peer.memoize(), peer.close)
    if joblib is not None:
        memory = joblib.Memory(f"{directory}/joblib", verbose=0)
        yield Memo("joblib", "`Memory.cache`, as it is", memory.cache, lambda: None)
    if cachier is not None:
        decorate = cachier.cachier(backend="pickle", cache_dir=f"{directory}/cachier")
        yield Memo("cachier", 'backend "pickle", as it is', decorate, lambda: None)
