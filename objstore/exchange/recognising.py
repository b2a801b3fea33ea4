"""What a source is: told by what is in it, not by what it is called.

A file says it by its first bytes or its tables, a directory by the files in it.  What says nothing is not guessed at.
A store of this library is recognised as well, and refused: it is copied, which loses nothing and decodes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from objstore.engines.lmdb.datafile import DATA
from objstore.engines.lmdb.directory import OURS
from objstore.engines.lmdb.foreign import is_environment
from objstore.errors import SourceError
from objstore.exchange.base import Source, unreadable_file
from objstore.exchange.consent import Decoding
from objstore.exchange.diskcaches import DATABASE, DiskCache, is_diskcache
from objstore.exchange.dumps import is_dump
from objstore.exchange.lines import JsonLines, is_jsonl
from objstore.exchange.pickles import SUFFIXES, PickleFiles, is_pickle
from objstore.exchange.rawlmdb import RawLmdb
from objstore.exchange.shelves import find_shelf, is_dict, open_shelf
from objstore.exchange.sqlite import Database, is_sqlite
from objstore.exchange.sqlitedicts import SqliteDicts, tables_of

FORMATS = ("pickle", "shelve", "diskcache", "sqlitedict", "lmdb", "jsonl", "dump")
DUMP = "dump"
"""The one that is no foreign format: a store of this library in one file, which is restored and not imported."""

_NAMES = ", ".join(FORMATS)


class Options(NamedTuple):
    """How the entries of a source are read."""

    decoding: Decoding
    key_field: str | None = None


def recognise(path: str, given: str = "auto") -> str:
    """The format of what is at a path; that which was given, if one was.  Raises SourceError, ValueError."""
    if given not in ("auto", *FORMATS):
        raise ValueError(f"format is 'auto' or one of {_NAMES}, not {given!r}")
    if "://" in path:
        raise SourceError(f"{path!r} is the location of a store; use `objstore copy` (objstore.copy) for stores")
    place = Path(path)
    try:
        if given in ("auto", "lmdb"):
            _refuse_stores(place)
        found = _recognise(place) if given == "auto" else given
    except OSError as exc:
        raise unreadable_file(path, exc) from exc
    if found is None:
        raise SourceError(_unknown(place))
    return found


def open_source(path: str, form: str, options: Options) -> Source:
    """The source at a path, in one of the formats but "dump".  Raises SourceError."""
    place = Path(path)
    if form != "shelve" and not place.exists():
        raise SourceError(f"there is nothing at {path!r}; name a file or a directory")
    return _OPENERS[form](place, options)


def _unknown(place: Path) -> str:
    if not place.exists():
        return f"there is nothing at {str(place)!r}; name a file or a directory"
    return (
        f"what {str(place)!r} is cannot be told by its content; say it with format (--from), which is one of {_NAMES}, "
        f"or name another source"
    )


# Telling them apart


def _refuse_stores(place: Path) -> None:
    directory = place.parent if place.name == DATA else place
    if (directory / OURS).exists() and (directory / DATA).exists():
        raise SourceError(f"{str(directory)!r} is a store of objstore; use `objstore copy` (objstore.copy)")


def _recognise(place: Path) -> str | None:
    if place.is_dir():
        return _of_directory(place)
    if place.is_file():
        return _of_file(place)
    return "shelve" if find_shelf(place) else None


def _of_directory(place: Path) -> str | None:
    if is_diskcache(place):
        return "diskcache"
    if is_environment(str(place)):
        return "lmdb"
    return "pickle" if _holds_pickles(place) else None


def _holds_pickles(place: Path) -> bool:
    for directory, directories, names in os.walk(place):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(directory, name)
            if path.suffix.lower() in SUFFIXES or is_pickle(path):
                return is_pickle(path)
    return False


def _of_file(place: Path) -> str | None:
    if is_sqlite(place):
        return _of_sqlite(place)
    if is_environment(str(place)):
        return "lmdb"
    if is_dump(place):
        return DUMP
    if find_shelf(place):
        return "shelve"
    if is_pickle(place):
        return "pickle"
    return "jsonl" if is_jsonl(place) else None


def _of_sqlite(place: Path) -> str | None:
    if place.name == DATABASE and is_diskcache(place.parent):
        return "diskcache"
    if is_dict(Database(place)):
        return "shelve"
    database = Database(place)
    try:
        return "sqlitedict" if tables_of(database) else None
    finally:
        database.close()


# Opening them


def _shelve(place: Path, options: Options) -> Source:
    shelf = find_shelf(place)
    if shelf is None:
        raise SourceError(
            f"there is no shelf {str(place)!r}; name it as it was opened, or one of its files (.dir, .dat, .db, .pag)"
        )
    return open_shelf(shelf, options.decoding)


def _diskcache(place: Path, options: Options) -> Source:
    directory = place.parent if place.name == DATABASE else place
    if not is_diskcache(directory):
        raise SourceError(f"{str(place)!r} is no cache of diskcache: it has no {DATABASE}")
    return DiskCache(directory, options.decoding)


def _sqlitedict(place: Path, options: Options) -> Source:
    if not is_sqlite(place):
        raise SourceError(f"{str(place)!r} is no file of SQLite, so no SqliteDict")
    source = SqliteDicts(place, options.decoding)
    if not source.tables:
        source.close()
        raise SourceError(f"{str(place)!r} has no table of a SqliteDict (with the columns key and value)")
    return source


def _lmdb(place: Path, options: Options) -> Source:
    source = RawLmdb(place.parent if place.name == DATA else place, options.decoding)
    if source.is_a_store():
        source.close()
        raise SourceError(f"{str(place)!r} is a store of objstore; use `objstore copy` (objstore.copy)")
    return source


def _jsonl(place: Path, options: Options) -> Source:
    return JsonLines(place, options.key_field)


def _pickle(place: Path, options: Options) -> Source:
    return PickleFiles(place, options.decoding)


_OPENERS: dict[str, Callable[[Path, Options], Source]] = {
    "pickle": _pickle,
    "shelve": _shelve,
    "diskcache": _diskcache,
    "sqlitedict": _sqlitedict,
    "lmdb": _lmdb,
    "jsonl": _jsonl,
}
