"""Copying: a store to another place, on whatever engine, so that it moves from a machine to a cluster and back.

What is copied are records, as they lie there; nothing is decoded or expanded.  A tree key is the same in every store,
and a digest covers nothing but that and the record, so what is not sealed is copied byte by byte, after its digest
was verified.  A seal covers the id of the store, so what is sealed is opened, and sealed for the other one.  Counts,
indexes and all else that the library keeps follow from the writes.

A small record in the target says whose copy is begun there, and how far it is; it goes when the copy is whole.  So who
was interrupted begins again where that was, and nobody takes half a copy for a begun store of somebody else's.

The first pass copies.  Every other compares each record of the source with that of the target, and copies what differs,
until nothing does: so what is written meanwhile is taken over, and what is deleted is deleted.

It asks little of an engine: to scan, to get many, to put many.  Where there are snapshots, a pass reads one; where
there is no order, what was interrupted begins at the beginning, and finds there what it has copied.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from objstore import eviction, identity, record, space
from objstore.audit import Damage, key_of, lost_name
from objstore.cache import Cache
from objstore.codecs.base import OWN_NUMBERS, Codec
from objstore.codecs.keyring import KeyOption, Keys, keys_of
from objstore.codecs.raw import Bytes
from objstore.codecs.sealing import sealing_of
from objstore.codecs.table import CODECS
from objstore.engines import connect
from objstore.engines.base import IDENTITY_KEY, Claim, Progress, Reader, Stored, Writer
from objstore.errors import BadSignature, StoreError, StoreExists, StoreLocked, StoreNotFound, WrongKind
from objstore.eviction import LEDGER_KEY, Bounds, Ledger
from objstore.identity import Identity
from objstore.record import Damaged, Forged, Header, Seal
from objstore.space import Labelled, Sealing, Space
from objstore.store import Store

_BATCH_BYTES = 8 << 20
_BATCH_RECORDS = 2000
_CLAIM = b"copying"
_SECONDS_AFTER_DEATH = 10.0  # for which servers may take one for alive who was killed
_PASSES = 5  # one copies, the next finds nothing to do, unless somebody wrote meanwhile


class CopyReport(NamedTuple):
    """What was copied, and what was not."""

    copied: int
    """Records that were written into the target; those that changed meanwhile count each time."""
    present: int
    """Records that were there already, from a copy that was interrupted, and were not sent again."""
    verified: int
    """Records of the source that were compared at last, and are the same in the target."""
    removed: int
    """Records that had been copied, and were deleted in the source meanwhile: they are deleted in the target, too."""
    differing: int
    """Records that somebody had changed in the source once more at the last look. They were copied again; copy once
    more, with `merge`, when nobody writes, if the copy shall be the last state."""
    lost: tuple[Damage, ...]
    """The records that are damaged or refused: they stayed behind."""

    @property
    def ok(self) -> bool:
        """Whether the target holds everything that the source does."""
        return not (self.lost or self.differing)


def copy(
    source: str | os.PathLike[str] | Store[Any, Any],
    target: str | os.PathLike[str] | Store[Any, Any],
    *,
    signing_key: KeyOption = None,
    encryption_key: KeyOption = None,
    target_signing_key: KeyOption = None,
    target_encryption_key: KeyOption = None,
    merge: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy every record of a store to another place, on the same engine or another one, while others use it.

    Either is a location, or an open `Store` or `Cache`, which keeps the options with which it was opened. The target is
    made where it is missing: of the same kind, with the same codec, the same bounds if it is a cache that has none yet,
    and sealed with the same keys. All namespaces and memoized results are copied, with expiry and tags; nothing is
    decoded. What has expired is left out. How a cache was used is not copied; servers keep no bound, and remember it
    for the way back.

    Who is interrupted calls it again, with the same arguments, and it goes on where it was. A target that holds
    anything but a begun copy of this source is refused; with `merge`, what both have is replaced, and the rest stays.
    Until a copy without `merge` is whole, nobody else should write into its target: it becomes what the source is.

    * `signing_key`, `encryption_key`: those of the source, as in `Store`. `target_signing_key`,
      `target_encryption_key`: those of the target, where they are others: to seal what was not sealed, or with False
      for both, to have a copy that is not sealed.

    `progress(done, total)` is called with records, copied and compared.

    Raises StoreNotFound; StoreExists where the target holds other things; WrongKind and StoreError where it is another
    kind of store, or has another codec, or where the source is itself a begun copy; StoreLocked where somebody else
    copies into the target; BadSignature where a key is missing or is not the one; ValueError where both are the same
    store; and what reading and writing raise.
    """
    with ExitStack() as opened:
        old = _source(source, opened, signing_key, encryption_key)
        new = _target(target, opened, old, target_signing_key, target_encryption_key)
        opened.callback(_claim(new).release)
        return _Copying(old, new, merge, progress).run()


