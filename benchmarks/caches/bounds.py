"""What a bound means on the disk.

`max_size` counts what records take as they lie in the tree; the file is larger by pages that are half empty or free.
And while several processes write, a reader looks at what is counted, which should never be above the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from random import Random
from time import perf_counter

from benchmarks.caches.contenders import ours
from benchmarks.caches.sizes import Size, grid
from benchmarks.caches.team import Team, Worker, together
from benchmarks.measure import size_of

TURNOVERS = 3  # how often the bound is written, until the state is taken for steady
WRITERS = 4  # at most


def of(size: int) -> Callable[[Random], int]:
    return lambda random: size


def mixed(random: Random) -> int:
    """Many small ones, few large."""
    return min(int(random.lognormvariate(7, 2)), 200_000)


SIZES: dict[str, tuple[Callable[[Random], int], int]] = {
    "100 B": (of(100), 1),
    "2.1 kB": (of(2_100), 2),
    "30 kB": (of(30_000), 4),
    "1 MB": (of(1_000_000), 16),
    "mixed, median 1 kB": (mixed, 4),
}
"""By name: the size of the next value, and the bound, in multiples of the smallest."""


def bounds(size: Size, directory: str, team: Team) -> Iterator[str]:
    """The file, and what is counted, against the bound."""
    yield "### What a bound of bytes means on the disk"
    yield ""
    yield (
        f"New keys with random values are set until {TURNOVERS} times the bound was written. The file also has pages "
        "that are half empty, and free ones; where sizes are mixed, a large value needs free pages in a row."
    )
    yield ""
    yield from grid(
        ["values", "`max_size`", "`stats().bytes`", "values alone", "file", "of it free", "file / bound"],
        (steady(name, size.bound, directory) for name in SIZES),
    )
    writers = min(WRITERS, size.team)
    yield f"{writers} processes set values of mixed sizes for {size.compute:g} s, while one more looks at `stats()`:"
    yield ""
    yield from grid(
        ["`max_size`", "largest `stats().bytes` seen", "looks", "sets", "evicted", "file / bound"],
        [watched(size, directory, team.members(writers))],
    )


def steady(name: str, smallest: int, directory: str) -> list[str]:
    """A row: one process."""
    draw, times = SIZES[name]
    random, bound = Random(3), smallest * times
    path = f"{directory}/{name}"
    with ours(path, max_size=bound) as cache:
        written = 0
        numbers = count()
        while written < TURNOVERS * bound:
            value = random.randbytes(draw(random))
            if len(value) < bound // 2:
                cache[f"key {next(numbers)}"] = value
            written += len(value)
        stats = cache.stats()
        held = sum(map(len, cache.values()))
        on_disk = size_of(path)
        free = stats.free_bytes
    shares = part(stats.bytes, bound), part(held, bound)
    return [name, megabytes(bound), *shares, megabytes(on_disk), megabytes(free), f"{on_disk / bound:.2f}"]


def watched(size: Size, directory: str, members: Sequence[Worker]) -> list[str]:
    """A row: several processes write, and this one looks."""
    bound = size.bound
    path = f"{directory}/watched"
    with ours(path, max_size=bound) as cache:
        together(members, "benchmarks.caches.bounds:put", path, 0.0)
        for number, member in enumerate(members):
            member.tell("benchmarks.caches.bounds:put", path, size.compute, number)
        end = perf_counter() + size.compute
        largest = looks = 0
        while perf_counter() < end:
            largest = max(largest, cache.stats().bytes)
            looks += 1
        sets = sum(member.answer() for member in members)
        evicted = cache.stats().evicted
    seen = f"{largest:,} ({largest / bound:.1%})"
    return [f"{bound:,}", seen, f"{looks:,}", f"{sets:,}", f"{evicted:,}", f"{size_of(path) / bound:.2f}"]


def put(path: str, seconds: float, worker: int) -> int:
    """Set values until the time is over; how many."""
    random = Random(worker)
    end = perf_counter() + seconds
    done = 0
    with ours(path, ttl=3600) as cache:
        bound = cache.stats().max_size or 0
        while perf_counter() < end:
            cache[f"{worker} {done}"] = bytes(min(mixed(random), bound // 4))
            done += 1
    return done


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def part(size: int, bound: int) -> str:
    return f"{size / bound:.1%}"
