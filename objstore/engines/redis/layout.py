"""The layout: under which names a tree lies on the servers.

    {name}...            the library's own records, those under keys below 0x04, all in one slot
    {name/7}...          bucket 7 of the rest, under their keys of the tree, all in one slot
    {name/7}\x06         its ordered index: a sorted set of its keys
    {name/7}\x07         what expires there: a sorted set of keys, by the microsecond since 1970
    {name/7}\x08         by tags: a sorted set of tag hash (7 bytes) and key
    {name/7}\x09         the tags of its keys: a hash, from key to tag hashes
    {name/7}\x0a         the namespaces in it: a hash, from prefix to name
    {name/7}\x0b...      claims, each by its name; \x0c... who waits for them

What stands in braces decides the slot (the cluster's rule of hash tags), and no key of the tree is as short as those of
the indexes.  So a record and what is kept about it change together, in one script.  A key lies in the bucket
`crc32(key) % buckets`, which caps how many servers a store can use, and is the price of beginning an ordered walk: so
many short calls, sent together.  Without an index there are only the records.

The layout record is the first key, {name}\x00l, JSON: what a store was made with, and the version of all this.  These
names are a promise: DO NOT CHANGE THEM.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from zlib import crc32

from objstore.errors import StoreCorrupt, StoreError

FORMAT = 1
BUCKETS = 256

LAYOUT_KEY = b"\x00l"
_SHARED_BELOW = b"\x04"

INDEX, EXPIRY, TAGS, TAGGED, NAMES, CLAIM, AWAITED = (bytes((code,)) for code in range(0x06, 0x0D))


@dataclass(frozen=True)
class Plan:
    """What a store was made with."""

    buckets: int
    index: bool

    def pack(self) -> bytes:
        return json.dumps({"format": FORMAT, **vars(self)}, sort_keys=True).encode()


def unpack(stored: bytes, location: str) -> Plan:
    """The plan in a layout record.  Raises StoreCorrupt, StoreError where a later version has made it."""
    try:
        fields = json.loads(stored)
        version, buckets, index = fields["format"], fields["buckets"], fields["index"]
        if not (type(version) is int and type(buckets) is int and 1 <= buckets <= 16384 and type(index) is bool):
            raise ValueError("a field is not what it should be")
    except (ValueError, TypeError, KeyError) as exc:
        raise StoreCorrupt(
            f"the layout of the store at {location!r} is damaged: {exc}; nobody knows now where its records lie: copy "
            f"it again, under another name"
        ) from exc
    if version != FORMAT:
        raise StoreError(
            f"the store at {location!r} has layout {version}, and this objstore reads layout {FORMAT}; upgrade objstore"
        )
    return Plan(buckets, index)


class Layout:
    """Where each key of a tree lies."""

    def __init__(self, name: str, plan: Plan, slot_of: Callable[[bytes], int]) -> None:
        self.buckets = plan.buckets
        self.index = plan.index
        self.home = plan.buckets
        """The bucket of the library's own records, behind the others."""
        prefixes = [f"{{{name}/{bucket}}}".encode() for bucket in range(plan.buckets)]
        self.prefixes = [*prefixes, home(name)]
        """With what the names of a bucket begin."""
        self.slots = list(map(slot_of, self.prefixes))
        self.kept = [tuple(prefix + kind for kind in (INDEX, EXPIRY, TAGS, TAGGED, NAMES)) for prefix in self.prefixes]
        """The names of what is kept about the records of a bucket."""

    def bucket(self, key: bytes) -> int:
        """The bucket of a key of the tree."""
        return self.home if key < _SHARED_BELOW else crc32(key) % self.buckets

    def buckets_between(self, start: bytes, stop: bytes | None) -> list[int]:
        """The buckets that may have keys from `start` (included) to `stop` (not)."""
        buckets = list(range(self.buckets)) if stop is None or stop > _SHARED_BELOW else []
        return [*buckets, self.home] if start < _SHARED_BELOW else buckets

    def keeps_index(self, bucket: int) -> bool:
        """Whether a bucket has an ordered index: the library's own records always have."""
        return self.index or bucket == self.home


def home(name: str) -> bytes:
    """With what the names of the library's own records begin."""
    return f"{{{name}}}".encode()