class _Place(NamedTuple):
    """A namespace, as it is in the source and in the target."""

    name: str
    seal: Seal | None  # in the source
    space: Space  # in the target
    target_seal: Seal | None

    @property
    def is_bare(self) -> bool:
        """Whether its records are the same bytes in both."""
        return self.seal is None and self.target_seal is None


class _Item(NamedTuple):
    """A record of the source that is right, and opened."""

    tree_key: bytes
    stored: Stored
    header: Header
    payload: memoryview
    frames: Sequence[memoryview]
    place: _Place

    def packed(self) -> bytes:
        """It, as it shall be in the target."""
        if self.place.is_bare:
            return bytes(self.stored)
        parts = self.header, self.payload, self.frames
        return bytes(record.repack(self.tree_key, *parts, self.header.expires_at, self.place.target_seal))

    def is_same(self, found: Stored | None) -> bool:
        """Whether a record of the target says the same."""
        if found is None:
            return False
        if self.place.is_bare:
            return len(found) == len(self.stored) and bytes(found) == bytes(self.stored)
        try:
            header, payload, frames = record.unpack(self.tree_key, found, seal=self.place.target_seal)
        except (Damaged, Forged):
            return False
        return _said(header, payload, frames) == _said(self.header, self.payload, self.frames)


class _Begun(NamedTuple):
    """What the target says of the copy that is begun there."""

    source: str  # the id of the store that is copied
    merge: bool  # whether what else is there shall stay
    position: str = space.ITEMS.hex()  # all before this tree key was copied
    entries: int = 0  # so many records


