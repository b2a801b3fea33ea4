"""The data file, read without LMDB.

LMDB trusts its file: where pages are missing that it goes to, the kernel ends the process, and where they make no
sense, LMDB does.  So what can be seen from outside is looked at before LMDB maps the file (`check_whole`), and who
checks or salvages a damaged one reads it with what stands here.  This is the format of LMDB 0.9 on a 64-bit machine,
as far as one tree of plain keys and values needs it:

    pages 0 and 1   the meta pages: where the newest state and the one before it begin
    other pages     a branch or a leaf of a tree, or a run of overflow pages with one large value

A page begins with a header: its number (8 bytes), padding (2), flags (2), then the end of the table of node offsets
(2) and the start of the nodes (2), or, in a run of overflow pages, how many there are (4).  A node has two words (a
size, or the low part of a page number), flags (or its high part), the size of its key (2 bytes each), the key and the
data.  Where the data is big, it is the number of the first of its overflow pages.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from objstore.errors import StoreCorrupt

DATA = "data.mdb"

REPLACED = (
    "files of the store at {!r} were deleted or replaced while it was open; close it everywhere in this process, and "
    "open it again"
)

PAGE = struct.Struct("<8x2xHHH")
NODE = struct.Struct("<HHHH")
PAGE_NUMBER = struct.Struct("<Q")
PAGE_HEADER_BYTES = PAGE.size
BRANCH = 0x01
LEAF = 0x02
OVERFLOW = 0x04
DIRTY = 0x10
BIG_DATA = 0x01
FIRST_PAGE = 2  # behind the meta pages
NO_PAGE = (1 << 64) - 1

_RUN = struct.Struct("<8x2xHI")
_COUNT = struct.Struct("<Q")
_TREE = "IHH5Q"
_META = struct.Struct(f"<10xH4xII8x8x{_TREE}{_TREE}QQ")
_META_FLAG = 0x08
MAGIC = 0xBEEFC0DE
_DATA_VERSION = 1
_MOST_MISSING = 1 << 20
_DEEPEST = 32  # of a tree: LMDB's own limit


class Unreadable(Exception):
    """This page is not what it should be; the text says how."""


class Tree(NamedTuple):
    """A tree, as the meta page describes it."""

    pad: int  # of the first tree: the size of a page
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class Meta(NamedTuple):
    """What a meta page says of one state."""

    free: Tree  # which pages are free, by the transaction that freed them
    main: Tree  # everything else
    last_page: int
    transaction: int

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self.free.pad


def state_text(meta: Meta) -> str:
    """A state as text, for another process."""
    return json.dumps(meta)


def state_of(text: str) -> Meta:
    """What `state_text` was given."""
    free, main, last_page, transaction = json.loads(text)
    return Meta(Tree(*free), Tree(*main), last_page, transaction)


class DataFile:
    """A data file, open for reading at `descriptor`, which stays the caller's."""

    def __init__(self, descriptor: int, page_size: int = 0) -> None:
        self._descriptor = descriptor
        self._page_size = page_size

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def metas(self) -> list[Meta]:
        """The states that the meta pages tell of, the newest first; none where this is no LMDB file."""
        first = _read_meta(self._read(0, _META.size))
        if first is None:  # then the size of a page is not known, either
            sizes = [self._page_size] if self._page_size else [1 << bits for bits in range(9, 17)]
        else:
            sizes = [first.page_size]
        second = next(filter(None, (_read_meta(self._read(size, _META.size)) for size in sizes)), None)
        metas = [meta for meta in (first, second) if meta is not None]
        metas.sort(key=lambda meta: meta.transaction, reverse=True)
        if metas:
            self._page_size = metas[0].page_size
        return metas

    def page(self, number: int) -> bytes:
        """The bytes of a page.  Raises Unreadable where it is cut short, or the disk fails."""
        return self._whole(number * self._page_size, self._page_size)

    def run(self, number: int, size: int) -> tuple[int, bytes]:
        """How many pages the run of overflow pages has that begins here, and its first `size` bytes of value."""
        start = number * self._page_size
        head = self._whole(start, PAGE_HEADER_BYTES)
        flags, pages = _RUN.unpack(head)
        if PAGE_NUMBER.unpack_from(head) != (number,) or flags != OVERFLOW:
            raise Unreadable("no large value begins here")
        if not PAGE_HEADER_BYTES + size <= pages * self._page_size:
            raise Unreadable(f"a value of {size} bytes does not fit into {pages} pages")
        return pages, self._whole(start + PAGE_HEADER_BYTES, size)

    def _whole(self, start: int, size: int) -> bytes:
        try:
            if size > self._page_size and start + size > self.size():  # before so much memory is taken
                raise Unreadable("it goes on behind the end of the file")
            found = self._read(start, size)
        except (OSError, OverflowError) as exc:
            raise Unreadable(f"it cannot be read: {exc}") from exc
        if len(found) != size:
            raise Unreadable("it is behind the end of the file")
        return found

    def _read(self, start: int, size: int) -> bytes:
        found = os.pread(self._descriptor, size, start)
        while len(found) < size and (more := os.pread(self._descriptor, size - len(found), start + len(found))):
            found += more  # the system gives 2 GiB at a time
        return found


def _read_meta(page: bytes) -> Meta | None:
    """What a meta page says, or None where it is none."""
    if len(page) < _META.size:
        return None
    flags, magic, version, *fields = _META.unpack(page)
    meta = Meta(Tree(*fields[:8]), Tree(*fields[8:16]), *fields[16:])
    size = meta.page_size
    is_meta = flags & _META_FLAG and magic == MAGIC and version == _DATA_VERSION
    return meta if is_meta and 256 <= size <= 1 << 16 else None


