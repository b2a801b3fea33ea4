"""What an import says at its end: how much of each kind there was, and what was left behind, and why.

How much of that is listed is the same for an export (`exporting`).
"""

from __future__ import annotations

from typing import NamedTuple

MOST_LISTED = 1000
"""Of so many entries that were left out or differ a report says which; of all of them how many."""


class Left(NamedTuple):
    """An entry of a source that is not in the store as the source has it."""

    source: str
    """The path of the source."""
    key: str
    """Its key, as it is shown; where that could not be read, what stands in its place, or where it stands."""
    reason: str
    needs: tuple[str, ...] = ()
    """The names of classes and functions that would have to be allowed."""


class ImportReport(NamedTuple):
    """What was imported, and what was not."""

    imported: int
    """Entries that were stored."""
    replaced: int
    """How many of them took the place of another value."""
    present: int
    """Entries that were in the store already, with the same value."""
    verified: int
    """Entries of the sources that were read once more, and are in the store so."""
    expired: int
    """Entries that were left out, because their time had come."""
    evicted: int
    """Entries that are not there any more, because a `Cache` had no room for them."""
    unread: int
    """Entries that could not be taken over."""
    differing: int
    """Entries under whose key the store has another value, which was left there."""
    unread_first: tuple[Left, ...]
    """The first thousand of those that could not be taken over."""
    differing_first: tuple[Left, ...]
    """The first thousand of those that differ."""
    namespaces: tuple[str, ...] = ()
    """The namespaces that the sources named, which are in the target now."""

    @property
    def ok(self) -> bool:
        """Whether the store holds everything that the sources do."""
        return not (self.unread or self.differing)

    @property
    def needs(self) -> tuple[str, ...]:
        """The names that would have to be allowed for what was not read, as far as `unread_first` tells."""
        return tuple(dict.fromkeys(name for left in self.unread_first for name in left.needs))
