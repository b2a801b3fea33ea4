"""What single operations cost, in each class of safety.

All contenders of a class have their stores open in one process, with the same small items in them, and
take turns: each works for some milliseconds, for as many operations as fit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks import workload
from benchmarks.contender import CLASSES, Entry, in_class
from benchmarks.measure import fitting, interleave, no_collection
from benchmarks.tables import Table, add, table
from benchmarks.workload import Effort

MOST = 2_000
"""Small operations in a turn."""


class Work(NamedTuple):
    """A row of the tables."""

    name: str
    operation: str
    arguments: Callable[[int, int], Any]
    """What the operation is given: for how many, and for which turn of a contender, so that no put finds the
    value that it puts."""
    most: int = MOST
    whole: int = 0
    """How many it does at once, where that cannot be chosen."""
    large: bool = False


def tables(contenders: Sequence[Any], effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """One table for each class."""
    values = workload.large_values(effort.share)
    for safety in CLASSES:
        entries = in_class(contenders, safety)
        if not entries:
            continue
        result = table(
            f"Operations: {safety}",
            f"{CLASSES[safety][0].upper()}{CLASSES[safety][1:]}.",
            "µs",
            [entry.label for entry in entries],
        )
        place = f"{directory}/{safety}"
        stores = {entry: opened(entry, f"{place}/{entry.label}") for entry in entries}
        for entry, store in stores.items():
            if not entry.large_only:
                entry.contender.update(store, workload.items(effort.items))
        for work in small_works(effort.items):
            measure(result, work, stores, effort)
        for name, pair in values.items():
            for work in large_works(name, pair):
                measure(result, work, stores, effort)
            print(f"  {safety}: {name}", flush=True)
        for store in stores.values():
            store.close()
        yield f"operations, {safety}", result


def opened(entry: Entry, path: str) -> Any:
    os.makedirs(path)
    return entry.connect(path)


def small_works(items: int) -> Iterator[Work]:
    """On small dicts, of which so many are there."""
    sample = workload.sample(min(MOST, items), items)
    yield Work("get", "get", lambda times, _turn: sample[:times], len(sample))
    yield Work("`in`", "contains", lambda times, _turn: sample[:times], len(sample))
    yield Work("items, per item", "items", lambda _times, _turn: None, whole=items)

    def changed(times: int, turn: int) -> dict[str, Any]:
        return {key: workload.value(number + turn) for number, key in enumerate(sample[:times])}

    yield Work("put, one each", "put", changed, len(sample))
    numbers = count(items)  # new ones each time, in order

    def new(times: int, _turn: int) -> dict[str, Any]:
        return {workload.key(number): workload.value(number) for number in islice(numbers, times)}

    yield Work("bulk put, per item", "update", new, 20_000)


def large_works(name: str, pair: tuple[Any, Any]) -> Iterator[Work]:
    """Putting and getting a value; of the pair now one is put and now the other."""
    value = pair[0]
    size = 64 if isinstance(value, list) or (isinstance(value, bytes) and len(value) < 10_000) else 2
    keys = [f"{name} {number}" for number in range(size)]

    def changed(times: int, turn: int) -> dict[str, Any]:
        return dict.fromkeys(keys[:times], pair[turn % 2])

    yield Work(f"{name}, put", "put", changed, size, large=True)
    yield Work(f"{name}, get", "get", lambda times, _turn: keys[:times], size, large=True)
    if "array" in name:
        yield Work(f"{name}, get in a snapshot", "snapshot_get", lambda times, _turn: keys[:1] * times, large=True)
        yield Work(f"{name}, view", "view", lambda times, _turn: keys[:1] * times, large=True)


def measure(result: Table, work: Work, stores: Mapping[Entry, Any], effort: Effort) -> None:
    """Add a row: who can do this takes turns."""
    able = {
        entry: store
        for entry, store in stores.items()
        if entry.can(work.operation) and (work.large or not entry.large_only)
    }
    if not able:
        return
    with no_collection():
        if work.large and work.operation == "put":
            for entry, store in able.items():
                entry.contender.put(store, work.arguments(work.most, 1))  # also for those who read it next
        turns = {}
        for entry, store in able.items():
            run = runner(entry.contender, store, work)
            times = work.whole or fitting(run, effort.turn, work.most)
            turns[entry.label] = lambda run=run, times=times: run(times) / times * 1e6
        add(result, work.name, interleave(turns, effort.rounds, seconds=effort.seconds, least=min(5, effort.rounds)))


def runner(contender: Any, store: Any, work: Work) -> Callable[[int], float]:
    """Does the work so many times, and says what it took in seconds."""
    operation = getattr(contender, work.operation)
    refresh = getattr(contender, "refresh", None)
    turns = count()

    def run(times: int) -> float:
        arguments = () if work.whole else (work.arguments(times, next(turns)),)
        if refresh:
            refresh(store)
        began = perf_counter()
        operation(store, *arguments)
        return perf_counter() - began

    return run
