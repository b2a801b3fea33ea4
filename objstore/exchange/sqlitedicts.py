"""SqliteDict: tables of SQLite with the two columns key and value, each of them a dictionary.

A value is a pickle, unless its dictionary was given an `encode` of its own: then it is text, mostly JSON, or a pickle
that zlib made smaller.  Text could be either text or JSON, and is not guessed at: whoever imports says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from objstore.exchange.base import Content, Entry, Position, Unreadable
from objstore.exchange.consent import Decoding
from objstore.exchange.sqlite import Database

_COLUMNS = ["key", "value"]


def tables_of(database: Database) -> list[str]:
    """Those tables that are dictionaries."""
    return [name for name, columns in database.tables().items() if columns == _COLUMNS]


class SqliteDicts:
    """The dictionaries in one file; where there are several, each is a namespace."""

    format = "sqlitedict"

    def __init__(self, path: Path, decoding: Decoding) -> None:
        self.path, self._decoding = str(path), decoding
        self._database = Database(path)
        try:
            self.tables = tables_of(self._database)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._database.close()

    def count(self) -> int:
        return sum(map(self._database.count, self.tables))

    def fingerprint(self) -> list[Any]:
        return self._database.fingerprint()

    def entries(self, after: Position | None) -> Iterator[Entry]:
        first, row = after or ("", None)
        for table in self.tables:
            if table >= first:
                yield from self._rows(table, row if table == first else None)

    def _rows(self, table: str, after: int | None) -> Iterator[Entry]:
        namespace = table if len(self.tables) > 1 else None
        for row, key, value in self._database.rows(table, "key, value", after):
            size = len(value) if isinstance(value, (bytes, str)) else 8
            yield Entry([table, row], repr(key), size, partial(self._read, namespace, key, value))

    def _read(self, namespace: str | None, key: Any, value: Any) -> Content:
        if isinstance(key, (str, bytes)):
            key = self._decoding.key(key, "text" if isinstance(key, str) else "bytes")
        return Content(key, partial(self._value, value), namespace)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str) and self._decoding.values in (None, "pickle"):
            raise Unreadable("its value is text; say with values whether it is 'text' or 'json' (--values json)")
        if not isinstance(value, (str, bytes)):
            return value
        return self._decoding.value(value, "pickle")
