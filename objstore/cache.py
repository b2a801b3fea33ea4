"""Cache: a store with a bound.

How the bound is kept is in `eviction`, and what is remembered of reads in `usage`.  This room is about the handle: what
an opener says of the bounds, noting what is read, and taking that along with what is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict, TypeVar, Unpack

from objstore import eviction
from objstore.codecs.base import Codec
from objstore.codecs.compression import Compression
from objstore.codecs.keyring import KeyOption
from objstore.engines import is_on_servers
from objstore.engines.base import DURABILITY_KEY, Disposable, Engine, Stored, Writer
from objstore.errors import StoreError, StoreNotFound, UnsupportedOperation
from objstore.eviction import POLICIES, Bounds, Ledger, MeteredSpace, NoRoom
from objstore.keeper import keeper, usage_of, write_down
from objstore.mapping import TTL
from objstore.space import Space
from objstore.space import expires_at as check_ttl
from objstore.store import Stats, Store
from objstore.transaction import Transaction, Unit
from objstore.usage import EXPIRED, UNREAD, Recent, Usage

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


_DEBUG = 10  # logging.DEBUG


class Options(TypedDict, total=False):
    """What a `Cache` takes as a `Store` does."""

    codec: Codec | str | None
    compression: Compression | str | None
    signing_key: KeyOption
    encryption_key: KeyOption
    durability: str | None
    map_size: int | None
    max_readers: int
    permissions: str
    immutable: bool
    network: bool
    readahead: bool
    clock: Callable[[], float]


@dataclass(frozen=True)
class CacheStats(Stats):
    """Figures of a cache: those of a store, where `entries` counts all namespaces and memoized results."""

    hits: int
    """Reads that found something, in all processes; those of others are counted with a delay of about a second."""
    misses: int
    """Reads that found nothing, or something expired."""
    evicted: int
    """Records that went to make room."""
    expired: int
    """Records that were swept away by writes, because they had expired."""
    bytes: int
    """What the records take, as `max_size` counts it; expired ones that are not yet swept are among them."""
    max_size: int | None
    """The bound of `bytes`, or None."""
    max_entries: int | None
    """The bound of `entries`, or None."""
    policy: str
    """"lru", "lfu" or "fifo"; on servers "servers", whose own policy it is."""


class Cache(Store[K, V]):
    """A `Store` with a bound: where it is full, a write makes room by evicting what is of least use.

    * `location`, `flag`: as for `Store`.
    * `max_size`: bytes that records may take on the disk, with their keys; the file is larger by its free pages and
      what lies half empty in others. A value that alone takes more is refused with StoreFull.
    * `max_entries`: how many records it may hold.
    * `ttl`: seconds, or a timedelta, after which what is stored without a ttl of its own expires; of this handle.
    * `policy`: what goes first: what was not used for longest ("lru"), what was used least ("lfu"), or what was stored
      first ("fifo"). Each is held by samples: what goes is among the first, not always the very first.

    The bounds hold for all namespaces and memoized results together, and for all processes: they are recorded, and
    the last who opens it and names one sets it. None is what is recorded; a new cache needs a bound or a ttl, and is
    "lru".

    Further options are those of `Store`, but a new cache has durability "process": it survives the death of any
    process, and begins empty if the machine went down with writes that were not synced.

    Reads never wait for writers, and write nothing themselves. Raises TypeError and ValueError for bounds that make no
    sense, and what `Store` raises.
    """

    _kind: ClassVar[str] = "Cache"
    _evictable = True

    def __init__(
        self,
        location: str | os.PathLike[str],
        flag: str = "c",
        *,
        max_size: int | None = None,
        max_entries: int | None = None,
        ttl: TTL = None,
        policy: str | None = None,
        **options: Unpack[Options],
    ) -> None:
        for name in options.keys() - Options.__annotations__.keys():
            raise TypeError(f"a Cache has no option {name!r}; its own are max_size, max_entries, ttl and policy")
        self._bounds = _checked(max_size, max_entries, policy)
        check_ttl(ttl, 0)
        self._default_ttl = ttl
        on_servers = is_on_servers(location)
        if on_servers and self._bounds != Bounds():
            hint = (
                "the servers have one bound for all that is there; set maxmemory and an evicting maxmemory-policy on "
                "them, and give the cache a ttl"
            )
            raise UnsupportedOperation("a bound of its own (max_size, max_entries, policy)", "redis", hint)
        is_bare = max_size is None and max_entries is None and ttl is None and not on_servers
        if not is_bare:  # else nobody could say what bounds the new one has
            self._disposable = Disposable(bounded=max_size is not None or max_entries is not None)
        if is_bare and flag == "n":
            raise TypeError(_UNBOUNDED)
        try:
            super().__init__(location, "w" if is_bare and flag == "c" else flag, **options)
        except StoreNotFound as exc:
            if not is_bare or flag != "c":
                raise
            raise TypeError(_UNBOUNDED) from exc
        if self._engine.was_emptied:
            _log().warning("the cache at %r begins empty: the machine went down with unsynced writes", self.location)
        self._arguments["ttl"] = ttl
        try:
            self._take_over(self._bounds)
        except BaseException:
            self.close()
            raise

    def _take_over(self, bounds: Bounds) -> None:
        """Record the bounds that are given, and evict what is too much for them."""
        if self._metered is None or self._read_only or not eviction.would_change(self._reader(), bounds):
            return  # and wait for nobody
        self._apply(eviction.rebound, bounds)
        while not self._apply(self._metered.make_room, 0, 0):
            pass

    def _initial(self) -> dict[bytes, bytes]:
        return {**eviction.initial(self._bounds), DURABILITY_KEY: b"process"}

    def _kind_of_space(self, engine: Engine) -> type[Space]:
        kind = super()._kind_of_space(engine)
        return MeteredSpace if kind is Space else kind

    def _attach(self, engine: Engine, space: Space, read_only: bool) -> None:
        # None on servers: they evict by themselves, and of what is read it is only counted how much there was.
        self._metered = space if isinstance(space, MeteredSpace) else None
        self._usage = usage_of(engine)
        self._usage.clock = space.clock
        super()._attach(engine, space, read_only)
        if self._metered is None:
            self._usage.remembers = False
        else:
            self._usage.may_write = self._usage.may_write or not self._read_only
            self._metered.usage = self._usage
        self._keeps_no_books = False

    def _of_handle(self, other: Store[Any, Any]) -> None:
        super()._of_handle(other)
        assert isinstance(other, Cache)
        self._bounds, self._default_ttl = other._bounds, other._default_ttl

    def _apply_by(self, transact: Callable[..., Any]) -> None:
        self._transact = transact

    def namespace(self, name: str, *, codec: Codec | str | None = None) -> Cache[Any, Any]:
        """A mapping of its own under the same bound, with its own keys; as in a `Store`."""
        namespace = super().namespace(name, codec=codec)
        assert isinstance(namespace, Cache)
        return namespace

    # What is read

    def _find_by(self, get: Callable[[bytes], Stored | None]) -> None:
        super()._find_by(_noting(get, self._usage))

    def _unusual(self, key: K, tree_key: bytes, found: Stored | None) -> Any:
        try:
            return super()._unusual(key, tree_key, found)
        except KeyError:
            if found is not None:
                self._usage.note(EXPIRED)
            raise

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Keys and values of those that are there, in one consistent state; each counts as read."""
        asked = list(keys)
        found = super().get_many(asked)
        for key in asked:
            _note(self._usage, self._space.tree_key(key) if key in found else None)
        return found

    def view(self, key: K, *, verify: bool = False) -> V:
        """As in a `Store`; it counts as read."""
        try:
            value = super().view(key, verify=verify)
        except KeyError:
            _note(self._usage, None)
            raise
        _note(self._usage, self._space.tree_key(key))
        return value

    # What is written

    def _apply(self, function: Callable[..., D], *arguments: Any) -> D:
        if self._metered is None:
            return self._transact(function, *arguments)  # type: ignore[no-any-return]
        while True:
            try:
                return self._take_along(function, *arguments)
            except NoRoom as exc:
                while not self._telling(self._metered.make_room, exc.size, exc.entries):
                    pass

    def _take_along(self, function: Callable[..., D], *arguments: Any) -> D:
        """Apply the change, and with it, now and then, what was read."""
        if not self._usage.is_due():
            return self._telling(function, *arguments)
        with self._usage.taking() as recent:
            result: D = self._telling(_merge_and, recent, function, *arguments)
            return result

    def _telling(self, function: Callable[..., D], *arguments: Any) -> D:
        """Apply the change, and log what that evicted when it is committed."""
        if not _is_told():
            return self._transact(function, *arguments)  # type: ignore[no-any-return]
        evicted: list[tuple[str, Any]] = []
        result: D = self._transact(_listing, self._usage, evicted, function, *arguments)
        _tell(self.location, evicted)
        return result

    def transaction(self) -> Transaction[K, V]:
        """A unit of work, applied as a whole or not at all: `with cache.transaction() as txn:`.

        It evicts as much as it must for what it writes.
        """
        self._require("transaction", "use compare_and_set, modify or edit on single keys")
        assert self._metered is not None
        unit = _TellingUnit(lambda: self._write(), self._engine)
        unit.usage = self._usage
        return Transaction(self._metered.patient(), unit, self._default_ttl)

    def close(self) -> None:
        """Close this handle and those of its namespaces; again does no harm.  What was read is written down before."""
        if not (self.closed or self._read_only or self._metered is None):
            with suppress(StoreError):  # it is about statistics
                write_down(self._engine, self._usage)
        super().close()

    @property
    def _most_entries(self) -> int | None:
        return None if self._metered is None else Ledger.read(self._reader()).bounds.max_entries

    def stats(self) -> CacheStats:
        """Figures of this cache; on servers, hits and misses are those of this process, and what they evict and how
        much they hold is told by them alone.
        """
        hits, misses = self._usage.counted()
        if self._metered is None:
            return CacheStats(
                **vars(super().stats()),
                hits=hits,
                misses=misses,
                evicted=0,
                expired=0,
                bytes=0,
                max_size=None,
                max_entries=None,
                policy="servers",
            )
        ledger = Ledger.read(self._reader())
        counted = {
            "entries": ledger.entries,
            "hits": max(ledger.hits + hits, 0),
            "misses": ledger.misses + misses,
            "evicted": ledger.evicted,
            "expired": ledger.expired,
            "bytes": ledger.bytes,
            **ledger.bounds._asdict(),
        }
        return CacheStats(**{**vars(super().stats()), **counted})


