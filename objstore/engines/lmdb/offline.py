"""Stores that are not open, and may be too damaged for that: read without LMDB, while nobody else has them.

Where somebody has one open, it can be opened, and is looked at like any other that is open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from objstore.engines.base import Engine, Inspection, Progress
from objstore.engines.lmdb.datafile import DATA, DataFile, Meta, state_of, state_text
from objstore.engines.lmdb.directory import Directory
from objstore.engines.lmdb.engine import Options
from objstore.engines.lmdb.errors import translated_os
from objstore.engines.lmdb.opening import open_lmdb, take
from objstore.engines.lmdb.registry import claimed
from objstore.engines.lmdb.structure import Walk, strays
from objstore.errors import ReadOnlyStore, StoreCorrupt, StoreLocked

Item = tuple[bytes, bytes | None]
"""A key and its record, or None where that cannot be read."""


def inspect(descriptor: int, state: str, problem: Callable[[str], None], progress: Progress) -> Iterator[Item]:
    """The items of a state (see `base.Inspection`), in order; `problem(text)` is told what is wrong with its pages."""
    meta = state_of(state)
    file = DataFile(descriptor, meta.page_size)
    if len(file.metas()) < 2:
        problem("one of the two meta pages is damaged")
    walk = Walk(file, meta, problem, progress)
    yield from walk.items()
    walk.check_free()


@contextmanager
def inspecting(path: str) -> Iterator[tuple[Inspection, Directory | None]]:
    """What can be inspected of the store at `path`; and its directory, if nobody has it open: that can be accepted.

    Raises StoreCorrupt where there is nothing to inspect.
    """
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(take(path))
        except (StoreLocked, ReadOnlyStore):  # somebody has it open, so it can be opened
            engine = open_lmdb(path, "r", {}, None, lambda _identity, _location: None, Options())
            stack.callback(engine.release)
            yield engine.inspection(), None
        else:
            file, meta = stack.enter_context(_reading(directory.path))
            yield Inspection(directory.path, file, state_text(meta)), directory


class Remains:
    """What is left of a store that nobody has open."""

    def __init__(self, descriptor: int, meta: Meta) -> None:
        self._file = DataFile(descriptor, meta.page_size)
        self._meta = meta
        self._walk: Walk | None = None

    def items(self, problem: Callable[[str], None], progress: Progress) -> Iterator[Item]:
        """What its tree still leads to, in order; `problem(text)` is told what is wrong with its pages."""
        self._walk = Walk(self._file, self._meta, problem, progress)
        return self._walk.items()

    def strays(self, take: Callable[[bytes, bytes], bool]) -> None:
        """Show `take` what may be keys and records in pages that are neither in the tree nor free; most of it is none.

        It answers whether this was one.  To be called when `items` has ended.
        """
        assert self._walk is not None
        self._walk.check_free()
        if not self._walk.is_whole:
            strays(self._file, self._meta, self._walk.reached, take)


@contextmanager
def remaining(path: str) -> Iterator[Remains]:
    """What remains of the store at `path`.  Raises StoreLocked where somebody has it open, StoreCorrupt."""
    with take(path) as directory, _reading(directory.path) as (file, meta):
        yield Remains(file, meta)


def make_store(path: str, initial: Mapping[bytes, bytes], durability: str, fill: Callable[[Engine], None]) -> None:
    """Make a store at `path`, where there is nothing: it is there when `fill(engine)` has filled it, or not at all.

    Raises StoreExists.
    """

    def make(making: str) -> None:
        engine = open_lmdb(making, "c", initial, durability, lambda _identity, _location: None, Options())
        try:
            fill(engine)
            engine.sync()
        finally:
            engine.release()

    with translated_os(path):
        Directory(os.path.abspath(path), True, Options().max_readers).make_new(make, claimed)


@contextmanager
def _reading(directory_path: str) -> Iterator[tuple[int, Meta]]:
    """The data file, open for reading, and its newest state."""
    with translated_os(directory_path):
        try:
            descriptor = os.open(os.path.join(directory_path, DATA), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreCorrupt(
                f"the data file of the store at {directory_path!r} is missing; restore a backup"
            ) from None
    try:
        with translated_os(directory_path):
            metas = DataFile(descriptor).metas()
        if not metas:
            raise StoreCorrupt(
                f"the data file of the store at {directory_path!r} is empty, or no LMDB file; restore a backup"
            )
        yield descriptor, metas[0]
    finally:
        os.close(descriptor)
