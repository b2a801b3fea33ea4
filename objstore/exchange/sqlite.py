"""SQLite files of others, read page by page, beside whoever writes them, and left as they are.

A file in the mode "WAL" that nobody has open is opened as one that does not change, because SQLite would leave two
files beside it otherwise; that it has not changed is then looked at in the end.  Everything else is opened for reading,
with SQLite's own locks.  Rows are read some at a time, and no lock is held between: a writer waits for a page of rows
at most.  So what is written meanwhile may be there or not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from objstore.errors import SourceError
from objstore.exchange.base import beginning, states

MAGIC = b"SQLite format 3\x00"

_PAST_LAST = 1 << 63  # of the numbers of rows
_PAGE_ROWS = 500
_PAGE_BYTES = 8 << 20
_SECONDS = 30.0  # to wait for a writer
_WAL_MODE = b"\x02\x02"


def is_sqlite(path: Path) -> bool:
    """Whether a file is one of SQLite's."""
    return path.is_file() and beginning(path, len(MAGIC)) == MAGIC


class Database:
    """A file of SQLite, open for reading.  Raises SourceError, here and everywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = [path, path.with_name(path.name + "-wal")]
        # Whoever has it open has that file, too.
        self._is_still = beginning(path, 20)[18:] == _WAL_MODE and not self._files[1].exists()
        self._first = self.fingerprint()
        options = "mode=ro&immutable=1" if self._is_still else "mode=ro"
        with self._told():
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?{options}", uri=True, timeout=_SECONDS, isolation_level=None
            )
        self._connection.text_factory = _text
        self._connection.execute("PRAGMA trusted_schema = OFF")  # a schema may call functions

    def close(self) -> None:
        self._connection.close()

    def fingerprint(self) -> list[Any]:
        return states(self._files)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            raise SourceError(
                f"{str(self.path)!r} cannot be read as an SQLite file ({exc}); where it is damaged or its last writer "
                f"was killed, open it with the program that wrote it, or recover it with sqlite3"
            ) from exc

    def all(self, query: str, arguments: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows that a query gives: for few."""
        with self._told():
            return self._connection.execute(query, arguments).fetchall()

    def tables(self) -> dict[str, list[str]]:
        """The names of the tables, in order, and of their columns."""
        names = self.all("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1")
        return {
            name: [row[0] for row in self.all("SELECT name FROM pragma_table_info(?)", (name,))] for (name,) in names
        }

    def count(self, table: str) -> int:
        return self.all(f"SELECT count(*) FROM {quoted(table)}")[0][0]  # type: ignore[no-any-return]  # noqa: S608

    def rows(self, table: str, columns: str, after: int | None) -> Iterator[tuple[Any, ...]]:
        """The rows of a table in the order of their numbers, each with its number first, from behind a number on."""
        last = -(1 << 63) if after is None else after + 1
        # No name of this comes from elsewhere but that of the table, which is quoted.
        query = f"SELECT rowid, {columns} FROM {quoted(table)} WHERE rowid >= ? ORDER BY rowid"  # noqa: S608
        while last < _PAST_LAST and (page := self._page(query, last)):
            yield from page
            if not isinstance(page[-1][0], int):
                raise SourceError(f"{str(self.path)!r} has a table whose rows have no numbers: who made it is unknown")
            last = page[-1][0] + 1
        if self._is_still and self.fingerprint() != self._first:
            raise SourceError(f"{str(self.path)!r} was written while it was read; import it again, which goes on")

    def _page(self, query: str, first: int) -> list[tuple[Any, ...]]:
        page: list[tuple[Any, ...]] = []
        size = 0
        with self._told():
            cursor = self._connection.execute(query, (first,))
            for row in cursor:
                page.append(row)
                size += sum(len(each) for each in row if isinstance(each, (bytes, str)))
                if size >= _PAGE_BYTES or len(page) == _PAGE_ROWS:
                    break
            cursor.close()
        return page


def quoted(name: str) -> str:
    """A name, as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
