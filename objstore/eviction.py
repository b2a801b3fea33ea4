"""Eviction: how a cache keeps within its bounds.

A cache has two books more than a store.  The *ledger* is one record of its bounds and of what is counted, and the
*meter* is one small record for each record, of how that is used:

    0x00 c                                 the ledger, see `Ledger`
    0x05 hash of the tree key (4), tree key     stored at (8), uses (4), last used at (8)

Times are microseconds since 1970, and the numbers of the meter are big-endian: so the bytes of one are in the order in
which records go.  The meter stands in the order of hashes, so a few neighbours at a random place are
a fair sample of everything.  Who needs room takes such a sample, remembers the worst of it beside the worst of those
before, and evicts the worst of all: what was not used for longest ("lru"), what was used least ("lfu"), or what was
stored first ("fifo").  So there is no order to keep, and a read need write nothing.

What was read is remembered in memory, in this process (`Usage`), and gets into the meter with what this process writes
anyway, a bounded number of entries a second.  This process sees its own reads at once, when it evicts; the others
see them then.

Room is made before it is taken, in the same transaction: no committed state is above a bound.  Where a put would have
to evict more than a batch, it gives way first (`NoRoom`), and its caller evicts a batch at a time, so that nobody waits
long.  The numbers are stored on disk: DO NOT CHANGE THEM.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

from objstore import space
from objstore.codecs.base import Codec
from objstore.engines.base import Reader, Stored, Writer
from objstore.errors import StoreCorrupt, StoreFull
from objstore.keys import show
from objstore.record import Packed, key_digest
from objstore.space import CATALOG, EXPIRES_USED, INITIAL_METERED, METER, Labelled, Space
from objstore.usage import UNREAD, Recent, Usage

LEDGER_KEY = b"\x00c"

POLICIES = {"lru": 1, "lfu": 2, "fifo": 3}
_FIFO = POLICIES["fifo"]
_POLICY_NAMES = {number: name for name, number in POLICIES.items()}

BATCH = 64
"""How many records one transaction evicts for one put, at most."""

_SWEPT = 8  # expired records that one put removes, at most
_SAMPLE = 8
_REMEMBERED = 16  # the worst of former samples

# How a tree of LMDB lies in its file, usually; what a bound counts is the same on every engine.
_PAGE_BYTES = 4096
_LARGEST_NODE = 2000
_NODE_BYTES = 11

_ledger = struct.Struct("<B8Q")
_use = struct.Struct(">QIQ")
# What of it counts under a policy: what is lowest goes first.
_RANKS = {1: slice(12, 20), 2: slice(8, 20), 3: slice(0, 8)}
_MOST_USES = (1 << 32) - 1
_MOST = 1 << 63


class NoRoom(Exception):
    """To put something, more than a batch has to be evicted first: `size` bytes and `entries` are to be free."""

    def __init__(self, size: int, entries: int) -> None:
        super().__init__(size, entries)
        self.size = size
        self.entries = entries


class Bounds(NamedTuple):
    """How much a cache may hold, and what goes when it is full; None is no bound, or as it is."""

    max_size: int | None = None
    max_entries: int | None = None
    policy: str | None = None


class Ledger:
    """The bounds of a cache, and what is counted, of all its namespaces.  0 is no bound."""

    __slots__ = ("bytes", "entries", "evicted", "expired", "hits", "max_entries", "max_size", "misses", "policy")

    def __init__(
        self,
        policy: int = POLICIES["lru"],
        max_size: int = 0,
        max_entries: int = 0,
        size: int = 0,
        entries: int = 0,
        evicted: int = 0,
        expired: int = 0,
        hits: int = 0,
        misses: int = 0,
    ) -> None:
        self.policy = policy
        self.max_size = max_size
        self.max_entries = max_entries
        self.bytes = size
        self.entries = entries
        self.evicted = evicted
        self.expired = expired
        self.hits = hits
        self.misses = misses

    @classmethod
    def read(cls, txn: Reader) -> Ledger:
        """The ledger as it stands there.  Raises StoreCorrupt."""
        return cls.unpack(txn.get(LEDGER_KEY) or b"")

    @classmethod
    def unpack(cls, stored: Stored) -> Ledger:
        """The ledger in these bytes.  Raises StoreCorrupt."""
        try:
            policy, *numbers = _ledger.unpack(stored)
            if max(numbers) > _MOST:  # and more would not fit when it is written again
                raise struct.error("a number that is never reached")
        except struct.error as exc:
            raise StoreCorrupt(
                "the ledger of the cache is missing or damaged; begin anew with flag 'n', or salvage it"
            ) from exc
        ledger = cls(policy, *numbers)
        if ledger.policy not in _POLICY_NAMES:
            raise StoreCorrupt("the policy of the cache is none that there is; salvage it, or begin anew with flag 'n'")
        return ledger

    def pack(self) -> bytes:
        return _ledger.pack(
            self.policy,
            self.max_size,
            self.max_entries,
            self.bytes,
            self.entries,
            self.evicted,
            self.expired,
            self.hits,
            self.misses,
        )

    @property
    def bounds(self) -> Bounds:
        """Its bounds, as one gives them."""
        return Bounds(self.max_size or None, self.max_entries or None, _POLICY_NAMES[self.policy])

    def rebound(self, bounds: Bounds) -> bool:
        """Take over what is given of these bounds; whether anything is another than before."""
        before = self.bounds
        self.max_size = bounds.max_size or self.max_size
        self.max_entries = bounds.max_entries or self.max_entries
        self.policy = POLICIES[bounds.policy] if bounds.policy else self.policy
        return self.bounds != before

    def count(self, size: int, entries: int) -> bool:
        """So much came, or went; whether that is anything."""
        self.bytes = max(self.bytes + size, 0)
        self.entries = max(self.entries + entries, 0)
        return bool(size or entries)

    def lacks(self, size: int, entries: int) -> bool:
        """Whether so much more is too much."""
        return bool(
            (self.max_size and self.bytes + size > self.max_size)
            or (self.max_entries and self.entries + entries > self.max_entries)
        )


def initial(bounds: Bounds) -> dict[bytes, bytes]:
    """What a new cache begins with."""
    ledger = Ledger()
    ledger.rebound(bounds)
    return {**INITIAL_METERED, LEDGER_KEY: ledger.pack()}


class MeteredSpace(Space):
    """A namespace of a cache: what it writes keeps the bounds, too.

    `usage` is that of its engine.  `is_patient` is one whose transaction is a user's: it evicts as much as it must.
    """

    is_patient = False

    def __init__(self, name: str, codec: Codec, *arguments: Any, usage: Usage | None = None, **options: Any) -> None:
        super().__init__(name, codec, *arguments, **options)
        self.usage = usage or Usage()
        self._relatives: dict[bytes, Self] = {}

    def relative(self, name: str, txn: Reader | None = None, codec: Codec | str | None = None) -> Self:
        other = super().relative(name, txn, codec)
        other.usage, other.is_patient = self.usage, self.is_patient
        other._relatives = self._relatives
        return other

    def patient(self) -> Self:
        """This space, for a transaction of a user's."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, is_patient=True)
        return other

    # Writing

    def put(
        self, txn: Writer, tree_key: bytes, packed: Packed, expires_at: int | None = None, tags: Sequence[str] = ()
    ) -> None:
        self._check_codec(txn)
        flags, _ = self._state(txn)
        if flags & EXPIRES_USED:
            self._sweep_some(txn)
        ledger = Ledger.read(txn)
        size = room_for(tree_key, len(packed) if isinstance(packed, bytes) else packed.size)
        self._check_bound(ledger, tree_key, packed, size)
        old = txn.head(tree_key)
        grown = size - (0 if old is None else room_for(tree_key, old[1]))
        if ledger.lacks(grown, old is None) and not self._evict(txn, ledger, grown, old is None, keep=tree_key):
            raise NoRoom(grown, old is None)
        dropped = self._unindex(txn, tree_key, old)
        txn.put(tree_key, packed)
        added = self._index(txn, tree_key, expires_at, tags)
        if old is None or ledger.policy == _FIFO:
            added += self._meter(txn, tree_key)
        else:
            self.usage.note_write(tree_key)
        used = space.used_by(expires_at, tags)
        if added != dropped or old is None or used & ~flags:
            self._keep_books(txn, own=old is None, index=added - dropped, flags=used)
        if ledger.count(grown, old is None):
            txn.put(LEDGER_KEY, ledger.pack())

    def put_many(
        self,
        txn: Writer,
        items: Sequence[tuple[bytes, bytes]],
        expires_at: int | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self.put_each(txn, [(tree_key, packed, expires_at, tags) for tree_key, packed in items])

    def put_each(self, txn: Writer, items: Sequence[Labelled]) -> None:
        ledger = Ledger.read(txn)
        sizes = [room_for(tree_key, len(packed)) for tree_key, packed, _, _ in items]
        for (tree_key, packed, _, _), size in zip(items, sizes, strict=True):
            self._check_bound(ledger, tree_key, packed, size)
        size, entries = sum(sizes), len(items)
        if ledger.lacks(size, entries):
            for tree_key, *_ in items:
                old = txn.head(tree_key)
                if old is not None:  # it gives way to what comes
                    size -= room_for(tree_key, old[1])
                    entries -= 1
            # Room for as much of it as can stay: then each evicts little.
            size = min(size, ledger.max_size or size)
            entries = min(entries, ledger.max_entries or entries)
            if ledger.lacks(size, entries) and not self.make_room(txn, size, entries):
                raise NoRoom(size, entries)
        patient = self.patient()
        for item in items:
            patient.put(txn, *item)

    def delete(self, txn: Writer, tree_key: bytes) -> bool:
        ledger = Ledger.read(txn)
        there = self._remove(txn, ledger, tree_key)
        if there:
            txn.put(LEDGER_KEY, ledger.pack())
        return there

    def sweep(self, txn: Writer, index_key: bytes) -> bool:
        there = super().sweep(txn, index_key)
        if there:
            ledger = Ledger.read(txn)
            ledger.expired += 1
            txn.put(LEDGER_KEY, ledger.pack())
        return there

    def make_room(self, txn: Writer, size: int, entries: int) -> bool:
        """Evict a batch, or less if so much is free then; whether it is."""
        ledger = Ledger.read(txn)
        is_free = self._evict(txn, ledger, size, entries)
        txn.put(LEDGER_KEY, ledger.pack())
        return is_free

    # Room

    def _check_bound(self, ledger: Ledger, tree_key: bytes, packed: Packed, size: int) -> None:
        if ledger.max_size and size > ledger.max_size:
            key = self.key(tree_key, bytes(packed))
            raise StoreFull(
                f"the value for key {show(key)} takes {size} bytes, and this cache holds {ledger.max_size}; nothing "
                f"was stored: give it a larger max_size, or store the value elsewhere"
            )

    def _evict(self, txn: Writer, ledger: Ledger, size: int, entries: int, keep: bytes = b"") -> bool:
        """Evict until so much is free, or, unless this is patient, a batch; whether it is free.  `keep` stays."""
        evicted = 0
        while ledger.lacks(size, entries):
            if evicted >= BATCH and not self.is_patient:
                return False
            victim = self._victim(txn, ledger.policy, keep)
            if victim is None:  # what the ledger counts is not there, but for what stays
                stays = txn.head(keep) if keep else None
                ledger.entries = 0 if stays is None else 1
                ledger.bytes = 0 if stays is None else room_for(keep, stays[1])
                return True
            owner = self._owner(txn, victim)
            if self.usage.evicted is not UNREAD:
                stored = txn.get(victim)
                self.usage.evicted.append((owner.name, None if stored is None else owner.key(victim, stored)))
            ledger.evicted += owner._remove(txn, ledger, victim)
            evicted += 1
        return True

    def _remove(self, txn: Writer, ledger: Ledger, tree_key: bytes) -> bool:
        """Remove a record of this namespace, with its entry in the meter; whether there was one."""
        old = txn.head(tree_key)
        dropped = self._unindex(txn, tree_key, old) + txn.delete(_meter_key(tree_key))
        if old is None:
            self._keep_books(txn, own=0, index=-dropped)
            return False
        txn.delete(tree_key)
        self._keep_books(txn, own=-1, index=-dropped)
        ledger.count(-room_for(tree_key, old[1]), -1)
        return True

    def _sweep_some(self, txn: Writer) -> None:
        """Remove a little of what has expired, in any namespace."""
        for index_key, _ in txn.get_first(space.EXPIRY, space.expired_until(self.now()), _SWEPT):
            tree_key = space.expiring(index_key)
            # What a damaged record left behind may be of a namespace that is no more.
            owner = self if txn.head(tree_key) is None else self._owner(txn, tree_key)
            owner.sweep(txn, index_key)

    def _owner(self, txn: Reader, tree_key: bytes) -> Self:
        """The space of the namespace to which a record belongs."""
        prefix = space.prefix_in(tree_key) or b""
        if prefix == self.prefix:
            return self
        if prefix not in self._relatives:
            name = space.name_in(txn.get(CATALOG + prefix[1:])) if prefix else ""
            self._relatives[prefix] = self.relative(name)
        return self._relatives[prefix]

    # The meter

    def _meter(self, txn: Writer, tree_key: bytes) -> int:
        """Note in the meter that a record is stored now; how many entries more that makes."""
        key = _meter_key(tree_key)
        old = txn.get(key)
        if self.usage.noted:
            self.usage.fold()  # what was read before is older
        uses, _ = self.usage.use_of(tree_key) or (0, 0)
        now = self.usage.tick()
        if old is not None:
            uses += _read_use(old)[1]
        txn.put(key, _use.pack(now, min(uses + 1, _MOST_USES), now))
        return old is None

    def _victim(self, txn: Writer, policy: int, keep: bytes) -> bytes | None:
        """The tree key of what goes next, or None where there is nothing."""
        rank, worst = _RANKS[policy], self.usage.worst
        self.usage.remembers = policy != _FIFO
        if self.usage.noted:
            self.usage.fold()
        fresh = _sample(txn)
        for key, stored in fresh:
            worst[key] = stored[rank]
        if len(worst) > 3 * _REMEMBERED:
            for key in sorted(worst, key=worst.__getitem__)[_REMEMBERED:]:
                del worst[key]
        while worst:
            key = min(worst, key=worst.__getitem__)
            believed, tree_key = worst.pop(key), metered(key)
            found = txn.get(key)
            if found is None or tree_key == keep:
                continue
            used = self.usage.use_of(tree_key)
            if used is not None:
                found = _used(found, *used)
                txn.put(key, found)
            if found[rank] == believed:
                return tree_key
            worst[key] = found[rank]  # it was used since
        # All that was remembered has gone.
        return next((metered(key) for key, _ in fresh if metered(key) != keep), None)


def would_change(txn: Reader, bounds: Bounds) -> bool:
    """Whether these bounds are other ones than are recorded, or the cache holds too much."""
    ledger = Ledger.read(txn)
    return ledger.rebound(bounds) or ledger.lacks(0, 0)


def rebound(txn: Writer, bounds: Bounds) -> None:
    """Take over these bounds."""
    ledger = Ledger.read(txn)
    if ledger.rebound(bounds):
        txn.put(LEDGER_KEY, ledger.pack())


def merge(txn: Writer, recent: Recent) -> None:
    """Write down what was read."""
    ledger = Ledger.read(txn)
    ledger.hits = max(ledger.hits + recent.hits, 0)
    ledger.misses += recent.misses
    txn.put(LEDGER_KEY, ledger.pack())
    for tree_key, (uses, last) in recent.uses.items():
        key = _meter_key(tree_key)
        stored = txn.get(key)
        if stored is not None:  # else it is gone
            txn.put(key, _used(stored, uses, last))


def room_for(tree_key: bytes, size: int) -> int:
    """How many bytes a record of this size counts: its key, itself and its entry in the meter, as they lie in a tree.

    What is large has pages of its own there.
    """
    node = size if size <= _LARGEST_NODE else -(-size // _PAGE_BYTES) * _PAGE_BYTES
    return node + 2 * (len(tree_key) + _NODE_BYTES) + _METER_HEAD + _use.size


_METER_HEAD = len(METER) + 4


def _meter_key(tree_key: bytes) -> bytes:
    return METER + (key_digest(tree_key) & 0xFFFFFFFF).to_bytes(4, "big") + tree_key


def metered(key: bytes) -> bytes:
    """The tree key in a key of the meter."""
    return key[_METER_HEAD:]


def _sample(txn: Writer) -> Iterable[tuple[bytes, bytes]]:
    """A few neighbours in the meter, at a random place."""
    place = METER + random.getrandbits(32).to_bytes(4, "big")
    found = txn.get_first(place, space.USER, _SAMPLE)
    if len(found) < _SAMPLE:  # around the end
        found = [*found, *txn.get_first(METER, place, _SAMPLE - len(found))]
    return found


def _read_use(stored: bytes) -> tuple[int, int, int]:
    """When a record was stored, how often it was used, and when last."""
    try:
        return _use.unpack(stored)
    except struct.error:  # damaged: it goes first
        return 0, 0, 0


def _used(stored: bytes, uses: int, last: int) -> bytes:
    stored_at, before, used_at = _read_use(stored)
    return _use.pack(stored_at, min(before + uses, _MOST_USES), max(used_at, last))
