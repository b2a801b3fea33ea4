"""Shelves: pickles in a database of one of Python's `dbm` modules, under keys that are text.

A shelf has the name that it was opened with, and files that have others: those of `dbm.dumb` (.dir, .dat, .bak), of
`dbm.gnu` (none), of `dbm.ndbm` (.db, or .dir and .pag), of `dbm.sqlite3` (none).  The last is a file of SQLite with one
table, and read as such, so that Pythons before 3.13 read it, too; the others need the module that wrote them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from objstore.errors import SourceError
from objstore.exchange.base import Content, Entry, Position, beginning, states
from objstore.exchange.consent import Decoding
from objstore.exchange.sqlite import Database, is_sqlite

_GNU = {0x13579ACD, 0x13579ACE, 0x13579ACF}
_BERKELEY = {0x00061561, 0x00053162}
_SUFFIXES = ("", ".dir", ".dat", ".bak", ".db", ".pag")
SQLITE_TABLE = "Dict"
_BYTES = (bytes, str)  # the text of SQLite, where somebody else has written

# What `dbm.dumb` raises, and Python's parser in it, where its index makes no sense.
_SENSELESS = (ValueError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError)

_PACKAGES = {
    "dbm.gnu": "the package python3-gdbm on Debian, or a Python that was built with libgdbm",
    "dbm.ndbm": "a Python that was built with libdb or libgdbm-compat, as Debian's python3 is",
}


class Shelf(NamedTuple):
    """A shelf that was found: which module wrote it, what it is opened as, and its files."""

    module: str
    name: Path
    files: tuple[Path, ...]


def find_shelf(path: Path) -> Shelf | None:
    """The shelf that one means by a path, with or without the suffix of one of its files."""
    if path.is_dir():
        return None
    for name in dict.fromkeys((path, path.with_suffix("") if path.suffix in _SUFFIXES else path)):
        if (found := _find(name)) is not None:
            return found
    return None


def _find(name: Path) -> Shelf | None:
    one, directory, data, database, pages = (
        name.with_name(name.name + suffix) for suffix in ("", ".dir", ".dat", ".db", ".pag")
    )
    if directory.is_file() and pages.is_file():
        return Shelf("dbm.ndbm", name, (directory, pages))
    if directory.is_file() and (data.is_file() or _is_index(directory)):
        return Shelf("dbm.dumb", name, (directory, data))
    if database.is_file() and _magic(database, 12) & _BERKELEY:
        return Shelf("dbm.ndbm", name, (database,))
    if one.is_file() and _magic(one, 0) & _GNU:
        return Shelf("dbm.gnu", name, (one,))
    if is_sqlite(one) and is_dict(Database(one)):
        return Shelf("dbm.sqlite3", name, (one,))
    return None


def _magic(path: Path, at: int) -> set[int]:
    number = beginning(path, at + 4)[at:]
    return {int.from_bytes(number, "little"), int.from_bytes(number, "big")}


def _is_index(path: Path) -> bool:
    """Whether a file is the index of `dbm.dumb`: each line a key and where its value lies."""
    line = beginning(path, 1 << 16).decode("latin-1").partition("\n")[0]
    try:
        key, (place, size) = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the last two: nested too deeply
        return False
    return isinstance(key, str) and isinstance(place, int) and isinstance(size, int)


def is_dict(database: Database) -> bool:
    """Whether a file of SQLite is one of `dbm.sqlite3`, and no other that has such a table.  Closes it."""
    try:
        if SQLITE_TABLE not in database.tables():  # a view has columns, too
            return False
        kinds = database.all("SELECT name, type FROM pragma_table_info(?)", (SQLITE_TABLE,))
    finally:
        database.close()
    return kinds == [("key", "BLOB"), ("value", "BLOB")]


class _OfShelf:
    """What all shelves have in common."""

    format = "shelve"
    path: str
    _decoding: Decoding

    def _entry(self, position: Position, raw: bytes | str, value: bytes | str) -> Entry:
        return Entry(position, repr(raw), len(raw) + len(value), partial(self._read, raw, value))

    def _read(self, raw: bytes | str, value: bytes | str) -> Content:
        return Content(self._decoding.key(raw, "text"), partial(self._decoding.value, value, "pickle"))


class SqliteShelf(_OfShelf):
    """A shelf of `dbm.sqlite3`."""

    def __init__(self, shelf: Shelf, decoding: Decoding) -> None:
        self.path, self._decoding = str(shelf.name), decoding
        self._database = Database(shelf.name)

    def close(self) -> None:
        self._database.close()

    def count(self) -> int:
        return self._database.count(SQLITE_TABLE)

    def fingerprint(self) -> list[Any]:
        return self._database.fingerprint()

    def entries(self, after: Position | None) -> Iterator[Entry]:
        for row, key, value in self._database.rows(SQLITE_TABLE, "key, value", after):
            if not (isinstance(key, _BYTES) and isinstance(value, _BYTES)):
                raise SourceError(f"the shelf {self.path!r} has a row that is no bytes; dbm.sqlite3 writes none such")
            yield self._entry(row, key, value)


class DbmShelf(_OfShelf):
    """A shelf of one of the other modules; its keys are in memory as long as it is open.

    The position of an entry is the number of its key, which is the same as long as nobody writes.
    """

    def __init__(self, shelf: Shelf, decoding: Decoding) -> None:
        self.path, self._decoding = str(shelf.name), decoding
        self._shelf = shelf
        module: Any = _module(shelf)
        try:
            self._database = module.open(str(shelf.name), "r")
        except (OSError, module.error, SyntaxError, *_SENSELESS) as exc:
            raise self._damaged(exc) from exc
        self._errors = (OSError, module.error, *_SENSELESS)
        self._keys = self._all_keys()

    def _damaged(self, exc: Exception) -> SourceError:
        missing = [path.name for path in self._shelf.files if not path.exists()]
        why = f"{', '.join(missing)} is missing" if missing else str(exc)
        return SourceError(
            f"the shelf {self.path!r} ({self._shelf.module}) cannot be read: {why}; close it where it is open, or "
            f"restore its files"
        )

    def _all_keys(self) -> list[bytes]:
        try:
            return list(self._database.keys())
        except self._errors as exc:
            self._database.close()
            raise self._damaged(exc) from exc

    def close(self) -> None:
        self._database.close()

    def count(self) -> int:
        return len(self._keys)

    def fingerprint(self) -> list[Any]:
        return states(self._shelf.files)

    def entries(self, after: Position | None) -> Iterator[Entry]:
        for number in range(0 if after is None else after + 1, len(self._keys)):
            key = self._keys[number]
            try:
                value = self._database[key]
            except KeyError:  # deleted meanwhile
                continue
            except self._errors as exc:
                raise self._damaged(exc) from exc
            yield self._entry(number, key, value)


def _module(shelf: Shelf) -> Any:
    try:
        return import_module(shelf.module)
    except ImportError as exc:
        raise SourceError(
            f"the shelf {str(shelf.name)!r} was written by {shelf.module}, which this Python does not have; it takes "
            f"{_PACKAGES[shelf.module]}"
        ) from exc


def open_shelf(shelf: Shelf, decoding: Decoding) -> SqliteShelf | DbmShelf:
    """The shelf, open.  Raises SourceError."""
    return (SqliteShelf if shelf.module == "dbm.sqlite3" else DbmShelf)(shelf, decoding)
