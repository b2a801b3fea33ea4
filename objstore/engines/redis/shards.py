"""Shards: reading and writing what is spread over the servers, as one tree.

Commands for many keys are sent together, in pages that are bounded in number and, as far as sizes are known, in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha1
from itertools import repeat
from typing import Any

from objstore.engines.base import ANYTHING, ORDER_ENTRY, Anything, Marks, Put
from objstore.engines.redis import scripts
from objstore.engines.redis.layout import INDEX, TAGS, Layout
from objstore.engines.redis.routing import ONCE, WRITE, Call, NodeGone, Router
from objstore.engines.redis.walking import walk
from objstore.errors import StoreDenied, StoreError, UnsupportedOperation
from objstore.record import HEAD_BYTES, Packed

_PAGE_KEYS = 500
_PAGE_BYTES = 4 << 20
_FIRST_RECORDS = 16  # while nobody knows how large they are
_COMPARED_WHOLE = 64  # what is longer is compared by its SHA-1

_LATER = 10_000_000  # microseconds for which a server keeps at most what has ended

_UNMARKED = Marks()


class ServerShards:
    """All buckets of a store.  `keeper` is what must live as long as this."""

    def __init__(self, router: Router, layout: Layout, may_write: bool) -> None:
        self.keeper: object = None
        self._router = router
        self._layout = layout
        self._may_write = may_write

    def _place(self, key: bytes) -> tuple[int, bytes]:
        """The slot of a key, and its name on the servers."""
        layout = self._layout
        bucket = layout.bucket(key)
        return layout.slots[bucket], layout.prefixes[bucket] + key

    # Reading

    def get(self, key: bytes) -> bytes | None:
        return self._router.call(*self._get(key))  # type: ignore[no-any-return]

    def contains(self, key: bytes) -> bool:
        slot, name = self._place(key)
        return bool(self._router.call(slot, (b"EXISTS", name)))

    def get_many(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for page in _pages(keys, _PAGE_KEYS):
            records = self._router.call_many([self._get(key) for key in page])
            found += [(key, record) for key, record in zip(page, records, strict=True) if record is not None]
        return found

    def _get(self, key: bytes) -> Call:
        slot, name = self._place(key)
        return slot, (b"GET", name)

    def scan(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        count = _FIRST_RECORDS
        for keys in self._walk(start, stop, reverse, None):
            at = 0
            while at < len(keys):
                page = keys[at : at + count]
                at += len(page)
                found = self.get_many(page)
                yield from found
                if len(found) < len(page):
                    self._forget(set(page) - {key for key, _ in found})
                size = sum(len(record) for _, record in found) // len(page) + 1
                count = max(1, min(2 * count, _PAGE_KEYS, _PAGE_BYTES // size))

    def scan_keys(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        for keys in self._walk(start, stop, reverse, None):
            yield from keys

    def scan_live_keys(self, start: bytes, stop: bytes | None, reverse: bool, now: int) -> Iterator[bytes]:
        for keys in self._walk(start, stop, reverse, now):
            yield from keys

    def scan_heads(
        self, start: bytes, stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes, int]]:
        if stop == start + b"\x00":
            yield from self._heads([start])
            return
        for keys in self._walk(start, stop, reverse, None):
            for page in _pages(keys, _PAGE_KEYS):
                yield from self._heads(page)

    def _heads(self, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes, int]]:
        calls: list[Call] = []
        for key in keys:
            slot, name = self._place(key)
            calls += [(slot, (b"GETRANGE", name, b"0", b"%d" % (HEAD_BYTES - 1))), (slot, (b"STRLEN", name))]
        answers = self._router.call_many(calls)
        heads = list(zip(keys, answers[::2], answers[1::2], strict=True))
        empty = [key for key, _, size in heads if not size]
        missing = {key for key in empty if not self.contains(key)}
        self._forget(missing)
        for key, head, size in heads:
            if key not in missing:
                yield key, head, size

    def count(self) -> int:
        layout = self._layout
        if not layout.index:
            return sum(1 for _ in self._scan_servers())
        slots = zip(layout.slots, layout.kept, strict=True)
        counts: list[int] = self._router.call_many([(slot, (b"ZCARD", kept[0])) for slot, kept in slots])
        return sum(counts)

    def count_between(self, start: bytes, stop: bytes | None, now: int) -> int:
        layout = self._layout
        if not layout.index:
            return sum(1 for _ in self.scan_live_keys(start, stop, False, now))
        buckets = layout.buckets_between(start, stop)
        low, high = _bounds(b"", start, stop)
        calls: list[Call] = []
        for bucket in buckets:
            calls.append((layout.slots[bucket], (b"ZLEXCOUNT", layout.kept[bucket][0], low, high)))
            calls.append(self._count_ended(bucket, now))
        answers = self._router.call_many(calls)
        expired = [bucket for bucket, count in zip(buckets, answers[1::2], strict=True) if count]
        over = self._router.call_many(
            [
                (layout.slots[bucket], (b"ZRANGEBYSCORE", layout.kept[bucket][1], b"-inf", b"%d" % now))
                for bucket in expired
            ]
        )
        is_in = sum(1 for keys in over for key in keys if start <= key and (stop is None or key < stop))
        counted: int = sum(answers[::2])
        return max(counted - is_in, 0)

    def scan_tagged(self, tag: bytes, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[bytes]:
        if not self._layout.index:  # then their records are looked at
            yield from self.scan_keys(start, stop, reverse)
            return
        for keys in self._walk(start, stop, reverse, None, TAGS, tag):
            yield from keys

    def _walk(
        self, start: bytes, stop: bytes | None, reverse: bool, now: int | None, kind: bytes = INDEX, before: bytes = b""
    ) -> Iterator[list[bytes]]:
        """Keys in order, in lists; `before` stands in front of them in a sorted set of this kind."""
        layout, router = self._layout, self._router
        buckets = layout.buckets_between(start, stop)
        if not layout.index and buckets != [layout.home]:
            if reverse:
                self._require_index("reverse order")
            yield from _pages(self._scan_servers(start, stop), _PAGE_KEYS)
            return
        low, high = _bounds(before, start, stop)
        order, skip = b"ZREVRANGEBYLEX" if reverse else b"ZRANGEBYLEX", len(before)

        def pages(asked: list[tuple[int, bytes | None]], count: int) -> list[tuple[list[bytes], bytes | None]]:
            calls: list[Call] = []
            for bucket, position in asked:
                behind = None if position is None else b"(" + before + position
                begin, end = ((behind or high), low) if reverse else ((behind or low), high)
                name = layout.prefixes[bucket] + kind
                calls.append((layout.slots[bucket], (order, name, begin, end, b"LIMIT", b"0", b"%d" % count)))
            if now is not None:
                calls += [self._count_ended(bucket, now) for bucket, _ in asked]
            answers = router.call_many(calls)
            found = [[key[skip:] for key in answer] if skip else answer for answer in answers[: len(asked)]]
            lasts = [keys[-1] if len(keys) == count else None for keys in found]
            if now is not None and any(answers[len(asked) :]):
                found = self._without_ended([bucket for bucket, _ in asked], found, now)
            return list(zip(found, lasts, strict=True))

        yield from walk(buckets, pages, reverse)

    def _count_ended(self, bucket: int, now: int) -> Call:
        return self._layout.slots[bucket], (b"ZCOUNT", self._layout.kept[bucket][1], b"-inf", b"%d" % now)

    def _without_ended(self, buckets: Sequence[int], found: list[list[bytes]], now: int) -> list[list[bytes]]:
        """The keys of each bucket that have not ended."""
        layout = self._layout
        asked = [(bucket, keys) for bucket, keys in zip(buckets, found, strict=True) if keys]
        ends = self._router.call_many(
            [(layout.slots[bucket], (b"ZMSCORE", layout.kept[bucket][1], *keys)) for bucket, keys in asked]
        )
        live = {
            bucket: [key for key, end in zip(keys, its_ends, strict=True) if end is None or float(end) > now]
            for (bucket, keys), its_ends in zip(asked, ends, strict=True)
        }
        return [live.get(bucket, []) for bucket in buckets]

    def _scan_servers(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[bytes]:
        """Keys of users between these, in no order, found by looking at everything that the servers have."""
        layout = self._layout
        prefix = layout.prefixes[layout.home][:-1]  # without the brace
        name = re.compile(re.escape(prefix) + rb"/(\d+)\}([\x04\x05\x10-\xff].*)", re.DOTALL)
        seen: set[bytes] = set()
        while True:
            try:
                for node in self._router.primaries():
                    cursor = b"0"
                    while True:
                        scan = (b"SCAN", cursor, b"MATCH", prefix + b"/*", b"COUNT", b"1000")
                        cursor, names = self._router.call_node(node, scan)
                        for match in filter(None, map(name.fullmatch, names)):
                            bucket, key = match.groups()
                            # What lies elsewhere is of a time when the store had another layout, and nobody finds it.
                            if key not in seen and int(bucket) == layout.bucket(key):
                                seen.add(key)
                                if start <= key and (stop is None or key < stop):
                                    yield key
                        if cursor in (b"0", 0):
                            break
                return
            except NodeGone:  # its replica has what it had
                continue

    def scan_everything(self) -> Iterator[tuple[bytes, bytes]]:
        """What an audit looks at: entries of the indexes, as a tree would have them, and all that the servers have."""
        yield from self.scan(b"", b"\x04")
        if self._layout.index:
            layout = self._layout
            for bucket in range(layout.buckets):
                slot, (_, expiry, *_) = layout.slots[bucket], layout.kept[bucket]
                ends = self._router.call(slot, (b"ZRANGE", expiry, b"0", b"-1", b"WITHSCORES"))
                for key, score in zip(ends[::2], ends[1::2], strict=True):
                    yield b"\x02" + int(float(score)).to_bytes(7, "big") + key, b""
            for kind, entry in ((TAGS, b"\x03"), (INDEX, ORDER_ENTRY)):
                for keys in self._walk(b"\x00", None, False, None, kind):
                    yield from ((entry + key, b"") for key in keys)
        for page in _pages(self._scan_servers(), _PAGE_KEYS):
            yield from self.get_many(page)

    def _require_index(self, what: str) -> None:
        if not self._layout.index:
            raise UnsupportedOperation(
                what, "redis", "this store has no index, as a Cache has none; make it with ?index=yes in its location"
            )

    def _forget(self, missing: Iterable[bytes]) -> None:
        """Take keys out of the index whose records the server has dropped, which is looked at once more."""
        if not (self._may_write and self._layout.index):
            return
        calls = [self._write(key, b"D", b"", _UNMARKED, 0, None) for key in missing]
        if not calls:
            return
        with suppress(StoreDenied):  # a user who may only read
            self._router.call_many(calls)  # as what reads, because no replica need have it

    # Writing

    def _write(
        self, key: bytes, action: bytes, record: bytes, marks: Marks, now: int, found: bytes | Anything | None
    ) -> Call:
        layout = self._layout
        bucket = layout.bucket(key)
        name, slot = layout.prefixes[bucket] + key, layout.slots[bucket]
        expires_at, tags, prefix, its_name = marks
        is_indexed = layout.keeps_index(bucket)
        lives = b"" if expires_at is None else _lives(expires_at - now)
        if not (is_indexed or prefix) and found is ANYTHING and action == b"S":
            return slot, (b"SET", name, record, b"PX", lives) if lives else (b"SET", name, record)
        known: tuple[bytes, ...] = ()
        if expires_at is not None or tags or prefix:
            known = lives, b"" if expires_at is None else b"%d" % expires_at, b"".join(tags), prefix, its_name
        return slot, (
            b"EVALSHA",
            scripts.WRITE.digest if is_indexed else scripts.WRITE_BARE.digest,
            b"6",
            *layout.kept[bucket],
            name,
            _condition(found),
            action,
            key,
            b"%d" % now,
            record,
            *known,
        )

    def store(self, key: bytes, record: bytes, marks: Marks, now: int, found: bytes | Anything | None) -> int:
        call = self._write(key, b"S", record, marks, now, found)
        return _done(self._router.call(*call, WRITE if found is ANYTHING else ONCE))

    def store_many(self, items: Sequence[Put], now: int, found: Sequence[bytes | None] | None = None) -> list[int]:
        done: list[int] = []
        kind = WRITE if found is None else ONCE
        for first, page in _batches(items):
            there = repeat(ANYTHING) if found is None else found[first:]
            calls = [
                self._write(key, b"S", record, marks, now, each)
                for (key, record, marks), each in zip(page, there, strict=False)
            ]
            try:
                done += map(_done, self._router.call_many(calls, kind))
            except StoreError as exc:
                exc.places = [first + place for place in _places(exc)] + list(range(first + len(page), len(items)))  # type: ignore[attr-defined]
                raise
        return done

    def exchange(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> int:
        count = 0
        for page in _pages(items, _PAGE_KEYS):
            calls = [self._write(key, b"K", new, _UNMARKED, 0, old) for key, old, new in page]
            count += sum(self._router.call_many(calls, ONCE))
        return count

    def remove(self, key: bytes, now: int, found: bytes | Anything | None) -> bool:
        call = self._write(key, b"D", b"", _UNMARKED, now, found)
        if found is ANYTHING:
            return bool(self._router.call(*call, WRITE, again=1) == 1)
        return bool(self._router.call(*call, ONCE) == 1)

    def remove_many(self, keys: Sequence[bytes], now: int) -> list[bool]:
        removed: list[bool] = []
        for page in _pages(keys, _PAGE_KEYS):
            calls = [self._write(key, b"D", b"", _UNMARKED, now, ANYTHING) for key in page]
            removed += [answer == 1 for answer in self._router.call_many(calls, WRITE, again=1)]
        return removed

    def remove_between(self, start: bytes, stop: bytes | None, now: int) -> int:
        layout = self._layout
        buckets = layout.buckets_between(start, stop)
        if not layout.index and buckets != [layout.home]:
            pages = _pages(self._scan_servers(start, stop), _PAGE_KEYS)
            return sum(sum(self.remove_many(page, now)) for page in pages)
        low, high = _bounds(b"", start, stop)
        live = 0
        while buckets:
            calls: list[Call] = []
            for bucket in buckets:
                arguments = layout.prefixes[bucket], b"%d" % now, low, high, b"%d" % _PAGE_KEYS
                command = (b"EVALSHA", scripts.CLEAR.digest, b"4", *layout.kept[bucket][:4], *arguments)
                calls.append((layout.slots[bucket], command))
            answers = self._router.call_many(calls, WRITE)
            live += sum(answer[1] for answer in answers)
            buckets = [bucket for bucket, answer in zip(buckets, answers, strict=True) if answer[0] == _PAGE_KEYS]
        return live

    def sweep(self, prefix: bytes, now: int) -> int:
        layout = self._layout
        if not layout.index:  # the servers do that alone
            return 0
        firsts = dict.fromkeys(range(layout.buckets), 0)
        count = 0
        while firsts:
            calls: list[Call] = []
            for bucket, first in firsts.items():
                arguments = layout.prefixes[bucket], b"%d" % now, b"%d" % first, b"%d" % _PAGE_KEYS, prefix
                command = (b"EVALSHA", scripts.SWEEP.digest, b"4", *layout.kept[bucket][:4], *arguments)
                calls.append((layout.slots[bucket], command))
            answers = self._router.call_many(calls, WRITE)
            for bucket, (found, removed) in zip(list(firsts), answers, strict=True):
                count += removed
                firsts[bucket] += found - removed
                if found < _PAGE_KEYS:
                    del firsts[bucket]
        return count

    def forget_namespace(self, prefix: bytes) -> None:
        layout = self._layout
        self._router.call_many(
            [(layout.slots[bucket], (b"HDEL", layout.kept[bucket][4], prefix)) for bucket in range(layout.buckets)],
            WRITE,
        )

    # As a transaction writes, for the library's own records

    def put(self, key: bytes, record: Packed) -> None:
        self.store(key, bytes(record), _UNMARKED, 0, ANYTHING)

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        self.store_many([(key, record, _UNMARKED) for key, record in items], 0)

    def delete(self, key: bytes) -> bool:
        return self.remove(key, 0, ANYTHING)

    def delete_range(self, start: bytes, stop: bytes | None) -> int:
        return self.remove_between(start, stop, 0)


def _condition(found: bytes | Anything | None) -> bytes:
    if found is ANYTHING:
        return b"*"
    if found is None:
        return b"!"
    assert isinstance(found, bytes)
    if len(found) <= _COMPARED_WHOLE:
        return b"=" + found
    return b"#" + sha1(found, usedforsecurity=False).hexdigest().encode()


def _lives(ttl: int) -> bytes:
    """Milliseconds after which a server drops what ends after so many microseconds.

    A little later, because the clock of whoever reads decides that it has ended, and clocks differ.
    """
    return b"%d" % (max(ttl + min(ttl, _LATER), 1000) // 1000)


def _done(answer: Any) -> int:
    """What a write gives; a plain SET says that it is done with a text."""
    return answer if isinstance(answer, int) else 1


def _places(error: StoreError) -> list[int]:
    return getattr(error, "places", [])


def _bounds(before: bytes, start: bytes, stop: bytes | None) -> tuple[bytes, bytes]:
    """The lowest and the highest member of a sorted set, as its commands take them."""
    if stop is not None:
        return b"[" + before + start, b"(" + before + stop
    if not before:
        return b"[" + start, b"+"
    return b"[" + before + start, b"(" + _behind(before)


def _behind(prefix: bytes) -> bytes:
    """The lowest text above all that begin so."""
    whole = prefix.rstrip(b"\xff")
    return whole[:-1] + bytes((whole[-1] + 1,)) if whole else b"\xff" * (len(prefix) + 512)


def _pages(items: Iterable[Any], count: int) -> Iterator[list[Any]]:
    page: list[Any] = []
    for item in items:
        page.append(item)
        if len(page) == count:
            yield page
            page = []
    if page:
        yield page


def _batches(items: Sequence[Put]) -> Iterator[tuple[int, list[Put]]]:
    """The items in pages of bounded number and size, and the place of the first of each."""
    page: list[Put] = []
    first = size = 0
    for place, item in enumerate(items):
        if page and (len(page) == _PAGE_KEYS or size + len(item[1]) > _PAGE_BYTES):
            yield first, page
            page, first, size = [], place, 0
        page.append(item)
        size += len(item[1])
    if page:
        yield first, page
