"""What each safeguard costs, and which part of its operation that is: `python -m benchmarks.safeguards`.

A safeguard is timed by doing what it adds, with the objects of a real store, in turns with the whole operation.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

from benchmarks import workload
from benchmarks.measure import Turn, interleave, machine, ratio
from objstore import Store
from objstore.engines.lmdb.datafile import check_whole
from objstore.engines.lmdb.engine import LmdbEngine
from objstore.record import BODY, TAIL, digest, key_digest


class Safeguard(NamedTuple):
    """One line of the table."""

    operation: str
    name: str
    whole: Callable[[], object]
    part: Callable[[], object]
    times: int
    """How often both are done in a round."""


def safeguards(directory: str, times: int, synced: int) -> Iterator[Safeguard]:
    """What guards which operation."""
    items = workload.items(1000)
    key, value = next(iter(items.items()))
    stores = {name: Store[Any, Any](f"{directory}/{name}", durability=name) for name in ("process", "full")}
    for store in stores.values():
        store.update(items)
    plain, full = stores["process"], stores["full"]
    engine: Any = plain._engine
    synced_engine: Any = full._engine
    assert isinstance(engine, LmdbEngine)
    tree_key = plain._space.tree_key(key)
    stored = engine.get(tree_key) or b""
    payload = stored[BODY]

    def transact(store: Store[Any, Any]) -> None:
        with store.transaction() as txn:
            txn[key] = value

    def snapshot() -> None:
        with plain.snapshot() as snap:
            snap[key]

    def enter() -> None:
        token = engine._writing.enter()
        del token

    numbers = itertools.count()

    def get() -> object:
        return plain[key]

    def put() -> None:
        plain[key] = value

    def put_and_look() -> None:
        engine._next_look = 0.0
        plain[key] = value

    def look() -> None:
        engine._next_look = 0.0
        engine._look_around()

    def put_synced() -> None:
        full[key] = value

    def verify() -> bool:
        return digest(stored[BODY], key_digest(tree_key)) == stored[TAIL]

    def sign() -> bytes:
        return payload + digest(payload, key_digest(tree_key))

    yield Safeguard("store[key]", "the digest is verified", get, verify, times)
    yield Safeguard("put, process", "the digest is taken", put, sign, times)
    yield Safeguard("put, process", "nobody closes or compacts it", put, enter, times)
    yield Safeguard("put, process", "threads take turns", put, engine._turns.take, times)
    yield Safeguard("put, process", "time to look at the files?", put, lambda: time.monotonic() >= 0.0, times)
    yield Safeguard("put, twice a second", "the files are looked at", put_and_look, look, times)
    yield Safeguard("put, full", "the files were not replaced", put_synced, synced_engine._check_directory, synced)
    yield Safeguard("put, full", "the digest is taken", put_synced, sign, synced)
    yield Safeguard(
        "transaction, process", "a note of who writes", lambda: transact(plain), lambda: engine._notes.writes(0), times
    )
    yield Safeguard(
        "transaction, full", "a note of who writes", lambda: transact(full), lambda: engine._notes.writes(0), synced
    )
    yield Safeguard("snapshot", "a note of who reads", snapshot, lambda: engine._notes.reads(0, next(numbers)), times)

    def reopen() -> None:
        Store[Any, Any](f"{directory}/opened").close()

    reopen()
    yield Safeguard(
        "open and close", "the file is not cut short", reopen, lambda: check_whole(f"{directory}/opened"), synced
    )

    def first_write() -> None:
        with Store[Any, Any](f"{directory}/marked", durability="process") as store:
            store[key] = value

    first_write()
    yield Safeguard("open, put, close", "unsynced writes are marked", first_write, engine._directory.mark_dirty, synced)
    for store in stores.values():
        store.close()


def repeated(function: Callable[[], object], times: int) -> Turn:
    def turn() -> float:
        began = time.perf_counter()
        for _ in range(times):
            function()
        return time.perf_counter() - began

    return turn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.safeguards", description=__doc__.split(":")[0])
    parser.add_argument("--quick", action="store_true", help="small and short: that it runs, not what it shows")
    arguments = parser.parse_args()
    rounds, times, synced = (3, 50, 2) if arguments.quick else (31, 2000, 50)
    with tempfile.TemporaryDirectory(prefix="objstore-") as directory:
        print(machine(directory), end="\n\n")
        print(f"{'operation':<22}{'us':>10}   {'safeguard':<32}{'us':>8}{'part':>8}")
        for operation, name, whole, part, count in safeguards(directory, times, synced):
            taken = interleave({"whole": repeated(whole, count), "part": repeated(part, count)}, rounds)
            microseconds = {which: median(each) / count * 1e6 for which, each in taken.items()}
            print(
                f"{operation:<22}{microseconds['whole']:10,.2f}   {name:<32}{microseconds['part']:8,.2f}"
                f"{ratio(taken['part'], taken['whole']):8.1%}"
            )


if __name__ == "__main__":
    main()
