"""Views: large records shown straight from the data file, without a copy.

LMDB's own map goes away with its environment, and when it grows; what still looked at it then would end the
process.  So LMDB's map is only asked *where* a record lies, and what is shown is a map of our own of the same file
(`Mapping`), read-only, which the interpreter keeps for as long as anything that was exported from it is
alive: a view, an array over it, a part of that.  To a state belong one mapping and one read transaction
(`Held`), which keeps LMDB from using the state's pages again; they go with the last view.

Where a record lies is found without touching it: py-lmdb reads a byte of every page of a value that it gives,
be it as a view.  But a key it gives as a view of the tree's page, and around the key stands the node: before it
the sizes, behind it, where the data is big, the number of the first page that holds it.

Whoever holds a view of LMDB's map is under the `Guard`, for a few microseconds, in which no code of a user runs.
Closing the environment and growing its map wait for those.

A forked child inherits mappings, and may look at them, but a read transaction is not inherited.  So the parent
lends its states (`forks.Lease`): it goes on holding them until no child looks at them any more.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from itertools import islice
from mmap import ACCESS_READ, mmap
from typing import Any
from weakref import WeakValueDictionary, finalize, ref

import lmdb

from objstore.engines.base import Held, Stored, process
from objstore.engines.lmdb.datafile import (
    BIG_DATA,
    DATA,
    NODE,
    PAGE_HEADER_BYTES,
    PAGE_NUMBER,
    REPLACED,
    file_id,
    identify,
)
from objstore.engines.lmdb.errors import translate
from objstore.engines.lmdb.forks import Lease
from objstore.engines.lmdb.memory import address_of, bytes_at
from objstore.engines.lmdb.transactions import FORKED, LmdbReader
from objstore.errors import StoreClosed, StoreCorrupt, StoreReplaced, TransactionError
from objstore.record import HEAD_BYTES, LARGE

# A state that is held for longer is logged, once.
OLD_SECONDS = 300.0

# So many items at most are read ahead by a scan; none of those that are copied is large.
_PAGE_ITEMS = 64


class Guard:
    """Counts those who hold views of LMDB's map, so that it is not taken away under them."""

    def __init__(self) -> None:
        self.holders: list[None] = []  # counted by its length, so that no thread can miscount
        self.is_shut = False
        self.is_closed = False

    def __enter__(self) -> None:
        self.holders.append(None)
        while self.is_shut:
            self.holders.pop()
            if self.is_closed:
                raise StoreClosed("the store is closed; open it again")
            time.sleep(0.0001)
            self.holders.append(None)

    def __exit__(self, *_exc: object) -> None:
        self.holders.pop()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Nobody holds a view in this block; those who come wait for its end."""
        self.is_shut = True
        try:
            while self.holders:
                time.sleep(0.0001)
            yield
        finally:
            self.is_shut = self.is_closed

    def close(self) -> None:
        """Nobody holds a view any more."""
        self.is_closed = True
        with self.shut():
            pass


class Hold:
    """A read transaction that keeps the pages of its state from being used again, while anybody refers to this."""

    def __init__(self, txn: Any) -> None:
        self.txn = txn
        self.since = time.monotonic()
        self.shown: dict[int, int] = {}  # the large records that were shown: first page and size
        self.was_logged = False
        self.lease: Lease | None = None  # in a forked child: what its parent holds the state for


class Mapping(mmap):
    """The data file as one state has it.  It lives while a view of it does, and holds the state so long."""

    hold: Hold

    def record(self, page: int, page_size: int, size: int) -> memoryview:
        """The value of `size` bytes that begins on the overflow page of this number.

        Raises StoreCorrupt where there is no such page.
        """
        start = page * page_size + PAGE_HEADER_BYTES
        if start + size > len(self) or PAGE_NUMBER.unpack_from(self, page * page_size) != (page,):
            raise StoreCorrupt("the data file of the store is cut short, or its tree is damaged; restore a backup")
        self.hold.shown[page] = size
        return memoryview(self)[start : start + size]


class Views:
    """What is shown of one environment, and the states that are held for it.

    `retain` and `release` count a user of the environment.  Where `shows` is false, nothing is shown: every
    record is copied.
    """

    def __init__(
        self, location: str, page_size: int, shows: bool, retain: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.guard = Guard()
        self.page_size = page_size
        self._location = location
        self._file_id = file_id(location)
        self._file: FileIO | None = None  # opened when something is shown
        self._opening = threading.Lock()
        self._shows = shows
        self._retain = retain
        self._release = release
        self._mappings: WeakValueDictionary[int, Mapping] = WeakValueDictionary()  # by the number of the state
        self.holds: set[ref[Hold]] = set()
        self._leases: list[Lease] = []

    def hold(self, txn: Any) -> Hold:
        """Hold the state of a read transaction, and tell of it."""
        self.tend()
        hold = Hold(txn)
        self.holds.add(ref(hold, self.holds.discard))
        return hold

    def mapping(self, txn: Any, hold: Hold | None) -> Mapping | None:
        """The mapping of the state that `txn` reads, or None where nothing is shown, or there are no addresses for it.

        Views of one state share it, with its transaction, whoever reads them.
        """
        if not self._shows:
            return None
        state = txn.id()
        mapping = self._mappings.get(state)
        if mapping is None:
            mapping = self._map()
            if mapping is None:
                return None
            mapping.hold = hold or self.hold(txn)
            self._retain()  # the environment must not close before the transaction ends
            finalize(mapping, self._release)
            self._mappings[state] = mapping
        return mapping

    def _map(self) -> Mapping | None:
        with self._opening:
            if self._file is None:
                file = FileIO(os.path.join(self._location, DATA))
                if identify(os.fstat(file.fileno())) != self._file_id:
                    file.close()
                    raise StoreReplaced(REPLACED.format(self._location))
                self._file = file
        try:
            return Mapping(self._file.fileno(), 0, access=ACCESS_READ)
        except OSError as exc:
            if exc.errno != errno.ENOMEM:
                raise
            return None

    def close(self) -> None:
        """Nobody looks at LMDB's map any more, and nothing more is shown."""
        self.guard.close()
        if self._file is not None:
            self._file.close()

    def held(self) -> tuple[Held, ...]:
        """The states that are held, the oldest first."""
        self.tend()
        now = time.monotonic()
        return tuple(sorted((Held(now - hold.since, sum(hold.shown.values())) for hold in self._alive()), reverse=True))

    def tend(self) -> None:
        """Give up what was held for children that are gone, and log, once for each, what is held for long."""
        for lease in list(self._leases):
            if lease.has_ended():
                self._leases.remove(lease)
                self._release()
        now = time.monotonic()
        for hold in self._alive():
            if now - hold.since > OLD_SECONDS and not hold.was_logged:
                hold.was_logged = True
                from logging import getLogger  # here: not cheap to load, and seldom needed

                getLogger("objstore").warning(
                    "the store at %r is held by a snapshot, or by arrays that were read from one, for %.0f s: its file "
                    "grows meanwhile; drop what refers to it",
                    self._location,
                    now - hold.since,
                )

    # Forks

    def lend(self) -> None:
        """Before a fork: go on holding what a child will be able to see."""
        holds = [mapping.hold for mapping in list(self._mappings.values())]
        if holds and (lease := Lease.begin(holds)) is not None:
            self._retain()
            self._leases.append(lease)

    def lent(self) -> None:
        """After a fork, in the parent."""
        for lease in self._leases:
            lease.keep_parents_end()

    def borrowed(self) -> None:
        """After a fork, in the child: what it was lent ends with the last of its views, or with the child."""
        for lease in self._leases:
            for hold in lease.keep_childs_end():
                hold.lease = lease
        self._leases = []
        if self._file is not None:
            self._file.close()

    def _alive(self) -> list[Hold]:
        return [hold for reference in list(self.holds) if (hold := reference()) is not None]


