"""Files of JSON Lines: an entry a line; how a line tells one is in `jsonlines`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from objstore.exchange.base import Content, Entry, Position, Unreadable, beginning, states, unreadable_file
from objstore.exchange.jsonlines import read_line

_LONGEST = 1 << 30  # bytes of a line: what a file without line ends would take of memory


def is_jsonl(path: Path) -> bool:
    """Whether a file begins as one of objects of JSON does."""
    begin = beginning(path, 1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    return begin[:1] == b"{" and b"\0" not in begin and begin[1:].lstrip()[:1] in (b'"', b"}")


class JsonLines:
    """A file of lines of JSON.  The position of an entry is where its line ends, in bytes, and its number."""

    format = "jsonl"

    def __init__(self, path: Path, key_field: str | None = None) -> None:
        self.path = str(path)
        self._key_field = key_field
        try:
            self._file = path.open("rb")
        except OSError as exc:
            raise unreadable_file(path, exc) from exc

    def close(self) -> None:
        self._file.close()

    def count(self) -> int:
        self._file.seek(0)
        count = 0
        while chunk := self._file.read(1 << 20):
            count += chunk.count(b"\n")
        return count

    def fingerprint(self) -> list[Any]:
        return states([self.path])

    def entries(self, after: Position | None) -> Iterator[Entry]:
        place, number = after or (0, 0)
        while True:
            self._file.seek(place)
            line = self._file.readline(_LONGEST)
            if not line:
                return
            number += 1
            if len(line) == _LONGEST and not line.endswith(b"\n"):
                place = self._end_of_line()  # what follows is no line of its own
                yield Entry([place, number], f"line {number}", 0, _refuse_longest)
                continue
            place += len(line)
            if line.strip():
                yield Entry([place, number], f"line {number}", len(line), partial(self._read, line))

    def _end_of_line(self) -> int:
        while (rest := self._file.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        return self._file.tell()

    def _read(self, line: bytes) -> Content:
        try:
            item = read_line(line, self._key_field)
        except ValueError as exc:
            raise Unreadable(str(exc)) from exc
        return Content(item.key, lambda: item.value, item.namespace, item.expires_at, item.tags)


def _refuse_longest() -> NoReturn:
    raise Unreadable(f"it is longer than {_LONGEST:,} bytes; store its value in Python")
