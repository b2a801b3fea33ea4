"""What takes the room: bytes and keys of the groups of a store, as bars (`objstore info --plot`).

A group is what keys of a namespace have in common: the first elements of tuples, or text and bytes up to a separator,
as many of them as `depth` says; what has none is in the group of its kind.  One pass over the entries adds them up.
Keys in order come group by group, so a group that is over is weighed at once, and the heaviest are kept; the others
are one sum.  So the memory is the same for any store.  Nothing is decoded.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from objstore import Store
from objstore.cli.browsing.tree import begins, group_of, kind_of, shown
from objstore.cli.printing import printable

MOST_GROUPS = 20

_MOST_OPEN = 1_000  # groups of a namespace whose keys have no order; what comes later is of the others
_STEP = 5_000  # entries from one call of `progress` to the next
_LEAST_BAR = 6
_GAP = "  "


@dataclass
class Group:
    """Bytes and number of the records whose keys begin so.

    `name` says how they begin, as Python writes it, or of which kind they are; that of all who are too light to be
    named is "others", of all namespaces.  `bytes` are those of the records as they are stored.
    """

    namespace: str | None
    name: str
    bytes: int = 0
    entries: int = 0

    def add(self, size: int, entries: int = 1) -> None:
        """Count what belongs to it."""
        self.bytes += size
        self.entries += entries


def weigh(
    store: Store[Any, Any], depth: int = 1, most: int = MOST_GROUPS, progress: Callable[[int, int], None] | None = None
) -> list[Group]:
    """The heaviest groups of all namespaces, by bytes, and what is left as one that is called "others".

    `progress` is called with done and total, in records.  Raises StoreError for a namespace that cannot be opened.
    """
    spaces = [(None, store), *((name, store.namespace(name)) for name in store.namespaces())]
    total = sum(len(space) for _, space in spaces) if progress else 0
    heaviest, done = _Heaviest(most), 0
    for name, space in spaces:
        scales = _Scales(name, depth, heaviest, is_ordered=space.supports("ordered"))
        for entry in space.entries():
            scales.put(entry.key, entry.size)
            done += 1
            if progress and not done % _STEP:
                progress(done, max(done, total))
        scales.clear()
    return heaviest.sorted()


class _Heaviest:
    """The heaviest groups of those that are over, and the sum of the others."""

    def __init__(self, most: int) -> None:
        self.others = Group(None, "others")
        self._most = most
        self._heap: list[tuple[int, int, int, Group]] = []
        self._count = 0

    def take(self, group: Group) -> None:
        self._count += 1
        heapq.heappush(self._heap, (group.bytes, group.entries, -self._count, group))
        if len(self._heap) > self._most:
            lightest = heapq.heappop(self._heap)[-1]
            self.others.add(lightest.bytes, lightest.entries)

    def sorted(self) -> list[Group]:
        groups = [item[-1] for item in sorted(self._heap, reverse=True)]
        return [*groups, self.others] if self.others.entries else groups


class _Scales:
    """The groups of a namespace that are not over, and the kinds of what is in none."""

    def __init__(self, namespace: str | None, depth: int, heaviest: _Heaviest, is_ordered: bool) -> None:
        self._namespace = namespace
        self._depth = depth
        self._heaviest = heaviest
        self._is_ordered = is_ordered
        self._kinds: dict[str, Group] = {}
        self._open: dict[Any, Group] = {}
        self._whole: Any = None  # the last group that was as deep as groups go

    def put(self, key: Any, size: int) -> None:
        """Count a record."""
        if self._whole is not None and begins(key, self._whole):
            self._open[self._whole].add(size)
            return
        beginning, is_whole = self._beginning(key)
        if beginning is None:
            kind = kind_of(key)
            name = "lost keys" if kind is None else kind.name
            self._kinds.setdefault(name, Group(self._namespace, name)).add(size)
            return
        self._group(key, beginning).add(size)
        self._whole = beginning if is_whole and beginning in self._open else None

    def _beginning(self, key: Any) -> tuple[Any, bool]:
        """The longest prefix of a key that has no more than `depth` steps, and whether it has so many."""
        if not isinstance(key, (str, bytes, tuple)):
            return None, False
        beginning = None
        for _ in range(self._depth):
            longer = group_of(key, key[:0] if beginning is None else beginning)
            if longer is None:
                return beginning, False
            beginning = longer
        return beginning, True

    def _group(self, key: Any, beginning: Any) -> Group:
        group = self._open.get(beginning)
        if group is not None:
            return group
        if self._is_ordered:
            for over in [other for other in self._open if not begins(key, other)]:
                self._heaviest.take(self._open.pop(over))
        elif len(self._open) >= _MOST_OPEN:
            return self._heaviest.others
        return self._open.setdefault(beginning, Group(self._namespace, f"{shown(beginning)} ..."))

    def clear(self) -> None:
        """All of them are over."""
        for group in (*self._open.values(), *self._kinds.values()):
            self._heaviest.take(group)


def draw(groups: list[Group], console: Console) -> None:
    """Print a line with two bars for each group, as wide as the console."""
    if not groups:
        console.print("no entries")
        return
    bar = "#" if console.options.ascii_only else "█"
    for line in _lines(groups, console.width, bar):
        console.print(line, soft_wrap=True)


def _lines(groups: list[Group], width: int, bar: str) -> Iterator[Text]:
    names = [_name(group) for group in groups]
    sizes = [f"{group.bytes:,}" for group in groups]
    counts = [f"{group.entries:,}" for group in groups]
    size_width, count_width = max(map(len, ["bytes", *sizes])), max(map(len, ["keys", *counts]))
    room = width - size_width - count_width - 4 * len(_GAP)
    name_width = min(max(map(cell_len, ["group", *names])), max(10, room * 2 // 5))
    bar_width = max(_LEAST_BAR, (room - name_width) // 2)
    most_bytes, most_entries = max(group.bytes for group in groups), max(group.entries for group in groups)
    heads = f"{'group':<{name_width}}", f"{'bytes':>{size_width}}", " " * bar_width, f"{'keys':>{count_width}}"
    yield Text(_GAP.join(heads), style="bold")
    for group, name, size, count in zip(groups, names, sizes, counts, strict=True):
        yield Text(_GAP).join(
            [
                Text(_fitted(name, name_width)),
                Text(f"{size:>{size_width}}"),
                Text(f"{bar * _length(group.bytes, most_bytes, bar_width):<{bar_width}}", style="cyan"),
                Text(f"{count:>{count_width}}"),
                Text(bar * _length(group.entries, most_entries, bar_width), style="blue"),
            ]
        )


def _length(part: int, most: int, width: int) -> int:
    """How long a bar is; what is there at all is seen."""
    return max(1, round(width * part / most)) if part else 0


def _name(group: Group) -> str:
    name = group.name if group.namespace is None else f"{group.namespace}: {group.name}"
    return printable(name).replace("\n", "\\n")


def _fitted(text: str, width: int) -> str:
    return set_cell_size(text, width) if cell_len(text) <= width else f"{set_cell_size(text, width - 3)}..."