class LmdbViewer(LmdbReader):
    """A read transaction that shows large records, and copies the others.

    Its types are wider than those of what it extends: who asks for views (`Reader`) knows that.
    """

    def __init__(self, environment: Any, txn: Any, location: str, views: Views) -> None:
        super().__init__(environment, txn, location)
        self._views = views
        self._guard = views.guard
        self._mapping: Mapping | None = None

    def get(self, key: bytes) -> Stored | None:  # type: ignore[override]
        self._check()
        try:
            with self._guard:
                cursor = self.txn.cursor()
                return self._stored(cursor, cursor.key()) if cursor.set_key(key) else None
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc

    def get_many(self, keys: Iterable[bytes]) -> list[tuple[bytes, Stored]]:  # type: ignore[override]
        return [(key, record) for key in keys if (record := self.get(key)) is not None]

    def scan(  # type: ignore[override]
        self, start: bytes, stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, Stored]]:
        return self._paged(start, stop, reverse, self._stored)

    def scan_keys(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        return (key for key, _ in self._paged(start, stop, reverse, lambda _cursor, _key: None))

    def scan_heads(
        self, start: bytes, stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes, int]]:
        return ((key, bytes(record[:HEAD_BYTES]), len(record)) for key, record in self.scan(start, stop, reverse))

    def _paged(
        self, start: bytes, stop: bytes | None, reverse: bool, take: Callable[[Any, memoryview], Any]
    ) -> Iterator[tuple[bytes, Any]]:
        """Each key with what `take(cursor, key)` makes of it, read under the guard a page of items at a time."""
        born, guard = self._born, self._guard
        keys: Any = None
        more = True
        while more:
            page = []
            try:
                with guard:
                    if keys is None:
                        cursor = self._place(start, stop, reverse)
                        if cursor is None:
                            return
                        keys = cursor.iterprev(values=False) if reverse else cursor.iternext(values=False)
                    for view in islice(keys, _PAGE_ITEMS):
                        key = bytes(view)
                        if key < start if reverse else stop is not None and key >= stop:
                            break
                        page.append((key, take(cursor, view)))
            except lmdb.Error as exc:
                raise translate(exc, self._location) from exc
            more = len(page) == _PAGE_ITEMS
            for item in page:
                if process.generation != born:
                    raise TransactionError(FORKED)
                if guard.is_closed:
                    raise StoreClosed(f"the store at {self._location!r} is closed; open it again")
                yield item

    def _stored(self, cursor: Any, key: memoryview) -> Stored:
        """The record on which the cursor stands, whose key `key` shows.  Under the guard."""
        address = address_of(key)
        low, high, flags, key_bytes = NODE.unpack(bytes_at(address - NODE.size, NODE.size))
        size = low | high << 16
        if size >= LARGE and flags & BIG_DATA:
            if self._mapping is None:
                self._mapping = self._views.mapping(self.txn, self.hold)
            if self._mapping is not None:
                (page,) = PAGE_NUMBER.unpack(bytes_at(address + key_bytes, PAGE_NUMBER.size))
                return self._mapping.record(page, self._views.page_size, size)
        return bytes(cursor.value())
