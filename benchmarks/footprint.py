"""What a contender takes besides time for its operations: to import, to open, of disk and of memory.

Memory is measured in fresh processes, each of which does one thing.  "Peak" is all pages that were in
memory at once, those of the store's file among them, which the system can take back at any time;
"private" leaves pages of files out, and is looked at every millisecond from outside.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from benchmarks import handwritten, ours, workload
from benchmarks.contender import Entry, fastest
from benchmarks.everyone import named
from benchmarks.measure import import_time, interleave, memory, size_of
from benchmarks.tables import Table, add, table
from benchmarks.workload import Effort
from benchmarks.works import opened

MIB = 1 << 20


def tables(contenders: Sequence[Any], effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """All of it; one column for each contender, in its fastest mode."""
    entries = fastest(contenders)
    small = [entry for entry in entries if not entry.large_only]
    yield "footprint, time", begin(entries, small, effort, f"{directory}/begin")
    yield "footprint, files", files(small, effort, f"{directory}/files")
    if not memory():
        return  # the kernel does not tell
    yield "footprint, loading", loading(small, effort, f"{directory}/loading")
    if workload.numpy is not None:
        yield "footprint, array", one_array(entries, effort, f"{directory}/array")


def begin(entries: Sequence[Entry], small: Sequence[Entry], effort: Effort, directory: str) -> Table:
    """The time before the first operation is done."""
    labels = [entry.label for entry in entries]
    result = table("Import and open", f"Importing is measured in a fresh interpreter, opening on a store of "
                   f"{effort.many:,} small items, with the first get.", "ms", labels)  # fmt: skip
    rounds = min(7, effort.rounds)
    turns = {entry.label: partial(import_time, entry.contender.IMPORTS, f"{directory}/compiled") for entry in entries}
    add(result, "import", in_ms(interleave(turns, rounds)))
    for entry in small:
        fill(entry, effort.many, f"{directory}/{entry.label}")
    turns = {entry.label: partial(open_time, entry, f"{directory}/{entry.label}") for entry in small}
    add(result, "open, and get one", in_ms(interleave(turns, rounds)))
    return result


def in_ms(taken: dict[str, list[float]]) -> dict[str, list[float]]:
    return {label: [seconds * 1e3 for seconds in times] for label, times in taken.items()}


def fill(entry: Entry, count: int, path: str) -> None:
    store = opened(entry, path)
    for chunk in workload.chunks(count):
        entry.contender.update(store, chunk)
    store.close()


def open_time(entry: Entry, path: str) -> float:
    began = perf_counter()
    store = entry.connect(path)
    entry.contender.get(store, [workload.key(1)])
    taken = perf_counter() - began
    store.close()
    return taken


def files(entries: Sequence[Entry], effort: Effort, directory: str) -> Table:
    """Bytes on disk, after loading and after everything was overwritten again and again."""
    labels = [entry.label for entry in entries]
    result = table(
        "Files",
        f"1,000 keys hold 1 kB each and are overwritten {effort.churn} times, all of them in one batch. "
        "The stores are closed when they are weighed.",
        "MiB",
        labels,
    )
    source = random.Random(4)
    before, after = {}, {}
    for entry in entries:
        path = f"{directory}/{entry.label}"
        store = opened(entry, path)
        for number in range(effort.churn + 1):
            entry.contender.update(store, {workload.key(key): source.randbytes(1_000) for key in range(1_000)})
            if not number:
                store.close()
                before[entry.label] = size_of(path) / MIB
                store = entry.connect(path)
        store.close()
        after[entry.label] = size_of(path) / MIB
    add(result, "written once", before)
    add(result, f"overwritten {effort.churn} times", after)
    many = {entry.label: f"{directory}/many {entry.label}" for entry in entries}
    for entry in entries:
        fill(entry, effort.many, many[entry.label])
    add(result, f"{effort.many:,} small items", {label: size_of(path) / MIB for label, path in many.items()})
    return result


def loading(small: Sequence[Entry], effort: Effort, directory: str) -> Table:
    """Memory for loading many items, beyond what the process had."""
    result = table(
        "Memory of loading",
        f"{effort.many:,} small items in batches of 10,000, beyond what the process had with the empty store open.",
        "MiB",
        [entry.label for entry in small],
    )
    found = {entry.label: peak(entry, "load", effort.many, f"{directory}/{entry.label}") for entry in small}
    both(result, "load", found, MIB)
    return result


def one_array(entries: Sequence[Entry], effort: Effort, directory: str) -> Table:
    """Memory for one large array, beyond what the process had."""
    result = table(
        "Memory of one large array",
        f"In multiples of its size ({effort.largest // MIB:,} MiB for objstore and by hand, {effort.large // MIB:,} "
        "MiB for the others): beyond the array itself for a put, with what was read for a get. A view is not "
        "looked at here; each page of it that is looked at is a page of the file in memory.",
        "times its size",
        [entry.label for entry in entries],
    )
    sizes = {entry: effort.largest if entry.contender in (ours, handwritten) else effort.large for entry in entries}
    for operation in ("put", "get", "snapshot_get", "view"):
        found = {}
        for entry in entries:
            if entry.can(operation):
                amounts = peak(entry, operation, sizes[entry], f"{directory}/{entry.label}")
                found[entry.label] = [amount / sizes[entry] for amount in amounts]
        if found:
            both(result, operation.replace("snapshot_get", "get in a snapshot"), found, 1)
    return result


def both(result: Table, name: str, found: dict[str, Any], unit: float) -> None:
    """Two rows: all pages, and those of no file."""
    for number, kind in enumerate(("peak", "private")):
        add(result, f"{name}, {kind}", {label: amounts[number] / unit for label, amounts in found.items()})


def peak(entry: Entry, operation: str, amount: int, path: str) -> tuple[float, float]:
    """The most bytes that a fresh process had beyond what it had before: all, and private ones."""
    call = f"alone({entry.contender.NAME!r}, {entry.mode!r}, {operation!r}, {amount}, {path!r})"
    command = [sys.executable, "-c", f"from benchmarks.footprint import alone; {call}"]
    private = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()  # it has all that it needs
        before = memory(str(process.pid))
        process.stdin.write("go\n")
        process.stdin.flush()
        while process.poll() is None:
            now = memory(str(process.pid))
            private = max(private, now.get("private", 0) - before["private"])
            sleep(0.001)
        after = int(process.stdout.readline())
    return max(0, after - before["now"]), max(0, private)


def alone(name: str, mode: str, operation: str, amount: int, path: str) -> None:
    """What the fresh process does: get ready, say so, wait, work, and print the peak of its memory."""
    entry = Entry(named(name), mode)
    os.makedirs(path, exist_ok=True)
    store = entry.connect(path)
    work: Callable[[], object]
    if operation == "load":
        work = partial(load, entry.contender, store, amount)
    elif operation == "put":
        work = partial(entry.contender.put, store, {"array": workload.array(amount)})
    else:
        work = partial(getattr(entry.contender, operation), store, ["array"])
    print(flush=True)
    sys.stdin.readline()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: that of importing is of no interest
    work()
    print(memory()["peak"], flush=True)
    sleep(0.01)  # to be looked at a last time
    store.close()


def load(contender: Any, store: Any, count: int) -> None:
    for chunk in workload.chunks(count):
        contender.update(store, chunk)
