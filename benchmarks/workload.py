"""What is stored, and how much: the keys and values of all benchmarks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

try:
    import numpy
except ImportError:
    numpy = None

LIST = list(range(10_000))


class Effort(NamedTuple):
    """How much is done, and for how long."""

    items: int
    """Small items in a store that works are measured on."""
    share: float
    """How large the large values are, of their full size."""
    turn: float
    """Seconds that one contender works before the next."""
    seconds: float
    """For one row of a table."""
    rounds: int
    """At most, in that time."""
    scale: tuple[int, ...]
    """Numbers of keys."""
    load: float
    """Seconds that loading a store may take; who would take longer stops at the size before."""
    parallel: float
    """Seconds that threads or processes work at a time."""
    many: int
    """Items in a store that is opened, weighed and loaded."""
    largest: int
    """Bytes of the largest array, for objstore and by hand."""
    large: int
    """The same for everybody else."""
    churn: int
    """How often all is overwritten."""
    growth: tuple[int, ...]
    """Bytes of values, for objstore alone."""


FULL = Effort(
    items=20_000,
    share=1.0,
    turn=0.02,
    seconds=4.0,
    rounds=25,
    scale=(1_000, 100_000, 10_000_000),
    load=90.0,
    parallel=1.0,
    many=100_000,
    largest=1 << 30,
    large=256 << 20,
    churn=100,
    growth=(100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000),
)
QUICK = Effort(
    items=300,
    share=0.05,
    turn=0.0003,
    seconds=0.0,
    rounds=1,
    scale=(100, 1_000),
    load=0.5,
    parallel=0.01,
    many=500,
    largest=1 << 20,
    large=1 << 20,
    churn=2,
    growth=(100, 10_000, 1_000_000),
)


def value(number: int) -> dict[str, Any]:
    """A small dict; its pickle has 74 to 82 bytes."""
    return {"id": number, "name": f"u{number:05}", "size": number / 7, "tags": ["a"], "ok": True}


def key(number: int) -> str:
    """Text, in the order of the numbers."""
    return f"user:{number:08d}"


def items(count: int) -> dict[str, Any]:
    """So many small items, in the order of their keys."""
    return {key(number): value(number) for number in range(count)}


def items_of(thread: int, count: int) -> dict[str, Any]:
    """So many small items of one thread."""
    return {f"thread {thread} {key(number)}": value(number) for number in range(count)}


def sample(count: int, among: int) -> list[str]:
    """Some of the keys of `items(among)`, at random, the same in every run."""
    return [key(number) for number in random.Random(1).sample(range(among), count)]


def chunks(count: int, length: int = 10_000) -> Iterator[dict[str, Any]]:
    """So many small items, in the order of their keys, never more than `length` at once."""
    for start in range(0, count, length):
        yield {key(number): value(number) for number in range(start, min(count, start + length))}


def large_values(share: float = 1.0) -> dict[str, tuple[Any, Any]]:
    """Values by their names, the large ones smaller by `share`; what needs a missing package is left out.

    Of each there are two to be put in turn, alike but different throughout: SQLite leaves pages alone that
    would be overwritten with what is in them.
    """
    kinds: dict[str, Callable[[int], Any]] = {
        "list of 10,000 numbers": lambda start: list(range(start, start + len(LIST))),
        "1 kB of bytes": lambda seed: random.Random(seed).randbytes(1_000),
        "1 MB of bytes": lambda seed: random.Random(seed).randbytes(int(1_000_000 * share)),
    }
    if numpy is not None:
        kinds["8 MB array"] = lambda start: array(int(8_000_000 * share), start)
    if find_spec("pandas") is not None:
        kinds["8 MB DataFrame"] = lambda start: frame(int(80_000 * share), start)
    return {name: (make(0), make(1)) for name, make in kinds.items()}


def array(size: int, start: int = 0) -> Any:
    """An array of float64 with so many bytes."""
    return numpy.arange(start, start + size // 8, dtype="float64")


def frame(rows: int, start: int = 0) -> Any:
    """A table of numbers, times, categories and texts; 100 bytes in a row."""
    import pandas  # slow to import, and nobody else needs it

    numbers = numpy.arange(start, start + rows)
    columns = {f"measure {number}": numbers / (number + 7) for number in range(8)}
    return pandas.DataFrame(
        {
            "id": numbers,
            "time": pandas.Timestamp("2026-01-01") + pandas.to_timedelta(numbers, unit="s"),
            **columns,
            "kind": pandas.Categorical([("one", "two", "three")[number % 3] for number in numbers]),
            "name": [f"user {number}" for number in numbers],
        }
    )
