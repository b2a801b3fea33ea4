"""The portable dump: all that is in a store as one file, which is written and read from its beginning to its end.

What lies in the tree of a store is written as it lies there: first what the library keeps for itself and cannot make
anew (what the store is, its durability, the bounds of a cache, the names of namespaces), then the records, in the order
of the tree.  Indexes and counts are left out: they follow from the records.  Integers are little-endian:

    offset  size
    0       16    "objstore dump 1" and a line end; the number is the version
    16      8     salt: random, with which the digests of this dump are seeded
    24            blocks, each:

    0       4     B5 "obj"
    4       1     kind: "I" what this dump is, in JSON; "L" the library's own; "R" a record; "E" the end
    5       1     zero
    6       2     length of the tree key
    8       4     length of the body
    12      8     XXH3-64 of the body, seeded with the salt
    20            tree key
                  XXH3-64 of all of the block before, seeded with the salt and the offset of the block (8)
                  body

The first block is "I" (`{"created": ISO 8601, "ordered": whether the records are in the order of their tree keys}`),
and "L" blocks of namespaces may also stand between records, before the first record of theirs.  The last block is "E",
with an empty tree key; its body says how many records there are (8) and how many blocks before it (8), and has the
XXH3-64 of the digests of their heads, each seeded with what came out before (8).  So a dump that is cut short, or of
which a part is missing, is known as such.

Where a block is damaged, reading goes on with the next one.  The salt keeps what somebody has stored as a value from
being taken for a block then.  The digests find accidents; they are no protection from an adversary.  So what is read
here is bounded and checked: no length is believed beyond the end of the file, no tree key that no record can have, no
name that no namespace can have.  Nothing is decoded.  The numbers are the format of files: DO NOT CHANGE THEM.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import BinaryIO, NamedTuple

from objstore import keys, space
from objstore.copying.records import NOTE_PREFIX
from objstore.engines.base import DURABILITY_KEY, IDENTITY_KEY, Stored
from objstore.errors import StoreCorrupt, StoreError
from objstore.eviction import LEDGER_KEY
from objstore.record import DIGEST_BYTES, MAX_RECORD_BYTES, digest, key_digest

MAGIC = b"objstore dump "
_VERSION = b"1\n"
_SALT_BYTES = 8
_START = len(MAGIC) + len(_VERSION) + _SALT_BYTES

_MARK = b"\xb5obj"
_head = struct.Struct("<4scBHI8s")
_end = struct.Struct("<QQ8s")
_END_BYTES = _head.size + DIGEST_BYTES + _end.size

INFO, LIBRARY, RECORD, END = b"I", b"L", b"R", b"E"
_MOST_BYTES = {INFO: 1 << 16, LIBRARY: 1 << 16, RECORD: MAX_RECORD_BYTES, END: _end.size}
_MOST_KEY_BYTES = space.PREFIX_BYTES + keys.ORDERED_BYTES + keys.SHORT_DIGEST_BYTES
_MOST_HEAD_BYTES = _head.size + _MOST_KEY_BYTES + DIGEST_BYTES
_SEARCHED_BYTES = 1 << 20
_MOST_PROBLEMS = 1000
_SEEDS = 1 << 64


class DumpWriter:
    """Writes a dump, block by block."""

    def __init__(self, file: BinaryIO, is_ordered: bool) -> None:
        salt = os.urandom(_SALT_BYTES)
        file.write(MAGIC + _VERSION + salt)
        self.records = 0
        self._file = file
        self._salt = int.from_bytes(salt, "little")
        self._position = _START
        self._blocks = self._whole = 0
        created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._put(INFO, b"", json.dumps({"created": created, "ordered": is_ordered}).encode())

    def put_library(self, tree_key: bytes, stored: Stored) -> None:
        """Write what the library keeps under a key of its own."""
        self._put(LIBRARY, tree_key, stored)

    def put(self, tree_key: bytes, stored: Stored) -> None:
        """Write a record."""
        self._put(RECORD, tree_key, stored)
        self.records += 1

    def end(self) -> None:
        """Write how much there is: without that, a dump is no whole one."""
        self._put(END, b"", _end.pack(self.records, self._blocks, self._whole.to_bytes(DIGEST_BYTES, "big")))

    def _put(self, kind: bytes, tree_key: bytes, body: Stored) -> None:
        head = _head.pack(_MARK, kind, 0, len(tree_key), len(body), digest(body, self._salt)) + tree_key
        head_digest = digest(head, (self._salt + self._position) % _SEEDS)
        self._file.write(head + head_digest)
        self._file.write(body)
        self._position += len(head) + DIGEST_BYTES + len(body)
        self._blocks += 1
        self._whole = key_digest(head_digest, self._whole)


class _Block(NamedTuple):
    """The head of a block, which fits its digest."""

    kind: bytes
    tree_key: bytes
    body_at: int
    body_bytes: int
    body_digest: bytes
    head_digest: bytes


class DumpReader:
    """What is in a dump, to be read as the state of a store is.

    Raises StoreError for what is no dump of this version, StoreCorrupt where its beginning is damaged.
    """

    def __init__(self, file: BinaryIO, location: str) -> None:
        self.location = location
        self.problems: list[str] = []
        """What is wrong with the dump, as far as the last scan has seen it."""
        self._file = file
        self._bytes = file.seek(0, os.SEEK_END)
        self.salt = self._read_salt()
        self._seed = int.from_bytes(self.salt, "little")
        self.library: dict[bytes, bytes] = {}
        """What the library keeps under keys of its own."""
        self.is_ordered = self._read_info()
        self._read_beginning()
        end = self._block_at(self._bytes - _END_BYTES)
        self.records = _end.unpack(self._body(end))[0] if end is not None and end.kind == END else None
        """How many records there are, where the dump was not cut short."""

    def get(self, key: bytes, /) -> bytes | None:
        """What the library keeps under a key of its own."""
        return self.library.get(key)

    def scan(self, start: bytes, stop: bytes | None = None, /) -> Iterator[tuple[bytes, bytes | None]]:
        """Tree keys and records from `start` (included) to `stop` (not); None is a record that is damaged."""
        if stop is not None and stop <= space.ITEMS:
            yield from sorted((key, body) for key, body in self.library.items() if start <= key < stop)
            return
        for block in self._blocks():
            if block.kind == LIBRARY:
                self._take_library(block)
            elif block.kind == RECORD and not _is_place(block.tree_key):
                self._say(f"what it has under {block.tree_key[:40]!r} is no record of a store; it was left behind")
            elif block.kind == RECORD and start <= block.tree_key and (stop is None or block.tree_key < stop):
                yield block.tree_key, self._sound_body(block)

    def _read_salt(self) -> bytes:
        self._file.seek(0)
        begins = self._file.read(_START)
        if not begins.startswith(MAGIC):
            raise StoreError(f"{self.location!r} is no dump of a store")
        if not begins.startswith(MAGIC + _VERSION):
            raise StoreError(
                f"the dump {self.location!r} has another version than 1, up to which this objstore reads; upgrade "
                f"objstore"
            )
        return begins[-_SALT_BYTES:]

    def _read_info(self) -> bool:
        """Whether the records are in order."""
        block = self._block_at(_START)
        body = None if block is None or block.kind != INFO else self._sound_body(block)
        try:
            return json.loads(body or b"")["ordered"] is True
        except (ValueError, TypeError, LookupError, RecursionError) as exc:
            raise StoreCorrupt(f"the beginning of the dump {self.location!r} is damaged; take another one") from exc

    def _read_beginning(self) -> None:
        """What stands before the first record."""
        for block in self._blocks():
            if block.kind == RECORD:
                return
            if block.kind == LIBRARY:
                self._take_library(block)

    def _take_library(self, block: _Block) -> None:
        body = self._sound_body(block)
        if body is None or not _is_of_library(block.tree_key, body):
            self._say(f"what it has under {block.tree_key[:40]!r} makes no sense")
        else:
            self.library[block.tree_key] = body

    # Blocks

    def _blocks(self) -> Iterator[_Block]:
        """The blocks that are there, one after another; what is wrong with the file is in `problems` at the end."""
        self.problems = []
        position, records, blocks, whole = _START, 0, 0, 0
        while position < self._bytes:
            block = self._block_at(position)
            if block is None:
                after = self._search(position + 1)
                self._say(f"{after - position:,} bytes from byte {position:,} on are damaged: what was there is lost")
                position = after
                continue
            if block.kind == END:
                self._compare(block, records, blocks, whole)
                return
            records += block.kind == RECORD
            blocks += 1
            whole = key_digest(block.head_digest, whole)
            yield block
            position = block.body_at + block.body_bytes
        self._say("it is cut short: what came behind is lost")

    def _block_at(self, position: int) -> _Block | None:
        """The block there, if it is one whose head is sound, and which ends before the file does."""
        if position < _START:
            return None
        self._file.seek(position)
        return self._block_in(self._file.read(_MOST_HEAD_BYTES), 0, position)

    def _block_in(self, found: bytes, at: int, position: int) -> _Block | None:
        """The same, where the bytes of the file at `position` are those of `found` from `at` on."""
        if len(found) - at < _head.size:
            return None
        mark, kind, zero, key_bytes, body_bytes, body_digest = _head.unpack_from(found, at)
        end = at + _head.size + key_bytes
        body_at = position + end - at + DIGEST_BYTES
        if mark != _MARK or zero or key_bytes > _MOST_KEY_BYTES or body_bytes > _MOST_BYTES.get(kind, -1):
            return None
        head_digest = found[end : end + DIGEST_BYTES]
        if body_at + body_bytes > self._bytes:
            return None
        if digest(found[at:end], (self._seed + position) % _SEEDS) != head_digest:
            return None
        return _Block(kind, found[at + _head.size : end], body_at, body_bytes, body_digest, head_digest)

    def _search(self, position: int) -> int:
        """Where the next block begins, or the end of the file."""
        while position < self._bytes:
            self._file.seek(position)
            searched = self._file.read(_SEARCHED_BYTES + _MOST_HEAD_BYTES)
            at = searched.find(_MARK)
            while 0 <= at < _SEARCHED_BYTES:
                if self._block_in(searched, at, position + at) is not None:
                    return position + at
                at = searched.find(_MARK, at + 1)
            position += _SEARCHED_BYTES
        return self._bytes

    def _body(self, block: _Block) -> bytes:
        self._file.seek(block.body_at)
        return self._file.read(block.body_bytes)

    def _sound_body(self, block: _Block) -> bytes | None:
        body = self._body(block)
        return body if digest(body, self._seed) == block.body_digest else None

    def _compare(self, end: _Block, records: int, blocks: int, whole: int) -> None:
        """Compare what was met with what there was."""
        said = _end.unpack(self._body(end)) if self._sound_body(end) is not None else None
        found = records, blocks, whole.to_bytes(DIGEST_BYTES, "big")
        if said is None or self._bytes != end.body_at + end.body_bytes:
            self._say("its end is damaged, or something stands behind it")
        elif said[0] > records:
            self._say(f"{said[0] - records:,} of its {said[0]:,} records are missing")
        elif said != found and not self.problems:
            self._say("it is not what was written: a part is missing, or from another dump")

    def _say(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(problem)


def _is_place(tree_key: bytes) -> bool:
    """Whether a record can be there, of a user or of the library."""
    prefix = space.prefix_in(tree_key)
    if prefix is None or prefix == NOTE_PREFIX:  # which says how far a copy is
        return False
    return 0 < len(tree_key) - len(prefix) <= keys.ORDERED_BYTES + keys.SHORT_DIGEST_BYTES


def _is_of_library(tree_key: bytes, stored: bytes) -> bool:
    """Whether the library keeps such a thing, and it can be taken over."""
    if tree_key[:1] != space.CATALOG:
        return tree_key in (IDENTITY_KEY, DURABILITY_KEY, LEDGER_KEY)
    try:
        _, name, _ = space.read_namespace(stored)
    except (struct.error, ValueError):
        return False
    return space.prefix_of(name)[1:] == tree_key[1:] and space.is_name(name)
