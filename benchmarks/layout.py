"""Where the default namespace could lie, measured: `python -m benchmarks.layout`.

LMDB's main database, a named database, and a range of the main database with a prefix before each key,
which is what other namespaces are.  The three take turns; medians are printed, in microseconds.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import lmdb

ROUNDS = 31
TIMES = 1_000
ITEMS = 20_000
RECORD = bytes(80)


def put(env: Any, database: Any, keys: Sequence[bytes]) -> None:
    for key in keys:
        with env.begin(write=True) as txn:
            txn.put(key, RECORD, db=database)


def get(env: Any, database: Any, keys: Sequence[bytes]) -> None:
    for key in keys:
        env.begin().get(key, None, database)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as directory:
        env: Any = lmdb.open(directory, map_size=1 << 32, max_dbs=1, sync=False, max_spare_txns=1)
        main_database, named = env.open_db(), env.open_db(b"\x01named")
        places = {"main": (main_database, b"@"), "named": (named, b"@"), "range": (main_database, b"\x04hashed@")}
        for database, prefix in places.values():
            put(env, database, [prefix + b"%d" % number for number in range(ITEMS)])
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(ROUNDS):
            numbers = [b"%d" % random.randrange(ITEMS) for _ in range(TIMES)]
            for place, (database, prefix) in random.sample(list(places.items()), len(places)):
                keys = [prefix + number for number in numbers]
                work: dict[str, Callable[[], None]] = {
                    "put": partial(put, env, database, keys),
                    "get": partial(get, env, database, keys),
                }
                for name, run in work.items():
                    start = perf_counter()
                    run()
                    times.setdefault((name, place), []).append((perf_counter() - start) / TIMES * 1e6)
        env.close()
    for name in ("put", "get"):
        print(name, *(f"{place} {median(times[name, place]):.2f}" for place in places))


if __name__ == "__main__":
    main()