class _Copying:
    """Goes through a store, and makes another one the same."""

    def __init__(self, old: Store[Any, Any], new: Store[Any, Any], merge: bool, progress: Progress | None) -> None:
        self._old = old
        self._new = new
        self._progress = progress
        self._sealing, self._target_sealing = _sealing(old), _sealing(new)
        self._places: dict[bytes, _Place] = {}  # by prefix
        self._copied = self._removed = self._verified = self._differing = 0
        self._lost: dict[bytes, Damage] = {}  # by tree key
        self._is_fresh = False  # whether nothing is in the target yet
        self._begun = self._begin(merge)
        self._done = self._total = self._begun.entries

    def _begin(self, merge: bool) -> _Begun:
        """What the target says of this copy, or a new beginning.  Raises StoreExists."""
        begun, source_id = _begun(self._new), self._old._identity.id
        if begun is not None and begun.source == source_id:
            return begun._replace(merge=begun.merge or merge)
        if begun is not None and not merge:
            raise StoreExists(
                f"at {self._new.location!r} is the begun copy of another store; finish that, or copy to another place"
            )
        self._is_fresh = next(_keys(self._new._engine.read()), None) is None
        if not (self._is_fresh or merge):
            raise StoreExists(
                f"the store at {self._new.location!r} holds something already; copy to another place, or with merge, "
                f"which replaces what both have"
            )
        return _Begun(source_id, merge)

    def run(self) -> CopyReport:
        """Copy, and compare until nothing differs."""
        before = self._begun.entries
        self._note()
        self._copy()
        present = before + self._verified
        for _ in range(_PASSES - 1):
            if self._compare():
                break
        self._end()
        lost = tuple(self._lost.values())
        return CopyReport(self._copied, present, self._verified, self._removed, self._differing, lost)

    def _copy(self) -> None:
        """The first pass, or what is left of it."""
        reader = self._state()
        self._total = 2 * self._old._space.total(reader)  # they are compared, too
        begin = bytes.fromhex(self._begun.position)
        for last, taken in self._go_through(reader, begin, compares=not self._is_fresh):
            if self._old.supports("ordered"):  # else it says nothing of the others
                entries = self._begun.entries + taken
                self._begun = self._begun._replace(position=(last + b"\0").hex(), entries=entries)
                self._note()

    def _compare(self) -> bool:
        """Another pass, which leaves nothing in the target that is not in the source; whether there was nothing to do.

        Where there are no snapshots, what was deleted may be there again.
        """
        reader = self._state()
        self._total = self._done + self._old._space.total(reader)
        for _ in self._go_through(reader, space.ITEMS, compares=True):
            pass
        before = self._removed
        if not self._begun.merge:
            self._remove(reader)
        return not self._differing and self._removed == before

    def _state(self) -> Reader:
        """What is to be copied: one state of the source, where that can be had."""
        engine = self._old._engine
        return engine.snapshot() if self._old.supports("snapshot") else engine.read()

    def _go_through(self, reader: Reader, begin: bytes, compares: bool) -> Iterator[tuple[bytes, int]]:
        """Copy batch by batch, from a tree key on; of each, the last tree key, and how many records are right."""
        now = self._old._space.now()
        self._lost.clear()
        self._verified = self._differing = 0
        self._declare(reader)
        for batch in _batches(_items(reader, begin)):
            items = [item for each in batch if (item := self._open(reader, *each, now)) is not None]
            missing = self._missing(items) if compares else items
            self._verified += len(items) - len(missing)
            self._differing += self._put(missing)
            self._done += len(batch)
            yield batch[-1][0], len(items)
            if self._progress:
                self._progress(self._done, max(self._done, self._total))

    def _open(self, reader: Reader, tree_key: bytes, stored: Stored, now: int) -> _Item | None:
        """A record of the source, or None where it has expired, or must stay behind."""
        prefix = space.prefix_in(tree_key) or b""
        try:
            place = self._place(reader, prefix)
            header, payload, frames = space.unpack(tree_key, prefix, stored, place.seal)
            if header.seal and place.seal is None:
                raise Forged("it is sealed, and the store is not")
        except (Damaged, Forged) as exc:
            self._leave(tree_key, stored, str(exc))
            return None
        if header.expires_at is not None and header.expires_at <= now:
            return None
        return _Item(tree_key, stored, header, payload, frames, place)

    def _leave(self, tree_key: bytes, stored: Stored, why: str) -> None:
        prefix = space.prefix_in(tree_key) or b""
        name = self._places[prefix].name if prefix in self._places else lost_name(prefix)
        self._lost[tree_key] = Damage(name, key_of(tree_key[len(prefix) :], stored), why)

    def _missing(self, items: Sequence[_Item]) -> list[_Item]:
        """Those that are not in the target, or not so."""
        found = dict(self._new._engine.read(views=True).get_many([item.tree_key for item in items]))
        return [item for item in items if not item.is_same(found.get(item.tree_key))]

    def _put(self, items: Sequence[_Item]) -> int:
        """Store these in the target, but for what no record there may be; how many."""
        most = self._new._engine.max_record_bytes
        batches: dict[bytes, list[Labelled]] = {}
        for item in items:
            packed = item.packed()
            if len(packed) > most:
                self._leave(item.tree_key, item.stored, f"it takes {len(packed)} bytes, and {most} is the most there")
                continue
            labelled = (item.tree_key, packed, item.header.expires_at, item.header.tags)
            batches.setdefault(item.place.space.prefix, []).append(labelled)
        for prefix, batch in batches.items():
            self._new._apply(self._places[prefix].space.put_each, batch)
        count = sum(map(len, batches.values()))
        self._copied += count
        return count

    def _remove(self, reader: Reader) -> None:
        """Delete from the target what is not in this state of the source."""
        theirs = self._new._engine.read()
        names = space.names_by_prefix(theirs)
        if self._old.supports("ordered") and self._new.supports("ordered"):
            surplus = _surplus(_keys(theirs), _keys(reader))
        else:
            surplus = (tree_key for tree_key in _keys(theirs) if not reader.contains(tree_key))
        now = self._new._space.now()
        while some := list(islice(surplus, _BATCH_RECORDS)):
            by_prefix: dict[bytes, list[bytes]] = {}
            for tree_key in some:
                by_prefix.setdefault(space.prefix_in(tree_key) or b"", []).append(tree_key)
            for prefix in by_prefix.keys() & names.keys():
                into = self._new._space.relative(names[prefix])
                self._removed += self._new._apply(into.delete_many, by_prefix[prefix], now)

    # Namespaces

    def _declare(self, reader: Reader) -> None:
        """Let every namespace be in the target, with its codec, also one that holds nothing."""
        for tree_key, _ in reader.scan(space.CATALOG, space.EXPIRY):
            with suppress(Damaged):  # its records are left behind, and tell
                self._place(reader, space.ITEMS + tree_key[1:])

    def _place(self, reader: Reader, prefix: bytes) -> _Place:
        """The namespace that has a prefix.  Raises Damaged where nobody knows its name."""
        if prefix not in self._places:
            name, codec = _catalogued(reader, prefix) if prefix else ("", None)
            into = self._new._space.relative(name)
            if prefix:
                into.recorded_as(codec)
                self._declare_one(into, codec)
            seals = (sealing and sealing(name) for sealing in (self._sealing, self._target_sealing))
            self._places[prefix] = _Place(name, next(seals), into, next(seals))
        return self._places[prefix]

    def _declare_one(self, into: Space, codec: str | None) -> None:
        theirs = self._new._engine.read().get(space.CATALOG + into.prefix[1:])
        if theirs is None:
            self._new._apply(into.declare)
            return
        into.check_hash(self._new._engine.read())
        _, _, their_codec = space.read_namespace(bytes(theirs))
        if their_codec != codec:
            raise StoreError(
                f"namespace {into.name!r} of {self._new.location!r} has another codec than the one that is copied: "
                f"{their_codec or self._new._identity.codec!r}; copy to another place, or drop it there"
            )

    # How far it is

    def _note(self) -> None:
        """Write it into the target."""
        where = _space_of_progress(self._new)
        tree_key, packed = where.pack(_NOTE, json.dumps(self._begun._asdict()).encode())
        self._new._apply(where.put_each, [(tree_key, bytes(packed), None, ())])

    def _end(self) -> None:
        """The copy is whole: let nothing say that it is begun, and a cache have its bounds."""
        where, now = _space_of_progress(self._new), self._new._space.now()
        bounds = _bounds(self._old)
        if not isinstance(self._new, Cache) or not any(bounds) or any(_bounds(self._new)[:2]):
            self._new._apply(where.drop, now)
        else:
            # Servers keep no bound, but remember it: so it is there again after the way back.
            self._new._apply(_drop_and_bound, where, now, bounds)
            self._new._take_over(bounds)


