"""What a source gives to an import: its entries, one after the other, none of them decoded before somebody asks.

A source is a file or a directory that another program has written.  It gives its entries in an order that stays the
same as long as it does, each with a position, after which one can go on later.  What is wrong with one entry is said
when that entry is read, and stops no other; what is wrong with the source as a whole raises SourceError.

Sources know nothing of stores, and stores nothing of them.  A source is only read, never changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from objstore.errors import SourceError

Position = Any
"""Where in a source one is: something that JSON can tell."""


class Unreadable(Exception):
    """An entry, or its value, cannot be taken over; the text says why.

    `needs` are the names of the classes and functions that would have to be allowed.
    """

    def __init__(self, why: str, needs: tuple[str, ...] = ()) -> None:
        super().__init__(why)
        self.needs = needs


class Content(NamedTuple):
    """An entry that was read, but for its value."""

    key: Any
    value: Callable[[], Any]
    """Decodes it.  Raises Unreadable."""
    namespace: str | None = None
    """That which the source names; None where it names none."""
    expires_at: float | None = None
    """When it expires, in seconds since 1970; None is never."""
    tags: tuple[str, ...] = ()


class Entry(NamedTuple):
    """An entry of a source, as it was met."""

    position: Position
    shown: str
    """What it is called where nobody can read its key."""
    size: int
    """How many bytes it has, about."""
    read: Callable[[], Content]
    """Decodes its key.  Raises Unreadable."""


class Source(Protocol):
    """Something that entries can be imported from.  It is open from the beginning."""

    path: str
    format: str

    def fingerprint(self) -> list[Any]:
        """What is another as soon as the source is: something that JSON can tell."""

    def count(self) -> int:
        """How many entries there are, about."""

    def entries(self, after: Position | None) -> Iterator[Entry]:
        """The entries that come after a position, or all.  Raises SourceError."""

    def close(self) -> None:
        """Let go of the files."""


def states(paths: Iterable[str | os.PathLike[str]]) -> list[Any]:
    """Of each file its name, its size, and when it was changed: None where there is no such file."""
    return [[os.path.basename(path), *_state(path)] for path in paths]


def _state(path: str | os.PathLike[str]) -> tuple[int, int] | tuple[None, None]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None, None
    return found.st_size, found.st_mtime_ns


def unreadable_file(path: str | os.PathLike[str], exc: OSError) -> SourceError:
    """What to raise where the system does not let one read a source."""
    return SourceError(f"{os.fspath(path)!r} cannot be read: {exc.strerror or exc}; mend its permissions, or copy it")


def beginning(path: str | os.PathLike[str], size: int) -> bytes:
    """The first bytes of a file.  Raises SourceError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(size)
    except OSError as exc:
        raise unreadable_file(path, exc) from exc
