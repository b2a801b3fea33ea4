"""Usage: what this process has read of a cache, and has not written down yet.

A read leaves a note here, which is all that it pays; what was noted is summed up now and then, and goes into the books
of the cache (see `eviction`) with what this process writes anyway, a bounded number of entries a second.  Nothing here
is on the disk, and nothing here is needed: what is lost with the process only makes an eviction less well-informed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import nlargest
from itertools import islice
from typing import Any, NamedTuple

MOST_NOTED = 4096
"""How many notes may lie before they are summed up."""

_MOST_RECENT = 1 << 16  # records whose use is remembered
_MERGED = 64  # of them in one transaction
_MERGE_SECONDS = 1 / 64  # between two such


class Recent(NamedTuple):
    """What is merged into the books with a write: hits, misses, and uses and the last of them by tree key."""

    hits: int
    misses: int
    uses: dict[bytes, tuple[int, int]]


EXPIRED = object()
"""Noted behind a hit that was none, because the record had expired."""

WRITTEN = object()
"""Noted behind a use that was no hit, because the record was stored."""


UNREAD: list[tuple[str, Any]] = []
"""Stands for the list of what was evicted where nobody reads of it: nothing is put there."""


class Usage:
    """What one process has used of a cache, and has not written down yet.

    `note` is called with the tree key of what was read, or None where nothing was found, and is all that a read pays.
    Any thread may call anything here.
    """

    def __init__(self) -> None:
        self.noted: deque[Any] = deque()
        self.note: Callable[[Any], None] = self.noted.append
        self.clock: Callable[[], float] = time.time
        self.evicted = UNREAD  # namespaces and keys, where somebody wants to read of them; the writer has it
        self.worst: dict[bytes, bytes] = {}  # of former samples: keys of the meter, and ranks; the writer has it
        self.may_write = False  # whether any handle of the process may
        self.remembers = True  # which records were read, and not only how many
        self.reset()

    def reset(self) -> None:
        """Forget everything, as in a forked child: it is the parent's, who writes it down."""
        self._lock = threading.RLock()  # a signal handler may use the cache in the middle of anything
        self._last = 0
        self.noted.clear()
        self.evicted = UNREAD
        self.worst.clear()
        self._uses = Counter[Any]()
        self._last_use: dict[Any, int] = {}
        self._hits = self._misses = 0
        self._hits_taken = self._misses_taken = 0  # and not settled
        self._next_merge = 0.0
        self._folded = self._folded_before = 0
        self.patience = 0  # how many notes may lie before somebody is told: none, while nobody looks

    def tick(self, ticks: int = 1) -> int:
        """Microseconds since 1970, each number once, so that what is done at one time has an order.

        The first of so many.
        """
        first = max(int(self.clock() * 1_000_000), self._last + 1)
        self._last = first + ticks - 1
        return first

    def note_write(self, tree_key: bytes) -> None:
        """A record was stored in the place of another, which is a use of it, and no hit."""
        self.noted.extend((tree_key, WRITTEN))
        if len(self.noted) > MOST_NOTED:  # in explicit transactions, which take nothing along
            self.fold()

    def fold(self) -> None:
        """Sum up what was noted."""
        if self._lock.acquire(blocking=False):  # else somebody does it
            try:
                self._fold()
            finally:
                self._lock.release()

    def _fold(self) -> None:
        many = len(self.noted)
        if not many:
            return
        next_note = self.noted.popleft
        try:
            noted = [next_note() for _ in range(many)]
        except IndexError:  # a signal handler was faster, and has counted them, but for a few
            return
        self._folded += many
        first = self.tick(many)
        expired, missed, written = noted.count(EXPIRED), noted.count(None), noted.count(WRITTEN)
        self._hits += many - missed - 2 * expired - 2 * written
        self._misses += missed + expired
        if self.remembers:
            self._uses.update(noted)
            self._last_use.update(zip(noted, range(first, first + many), strict=True))
            for what in (None, EXPIRED, WRITTEN):
                self._uses.pop(what, None)
                self._last_use.pop(what, None)
            if len(self._uses) > _MOST_RECENT:
                self._forget_oldest()

    def _forget_oldest(self) -> None:
        newest = nlargest(_MOST_RECENT // 2, self._last_use, key=self._last_use.__getitem__)
        self._last_use = {key: self._last_use[key] for key in newest}
        self._uses = Counter({key: self._uses[key] for key in newest})

    def counted(self) -> tuple[int, int]:
        """Hits and misses that are not in the ledger yet."""
        with self._lock:
            self._fold()
            return self._hits + self._hits_taken, self._misses + self._misses_taken

    def use_of(self, tree_key: bytes) -> tuple[int, int] | None:
        """Uses of a record, and the last of them, that are not in the meter yet, and are to be written there now."""
        if tree_key not in self._last_use:
            return None
        with self._lock:  # others sum up, and take
            last = self._last_use.pop(tree_key, None)
            return None if last is None else (self._uses.pop(tree_key, 0), last)

    def has_any(self) -> bool:
        """Whether there is anything to write down."""
        return bool(self.noted or self._uses or self._hits or self._misses)

    def was_used(self) -> bool:
        """Whether anything was summed up since this was asked last."""
        before, self._folded_before = self._folded_before, self._folded
        return before != self._folded

    def is_due(self, seconds: float = 0.0) -> bool:
        """Whether the next write should take something along: nobody did for so many seconds above the usual."""
        return self.has_any() and time.monotonic() >= self._next_merge + seconds

    @contextmanager
    def taking(self) -> Iterator[Recent]:
        """What the write in this block takes along; it is given back where that fails."""
        taken = self.take()
        try:
            yield taken
        except BaseException:
            self.give_back(taken)
            raise
        self.settle(taken)

    def take(self) -> Recent:
        """What the next write takes along; it must be settled then, or given back if that fails."""
        with self._lock:
            self._next_merge = time.monotonic() + _MERGE_SECONDS
            self._fold()
            chosen = list(islice(self._last_use, _MERGED))
            uses = {key: (self._uses.pop(key, 0), self._last_use.pop(key)) for key in chosen}
            taken = Recent(self._hits, self._misses, uses)
            self._hits_taken += self._hits
            self._misses_taken += self._misses
            self._hits = self._misses = 0
            return taken

    def settle(self, taken: Recent) -> None:
        """It is written down."""
        with self._lock:
            self._settle(taken)

    def _settle(self, taken: Recent) -> None:
        self._hits_taken -= taken.hits
        self._misses_taken -= taken.misses

    def give_back(self, taken: Recent) -> None:
        """It was not written down after all."""
        with self._lock:
            self._settle(taken)
            self._hits += taken.hits
            self._misses += taken.misses
            for key, (uses, last) in taken.uses.items():
                self._uses[key] += uses
                self._last_use.setdefault(key, last)
