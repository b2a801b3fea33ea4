"""What is to be copied: an origin, and its records, each verified and opened before anything is done with it.

An *origin* is a store, or a dump of one (see `exchange.dumps`): what has an identity, and can be scanned.  Little is
asked of it: where there are snapshots, a state is one; where there is no order, nobody can go on in the middle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from objstore import identity, record, space
from objstore.audit import Damage, key_of, lost_name
from objstore.codecs.keyring import Keys
from objstore.codecs.sealing import sealing_of
from objstore.engines.base import Reader, Stored
from objstore.eviction import LEDGER_KEY, Bounds, Ledger
from objstore.identity import Identity
from objstore.record import Damaged, Forged, Header, Packed, Seal
from objstore.store import Store

T = TypeVar("T")

_BATCH_BYTES = 8 << 20
_BATCH_RECORDS = 2000


class State(Protocol):
    """What is to be copied, to be read: a part of what an engine's `Reader` is."""

    def get(self, key: bytes, /) -> Stored | None:
        """What the library keeps under a key of its own."""

    def scan(self, start: bytes, stop: bytes | None = None, /) -> Iterable[tuple[bytes, Stored | None]]:
        """Tree keys and records from `start` (included) to `stop` (not); None is a record that cannot be read."""


class Origin(Protocol):
    """Where records come from."""

    identity: Identity
    """What the store is, or was."""
    name: str
    """What tells this origin from all others."""
    location: str
    keys: Keys
    """Without those it was sealed with, its seals are not verified."""
    is_ordered: bool
    """Whether a scan is in the order of the tree keys, and may begin anywhere."""
    keeps_seals: bool
    """Whether a store of the same identity gets the records as they are sealed."""

    def state(self) -> State:
        """What is to be copied: one state, where that can be had."""

    def total(self, state: Any) -> int:
        """How many records there are in a state of it."""

    def surplus(self, state: Any, tree_keys: Iterator[bytes], is_ordered: bool) -> Iterator[bytes]:
        """Those of the tree keys of a copy that are not in this state; `is_ordered` is whether they come in order."""

    def now(self) -> int:
        """Microseconds since 1970."""

    def bounds(self) -> Bounds:
        """The bounds of a cache, where such are kept."""


class StoreOrigin:
    """A store, open."""

    keeps_seals = False  # the other one shall need the newest key alone

    def __init__(self, store: Store[Any, Any]) -> None:
        self.store = store
        self.identity = store._identity
        self.name = store._identity.id
        self.location = store.location
        self.keys = store._keys
        self.is_ordered = store.supports("ordered")

    def state(self) -> Reader:
        engine = self.store._engine
        return engine.snapshot() if self.store.supports("snapshot") else engine.read()

    def total(self, state: Reader) -> int:
        return self.store._space.total(state)

    def surplus(self, state: Reader, tree_keys: Iterator[bytes], is_ordered: bool) -> Iterator[bytes]:
        if self.is_ordered and is_ordered:
            return _surplus(tree_keys, tree_keys_in(state))
        return (tree_key for tree_key in tree_keys if not state.contains(tree_key))

    def now(self) -> int:
        return self.store._space.now()

    def bounds(self) -> Bounds:
        return bounds_of(self.store)


def bounds_of(store: Store[Any, Any]) -> Bounds:
    """The bounds of a cache, where its engine keeps such."""
    return bounds_in(store._engine.get(LEDGER_KEY))


def bounds_in(ledger: Stored | None) -> Bounds:
    """The bounds in the ledger of a cache; none where there is none."""
    return Bounds() if ledger is None else Ledger.unpack(ledger).bounds


class Namespace(NamedTuple):
    """A namespace of an origin."""

    name: str
    codec: str | None
    """Its own codec, where it has another one than the store."""
    prefix: bytes
    seal: Seal | None


class Opened(NamedTuple):
    """A record that is right, and opened."""

    tree_key: bytes
    stored: Stored
    header: Header
    payload: memoryview
    frames: Sequence[memoryview]
    namespace: Namespace

    def sealed_by(self, seal: Seal | None) -> Packed:
        """It, as it is where that is the seal."""
        parts = self.header, self.payload, self.frames
        return record.repack(self.tree_key, *parts, self.header.expires_at, seal)

    def says(self, found: Stored, seal: Seal | None) -> bool:
        """Whether a record with that seal says the same."""
        try:
            header, payload, frames = record.unpack(self.tree_key, found, seal=seal)
        except (Damaged, Forged):
            return False
        if (header.expires_at, header.tags) != (self.header.expires_at, self.header.tags):
            return False
        return said(header, payload, frames) == said(self.header, self.payload, self.frames)


def said(header: Header, payload: memoryview, frames: Sequence[memoryview]) -> tuple[Any, ...]:
    """What a record says of its key and value, however it is sealed, and whenever it expires."""
    return header.codec, header.long_key, header.compressed, bytes(payload), list(map(bytes, frames))


