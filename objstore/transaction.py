"""Snapshot and Transaction: a consistent state to read, and a unit of work.

Both are mappings (see `mapping`); what they add is a life of their own: when it begins and ends, who may
use it, and how the parts that share it (namespaces, savepoints) hang together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

from objstore.codecs.base import Codec
from objstore.engines.base import Engine, Reader, Stored, Writer, process
from objstore.errors import StoreClosed, TransactionError
from objstore.mapping import Readable, Writable
from objstore.space import Space

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class Snapshot(Readable[K, V]):
    """The store at one point in time, for reading.

    It begins when it is made and ends with its `with` block or `close()`; what it shows never changes,
    and nothing expires in it.  Any thread may use it.  While it is open, the file keeps the pages that it
    shows and grows instead of using them again, so keep it short.

    Large buffers in its values (64 KiB and more: NumPy arrays, the columns of a DataFrame) are read-only views of
    the store, found without a copy.  They stay valid for as long as they are referenced, whatever is closed, and
    hold the whole snapshot so long.
    """

    def __init__(self, space: Space, reader: Reader | None) -> None:
        self._space = space
        self._state = reader

    def __enter__(self) -> Self:
        self._reader()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshot; again does no harm."""
        self._state = None

    def namespace(self, name: str, *, codec: Codec | str | None = None) -> Snapshot[Any, Any]:
        """Another namespace at the same point in time; it is closed by itself.  `codec` as in `Store.namespace`."""
        reader = self._reader()
        return Snapshot(self._space.sibling(name, reader, codec), reader)

    def _reader(self, views: bool = True) -> Reader:
        if self._state is None:
            raise StoreClosed("the snapshot is closed; take another with store.snapshot()")
        return self._state

    def _record(self, tree_key: bytes) -> Stored | None:
        return self._reader().get(tree_key)

    _find = _record

    def __repr__(self) -> str:
        return "<Snapshot, closed>" if self._state is None else f"<Snapshot of {len(self)} items>"

    def __reduce__(self) -> Any:
        raise TypeError("a snapshot cannot be pickled; pickle the store, and take a snapshot where it arrives")


class _Here(threading.local):
    """The units of work of a thread, as long as somebody has them."""

    def __init__(self) -> None:
        self.units: WeakSet[Unit] = WeakSet()


_here = _Here()


def is_in_transaction() -> bool:
    """Whether this thread has a transaction open, of whatever store: others may wait for its end."""
    return any(unit.is_open() for unit in _here.units)


class Unit:
    """The life of one write transaction, shared by its namespaces."""

    def __init__(self, begin: Callable[[], Writer], engine: Engine, outer: Unit | None = None) -> None:
        self._begin = begin
        self.engine = engine
        self._outer = outer
        self._writer: Writer | None = None
        self._thread = 0
        self._born = -1
        self._ended = False
        self.resting = False  # while a savepoint is open

    def is_open(self) -> bool:
        """Whether it has begun, in this process, and not ended."""
        return self._writer is not None and self._born == process.generation

    def writer(self) -> Writer:
        """The engine's transaction, for one who may use it now."""
        if self._writer is None:
            raise TransactionError(
                "the transaction has ended; begin another"
                if self._ended
                else "the transaction has not begun; use it as `with store.transaction() as txn:`"
            )
        self._check_owner()
        if self.resting:
            raise TransactionError("a savepoint of this transaction is open; use that one, or after it ends")
        return self._writer

    def _check_owner(self) -> None:
        if self._born != process.generation:
            raise TransactionError("the transaction belongs to the parent process; begin one in the child")
        if self._thread != threading.get_ident():
            raise TransactionError("the transaction belongs to the thread that began it; begin another in this one")

    def begin(self) -> None:
        if self._ended or self._writer is not None:
            raise TransactionError("a transaction is entered once; begin another")
        if self._outer is not None:
            self._writer = self._begin()
            self._outer.resting = True
        else:
            self.engine.retain(self)  # it stays open for as long as this lasts, whoever closes a handle
            try:
                self._writer = self._begin()
            except BaseException:
                self.engine.release(self)
                raise
        self._thread = threading.get_ident()
        self._born = process.generation
        if self._outer is None:
            _here.units.add(self)

    def end(self, commit: bool) -> None:
        self._check_owner()
        writer, self._writer = self._writer, None
        assert writer is not None
        self._ended = True
        _here.units.discard(self)
        try:
            if commit and not self.resting:
                writer.commit()
            else:
                writer.abort()
        finally:
            if self._outer is not None:
                self._outer.resting = False
            else:
                self.engine.release(self)
        if self.resting:
            raise TransactionError("a savepoint of the transaction was open at its end, so nothing of it was applied")


class Transaction(Writable[K, V]):
    """A unit of work: all of it is applied when the `with` block ends, or none if the block raises.

    It sees its own changes.  It belongs to the thread that entered it; other writers, of all processes,
    wait for its end, so keep it short.  An iteration inside it moves forward and sees what is written
    meanwhile.
    """

    def __init__(self, space: Space, unit: Unit, default_ttl: Any = None) -> None:
        self._space = space
        self._unit = unit
        self._default_ttl = default_ttl

    def __enter__(self) -> Self:
        self._unit.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._unit.end(commit=kind is None)
        except TransactionError:
            if kind is None:  # else the error of the block matters more
                raise

    def transaction(self) -> Transaction[K, V]:
        """A savepoint: a transaction inside this one, which commits into it or aborts alone.

        While it is open, this one refuses use: TransactionError.
        """
        unit = Unit(lambda: self._unit.writer().savepoint(), self._unit.engine, self._unit)
        return Transaction(self._space, unit, self._default_ttl)

    def namespace(self, name: str, *, codec: Codec | str | None = None) -> Transaction[Any, Any]:
        """Another namespace in the same transaction; not to be entered by itself.  `codec` as in `Store.namespace`."""
        writer = self._unit.writer()
        space = self._space.sibling(name, writer, codec)
        if space.has_own_codec:
            space.declare(writer)
        return Transaction(space, self._unit, self._default_ttl)

    def _reader(self, views: bool = False) -> Reader:
        return self._unit.writer()

    def _record(self, tree_key: bytes) -> bytes | None:
        return self._unit.writer().get(tree_key)

    _find = _record

    def _apply(self, function: Callable[..., D], *arguments: Any) -> D:
        return function(self._unit.writer(), *arguments)

    def __repr__(self) -> str:
        return "<Transaction>"

    def __reduce__(self) -> Any:
        raise TypeError("a transaction cannot be pickled; pickle the store, and begin one where it arrives")
