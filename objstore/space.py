"""A space: how one namespace lies in the tree of an engine, and the books that are kept about it.

An engine has one tree.  The default namespace has it almost to itself; everything of the library stands
before it, where the first byte is below 0x10:

    0x00 d                                 the engine's durability (see engines.lmdb)
    0x00 i                                 the identity of the store (see identity)
    0x00 s                                 state: flags (1 byte), entries outside the default namespace (8)
    0x00 c                                 in a cache: its bounds, and what is counted (see eviction)
    0x01 name hash                         a namespace in use: its entries (8), its name in UTF-8, and where it
                                           has another codec than the store, 0xFF and the name of that
    0x02 expires_at, tree key              one entry for each record that expires (7 bytes, microseconds)
    0x03 tag hash, tree key                one entry for each tag of each record
    0x04 name hash, key                    the items of other namespaces
    0x05 hash, tree key                    in a cache: one entry for each record, of how it is used (see eviction)
    0x10 ...                               the items of the default namespace, under their bare keys

A *tree key* is what stands in the tree for an item: the prefix of its namespace and its encoded key,
shortened where it is long.  Hashes of names are 6 bytes and those of tags 7, of BLAKE2b: with an index
entry around it, the longest tree key still fits an engine.  Names that share a hash are refused, and
what the tag index says is compared with the record.

Namespaces are ranges of the one tree and not databases of LMDB, because a database must be opened
before it is read, in a write transaction, is unknown to snapshots begun before that, and makes every
transaction slower as long as it is open.  Here there is nothing to open, and every snapshot sees all.
The price is that `len` of a namespace needs a count of its own.  For the default namespace the count is
what the others leave of the tree's, so that a plain put keeps no books at all.

Every function here runs inside somebody's transaction, given as `txn`, so that records, indexes and
counts change together.  The numbers are stored on disk: DO NOT CHANGE THEM.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from hashlib import blake2b
from pickle import loads
from typing import Any, ClassVar, NamedTuple, Self

from objstore import keys, record
from objstore.codecs.base import Codec
from objstore.codecs.compression import MAX_SIZE, Compression, TooLarge, Unexpandable, expand
from objstore.codecs.pickling import Pickle
from objstore.codecs.sealing import Locked, forbidding
from objstore.codecs.table import CODECS, codec_of, encoder_of, name_of
from objstore.engines.base import Reader, Stored, Writer
from objstore.errors import BadSignature, CorruptRecord, DecodeError, EncodeError, StoreCorrupt, StoreError
from objstore.keys import ORDERED_BYTES
from objstore.record import (
    BODY,
    LARGE,
    PICKLE,
    PLAIN,
    PLAIN_MARK,
    TAIL,
    Damaged,
    Forged,
    Header,
    Packed,
    Seal,
    digest,
    key_digest,
)

STATE_KEY = b"\x00s"
CATALOG = b"\x01"
_CATALOG_END = b"\x02"
EXPIRY = b"\x02"
TAGS = b"\x03"
ITEMS = b"\x04"
METER = b"\x05"
USER = b"\x10"

_NAME_HASH_BYTES = 6
PREFIX_BYTES = 1 + _NAME_HASH_BYTES  # of the tree keys of a namespace
_TAG_HASH_BYTES = 7
_TIME_BYTES = 7
_EXPIRY_HEAD = 1 + _TIME_BYTES
_TAG_HEAD = 1 + _TAG_HASH_BYTES

LATEST = (1 << 8 * _TIME_BYTES) - 1  # microseconds since 1970: in the year 4253

# The flags of the state.  Without any, a put in the default namespace keeps no books.
NO_BOOKS = 0
EXPIRES_USED = 1
_TAGS_USED = 2
METERED = 4

_state = struct.Struct("<BQ")
_count = struct.Struct("<Q")
EMPTY_COUNT = _count.pack(0)

# Three keys of the library's own in every new store: durability, identity, state.
INITIAL_STATE = {STATE_KEY: _state.pack(0, 3)}
# And a fourth in every new cache, what it counts.
INITIAL_METERED = {STATE_KEY: _state.pack(METERED, 4)}

# Names that begin so are the library's own: not listed, and refused to users.
RESERVED_NAME = "\x00"
_MOST_CHARACTERS = 1000  # of a name

_BEFORE_CODEC = b"\xff"  # which no UTF-8 has

Sealing = Callable[[str], Seal]
"""What seals the records of a namespace, given by its name."""


Labelled = tuple[bytes, bytes, int | None, Sequence[str]]
"""What there is to put: tree key, record, and what that says: when it expires, and its tags."""


class Replacement(NamedTuple):
    """What there is to put where something was found: `found` is None where nothing is."""

    tree_key: bytes
    found: bytes | None
    packed: bytes
    expires_at: int | None = None
    tags: Sequence[str] = ()


class Found(NamedTuple):
    """A record as it was met in a scan, seen without its value."""

    tree_key: bytes
    key: Any
    header: Header
    size: int


class Space:
    """One namespace: keys to tree keys, values to records, and the writes that keep the books true.

    A value becomes a record in this order, and comes back in the other: `codec`, `compression`, seal.  `sealing`
    gives the seals of the store, if it has such; then nothing is decoded that was not sealed.

    `clock` gives seconds since 1970; expiry goes by it.  The values it gives are private, and every byte of
    them is verified; those of a space that is `viewing` share the memory of the record where they can.
    """

    tries_first: ClassVar[bool] = False
    """Whether to store what is absent costs as little as to ask whether it is."""

    _views = False
    _verifies = True
    _most_bytes = record.MAX_RECORD_BYTES

    def __init__(
        self,
        name: str,
        codec: Codec,
        clock: Callable[[], float] = time.time,
        *,
        compression: Compression | None = None,
        sealing: Sealing | None = None,
        of_store: Codec | None = None,
    ) -> None:
        self.name = name
        self.codec = codec
        self._encode, self._decode = encoder_of(codec), codec.decode
        self.clock = clock
        self.prefix = prefix_of(name)
        self.start = self.prefix or USER
        self.stop = _successor(self.prefix) if name else None
        self._key_at = len(self.prefix)
        self._short = self._key_at + ORDERED_BYTES  # the longest tree key that holds a whole key
        self.tree_key: Callable[[Any], bytes] = self._tree_key if name else keys.tree_key
        self._catalog_key = CATALOG + _hash(name, _NAME_HASH_BYTES)
        self._of_store = of_store or codec  # the codec of the default namespace
        self.recorded_as(codec.name if self.has_own_codec else None)
        self._compression = compression
        self._sealing = sealing
        self.seal: Seal | None = sealing(name) if sealing else forbidding() if codec.runs_code else None
        # How large a plain record may be to be loaded right away, and how large a pickle to be stored as one.
        self.plain_bytes = LARGE if type(codec) is Pickle and self.seal is None else 0
        self._pack_bytes = LARGE if codec.number == PICKLE and self.seal is None else 0
        if compression is not None:
            self._pack_bytes = min(self._pack_bytes, compression.threshold)

    def sibling(self, name: str, txn: Reader | None = None, codec: Codec | str | None = None) -> Self:
        """The space of another namespace in the same store, with what is recorded of it where `txn` can look.

        Raises StoreError where its codec is another one, or must be given.
        """
        return self.relative(check_name(name), txn, codec)

    def relative(self, name: str, txn: Reader | None = None, codec: Codec | str | None = None) -> Self:
        """The same for any name, one of the library's own too."""
        chosen = None if codec is None else codec_of(codec)
        if txn is not None:
            chosen = self._codec_in(txn, name, chosen)
        space = type(self)(
            name,
            chosen or self._of_store,
            self.clock,
            compression=self._compression,
            sealing=self._sealing,
            of_store=self._of_store,
        )
        space._views, space._verifies = self._views, self._verifies
        if txn is not None:
            space.check_hash(txn)
        return space

    def _codec_in(self, txn: Reader, name: str, given: Codec | None) -> Codec | None:
        """The codec of a namespace: the one that is recorded, which is not trusted to be one that runs code."""
        stored = txn.get(CATALOG + _hash(name, _NAME_HASH_BYTES))
        if stored is None:
            return given
        recorded = _namespace(bytes(stored))[2] or self._of_store.name
        if given is not None:
            if given.name != recorded:
                raise StoreError(f"namespace {name!r} has codec {recorded!r}, not {given.name!r}; leave codec out")
            return given
        if recorded == self._of_store.name:
            return None
        if recorded not in CODECS:
            raise StoreError(f"namespace {name!r} has codec {recorded!r}, one of somebody's own; give it as codec")
        codec = codec_of(recorded)
        if codec.runs_code and not self._of_store.runs_code:
            raise StoreError(
                f"namespace {name!r} has codec {recorded!r}, which runs code, and that of the store does not; if you "
                f"trust who could write there, give codec={recorded!r}"
            )
        return codec

    def belonging(self, what: str) -> Self:
        """The space of something of the library's own that belongs to this namespace and to nothing else.

        What belongs to that belongs to the same namespace.
        """
        if not self.name.startswith(RESERVED_NAME):
            return self.relative(belonging_name(self.name, what))
        length = self.name[1:].partition(":")[0]
        owner_end = len(length) + 2 + int(length)
        return self.relative(self.name[: owner_end + 1] + what)

    def _with_belongings(self, txn: Reader) -> list[Self]:
        """This space, and those that belong to it."""
        begins = _belongings_of(self.name)
        return [self, *(self.relative(name) for name in names_by_prefix(txn).values() if name.startswith(begins))]

    def recorded_as(self, codec: str | None) -> Space:
        """This space, whose codec stands in the catalog under that name; None is the codec of the store."""
        self._catalogued_name = _utf8(self.name) + (b"" if codec is None else _BEFORE_CODEC + _utf8(codec))
        return self

    def declare(self, txn: Writer) -> None:
        """Put the namespace into the catalog, empty, if it is not there: so its codec is known from now on."""
        self.check_hash(txn)
        if txn.get(self._catalog_key) is None:
            txn.put(self._catalog_key, EMPTY_COUNT + self._catalogued_name)
            flags, others = self._state(txn)
            txn.put(STATE_KEY, _state.pack(flags, others + 1))

    @property
    def has_own_codec(self) -> bool:
        """Whether its codec is another one than the store's."""
        return self.codec.name != self._of_store.name

    def viewing(self, verify: bool) -> Self:
        """This space, but large buffers in its values are the record's own memory, verified only if they shall be."""
        space = object.__new__(type(self))
        space.__dict__.update(self.__dict__, _views=True, _verifies=verify)
        return space

    def freeze(self) -> None:
        """Stay at this moment: nothing expires any more."""
        now = self.clock()
        self.clock = lambda: now

    def now(self) -> int:
        """Microseconds since 1970, one reading of the clock."""
        return int(self.clock() * 1_000_000)

    # Keys

    def _tree_key(self, key: Any) -> bytes:
        return self.prefix + keys.tree_key(key)

    def is_short(self, tree_key: bytes) -> bool:
        """Whether the tree holds the whole key, so that nobody need look into the record for it."""
        return len(tree_key) <= self._short

    def key(self, tree_key: bytes, stored: Stored) -> Any:
        """The key of a record, from the tree or, where it is long, from the record."""
        if self.is_short(tree_key):
            return keys.decode(tree_key[self._key_at :])
        return self._long_key(tree_key, self._header(tree_key, stored, len(stored), lambda _: stored))

    def _long_key(self, tree_key: bytes, header: Header) -> Any:
        return keys.decode_long(tree_key[self._key_at :], header.long_key)

    # Values

    def pack(
        self, key: Any, value: Any, expires_at: int | None = None, tags: Sequence[str] = ()
    ) -> tuple[bytes, Packed]:
        """Tree key and record for an item.  Runs the code of the value's class; raises EncodeError.

        The record may still refer to buffers of the value, which must not change before it is stored.
        """
        tree_key = self.tree_key(key)
        try:
            payload, frames = self._encode(value)
        except Exception as exc:  # whatever the objects raise while they are encoded
            raise self._unencodable(key, exc) from exc
        if (
            not (expires_at or tags or frames)
            and len(payload) < self._pack_bytes
            and len(tree_key) <= self._short
            and payload[:1] == PLAIN_MARK
        ):
            return tree_key, payload + digest(payload, key_digest(tree_key))
        return tree_key, self._pack(key, tree_key, payload, frames, expires_at, tags)

    def _pack(
        self,
        key: Any,
        tree_key: bytes,
        payload: bytes,
        frames: Sequence[memoryview],
        expires_at: int | None,
        tags: Sequence[str],
    ) -> Packed:
        long_key = None if self.is_short(tree_key) else keys.encode(key)
        compressed = None
        if self._compression is not None:
            shrunk = self._compression.shrink(payload, frames)
            if shrunk is not None:
                payload, frames, sizes = shrunk
                compressed = self._compression.number, sizes
        size = record.packed_size(payload, frames, tags, long_key)
        if size > self._most_bytes:
            raise EncodeError(
                f"the value for key {keys.show(key)} takes {size} bytes, and a record ends at "
                f"{self._most_bytes / (1 << 30):.3g} GiB; store it in parts",
                key,
            )
        try:
            return record.pack(
                tree_key,
                payload,
                codec=self.codec.number,
                expires_at=expires_at,
                tags=tags,
                long_key=long_key,
                frames=frames,
                compressed=compressed,
                seal=self.seal,
            )
        except Forged as exc:  # there is no key to seal with
            raise BadSignature(f"nothing can be stored under key {keys.show(key)}: {exc}", key) from None

    def pack_many(
        self, items: Iterable[tuple[Any, Any]], expires_at: int | None, tags: Sequence[str]
    ) -> list[tuple[bytes, bytes]]:
        """`pack` for each, where the next item may reuse the buffers of the last."""
        if expires_at is not None or tags:
            return [self._pack_whole(key, value, expires_at, tags) for key, value in items]
        packed = []
        tree_key_of, encode, short = self.tree_key, self._encode, self._short
        limit = self._pack_bytes
        for key, value in items:
            tree_key = tree_key_of(key)
            try:
                payload, frames = encode(value)
            except Exception as exc:  # whatever the objects raise while they are encoded
                raise self._unencodable(key, exc) from exc
            # What becomes a plain record, most of the time; a call of `pack` less for it.
            if not frames and len(payload) < limit and len(tree_key) <= short and payload[:1] == PLAIN_MARK:
                packed.append((tree_key, payload + digest(payload, key_digest(tree_key))))
            else:
                packed.append((tree_key, bytes(self._pack(key, tree_key, payload, frames, None, ()))))
        return packed

    def _pack_whole(
        self, key: Any, value: Any, expires_at: int | None = None, tags: Sequence[str] = ()
    ) -> tuple[bytes, bytes]:
        tree_key, packed = self.pack(key, value, expires_at, tags)
        return tree_key, bytes(packed)

    def value(self, key: Any, tree_key: bytes, found: Stored | None, now: int | None = None) -> Any:
        """The value in the record found for `key`.

        Raises KeyError where there is none, or it is expired; CorruptRecord, DecodeError.
        """
        if (
            found
            and found[0] == PLAIN
            and len(found) < self.plain_bytes
            and digest(found[BODY], key_digest(tree_key)) == found[TAIL]
        ):
            try:
                return loads(found)  # noqa: S301  (verified; it stops before the digest)
            except Exception as exc:  # whatever the objects raise while they are built
                raise self.undecodable(key, exc) from exc
        return self.unusual_value(key, tree_key, found, now)

    def unusual_value(self, key: Any, tree_key: bytes, found: Stored | None, now: int | None = None) -> Any:
        """The same of a record that is not small, plain and sound."""
        if found is None:
            raise KeyError(key)
        if self.seal is not None and isinstance(found, bytes):
            payload = record.unpack_usual(tree_key, found, self.codec.number, self.seal)
            if payload is not None:
                try:
                    return self._decode(payload, ())
                except Exception as exc:  # whatever the objects raise while they are built
                    raise self.undecodable(key, exc) from exc
        header, payload, frames = self._opened(key, tree_key, found, now)
        if header.codec != self.codec.number:
            raise self._miscoded(key, header.codec)
        if header.compressed is None:
            return self._decoded(key, payload, frames)
        return self._decoded(key, *self._expanded(key, header.compressed, payload, frames))

    def payload(
        self, key: Any, tree_key: bytes, found: Stored | None, max_size: int | None = None
    ) -> tuple[memoryview, Sequence[memoryview | bytearray]]:
        """What the codec made of the value, verified and expanded (to `max_size` bytes at most), and not decoded.

        Raises KeyError, CorruptRecord, BadSignature; DecodeError where it cannot be expanded.
        """
        if found is None:
            raise KeyError(key)
        # A copy, since a view of the store's memory may be gone when the transaction is; a copy is verified wholly.
        header, payload, frames = self._opened(key, tree_key, bytes(found), None)
        if header.compressed is None:
            return payload, frames
        return self._expanded(key, header.compressed, payload, frames, max_size)

    def _opened(
        self, key: Any, tree_key: bytes, found: Stored, now: int | None
    ) -> tuple[Header, memoryview, Sequence[memoryview]]:
        """What is in a record, if it is there at this time and belongs to this key.  Raises KeyError where not."""
        header, payload, frames = self._unpack(key, tree_key, found, self._verifies or isinstance(found, bytes))
        if header.expires_at is not None and header.expires_at <= (self.now() if now is None else now):
            raise KeyError(key)
        if header.long_key is not None and header.long_key != keys.encode(key) and type(key) is not keys.LostKey:
            raise KeyError(key)  # two long keys with one digest of 128 bits
        return header, payload, frames

    def _unpack(
        self, key: Any, tree_key: bytes, found: Stored, verify_frames: bool = True
    ) -> tuple[Header, memoryview, Sequence[memoryview]]:
        try:
            header, payload, frames = record.unpack(tree_key, found, verify_frames, self.seal)
            if header.seal and self.seal is None:
                raise Forged("it is sealed, and this store takes no sealed records")
            if contradicts(header, tree_key[self._key_at :]):
                raise Damaged("its header belongs to another key, or to no time")
            return header, payload, frames
        except Damaged as exc:
            raise self._corrupt(key, exc) from exc
        except Forged as exc:
            raise BadSignature(
                f"the record of key {keys.show(key)} is refused: {exc}; nothing of it was decoded", key
            ) from None

    def _expanded(
        self,
        key: Any,
        compressed: tuple[int, Sequence[int]],
        payload: memoryview,
        frames: Sequence[memoryview],
        max_size: int | None = None,
    ) -> tuple[memoryview, Sequence[memoryview | bytearray]]:
        bound = MAX_SIZE if self._compression is None else self._compression.max_size
        bound = bound if max_size is None else min(bound, max_size)
        try:
            return expand(*compressed, payload, frames, bound)
        except (TooLarge, ModuleNotFoundError) as exc:
            raise DecodeError(f"the value of key {keys.show(key)} is compressed: {exc}", key) from exc
        except MemoryError as exc:
            what = f"takes {sum(compressed[1])} bytes when it is expanded, for which there is no memory"
            raise DecodeError(f"the value of key {keys.show(key)} {what}", key) from exc
        except Unexpandable as exc:
            raise self._corrupt(key, exc) from exc

    def _decoded(self, key: Any, payload: memoryview, frames: Sequence[memoryview | bytearray]) -> Any:
        if self._views:
            frames = [memoryview(frame).toreadonly() for frame in frames]
        else:  # what can be written to is nobody else's
            frames = [bytearray(frame) if memoryview(frame).readonly else frame for frame in frames]
        try:
            return self._decode(payload, frames)
        except Exception as exc:  # whatever the objects raise while they are built
            raise self.undecodable(key, exc) from exc

    def codec_name(self, number: int) -> str:
        """The name of the codec that a record says; "damaged" for the number 0, which none has."""
        if number == self.codec.number:
            return self.codec.name
        return (name_of(number) or f"codec {number}") if number else "damaged"

    def _miscoded(self, key: Any, number: int) -> BadSignature | DecodeError:
        what = f"the record of key {keys.show(key)} is refused: its codec is {self.codec_name(number)!r}"
        if self.seal is not None:
            return BadSignature(f"{what}, and that of the store is {self.codec.name!r}", key)
        return DecodeError(
            f"{what}, and {self.codec.name!r} is decoded here; copy it with a store of that codec, or delete it", key
        )

    def _unencodable(self, key: Any, exc: Exception) -> EncodeError:
        return EncodeError(
            f"the value for key {keys.show(key)} cannot be encoded as {self.codec.name}: {exc}; store what it is "
            f"made of instead",
            key,
        )

    def undecodable(self, key: Any, exc: Exception) -> DecodeError:
        return DecodeError(
            f"the value of key {keys.show(key)} is intact but cannot be decoded ({type(exc).__name__}: {exc}); make "
            f"its class importable again, or look at the record with entry({keys.show(key)}).raw()",
            key,
        )

    def _corrupt(self, key: Any, exc: Damaged | Unexpandable) -> CorruptRecord:
        return CorruptRecord(
            f"the record of key {keys.show(key)} is damaged: {exc}; restore it from a backup, or delete it", key
        )

    def items(self, found: Iterable[tuple[bytes, Stored]]) -> Iterator[tuple[Any, Any]]:
        """Key and value of each record that is not expired."""
        now = self.now()
        decode, short, at, limit = keys.decode, self._short, self._key_at, self.plain_bytes
        for tree_key, stored in found:
            key = decode(tree_key[at:]) if len(tree_key) <= short else self.key(tree_key, stored)
            # A sound plain record is what there is most of the time; a call of `value` less for it.
            if (
                stored
                and stored[0] == PLAIN
                and len(stored) < limit
                and digest(stored[BODY], key_digest(tree_key)) == stored[TAIL]
            ):
                try:
                    value = loads(stored)  # noqa: S301  (verified)
                except Exception as exc:  # whatever the objects raise while they are built
                    raise self.undecodable(key, exc) from exc
            else:
                try:
                    value = self.unusual_value(key, tree_key, stored, now)
                except KeyError:  # expired
                    continue
            yield key, value

    def repack(self, key: Any, tree_key: bytes, stored: Stored, expires_at: int | None) -> Packed:
        """The same record with another moment to expire.  Raises CorruptRecord, BadSignature."""
        header, payload, frames = self._unpack(key, tree_key, stored)
        return record.repack(tree_key, header, payload, frames, expires_at, self.seal)

    # What is there, seen without the values

    def look(
        self, tree_key: bytes, head: record.Bytes, size: int, get: Callable[[bytes], Stored | None], now: int
    ) -> Found | None:
        """What the first bytes of a record say, or None if it is expired.

        `get` gives the whole record where that is needed.  A damaged record can be seen, too: its codec is 0
        and it is never expired, because it cannot be believed.
        """
        header = self._header(tree_key, head, size, get)
        if header.expires_at is not None and header.expires_at <= now:
            if self._is_intact(tree_key, get):
                return None
            header = record.DAMAGED_HEADER
        if self.is_short(tree_key):
            return Found(tree_key, keys.decode(tree_key[self._key_at :]), header, size)
        return Found(tree_key, self._long_key(tree_key, header), header, size)

    def _header(self, tree_key: bytes, head: record.Bytes, size: int, get: Callable[[bytes], Stored | None]) -> Header:
        try:
            header = record.header_of(tree_key, head, size, get)
        except Damaged:
            return record.DAMAGED_HEADER
        return record.DAMAGED_HEADER if contradicts(header, tree_key[self._key_at :]) else header

    def _is_intact(self, tree_key: bytes, get: Callable[[bytes], Stored | None]) -> bool:
        seal = None if isinstance(self.seal, Locked) else self.seal
        try:
            record.unpack(tree_key, get(tree_key) or b"", seal=seal)
        except (Damaged, Forged):
            return False
        return True

    def count(self, txn: Reader) -> int:
        """How many items there are, without what is expired and not yet swept."""
        flags, others = self._state(txn)
        total = txn.count()
        entries = self._catalogued(txn) if self.prefix else total - others
        if flags & EXPIRES_USED and entries:
            entries -= sum(self._confirms(txn, index_key) for index_key in self._expired(txn, self.now()))
        return _counted(entries, total)

    def total(self, txn: Reader) -> int:
        """How many records there are in all namespaces, with what is expired and not yet swept."""
        others = sum(_namespace(bytes(stored))[0] for _, stored in txn.scan(CATALOG, _CATALOG_END))
        return txn.count() - self._state(txn)[1] + others

    def scan(self, txn: Reader, start: bytes, stop: bytes | None, reverse: bool, now: int) -> Iterator[Found]:
        """What is there and not expired, in order, seen without the values."""
        for tree_key, head, size in txn.scan_heads(start, stop, reverse):
            found = self.look(tree_key, head, size, txn.get, now)
            if found is not None:
                yield found

    def scan_tag(
        self, txn: Reader, tag: str, start: bytes, stop: bytes | None, reverse: bool, now: int
    ) -> Iterator[Found]:
        """The same of what bears a tag."""
        head = TAGS + tag_hash(tag)
        end = _successor(head + self.prefix) if stop is None else head + stop
        for index_key in txn.scan_keys(head + start, end, reverse):
            tree_key = bytes(index_key[_TAG_HEAD:])
            stored = txn.get(tree_key)
            if stored is None:
                continue
            found = self.look(tree_key, stored, len(stored), txn.get, now)
            if found is not None and tag in found.header.tags:
                yield found

    def expires(self, txn: Reader) -> bool:
        """Whether anything in the store was ever given a time to expire."""
        return bool(self._state(txn)[0] & EXPIRES_USED)

    def scan_keys(self, txn: Reader, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[Any]:
        """The keys alone, without a look at the records: for where nothing expires."""
        decode, at = keys.decode, self._key_at
        for tree_key in txn.scan_keys(start, stop, reverse):
            if self.is_short(tree_key):
                yield decode(tree_key[at:] if at else tree_key)
            else:
                stored = txn.get(tree_key)
                assert stored is not None
                yield self.key(tree_key, stored)

    # Writing

    def put(
        self, txn: Writer, tree_key: bytes, packed: Packed, expires_at: int | None = None, tags: Sequence[str] = ()
    ) -> None:
        """Store a record in the place of what was there."""
        flags, _ = self._state(txn)
        if not (self.prefix or flags or tags) and expires_at is None:
            txn.put(tree_key, packed)
            return
        self._check_codec(txn)
        old = txn.head(tree_key)
        dropped = self._unindex(txn, tree_key, old) if flags else 0
        txn.put(tree_key, packed)
        added = self._index(txn, tree_key, expires_at, tags)
        self._keep_books(txn, own=old is None, index=added - dropped, flags=used_by(expires_at, tags))

    def put_many(
        self,
        txn: Writer,
        items: Sequence[tuple[bytes, bytes]],
        expires_at: int | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        """`put` for each."""
        if self._state(txn)[0] or tags or expires_at is not None:
            for tree_key, packed in items:
                self.put(txn, tree_key, packed, expires_at, tags)
            return
        before = txn.count() if self.prefix else 0
        self._check_codec(txn)
        txn.put_many(items)
        if self.prefix:
            self._keep_books(txn, own=txn.count() - before)

    def replace(
        self,
        txn: Writer,
        tree_key: bytes,
        found: Stored | None,
        packed: Packed | None,
        expires_at: int | None = None,
        tags: Sequence[str] = (),
    ) -> bool:
        """Put `packed` (None: nothing) in the place of the record `found`, if that is what is still there."""
        if txn.get(tree_key) != found:
            return False
        if packed is None:
            self.delete(txn, tree_key)
        else:
            self.put(txn, tree_key, packed, expires_at, tags)
        return True

    def replace_many(self, txn: Writer, items: Sequence[Replacement]) -> list[bool]:
        """`replace` for each; whether what was found was still there."""
        return [self.replace(txn, *item) for item in items]

    def replace_last(self, txn: Writer, tree_key: bytes, found: Stored | None, now: int) -> bool:
        """Remove the record `found`, if it is what is still there, and still the last."""
        for last in self.scan(txn, self.start, self.stop, True, now):
            return last.tree_key == tree_key and self.replace(txn, tree_key, found, None)
        return False

    def exchange(self, txn: Writer, items: Sequence[tuple[bytes, bytes, bytes]]) -> int:
        """Tree key, record, and another record of the same thing, in any namespace: put it in the place of the first.

        How many were still there.  What is known about the records stays, so the books need nothing.
        """
        same = [(tree_key, new) for tree_key, old, new in items if txn.get(tree_key) == old]
        txn.put_many(same)
        return len(same)

    def put_each(self, txn: Writer, items: Sequence[Labelled]) -> None:
        """`put` for each, with an expiry and tags of its own."""
        if any(expires_at is not None or tags for _, _, expires_at, tags in items):
            for item in items:
                self.put(txn, *item)
        else:
            self.put_many(txn, [(tree_key, packed) for tree_key, packed, _, _ in items])

    def delete(self, txn: Writer, tree_key: bytes) -> bool:
        """Remove a record; whether there was one, expired or not."""
        flags, _ = self._state(txn)
        dropped = self._unindex(txn, tree_key, txn.head(tree_key)) if flags else 0
        if not txn.delete(tree_key):
            return False
        self._keep_books(txn, own=-1, index=-dropped)
        return True

    def delete_live(self, txn: Writer, tree_key: bytes, now: int) -> bool:
        """Remove a record; whether there was one that was not expired."""
        if not self._state(txn)[0]:
            return self.delete(txn, tree_key)
        stored = txn.get(tree_key)
        if stored is None:
            return False
        found = self.look(tree_key, stored, len(stored), txn.get, now)
        return self.delete(txn, tree_key) and found is not None

    def delete_many(self, txn: Writer, tree_keys: Iterable[bytes], now: int) -> int:
        """Remove these records; how many there were that were not expired."""
        return sum([self.delete_live(txn, tree_key, now) for tree_key in tree_keys])

    def delete_range(self, txn: Writer, start: bytes, stop: bytes | None, now: int) -> int:
        """Remove everything in a range; how much of it was not expired."""
        if not self._state(txn)[0]:
            count = txn.delete_range(start, stop)
            self._keep_books(txn, own=-count)
            return count
        count = 0
        for tree_key, head, size in txn.scan_heads(start, stop):
            count += self.look(tree_key, head, size, txn.get, now) is not None
            self.delete(txn, tree_key)
        return count

    def delete_tag_everywhere(self, txn: Writer, tag: str, now: int) -> int:
        """Remove everything that bears a tag, in what belongs to this, too; how much of it was not expired."""
        spaces = self._with_belongings(txn)
        return sum([space.delete_tag(txn, tag, space.start, space.stop, now) for space in spaces])

    def delete_tag(self, txn: Writer, tag: str, start: bytes, stop: bytes | None, now: int) -> int:
        """Remove everything in a range that bears a tag; how much of it was not expired."""
        found = list(self.scan_tag(txn, tag, start, stop, reverse=False, now=now))
        for item in found:
            self.delete(txn, item.tree_key)
        return len(found)

    def expire(self, txn: Writer, now: int) -> int:
        """Remove what is expired, in what belongs to this, too; how much that was."""
        return sum(
            [
                space.sweep(txn, index_key)
                for space in self._with_belongings(txn)
                for index_key in list(space._expired(txn, now))
            ]
        )

    def sweep(self, txn: Writer, index_key: bytes) -> bool:
        """Remove what has expired by an entry of the index, if the record says so, too; whether it does."""
        if self._confirms(txn, index_key):
            return self.delete(txn, expiring(index_key))
        self._keep_books(txn, own=0, index=-txn.delete(index_key))
        return False

    # Namespaces

    def check_hash(self, txn: Reader) -> None:
        """Refuse a name whose hash another namespace of this store has."""
        catalogued = txn.get(self._catalog_key)
        if catalogued is not None and catalogued[_count.size :] != self._catalogued_name:
            _, other, _ = _namespace(bytes(catalogued))
            if other == self.name:  # with another codec
                return
            if prefix_of(other) != self.prefix:
                raise StoreCorrupt(f"the name of namespace {self.name!r} is damaged; check the store, and salvage it")
            raise StoreError(f"namespace {self.name!r} cannot be told from {other!r} in this store; take another name")

    def drop(self, txn: Writer, now: int) -> None:
        """Empty the namespace, and what belongs to it, and forget them."""
        for space in self._with_belongings(txn):
            space.check_hash(txn)
            space.delete_range(txn, space.start, space.stop, now)
            if txn.delete(space._catalog_key):
                flags, others = self._state(txn)
                txn.put(STATE_KEY, _state.pack(flags, others - 1))

    # The books

    def _state(self, txn: Reader) -> tuple[int, int]:
        try:
            return _state.unpack(txn.get(STATE_KEY) or b"")
        except struct.error as exc:
            raise StoreCorrupt("the state of the store is missing or damaged; check the store, and salvage it") from exc

    def _catalogued(self, txn: Reader) -> int:
        catalogued = txn.get(self._catalog_key)
        try:
            return 0 if catalogued is None else _count.unpack_from(catalogued)[0]
        except struct.error as exc:
            raise StoreCorrupt(f"the count of namespace {self.name!r} is damaged; check the store") from exc

    def _check_codec(self, txn: Reader) -> None:
        """Refuse to write into a namespace that was given another codec since this handle was opened."""
        catalogued = txn.get(self._catalog_key) if self.prefix else None
        if catalogued is not None and catalogued[_count.size :] != self._catalogued_name:
            self.check_hash(txn)
            raise self._recoded()

    def _recoded(self) -> StoreError:
        return StoreError(f"namespace {self.name!r} has another codec than {self.codec.name!r} by now; open it anew")

    def _keep_books(self, txn: Writer, own: int, index: int = 0, flags: int = 0) -> None:
        """Write down what came or went: items of this namespace, index entries, and first uses."""
        others = index
        if self.prefix and own:
            self.check_hash(txn)
            catalogued = txn.get(self._catalog_key)
            others += own + (catalogued is None)
            name = self._catalogued_name if catalogued is None else catalogued[_count.size :]
            txn.put(self._catalog_key, _count.pack(_counted(self._catalogued(txn) + own)) + name)
        if others or flags:
            had, before = self._state(txn)
            txn.put(STATE_KEY, _state.pack(had | flags, _counted(before + others)))

    def _index(self, txn: Writer, tree_key: bytes, expires_at: int | None, tags: Sequence[str]) -> int:
        added = 0
        for entry in index_entries(tree_key, expires_at, tags):
            added += txn.get(entry) is None  # a damaged record may have left it behind
            txn.put(entry, b"")
        return added

    def _unindex(self, txn: Writer, tree_key: bytes, old: tuple[bytes, int] | None) -> int:
        if old is None or old[0][:1] == PLAIN_MARK:  # which has neither an expiry nor tags
            return 0
        # A damaged record cannot say what it has in the indexes; what stays there is compared before it is believed.
        header = self._header(tree_key, *old, txn.get)
        return sum(map(txn.delete, index_entries(tree_key, header.expires_at, header.tags)))

    def _expired(self, txn: Reader, now: int) -> Iterator[bytes]:
        """The entries in the index of what has expired here."""
        for index_key in txn.scan_keys(EXPIRY, expired_until(now)):
            tree_key = expiring(index_key)
            if self.start <= tree_key and (self.stop is None or tree_key < self.stop):
                yield bytes(index_key)

    def _confirms(self, txn: Reader, index_key: bytes) -> bool:
        """Whether a record says the same of its end as an entry of the index."""
        tree_key = expiring(index_key)
        stored = txn.get(tree_key) or b""
        header = self._header(tree_key, stored, len(stored), txn.get)
        same = header.expires_at == int.from_bytes(index_key[1:_EXPIRY_HEAD], "big")
        return same and self._is_intact(tree_key, txn.get)


def _counted(number: int, most: int = 1 << 48) -> int:
    """A number of entries, if it can be one."""
    if not 0 <= number <= most:
        raise StoreCorrupt("the counts of the store are damaged; check it, and salvage it")
    return number


def check_name(name: str) -> str:
    """The name, if a user may give it to a namespace."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a namespace is text, not {type(name).__name__}")
    if name.startswith(RESERVED_NAME):
        raise ValueError(f"{name!r} is a name that the library keeps for itself; take another")
    if not 0 < len(name) <= _MOST_CHARACTERS:
        raise ValueError(f"the name of a namespace has 1 to 1,000 characters, not {len(name)}")
    return name


def is_name(name: str) -> bool:
    """Whether a namespace can be called so: by a user, or by the library where something belongs to one of a user's."""
    if not name.startswith(RESERVED_NAME):
        return 0 < len(name) <= _MOST_CHARACTERS
    length, _, rest = name[1:].partition(":")
    if not (length.isascii() and length.isdigit() and len(length) <= 4):
        return False
    owner, mark, what = rest[: int(length)], rest[int(length) :][:1], rest[int(length) + 1 :]
    return (mark == ":" and 0 < len(what) <= _MOST_CHARACTERS) and (owner == "" or _is_users(owner))


def _is_users(name: str) -> bool:
    return not name.startswith(RESERVED_NAME) and len(name) <= _MOST_CHARACTERS


def contradicts(header: Header, place: bytes) -> bool:
    """Whether the header of the record at a place of its namespace says what none says that was written here.

    Its digest may fit all the same, because anybody can make one.
    """
    if header.expires_at is not None and not 0 <= header.expires_at <= LATEST:
        return True
    return header.long_key is not None and keys.shorten(header.long_key) != place


def unpack(
    tree_key: bytes, prefix: bytes, stored: Stored, seal: Seal | None
) -> tuple[Header, memoryview, list[memoryview]]:
    """`record.unpack` of what stands in the namespace with a prefix, and belongs there.  Raises `Damaged`, `Forged`."""
    header, payload, frames = record.unpack(tree_key, stored, seal=seal)
    if contradicts(header, tree_key[len(prefix) :]):
        raise Damaged("its header belongs to another key, or to no time")
    return header, payload, frames


def _belongings_of(name: str) -> str:
    """With what the names of the namespaces begin that belong to one."""
    return f"{RESERVED_NAME}{len(name)}:{name}:"


def belonging_name(name: str, what: str) -> str:
    """The name of the namespace of something of the library's own that belongs to one of a user's."""
    return _belongings_of(name) + what


def prefix_of(name: str) -> bytes:
    """With what the tree keys of a namespace begin."""
    return ITEMS + _hash(name, _NAME_HASH_BYTES) if name else b""


def prefix_in(tree_key: bytes) -> bytes | None:
    """The prefix of the namespace to which the item under a tree key belongs, or None where it is no item."""
    if tree_key >= USER:
        return b""
    is_item = tree_key[:1] == ITEMS and len(tree_key) > PREFIX_BYTES
    return tree_key[:PREFIX_BYTES] if is_item else None


def read_state(stored: bytes) -> tuple[int, int]:
    """Flags, and entries outside the default namespace, from the record of the state.  Raises struct.error."""
    return _state.unpack(stored)


def read_namespace(stored: bytes) -> tuple[int, str, str | None]:
    """Entries, name and own codec of a namespace, from the catalog.  Raises struct.error, ValueError."""
    (entries,) = _count.unpack_from(stored)
    name, mark, codec = stored[_count.size :].partition(_BEFORE_CODEC)
    if not name or (mark and not codec):
        raise ValueError("a part of it is empty")
    return entries, str(name, "utf-8", "surrogatepass"), str(codec, "utf-8") if mark else None


def name_in(stored: Stored | None) -> str:
    """The name of a namespace, from its record in the catalog.  Raises StoreCorrupt."""
    return _namespace(bytes(stored or b""))[1]


def _namespace(stored: bytes) -> tuple[int, str, str | None]:
    try:
        return read_namespace(stored)
    except (struct.error, ValueError) as exc:
        raise StoreCorrupt("the name of a namespace is damaged; check the store, and salvage it") from exc


def names_by_prefix(txn: Reader) -> dict[bytes, str]:
    """The names of all namespaces, the default one and the library's own among them, by their prefixes."""
    names = [_namespace(bytes(stored))[1] for _, stored in txn.scan(CATALOG, _CATALOG_END)]
    return {prefix_of(name): name for name in ("", *names)}


def namespace_names(txn: Reader) -> list[str]:
    """The names of the namespaces in use, without the default one and the library's own."""
    return sorted(name for name in names_by_prefix(txn).values() if name and not name.startswith(RESERVED_NAME))


def expires_at(ttl: float | timedelta | None, now: int) -> int | None:
    """The moment, in microseconds since 1970, at which something set now ends; None is for ever.

    Raises TypeError for what is no time, ValueError for one that is not positive or beyond all bounds.
    """
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise TypeError(f"ttl is seconds, a timedelta, or None for ever, not {type(ttl).__name__}")
    if not 0 < ttl < 1e9:
        raise ValueError(f"ttl is a number of seconds between 0 and a thousand million, not {ttl!r}; None is for ever")
    return now + max(round(ttl * 1_000_000), 1)


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, each once.  Raises TypeError for one text in the place of several, and for what is no text."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise TypeError(f"tags is a sequence of text; write ({tags!r},)")
    unique = tuple(dict.fromkeys(map(check_tag, tags)))
    if len(unique) > 1000:
        raise ValueError(f"a record has up to 1,000 tags, not {len(unique)}")
    return unique


def check_tag(tag: str) -> str:
    """The tag, if it is one."""
    if not isinstance(tag, str):
        raise TypeError(f"a tag is text, not {type(tag).__name__}")
    if not 0 < len(_utf8(tag)) <= 1000:
        raise ValueError(f"a tag has 1 to 1,000 bytes, not {len(_utf8(tag))}: {tag[:40]!r}")
    return tag


def index_entries(tree_key: bytes, expires_at: int | None, tags: Sequence[str]) -> Iterator[bytes]:
    """The keys in the indexes of a record that expires, or has tags."""
    if expires_at is not None:
        yield EXPIRY + expires_at.to_bytes(_TIME_BYTES, "big") + tree_key
    for tag in tags:
        yield TAGS + tag_hash(tag) + tree_key


def used_by(expires_at: int | None, tags: Sequence[str]) -> int:
    """The flags of what a record uses."""
    return (EXPIRES_USED if expires_at is not None else 0) | (_TAGS_USED if tags else 0)


def expired_until(now: int) -> bytes:
    """Where the index of what expires goes on with what is not expired."""
    return EXPIRY + (now + 1).to_bytes(_TIME_BYTES, "big")


def expiring(index_key: bytes) -> bytes:
    """The tree key in an entry of that index."""
    return bytes(index_key[_EXPIRY_HEAD:])


def tag_hash(tag: str) -> bytes:
    """What stands for a tag in an index."""
    return _hash(tag, _TAG_HASH_BYTES)


def _hash(text: str, size: int) -> bytes:
    return blake2b(_utf8(text), digest_size=size).digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _successor(prefix: bytes) -> bytes:
    """The lowest bytes above everything that begins with `prefix`, which does not begin with 0xFF."""
    whole = prefix.rstrip(b"\xff")
    return whole[:-1] + bytes((whole[-1] + 1,))
