"""How much the benchmarks of caching do, and how their figures are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Size(NamedTuple):
    """How much is done."""

    rounds: int
    """Turns of each contender."""
    turn: int
    """Small operations in a turn."""
    misses: int
    """Calls that compute, in a turn."""
    large: int
    """Bytes of the largest argument."""
    seconds: float
    """That a row may take whose turns are long."""
    processes: tuple[int, ...]
    """That work at the same time."""
    load: float
    """Seconds of mixed load at a time."""
    keys: int
    """That a mixed load is spread over."""
    trace: int
    """Accesses of a trace."""
    held: tuple[int, ...]
    """Entries that a cache holds which runs a trace."""
    bound: int
    """Bytes, of the smallest bound."""
    callers: int
    """Callers in each process."""
    compute: float
    """Seconds that the one computation takes."""

    @property
    def team(self) -> int:
        """How many processes there are at most."""
        return max(self.processes)


FULL = Size(
    rounds=15,
    turn=200,
    misses=10,
    large=100_000_000,
    seconds=4.0,
    processes=(1, 2, 8),
    load=0.2,
    keys=10_000,
    trace=12_000,
    held=(100, 1_000),
    bound=4_000_000,
    callers=125,
    compute=1.0,
)
QUICK = Size(
    rounds=1,
    turn=3,
    misses=2,
    large=100_000,
    seconds=0.0,
    processes=(2,),
    load=0.01,
    keys=30,
    trace=80,
    held=(10,),
    bound=50_000,
    callers=1,
    compute=0.02,
)


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of Markdown: the first column is text, the others are figures."""
    yield f"| {' | '.join(heads)} |"
    yield "|---" + "|---:" * (len(heads) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
