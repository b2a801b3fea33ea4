"""The structure of a data file, looked through page by page without LMDB.

`Walk` goes once through everything that one state has, in the order of the keys.  It gives what it finds and tells
what makes no sense, and goes on behind that: a check wants to know all of it, and a salvage wants the rest.  What it
tells covers what LMDB itself relies on: each page is there, says what it is, is reached once, and holds its keys in
order and within the bounds that the branches above it promise; and the counts agree.

What lies in pages that a damaged tree no longer leads to can still be found (`strays`), but no longer proved to be of
this state: whoever takes a record from there needs its digest, and may get one that was replaced before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from objstore.engines.base import Progress
from objstore.engines.lmdb.datafile import (
    BRANCH,
    FIRST_PAGE,
    LEAF,
    NO_PAGE,
    NODE,
    PAGE,
    PAGE_HEADER_BYTES,
    PAGE_NUMBER,
    DataFile,
    Meta,
    Node,
    Tree,
    Unreadable,
    branch_node,
    leaf_node,
    numbers,
    offsets,
)

# A page in every so many is told of as progress.
_TOLD_PAGES = 256


class _Step(NamedTuple):
    """A page to visit, and what was promised of it: its level, and that its keys are from `low` to below `high`."""

    number: int
    depth: int
    low: bytes
    high: bytes | None


class Walk:
    """One walk through a state of a data file.  `problem(text)` is called for everything that makes no sense.

    `progress(done, total)` is called with pages now and then.
    """

    def __init__(
        self,
        file: DataFile,
        meta: Meta,
        problem: Callable[[str], None],
        progress: Progress,
    ) -> None:
        self._file = file
        self._meta = meta
        self._problem = problem
        self._progress = progress
        self._told = 0
        self.reached = bytearray(min(meta.last_page + 1, file.size() // meta.page_size + 1))
        self.pages = 0  # that were reached, or are free
        self.is_whole = True  # whether every page was reached that the trees had

    def items(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys and records of the main tree, in order; None in the place of a record that cannot be read."""
        for node in self._nodes(self._meta.main, "the tree of records"):
            yield node.key, node.data if node.page == NO_PAGE else self._large(node)

    def check_free(self) -> None:
        """Look through the tree of free pages; after the records, every page must then be accounted for."""
        last = -1
        for node in self._nodes(self._meta.free, "the tree of free pages"):
            try:
                data = node.data if node.page == NO_PAGE else self._run(node)
                (transaction,) = PAGE_NUMBER.unpack(node.key)
                free = numbers(data)
            except (struct.error, Unreadable) as exc:
                self._lose(f"a list of free pages makes no sense: {exc}")
                continue
            if transaction <= last or transaction > self._meta.transaction:
                self._problem(f"pages were freed by transaction {transaction}, which is out of order")
            last = transaction
            if list(free) != sorted(free, reverse=True):
                self._problem(f"the list of pages that transaction {transaction} freed is not in order")
            for number in free:
                self._claim(number, 1, "a free page")
        if self.is_whole and self.pages + FIRST_PAGE != self._meta.last_page + 1:
            self._problem(f"{self._meta.last_page + 1 - FIRST_PAGE - self.pages} pages are neither in use nor free")

    def _nodes(self, tree: Tree, name: str) -> Iterator[Node]:
        """The nodes of the leaves of a tree, in order."""
        found = dict.fromkeys(("branch pages", "leaf pages", "overflow pages", "entries"), 0)
        before = self.pages
        is_main = tree is self._meta.main
        # The keys of free pages are numbers, lowest byte first; their order is seen by who reads them.
        check_order = self._check_order if is_main else _check_nothing
        steps = [_Step(tree.root, 1, b"", None)] if tree.root != NO_PAGE else []
        while steps:
            step = steps.pop()
            if not self._claim(step.number, 1, f"a page of {name}"):
                continue
            try:
                page = self._file.page(step.number)
                flags, places = self._header(page, step, tree.depth)
                if flags == BRANCH:
                    found["branch pages"] += 1
                    steps += reversed(self._below(page, places, step, check_order))
                    continue
                nodes = [leaf_node(page, place) for place in places]
            except (struct.error, Unreadable) as exc:
                self._lose(f"page {step.number}, of {name}, cannot be read: {exc}")
                if step.number < len(self.reached):
                    self.reached[step.number] = 0  # what is left in it are strays
                continue
            found["leaf pages"] += 1
            found["entries"] += len(nodes)
            check_order([node.key for node in nodes], step)
            yield from nodes
        found["overflow pages"] = self.pages - before - found["branch pages"] - found["leaf pages"]
        if not is_main:  # the free pages themselves were counted, too
            del found["overflow pages"]
        counted = {
            "branch pages": tree.branch_pages,
            "leaf pages": tree.leaf_pages,
            "overflow pages": tree.overflow_pages,
            "entries": tree.entries,
        }
        for what, number in found.items():
            if number != counted[what]:
                self._lose(f"{name} has {number} {what} of {counted[what]}")
        if is_main and tree.pad:
            self._problem(f"{name} has records of {tree.pad} bytes, which no store has")
        if tree.flags & ~(_INTEGER_KEYS if not is_main else 0):
            self._problem(f"{name} has flags {tree.flags:#x}, which no store has")

    def _header(self, page: bytes, step: _Step, depth: int) -> tuple[int, list[int]]:
        """The flags of a page and the places of its nodes.  Raises Unreadable where nothing can be made of it."""
        flags, lower, upper = PAGE.unpack_from(page)
        if PAGE_NUMBER.unpack_from(page) != (step.number,):
            raise Unreadable(f"it says that it is page {PAGE_NUMBER.unpack_from(page)[0]}")
        if flags not in (BRANCH, LEAF):
            raise Unreadable(f"it has flags {flags:#x}")
        if (flags == LEAF) != (step.depth == depth):
            raise Unreadable(f"it is on level {step.depth} of {depth}, where none of its kind is")
        if not PAGE_HEADER_BYTES < lower <= upper <= len(page) or lower % 2:
            raise Unreadable("its table of nodes makes no sense")
        places = list(offsets(page))
        end = upper
        for place in sorted(places):  # they fill the page without a gap
            if place != end or place + NODE.size > len(page):
                raise Unreadable("its nodes do not fit together")
            low, high, node_flags, key_size = NODE.unpack_from(page, place)
            size = 0 if flags == BRANCH else PAGE_NUMBER.size if node_flags else low | high << 16
            end += (NODE.size + key_size + size + 1) & ~1
        if end != len(page):
            raise Unreadable("its nodes do not fill it")
        return flags, places

    def _below(
        self, page: bytes, places: list[int], step: _Step, check_order: Callable[[list[bytes], _Step], None]
    ) -> list[_Step]:
        """The pages that a branch leads to."""
        nodes = [branch_node(page, place) for place in places]
        keys = [step.low, *(node.key for node in nodes[1:])]
        check_order(keys, step)
        ends = [*keys[1:], step.high]
        return [_Step(node.page, step.depth + 1, low, high) for node, low, high in zip(nodes, keys, ends, strict=True)]

    def _check_order(self, keys: list[bytes], step: _Step) -> None:
        is_sorted = all(map(bytes.__lt__, keys, keys[1:]))
        if not is_sorted or keys[0] < step.low or (step.high is not None and keys[-1] >= step.high):
            self._problem(f"the keys of page {step.number} are not in order")

    def _large(self, node: Node) -> bytes | None:
        try:
            return self._run(node)
        except Unreadable as exc:
            self._lose(f"page {node.page}, where a large record begins, cannot be read: {exc}")
            return None

    def _run(self, node: Node) -> bytes:
        pages, value = self._file.run(node.page, node.size)
        if not self._claim(node.page, pages, "a large record"):
            raise Unreadable("its pages are in use by something else")
        return value

    def _claim(self, number: int, count: int, what: str) -> bool:
        """Take pages as reached; whether they were there to take."""
        if not FIRST_PAGE <= number <= number + count - 1 <= self._meta.last_page:
            self._lose(f"{what} is page {number}, and there are {self._meta.last_page + 1}")
            return False
        taken = self.reached[number : number + count]
        if any(taken):
            self._lose(f"{what} is page {number}, which is in use by something else")
            return False
        self.reached[number : number + count] = b"\x01" * len(taken)
        self.pages += count
        if self.pages - self._told >= _TOLD_PAGES:
            self._told = self.pages
            self._progress(self.pages, self._meta.last_page + 1 - FIRST_PAGE)
        return True

    def _lose(self, text: str) -> None:
        self.is_whole = False
        self._problem(text)


