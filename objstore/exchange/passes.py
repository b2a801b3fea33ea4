"""The two passes of an import: the first puts what is not there, the second compares all of it.

With each batch of the first a note is written in the target, in the same transaction: how far it is in which state of
which source.  So whoever was interrupted, or killed, begins again after the last batch, without decoding what is before
it.  The note goes when all is there.

The second reads the sources again from the beginning and compares every entry with what is stored; what it finds is
what the report says.  So a report is whole, also of an import that was interrupted and begun again.

The sources are read one entry after the other, and held in batches, whatever their size.  What cannot be taken over
is left behind and told; it stops nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from objstore.cache import Cache
from objstore.codecs.raw import Bytes
from objstore.copying.records import batches
from objstore.engines.base import Progress, Stored
from objstore.exchange import reports
from objstore.exchange.base import Entry, Source, Unreadable
from objstore.exchange.landing import Item, Landing, Note, Place, Placed
from objstore.exchange.reports import ImportReport, Left


class _Begun(NamedTuple):
    """What the target says of a source whose import is begun."""

    state: str  # of the source, and how it is read
    position: Any = None  # of the last entry that was dealt with
    entries: int = 0  # so many were, and of these were:
    imported: int = 0
    replaced: int = 0
    present: int = 0


class _Listed:
    """Entries of which the first are remembered, and the others counted."""

    def __init__(self) -> None:
        self.first: list[Left] = []
        self.count = 0

    def add(self, left: Left) -> None:
        self.count += 1
        if len(self.first) < reports.MOST_LISTED:
            self.first.append(left)


class Importing:
    """Goes twice through some sources, so that what is in them is in a store."""

    def __init__(
        self, landing: Landing, sources: Sequence[Source], how: Sequence[Any], replace: bool, progress: Progress | None
    ) -> None:
        self._landing = landing
        self._sources = sources
        self._how = [*how, landing.name, replace]
        self._replaces = replace
        self._progress = progress
        store = landing.target
        self._evicts = isinstance(store, Cache)
        self._notes = store._space.relative(store._space.belonging("importing").name, codec=Bytes())
        self._done, self._total = 0, 2 * sum(source.count() for source in sources)
        self._verified = self._expired = self._evicted = 0
        self._unread, self._differing = _Listed(), _Listed()

    def run(self) -> ImportReport:
        """Import, and compare."""
        ends = [self._import(source) for source in self._sources]
        for source in self._sources:
            self._compare(source)
        self._forget()
        return ImportReport(
            sum(end.imported for end in ends),
            sum(end.replaced for end in ends),
            sum(end.present for end in ends),
            self._verified,
            self._expired,
            self._evicted,
            self._unread.count,
            self._differing.count,
            tuple(self._unread.first),
            tuple(self._differing.first),
            self._landing.namespaces,
        )

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress:
            self._progress(self._done, max(self._done, self._total))

    # The first pass

    def _import(self, source: Source) -> _Begun:
        """Put what is not there, beginning where it was left; what has been done at the end."""
        begun = self._begun(source)
        self._done += begun.entries
        for batch in batches(source.entries(begun.position), _size):
            begun = self._import_batch(source, batch, begun)
            self._advance(len(batch))
        return begun

    def _import_batch(self, source: Source, batch: Sequence[Entry], begun: _Begun) -> _Begun:
        now = self._landing.now()
        begun = begun._replace(position=batch[-1].position, entries=begun.entries + len(batch))
        groups = list(_without_repetition(self._items(batch, now)))
        for items in groups[:-1]:
            begun = self._put(source, items, begun, now, notes=False)
        return self._put(source, groups[-1], begun, now, notes=True)

    def _items(self, batch: Iterable[Entry], now: int) -> Iterator[Item]:
        for entry in batch:
            try:
                item = self._landing.item(entry.read(), now)
            except Unreadable:  # the second pass tells
                continue
            if item is not None:
                yield item

    def _put(self, source: Source, items: Sequence[Item], begun: _Begun, now: int, *, notes: bool) -> _Begun:
        """Put what is not there, and with it the note of that; again, where somebody else has written meanwhile."""
        while True:
            chosen, others, present = self._choose(items, now)
            begun = begun._replace(
                imported=begun.imported + len(chosen),
                replaced=begun.replaced + len(others),
                present=begun.present + present,
            )
            items = self._landing.put(chosen, self._note(source, begun) if notes else None)
            if not items:
                return begun
            replaced = sum(item.place in others for item in items)
            begun = begun._replace(imported=begun.imported - len(items), replaced=begun.replaced - replaced)

    def _choose(self, items: Sequence[Item], now: int) -> tuple[list[Placed], set[Place], int]:
        """What is to be put, where something else is in its place, and how much is there already."""
        chosen: list[Placed] = []
        others: set[Place] = set()
        present = 0
        for item, stored in self._landing.look(items):
            if not self._landing.is_live(item, stored, now):
                chosen.append((item, None if stored is None else bytes(stored)))
            elif self._is_same(item, stored, now):
                present += 1
            elif self._replaces:
                chosen.append((item, bytes(stored or b"")))
                others.add(item.place)
        return chosen, others, present

    def _is_same(self, item: Item, stored: Stored | None, now: int) -> bool:
        try:
            return stored is not None and self._landing.is_same(item, stored, now)
        except Unreadable:
            return False

    # The second pass

    def _compare(self, source: Source) -> None:
        """Compare every entry with what is stored."""
        for batch in batches(source.entries(None), _size):
            now = self._landing.now()
            items = [item for entry in batch if (item := self._reread(source, entry, now)) is not None]
            for item, stored in self._landing.look(items):
                self._compare_one(source, item, stored, now)
            self._advance(len(batch))

    def _reread(self, source: Source, entry: Entry, now: int) -> Item | None:
        try:
            item = self._landing.item(entry.read(), now)
        except Unreadable as exc:
            self._unread.add(Left(source.path, entry.shown, str(exc), exc.needs))
            return None
        self._expired += item is None
        return item

    def _compare_one(self, source: Source, item: Item, stored: Stored | None, now: int) -> None:
        why = "there already with another value; replace it (--replace), or import into another namespace"
        if self._replaces:
            why = "it is not what is stored by now: the sources have its key twice, or somebody has written meanwhile"
        try:
            if stored is None or not self._landing.is_live(item, stored, now):
                if self._evicts:
                    self._evicted += 1
                    return
                why = "it is not there: it was written, or deleted, meanwhile; import again"
            elif self._landing.is_same(item, stored, now):
                self._verified += 1
                return
        except Unreadable as exc:
            why = str(exc)
        self._differing.add(Left(source.path, item.shown, why))

    # How far it is

    def _state(self, source: Source) -> str:
        return blake2b(
            json.dumps([source.format, source.fingerprint(), self._how]).encode(), digest_size=16
        ).hexdigest()

    def _begun(self, source: Source) -> _Begun:
        """What the target says of this source, or a beginning."""
        key, state = os.path.abspath(source.path), self._state(source)
        tree_key = self._notes.tree_key(key)
        stored = self._landing.target._engine.get(tree_key)
        begun = _Begun(state) if stored is None else _Begun(**json.loads(self._notes.value(key, tree_key, stored)))
        return begun if begun.state == state else _Begun(state)

    def _note(self, source: Source, begun: _Begun) -> Note:
        tree_key, packed = self._notes.pack(os.path.abspath(source.path), json.dumps(begun._asdict()).encode())
        return self._notes, tree_key, bytes(packed)

    def _forget(self) -> None:
        """All is there: let nothing say that it is begun."""
        target, notes = self._landing.target, self._notes
        for source in self._sources:
            target._apply(notes.delete, notes.tree_key(os.path.abspath(source.path)))
        if not notes.count(target._engine.read()):
            target._apply(notes.drop, notes.now())


def _size(entry: Entry) -> int:
    return entry.size


def _without_repetition(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in groups, at least one, in none of which two have the same place."""
    group: dict[tuple[str, bytes], Item] = {}
    for item in items:
        if item.place in group:
            yield list(group.values())
            group = {}
        group[item.place] = item
    yield list(group.values())
