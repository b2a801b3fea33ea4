"""The work of a copy: a store is made the same as an origin, and goes on where that was interrupted.

A small record in the target says whose copy is begun there, and how far it is; it goes when the copy is whole.  So who
was interrupted begins again where that was, and nobody takes half a copy for a begun store of somebody else's.

The first pass copies.  Every other compares each record of the origin with that of the target, and copies what differs,
until nothing does: so what is written meanwhile is taken over, and what is deleted is deleted.

It asks little of an engine: to scan, to get many, to put many.  Where there is no order, what was interrupted begins at
the beginning, and finds there what it has copied.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from objstore import eviction, identity, record, space
from objstore.audit import Damage
from objstore.cache import Cache
from objstore.codecs.raw import Bytes
from objstore.codecs.sealing import sealing_of
from objstore.copying.records import Namespace, Opened, Origin, State, Walk, bounds_of, tree_keys_in
from objstore.engines.base import Progress, Stored, Writer
from objstore.errors import StoreError, StoreExists
from objstore.eviction import Bounds
from objstore.record import Seal
from objstore.space import Labelled, Space
from objstore.store import Store

_REMOVED_AT_ONCE = 2000
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


class Begun(NamedTuple):
    """What the target says of the copy that is begun there."""

    source: str  # the name of the origin that is copied
    merge: bool  # whether what else is there shall stay
    position: str = space.ITEMS.hex()  # all before this tree key was copied
    entries: int = 0  # so many records


class _Place(NamedTuple):
    """A namespace, as it is in the target."""

    space: Space
    seal: Seal | None


class Copying:
    """Goes through an origin, and makes a store the same."""

    def __init__(self, origin: Origin, new: Store[Any, Any], merge: bool, progress: Progress | None) -> None:
        self._origin = origin
        self._new = new
        self._progress = progress
        self._walk = Walk(origin)
        self._sealing = sealing_of(new._identity.sealing, new._keys, new._identity.id)
        is_sealed = new._identity.sealing is not None or origin.identity.sealing is not None
        # Whether the records are the same bytes in both.
        self._as_it_lies = lies_there_too(origin, new) if is_sealed else True
        self._places: dict[bytes, _Place] = {}  # by prefix
        self._copied = self._removed = self._verified = self._differing = 0
        self._is_fresh = False  # whether nothing is in the target yet
        self._begun = self._begin(merge)
        self._done = self._total = self._begun.entries

    def _begin(self, merge: bool) -> Begun:
        """What the target says of this copy, or a new beginning.  Raises StoreExists."""
        begun = begun_in(self._new)
        if begun is not None and begun.source == self._origin.name:
            return begun._replace(merge=begun.merge or merge)
        if begun is not None and not merge:
            raise StoreExists(
                f"at {self._new.location!r} is the begun copy of another store; finish that, or copy to another place"
            )
        self._is_fresh = next(tree_keys_in(self._new._engine.read()), None) is None
        if not (self._is_fresh or merge):
            raise StoreExists(
                f"the store at {self._new.location!r} holds something already; copy to another place, or with merge "
                f"(--merge), which replaces what both have"
            )
        return Begun(self._origin.name, merge)

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
        lost = tuple(self._walk.lost.values())
        return CopyReport(self._copied, present, self._verified, self._removed, self._differing, lost)

    def _copy(self) -> None:
        """The first pass, or what is left of it."""
        state = self._origin.state()
        self._total = 2 * self._origin.total(state)  # they are compared, too
        begin = bytes.fromhex(self._begun.position)
        for last, taken in self._go_through(state, begin, compares=not self._is_fresh):
            if self._origin.is_ordered:  # else it says nothing of the others
                entries = self._begun.entries + taken
                self._begun = self._begun._replace(position=(last + b"\0").hex(), entries=entries)
                self._note()

    def _compare(self) -> bool:
        """Another pass, which leaves nothing in the target that is not in the origin; whether there was nothing to do.

        Where there are no snapshots, what was deleted may be there again.
        """
        state = self._origin.state()
        self._total = self._done + self._origin.total(state)
        for _ in self._go_through(state, space.ITEMS, compares=True):
            pass
        before = self._removed
        if not self._begun.merge:
            self._remove(state)
        return not self._differing and self._removed == before

    def _go_through(self, state: State, begin: bytes, compares: bool) -> Iterator[tuple[bytes, int]]:
        """Copy batch by batch, from a tree key on; of each, the last tree key, and how many records are right."""
        self._walk.lost.clear()
        self._verified = self._differing = 0
        for namespace in self._walk.namespaces(state):  # also one that holds nothing
            self._place(namespace)
        before = self._done - self._walk.met
        for last, items in self._walk.batches(state, begin):
            missing = self._missing(items) if compares else items
            self._verified += len(items) - len(missing)
            self._differing += self._put(missing)
            self._done = before + self._walk.met
            yield last, len(items)
            if self._progress:
                self._progress(self._done, max(self._done, self._total))

    def _missing(self, items: Sequence[Opened]) -> list[Opened]:
        """Those that are not in the target, or not so."""
        found = dict(self._new._engine.read(views=True).get_many([item.tree_key for item in items]))
        return [item for item in items if not self._is_same(item, found.get(item.tree_key))]

    def _is_same(self, item: Opened, found: Stored | None) -> bool:
        """Whether a record of the target says the same."""
        if found is None:
            return False
        if self._as_it_lies:
            return len(found) == len(item.stored) and bytes(found) == bytes(item.stored)
        return item.says(found, self._place(item.namespace).seal)

    def _put(self, items: Sequence[Opened]) -> int:
        """Store these in the target, but for what no record there may be; how many."""
        most = self._new._engine.max_record_bytes
        batches: dict[Namespace, list[Labelled]] = {}
        for item in items:
            packed = bytes(item.stored if self._as_it_lies else item.sealed_by(self._place(item.namespace).seal))
            if len(packed) > most:
                why = f"it takes {len(packed)} bytes, and {most} is the most there"
                self._walk.leave(item.tree_key, item.stored, why)
                continue
            labelled = (item.tree_key, packed, item.header.expires_at, item.header.tags)
            batches.setdefault(item.namespace, []).append(labelled)
        for namespace, batch in batches.items():
            self._new._apply(self._place(namespace).space.put_each, batch)
        count = sum(map(len, batches.values()))
        self._copied += count
        return count

    def _remove(self, state: State) -> None:
        """Delete from the target what is not in this state of the origin."""
        theirs = self._new._engine.read()
        names = space.names_by_prefix(theirs)
        surplus = self._origin.surplus(state, tree_keys_in(theirs), self._new.supports("ordered"))
        now = self._new._space.now()
        while some := list(islice(surplus, _REMOVED_AT_ONCE)):
            by_prefix: dict[bytes, list[bytes]] = {}
            for tree_key in some:
                by_prefix.setdefault(space.prefix_in(tree_key) or b"", []).append(tree_key)
            for prefix in by_prefix.keys() & names.keys():
                into = self._new._space.relative(names[prefix])
                self._removed += self._new._apply(into.delete_many, by_prefix[prefix], now)

    # Namespaces

    def _place(self, namespace: Namespace) -> _Place:
        """The same namespace of the target, which is declared there."""
        if namespace.prefix not in self._places:
            into = self._new._space.relative(namespace.name)
            if namespace.prefix:
                into.recorded_as(namespace.codec)
                self._declare(into, namespace.codec)
            seal = self._sealing and self._sealing(namespace.name)
            self._places[namespace.prefix] = _Place(into, seal)
        return self._places[namespace.prefix]

    def _declare(self, into: Space, codec: str | None) -> None:
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
        # A store may be made by who has not its keys; what all is compared with at last is the origin.
        where = _space_of_progress(
            self._new, is_sealed=identity.ring_of(self._new._identity, self._new._keys) is not None
        )
        tree_key, packed = where.pack(_NOTE, json.dumps(self._begun._asdict()).encode())
        self._new._apply(where.put_each, [(tree_key, bytes(packed), None, ())])

    def _end(self) -> None:
        """The copy is whole: let nothing say that it is begun, and a cache have its bounds."""
        where, now = _space_of_progress(self._new, is_sealed=False), self._new._space.now()
        bounds = self._origin.bounds()
        if not isinstance(self._new, Cache) or not any(bounds) or any(bounds_of(self._new)[:2]):
            self._new._apply(where.drop, now)
        else:
            # Servers keep no bound, but remember it: so it is there again after the way back.
            self._new._apply(_drop_and_bound, where, now, bounds)
            self._new._take_over(bounds)


def lies_there_too(origin: Origin, new: Store[Any, Any]) -> bool:
    """Whether the records that are sealed in an origin are good for a store as they are."""
    return origin.keeps_seals and origin.identity.id == new._identity.id


def _drop_and_bound(txn: Writer, where: Space, now: int, bounds: Bounds) -> None:
    where.drop(txn, now)
    eviction.rebound(txn, bounds)


# What is begun in a target

_NOTE = "copy"


def _space_of_progress(store: Store[Any, Any], is_sealed: bool) -> Space:
    """Where a target says what is begun there: among what the library keeps for itself."""
    where = store._space.relative(store._space.belonging("copying").name, codec=Bytes())
    if not is_sealed:
        where.seal = None
    return where


def begun_in(store: Store[Any, Any]) -> Begun | None:
    """What a store says of a copy that is begun there, if it says so."""
    where = _space_of_progress(store, is_sealed=True)
    tree_key = where.tree_key(_NOTE)
    stored = store._engine.get(tree_key)
    if stored is None:
        return None
    if not record.read_header(stored, len(stored)).seal:  # nobody who forges it gets more than a copy that takes longer
        where = _space_of_progress(store, is_sealed=False)
    return Begun(**json.loads(where.value(_NOTE, tree_key, stored)))
