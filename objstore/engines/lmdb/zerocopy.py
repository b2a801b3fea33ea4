"""Views: large records shown straight from the data file, without a copy.

LMDB's own map goes away with its environment, and when it grows; what still looked at it then would end the
process.  So LMDB's map is only asked *where* a record lies, and what is shown is a map of our own of the same file
(`FileMap`), read-only, which the interpreter keeps for as long as anything that was exported from it is
alive: a view, an array over it, a part of that.  To a state belong one such map and one read transaction
(`Hold`), which keeps LMDB from using the state's pages again; they go with the last view.

Where a record lies is found without touching it: py-lmdb reads a byte of every page of a value that it gives,
be it as a view.  But a key it gives as a view of the tree's page, and around the key stands the node: before it
the sizes, behind it, where the data is big, the number of the first page that holds it.

Whoever holds a view of LMDB's map in a read transaction is under the `Guard`, for a few microseconds, in which no
code of a user runs.  Closing the environment and growing its map wait for those.

A forked child inherits these maps, and may look at them, but a read transaction is not inherited.  So the parent
lends its states (`forks.Lease`): it goes on holding them until no child looks at them any more.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import islice
from mmap import ACCESS_READ, mmap
from threading import get_ident
from typing import Any
from weakref import WeakValueDictionary, ref

import lmdb

from objstore.engines.base import Held, Stored, process
from objstore.engines.lmdb.addresses import address_of, bytes_at
from objstore.engines.lmdb.datafile import (
    BIG_DATA,
    DATA,
    NODE,
    PAGE_HEADER_BYTES,
    PAGE_NUMBER,
)
from objstore.engines.lmdb.errors import translate
from objstore.engines.lmdb.forks import Lease
from objstore.engines.lmdb.transactions import FORKED, LmdbReader
from objstore.errors import StoreClosed, StoreCorrupt, StoreLocked, TransactionError
from objstore.record import HEAD_BYTES, LARGE

IN_THE_MIDDLE = (
    "this thread is in the middle of compacting or reopening the store at {!r}; go on with it when that is done"
)

# Seconds; to hold a view takes microseconds.
_LONGEST_HOLD = 5.0

# A state that is held for longer is logged, once.
OLD_SECONDS = 300.0

# So many items at most are read ahead by a scan, and no more behind one that is large and was copied.
_PAGE_ITEMS = 64


class Guard:
    """Knows whether anybody holds a view of LMDB's map, so that it is not taken away under them.

    One who does holds the token meanwhile.  References to the token are the count: none is ever left behind, not
    even by one who is interrupted between two steps.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._token = object()
        self._unheld = sys.getrefcount(self._token)
        self.is_shut = False
        self.is_closed = False
        self._shut_by = 0  # a thread

    def enter(self) -> object:
        """The token, to be held in a local variable and dropped.

        Raises StoreClosed; StoreLocked in the thread that shut it, which would wait for itself.
        """
        while True:
            token = self._token
            if not self.is_shut:
                return token
            del token
            self.check_open()
            if self._shut_by == get_ident():  # this comes out of a callback, a signal handler or a destructor
                raise StoreLocked(IN_THE_MIDDLE.format(self._location))
            time.sleep(0.0001)

    def check_open(self) -> None:
        """Raise StoreClosed if there is no map any more."""
        if self.is_closed:
            raise StoreClosed(f"the store at {self._location!r} is closed; open it again")

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Nobody holds a view in this block; those who come wait for its end.

        Raises StoreLocked where somebody does not let go, which takes a thread that is stopped in the middle.
        """
        self._shut_by = get_ident()
        self.is_shut = True
        try:
            deadline = time.monotonic() + _LONGEST_HOLD
            while sys.getrefcount(self._token) > self._unheld:
                if time.monotonic() > deadline:
                    raise StoreLocked(
                        f"a thread that reads the store at {self._location!r} is stopped in the middle; let it go on"
                    )
                time.sleep(0.0001)
            yield
        finally:
            self.is_shut = self.is_closed
            self._shut_by = 0

    def close(self) -> None:
        """Nobody holds a view any more.  Raises StoreLocked, see `shut`."""
        self.is_closed = True
        with self.shut():
            pass

    def reopen(self) -> None:
        """Let those in again who come."""
        self.is_shut = self.is_closed = False


class Hold:
    """A read transaction that keeps the pages of its state from being used again, while anybody refers to this."""

    def __init__(self, txn: Any) -> None:
        self.txn = txn
        self.since = time.monotonic()
        self.shown: dict[int, int] = {}  # the large records that were shown: first page and size
        self.maps: list[ref[FileMap]] = []  # of the file, for this state
        self.was_logged = False
        self.lease: Lease | None = None  # in a forked child: what its parent holds the state for

    def is_viewed(self) -> bool:
        """Whether this process has views of the state: others may hold it for children alone."""
        return any(reference() is not None for reference in self.maps)

    def is_read(self) -> bool:
        """Whether anybody could still read from the transaction; who has views does not."""
        return sys.getrefcount(self.txn) > _UNREAD


_example = Hold(object())
_UNREAD = sys.getrefcount(_example.txn)


class FileMap(mmap):
    """The data file as one state has it.  It lives while a view of it does, and holds the state so long."""

    hold: Hold


class Views:
    """What is shown of one environment, and the states that are held for it.

    Where `shows` is false, nothing is shown: every record is copied.  `let_go` is called when a state is held no more,
    maybe by the garbage collector, in the middle of anything.  `note(state, since)` tells other processes what is held
    longest.
    """

    def __init__(
        self,
        location: str,
        page_size: int,
        shows: bool,
        let_go: Callable[[], None],
        note: Callable[[int, float], None],
    ) -> None:
        self.guard = Guard(location)
        self.holds: set[ref[Hold]] = set()
        self.file = FileIO(os.path.join(location, DATA))
        self._location = location
        self._page_size = page_size
        self._shows = shows
        self._let_go = let_go
        self._note = note
        self._noted: Callable[[], Hold | None] = lambda: None
        self._maps: WeakValueDictionary[int, FileMap] = WeakValueDictionary()  # by the number of the state
        self._leases: list[Lease] = []

    def hold(self, txn: Any) -> Hold:
        """Hold the state of a read transaction, and tell of it."""
        hold = Hold(txn)
        self.holds.add(ref(hold, self._forget))
        if self._noted() is None:
            self._tell(hold)
        return hold

    def _tell(self, hold: Hold) -> None:
        self._noted = ref(hold)
        self._note(hold.txn.id(), hold.since)

    def _forget(self, reference: ref[Hold]) -> None:
        self.holds.discard(reference)
        self._let_go()

    def map(self, txn: Any, hold: Hold | None) -> FileMap | None:
        """The file as the state that `txn` reads has it, or None where nothing is shown.

        Views of one state share it, with its transaction, whoever reads them.  The system may have no address or
        no descriptor left for a map; then nothing is shown, either.
        """
        if not self._shows:
            return None
        state = txn.id()
        file_map = self._maps.get(state)
        if file_map is None:
            try:
                file_map = FileMap(self.file.fileno(), 0, access=ACCESS_READ)
            except OSError as exc:
                if exc.errno not in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
                    raise
                return None
            file_map.hold = hold or self.hold(txn)
            file_map.hold.maps.append(ref(file_map))
            self._maps[state] = file_map
        return file_map

    def record(self, file_map: FileMap, page: int, size: int) -> memoryview:
        """The value of `size` bytes that begins on the overflow page of this number.

        Raises StoreCorrupt where there is no such page.
        """
        start = page * self._page_size + PAGE_HEADER_BYTES
        if start + size > len(file_map) or PAGE_NUMBER.unpack_from(file_map, page * self._page_size) != (page,):
            raise StoreCorrupt(
                f"the data file of the store at {self._location!r} is cut short, or its tree is damaged; restore a "
                f"backup"
            )
        file_map.hold.shown[page] = size
        return memoryview(file_map)[start : start + size]

    def is_needed(self) -> bool:
        """Whether the environment must stay open: for views, here or in children."""
        self.end_leases()
        return bool(self._leases) or any(hold.is_viewed() for hold in self._alive())

    def unread(self) -> int:
        """How many states are held, but read by nobody."""
        return sum(not hold.is_read() for hold in self._alive())

    # What is held, and for how long

    def held(self) -> tuple[Held, ...]:
        """The states that are held, the oldest first."""
        now = time.monotonic()
        return tuple(sorted((Held(now - hold.since, sum(hold.shown.values())) for hold in self._alive()), reverse=True))

    def tell_oldest(self) -> None:
        """Tell other processes of the oldest state that is held, if they do not know."""
        if self._noted() is None and (alive := self._alive()):
            self._tell(min(alive, key=lambda hold: hold.since))

    def log_old(self) -> None:
        """Log, once for each, the states that are held for long.  Handlers are code of users: no lock may be held."""
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

    def _alive(self) -> list[Hold]:
        return [hold for reference in list(self.holds) if (hold := reference()) is not None]

    # Forks

    def lend(self) -> None:
        """Before a fork: go on holding what a child will be able to see.

        What this process was itself lent passes on without that.
        """
        self.end_leases()
        holds = [hold for hold in self._alive() if hold.is_viewed() and hold.lease is None]
        if holds:
            self._leases.append(Lease(holds))

    def lent(self) -> None:
        """After a fork, in the parent."""
        for lease in list(self._leases):
            lease.keep_parents_end()

    def borrowed(self) -> None:
        """After a fork, in the child: what it was lent ends with the last of its views, or with the child."""
        leases, self._leases = self._leases, []
        for lease in leases:
            for hold in lease.keep_childs_end():
                hold.lease = lease
        self.file.close()

    def end_leases(self) -> None:
        """Give up what was held for children that are gone."""
        for lease in list(self._leases):
            if lease.has_ended():
                with suppress(ValueError):  # another thread saw it, too
                    self._leases.remove(lease)


class LmdbViewer(LmdbReader):
    """A read transaction that shows large records, and copies the others.

    Its types are wider than those of what it extends: who asks for views (`Reader`) knows that.
    """

    def __init__(self, environment: Any, txn: Any, location: str, views: Views) -> None:
        super().__init__(environment, txn, location)
        self._views = views
        self._guard = views.guard
        self._map: FileMap | None = None

    def get(self, key: bytes) -> Stored | None:  # type: ignore[override]
        self._check()
        token = self._guard.enter()
        try:
            cursor = self.txn.cursor()
            return self._stored(cursor, cursor.key()) if cursor.set_key(key) else None
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        finally:
            del token

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
            self._check()
            more = False
            page = []
            token = guard.enter()
            try:
                if keys is None:
                    cursor = self._place(start, stop, reverse)
                    if cursor is None:
                        return
                    keys = cursor.iterprev(values=False) if reverse else cursor.iternext(values=False)
                for view in islice(keys, _PAGE_ITEMS):
                    key = bytes(view)
                    if key < start if reverse else stop is not None and key >= stop:
                        break
                    item = (key, take(cursor, view))
                    page.append(item)
                    if isinstance(item[1], bytes) and len(item[1]) >= LARGE:  # where nothing is shown
                        more = True
                        break
                else:
                    more = len(page) == _PAGE_ITEMS
            except lmdb.Error as exc:
                raise translate(exc, self._location) from exc
            finally:
                del token
            for item in page:
                if process.generation != born:
                    raise TransactionError(FORKED)
                guard.check_open()
                yield item

    def _stored(self, cursor: Any, key: memoryview) -> Stored:
        """The record on which the cursor stands, whose key `key` shows.  Under the guard."""
        address = address_of(key)
        low, high, flags, key_bytes = NODE.unpack(bytes_at(address - NODE.size, NODE.size))
        size = low | high << 16
        if size >= LARGE and flags & BIG_DATA:
            if self._map is None:
                self._map = self._views.map(self.txn, self.hold)
            if self._map is not None:
                (page,) = PAGE_NUMBER.unpack(bytes_at(address + key_bytes, PAGE_NUMBER.size))
                return self._views.record(self._map, page, size)
        return bytes(cursor.value())
