"""How reading and the size of the file grow with the number of keys.

Stores are loaded in the order of their keys, in batches, each contender in its fastest mode: reads and
sizes are the same in all.  Whoever would need too long for the next size, by the pace of the last one,
stops there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from benchmarks import workload
from benchmarks.contender import Entry, fastest
from benchmarks.measure import fitting, interleave, no_collection, size_of
from benchmarks.tables import Table, add, table
from benchmarks.workload import Effort
from benchmarks.works import opened

POOL = 50_000
"""Keys that are read: enough that they are not all in the caches of the processor."""


def tables(contenders: Sequence[Any], effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """What a get costs and what an item takes, for each number of keys."""
    entries = [entry for entry in fastest(contenders) if not entry.large_only]
    labels = [entry.label for entry in entries]
    gets = table(
        "A get, by the number of keys",
        f"Random ones of {POOL:,} small items that were read before, so that they are in memory.",
        "µs",
        labels,
        chart="lines",
        axis="keys",
    )
    loads = table("Loading, by the number of keys", "Per item, in batches of 10,000 in the order of the keys, with "
                  "the store closed at the end. The classes of safety differ here, so only the slope of a "
                  "contender says something.", "µs", labels, chart="", axis="keys")  # fmt: skip
    sizes = table(
        "The files, by the number of keys",
        "Bytes on disk per item, whose key has 13 bytes and whose pickle 74 to 82.",
        "bytes per item",
        labels,
        chart="lines",
        axis="keys",
    )
    pace = dict.fromkeys(labels, 0.0)
    for size in effort.scale:
        notes = {
            label: f"would take {pace[label] * size:,.0f} s to load"
            for label in labels
            if pace[label] * size > effort.load
        }
        loading = [entry for entry in entries if entry.label not in notes]
        place = f"{directory}/{size}"
        with no_collection():  # semidbm's index of so many keys would be gone through again and again
            taken = load(loading, size, place)
        for label, seconds in taken.items():
            pace[label] = seconds / size
        name = f"{size:,}"
        add(loads, name, {label: pace[label] * 1e6 for label in taken}, notes)
        add(sizes, name, {entry.label: size_of(f"{place}/{entry.label}") / size for entry in loading})
        add(gets, name, read(loading, size, place, effort))
        print(f"  {size:,} keys", flush=True)
    yield from (("scale, get", gets), ("scale, files", sizes), ("scale, load", loads))


def load(entries: Sequence[Entry], size: int, directory: str) -> dict[str, float]:
    """Load a store of each; the seconds that each took.  What is stored is made once for all."""
    stores = {entry: opened(entry, f"{directory}/{entry.label}") for entry in entries}
    taken = dict.fromkeys((entry.label for entry in entries), 0.0)
    for number, chunk in enumerate(workload.chunks(size)):
        for entry, store in stores.items():
            began = perf_counter()
            entry.contender.update(store, chunk)
            taken[entry.label] += perf_counter() - began
        if number % 100 == 99:
            os.sync()  # or the system makes somebody wait for the disk when everybody wrote too much
    for entry, store in stores.items():
        began = perf_counter()
        store.close()
        taken[entry.label] += perf_counter() - began
    return taken


def read(entries: Sequence[Entry], size: int, directory: str, effort: Effort) -> dict[str, list[float]]:
    """What a random get takes, in microseconds."""
    pool = [workload.key(random.randrange(size)) for _ in range(POOL)]
    turns = {}
    stores = []
    for entry in entries:
        store = entry.connect(f"{directory}/{entry.label}")
        stores.append(store)
        warm(entry, store, pool, effort.seconds * 2)
        run = partial(random_gets, entry.contender, store, pool)
        turns[entry.label] = partial(per_get, run, fitting(run, effort.turn, 5_000))
    taken = interleave(turns, effort.rounds, seconds=effort.seconds, least=min(5, effort.rounds))
    for store in stores:
        store.close()
    return taken


def warm(entry: Entry, store: Any, pool: Sequence[str], seconds: float) -> None:
    """Read what will be read, so that it is in memory, as far as the time goes."""
    end = perf_counter() + seconds
    for start in range(0, len(pool), 1_000):
        entry.contender.get(store, pool[start : start + 1_000])
        if perf_counter() > end:
            break


def random_gets(contender: Any, store: Any, pool: Sequence[str], times: int) -> float:
    keys = random.choices(pool, k=times)
    if hasattr(contender, "refresh"):
        contender.refresh(store)
    began = perf_counter()
    contender.get(store, keys)
    return perf_counter() - began


def per_get(run: Any, times: int) -> float:
    return float(run(times) / times * 1e6)
