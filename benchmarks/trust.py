"""What a record costs more with each option that makes values trusted or smaller: `python -m benchmarks.trust`.

Reading (`store[key]`) and writing (`store[key] = value`, durability "process") of values of four sizes, in stores that
take turns; each line says how many microseconds an option adds to a store without options, as the median over the
rounds.  The last lines hold encryption against what pickle itself takes for the same value.
"""

from __future__ import annotations

import argparse
import pickle
import secrets
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measure import Turn, interleave, machine, no_collection, ratio, today
from objstore import Pickle, Store

OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "signed": {"signing_key": secrets.token_bytes(32)},
    "encrypted": {"encryption_key": secrets.token_bytes(32)},
    "zstd": {"compression": "zstd"},
    "lz4": {"compression": "lz4"},
    "zlib": {"compression": "zlib"},
    "zstd, encrypted": {"compression": "zstd", "encryption_key": secrets.token_bytes(32)},
    "allow-list": {"codec": Pickle(allow=["numpy.ndarray"])},
    "msgpack": {"codec": "msgpack"},
    "json": {"codec": "json"},
}


class Size(NamedTuple):
    """A column of the table."""

    name: str
    value: object
    times: int
    """How often it is read and written in a turn."""


def sizes() -> Iterator[Size]:
    person = {"name": "Ada Lovelace", "born": 1815, "mail": "ada@example.org", "tags": ["one", "two"]}
    yield Size("100 B", person, 500)
    yield Size("1 kB", {f"person {number}": person | {"number": number} for number in range(10)}, 500)
    yield Size("30 kB", list(range(10_000)), 20)
    yield Size("8 MB", np.arange(1_000_000.0) % 1000, 1)


def table(directory: str, rounds: int, share: float) -> Iterator[str]:
    rows = {name: [name] for name in OPTIONS}
    heads = ["µs more than nothing"]
    against: list[str] = []
    for size in sizes():
        times = max(1, round(size.times * share))
        stores = {
            name: open_store(f"{directory}/{size.name} {name}", size, options) for name, options in OPTIONS.items()
        }
        heads += [f"{size.name} read", "written"]
        reading = {name: repeated_read(store, times) for name, store in stores.items()}
        writing = {name: repeated_write(store, size.value, times) for name, store in stores.items()}
        loading = {"loads": repeated(pickle.loads, pickle.dumps(size.value, 5), times)}
        dumping = {"dumps": repeated(lambda value: pickle.dumps(value, 5), size.value, times)}
        with no_collection():
            taken = [interleave(reading | loading, rounds), interleave(writing | dumping, rounds)]
        for each in taken:
            for name, row in rows.items():
                row.append(added(each[name], each["nothing"], times, absolute=name == "nothing"))
        less = [
            [with_key - without for with_key, without in zip(each["encrypted"], each["nothing"], strict=True)]
            for each in taken
        ]
        against.append(
            f"{size.name}: encryption adds {ratio(less[1], taken[1]['dumps']):.1%} of `pickle.dumps` to a write, and "
            f"{ratio(less[0], taken[0]['loads']):.1%} of `pickle.loads` to a read"
        )
        for store in stores.values():
            store.close()
    yield line(heads)
    yield line(["---", *["---:"] * (len(heads) - 1)])
    yield from map(line, rows.values())
    yield ""
    yield from against


def open_store(path: str, size: Size, options: dict[str, Any]) -> Store[Any, Any]:
    store = Store[Any, Any](path, durability="process", **options)
    store["key"] = size.value
    return store


def repeated_read(store: Store[Any, Any], times: int) -> Turn:
    return repeated(store.__getitem__, "key", times)


def repeated_write(store: Store[Any, Any], value: object, times: int) -> Turn:
    return repeated(lambda each: store.__setitem__("key", each), value, times)


def repeated(function: Any, argument: object, times: int) -> Turn:
    def turn() -> float:
        began = time.perf_counter()
        for _ in range(times):
            function(argument)
        return time.perf_counter() - began

    return turn


def added(taken: list[float], base: list[float], times: int, absolute: bool) -> str:
    if absolute:
        return f"({shown(median(base) / times * 1e6)})"
    return shown(median(mine - other for mine, other in zip(taken, base, strict=True)) / times * 1e6)


def shown(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if abs(microseconds) >= 100 else f"{microseconds:.1f}"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trust", description=__doc__.split(":")[0])
    parser.add_argument("--quick", action="store_true", help="small and short: that it runs, not what it shows")
    arguments = parser.parse_args()
    rounds, share = (2, 0.02) if arguments.quick else (31, 1.0)
    with tempfile.TemporaryDirectory(prefix="objstore-") as directory:
        for each in table(directory, rounds, share):
            print(each)
        print(f"\nMedians of {rounds} rounds, {today()}: {machine(directory)}.")


if __name__ == "__main__":
    main()