def _drop_and_bound(txn: Writer, where: Space, now: int, bounds: Bounds) -> None:
    where.drop(txn, now)
    eviction.rebound(txn, bounds)


# What is begun in a target

_NOTE = "copy"


def _space_of_progress(store: Store[Any, Any]) -> Space:
    """Where a target says what is begun there: among what the library keeps for itself."""
    return store._space.relative(store._space.belonging("copying").name, codec=Bytes())


_PROGRESS_PREFIX = space.prefix_of(space.belonging_name("", "copying"))


def _begun(store: Store[Any, Any]) -> _Begun | None:
    """What a store says of a copy that is begun there, if it says so."""
    where = _space_of_progress(store)
    tree_key = where.tree_key(_NOTE)
    stored = store._engine.get(tree_key)
    return None if stored is None else _Begun(**json.loads(where.value(_NOTE, tree_key, stored)))


# Going through stores


def _items(reader: Reader, begin: bytes) -> Iterator[tuple[bytes, Stored]]:
    """The records of all namespaces, from a tree key on."""
    for tree_key, stored in reader.scan(begin):
        if space.prefix_in(tree_key) is not None:
            yield bytes(tree_key), stored


def _keys(reader: Reader) -> Iterator[bytes]:
    """The tree keys of all records, but for what says how far a copy is."""
    for tree_key in reader.scan_keys(space.ITEMS):
        if space.prefix_in(tree_key) not in (None, _PROGRESS_PREFIX):
            yield bytes(tree_key)


