"""ShardedSpace: a namespace of a store that is spread over servers.

There are no transactions there, so what `Space` does with several keys in one is done by the engine in one step for one
key: it is told what is known about a record (when it ends, its tags, its namespace), and keeps the books itself.  What
concerns many keys is many steps: they are sent together, and who fails half-way has done half.

The rules are those of `Space`: what a record says of its end decides, and what an index says is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Self

from objstore import keys
from objstore.engines.base import ANYTHING, MAX_SERVED_BYTES, Anything, Marks, Shards, Stored
from objstore.errors import StoreError
from objstore.record import Packed
from objstore.space import EMPTY_COUNT, ITEMS, Found, Labelled, Replacement, Space, tag_hash

_PAGE = 256


class ShardedSpace(Space):
    """One namespace; every `txn` is an engine's `Shards`."""

    tries_first = True
    _most_bytes = MAX_SERVED_BYTES
    _is_declared = False

    def recorded_as(self, codec: str | None) -> Self:
        super().recorded_as(codec)
        self._marks = Marks(prefix=self.prefix, name=self._catalogued_name if self.prefix else b"")
        return self

    def _marked(self, expires_at: int | None, tags: Sequence[str]) -> Marks:
        if expires_at is None and not tags:
            return self._marks
        return self._marks._replace(expires_at=expires_at, tags=tuple(map(tag_hash, tags)))

    # Writing

    def put(
        self, txn: Any, tree_key: bytes, packed: Packed, expires_at: int | None = None, tags: Sequence[str] = ()
    ) -> None:
        self._store(txn, tree_key, packed, expires_at, tags, ANYTHING)

    def _store(
        self,
        txn: Shards,
        tree_key: bytes,
        packed: Packed,
        expires_at: int | None,
        tags: Sequence[str],
        found: bytes | Anything | None,
    ) -> bool:
        if self.prefix and not self._is_declared:
            self.declare(txn)
        done = txn.store(tree_key, bytes(packed), self._marked(expires_at, tags), self.now(), found)
        self._settle(txn, done)
        return done > 0

    def _settle(self, txn: Shards, *done: int) -> None:
        """See to what a write has said of the namespace."""
        if min(done, default=1) < 0:
            raise self._recoded()
        if max(done, default=1) > 1:
            self.declare(txn)

    def declare(self, txn: Any) -> None:
        shards: Shards = txn
        shards.store(self._catalog_key, EMPTY_COUNT + self._catalogued_name, Marks(), 0, None)
        self._check_codec(shards)
        self._is_declared = True

    def put_many(
        self,
        txn: Any,
        items: Sequence[tuple[bytes, bytes]],
        expires_at: int | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self.put_each(txn, [(tree_key, packed, expires_at, tags) for tree_key, packed in items])

    def put_each(self, txn: Any, items: Sequence[Labelled]) -> None:
        shards: Shards = txn
        if self.prefix and not self._is_declared and items:
            self.declare(shards)
        marked = [(tree_key, packed, self._marked(expires, tags)) for tree_key, packed, expires, tags in items]
        try:
            self._settle(shards, *shards.store_many(marked, self.now()))
        except StoreError as exc:
            raise self._told(exc, items) from exc.__cause__

    def _told(self, error: StoreError, items: Sequence[Labelled]) -> StoreError:
        """An error that says which keys of a batch it is about."""
        places: list[int] = getattr(error, "places", [])
        if not places:
            return error
        failed = tuple(self.key(items[place][0], items[place][1]) for place in places)
        told = type(error)(
            f"{error} ({len(items) - len(failed):,} of {len(items):,} items are stored; the keys of the others are in "
            f"the attribute keys, the first of them is {keys.show(failed[0])})"
        )
        told.keys = failed
        return told

    def replace(
        self,
        txn: Any,
        tree_key: bytes,
        found: Stored | None,
        packed: Packed | None,
        expires_at: int | None = None,
        tags: Sequence[str] = (),
    ) -> bool:
        before = None if found is None else bytes(found)
        if packed is not None:
            return self._store(txn, tree_key, packed, expires_at, tags, before)
        # What is expired was there for whoever compares it; of nothing, what is known about it goes.
        return bool(txn.remove(tree_key, 0, before))

    def replace_many(self, txn: Any, items: Sequence[Replacement]) -> list[bool]:
        shards: Shards = txn
        if self.prefix and not self._is_declared and items:
            self.declare(shards)
        marked = [(item.tree_key, item.packed, self._marked(item.expires_at, item.tags)) for item in items]
        try:
            done = shards.store_many(marked, self.now(), [item.found for item in items])
        except StoreError as exc:
            labelled = [(item.tree_key, item.packed, item.expires_at, item.tags) for item in items]
            raise self._told(exc, labelled) from exc.__cause__
        self._settle(shards, *done)
        return [each > 0 for each in done]

    def replace_last(self, txn: Any, tree_key: bytes, found: Stored | None, now: int) -> bool:
        """Remove the record if it is still there; another one may have become the last meanwhile."""
        return found is not None and self.replace(txn, tree_key, found, None)

    def exchange(self, txn: Any, items: Sequence[tuple[bytes, bytes, bytes]]) -> int:
        return txn.exchange(items)  # type: ignore[no-any-return]

    def delete(self, txn: Any, tree_key: bytes) -> bool:
        return self.delete_live(txn, tree_key, 0)

    def delete_live(self, txn: Any, tree_key: bytes, now: int) -> bool:
        return txn.remove(tree_key, now, ANYTHING)  # type: ignore[no-any-return]

    def delete_many(self, txn: Any, tree_keys: Iterable[bytes], now: int) -> int:
        return sum(txn.remove_many(list(tree_keys), now))

    def delete_range(self, txn: Any, start: bytes, stop: bytes | None, now: int) -> int:
        return txn.remove_between(start, stop, now)  # type: ignore[no-any-return]

    def delete_tag(self, txn: Any, tag: str, start: bytes, stop: bytes | None, now: int) -> int:
        found = [item.tree_key for item in self.scan_tag(txn, tag, start, stop, reverse=False, now=now)]
        return self.delete_many(txn, found, now)

    def expire(self, txn: Any, now: int) -> int:
        return sum([txn.sweep(space.prefix, now) for space in self._with_belongings(txn)])

    def drop(self, txn: Any, now: int) -> None:
        shards: Shards = txn
        for space in self._with_belongings(shards):
            space.check_hash(shards)
            shards.remove(space._catalog_key, 0, ANYTHING)
            shards.forget_namespace(space.prefix)
            shards.remove_between(space.start, space.stop, now)

    # What is there

    def contains(self, txn: Any, tree_key: bytes) -> bool:
        for _, head, size in txn.scan_heads(tree_key, tree_key + b"\x00"):
            return self.look(tree_key, head, size, txn.get, self.now()) is not None
        return False

    def count(self, txn: Any) -> int:
        return txn.count_between(self.start, self.stop, self.now())  # type: ignore[no-any-return]

    def total(self, txn: Any) -> int:
        return txn.count_between(ITEMS, None, 0)  # type: ignore[no-any-return]

    def expires(self, txn: Any) -> bool:
        """Not so that one would have to look at the records: the engine knows."""
        return False

    def scan_keys(self, txn: Any, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[Any]:
        decode, at = keys.decode, self._key_at
        for tree_key in txn.scan_live_keys(start, stop, reverse, self.now()):
            if self.is_short(tree_key):
                yield decode(tree_key[at:])
            elif (stored := txn.get(tree_key)) is not None:
                yield self.key(tree_key, stored)

    def scan_tag(
        self, txn: Any, tag: str, start: bytes, stop: bytes | None, reverse: bool, now: int
    ) -> Iterator[Found]:
        tree_keys = txn.scan_tagged(tag_hash(tag), start, stop, reverse)
        while page := list(islice(tree_keys, _PAGE)):
            for tree_key, stored in txn.get_many(page):
                found = self.look(tree_key, stored, len(stored), {tree_key: stored}.get, now)
                if found is not None and tag in found.header.tags:
                    yield found
