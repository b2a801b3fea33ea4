"""Memoized functions: what a call costs whose result is there, and one that must compute it.

All contenders remember the same functions, which return at once: what is measured is the key, the search and, where
there is nothing, the storing.  `functools.lru_cache` shows what it costs in memory, of one process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.caches.contenders import Memo, memos, ours
from benchmarks.caches.sizes import Size, grid
from benchmarks.caches.team import Team
from benchmarks.measure import Turn, interleave, no_collection, ratio
from benchmarks.tables import Table, add, markdown, shown, table

NOT_LARGE = "lru_cache"  # cannot take what has no hash

HIT = "hit: int, str"


def double(number: int, name: str) -> tuple[int, str]:
    """Two small arguments."""
    return 2 * number, name


def total(values: Any) -> int:
    """One argument that may be large."""
    return len(values)


async def later(number: int, name: str) -> tuple[int, str]:
    return 2 * number, name


def hits(size: Size, directory: str, team: Team) -> Iterator[str]:
    """Hits and misses of all contenders."""
    contenders = list(memos(directory))
    doubles = {memo.name: memo.decorate(double) for memo in contenders}
    totals = {memo.name: memo.decorate(total) for memo in contenders if memo.name != NOT_LARGE}
    result = table("Memoized functions", "", "µs", [memo.name for memo in contenders])

    small, large = np.arange(10.0), np.arange(float(size.large // 8))
    yield from section(contenders)
    measure(result, HIT, doubles, lambda function: lambda: function(3, "three"), size, size.turn)
    measure(result, "hit: with a keyword", doubles, lambda function: lambda: function(3, name="three"), size, size.turn)
    measure(result, "hit: list of 10", totals, calling(list(range(10))), size, size.turn)
    measure(result, "hit: array of 10 floats", totals, calling(small), size, size.turn)
    measure(result, f"hit: array of {size.large / 1e6:,g} MB", totals, calling(large), size, 1)
    measure(result, "miss: int, str", doubles, counting, size, size.misses)
    yield "The best of each row is bold; in brackets, how many times as long as `Cache.memoize`."
    yield ""
    yield markdown(result)
    yield ""
    yield from targets(result)
    for memo in contenders:
        memo.close()
    yield from of_coroutines(size, f"{directory}/async")


def section(contenders: list[Memo]) -> Iterator[str]:
    yield "### Memoized functions"
    yield ""
    yield "; ".join(f"{memo.name}: {memo.how}" for memo in contenders) + "."
    yield ""


Calling = Callable[[Any], Callable[[], object]]
"""Given the memoized function, a call of it."""


def calling(argument: Any) -> Calling:
    return lambda function: lambda: function(argument)


def counting(function: Any) -> Callable[[], object]:
    """Calls that were never made before."""
    following = count(1_000_000).__next__
    return lambda: function(following(), "miss")


def measure(result: Table, name: str, functions: dict[str, Any], call: Calling, size: Size, times: int) -> None:
    """Add a row."""
    calls = {label: call(function) for label, function in functions.items()}
    turns = {label: repeated(each, times) for label, each in calls.items()}
    with no_collection():
        taken = interleave(turns, size.rounds, least=1, seconds=size.seconds)
    add(result, name, {label: [each / times * 1e6 for each in rounds] for label, rounds in taken.items()})


def repeated(call: Callable[[], object], times: int) -> Turn:
    def turn() -> float:
        began = perf_counter()
        for _ in range(times):
            call()
        return perf_counter() - began

    return turn


def targets(result: Table) -> Iterator[str]:
    """What was promised of a hit, and what came out."""
    row = next(row for row in result["rows"] if row["name"] == HIT)
    mine = row["values"]["Cache.memoize"]
    yield f"* a hit of two small arguments: {shown(mine)} µs, at most 6: {verdict(mine <= 6)}"
    for peer, least in (("diskcache", 3), ("joblib", 15)):
        if peer in row["ratios"]:
            times = row["ratios"][peer]
            yield f"* {peer} takes {shown(times)} times as long, at least {least}: {verdict(times >= least)}"
    yield ""


def verdict(reached: bool) -> str:
    return "yes" if reached else "NO"


def of_coroutines(size: Size, directory: str) -> Iterator[str]:
    """What awaiting a hit costs, above awaiting the function itself, which does nothing."""
    with ours(directory, max_size=1 << 30) as cache:
        memoized = cache.memoize(later)
        with asyncio.Runner() as runner:

            def awaiting(function: Any) -> Turn:
                async def all_of_them() -> float:
                    began = perf_counter()
                    for _ in range(size.turn):
                        await function(3, "three")
                    return perf_counter() - began

                return lambda: runner.run(all_of_them())

            taken = interleave({"memoized": awaiting(memoized), "plain": awaiting(later)}, size.rounds)
    micros = {name: sorted(times)[len(times) // 2] / size.turn * 1e6 for name, times in taken.items()}
    times = ratio(taken["memoized"], taken["plain"])
    yield "Coroutine functions, awaited one after the other:"
    yield ""
    rows = [[shown(micros["memoized"]), shown(micros["plain"]), shown(times)]]
    yield from grid(["`async def`, hit: int, str, µs", "not memoized, µs", "ratio"], rows)
