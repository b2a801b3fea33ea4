"""diskcache: a directory with `cache.db`, in which a row is an entry, and files beside it for what is large.

What a row says of its value is a mode: as SQLite has it, bytes or text in a file, or a pickle, there or in a file.  A
key is as SQLite has it, or a pickle.  `JSONDisk` makes both JSON and compresses it; it is known by its keys, which are
nothing else.  `FanoutCache` spreads its rows over directories 000, 001 and so on, and what was made with its methods
`cache`, `deque` and `index` lies in directories of these names: each of them is a namespace.

The package diskcache is not needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from objstore.errors import SourceError
from objstore.exchange.base import Content, Entry, Position, Unreadable
from objstore.exchange.consent import Decoding, decompressed, parsed, text
from objstore.exchange.sqlite import Database

DATABASE = "cache.db"
_TABLE = "Cache"
_COLUMNS = "key, raw, expire_time, tag, size, mode, filename, value"
_NEEDED = {"key", "raw", "expire_time", "tag", "mode", "filename", "value"}
_RAW, _BINARY, _TEXT, _PICKLE = range(1, 5)
_PARTS = ("cache", "deque", "index")
_SAMPLE = "SELECT key, raw FROM Cache ORDER BY rowid LIMIT 20"


def is_diskcache(path: Path) -> bool:
    """Whether a directory is a `Cache` or a `FanoutCache`."""
    return (path / DATABASE).is_file() or (path / "000" / DATABASE).is_file()


class _Row(NamedTuple):
    key: Any
    raw: int
    expire_time: Any
    tag: Any
    size: Any
    mode: int
    filename: Any
    value: Any


class _Shard:
    """A directory with a `cache.db`."""

    def __init__(self, name: str, directory: Path, root: Path) -> None:
        self.name = name
        self.directory = directory
        self.namespace = _namespace(directory, root)
        self.database = Database(directory / DATABASE)
        try:
            self.is_json = self._is_json()
        except BaseException:
            self.database.close()
            raise

    def _is_json(self) -> bool:
        """Whether it was written by `JSONDisk`.  Raises SourceError where it was not written by diskcache at all."""
        if not set(self.database.tables().get(_TABLE, ())) >= _NEEDED:
            raise SourceError(f"{str(self.database.path)!r} is no cache of diskcache: it has no such table")
        sample = self.database.all(_SAMPLE)
        return bool(sample) and all(raw and _tells_json(key) for key, raw in sample)


def _namespace(directory: Path, root: Path) -> str | None:
    parts = directory.relative_to(root).parts
    if parts and len(parts[-1]) == 3 and parts[-1].isdigit():
        parts = parts[:-1]
    return "/".join(parts) or None


def _tells_json(raw: Any) -> bool:
    if not isinstance(raw, bytes):
        return False
    try:
        json.loads(decompressed(raw, ""))
    except (Unreadable, ValueError, RecursionError):
        return False
    return True


class DiskCache:
    """A cache of diskcache, in one directory or in several."""

    format = "diskcache"

    def __init__(self, path: Path, decoding: Decoding) -> None:
        self.path, self._decoding = str(path), decoding
        self._shards: list[_Shard] = []
        try:
            for name in _shards(path):
                self._shards.append(_Shard(name, path / name, path))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for shard in self._shards:
            shard.database.close()

    def count(self) -> int:
        return sum(shard.database.count(_TABLE) for shard in self._shards)

    def fingerprint(self) -> list[Any]:
        return [[shard.name, shard.database.fingerprint()] for shard in self._shards]

    def entries(self, after: Position | None) -> Iterator[Entry]:
        first, row = after or ("", None)
        for shard in self._shards:
            if shard.name >= first:
                yield from self._rows(shard, row if shard.name == first else None)

    def _rows(self, shard: _Shard, after: int | None) -> Iterator[Entry]:
        for number, *columns in shard.database.rows(_TABLE, _COLUMNS, after):
            row = _Row(*columns)
            size = len(row.value) if isinstance(row.value, (bytes, str)) else 8
            if isinstance(row.size, int):  # what SQLite has there is nobody's promise
                size += max(row.size, 0)
            yield Entry([shard.name, number], repr(row.key), size, partial(self._read, shard, row))

    def _read(self, shard: _Shard, row: _Row) -> Content:
        if not isinstance(row.expire_time, (int, float, type(None))):
            raise Unreadable("the moment when it expires is no number")
        tags = () if row.tag is None else (_tag(row.tag),)
        return Content(self._key(shard, row), partial(self._value, shard, row), shard.namespace, row.expire_time, tags)

    def _key(self, shard: _Shard, row: _Row) -> Any:
        if shard.is_json:
            return _as_key(_from_json(row.key, "its key"))
        if row.raw:
            return row.key
        return self._decoding.unpickle(row.key)

    def _value(self, shard: _Shard, row: _Row) -> Any:
        stored = row.value if row.filename is None else _file(shard.directory, row.filename)
        if row.mode == _PICKLE:
            return self._decoding.unpickle(stored)
        if row.mode == _TEXT:
            return text(stored, "its file is no UTF-8")
        if row.mode not in (_RAW, _BINARY):
            raise Unreadable(f"it is stored in a way that is not known (mode {row.mode})")
        return _from_json(stored, "its value") if shard.is_json else stored


def _shards(path: Path) -> list[str]:
    """The directories that have a `cache.db`, in order: this one, those of numbers, those of parts."""
    found = [""] if (path / DATABASE).is_file() else []
    for name in sorted(os.listdir(path)):
        inner = path / name
        if len(name) == 3 and name.isdigit() and (inner / DATABASE).is_file():
            found.append(name)
        elif name in _PARTS and inner.is_dir():
            found += [str(each.parent.relative_to(path)) for each in inner.rglob(DATABASE)]
    return sorted(found)


def _file(directory: Path, name: Any) -> bytes:
    """What is in the file of a value, which lies in the directory of its cache.  Raises Unreadable."""
    path = directory / text(name, "the name of its file is no text")
    try:
        if not path.resolve().is_relative_to(directory.resolve()):
            raise Unreadable(f"its file {name!r} is outside of the cache")
        if path.exists() and not path.is_file():  # a pipe, say, which would never end
            raise Unreadable(f"its file {name!r} is no regular file")
        return path.read_bytes()
    except (OSError, ValueError, RuntimeError) as exc:  # the last two: a NUL, links in a circle before Python 3.13
        why = exc.strerror if isinstance(exc, OSError) else None
        raise Unreadable(f"its file {name!r} cannot be read: {why or exc}") from exc


def _from_json(stored: Any, what: str) -> Any:
    if not isinstance(stored, bytes):
        raise Unreadable(f"{what} is no compressed JSON")
    return parsed(text(decompressed(stored, f"{what} is no compressed JSON"), f"{what} is no UTF-8"))


def _as_key(found: Any) -> Any:
    """A key that JSON tells; a tuple is an array there."""
    return tuple(map(_as_key, found)) if isinstance(found, list) else found


def _tag(tag: Any) -> str:
    return text(tag, "its tag is no UTF-8") if isinstance(tag, bytes) else str(tag)