_UNBOUNDED = (
    "a new Cache needs a bound, max_size (bytes) or max_entries, or a ttl; what shall keep everything is a Store"
)


def _checked(max_size: int | None, max_entries: int | None, policy: str | None) -> Bounds:
    for name, bound in (("max_size", max_size), ("max_entries", max_entries)):
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int)):
            what = "bytes" if name == "max_size" else "records"
            raise TypeError(f"{name} is a number of {what}, not {type(bound).__name__}")
        if bound is not None and not 0 < bound < 1 << 63:
            raise ValueError(f"{name} is a positive number, not {bound}; leave it out for none")
    if policy is not None and policy not in POLICIES:
        raise ValueError(f"policy is one of {', '.join(map(repr, POLICIES))}, not {policy!r}")
    return Bounds(max_size, max_entries, policy)


def _noting(get: Callable[[bytes], Stored | None], usage: Usage) -> Callable[[bytes], Stored | None]:
    """`get`, with a note of what was found: the hot path of a cache."""
    note, noted = usage.note, usage.noted

    def find(tree_key: bytes) -> Stored | None:
        found = get(tree_key)
        note(None if found is None else tree_key)
        if len(noted) > usage.patience:
            keeper.wake(usage)
        return found

    return find


def _note(usage: Usage, what: bytes | None) -> None:
    """The same where it is not so hot."""
    usage.note(what)
    if len(usage.noted) > usage.patience:
        keeper.wake(usage)


