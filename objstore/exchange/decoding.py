"""Exporting values: each is read, encoded for others, and written; what cannot be is left out and told.

The values are private copies, so that arrays that are pickled anew stay writable, and every byte of them was verified.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NoReturn

from objstore.audit import Damage
from objstore.engines.base import Progress, Reader
from objstore.errors import StoreError
from objstore.exchange.files import new_directory, target_file
from objstore.exchange.jsonlines import Item, write_line
from objstore.exchange.pickledirs import PickleDirectory
from objstore.keys import prefix_bounds
from objstore.mapping import DEFAULT
from objstore.space import Found, Space, check_tag
from objstore.store import Store

_STEP = 500  # entries between two calls of progress

Sink = Callable[[Item], Callable[[], object]]
"""Encodes an entry, and gives what writes it."""


class Exporting:
    """Goes through a store, and decodes what it finds."""

    def __init__(
        self, store: Store[Any, Any], namespace: str | None, prefix: Any, tag: str | None, progress: Progress | None
    ) -> None:
        if prefix is not DEFAULT:
            store._require_order()
        self._store = store
        self._bounds = None if prefix is DEFAULT else prefix_bounds(prefix)
        self._tag = None if tag is None else check_tag(tag)
        self._progress = progress
        self._names = _names(store, namespace)
        self._exported = self._skipped = 0
        self._why: list[Damage] = []
        self._most = 0
        self._reader: Reader = store._engine.snapshot() if store.supports("snapshot") else store._reader()
        self._now = store._space.now()

    def run(self, sink: Sink, most: int) -> tuple[int, int, list[Damage]]:
        """Write each entry: how many were, how many could not be, and the first of these, so many at most."""
        self._most = most
        total = self._total()
        for name in self._names:
            space, read = self._store._space.relative(name), self._read(name)
            for found in self._scan(space):
                self._export(name, found, read, sink)
                self._tell(total, _STEP)
        self._tell(0, 1)
        return self._exported, self._skipped, self._why

    def _total(self) -> int:
        if self._bounds or self._tag is not None:
            return 0  # to count them is to go through them
        return sum(self._store._space.relative(name).count(self._reader) for name in self._names)

    def _tell(self, total: int, step: int) -> None:
        done = self._exported + self._skipped
        if self._progress and done % step == 0:
            self._progress(done, max(done, total))

    def _scan(self, space: Space) -> Iterator[Found]:
        start, stop = space.start, space.stop
        if self._bounds:
            start, stop = (space.prefix + bound for bound in self._bounds)
        if self._tag is not None:
            return space.scan_tag(self._reader, self._tag, start, stop, False, self._now)
        return space.scan(self._reader, start, stop, False, self._now)

    def _read(self, name: str) -> Callable[[Found], Any]:
        """What reads the values of a namespace."""
        try:
            space = self._store.namespace(name)._space if name else self._store._space
        except StoreError as exc:  # its codec is none that is taken on trust
            return partial(_refuse, exc)
        return lambda found: space.value(found.key, found.tree_key, self._reader.get(found.tree_key), self._now)

    def _export(self, name: str, found: Found, read: Callable[[Found], Any], sink: Sink) -> None:
        try:
            value = read(found)
        except KeyError:  # gone meanwhile
            return
        except StoreError as exc:
            self._skip(name, found, str(exc))
            return
        expires = found.header.expires_at
        item = Item(found.key, value, name or None, None if expires is None else expires / 1e6, found.header.tags)
        try:
            write = sink(item)
        except Exception as exc:  # noqa: BLE001  (whatever the objects raise while they are encoded)
            self._skip(name, found, str(exc) or type(exc).__name__)
            return
        write()
        self._exported += 1

    def _skip(self, name: str, found: Found, why: str) -> None:
        self._skipped += 1
        if len(self._why) < self._most:
            self._why.append(Damage(name, found.key, why))


def _refuse(error: StoreError, _found: Found) -> NoReturn:
    raise error


def _names(store: Store[Any, Any], namespace: str | None) -> list[str]:
    """The names of the namespaces to export, the default one first."""
    names = ["", *store.namespaces()]
    if namespace is None:
        return names
    if namespace not in names:
        raise ValueError(f"the store at {store.location!r} has no namespace {namespace!r}")
    return [namespace]


# Where it is written


def _to_lines(target: str | os.PathLike[str], force: bool, opened: ExitStack) -> Sink:
    file = target_file(target, force, opened)
    return lambda item: partial(file.write, write_line(item))


def _to_pickles(target: str | os.PathLike[str], force: bool, opened: ExitStack) -> Sink:
    if os.fspath(target) == "-" or force:
        raise ValueError(
            "an export to pickle makes a new directory, which is neither standard output nor replaces another"
        )
    directory = PickleDirectory(opened.enter_context(new_directory(target)))
    opened.callback(directory.close)
    return directory.sink


SINKS = {"jsonl": _to_lines, "pickle": _to_pickles}
"""By format, what begins an export: given the target, whether to replace what is there, and what is left at the end."""