class Walk:
    """Goes through an origin, and keeps what is wrong with it."""

    def __init__(self, origin: Origin) -> None:
        self.lost: dict[bytes, Damage] = {}
        """The records that are damaged or refused, by tree key."""
        self.met = 0
        """Records of all batches so far, whatever became of them."""
        self._origin = origin
        self._is_sealed = origin.identity.sealing is not None
        has_key = identity.ring_of(origin.identity, origin.keys) is not None
        self._sealing = sealing_of(origin.identity.sealing, origin.keys, origin.identity.id) if has_key else None
        self._namespaces: dict[bytes, Namespace] = {}

    def namespaces(self, state: State) -> Iterator[Namespace]:
        """All that are known, but for those whose name is lost: their records are left behind, and tell."""
        for tree_key, _ in state.scan(space.CATALOG, space.EXPIRY):
            with suppress(Damaged):
                yield self._namespace(state, space.ITEMS + tree_key[1:])

    def batches(self, state: State, begin: bytes) -> Iterator[tuple[bytes, list[Opened]]]:
        """The records from a tree key on, in batches that take a bounded memory: the last tree key, and what is right.

        What has expired is left out.
        """
        now = self._origin.now()
        for batch in batches(_records(state, begin), _size):
            self.met += len(batch)
            yield batch[-1][0], [item for each in batch if (item := self._open(state, *each, now)) is not None]

    def leave(self, tree_key: bytes, stored: Stored | None, why: str) -> None:
        """Remember a record that must stay behind."""
        prefix = space.prefix_in(tree_key) or b""
        name = self._namespaces[prefix].name if prefix in self._namespaces else lost_name(prefix)
        self.lost[tree_key] = Damage(name, key_of(tree_key[len(prefix) :], stored), why)

    def _open(self, state: State, tree_key: bytes, stored: Stored | None, now: int) -> Opened | None:
        """A record, or None where it has expired, or must stay behind."""
        prefix = space.prefix_in(tree_key) or b""
        try:
            namespace = self._namespace(state, prefix)
            if stored is None:
                raise Damaged("its bytes are not what was written")
            header, payload, frames = space.unpack(tree_key, prefix, stored, namespace.seal)
            if bool(header.seal) != self._is_sealed:
                raise Forged(
                    "it is sealed, and the store is not" if header.seal else "it is not sealed, and the store is"
                )
        except (Damaged, Forged) as exc:
            self.leave(tree_key, stored, str(exc))
            return None
        if header.expires_at is not None and header.expires_at <= now:
            return None
        return Opened(tree_key, stored, header, payload, frames, namespace)

    def _namespace(self, state: State, prefix: bytes) -> Namespace:
        """The namespace that has a prefix.  Raises Damaged where nobody knows its name."""
        if prefix not in self._namespaces:
            name, codec = _catalogued(state, prefix) if prefix else ("", None)
            seal = self._sealing and self._sealing(name)
            self._namespaces[prefix] = Namespace(name, codec, prefix, seal)
        return self._namespaces[prefix]


# Going through states


NOTE_PREFIX = space.prefix_of(space.belonging_name("", "copying"))
"""With what the tree key begins of what says how far a copy is."""


def tree_keys_in(reader: Reader) -> Iterator[bytes]:
    """The tree keys of all records, but for what says how far a copy is."""
    for tree_key in reader.scan_keys(space.ITEMS):
        if space.prefix_in(tree_key) not in (None, NOTE_PREFIX):
            yield bytes(tree_key)


def _surplus(theirs: Iterable[bytes], ours: Iterator[bytes]) -> Iterator[bytes]:
    """What is among these keys and not among ours, where both are in order."""
    our: bytes | None = b""
    for their in theirs:
        while our is not None and our < their:
            our = next(ours, None)
        if our != their:
            yield their


def _catalogued(state: State, prefix: bytes) -> tuple[str, str | None]:
    """Name and own codec of the namespace that has a prefix.  Raises Damaged."""
    try:
        _, name, codec = space.read_namespace(bytes(state.get(space.CATALOG + prefix[1:]) or b""))
    except (struct.error, ValueError):
        name, codec = "", None
    if space.prefix_of(name) != prefix:
        raise Damaged("the name of its namespace is lost")
    return name, codec


def _records(state: State, begin: bytes) -> Iterator[tuple[bytes, Stored | None]]:
    """The records of all namespaces, from a tree key on."""
    for tree_key, stored in state.scan(begin):
        if space.prefix_in(tree_key) is not None:
            yield bytes(tree_key), stored


def _size(found: tuple[bytes, Stored | None]) -> int:
    return len(found[1] or b"")


def batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """So many items at once as take a bounded memory, by the bytes that each has."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_RECORDS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
