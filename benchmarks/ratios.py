"""The ratios that the design promises, measured and printed: `python -m benchmarks.ratios`.

The contenders take turns in short rounds, each round gives one ratio, and the table shows medians: what
the machine does meanwhile hits both.  Nothing is asserted.  The stores lie in the directory for
temporary files; TMPDIR names another.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from statistics import median
from time import sleep
from typing import Any, NamedTuple

from benchmarks import handwritten, ours, workload
from benchmarks.measure import Turn, import_time, interleave, machine, packages, ratio, timed
from objstore.engines.lmdb.transactions import LmdbWriter


class Line(NamedTuple):
    """One line of the table."""

    name: str
    times: int
    """How many operations the contenders do in a round."""
    ours: Turn
    theirs: Turn
    ratio: float | None = None
    """The target: at most so many times what `theirs` takes."""
    limit: float | None = None
    """The target: at most so many microseconds."""
    before: Callable[[], object] = lambda: None
    """Called before each round, untimed."""


class Size(NamedTuple):
    """How much is done."""

    rounds: int
    items: int
    """In the store, and in one update."""
    times: int
    """Small operations in a round."""
    synced: int
    """Transactions in a round that wait for the disk."""
    large: int
    """Bytes of a large array."""


FULL = Size(rounds=41, items=100_000, times=2_000, synced=20, large=8_000_000)
QUICK = Size(rounds=3, items=2_000, times=200, synced=2, large=100_000)

LOOKS = 20  # at a large array, in a round
SLOW_SYNC = 0.002  # seconds, of a disk that is slower than the one here


def lines(size: Size, directory: str) -> Iterator[Line]:
    """What is measured, against which target."""
    read, written, synced = (
        [contender.connect(f"{directory}/{contender.__name__} {name}", durability) for contender in (ours, handwritten)]
        for name, durability in (("read", "process"), ("written", "process"), ("synced", "full"))
    )

    def line(name: str, times: int, function: str, pair: list[Any], *arguments: object, **more: Any) -> Line:
        mine, theirs = getattr(ours, function), getattr(handwritten, more.pop("theirs", function))
        return Line(name, times, timed(mine, pair[0], *arguments), timed(theirs, pair[1], *arguments), **more)

    def empty() -> None:
        ours.clear(written[0])
        handwritten.clear(written[1])

    items = workload.items(size.items)
    some = workload.sample(size.times, size.items)
    few = workload.sample(size.synced, size.items)
    thousand = workload.sample(min(1_000, size.items), size.items)
    lists = {f"list {number}": workload.LIST for number in range(size.synced)}
    for pair in (read, written):
        ours.update(pair[0], items)
        handwritten.update(pair[1], items)

    yield line("store[key]", len(some), "get", read, some, ratio=1.15)
    yield line("store[key], best", len(some), "get", read, some, theirs="get_best", ratio=1.3)
    yield line("key in store", len(some), "contains", read, some, ratio=1.2)
    yield line("key in store, best", len(some), "contains", read, some, theirs="contains_best")
    yield line("len(store)", size.times, "length", read, size.times, limit=2.5)
    yield line("get_many, per key", len(thousand), "get_many", read, thousand, ratio=1.15)
    yield line("items(), per item", len(items), "items", read, ratio=1.25)
    yield line("put, process", len(some), "put", written, {key: items[key] for key in some}, ratio=1.15)
    yield line("put, full", len(few), "put", synced, {key: items[key] for key in few}, ratio=1.03)
    yield line("list put, process", len(lists), "put", written, lists, ratio=1.03)
    yield line("list put, full", len(lists), "put", synced, lists, ratio=1.03)
    yield line("list get", len(lists), "get", synced, list(lists), ratio=1.03)
    yield line("update, per item", len(items), "update", written, items, ratio=1.5, before=empty)
    for pair in (read, written, synced):
        for contender in pair:
            contender.close()
    opened = [
        timed(opened_and_closed, contender, f"{directory}/{contender.__name__} synced") for contender in CONTENDERS
    ]
    yield Line("open and close", 1, *opened, limit=3_000)
    modules = [partial(import_time, modules, f"{directory}/compiled") for modules in ("objstore", "lmdb, pickle")]
    yield Line("import", 1, *modules, limit=40_000)


def large_lines(size: Size, directory: str) -> Iterator[Line]:
    """An array of 8 MB, stored beside its pickle, by hand as well; and one ten times as large, only looked at."""
    store, env = (contender.connect(f"{directory}/{contender.__name__} large", "process") for contender in CONTENDERS)
    array, larger = workload.array(size.large), workload.array(size.large * 10)
    room = array.copy()
    ours.put(store, {"larger": larger})
    handwritten.put_buffers(env, {"larger": larger})
    put, keys = {"array": array}, ["array"]
    yield Line(
        "array put, process", 1, timed(ours.put, store, put), timed(handwritten.put_buffers, env, put), ratio=1.5
    )
    copied = timed(room.__setitem__, slice(None), array)
    yield Line("array get, to memcpy", 1, timed(ours.get, store, keys), copied, ratio=2.0)
    looks, larger_looks = keys * LOOKS, ["larger"] * LOOKS
    seen = timed(handwritten.view_buffers, env, looks)
    yield Line("array in a snapshot", LOOKS, timed(ours.snapshot_get, store, looks), seen, limit=30)
    yield Line("array view", LOOKS, timed(ours.view, store, looks), seen, limit=30)
    with store.snapshot() as snapshot:
        yield Line("array, same snapshot", LOOKS, timed(ours.get, snapshot, looks), seen, limit=30)
        seen = timed(handwritten.view_buffers, env, larger_looks)
        yield Line("80 MB array, same", LOOKS, timed(ours.get, snapshot, larger_looks), seen, limit=30)
    for contender in (store, env):
        contender.close()


def thread_lines(size: Size, directory: str) -> Iterator[Line]:
    """Eight threads that write, against one that writes as much, both synced."""
    store = ours.connect(f"{directory}/threads", "full")
    times = size.synced * 5
    eight = timed(ours.put_in_threads, store, 8, times)
    one = timed(ours.put_in_threads, store, 1, 8 * times)
    yield Line("8 threads, full", 8 * times, eight, one, ratio=1 / 3)
    with slow_commits():
        yield Line("8 threads, slow disk", 8 * times, eight, one, ratio=1 / 6)
    store.close()


@contextmanager
def slow_commits() -> Iterator[None]:
    """Every commit takes longer, as on a slower disk: nobody has the interpreter meanwhile."""
    commit = LmdbWriter.commit

    def slow(self: LmdbWriter) -> None:
        sleep(SLOW_SYNC)
        commit(self)

    LmdbWriter.commit = slow  # type: ignore[method-assign]
    try:
        yield
    finally:
        LmdbWriter.commit = commit  # type: ignore[method-assign]


CONTENDERS = ours, handwritten


def opened_and_closed(contender: Any, path: str) -> None:
    contender.connect(path, "full").close()


def measured(line: Line, rounds: int) -> tuple[float, float, float]:
    """Medians: microseconds of ours, microseconds of theirs, and the ratio of one round."""
    times = interleave({"theirs": line.theirs, "ours": line.ours}, rounds, before=line.before)
    mine, theirs = (median(times[name]) / line.times * 1e6 for name in ("ours", "theirs"))
    return mine, theirs, ratio(times["ours"], times["theirs"])


def verdict(line: Line, mine: float, ratio: float) -> str:
    """The target, and whether it is reached."""
    if line.ratio is not None:
        return f"<= {line.ratio:.3g} x  {'yes' if ratio <= line.ratio else 'NO'}"
    if line.limit is not None:
        return f"<= {line.limit:,g} us  {'yes' if mine <= line.limit else 'NO'}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ratios", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small and short: that it runs, not what it shows")
    parser.add_argument("--only", metavar="NAME", default="", help="only the lines whose name contains this")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="objstore-") as directory:
        versions = packages(["objstore", "lmdb", "xxhash"])
        print(machine(directory))
        print(f"Python {platform.python_version()}, {', '.join(map(' '.join, versions.items()))}", end="\n\n")
        print(f"{'':<22}{'ours us':>12}{'by hand us':>12}{'ratio':>8}   target")
        for line in chain(lines(size, directory), large_lines(size, directory), thread_lines(size, directory)):
            if arguments.only in line.name:
                rounds = size.rounds if "threads" not in line.name else min(size.rounds, 7)  # each takes long
                mine, theirs, ratio = measured(line, rounds)
                print(
                    f"{line.name:<22}{mine:12,.2f}{theirs:12,.2f}{ratio:8.2f}   {verdict(line, mine, ratio)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
