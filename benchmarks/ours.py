"""The contender: objstore, doing what `handwritten` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from benchmarks import workload
from benchmarks.contender import FULL, KILL, Mode
from objstore import Store

NAME = "objstore"
PACKAGE = "objstore"
IMPORTS = "objstore"
MODES = {
    "full": Mode(FULL, 'durability="full", the default'),
    "process": Mode(KILL, 'durability="process"'),
    "relaxed": Mode(KILL, 'durability="relaxed": all but the last commits survive a power cut too'),
}
THREADS = True
PROCESSES = "write"

AnyStore = Store[str, Any]


def connect(path: str, durability: str = "process") -> AnyStore:
    return Store(path, durability=durability)


def get(store: AnyStore, keys: Iterable[str]) -> None:
    for key in keys:
        store[key]


def contains(store: AnyStore, keys: Iterable[str]) -> None:
    for key in keys:
        key in store  # noqa: B015


def length(store: AnyStore, times: int) -> None:
    for _ in range(times):
        len(store)


def put(store: AnyStore, items: Mapping[str, Any]) -> None:
    for key, value in items.items():
        store[key] = value


def delete(store: AnyStore, keys: Iterable[str]) -> None:
    for key in keys:
        store.delete(key)


def update(store: AnyStore, items: Mapping[str, Any]) -> None:
    store.update(items)


def get_many(store: AnyStore, keys: Iterable[str]) -> dict[str, Any]:
    return store.get_many(keys)


def items(store: AnyStore) -> None:
    for _key, _value in store.items():
        pass


def some_items(store: AnyStore, times: int) -> None:
    """The first so many."""
    for _item in islice(store.items(), times):
        pass


def keys(store: AnyStore) -> None:
    for _key in store:
        pass


def key_range(store: AnyStore, start: str, stop: str) -> None:
    for _key in store.range(start, stop):
        pass


def transaction(store: AnyStore, keys: Iterable[str]) -> None:
    """Reads, changes and writes each of them, all in one transaction."""
    with store.transaction() as txn:
        for key in keys:
            value = txn[key]
            value["size"] += 1.0
            txn[key] = value


def put_in_threads(store: AnyStore, threads: int, times: int) -> None:
    """So many threads put so many small items each."""
    with ThreadPoolExecutor(threads) as pool:
        done = [pool.submit(put, store, workload.items_of(thread, times)) for thread in range(threads)]
        for each in done:
            each.result()


def snapshot_get(store: AnyStore, keys: Iterable[str]) -> None:
    """Reads in a snapshot, where large buffers are views of the file."""
    for key in keys:
        with store.snapshot() as snap:
            snap[key]


def view(store: AnyStore, keys: Iterable[str]) -> None:
    """Reads without copying; a view lives as long as somebody has it."""
    for key in keys:
        store.view(key)


def clear(store: AnyStore) -> None:
    store.clear()
