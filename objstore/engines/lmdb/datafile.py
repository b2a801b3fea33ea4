"""The data file, looked at without LMDB.

LMDB trusts its file: where pages are missing that it goes to, the kernel ends the process.  So what can be
seen from outside is looked at before LMDB maps it.  And what the file looks like inside, as far as others need
it, is said here: where a large value lies (see `zerocopy`).
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

from objstore.errors import StoreCorrupt

DATA = "data.mdb"

REPLACED = (
    "the data file of the store at {!r} was deleted or replaced while it was open; close it everywhere in this "
    "process, and open it again"
)

# LMDB 0.9 on a 64-bit machine: a 16-byte page header, then magic, version, address, map size, two
# database descriptions of 48 bytes (the first, of the free pages, begins with the page size and ends with
# its root), last page, transaction.
_meta = struct.Struct("<16xII8x8xI36xQ48xQQ")
_MAGIC = 0xBEEFC0DE
_DATA_VERSION = 1


def file_id(directory_path: str) -> tuple[int, int]:
    """What names the data file whatever the path to it: device and inode; (0, 0) where there is none."""
    try:
        return identify(os.stat(os.path.join(directory_path, DATA)))
    except OSError:
        return 0, 0


def identify(status: os.stat_result) -> tuple[int, int]:
    """What names a file or a directory, of all that is said of it."""
    return status.st_dev, status.st_ino


def check_whole(directory_path: str) -> None:
    """Refuse a data file that is cut short: LMDB would map it, and touching what is gone kills the process.

    Compares the last page in use, from the meta pages, with the size of the file.  A whole file may lack pages
    at its end that were used and freed again in one transaction; those are listed as free.  To be called
    before LMDB opens the file.
    """
    with open(os.path.join(directory_path, DATA), "rb") as file:
        before = None
        while True:
            meta = _newest_meta(file)
            if meta is None:
                raise StoreCorrupt(
                    f"the data file of the store at {directory_path!r} is no LMDB file; restore a backup"
                )
            # After the metas: others may be writing, and write the pages first.
            size = os.fstat(file.fileno()).st_size
            missing = range(size // meta.page_size, meta.last_page + 1)
            if not missing or _all_free(file, meta, missing):
                return
            if meta == before:  # and no writer has changed the tree of free pages on the way
                raise StoreCorrupt(
                    f"the data file of the store at {directory_path!r} is cut short: {size} bytes of "
                    f"{(meta.last_page + 1) * meta.page_size}; restore a backup"
                )
            before = meta


def _newest_meta(file: BinaryIO) -> _Meta | None:
    first = _read_meta(_read_at(file, 0, _meta.size))
    if first is None:
        return None
    second = _read_meta(_read_at(file, first.page_size, _meta.size))
    return first if second is None else max(first, second, key=lambda meta: meta.transaction)


class _Meta(NamedTuple):
    page_size: int
    free_root: int
    last_page: int
    transaction: int


def _read_meta(page: bytes) -> _Meta | None:
    """What a meta page says, or None where it is none."""
    if len(page) < _meta.size:
        return None
    magic, version, *fields = _meta.unpack(page)
    meta = _Meta(*fields)
    return meta if magic == _MAGIC and version == _DATA_VERSION and meta.page_size else None


def _all_free(file: BinaryIO, meta: _Meta, pages: range) -> bool:
    """Whether all these pages are free.  What makes no sense in the tree of free pages means: no."""
    if pages.stop - pages.start > _MOST_MISSING:
        return False
    wanted = set(pages)
    try:
        _strike_free(file, meta, meta.free_root, wanted, set())
    except (struct.error, ArithmeticError, ValueError, OSError):
        return False
    return not wanted


# A page: number (8), padding (2), flags (2), end of the offsets (2), start of the nodes (2); then the offsets.
# A node: two words (a size, or a page number), flags, size of the key; then key and data.  Where the data is big,
# it is the number of the first of its overflow pages, which has a header of its own and then the value.
PAGE = struct.Struct("<8x2xHHH")
NODE = struct.Struct("<HHHH")
PAGE_NUMBER = struct.Struct("<Q")
BIG_DATA = 0x01
PAGE_HEADER_BYTES = PAGE.size
OVERFLOW = 0x04
DIRTY = 0x10
_BRANCH = 0x01
_NO_PAGE = (1 << 64) - 1
_MOST_MISSING = 1 << 20


def _strike_free(file: BinaryIO, meta: _Meta, number: int, wanted: set[int], seen: set[int]) -> None:
    """Take what the free list below one of its pages names out of `wanted`."""
    if number == _NO_PAGE:
        return
    if number in seen:
        raise ValueError("the tree of free pages leads back to itself")
    seen.add(number)
    page = _read_at(file, number * meta.page_size, meta.page_size)
    flags, lower, _ = PAGE.unpack_from(page)
    for (offset,) in struct.iter_unpack("<H", page[PAGE.size : lower]):
        low, high, node_flags, key_size = NODE.unpack_from(page, offset)
        data = offset + NODE.size + key_size
        if flags & _BRANCH:
            _strike_free(file, meta, low | high << 16 | node_flags << 32, wanted, seen)
        elif node_flags & BIG_DATA:
            (overflow,) = PAGE_NUMBER.unpack_from(page, data)
            start = overflow * meta.page_size + PAGE.size
            wanted.difference_update(_ids(_read_at(file, start, low | high << 16)))
        else:
            wanted.difference_update(_ids(page[data : data + (low | high << 16)]))


def _ids(data: bytes) -> list[int]:
    """A list of page numbers: their count, then they."""
    (count,) = struct.unpack_from("<Q", data)
    return list(struct.unpack_from(f"<{min(count, len(data))}Q", data, 8))


def _read_at(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)
