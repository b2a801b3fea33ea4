"""# How the cost grows

What objstore's operations cost from a thousand keys to ten million and from values of a hundred bytes to
a gigabyte, and when the data are larger than memory. Figures are medians; durability is "process", so
that the disk does not hide the rest.
"""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from time import perf_counter
from typing import Any

from benchmarks import limits, ours, report, workload
from benchmarks.contender import Entry
from benchmarks.measure import fitting, interleave, run_python, size_of
from benchmarks.report import Section
from benchmarks.tables import Table, add, table
from benchmarks.workload import Effort
from benchmarks.works import Work, opened, runner

OURS = Entry(ours, "process")
MIB = 1 << 20
PAGE_READS = (
    "A page that is not in memory is read when it is looked at. The branches of the tree are few and soon in "
    "memory, so a get reads one page, or two where the value has pages of its own. The system reads ahead of "
    "what was asked for, which soon fills the memory where all fits, and drives out what is needed where it does "
    "not; `readahead=False` reads only what was asked for, and is slow until all was asked for once."
)


def keys(_contenders: Any, effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """One store, which grows; at each size the operations take turns."""
    works = "get", "`in`", "put", "bulk put, per item", "items, per item", "len"
    times = table("Operations, by the number of keys", "Small items; gets and puts at random, bulk puts in the "
                  "order of the keys.", "µs", works, chart="lines", axis="keys", compared=False)  # fmt: skip
    sizes = table(
        "The file, by the number of keys", "", "bytes per item", ["file"], chart="", axis="keys", compared=False
    )
    store = opened(OURS, f"{directory}/store")
    loaded = opened(OURS, f"{directory}/loaded")  # nothing else is done to it, so that its size can be told
    done = 0
    for size in sorted({*effort.scale, *(size * 10 for size in effort.scale[:-1])}):
        for start in range(done, size, 10_000):
            numbers = range(start, min(start + 10_000, size))
            chunk = {workload.key(number): workload.value(number) for number in numbers}
            store.update(chunk)
            loaded.update(chunk)
        done = size
        add(sizes, f"{size:,}", {"file": size_of(f"{directory}/loaded") / size})
        turns = {work.name: paced(work, store, effort) for work in operations(size)}
        add(times, f"{size:,}", interleave(turns, effort.rounds, seconds=effort.seconds * 2, least=1))
        store.range(workload.key(size)).clear()  # what bulk puts added
        print(f"  {size:,} keys", flush=True)
    store.close()
    loaded.close()
    yield from (("keys, times", times), ("keys, file", sizes))


def operations(size: int) -> Iterator[Work]:
    """What is done to a store with so many items."""
    sample = [workload.key(random.randrange(size)) for _ in range(5_000)]
    some = {key: workload.value(0) for key in sample}
    numbers = count(size)

    def new(times: int, _turn: int) -> dict[str, Any]:
        return {workload.key(number): workload.value(number) for number in islice(numbers, times)}

    yield Work("get", "get", lambda times, _turn: random.choices(sample, k=times))
    yield Work("`in`", "contains", lambda times, _turn: random.choices(sample, k=times))
    yield Work("put", "put", lambda times, _turn: dict(islice(some.items(), times)), len(some))
    yield Work("bulk put, per item", "update", new, 5_000)
    yield Work("items, per item", "some_items", lambda times, _turn: times, 20_000)
    yield Work("len", "length", lambda times, _turn: times)


def paced(work: Work, store: Any, effort: Effort) -> Callable[[], float]:
    """A turn of as many operations as fit into it, which says what one took, in microseconds."""
    run = runner(ours, store, work)
    times = fitting(run, effort.turn, work.most)
    return lambda: run(times) / times * 1e6


def values(_contenders: Any, effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """Arrays of each size, put and read in each way that there is."""
    ways = {"put": "put", "get": "get", "get in a snapshot": "snapshot_get", "view": "view"}
    ways = {name: operation for name, operation in ways.items() if OURS.can(operation)}
    times = table(
        "Arrays, by their size",
        "A get gives a private and verified copy; what a snapshot or a view gives of 64 KiB and more is a view "
        "of the file, whose pages are looked at when they are used.",
        "µs",
        list(ways),
        chart="lines",
        axis="bytes",
        compared=False,
    )
    pace = table(
        "Arrays, per byte",
        "Of what moves every byte; a view moves none.",
        "MB per second",
        ["put", "get"],
        chart="",
        axis="bytes",
        compared=False,
    )
    store = opened(OURS, f"{directory}/store")
    for size in effort.growth:
        value = workload.array(size)
        ours.put(store, {"array": value})
        turns = {
            name: paced(Work(name, operation, partial(argument, operation, value), 1_000), store, effort)
            for name, operation in ways.items()
        }
        least = 2 if size >= 100 * MIB else 1
        taken = interleave(turns, effort.rounds, seconds=effort.seconds, least=min(least, effort.rounds))
        add(times, f"{size:,}", taken)
        add(pace, f"{size:,}", {name: [size / each for each in taken[name]] for name in pace["columns"]})
        del value, turns
        print(f"  {size:,} bytes", flush=True)
    store.close()
    yield from (("values, times", times), ("values, pace", pace))


def argument(operation: str, value: Any, times: int, _turn: int) -> Any:
    """What an operation is given to work on an array so many times."""
    if operation == "put":
        return {f"array {number}" if number else "array": value for number in range(times)}
    return ["array"] * times


def larger_than_memory(_contenders: Any, effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """Random gets of a process whose memory, page cache included, holds a part of the data."""
    path = f"{directory}/store"
    store = opened(OURS, path)
    items = effort.many * 10
    source = random.Random(5)
    for start in range(0, items, 10_000):
        stop = min(start + 10_000, items)
        store.update({workload.key(number): source.randbytes(1_000) for number in range(start, stop)})
    store.close()
    size = size_of(path)
    columns = ["readahead", "readahead=False"]
    times = table(
        "Random gets in little memory",
        f"{items:,} values of 1 kB, {size / MIB:,.0f} MiB in the file, and a process that may use so much memory, "
        f"page cache included. It has read at random for some seconds when it is measured. {PAGE_READS}",
        "µs",
        columns,
        chart="value",
    )
    faults = table("Page reads", "", "page reads for each get", columns, chart="")
    for share, name in ((4, "a quarter of the file"), (2, "half of the file"), (0, "no limit")):
        found: dict[str, tuple[float, float]] = {}
        for column in columns:
            limit = max(size // share, 96 * MIB) if share else 1 << 50
            with limits.memory_limited(limit) as group:
                if group is None:
                    times["text"] = f"Not measured: this machine lets no limit be set. {PAGE_READS}"
                    break
                limits.forget(f"{path}/data.mdb")
                arguments = str(group), path, column == "readahead", items, effort.seconds
                program = f"from benchmarks.growth import in_little_memory; in_little_memory(*{arguments!r})"
                found[column] = tuple(json.loads(run_python(program)))
        if found:
            add(times, name, {column: pair[0] for column, pair in found.items()})
            add(faults, name, {column: pair[1] for column, pair in found.items()})
        print(f"  {name}", flush=True)
    yield "memory, times", times
    if faults["rows"]:
        yield "memory, page reads", faults


def in_little_memory(group: str, path: str, readahead: bool, items: int, seconds: float) -> None:
    """What the process does: join the group, read for a while, and print what a get took and how much it read."""
    limits.join(group)
    with ours.Store(path, readahead=readahead) as store:
        for measured in (False, True):
            began, faults, done = perf_counter(), major_faults(), 0
            while (passed := perf_counter() - began) < seconds or not done:
                for number in [random.randrange(items) for _ in range(100)]:
                    store[workload.key(number)]
                done += 100
            if measured:
                print(json.dumps([passed / done * 1e6, (major_faults() - faults) / done]))


def major_faults() -> int:
    """How often this process waited for a page of a file."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


SECTIONS = {
    "keys": Section("Number of keys", "", keys),
    "values": Section("Size of values", "", values),
    "memory": Section("Data larger than memory", "", larger_than_memory),
}

if __name__ == "__main__":
    assert __doc__
    report.main("growth", __doc__, "growth", SECTIONS, alone="objstore")