def _surplus(theirs: Iterable[bytes], ours: Iterator[bytes]) -> Iterator[bytes]:
    """What is among these keys and not among ours, where both are in order."""
    our: bytes | None = b""
    for their in theirs:
        while our is not None and our < their:
            our = next(ours, None)
        if our != their:
            yield their


def _batches(items: Iterable[tuple[bytes, Stored]]) -> Iterator[list[tuple[bytes, Stored]]]:
    """So many at once as take a bounded memory."""
    batch: list[tuple[bytes, Stored]] = []
    size = 0
    for tree_key, stored in items:
        batch.append((tree_key, stored))
        size += len(stored)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_RECORDS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _catalogued(reader: Reader, prefix: bytes) -> tuple[str, str | None]:
    """Name and own codec of the namespace that has a prefix.  Raises Damaged."""
    try:
        _, name, codec = space.read_namespace(bytes(reader.get(space.CATALOG + prefix[1:]) or b""))
    except (struct.error, ValueError):
        name, codec = "", None
    if space.prefix_of(name) != prefix:
        raise Damaged("the name of its namespace is lost; salvage the store")
    return name, codec


def _said(header: Header, payload: memoryview, frames: Sequence[memoryview]) -> tuple[Any, ...]:
    """What a record says, however it is sealed."""
    fields = header.codec, header.expires_at, header.tags, header.long_key, header.compressed
    return *fields, bytes(payload), list(map(bytes, frames))


# The two stores

_KINDS: dict[str, type[Store[Any, Any]]] = {"Store": Store, "Cache": Cache}

Where = str | os.PathLike[str] | Store[Any, Any]


class _Named:
    """Stands for a codec of which only the name is known: nothing is encoded or decoded with it."""

    number = OWN_NUMBERS.start
    runs_code = False

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, value: Any) -> NoReturn:
        raise NotImplementedError(self.name)

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> NoReturn:
        raise NotImplementedError(self.name)


def _source(source: Where, opened: ExitStack, signing_key: KeyOption, encryption_key: KeyOption) -> Store[Any, Any]:
    """The store that is copied, open."""
    if isinstance(source, Store):
        _check_handle(source, signing_key, encryption_key)
        old = source
    else:
        what = _look(source)
        kind, codec = _KINDS[what.kind], _codec(what)
        old = opened.enter_context(
            kind(source, "r", codec=codec, signing_key=signing_key, encryption_key=encryption_key)
        )
    _check_keys(old, "")
    if _begun(old) is not None:
        raise StoreError(f"the store at {old.location!r} is itself a copy that is not whole; finish that first")
    return old


def _target(
    target: Where, opened: ExitStack, old: Store[Any, Any], signing_key: KeyOption, encryption_key: KeyOption
) -> Store[Any, Any]:
    """The store to copy into, open, and made where it is missing."""
    what = old._identity
    if isinstance(target, Store):
        _check_handle(target, signing_key, encryption_key)
        _check_same_kind(target._identity, target.location, what)
        new = target
    else:
        new = opened.enter_context(_open_target(target, old, _target_keys(old, signing_key, encryption_key)))
    _check_keys(new, "target_")
    if new._engine is old._engine or (new.location == old.location and new._identity.id == what.id):
        raise ValueError(f"the store at {old.location!r} cannot be copied into itself; name another place")
    return new


