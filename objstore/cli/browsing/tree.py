"""What keys there are, as a tree: their kinds, and in each kind the beginnings that several keys share.

Tuples are grouped by their first elements, text and bytes by what ends with a separator (`:`, `/`, `.`, `|`).  Other
kinds have no beginnings.  A level is found by seeks: of each group the first few keys are read, and then the next
key past all that begin so is looked for, however many that are.  What stands between the groups is read key by key, so
one call looks at no more than a bounded number of keys, and says where the next one goes on.

Keys alone are read here.  Nothing is decoded, and nothing of a store is held between two calls.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import Any, NamedTuple
from uuid import UUID

from objstore import DEFAULT, Entry, LostKey, Store

SEPARATORS = ":/.|"
_IN_TEXT = re.compile(f"[{SEPARATORS}]")
_IN_BYTES = re.compile(f"[{SEPARATORS}]".encode())

# One call reads no more than so many keys and gives no more than so many groups.
_MOST_KEYS = 4_000
_MOST_GROUPS = 200

# From so many keys on, to look for the end of a group costs less than to walk there.
_WALKED = 8

# A group is text up to a separator, if that comes within so many characters.
_LONGEST_SEGMENT = 100

_LONGEST_SHOWN = 200


class Kind(NamedTuple):
    """A type family: keys that are ordered among themselves, and where they begin."""

    name: str
    lowest: Any
    holds: Callable[[Any], bool]


def _is_number(key: Any) -> bool:
    return isinstance(key, (int, float))


def _is_date(key: Any) -> bool:
    return isinstance(key, date) and not isinstance(key, datetime)


def _is_naive(key: Any) -> bool:
    return isinstance(key, datetime) and key.tzinfo is None


def _is_aware(key: Any) -> bool:
    return isinstance(key, datetime) and key.tzinfo is not None


# In the order of the keys.
KINDS = (
    Kind("None", None, lambda key: key is None),
    Kind("numbers", -math.inf, _is_number),
    Kind("text", "", lambda key: isinstance(key, str)),
    Kind("bytes", b"", lambda key: isinstance(key, bytes)),
    Kind("dates", date.min, _is_date),
    Kind("local times", datetime.min, _is_naive),
    Kind("times", datetime.min.replace(tzinfo=timezone.utc), _is_aware),
    Kind("UUIDs", UUID(int=0), lambda key: isinstance(key, UUID)),
    Kind("tuples", (), lambda key: isinstance(key, tuple)),
)


def kind_of(key: Any) -> Kind | None:
    """The kind of a key; None for one that is lost."""
    return next((kind for kind in KINDS if kind.holds(key)), None)


@dataclass(frozen=True)
class Part:
    """A part of a namespace: all of it, the keys of a kind, or those that begin with a prefix."""

    namespace: str | None = None
    kind: Kind | None = None
    prefix: Any = DEFAULT

    @property
    def has_groups(self) -> bool:
        """Whether there may be groups in it."""
        return self.kind is None or isinstance(self.kind.lowest, (str, bytes, tuple))

    def holds(self, key: Any) -> bool:
        """Whether a key of the namespace belongs to it."""
        if self.prefix is not DEFAULT:
            return begins(key, self.prefix)
        return self.kind is None or self.kind.holds(key)

    def with_prefix(self, prefix: Any) -> Part:
        """The part of the same namespace with a prefix."""
        return Part(self.namespace, kind_of(prefix), prefix)


class Level(NamedTuple):
    """The groups right below a part, and the key from which to go on, or None at the end.

    `read` is how many keys were looked at.
    """

    parts: list[Part]
    rest: Any
    read: int


def begins(key: Any, prefix: Any) -> bool:
    """Whether a key begins with a prefix: text, bytes, or the first elements of tuples."""
    if isinstance(prefix, tuple):
        return isinstance(key, tuple) and key[: len(prefix)] == prefix
    return isinstance(key, type(prefix)) and key.startswith(prefix)


def group_of(key: Any, prefix: Any) -> Any:
    """The prefix one step longer than `prefix` that a key begins with, or None where it is too short for one."""
    if isinstance(key, tuple):
        return key[: len(prefix) + 1] if len(key) > len(prefix) else None
    pattern: re.Pattern[Any] = _IN_TEXT if isinstance(key, str) else _IN_BYTES
    separator = pattern.search(key, len(prefix), len(prefix) + _LONGEST_SEGMENT)
    return None if separator is None else key[: separator.end()]


def kinds(store: Store[Any, Any]) -> list[Kind]:
    """The kinds of which there are keys: a seek for each."""
    return [kind for kind in KINDS if store.range(kind.lowest)]


def level(store: Store[Any, Any], part: Part, start: Any = DEFAULT) -> Level:
    """What is right below a part whose kind has groups, from the key `start` on: each group with two keys at least.

    What all keys of a group have in common belongs to its prefix: `https://`, and not `https:` with `https:/` below.
    """
    assert part.kind is not None
    prefix = part.kind.lowest if part.prefix is DEFAULT else part.prefix
    keys = iter(store.range(prefix=prefix) if start is DEFAULT else store.range(start))
    found: list[Part] = []
    before, length, read = None, 0, 0
    while (key := next(keys, None)) is not None and begins(key, prefix):
        group = _bound(store, group_of(key, prefix))
        length = length + 1 if group == before else 1
        if length == 1 and (read >= _MOST_KEYS or len(found) >= _MOST_GROUPS):
            return Level(found, key, read)
        before, read = group, read + 1
        if group is None:
            length = 0
        elif length == 2:
            found.append(part.with_prefix(_in_common(store, key, group)))
        elif length == _WALKED:
            keys = iter(store.range(prefix=prefix, past=group))
    return Level(found, None, read)


def _bound(store: Store[Any, Any], group: Any) -> Any:
    """The group, or None if it is too long to be a prefix."""
    if group is None:
        return None
    try:
        store.range(prefix=group)
    except ValueError:
        return None
    return group


def _in_common(store: Store[Any, Any], key: Any, group: Any) -> Any:
    """The longest prefix that the keys of a group, one of them `key`, share in whole steps."""
    ends = [next(iter(store.range(prefix=group, reverse=reverse)), key) for reverse in (False, True)]
    while (longer := _bound(store, group_of(key, group))) is not None and all(begins(end, longer) for end in ends):
        group = longer
    return group


def entries(
    store: Store[Any, Any], part: Part, after: Any = DEFAULT, reverse: bool = False
) -> Iterator[Entry[Any, Any]]:
    """The entries of a part, those behind the key `after` if it is given, in order or from the last to the first."""
    found = _first(store, part, reverse) if after is DEFAULT else _behind(store, part, after, reverse)
    return itertools.takewhile(lambda entry: type(entry.key) is LostKey or part.holds(entry.key), found)


def entries_from(store: Store[Any, Any], part: Part, start: Any) -> Iterator[Entry[Any, Any]]:
    """The entries of a namespace or a kind from a key on, which need not be there."""
    return itertools.chain(iter(store.range(start).entries()), _of_other_kinds(store, part, start, reverse=False))


def _first(store: Store[Any, Any], part: Part, reverse: bool) -> Iterator[Entry[Any, Any]]:
    if part.prefix is not DEFAULT:
        return iter(store.range(prefix=part.prefix, reverse=reverse).entries())
    if part.kind is not None:
        return iter(store.range(part.kind.lowest, reverse=reverse).entries())
    return iter(store.range(reverse=reverse).entries())


def _behind(store: Store[Any, Any], part: Part, after: Any, reverse: bool) -> Iterator[Entry[Any, Any]]:
    found: Iterator[Entry[Any, Any]]
    if type(after) is LostKey:  # which may be no bound
        found = itertools.dropwhile(lambda entry: entry.key != after, _first(store, part, reverse))
        return itertools.islice(found, 1, None)
    if reverse:
        found = iter(store.range(stop=after, reverse=True).entries())
    else:
        found = (entry for entry in store.range(after).entries() if entry.key != after)
    return itertools.chain(found, _of_other_kinds(store, part, after, reverse))


def _of_other_kinds(store: Store[Any, Any], part: Part, key: Any, reverse: bool) -> Iterator[Entry[Any, Any]]:
    """In all of a namespace: what comes behind the kind of a key."""
    kind = kind_of(key)
    if part.kind is not None or kind is None:
        return
    at = KINDS.index(kind)
    for other in reversed(KINDS[:at]) if reverse else KINDS[at + 1 :]:
        yield from store.range(other.lowest, reverse=reverse).entries()


def shown(key: Any) -> str:
    """A key as Python writes it, in one line and not too long."""
    try:
        text = repr(key)
    except ValueError:
        return f"<{type(key).__name__} too long to write>"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
