"""Landing: where what was read of a source meets a store.

An item is encoded as the store encodes, and compared with what is there under its key.  What is absent is put, what is
the same is left, and what is another value is left, too, unless it is to be replaced.  Between the look and the write
another process may write: so a record is only put if what was looked at is still there, in the same transaction on an
engine that has such, in one step for each key on servers.

The same value: the same bytes, or else an equal object.  Its expiry and its tags do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from objstore import record
from objstore.copying.records import bounds_of, said
from objstore.engines.base import Stored, Writer
from objstore.errors import CorruptRecord, DecodeError, EncodeError, StoreError
from objstore.eviction import room_for
from objstore.exchange.base import Content, Unreadable
from objstore.keys import show
from objstore.mapping import DEFAULT
from objstore.record import Damaged, Forged
from objstore.space import LATEST, Replacement, Space, check_tags
from objstore.store import Store

Note = tuple[Space, bytes, bytes]
"""Something that is stored with what it tells of: its space, its tree key and its record."""


Place = tuple[str, bytes]
"""A namespace and a tree key."""


class Item(NamedTuple):
    """An entry of a source, encoded for its place."""

    space: Space
    key: Any
    value: Any
    tree_key: bytes
    packed: bytes
    expires_at: int | None
    tags: tuple[str, ...]

    @property
    def place(self) -> Place:
        return self.space.name, self.tree_key

    @property
    def shown(self) -> str:
        within = f" in namespace {self.space.name!r}" if self.space.name else ""
        return show(self.key) + within


Placed = tuple[Item, bytes | None]
"""An item, and what was found in its place."""


class Landing:
    """A store, and the namespaces of it into which is imported."""

    def __init__(self, target: Store[Any, Any], namespace: str | None) -> None:
        self.target = target
        self.name = target._space.name if namespace is None else namespace
        self._own = target._space if namespace is None else self._sibling(namespace)
        self._spaces: dict[str | None, Space] = {None: self._own}
        self._most_bytes = target._engine.max_record_bytes
        self._most_room = bounds_of(target).max_size

    def _sibling(self, name: str) -> Space:
        space = self.target._space.sibling(name, self.target._reader())
        if space.has_own_codec:
            self.target._apply(space.declare)
        return space

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Those that entries have named, in order."""
        return tuple(sorted(name for name in self._spaces if name is not None))

    def now(self) -> int:
        """Microseconds since 1970, of the clock of the store."""
        return self._own.now()

    def item(self, content: Content, now: int) -> Item | None:
        """What was read, decoded and encoded, or None where it has expired.  Raises Unreadable."""
        expires_at = self._expiry(content.expires_at)
        if expires_at is not None and expires_at <= now:
            return None
        space, tags = self._space(content), _tags(content)
        value = content.value()
        try:
            tree_key, packed = space.pack(content.key, value, expires_at, tags)
        except (EncodeError, TypeError, ValueError) as exc:  # the last two are about its key
            if isinstance(exc, StoreError) and not isinstance(exc, EncodeError):
                raise
            raise Unreadable(str(exc)) from exc
        self._check_size(tree_key, len(packed) if isinstance(packed, bytes) else packed.size)
        return Item(space, content.key, value, tree_key, bytes(packed), expires_at, tags)

    def _check_size(self, tree_key: bytes, size: int) -> None:
        if size > self._most_bytes:
            raise Unreadable(f"it takes {size:,} bytes, and {self._most_bytes:,} is the most for a record there")
        if self._most_room and room_for(tree_key, size) > self._most_room:
            raise Unreadable(f"it takes {size:,} bytes, and the whole cache holds {self._most_room:,}")

    def _expiry(self, moment: float | None) -> int | None:
        if moment is None:
            return self.target._expires_at(DEFAULT)
        expires_at = round(max(moment, 0) * 1_000_000) if moment < 1e12 else None
        return None if expires_at is None or expires_at > LATEST else expires_at

    def _space(self, content: Content) -> Space:
        name = content.namespace
        if name not in self._spaces:
            try:
                self._spaces[name] = self._sibling(str(name))
            except (StoreError, ValueError) as exc:
                raise Unreadable(str(exc)) from exc
        return self._spaces[name]

    # What is there

    def look(self, items: Sequence[Item]) -> list[tuple[Item, Stored | None]]:
        """Each with what is stored in its place, expired or not."""
        reader = self.target._engine.read(views=True)
        found = dict(reader.get_many([item.tree_key for item in items]))
        return [(item, found.get(item.tree_key)) for item in items]

    def is_live(self, item: Item, stored: Stored | None, now: int) -> bool:
        """Whether what is stored there has not expired."""
        if stored is None:
            return False
        if item.expires_at is None and _is_packed(item, stored):
            return True
        return item.space.look(item.tree_key, stored, len(stored), lambda _: stored, now) is not None

    def is_same(self, item: Item, stored: Stored, now: int) -> bool:
        """Whether what is stored there is this value.  Raises Unreadable where that cannot be said."""
        if _is_packed(item, stored):
            return True
        space = item.space
        try:
            one, other = (record.unpack(item.tree_key, each, seal=space.seal) for each in (stored, item.packed))
        except (Damaged, Forged) as exc:
            raise Unreadable(f"what is there already is refused: {exc}") from exc
        if said(*one) == said(*other):
            return True
        try:
            theirs = space.value(item.key, item.tree_key, stored, now)
        except KeyError:  # another key with the same digest
            return False
        except (CorruptRecord, DecodeError) as exc:
            raise Unreadable(f"what is there already cannot be decoded: {exc}") from exc
        return _equal(theirs, item.value) or _encoded(space, theirs) == _encoded(space, item.value)

    # Writing

    def put(self, items: Sequence[Placed], note: Note | None) -> list[Item]:
        """Store each in the place of what was found there, and a note if all of them were; those that were not.

        There something has changed since it was looked at.
        """
        groups: dict[str, tuple[Space, list[Replacement]]] = {}
        for item, found in items:
            _, group = groups.setdefault(item.space.name, (item.space, []))
            group.append(Replacement(item.tree_key, found, item.packed, item.expires_at, item.tags))
        refused = self.target._apply(_put, list(groups.values()), note)
        return [item for item, _ in items if item.place in refused]


def _put(txn: Writer, groups: Sequence[tuple[Space, list[Replacement]]], note: Note | None) -> set[Place]:
    refused = {
        (space.name, each.tree_key)
        for space, group in groups
        for each, done in zip(group, space.replace_many(txn, group), strict=True)
        if not done
    }
    if note is not None and not refused:
        notes, tree_key, packed = note
        notes.put(txn, tree_key, packed)
    return refused


def _is_packed(item: Item, stored: Stored) -> bool:
    """Whether what is stored is what would be, to the byte."""
    return len(stored) == len(item.packed) and bytes(stored) == item.packed


def _tags(content: Content) -> tuple[str, ...]:
    if not content.tags:
        return ()
    try:
        return check_tags(content.tags)
    except (TypeError, ValueError) as exc:
        raise Unreadable(str(exc)) from exc


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # noqa: BLE001  (an array that knows no yes and no, or whatever the class raises)
        return False


def _encoded(space: Space, value: Any) -> tuple[bytes, list[bytes]]:
    """The bytes of a value after it was encoded and decoded, which is how what is stored was made."""
    payload, frames = space._encode(value)
    payload, frames = space._encode(space._decode(memoryview(payload), [bytearray(frame) for frame in frames]))
    return payload, list(map(bytes, frames))
