"""Views: keys, values, items and ranges, lazy and live.

A view holds no data.  It remembers where it looks (a store, a snapshot or a transaction) and how far,
and each iteration reads one consistent state from there, item by item.  Whatever can be iterated over a
stretch of keys (`Source`) gives rise to the same views.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, ValuesView
from datetime import datetime, timezone
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from objstore.engines.base import Stored
from objstore.keys import show
from objstore.record import Header

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class Stretch(NamedTuple):
    """Tree keys from `start` (included) to `stop` (not; None is the end of the tree), maybe of one tag only."""

    start: bytes
    stop: bytes | None
    tag: str | None = None
    reverse: bool = False

    def holds(self, tree_key: bytes) -> bool:
        """Whether a tree key lies within the bounds."""
        return self.start <= tree_key and (self.stop is None or tree_key < self.stop)

    def reversed(self) -> Stretch:
        """The same, the other way round."""
        return self._replace(reverse=not self.reverse)


class Source(Protocol[K, V]):
    """What views look at."""

    def _iterate_keys(self, stretch: Stretch) -> Iterator[K]: ...
    def _iterate_items(self, stretch: Stretch) -> Iterator[tuple[K, V]]: ...
    def _iterate_entries(self, stretch: Stretch) -> Iterator[Entry[K, V]]: ...
    def _count(self, stretch: Stretch) -> int: ...
    def _holds(self, stretch: Stretch, key: Any) -> bool: ...
    def _clear(self, stretch: Stretch) -> int: ...
    def __getitem__(self, key: K, /) -> V: ...


class Entry(Generic[K, V]):
    """A record seen without its value.

    * `key`: the key.
    * `size`: the bytes of the record as it is stored.
    * `codec`: the name of the codec; "damaged" where the record makes no sense.
    * `expires_at`: when it expires, a datetime in UTC, or None.
    * `tags`: its tags, a tuple of texts.

    The value is decoded when `value` is first asked for, and read at that moment: through a snapshot it is what
    the entry showed, through a store it is what is there by then.
    """

    __slots__ = ("_source", "_tree_key", "_value", "codec", "expires_at", "key", "size", "tags")

    def __init__(self, source: Any, tree_key: bytes, key: K, header: Header, size: int, codec: str) -> None:
        self._source = source
        self._tree_key = tree_key
        self._value: list[V] = []
        self.key = key
        self.size = size
        self.codec = codec
        self.tags = header.tags
        self.expires_at = (
            None if header.expires_at is None else datetime.fromtimestamp(header.expires_at / 1_000_000, timezone.utc)
        )

    @property
    def value(self) -> V:
        """The value, decoded once.  Raises KeyError if it is gone by now, and what reading raises."""
        if not self._value:
            self._value.append(self._source[self.key])
        return self._value[0]

    def raw(self) -> bytes:
        """The record as it is stored, unverified.  Raises KeyError if it is gone by now."""
        record: Stored | None = self._source._record(self._tree_key)
        if record is None:
            raise KeyError(self.key)
        return bytes(record)

    def __repr__(self) -> str:
        expires = "" if self.expires_at is None else f", expires_at={self.expires_at.isoformat()}"
        tags = f", tags={self.tags!r}" if self.tags else ""
        return f"Entry({show(self.key)}, {self.size} bytes, {self.codec}{expires}{tags})"


class Range(Generic[K, V]):
    """A stretch of a store in key order: iterate it for keys; it has the views of a mapping, `in` and `len`."""

    __slots__ = ("_source", "_stretch")

    def __init__(self, source: Source[K, V], stretch: Stretch) -> None:
        self._source = source
        self._stretch = stretch

    def __iter__(self) -> Iterator[K]:
        return self._source._iterate_keys(self._stretch)

    def __reversed__(self) -> Iterator[K]:
        return self._source._iterate_keys(self._stretch.reversed())

    def __len__(self) -> int:
        return self._source._count(self._stretch)

    def __bool__(self) -> bool:
        return next(iter(self), self) is not self

    def __contains__(self, key: object) -> bool:
        return self._source._holds(self._stretch, key)

    def __getitem__(self, key: K) -> V:
        if key not in self:
            raise KeyError(key)
        return self._source[key]

    def keys(self) -> Keys[K]:
        """The keys, as a set-like view."""
        return Keys(self)

    def values(self) -> Values[V]:
        """The values, each decoded when it is reached."""
        return Values(self)

    def items(self) -> Items[K, V]:
        """Keys and values, as a set-like view."""
        return Items(self)

    def entries(self) -> Entries[K, V]:
        """An `Entry` for each: nothing is decoded."""
        return Entries(self)

    def clear(self) -> int:
        """Remove everything in the range in one transaction; how many items that was.

        Raises TypeError for a range of a snapshot, which is for reading.
        """
        return self._source._clear(self._stretch)

    def __repr__(self) -> str:
        return f"<Range of {self._source!r}>"


class _View(Generic[T]):
    """What the views share.  `_mapping` is the name that the abstract views give to what they look at."""

    _mapping: Range[Any, Any]

    def __init__(self, mapping: Range[Any, Any]) -> None:
        self._mapping = mapping

    def __len__(self) -> int:
        return len(self._mapping)

    def __iter__(self) -> Iterator[T]:
        return self._iterate(self._mapping._source, self._mapping._stretch)

    def __reversed__(self) -> Iterator[T]:
        return self._iterate(self._mapping._source, self._mapping._stretch.reversed())

    def _iterate(self, source: Any, stretch: Stretch) -> Iterator[T]:
        raise NotImplementedError

    @classmethod
    def _from_iterable(cls, iterable: Iterable[Any]) -> set[Any]:
        return set(iterable)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._mapping!r}>"


class Keys(_View[K], KeysView[K]):
    """The keys, in order; set operations give sets."""

    def _iterate(self, source: Any, stretch: Stretch) -> Iterator[K]:
        return source._iterate_keys(stretch)  # type: ignore[no-any-return]

    def __contains__(self, key: object) -> bool:
        return key in self._mapping


class Values(_View[V], ValuesView[V]):
    """The values, in the order of their keys."""

    def _iterate(self, source: Any, stretch: Stretch) -> Iterator[V]:
        return (value for _, value in source._iterate_items(stretch))

    def __contains__(self, value: object) -> bool:
        return any(value is other or value == other for other in self)


class Items(_View[tuple[K, V]], ItemsView[K, V]):
    """Keys and values, in the order of the keys; set operations give sets."""

    def _iterate(self, source: Any, stretch: Stretch) -> Iterator[tuple[K, V]]:
        return source._iterate_items(stretch)  # type: ignore[no-any-return]

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        try:
            return bool(self._mapping[item[0]] == item[1])
        except KeyError:
            return False


class Entries(_View["Entry[K, V]"], Generic[K, V]):
    """An entry for each record, in order."""

    def _iterate(self, source: Any, stretch: Stretch) -> Iterator[Entry[K, V]]:
        return source._iterate_entries(stretch)  # type: ignore[no-any-return]
