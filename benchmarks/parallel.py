"""Throughput of several threads, and of several processes.

A worker does one small operation after the other until the time is over; the operations of all workers
are summed and divided by the time until the last one ended.  Processes are started beforehand, open the
store, and wait for their turn.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection
from random import Random
from time import perf_counter
from typing import Any

from benchmarks import workload
from benchmarks.contender import CLASSES, FULL, KILL, Entry, fastest, in_class
from benchmarks.everyone import named
from benchmarks.measure import interleave
from benchmarks.tables import Table, add, table
from benchmarks.workload import Effort
from benchmarks.works import opened

ROUNDS = 5
UNIT = "operations a second"


def threads(contenders: Sequence[Any], effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """Threads that put small items through one handle."""
    entries = [entry for entry in in_class(contenders, FULL) if entry.contender.THREADS]
    result = table(
        "Threads that put, full",
        "Each thread puts small items under keys of its own, and each put is on the disk when it returns.",
        UNIT,
        [entry.label for entry in entries],
        chart="value",
        higher_is_better=True,
    )
    stores = {entry.label: (entry, opened(entry, f"{directory}/{entry.label}")) for entry in entries}
    for workers in (1, 8):
        turns = {
            label: partial(throughput_of_threads, entry.contender, store, workers, effort.parallel)
            for label, (entry, store) in stores.items()
        }
        add(result, f"{workers} thread{'s' * (workers > 1)}", interleave(turns, min(ROUNDS, effort.rounds), least=1))
    for _, store in stores.values():
        store.close()
    yield "threads", result


def throughput_of_threads(contender: Any, store: Any, workers: int, seconds: float) -> float:
    begin = threading.Barrier(workers + 1)
    done: list[tuple[int, float]] = []

    def work(worker: int) -> None:
        begin.wait()
        done.append(puts(contender, store, worker, seconds))

    running = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in running:
        thread.start()
    begin.wait()
    for thread in running:
        thread.join()
    return summed(done)


def puts(contender: Any, store: Any, worker: int, seconds: float) -> tuple[int, float]:
    """Put until the time is over: how many, and how long it took."""
    # A thousand keys and twice as many values: SQLite leaves a page alone that would not change.
    items = [{f"worker {worker} {number % 1_000:06}": workload.value(number)} for number in range(2_000)]
    began = perf_counter()
    done = 0
    while (passed := perf_counter() - began) < seconds or not done:
        contender.put(store, items[done % len(items)])
        done += 1
    return done, passed


def gets(contender: Any, store: Any, worker: int, seconds: float, among: int) -> tuple[int, float]:
    """Get until the time is over."""
    random = Random(worker)
    keys = [[workload.key(random.randrange(among)) for _ in range(10)] for _ in range(500)]
    began = perf_counter()
    done = 0
    while (passed := perf_counter() - began) < seconds or not done:
        contender.get(store, keys[done % len(keys)])
        done += 1
    return done * 10, passed


def summed(done: Sequence[tuple[int, float]]) -> float:
    return sum(times for times, _ in done) / max(passed for _, passed in done)


def processes(contenders: Sequence[Any], effort: Effort, directory: str) -> Iterator[tuple[str, Table]]:
    """Processes that read, and processes that write."""
    readers = [entry for entry in fastest(contenders) if entry.contender.PROCESSES and not entry.large_only]
    yield (
        "processes, reading",
        in_processes(
            readers,
            "Processes that get",
            "Each process gets random small items. Reading costs the same in each class of safety.",
            "get",
            effort,
            f"{directory}/read",
        ),
    )
    for safety in (FULL, KILL):
        writers = [
            entry
            for entry in in_class(contenders, safety)
            if entry.contender.PROCESSES == "write" and not entry.large_only
        ]
        yield (
            f"processes, writing, {safety}",
            in_processes(
                writers,
                f"Processes that put: {safety}",
                f"Each process puts small items under keys of its own. In this class {CLASSES[safety]}.",
                "put",
                effort,
                f"{directory}/{safety}",
            ),
        )


def in_processes(
    entries: Sequence[Entry], title: str, text: str, operation: str, effort: Effort, directory: str
) -> Table:
    """The throughput of one process and of two."""
    labels = [entry.label for entry in entries]
    result = table(title, text, UNIT, labels, chart="value", higher_is_better=True)
    teams = {}
    for entry in entries:
        path = f"{directory}/{entry.label}"
        store = opened(entry, path)
        entry.contender.update(store, workload.items(effort.items))
        store.close()
        teams[entry.label] = [Worker(entry, path, operation, number, effort.items) for number in range(2)]
    for team in teams.values():
        for worker in team:
            worker.pipe.recv()  # it is ready
    for workers in (1, 2):
        turns = {
            label: partial(throughput_of_processes, team[:workers], effort.parallel) for label, team in teams.items()
        }
        add(result, f"{workers} process{'es' * (workers > 1)}", interleave(turns, min(ROUNDS, effort.rounds), least=1))
    for team in teams.values():
        for worker in team:
            worker.end()
    return result


def throughput_of_processes(team: Sequence[Worker], seconds: float) -> float:
    for worker in team:
        worker.pipe.send(seconds)
    return summed([worker.pipe.recv() for worker in team])


class Worker:
    """A process with the store open, which says when it is ready and works for so many seconds when it is told to."""

    def __init__(self, entry: Entry, path: str, operation: str, number: int, items: int) -> None:
        self.pipe, other = multiprocessing.Pipe()
        arguments = other, entry.contender.NAME, entry.mode, path, operation, number, items
        self.process = multiprocessing.get_context("spawn").Process(target=work_as_told, args=arguments, daemon=True)
        self.process.start()
        other.close()

    def end(self) -> None:
        self.pipe.send(None)
        self.process.join()


def work_as_told(pipe: Connection, name: str, mode: str, path: str, operation: str, number: int, items: int) -> None:
    """What a worker does."""
    contender = named(name)
    if operation == "get" and hasattr(contender, "connect_reading"):
        store = contender.connect_reading(path)
    else:
        store = contender.connect(path, mode)
    pipe.send(os.getpid())
    while (seconds := pipe.recv()) is not None:
        if operation == "get":
            pipe.send(gets(contender, store, number, seconds, items))
        else:
            pipe.send(puts(contender, store, number, seconds))
    store.close()
