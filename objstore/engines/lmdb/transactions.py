"""Transactions of LMDB, as the contract of engines wants them.

A read transaction is ended by dropping it, never by `abort`: in a forked child, dropping leaves the
parent's reader slot alone, where `abort` would free it while the parent still reads.  A write
transaction is ended by the thread that began it (see `transaction`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, mmap
from threading import get_ident
from typing import Any

import lmdb

from objstore.engines.base import process
from objstore.engines.lmdb.addresses import writable
from objstore.engines.lmdb.errors import translate
from objstore.errors import StoreError, TransactionError
from objstore.record import HEAD_BYTES, LARGE, Draft, Packed, Parts

FORKED = "this began before a fork and belongs to the parent; begin a new one in the child"


class _Ended:
    """Stands where a write transaction was."""

    def __getattr__(self, _name: str) -> Any:
        raise TransactionError("this transaction has ended; begin a new one")


_ENDED = _Ended()


# As many zeros as were ever asked for: all of them one page of the system's, and no memory.
_all_zeros = mmap(-1, LARGE, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ)


def _zeros(size: int) -> memoryview | None:
    """So many zeros, or None where the system has no addresses for them."""
    global _all_zeros
    zeros = _all_zeros
    if len(zeros) < size:
        try:
            _all_zeros = zeros = mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ)
        except OSError:
            return None
    return memoryview(zeros)[:size]


class LmdbReader:
    """A read transaction: it ends when the last reference to it is dropped."""

    def __init__(self, environment: Any, txn: Any, location: str) -> None:
        self._environment = environment
        self.txn = txn  # Any: py-lmdb's stubs cannot tell bytes from views
        self._location = location
        self.keeper: object = None
        self.hold: Any = None  # see `zerocopy`: what tells of this, where somebody may keep it
        self._born = process.generation

    def get(self, key: bytes) -> bytes | None:
        self._check()
        try:
            record: bytes | None = self.txn.get(key)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return record

    def contains(self, key: bytes) -> bool:
        self._check()
        try:
            there: bool = self.txn.cursor().set_key(key)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return there

    def get_many(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        self._check()
        try:
            items: list[tuple[bytes, bytes]] = self.txn.cursor().getmulti(keys)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return items

    def scan(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        born = self._born
        try:
            cursor = self._place(start, stop, reverse)
            if cursor is None:
                return
            for item in cursor.iterprev() if reverse else cursor.iternext():
                if process.generation != born:
                    raise TransactionError(FORKED)
                if (reverse and item[0] < start) or (stop is not None and item[0] >= stop):
                    return
                yield item
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc

    def scan_keys(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        born = self._born
        try:
            cursor = self._place(start, stop, reverse)
            if cursor is None:
                return
            for key in cursor.iterprev(values=False) if reverse else cursor.iternext(values=False):
                if process.generation != born:
                    raise TransactionError(FORKED)
                if key < start if reverse else stop is not None and key >= stop:
                    return
                yield key
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc

    def scan_heads(
        self, start: bytes, stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes, int]]:
        return ((key, record[:HEAD_BYTES], len(record)) for key, record in self.scan(start, stop, reverse))

    def _place(self, start: bytes, stop: bytes | None, reverse: bool) -> Any:
        """A cursor on the first item to visit, or None where there is none."""
        self._check()
        cursor = self.txn.cursor()
        if not reverse:
            found = cursor.set_range(start)
        elif stop is not None and cursor.set_range(stop):
            found = cursor.prev()
        else:
            found = cursor.last()
        return cursor if found else None

    def count(self) -> int:
        self._check()
        try:
            entries: int = self.txn.stat()["entries"]
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return entries

    def has_large(self) -> bool:
        """Whether any record may be large: such have pages of their own, which LMDB counts."""
        try:
            figures = self.txn.stat()
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return bool(figures["overflow_pages"] * figures["psize"] >= LARGE)

    def _check(self) -> None:
        if self._born != process.generation:
            raise TransactionError(FORKED)


class LmdbWriter(LmdbReader):
    """The write transaction of this process, or a savepoint in it.

    Its transaction gives views, so that a large record can be written where it lies; all else is copied here, and
    at once: the next write may change what a view shows.  No guard is needed for that: LMDB neither closes nor moves
    a map in which a write transaction is open, and py-lmdb's `close` waits for its end.
    """

    def __init__(self, environment: Any, txn: Any, location: str, failed: Callable[[lmdb.Error], StoreError]) -> None:
        super().__init__(environment, txn, location)
        self._failed = failed  # what a commit that fails means
        self._thread = get_ident()
        self.token: object = None  # of the guard that knows who writes, where there is one
        self.turn: object = None  # see `turns`

    def is_open(self) -> bool:
        """Whether it must still be ended."""
        return self.txn is not _ENDED and self._born == process.generation

    def is_open_here(self) -> bool:
        """Whether this thread must still end it."""
        return self.is_open() and self._thread == get_ident()

    def _check(self) -> None:
        if self._born != process.generation:
            raise TransactionError(FORKED)
        if self._thread != get_ident():
            raise TransactionError("this belongs to the thread that began it; begin another in this one")

    def get(self, key: bytes) -> bytes | None:
        self._check()
        try:
            view = self.txn.get(key)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return None if view is None else bytes(view)

    def head(self, key: bytes) -> tuple[bytes, int] | None:
        self._check()
        try:
            view = self.txn.get(key)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return None if view is None else (bytes(view[:HEAD_BYTES]), len(view))

    def get_first(self, start: bytes, stop: bytes | None, count: int) -> list[tuple[bytes, bytes]]:
        try:
            cursor = self._place(start, stop, reverse=False)
            if cursor is None:
                return []
            items = [(bytes(key), bytes(record)) for key, record in islice(cursor.iternext(), count)]
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return items if stop is None else [item for item in items if item[0] < stop]

    def get_many(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        return [(bytes(key), bytes(view)) for key, view in super().get_many(keys)]

    def put(self, key: bytes, record: Packed) -> None:
        self._check()
        try:
            if isinstance(record, bytes):
                self.txn.put(key, record)
            else:
                self._put_in_place(key, record)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc

    def _put_in_place(self, key: bytes, draft: Draft | Parts) -> None:
        """Let LMDB make room for a large record, and write it there: its own copy would need all of it joined before.

        (LMDB has a flag for this, which py-lmdb does not offer.)  The room is memory of the transaction, in which
        nothing is in the file yet; its page says so.
        """
        zeros = _zeros(draft.size)
        if zeros is not None:
            try:
                self.txn.put(key, zeros)
                place = writable(self.txn.get(key))
                if place is not None:
                    draft.write(place)
                    return
            except lmdb.Error:
                raise
            except BaseException:
                self.abort()  # what lies there is half a record
                raise
        self.txn.put(key, bytes(draft))

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self._check()
        try:
            self.txn.cursor().putmulti(items)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc

    def delete(self, key: bytes) -> bool:
        self._check()
        try:
            there: bool = self.txn.delete(key)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return there

    def delete_range(self, start: bytes, stop: bytes | None) -> int:
        self._check()
        try:
            cursor = self.txn.cursor()
            count = 0
            cursor.set_range(start)
            while (key := bytes(cursor.key())) and (stop is None or key < stop):  # b"" is behind the last
                cursor.delete()  # and stands on the next
                count += 1
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return count

    def scan(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        # Each step looks the place up anew: whatever was written in between, the scan moves on.
        while True:
            try:
                cursor = self._place(start, stop, reverse)
                key, record = (None, b"") if cursor is None else map(bytes, cursor.item())
            except lmdb.Error as exc:
                raise translate(exc, self._location) from exc
            if key is None or (key < start if reverse else stop is not None and key >= stop):
                return
            yield key, record
            if reverse:
                stop = key
            else:
                start = key + b"\x00"

    def scan_keys(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        return (key for key, _ in self.scan(start, stop, reverse))

    def savepoint(self) -> LmdbWriter:
        self._check()
        try:
            self.txn.id  # noqa: B018  (is there, unless the transaction has ended)
            inner = self._environment.begin(parent=self.txn, write=True, buffers=True)
        except lmdb.Error as exc:
            raise translate(exc, self._location) from exc
        return LmdbWriter(self._environment, inner, self._location, self._failed)

    def commit(self) -> None:
        self._check()
        txn, self.txn = self.txn, _ENDED
        try:
            txn.commit()
        except lmdb.Error as exc:
            raise self._failed(exc) from exc
        finally:
            self.token = self.turn = None

    def abort(self) -> None:
        if self._born == process.generation and self.txn is not _ENDED:
            txn, self.txn = self.txn, _ENDED
            txn.abort()
            self.token = self.turn = None
