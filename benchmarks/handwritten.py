"""The contender: what a good engineer writes directly on `lmdb` and `pickle`, without checksums.

One function for each operation.  Each does it for all the keys or items it is given, in a loop that has
nothing in it but the operation, so that not even a function call is charged to this contender; what
`ours` does in one transaction is in one transaction here, and what is not, is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pickle import PickleBuffer, dumps, loads
from typing import Any

import lmdb

from benchmarks.contender import FULL, KILL, UNSAFE, Mode

NAME = "by hand"
PACKAGE = "lmdb"
IMPORTS = "lmdb, pickle"
MODES = {
    "full": Mode(FULL, "lmdb.open(path), pickle"),
    "process": Mode(KILL, "sync=False"),
    "relaxed": Mode(KILL, "metasync=False"),
    "writemap": Mode(UNSAFE, "sync=False, writemap=True"),
}
THREADS = True
PROCESSES = "write"

Environment = Any  # py-lmdb's stubs cannot tell bytes from views


def connect(path: str, durability: str = "process") -> Environment:
    """An environment as durable as a store of the same `durability`; it keeps one spare transaction.

    "writemap" is what no store offers: written through the map and not synced.
    """
    return lmdb.open(
        path,
        map_size=1 << 36,
        max_spare_txns=1,
        sync=durability in ("full", "relaxed"),
        metasync=durability == "full",
        writemap=durability == "writemap",
    )


def get(env: Environment, keys: Iterable[str]) -> None:
    for key in keys:
        with env.begin() as txn:
            loads(txn.get(key.encode()))


def get_best(env: Environment, keys: Iterable[str]) -> None:
    """The fastest form: the transaction is dropped, and the next one takes it over."""
    for key in keys:
        loads(env.begin().get(key.encode()))


def contains(env: Environment, keys: Iterable[str]) -> None:
    for key in keys:
        with env.begin() as txn:
            txn.get(key.encode()) is not None  # noqa: B015


def contains_best(env: Environment, keys: Iterable[str]) -> None:
    for key in keys:
        env.begin().get(key.encode()) is not None  # noqa: B015


def length(env: Environment, times: int) -> None:
    for _ in range(times):
        env.stat()["entries"]


def put(env: Environment, items: Mapping[str, Any]) -> None:
    for key, value in items.items():
        with env.begin(write=True) as txn:
            txn.put(key.encode(), dumps(value, 5))


def put_buffers(env: Environment, items: Mapping[str, Any]) -> None:
    """Keeps large buffers out of the pickle, each under a key of its own: nothing is copied but by LMDB."""
    for key, value in items.items():
        buffers: list[PickleBuffer] = []
        pickled = dumps(value, 5, buffer_callback=buffers.append)
        with env.begin(write=True) as txn:
            txn.put(key.encode(), pickled)
            for number, buffer in enumerate(buffers):
                txn.put(f"{key}/{number}".encode(), buffer.raw())


def view_buffers(env: Environment, keys: Iterable[str]) -> None:
    """Reads what `put_buffers` stored without a copy; what it gives is valid within the transaction only."""
    for key in keys:
        with env.begin(buffers=True) as txn:
            loads(txn.get(key.encode()), buffers=[txn.get(f"{key}/0".encode())])


def delete(env: Environment, keys: Iterable[str]) -> None:
    for key in keys:
        with env.begin(write=True) as txn:
            txn.delete(key.encode())


def update(env: Environment, items: Mapping[str, Any]) -> None:
    packed = [(key.encode(), dumps(value, 5)) for key, value in items.items()]
    with env.begin(write=True) as txn:
        txn.cursor().putmulti(packed)


def get_many(env: Environment, keys: Iterable[str]) -> dict[str, Any]:
    with env.begin() as txn:
        found = txn.cursor().getmulti([key.encode() for key in keys])
    return {key.decode(): loads(record) for key, record in found}


def items(env: Environment) -> None:
    with env.begin() as txn:
        for key, record in txn.cursor():
            key.decode(), loads(record)


def keys(env: Environment) -> None:
    with env.begin() as txn:
        for key in txn.cursor().iternext(keys=True, values=False):
            key.decode()


def key_range(env: Environment, start: str, stop: str) -> None:
    end = stop.encode()
    with env.begin() as txn:
        cursor = txn.cursor()
        if cursor.set_range(start.encode()):
            for key in cursor.iternext(keys=True, values=False):
                if key >= end:
                    break
                key.decode()


def transaction(env: Environment, keys: Iterable[str]) -> None:
    """Reads, changes and writes each of them, all in one transaction."""
    with env.begin(write=True) as txn:
        for key in keys:
            encoded = key.encode()
            value = loads(txn.get(encoded))
            value["size"] += 1.0
            txn.put(encoded, dumps(value, 5))


def clear(env: Environment) -> None:
    with env.begin(write=True) as txn:
        txn.drop(env.open_db(None, txn), delete=False)
