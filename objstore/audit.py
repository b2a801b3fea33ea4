"""Whether what lies in a tree is what objstore stored: every record, and the books that are kept about them.

It looks at records as they come, in the order of the tree, and decodes no value.  A record is right if it fits its
digests, which cover its key, and in a store that is sealed its seal, as far as there are keys to tell.  The books are
right if the counts say what is there, and if everything that expires or has tags can be found in their indexes.  More
in an index than there should be is no error: what a damaged record had there stays until it is swept, and is compared
before it is believed.

Everything here knows bytes and spaces; where the records come from is the caller's.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

from objstore import identity, keys, record, space
from objstore.codecs.keyring import NO_KEYS, Keys
from objstore.codecs.sealing import sealing_of
from objstore.engines.base import DURABILITY_KEY, IDENTITY_KEY, ORDER_ENTRY, Stored, durability_of
from objstore.errors import StoreCorrupt, StoreError
from objstore.eviction import LEDGER_KEY, Ledger, metered, room_for
from objstore.identity import Identity
from objstore.keys import LostKey
from objstore.record import Damaged, Forged, Header, Seal


class Damage(NamedTuple):
    """A record that cannot be read any more."""

    namespace: str
    """The namespace of it; "" is the default one."""
    key: Any
    """Its key, or a LostKey where that is lost with it."""
    reason: str
    """What is wrong with it, in words."""

    @property
    def shown_key(self) -> str:
        """Its key for a message: shortened, and also where Python refuses to write it."""
        return keys.show(self.key)

    def __repr__(self) -> str:
        return f"Damage(namespace={self.namespace!r}, key={self.shown_key}, reason={self.reason!r})"


class Audit:
    """Takes the items of a tree, one by one and in order; then it knows what is wrong with them."""

    def __init__(self, location: str, keys: Keys = NO_KEYS, keeps_books: bool = True, is_ordered: bool = False) -> None:
        self.unverified = 0
        """Sealed records that fit their digests, where there was no key to verify the seals."""
        self.damaged: list[Damage] = []
        self.problems: list[str] = []
        self._keeps_books = keeps_books
        self._is_ordered = is_ordered
        self._location = location
        self._keys = keys
        self._identity: Identity | None = None
        self._looked_at_identity = False
        self._seals: dict[bytes, Seal | None] = {}  # by the prefix of the namespace
        self._records = Counter[bytes]()  # by the prefix of the namespace
        self._others = 0
        self._state: tuple[int, int] | None = None
        self._namespaces: dict[bytes, tuple[int, str]] = {b"": (0, "")}  # by the same prefix
        self._index: set[bytes] = set()
        self._missing = Counter[str]()
        self._ledger: Ledger | None = None
        self._bytes = 0
        self._metered = 0  # the sum of what stands for each record, and less of what stands for each entry of the meter

    @property
    def entries(self) -> int:
        """Records of all namespaces, expired ones among them."""
        return self._records.total()

    def take(self, tree_key: bytes, stored: Stored | None) -> None:
        """Look at an item; None stands for a record that could not be read."""
        prefix = space.prefix_in(tree_key)
        self._others += prefix != b""
        kind = tree_key[:1]
        if prefix is not None:
            self._metered += _number(tree_key)
            self._bytes += room_for(tree_key, len(stored or b""))
            self._look(prefix, tree_key, stored)
        elif kind == space.METER:
            self._metered -= _number(metered(tree_key))
        elif kind in (space.EXPIRY, space.TAGS, ORDER_ENTRY):
            self._index.add(_short(tree_key))
        elif stored is None:
            self.problems.append(f"the record of the library's own key {tree_key!r} cannot be read")
        elif kind == space.CATALOG:
            self._take_namespace(tree_key, bytes(stored))
        elif tree_key == IDENTITY_KEY:
            self._take_identity(bytes(stored))
        elif tree_key == space.STATE_KEY:
            self._take_state(bytes(stored))
        elif tree_key == LEDGER_KEY:
            self._take_ledger(bytes(stored))
        elif tree_key == DURABILITY_KEY:
            if self._keeps_books and durability_of(bytes(stored)) is None:
                self.problems.append("the durability of the store is damaged")
        elif self._keeps_books:  # else the engine has some of its own
            self.problems.append(f"the library has no key {tree_key!r}")

    def finish(self) -> None:
        """Compare the counts, after the last item."""
        if self._keeps_books:
            self._compare_counts()
        for prefix in self._records.keys() - self._namespaces.keys():
            self.problems.append(f"{self._records[prefix]} records are in a namespace whose name is lost")
        if self._identity is None and not self._looked_at_identity:
            self.problems.append("the identity of the store is missing")
        for index, missing in self._missing.items():
            self.problems.append(f"{missing} records are missing in the index of {index}")

    def _compare_counts(self) -> None:
        for prefix, (count, name) in self._namespaces.items():
            if prefix and self._records[prefix] != count:
                self.problems.append(f"namespace {name!r} has {self._records[prefix]} records of {count}")
        if self._state is None:
            self.problems.append("the state of the store is missing or damaged")
        elif self._state[1] != self._others:
            self.problems.append(f"the count of records outside the default namespace is not {self._others}")
        if self._identity is not None and self._identity.kind == "Cache":
            self._compare_ledger()

    def _compare_ledger(self) -> None:
        if self._ledger is None:
            self.problems.append("the ledger of the cache is missing or damaged")
        elif (self._ledger.entries, self._ledger.bytes) != (self.entries, self._bytes) and not self.damaged:
            self.problems.append(
                f"the ledger of the cache counts {self._ledger.entries} records of {self.entries}, and "
                f"{self._ledger.bytes} bytes of {self._bytes}"
            )
        if self._metered:
            self.problems.append("the meter of the cache has not one entry for each record")

    def _look(self, prefix: bytes, tree_key: bytes, stored: Stored | None) -> None:
        self._records[prefix] += 1
        if self._is_ordered and _short(ORDER_ENTRY + tree_key) not in self._index:
            self._missing["order"] += 1
        if stored is None:
            self._damage(prefix, tree_key, None, "its pages are lost")
            return
        try:
            header = self._verified(prefix, tree_key, stored)
        except (Damaged, Forged) as exc:
            self._damage(prefix, tree_key, stored, str(exc))
            return
        if isinstance(_key(tree_key[len(prefix) :], header), LostKey):
            self._damage(prefix, tree_key, stored, "its key makes no sense")
        elif header is not record.PLAIN_HEADER and (self._keeps_books or self._is_ordered):  # else there is no index
            self._look_up(tree_key, header)

    def _verified(self, prefix: bytes, tree_key: bytes, stored: Stored) -> Header:
        if prefix not in self._seals:
            self._seals[prefix] = self._seal_of(prefix)
        seal = self._seals[prefix]
        header = record.unpack(tree_key, stored)[0]
        if space.contradicts(header, tree_key[len(prefix) :]):
            raise Damaged("its header belongs to another key, or to no time")
        if seal is not None:
            record.unpack(tree_key, stored, seal=seal)
        is_sealed = bool(header.seal)
        if self._identity is not None and is_sealed != bool(self._identity.sealing):
            raise Forged(f"it is {'sealed' if is_sealed else 'not sealed'}, and the store is not so")
        self.unverified += is_sealed and seal is None
        return header

    def _seal_of(self, prefix: bytes) -> Seal | None:
        """The seal of a namespace, if there are keys."""
        if self._identity is None or identity.ring_of(self._identity, self._keys) is None:
            return None
        sealing = sealing_of(self._identity.sealing, self._keys, self._identity.id)
        if sealing is not None and prefix not in self._namespaces:
            raise Damaged("the name of its namespace is lost, and its seal covers that")
        return sealing and sealing(self._namespaces[prefix][1])

    def _look_up(self, tree_key: bytes, header: Header) -> None:
        for entry in space.index_entries(tree_key, header.expires_at, header.tags):
            if _short(entry) not in self._index:
                self._missing["expiry" if entry[:1] == space.EXPIRY else "tags"] += 1

    def _damage(self, prefix: bytes, tree_key: bytes, stored: Stored | None, reason: str) -> None:
        name = self._namespaces[prefix][1] if prefix in self._namespaces else lost_name(prefix)
        self.damaged.append(Damage(name, key_of(tree_key[len(prefix) :], stored), reason))

    def _take_namespace(self, tree_key: bytes, stored: bytes) -> None:
        try:
            count, name, _ = space.read_namespace(stored)
        except (struct.error, ValueError):
            self.problems.append("the name of a namespace is damaged")
            return
        prefix = space.prefix_of(name)
        if prefix[1:] == tree_key[1:]:
            self._namespaces[prefix] = count, name
        else:
            self.problems.append("the name of a namespace is damaged")

    def _take_ledger(self, stored: bytes) -> None:
        with suppress(StoreCorrupt):
            self._ledger = Ledger.unpack(stored)

    def _take_state(self, stored: bytes) -> None:
        with suppress(struct.error):
            self._state = space.read_state(stored)

    def _take_identity(self, stored: bytes) -> None:
        self._looked_at_identity = True
        try:
            self._identity = identity.unpack(stored, self._location)
            identity.check_seal(self._identity, self._location, self._keys)
        except StoreError as exc:
            self.problems.append(str(exc))


def audit(
    location: str,
    items: Iterable[tuple[bytes, Stored | None]],
    keys: Keys = NO_KEYS,
    keeps_books: bool = True,
    is_ordered: bool = False,
) -> Audit:
    """The audit of all these items.

    `keeps_books`: whether the counts stand among them. `is_ordered`: whether the places in the order do.
    """
    found = Audit(location, keys, keeps_books, is_ordered)
    for tree_key, stored in items:
        found.take(tree_key, stored)
    found.finish()
    return found


def lost_name(prefix: bytes) -> str:
    """What stands for the name of a namespace that is lost."""
    return f"lost-{prefix[1:].hex()}" if prefix else ""


def key_of(place: bytes, stored: Stored | None) -> Any:
    """The key of a damaged record, by what stands in the tree and is left of the record."""
    try:
        header = record.read_header(stored or b"", len(stored or b""))
    except (Damaged, IndexError):
        header = record.DAMAGED_HEADER
    return _key(place, header)


def _key(place: bytes, header: Header) -> Any:
    if len(place) <= keys.ORDERED_BYTES:
        return keys.decode(place)
    return keys.decode_long(place, header.long_key)


def _number(tree_key: bytes) -> int:
    """What stands for a record, so that many can be compared in any order."""
    return int.from_bytes(_short(tree_key))


def _short(index_key: bytes) -> bytes:
    """What stands for a key of an index, so that many take little memory."""
    return blake2b(index_key, digest_size=8).digest()