def _open_target(target: str | os.PathLike[str], old: Store[Any, Any], keys: Keys) -> Store[Any, Any]:
    what = old._identity
    flag = "c"
    try:
        found = _look(target)
        _check_same_kind(found, os.fspath(target), what)
        flag = "w"
    except StoreNotFound:
        if os.fspath(target).startswith("memory:"):
            raise ValueError(
                "a store in memory ends with its last handle: open the target first, and give the handle"
            ) from None
    options: dict[str, Any] = {
        "codec": _codec(what),
        "signing_key": list(keys.signing.values()) if keys.signing else False,
        "encryption_key": list(keys.encryption.values()) if keys.encryption else False,
    }
    if what.kind == "Cache":
        options["ttl"] = 1  # for nothing: so a new one has no bound, and evicts nothing before all is there
    return _KINDS[what.kind](target, flag, **options)


def _target_keys(old: Store[Any, Any], signing_key: KeyOption, encryption_key: KeyOption) -> Keys:
    """The keys for a target: those that are given, or those with which the source is sealed."""
    if signing_key is not None or encryption_key is not None:
        return keys_of(False if signing_key is None else signing_key, encryption_key or False)
    sealing, keys = old._identity.sealing, old._keys
    return Keys(keys.signing if sealing == "signed" else None, keys.encryption if sealing == "encrypted" else None)


def _look(location: str | os.PathLike[str]) -> Identity:
    """What the store at a location is.  Raises what opening one raises."""
    engine = connect(location, "r", {}, None, evictable=True)  # if it is a cache
    try:
        return identity.unpack(engine.get(IDENTITY_KEY), engine.location)
    finally:
        engine.release()


def _codec(what: Identity) -> Codec | str:
    return what.codec if what.codec in CODECS else _Named(what.codec)


def _check_handle(store: Store[Any, Any], *keys: KeyOption) -> None:
    if store._space.name:
        raise ValueError("a store is copied with all its namespaces; give the store, and not a namespace of it")
    if any(key is not None for key in keys):
        raise ValueError(f"{store!r} is open, with its keys; give keys with a location")


def _check_keys(store: Store[Any, Any], prefix: str) -> None:
    sealing = store._identity.sealing
    if sealing is not None and identity.ring_of(store._identity, store._keys) is None:
        option = "encryption_key" if sealing == "encrypted" else "signing_key"
        raise BadSignature(f"the store at {store.location!r} is {sealing}; give {prefix}{option}")


def _check_same_kind(what: Identity, location: str, source: Identity) -> None:
    if what.kind != source.kind:
        raise WrongKind(f"what is at {location!r} is a {what.kind}, and the source a {source.kind}; copy elsewhere")
    if what.codec != source.codec:
        raise StoreError(
            f"the store at {location!r} has codec {what.codec!r}, and the source {source.codec!r}; copy elsewhere"
        )


def _sealing(store: Store[Any, Any]) -> Sealing | None:
    return sealing_of(store._identity.sealing, store._keys, store._identity.id)


def _claim(new: Store[Any, Any]) -> Claim:
    """What only one has who copies into a store.  Raises StoreLocked."""
    claim = new._engine.claim(_CLAIM)
    if claim is not None:
        return claim
    waiting = new._engine.await_claim(_CLAIM)
    given_up = time.monotonic() + (_SECONDS_AFTER_DEATH if new._engine.is_shared else 0)
    try:
        while time.monotonic() < given_up:
            time.sleep(waiting.longest_pause)
            if (claim := waiting.poll()) is not None:
                return claim
    finally:
        waiting.close()
    raise StoreLocked(f"somebody copies into the store at {new.location!r} now; wait for the end of that")


def _bounds(store: Store[Any, Any]) -> Bounds:
    """The bounds of a cache, where its engine keeps such."""
    stored = store._engine.get(LEDGER_KEY)
    return Bounds() if stored is None else Ledger.unpack(stored).bounds
