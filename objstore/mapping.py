"""The mapping: what stores, snapshots and transactions have in common, written once.

`Readable` is all that can be read and `Writable` all that can be written, over a few primitives that say
where one looks and how a change is applied:

    _find(tree_key)             the stored bytes, or None: the hot path
    _record(tree_key)           the same, for everything else
    _reader(views)              one consistent state
    _apply(function, *args)     run function(txn, *args) atomically; it may be run again
    _space                      which namespace

In a store `_apply` is a write transaction of its own; in a transaction it is a plain call.  So every
rule has one implementation.  Values are encoded before `_apply` and decoded after it, and no code of a
user runs inside it: what must look at a value and then write (`pop`, `modify`, ...) reads, computes, and
applies the change only if the record is still the one it read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pickle import loads
from typing import Any, TypeVar

from objstore import keys
from objstore.engines.base import Reader, Stored
from objstore.errors import Conflict
from objstore.record import BODY, PLAIN, TAIL, Header, digest, key_digest
from objstore.space import EXPIRES_USED, STATE_KEY, Found, Space, check_tag, check_tags, expires_at
from objstore.views import Entries, Entry, Items, Keys, Range, Stretch, Values

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


class _Default:
    """Stands for an argument that was left out, where None means something."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Any = _Default()
"""Left out: as `ttl`, the default ttl of the store; as a bound of a range or a default value, none."""

# What has no state of its own to change: an edit of it would be lost.
_IMMUTABLE = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset, range)

TTL = float | timedelta | None


