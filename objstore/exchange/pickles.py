"""Pickle files: one object each; a single one, or a directory of them, in which a sub-directory is a namespace.

The key is the name of the file, without the suffix by which one knows a pickle; or what the index says, where there is
one, as in a directory that was exported.  A file with more than one object in it is left behind: only whoever wrote it
knows what the others are to be called.
"""

from __future__ import annotations

import os
import pickletools
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from objstore.engines.lmdb.datafile import DATA
from objstore.engines.lmdb.directory import OURS
from objstore.errors import SourceError
from objstore.exchange.base import Content, Entry, Position, Unreadable, beginning, states, unreadable_file
from objstore.exchange.consent import Decoding, ends_at
from objstore.exchange.diskcaches import DATABASE
from objstore.exchange.jsonlines import Item
from objstore.exchange.pickledirs import INDEX, read_index

SUFFIXES = (".pickle", ".pkl", ".pck", ".pickled", ".p")

_FILES_OF_STORES = (DATA, OURS, DATABASE)
_SMALL = 1 << 16  # bytes to which it costs next to nothing to go through them
_NEWEST = 5
_STOP = b"."
_OLD_OPCODES = frozenset(opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.proto < 2)


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, by its content."""
    if not path.is_file():
        return False
    begin = beginning(path, 2)
    if begin[:1] == b"\x80":
        return 2 <= begin[-1] <= _NEWEST and len(begin) == 2
    if begin[:1] not in _OLD_OPCODES:
        return False
    whole = _whole(path)
    return whole.endswith(_STOP) and ends_at(whole) is not None


def _whole(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise unreadable_file(path, exc) from exc


class PickleFiles:
    """A pickle file, or those in a directory."""

    format = "pickle"

    def __init__(self, path: Path, decoding: Decoding) -> None:
        self.path = str(path)
        self._decoding = decoding
        self._root = path if path.is_dir() else path.parent
        self._index = _index_of(path)
        self._names = _names_in(path, self._index) if path.is_dir() else [path.name]

    def close(self) -> None:
        pass

    def count(self) -> int:
        return len(self._names)

    def fingerprint(self) -> list[Any]:
        return states(self._root / name for name in self._names)

    def entries(self, after: Position | None) -> Iterator[Entry]:
        for name in self._names:
            if after is None or name > after:
                path = self._root / name
                yield Entry(name, name, _size(path), partial(self._read, path, name))

    def _read(self, path: Path, name: str) -> Content:
        load, known = partial(self._load, path), self._index.get(name)
        if known is None:
            return Content(key_of(path.name), load, os.path.dirname(name) or None)
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self._root)):  # no export has links
            raise Unreadable("the index names a file that is elsewhere, behind a link")
        return Content(known.key, load, known.namespace, known.expires_at, known.tags)

    def _load(self, path: Path) -> Any:
        try:
            if path.is_dir():
                raise Unreadable("it is a store, or the cache of another package; import or copy it by itself")
            if path.exists() and not path.is_file():  # a pipe, say, which would never end
                raise Unreadable("it is no regular file")
            data = path.read_bytes()
        except OSError as exc:
            raise Unreadable(f"it cannot be read: {exc.strerror or exc}") from exc
        if data[:1] != b"\x80" and data[:1] not in _OLD_OPCODES:
            raise Unreadable("it is no pickle file" if data else "the file is empty")
        if may_have_more(data) and (end := ends_at(data)) not in (None, len(data)):
            raise Unreadable(
                f"{len(data) - (end or 0):,} bytes follow its first object; load its objects in Python, one by one, "
                f"and store each under a key of its own"
            )
        return self._decoding.unpickle(data)


def may_have_more(data: bytes) -> bool:
    """Whether something may follow the first object: what can be told without going through it all."""
    if len(data) < _SMALL or not data.endswith(_STOP) or data[:1] != b"\x80":
        return True
    return b".\x80" in data


def key_of(name: str) -> str:
    """The key of a file."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in SUFFIXES else name


def _index_of(path: Path) -> dict[str, Item]:
    """What an export says of its files, by their names; nothing where this is none.  Raises SourceError."""
    if not (path / INDEX).is_file():
        return {}
    try:
        return {os.path.relpath(name, path): item for name, item in read_index(path)}
    except ValueError as exc:
        raise SourceError(f"{str(path)!r} is no export: {exc}; mend the line, or rename the file") from exc
    except OSError as exc:
        raise unreadable_file(path / INDEX, exc) from exc


def _names_in(directory: Path, index: Mapping[str, Item]) -> list[str]:
    """The files in a directory and in those below it, in order, and those that should be there.

    Those whose names begin with a dot are nobody's, and what lies in a store or a cache is none of a directory of
    pickles: such a directory is named itself, so that the report tells of it.
    """
    found = list(index)
    for place, directories, names in os.walk(directory):
        stores = [name for name in directories if _is_store(Path(place, name))]
        directories[:] = [name for name in directories if not name.startswith(".") and name not in stores]
        names += stores
        below = os.path.relpath(place, directory)
        found += [name if below == "." else f"{below}/{name}" for name in names if not name.startswith(".")]
    return sorted(set(found) - ({INDEX} if index else set()))


def _is_store(directory: Path) -> bool:
    """Whether another source, or a store, lies in a directory."""
    return any((directory / name).exists() for name in _FILES_OF_STORES)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