class Node(NamedTuple):
    """A node of a page."""

    key: bytes
    size: int  # of the value, in a leaf
    page: int  # where it leads, in a branch, or where the value lies, in a leaf, if it is big; else NO_PAGE
    data: bytes  # the value, if it is not big


def offsets(page: bytes) -> Iterator[int]:
    """Where the nodes of a page are.  Raises struct.error for what is no page."""
    _, lower, _ = PAGE.unpack_from(page)
    return (offset for (offset,) in struct.iter_unpack("<H", page[PAGE_HEADER_BYTES:lower]))


def branch_node(page: bytes, offset: int) -> Node:
    """The node of a branch.  Raises struct.error or Unreadable for what is none."""
    low, high, top, key_size = NODE.unpack_from(page, offset)
    key = page[offset + NODE.size : offset + NODE.size + key_size]
    if len(key) != key_size:
        raise Unreadable("a node goes on behind its page")
    return Node(key, 0, low | high << 16 | top << 32, b"")


def leaf_node(page: bytes, offset: int) -> Node:
    """The node of a leaf.  Raises struct.error or Unreadable for what is none."""
    low, high, flags, key_size = NODE.unpack_from(page, offset)
    data = offset + NODE.size + key_size
    size = low | high << 16
    if flags & ~BIG_DATA or not key_size:
        raise Unreadable(f"a node has flags {flags:#x} and a key of {key_size} bytes")
    if data + (PAGE_NUMBER.size if flags else size) > len(page):
        raise Unreadable("a node goes on behind its page")
    key = page[offset + NODE.size : data]
    if flags:
        return Node(key, size, PAGE_NUMBER.unpack_from(page, data)[0], b"")
    return Node(key, size, NO_PAGE, page[data : data + size])


def numbers(data: bytes) -> tuple[int, ...]:
    """A list of free pages: their count, then they, falling.  Raises struct.error for what is none."""
    (count,) = _COUNT.unpack_from(data)
    return struct.unpack_from(f"<{min(count, len(data))}Q", data, _COUNT.size)


def free_pages(file: DataFile, meta: Meta) -> Iterator[int]:
    """The pages that are free in a state.  Raises Unreadable where the tree of them makes no sense."""
    return _free_below(file, meta.free.root, _DEEPEST, set())


def _free_below(file: DataFile, number: int, depth: int, seen: set[int]) -> Iterator[int]:
    if number == NO_PAGE:
        return
    if not depth or number in seen:
        raise Unreadable("the tree of free pages is too deep, or leads to a page twice")
    seen.add(number)
    page = file.page(number)
    try:
        flags, _, _ = PAGE.unpack_from(page)
        for offset in offsets(page):
            if flags & BRANCH:
                yield from _free_below(file, branch_node(page, offset).page, depth - 1, seen)
                continue
            node = leaf_node(page, offset)
            yield from numbers(node.data if node.page == NO_PAGE else file.run(node.page, node.size)[1])
    except struct.error as exc:
        raise Unreadable("the tree of free pages is damaged") from exc


# What is looked at each time a store is opened


def file_id(directory_path: str, name: str = DATA) -> tuple[int, int]:
    """What names a file of the store whatever the path to it: device and inode; (0, 0) where there is none.

    Raises OSError where that cannot be seen.
    """
    try:
        return identify(os.stat(os.path.join(directory_path, name)))
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0


def identify(status: os.stat_result) -> tuple[int, int]:
    """What names a file or a directory, of all that is said of it."""
    return status.st_dev, status.st_ino


def check_whole(directory_path: str) -> None:
    """Refuse a data file that is cut short: LMDB would map it, and touching what is gone kills the process.

    To be called before LMDB opens the file.
    """
    descriptor = os.open(os.path.join(directory_path, DATA), os.O_RDONLY | os.O_CLOEXEC)
    try:
        lack = cut_short(DataFile(descriptor))
    except Unreadable:
        raise StoreCorrupt(
            f"the data file of the store at {directory_path!r} is no LMDB file; restore a backup"
        ) from None
    finally:
        os.close(descriptor)
    if lack is not None:
        size, whole = lack
        raise StoreCorrupt(
            f"the data file of the store at {directory_path!r} is cut short: {size} bytes of {whole}; restore a backup"
        )


def cut_short(file: DataFile) -> tuple[int, int] | None:
    """The bytes that a file has, and those that it should have, where it is cut short.

    Compares the last page in use, from the meta pages, with the size of the file.  A whole file may lack pages
    at its end that were used and freed again in one transaction; those are listed as free.

    Raises Unreadable where it has no meta page.
    """
    before = None
    while True:
        metas = file.metas()
        if not metas:
            raise Unreadable("it is no LMDB file")
        meta = metas[0]
        # After the metas: others may be writing, and write the pages first.
        size = file.size()
        missing = range(size // meta.page_size, meta.last_page + 1)
        if not missing or _all_free(file, meta, missing):
            return None
        if meta == before:  # and no writer has changed the tree of free pages on the way
            return size, (meta.last_page + 1) * meta.page_size
        before = meta


def _all_free(file: DataFile, meta: Meta, pages: range) -> bool:
    """Whether all these pages are free.  What makes no sense in the tree of free pages means: no."""
    if pages.stop - pages.start > _MOST_MISSING:
        return False
    try:
        return not set(pages).difference(free_pages(file, meta))
    except Unreadable:
        return False
