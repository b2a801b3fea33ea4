"""The record: the bytes stored under one key.

There are two forms, told apart by the first byte.

A *plain* record is a pickle followed by its digest.  A pickle of protocol 2 or later begins with
0x80, and `pickle.loads` stops at its own end, so the common read is one look-up, one digest and one
`loads` of the very bytes that were found:

    80 ...................... pickle
    digest                    8 bytes

Every other record has a *header*, all integers little-endian:

    offset  size
    0       1     format version, 1
    1       1     flags
    2       1     codec: 1 pickle, 2 bytes, 3 json, 4 msgpack, 128 to 254 somebody's own
    3       1     zero
    4       4     head size: where the digest stands, that is, the length of header and payload
    8             the fields that the flags announce, in the order of the bits:
                  0x01 expires   expires_at, microseconds since 1970 (8, signed)
                  0x02 tags      count (2), then each: length (2), UTF-8
                  0x04 long key  length (4), the whole encoded key, where the tree holds it shortened
                  0x08 frames    count (2), then each: length (8), digest (8)
                  0x10 compressed method (1), count (2), then the size (8) of each part, the payload and
                       the frames, when it is expanded; 0 is a part that was left as it is
                  0x20 sealed  kind: 1 signed, 2 encrypted (1), id of the key (8), salt (24, only if encrypted)
                  payload, up to the head size
                  digest (8) over key, header and payload
                  the frames

A *sealed* record has its frames inside, and no table of them in the header: there stand their count (2) and
the length of each (8), payload, frames.  Without the flag 0x08 it is the payload alone.  A signature (32
bytes) follows what is inside; encryption takes its place.  What a seal covers is said in `codecs.sealing`.

A *frame* is a large buffer that the codec kept out of the payload (pickle protocol 5 calls it
out-of-band).  Each begins where it is aligned to `ALIGNMENT` bytes in the file, given that a large
value begins `VALUE_OFFSET` bytes into a page of LMDB, so an array can be read straight from the map.
A frame has a digest of its own: one who copies it verifies it, one who hands out a view need not
touch it.

The digest is XXH3-64, big-endian, of the bytes, seeded with the XXH3-64 of the key as it stands in
the tree.  The key is in it because one flipped bit in a stored key would otherwise serve one record
under the key of another.  It finds accidents; it is no protection from an adversary.

An unknown version or flag is refused, and by whoever decodes, another codec than his own.  These numbers
are stored on disk: DO NOT CHANGE THEM.
This module knows bytes only: no objects, no secrets, no clock, no engine.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from xxhash import xxh3_64, xxh3_64_digest, xxh3_64_intdigest

Bytes = bytes | bytearray | memoryview

PLAIN = 0x80
PLAIN_MARK = bytes((PLAIN,))
PICKLE = 1

VERSION = 1
EXPIRES = 0x01
TAGS = 0x02
LONG_KEY = 0x04
FRAMES = 0x08
COMPRESSED = 0x10
SEALED = 0x20
_KNOWN_FLAGS = EXPIRES | TAGS | LONG_KEY | FRAMES | COMPRESSED | SEALED

SIGNED = 1
ENCRYPTED = 2
KEY_ID_BYTES = 8
SALT_BYTES = 24
_SEAL_BYTES = {SIGNED: 1 + KEY_ID_BYTES, ENCRYPTED: 1 + KEY_ID_BYTES + SALT_BYTES}  # by kind: its field in the header

DIGEST_BYTES = 8
BODY = slice(None, -DIGEST_BYTES)  # of a plain record: everything but the digest
TAIL = slice(-DIGEST_BYTES, None)  # the digest
ALIGNMENT = 64
VALUE_OFFSET = 16
MAX_RECORD_BYTES = (1 << 32) - 1  # where the size of a value ends in LMDB
MAX_FRAMES = (1 << 16) - 1

# Enough of a record to hold the header, unless its key is long or its tags are many.
HEAD_BYTES = 1024

# From this size on, a view of a record is cheaper than a copy.
LARGE = 64 * 1024

_PIECE_BYTES = 256 * 1024

_fixed = struct.Struct("<BBBBI")
_expiry = struct.Struct("<q")
_count = struct.Struct("<H")
_length = struct.Struct("<I")
_frame = struct.Struct("<Q8s")
_method = struct.Struct("<BH")
_count_of_bytes = struct.Struct("<Q")
_LEAST_SEALED = _fixed.size + 1 + KEY_ID_BYTES
assert _fixed.size == 8
assert _frame.size == 16

key_digest = xxh3_64_intdigest
digest = xxh3_64_digest


class Damaged(Exception):
    """These bytes are no record: cut short, of an unknown format, or not what was written here."""


class Forged(Exception):
    """These bytes may be a record, but nobody with the key has sealed them for this place."""


class Seal(Protocol):
    """What seals the records of a namespace, and opens them."""

    def draw(self) -> bytes:
        """The field of the seal in the header of a new record: kind, key, and what is drawn for this one."""

    def overhead(self, size: int) -> int:
        """How many bytes the seal adds to so many."""

    def close(self, tree_key: bytes, header: bytes, inside: bytes) -> Sequence[bytes]:
        """What follows the header, which ends with the drawn field, in the head of a record."""

    def open(self, tree_key: bytes, head: bytes | memoryview, inside_at: int) -> Bytes:
        """What is inside a head, whose header ends at `inside_at` with the field of a seal.  Raises `Forged`.

        It is a part of the head, or memory that nobody else has.
        """

    def miss(self) -> Forged:
        """What is wrong with a record that has no seal."""


class Header(NamedTuple):
    """What a record says of itself."""

    codec: int = PICKLE
    expires_at: int | None = None  # microseconds since 1970
    tags: tuple[str, ...] = ()
    long_key: bytes | None = None  # the whole encoding, where the tree has it shortened
    frames: tuple[tuple[int, bytes], ...] = ()  # (length, digest) each
    compressed: tuple[int, tuple[int, ...]] | None = None  # method, and the expanded size of each part
    seal: bytes = b""  # its field, if it is sealed
    frames_inside: bool = False  # of the seal
    payload_at: int = 0
    head_size: int = -DIGEST_BYTES  # where the digest stands; counted from the end when plain


PLAIN_HEADER = Header()
DAMAGED_HEADER = Header(codec=0)


class Draft:
    """A record with frames that is not put together yet: it is written right where it will lie.

    So its large buffers are copied once. They are read when it is written, and digested where they lie then.
    `size` is that of the record, in bytes.
    """

    __slots__ = (
        "_after",
        "_before",
        "_codec",
        "_flags",
        "_frames",
        "_head_bytes",
        "_payload",
        "_seed",
        "_starts",
        "size",
    )

    def __init__(
        self,
        seed: int,
        flags: int,
        codec: int,
        before: list[bytes],
        after: list[bytes],
        payload: bytes,
        frames: Sequence[memoryview],
    ) -> None:
        self._seed = seed
        self._flags = flags | FRAMES
        self._codec = codec
        self._before = before  # the fields before the table of the frames
        self._after = after
        self._payload = payload
        self._frames = frames
        table_bytes = _count.size + len(frames) * _frame.size
        head_size = _fixed.size + sum(map(len, (*before, *after))) + table_bytes + len(payload)
        self._head_bytes = head_size + DIGEST_BYTES
        self._starts = _frame_starts(head_size, map(len, frames))
        self.size = self._starts[-1] + len(frames[-1])

    def write(self, place: memoryview) -> None:
        """Write the record into `place`, which has its size and holds zeros."""
        digests = [
            _copy(frame, place[start : start + len(frame)], self._seed)
            for frame, start in zip(self._frames, self._starts, strict=True)
        ]
        place[: self._head_bytes] = self._head(digests)

    def __bytes__(self) -> bytes:
        parts: list[Bytes] = [self._head([digest(frame, self._seed) for frame in self._frames])]
        end = self._head_bytes
        for frame, start in zip(self._frames, self._starts, strict=True):
            parts += (bytes(start - end), frame)
            end = start + len(frame)
        return b"".join(parts)

    def _head(self, digests: Iterable[bytes]) -> bytes:
        lengths = map(len, self._frames)
        table = (_count.pack(len(self._frames)), *map(_frame.pack, lengths, digests))
        fields = [*self._before, *table, *self._after]
        return _head(self._seed, self._flags, self._codec, fields, self._payload)


def _copy(frame: memoryview, place: memoryview, seed: int) -> bytes:
    """Copy a frame; the digest of what lies there.  Piece by piece, so that a piece is in the cache when it is read."""
    state = xxh3_64(seed=seed)
    for start in range(0, len(frame), _PIECE_BYTES):
        piece = place[start : start + _PIECE_BYTES]
        piece[:] = frame[start : start + _PIECE_BYTES]
        state.update(piece)
    return state.digest()


class Parts:
    """A sealed record that is not put together yet, so that it is copied once, to where it will lie."""

    __slots__ = ("_parts", "size")

    def __init__(self, head: Sequence[bytes], seed: int) -> None:
        state = xxh3_64(seed=seed)
        for part in head:
            state.update(part)
        self._parts = (*head, state.digest())
        self.size = sum(map(len, self._parts))

    def write(self, place: memoryview) -> None:
        """Write the record into `place`, which has its size."""
        at = 0
        for part in self._parts:
            place[at : at + len(part)] = part
            at += len(part)

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)


Packed = bytes | Draft | Parts
"""A record to be stored; `bytes(packed)` is it."""


def pack(
    tree_key: bytes,
    payload: bytes,
    *,
    codec: int = PICKLE,
    expires_at: int | None = None,
    tags: Sequence[str] = (),
    long_key: bytes | None = None,
    frames: Sequence[memoryview] = (),
    compressed: tuple[int, Sequence[int]] | None = None,
    seal: Seal | None = None,
) -> Packed:
    """The record to store under `tree_key`: plain where the payload is a pickle and nothing else is said."""
    seed = key_digest(tree_key)
    if not (frames or tags or compressed) and expires_at is None and long_key is None:
        if seal is not None and len(payload) < LARGE:
            return _pack_usual(seed, tree_key, payload, codec, seal)
        if seal is None and codec == PICKLE and payload[:1] == PLAIN_MARK:
            return payload + digest(payload, seed)

    flags = 0
    fields: list[bytes] = []
    if expires_at is not None:
        flags |= EXPIRES
        fields.append(_expiry.pack(expires_at))
    if tags:
        flags |= TAGS
        encoded = [tag.encode("utf-8", "surrogatepass") for tag in tags]
        fields.append(_count.pack(len(encoded)))
        fields += (_count.pack(len(tag)) + tag for tag in encoded)
    if long_key is not None:
        flags |= LONG_KEY
        fields.append(_length.pack(len(long_key)) + long_key)
    after = []
    if compressed is not None:
        flags |= COMPRESSED
        method, sizes = compressed
        after = [_method.pack(method, len(sizes)), *map(_count_of_bytes.pack, sizes)]
    if seal is not None:
        return _pack_sealed(tree_key, flags, codec, fields + after, payload, frames, seal)
    if frames:
        return Draft(seed, flags, codec, fields, after, payload, frames)
    return _head(seed, flags, codec, fields + after, payload)


def _pack_usual(seed: int, tree_key: bytes, payload: bytes, codec: int, seal: Seal) -> bytes:
    """What most sealed records are: a small payload, and nothing else is said.  `unpack_usual` reads it."""
    drawn = seal.draw()
    head_size = _fixed.size + len(drawn) + len(payload) + seal.overhead(len(payload))
    header = _fixed.pack(VERSION, SEALED, codec, 0, head_size) + drawn
    head = b"".join((header, *seal.close(tree_key, header, payload)))
    return head + digest(head, seed)


def _pack_sealed(
    tree_key: bytes,
    flags: int,
    codec: int,
    fields: list[bytes],
    payload: bytes,
    frames: Sequence[memoryview],
    seal: Seal,
) -> Packed:
    drawn = seal.draw()
    # Joined first: what is sealed is what will be stored, whoever changes a buffer meanwhile.
    inside = payload
    if frames:
        flags |= FRAMES
        lengths = map(_count_of_bytes.pack, map(len, frames))
        inside = b"".join((_count.pack(len(frames)), *lengths, payload, *frames))
    before = b"".join(fields) + drawn
    head_size = _fixed.size + len(before) + len(inside) + seal.overhead(len(inside))
    header = _fixed.pack(VERSION, flags | SEALED, codec, 0, head_size) + before
    parts = (header, *seal.close(tree_key, header, inside))
    packed = Parts(parts, key_digest(tree_key))
    return packed if head_size >= LARGE else bytes(packed)


def repack(
    tree_key: bytes,
    header: Header,
    payload: Bytes,
    frames: Sequence[memoryview],
    expires_at: int | None,
    seal: Seal | None = None,
) -> Packed:
    """The same record for another tree key, with another moment to expire, or sealed anew."""
    return pack(
        tree_key,
        bytes(payload),
        codec=header.codec,
        expires_at=expires_at,
        tags=header.tags,
        long_key=header.long_key,
        frames=frames,
        compressed=header.compressed,
        seal=seal,
    )


def _head(seed: int, flags: int, codec: int, fields: list[bytes], payload: bytes) -> bytes:
    """Header, payload and their digest."""
    head_size = _fixed.size + sum(map(len, fields)) + len(payload)
    head = b"".join((_fixed.pack(VERSION, flags, codec, 0, head_size), *fields, payload))
    return head + digest(head, seed)


def packed_size(payload: bytes, frames: Sequence[memoryview], tags: Sequence[str], long_key: bytes | None) -> int:
    """An upper bound of the size of a record, known before it is packed."""
    size = 256 + len(payload)
    if not (frames or tags or long_key):
        return size
    size += len(long_key or b"") + sum(4 * len(tag) + 2 for tag in tags)
    return size + sum(len(frame) + ALIGNMENT + _frame.size + _count_of_bytes.size for frame in frames)


def read_header(head: Bytes, size: int) -> Header:
    """The header in the first bytes of a record of `size` bytes: unverified, nothing is decoded.

    Raises `Damaged` where it makes no sense, IndexError where it goes on behind `head`.
    """
    if not size:
        raise Damaged("the record is empty")
    if head[0] == PLAIN:
        return PLAIN_HEADER
    if len(head) < _fixed.size:
        raise Damaged("the record is cut short")
    version, flags, codec, zero, head_size = _fixed.unpack_from(head)
    if version != VERSION or flags & ~_KNOWN_FLAGS or codec in (0, 255) or zero:
        raise Damaged(
            f"its format (version {version}, flags {flags:#04x}, codec {codec}) is unknown here: "
            f"it is damaged, or was written by a newer objstore"
        )
    if head_size + DIGEST_BYTES > size:
        raise Damaged("the record is cut short")
    try:
        return _read_fields(head, flags, codec, head_size)
    except (struct.error, IndexError):
        if len(head) < size:
            raise IndexError("the header goes on behind the head") from None
        raise Damaged("its header is cut short") from None
    except UnicodeDecodeError as exc:
        raise Damaged("its tags are not text") from exc


def header_of(tree_key: bytes, head: Bytes, size: int, get: Callable[[bytes], Bytes | None]) -> Header:
    """The same, where `get` gives the whole record if its header goes on behind the head.  Raises `Damaged`."""
    try:
        return read_header(head, size)
    except IndexError:
        whole = get(tree_key) or b""
        return read_header(whole, len(whole))


def key_id(header: Header) -> bytes:
    """The id of the key with which a record says that it is sealed, or nothing."""
    return header.seal[1 : 1 + KEY_ID_BYTES]


def _read_fields(head: Bytes, flags: int, codec: int, head_size: int) -> Header:
    at = _fixed.size
    expires_at: int | None = None
    tags: tuple[str, ...] = ()
    long_key: bytes | None = None
    frames: tuple[tuple[int, bytes], ...] = ()
    compressed: tuple[int, tuple[int, ...]] | None = None
    seal = b""
    if flags & EXPIRES:
        (expires_at,) = _expiry.unpack_from(head, at)
        at += _expiry.size
    if flags & TAGS:
        tags, at = _read_tags(head, at)
    if flags & LONG_KEY:
        (length,) = _length.unpack_from(head, at)
        at += _length.size + length
        long_key = bytes(head[at - length : at])
        if at > len(head):
            raise IndexError
    if flags & FRAMES and not flags & SEALED:
        (count,) = _count.unpack_from(head, at)
        at += _count.size
        frames = tuple(_frame.unpack_from(head, at + i * _frame.size) for i in range(count))
        at += count * _frame.size
    if flags & COMPRESSED:
        method, count = _method.unpack_from(head, at)
        at += _method.size
        sizes = struct.unpack_from(f"<{count}Q", head, at)
        at += count * _count_of_bytes.size
        compressed = method, sizes
    if flags & SEALED:
        size = _SEAL_BYTES.get(head[at])
        if size is None:
            raise Damaged("its seal is of no kind that is known here")
        seal = bytes(head[at : at + size])
        at += size
        if at > len(head):
            raise IndexError
    if at > head_size:
        raise Damaged("its header is longer than its head")
    frames_inside = bool(seal and flags & FRAMES)
    return Header(codec, expires_at, tags, long_key, frames, compressed, seal, frames_inside, at, head_size)


def _read_tags(head: Bytes, at: int) -> tuple[tuple[str, ...], int]:
    (count,) = _count.unpack_from(head, at)
    at += _count.size
    tags = []
    for _ in range(count):
        (length,) = _count.unpack_from(head, at)
        at += _count.size + length
        if at > len(head):
            raise IndexError
        tags.append(str(head[at - length : at], "utf-8", "surrogatepass"))
    return tuple(tags), at


def unpack(
    tree_key: bytes, record: Bytes, verify_frames: bool = True, seal: Seal | None = None
) -> tuple[Header, memoryview, list[memoryview]]:
    """Header, payload and frames of a record, every digest verified; those of the frames only if they shall be.

    With a `seal`, which is verified, they are what is inside it; without, a sealed record is its payload.  The last
    two are views of `record`, or of what was decrypted.  Raises `Damaged` where a digest does not fit, `Forged`.
    """
    # Nobody may change what is sealed between the look at its seal and its use, so a view is copied.
    view = memoryview(record if seal is None else bytes(record))
    if len(view) <= DIGEST_BYTES:
        raise Damaged("the record is cut short")
    seed = key_digest(tree_key)
    head_size = len(view) - DIGEST_BYTES
    if view[0] != PLAIN:
        head_size = min(head_size, _fixed.unpack_from(view)[-1])
    if seal is not None:
        try:
            return _unseal(tree_key, view, head_size, seal)
        except Forged:
            _verify(view, head_size, seed)  # damage is something else
            raise
    _verify(view, head_size, seed)
    if view[0] == PLAIN:
        return PLAIN_HEADER, view[:head_size], []
    header = read_header(view, len(view))
    lengths = [length for length, _ in header.frames]
    starts = _frame_starts(head_size, lengths)
    frames = [view[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    for frame, (length, expected) in zip(frames, header.frames, strict=True):
        # What is compressed will be copied anyway, and a flipped bit in it may look like another buffer.
        if len(frame) != length or ((verify_frames or header.compressed) and digest(frame, seed) != expected):
            raise Damaged("a buffer of it does not fit its digest")
    return header, view[header.payload_at : head_size], frames


def _verify(view: memoryview, head_size: int, seed: int) -> None:
    if digest(view[:head_size], seed) != view[head_size : head_size + DIGEST_BYTES]:
        raise Damaged("its bytes do not fit their digest")


def _unseal(
    tree_key: bytes, view: memoryview, head_size: int, seal: Seal
) -> tuple[Header, memoryview, list[memoryview]]:
    """What is inside a sealed record; that its seal fits says more than its digest."""
    header = read_header(view, len(view))
    if not header.seal:
        raise seal.miss()
    if head_size + DIGEST_BYTES != len(view):
        raise Forged("something stands behind its end")
    inside = memoryview(seal.open(tree_key, view[:head_size], header.payload_at))
    return header, *(_split(inside) if header.frames_inside else (inside, []))


def unpack_usual(tree_key: bytes, record: bytes, codec: int, seal: Seal) -> memoryview | None:
    """The payload of a small sealed record that says nothing else and has no frames, or None where it is another one.

    What `unpack` finds, most of the time; the seal is verified, and so the digest need not be.
    """
    head_size = len(record) - DIGEST_BYTES
    if not _LEAST_SEALED <= head_size < LARGE or record[:8] != _fixed.pack(VERSION, SEALED, codec, 0, head_size):
        return None
    at = _fixed.size + _SEAL_BYTES.get(record[8], head_size)
    if at > head_size:
        return None
    try:
        return memoryview(seal.open(tree_key, record[:head_size], at))
    except Forged:  # or damaged: what it is, `unpack` says
        return None


def _split(inside: memoryview) -> tuple[memoryview, list[memoryview]]:
    """Payload and frames of what was sealed together, which is as it was written."""
    (count,) = _count.unpack_from(inside)
    at = _count.size + count * _count_of_bytes.size
    frames = []
    end = len(inside)
    for length in reversed(struct.unpack_from(f"<{count}Q", inside, _count.size)):
        frames.append(inside[end - length : end])
        end -= length
    return inside[at:end], frames[::-1]


def _frame_starts(head_size: int, lengths: Iterable[int]) -> list[int]:
    """Where each frame begins: the next place after the last that is aligned in the file."""
    end = head_size + DIGEST_BYTES
    starts = []
    for length in lengths:
        start = end + -(end + VALUE_OFFSET) % ALIGNMENT
        starts.append(start)
        end = start + length
    return starts