class Readable(Mapping[K, V]):
    """What can be read."""

    _space: Space

    def _find(self, tree_key: bytes) -> Stored | None:
        raise NotImplementedError

    def _record(self, tree_key: bytes) -> Stored | None:
        raise NotImplementedError

    def _there(self, tree_key: bytes, beside: bytes) -> tuple[bool, Any]:
        reader = self._reader()
        return reader.contains(tree_key), reader.get(beside)

    def _reader(self, views: bool = False) -> Reader:
        raise NotImplementedError

    # The mapping

    def __getitem__(self, key: K) -> V:
        space = self._space
        tree_key = space.tree_key(key)
        found = self._find(tree_key)
        # A sound plain record is what `Space.value` finds most of the time; a call less for it.
        if (
            found
            and found[0] == PLAIN
            and len(found) < space.plain_bytes
            and digest(found[BODY], key_digest(tree_key)) == found[TAIL]
        ):
            try:
                return loads(found)  # type: ignore[no-any-return]  # noqa: S301  (verified)
            except Exception as exc:  # whatever the objects raise while they are built
                raise space.undecodable(key, exc) from exc
        return self._unusual(key, tree_key, found)  # type: ignore[no-any-return]

    def _unusual(self, key: K, tree_key: bytes, found: Stored | None) -> Any:
        """The value in a record that is not small and plain, or is none."""
        return self._space.unusual_value(key, tree_key, found)

    def get(self, key: K, default: Any = None) -> Any:
        """The value of `key`, or `default`."""
        try:
            return self[key]
        except KeyError:
            return default

    def __contains__(self, key: object) -> bool:
        there, state = self._there(self._space.tree_key(key), STATE_KEY)
        if not there or (state and not state[0] & EXPIRES_USED):
            return there
        return self._look(key) is not None

    def __len__(self) -> int:
        return self._space.count(self._reader())

    def __iter__(self) -> Iterator[K]:
        return self._iterate_keys(self._whole)

    def __reversed__(self) -> Iterator[K]:
        return self._iterate_keys(self._whole.reversed())

    def keys(self) -> Keys[K]:
        """The keys in order, as a live set-like view; nothing is decoded."""
        return self.range().keys()

    def values(self) -> Values[V]:
        """The values in the order of their keys, as a live view; each is decoded when it is reached."""
        return self.range().values()

    def items(self) -> Items[K, V]:
        """Keys and values in order, as a live set-like view."""
        return self.range().items()

    def entries(self) -> Entries[K, V]:
        """An `Entry` for each record, in order; nothing is decoded."""
        return self.range().entries()

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        return {**other, **self} if isinstance(other, Mapping) else NotImplemented

    # Order

    def range(
        self,
        start: Any = DEFAULT,
        stop: Any = DEFAULT,
        *,
        prefix: Any = DEFAULT,
        tag: str | None = None,
        reverse: bool = False,
    ) -> Range[K, V]:
        """The keys from `start` (included) to `stop` (not), as a lazy view.

        Either end may be left out; the range then ends with the type family of the other (None is a key
        like any other).  `prefix` is in the place of both: text or bytes that begin so, or tuples whose
        first elements are these.  `tag` keeps only what bears it.  `reverse` iterates from the end.

        Raises TypeError and ValueError for what cannot be a key or a prefix.
        """
        low, high = self._space.start, self._space.stop
        if not (prefix is start is stop is DEFAULT):
            self._require_order()
        if prefix is not DEFAULT:
            if start is not DEFAULT or stop is not DEFAULT:
                raise TypeError("a range has a prefix, or a start and a stop, not both")
            low, high = (self._space.prefix + bound for bound in keys.prefix_bounds(prefix))
        elif start is not DEFAULT:
            low = self._space.tree_key(start)
            high = self._space.prefix + keys.family(keys.encode(start))[1]
        if stop is not DEFAULT:
            high = self._space.tree_key(stop)
            if start is DEFAULT:
                low = self._space.prefix + keys.family(keys.encode(stop))[0]
        return Range(self, Stretch(low, high, None if tag is None else check_tag(tag), reverse))

    def first(self) -> K:
        """The lowest key.  Raises KeyError when there is none."""
        self._require_order()
        return self._end(self)

    def last(self) -> K:
        """The highest key.  Raises KeyError when there is none."""
        return self._end(reversed(self))

    def _end(self, iterable: Iterable[K]) -> K:
        for key in iterable:
            return key
        raise KeyError(f"{self!r} is empty, so it has no first and no last key")

    def _require_order(self) -> None:
        """Raise UnsupportedOperation where the keys have no order."""

    # Many at once, and lazily

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Keys and values of those that are there, in one consistent state.  Raises CorruptRecord, DecodeError."""
        tree_key, value = self._space.tree_key, self._space.value
        asked = {tree_key(key): key for key in keys}
        found = {}
        for place, stored in self._reader().get_many(asked):
            key = asked[place]
            try:
                found[key] = value(key, place, stored)
            except KeyError:  # expired
                continue
        return found

    def entry(self, key: K) -> Entry[K, V]:
        """The record of `key`, seen without its value.  Raises KeyError."""
        found = self._look(key)
        if found is None:
            raise KeyError(key)
        return self._entry(found)

    def ttl(self, key: K) -> float | None:
        """Seconds until `key` expires, a float, or None if it never does.  Raises KeyError."""
        now = self._space.now()
        found = self._look(key, now)
        if found is None:
            raise KeyError(key)
        expires = found.header.expires_at
        return None if expires is None else (expires - now) / 1_000_000

    # What views look at

    @property
    def _whole(self) -> Stretch:
        return Stretch(self._space.start, self._space.stop)

    def _look(self, key: Any, now: int | None = None) -> Found | None:
        """What is stored under `key`, if it is there and not expired."""
        space = self._space
        tree_key = space.tree_key(key)
        reader = self._reader(views=True)
        for _, head, size in reader.scan_heads(tree_key, tree_key + b"\x00"):
            return space.look(tree_key, head, size, reader.get, space.now() if now is None else now)
        return None

    def _entry(self, found: Found) -> Entry[K, V]:
        codec = self._space.codec_name(found.header.codec)
        return Entry(self, found.tree_key, found.key, found.header, found.size, codec)

    def _scan(self, stretch: Stretch) -> Iterator[Found]:
        reader, now = self._reader(views=True), self._space.now()
        if stretch.tag is None:
            return self._space.scan(reader, stretch.start, stretch.stop, stretch.reverse, now)
        return self._space.scan_tag(reader, stretch.tag, stretch.start, stretch.stop, stretch.reverse, now)

    def _iterate_keys(self, stretch: Stretch) -> Iterator[K]:
        reader = self._reader()
        if stretch.tag is not None or self._space.expires(reader):
            return (found.key for found in self._scan(stretch))
        return self._space.scan_keys(reader, stretch.start, stretch.stop, stretch.reverse)

    def _iterate_items(self, stretch: Stretch) -> Iterator[tuple[K, V]]:
        reader = self._reader()
        if stretch.tag is not None:
            now = self._space.now()
            found = self._space.scan_tag(reader, stretch.tag, stretch.start, stretch.stop, stretch.reverse, now)
            return self._space.items(chain.from_iterable(reader.get_many([item.tree_key]) for item in found))
        return self._space.items(reader.scan(stretch.start, stretch.stop, stretch.reverse))

    def _iterate_entries(self, stretch: Stretch) -> Iterator[Entry[K, V]]:
        return map(self._entry, self._scan(stretch))

    def _count(self, stretch: Stretch) -> int:
        if stretch[:3] == self._whole[:3]:
            return len(self)
        return sum(1 for _ in self._iterate_keys(stretch))

    def _holds(self, stretch: Stretch, key: Any) -> bool:
        if not stretch.holds(self._space.tree_key(key)):
            return False
        found = self._look(key)
        return found is not None and (stretch.tag is None or stretch.tag in found.header.tags)

    def _clear(self, stretch: Stretch) -> int:
        raise TypeError(f"{self!r} is for reading; clear a range of the store or of a transaction")


class Writable(Readable[K, V], MutableMapping[K, V]):
    """What can be read and written."""

    _default_ttl: TTL = None

    def _apply(self, function: Callable[..., D], *arguments: Any) -> D:
        raise NotImplementedError

    # One item

    def __setitem__(self, key: K, value: V) -> None:
        if self._default_ttl is None:
            self._apply(self._space.put, *self._space.pack(key, value))
        else:
            self.set(key, value)

    def set(self, key: K, value: V, *, ttl: TTL = DEFAULT, tags: Iterable[str] = ()) -> None:
        """Store `value` under `key`, to expire after `ttl` (seconds or a timedelta; None is never), with tags.

        What was there goes with its expiry and its tags; a plain assignment gives the default ttl and no tags.

        Raises EncodeError where the value cannot be encoded, StoreFull where there is no room: then nothing has
        changed. Raises TypeError and ValueError for a ttl or tags that make no sense.
        """
        expires, labels = self._expires_at(ttl), check_tags(tags)
        self._apply(self._space.put, *self._space.pack(key, value, expires, labels), expires, labels)

    def __delitem__(self, key: K) -> None:
        if not self.delete(key):
            raise KeyError(key)

    def delete(self, key: K) -> bool:
        """Remove `key`; whether it was there."""
        return self._apply(self._space.delete_live, self._space.tree_key(key), self._space.now())

    def pop(self, key: K, default: Any = DEFAULT) -> Any:
        """Remove `key` and give its value, or `default`.  Raises KeyError without one.

        What cannot be decoded is not removed.
        """
        while True:
            tree_key = self._space.tree_key(key)
            found = self._record(tree_key)
            try:
                value = self._space.value(key, tree_key, found)
            except KeyError:
                if default is DEFAULT:
                    raise
                return default
            if self._apply(self._space.replace, tree_key, found, None):
                return value

    def popitem(self) -> tuple[K, V]:
        """Remove the item with the highest key and give it.  Raises KeyError when there is none."""
        space = self._space
        while True:
            now = space.now()
            key = self.last()
            tree_key = space.tree_key(key)
            found = self._record(tree_key)
            try:
                value = space.value(key, tree_key, found, now)
            except KeyError:  # somebody was faster; or it is known of something that is not there
                self._apply(space.replace, tree_key, found, None)
                continue
            if self._apply(space.replace_last, tree_key, found, now):
                return key, value

    def setdefault(self, key: K, default: Any = None) -> Any:
        """The value of `key`, after storing `default` there if it was absent."""
        while True:
            try:
                return self[key]
            except KeyError:
                if self.add(key, default):
                    return default

    def add(self, key: K, value: V, *, ttl: TTL = DEFAULT, tags: Iterable[str] = ()) -> bool:
        """Store `value` only if `key` is absent; whether it was.  `ttl`, `tags` and what is raised as in `set`."""
        expires, labels = self._expires_at(ttl), check_tags(tags)
        tree_key, packed = self._space.pack(key, value, expires, labels)
        if self._space.tries_first and self._apply(self._space.replace, tree_key, None, packed, expires, labels):
            return True
        while True:
            found, header = self._present(key, self._space.now())
            if header is not None:
                return False
            if self._apply(self._space.replace, tree_key, found, packed, expires, labels):
                return True

    def compare_and_set(self, key: K, expected: Any, value: V) -> bool:
        """Store `value` only if the value of `key` equals `expected` (by `==`); whether it did.  Expiry and tags stay.

        An absent key equals nothing.  Raises EncodeError, and CorruptRecord and DecodeError where what is there cannot
        be read.
        """
        tree_key = self._space.tree_key(key)
        while True:
            now = self._space.now()
            found, header = self._present(key, now)
            same = header is not None and self._space.value(key, tree_key, found, now) == expected
            if header is None or not same:
                return False
            if self._put_back(key, found, header, value):
                return True

    def increment(
        self, key: K, delta: Any = 1, default: Any = 0, *, ttl: TTL = DEFAULT, tags: Iterable[str] = ()
    ) -> Any:
        """Add `delta` to the value of `key` (to `default`, if it is absent) and give the sum.

        What is there keeps its expiry and tags; what is new gets `ttl` and `tags`.  Raises TypeError where the two
        cannot be added.
        """
        return self._modify(key, lambda value: value + delta, default, self._expires_at(ttl), check_tags(tags))

    def modify(self, key: K, function: Callable[[V], V], *, default: Any = DEFAULT) -> V:
        """Replace the value of `key` by `function(value)` and give that.  Expiry and tags stay.

        The function runs outside the write lock, and again if another writer came between.  An absent key
        is taken for `default`; without one it raises KeyError.
        """
        return self._modify(key, function, default, self._expires_at(DEFAULT), ())  # type: ignore[no-any-return]

    @contextmanager
    def edit(self, key: K, *, default: Any = DEFAULT, default_factory: Callable[[], V] | None = None) -> Iterator[V]:
        """The value of `key`, to be changed in place: written back when the `with` block ends.

        Nothing is written if the block raises.  An absent key is taken for `default` or what
        `default_factory()` gives; without them it raises KeyError.  Expiry and tags stay.

        Raises TypeError for a value that cannot change in place, Conflict if another writer came between.
        """
        now = self._space.now()
        found, header = self._present(key, now)
        if header is not None:
            value = self._space.value(key, self._space.tree_key(key), found, now)
        elif default_factory is not None:
            value = default_factory()
        elif default is DEFAULT:
            raise KeyError(key)
        else:
            value = default
        if isinstance(value, _IMMUTABLE):
            raise TypeError(
                f"the value of key {keys.show(key)} is of type {type(value).__name__} and cannot be changed in place, "
                f"so an edit of it would be lost; use modify({keys.show(key)}, function)"
            )
        yield value
        if not self._put_back(key, found, header or Header(expires_at=self._expires_at(DEFAULT)), value):
            raise Conflict(
                f"another writer changed key {keys.show(key)} during the edit; nothing was written, edit it again"
            )

    def touch(self, key: K, ttl: TTL) -> bool:
        """Let `key` expire after `ttl` from now (None: never); whether it was there.  Raises CorruptRecord."""
        tree_key = self._space.tree_key(key)
        while True:
            now = self._space.now()
            expires = expires_at(self._default_ttl if ttl is DEFAULT else ttl, now)
            found, header = self._present(key, now)
            if found is None or header is None:
                return False
            packed = self._space.repack(key, tree_key, found, expires)
            if self._apply(self._space.replace, tree_key, found, packed, expires, header.tags):
                return True

    # Many

    def update(self, other: Any = (), /, *, ttl: TTL = DEFAULT, tags: Iterable[str] = (), **more: Any) -> None:
        """Store every item of a mapping, of an iterable of pairs and of the keywords, in one transaction.

        All values are encoded before the write lock is taken: one bad value changes nothing.  On servers it is a step
        for each key.  `ttl` and `tags` are for all of them, and what is raised is as in `set`.
        """
        expires, labels = self._expires_at(ttl), check_tags(tags)
        packed = self._space.pack_many(chain(pairs(other), more.items()), expires, labels)
        self._apply(self._space.put_many, packed, expires, labels)

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # | gives a dict, as it must leave the store alone
        self.update(other)
        return self

    def delete_many(self, keys: Iterable[K]) -> int:
        """Remove these keys in one transaction; how many of them were there."""
        return self._apply(self._space.delete_many, list(map(self._space.tree_key, keys)), self._space.now())

    def clear(self) -> None:
        """Remove everything, in one transaction."""
        self._clear(self._whole)

    def delete_tag(self, tag: str) -> int:
        """Remove everything that bears `tag`, memoized results among it; how much that was."""
        return self._apply(self._space.delete_tag_everywhere, check_tag(tag), self._space.now())

    def expire(self) -> int:
        """Sweep away what is expired, memoized results among it, and still takes room; how much that was."""
        return self._apply(self._space.expire, self._space.now())

    def _clear(self, stretch: Stretch) -> int:
        now = self._space.now()
        if stretch.tag is not None:
            return self._apply(self._space.delete_tag, stretch.tag, stretch.start, stretch.stop, now)
        return self._apply(self._space.delete_range, stretch.start, stretch.stop, now)

    # What these are made of

    def _expires_at(self, ttl: TTL) -> int | None:
        return expires_at(self._default_ttl if ttl is DEFAULT else ttl, self._space.now())

    def _present(self, key: K, now: int) -> tuple[Stored | None, Header | None]:
        """The stored bytes under `key`, whatever they are, and their header if the key is there."""
        tree_key = self._space.tree_key(key)
        stored = self._record(tree_key)
        if stored is None:
            return None, None
        found = self._space.look(tree_key, stored, len(stored), lambda _: stored, now)
        return stored, None if found is None else found.header

    def _put_back(self, key: K, found: Stored | None, header: Header, value: Any) -> bool:
        """Store another value with the same expiry and tags, if the record is still the one that was read."""
        tree_key, packed = self._space.pack(key, value, header.expires_at, header.tags)
        return self._apply(self._space.replace, tree_key, found, packed, header.expires_at, header.tags)

    def _modify(
        self, key: K, function: Callable[[Any], Any], default: Any, expires: int | None, tags: tuple[str, ...]
    ) -> Any:
        tree_key = self._space.tree_key(key)
        while True:
            now = self._space.now()
            found, header = self._present(key, now)
            if header is not None:
                value = self._space.value(key, tree_key, found, now)
            elif default is DEFAULT:
                raise KeyError(key)
            else:
                value = default
            value = function(value)
            if self._put_back(key, found, header or Header(expires_at=expires, tags=tags), value):
                return value


def pairs(other: Any) -> Iterable[tuple[Any, Any]]:
    """The items of whatever `dict.update` takes."""
    if isinstance(other, Mapping):
        return other.items()
    if hasattr(other, "keys"):
        return ((key, other[key]) for key in other.keys())  # noqa: SIM118  (what dict does)
    pairs: Iterable[tuple[Any, Any]] = other
    return pairs