def _merge_and(txn: Writer, recent: Recent, function: Callable[..., D], *arguments: Any) -> D:
    eviction.merge(txn, recent)
    return function(txn, *arguments)


def _listing(
    txn: Writer, usage: Usage, evicted: list[tuple[str, Any]], function: Callable[..., D], *arguments: Any
) -> D:
    evicted.clear()  # what it listed when it was run before was not committed
    usage.evicted = evicted
    try:
        return function(txn, *arguments)
    finally:
        usage.evicted = UNREAD


def _is_told() -> bool:
    """Whether somebody wants to read of what is evicted; not to be asked in a transaction, as nothing of logging is."""
    # Nobody does who has not loaded it, or another thread is about to.
    get_logger = getattr(sys.modules.get("logging"), "getLogger", None)
    return get_logger is not None and get_logger("objstore").isEnabledFor(_DEBUG)


def _log() -> Any:
    from logging import getLogger  # here: not cheap to load, and seldom needed

    return getLogger("objstore")


def _tell(location: str, evicted: Iterable[tuple[str, Any]]) -> None:
    """Log what was evicted; not in a transaction: that runs code of others."""
    for namespace, key in evicted:
        _log().debug("evicted %r of namespace %r from the cache at %r", key, namespace, location)


class _TellingUnit(Unit):
    """A unit of work that logs what was evicted for it, when it is committed."""

    usage: Usage

    def begin(self) -> None:
        is_told = _is_told()
        super().begin()
        self.usage.evicted = [] if is_told else UNREAD

    def end(self, commit: bool) -> None:
        self._check_owner()
        evicted, self.usage.evicted = self.usage.evicted, UNREAD
        super().end(commit)
        if commit:
            _tell(self.engine.location, evicted)