def _check_nothing(_keys: list[bytes], _step: _Step) -> None:
    pass


_INTEGER_KEYS = 0x08  # MDB_INTEGERKEY: the keys of the free pages are numbers of transactions


def strays(file: DataFile, meta: Meta, reached: bytearray, take: Callable[[bytes, bytes], bool]) -> None:
    """Show `take` what could be keys and records in pages that were not reached, in no order.  Most of it is none.

    It answers whether this was one.  What lies within one is not looked at, nor what lies within a large value whose
    first page is whole: whoever gave a value may have put there what looks like a record, with a digest that fits.
    """
    number = FIRST_PAGE
    while number < len(reached):
        pages = 1
        if not reached[number]:
            pages = _lost_run(file, number, reached)
            if not pages:
                _take_nodes(file, meta, number, take)
        number += max(pages, 1)


def _lost_run(file: DataFile, number: int, reached: bytearray) -> int:
    """How many pages the large value has that begins on this page, if one does and none of them is in use."""
    try:
        pages, _ = file.run(number, 0)
    except Unreadable:
        return 0
    return 0 if any(reached[number : number + pages]) else pages


def _take_nodes(file: DataFile, meta: Meta, number: int, take: Callable[[bytes, bytes], bool]) -> None:
    try:
        page = file.page(number)
    except Unreadable:
        return
    place = PAGE_HEADER_BYTES
    while place < meta.page_size - NODE.size:
        end = place + 2
        with suppress(struct.error, Unreadable):
            node = leaf_node(page, place)
            is_big = node.page != NO_PAGE
            if take(node.key, file.run(node.page, node.size)[1] if is_big else node.data):
                size = PAGE_NUMBER.size if is_big else node.size
                end = place + NODE.size + len(node.key) + size + 1 & ~1
        place = end
