"""Each operation under pytest-benchmark, objstore beside whoever is installed: `python -m pytest benchmarks`.

One round is a thousand operations (or one on a thousand items), so milliseconds in the table are
microseconds for each; of the 10,000-element list it is ten, and where the disk is waited for, twenty.  A group
is one operation in one class of safety, which its name gives.  `python -m benchmarks.ratios` and `compare` take
turns between the contenders and are the ones to compare them by; this shows each operation and its spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import workload
from benchmarks.contender import FULL, KILL, Entry, in_class
from benchmarks.everyone import contenders

COUNT = 1_000
ITEMS = workload.items(20_000)
SAMPLE = workload.sample(COUNT, len(ITEMS))
SOME = {key: ITEMS[key] for key in SAMPLE}
FEW = {key: ITEMS[key] for key in SAMPLE[:20]}
LISTS = {f"list {number}": workload.LIST for number in range(10)}
BOUNDS = workload.key(5_000), workload.key(5_000 + COUNT)


def entries(safety: str) -> list[Any]:
    """Who can be had in this class, without those that take only what is large."""
    found = [entry for entry in in_class(contenders()[0], safety) if not entry.large_only]
    return [pytest.param(entry, id=entry.label) for entry in found]


@pytest.fixture(params=entries(KILL))
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def store(entry: Entry, tmp_path: Path) -> Iterator[Any]:
    """A store with `ITEMS` that does not wait for the disk, which would hide the rest."""
    opened = entry.connect(str(tmp_path))
    entry.contender.update(opened, ITEMS)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("operation", "arguments", "name"),
    [
        ("put", [SOME], "put"),
        ("get", [SAMPLE], "get"),
        ("contains", [SAMPLE], "contains"),
        ("length", [COUNT], "len"),
        ("update", [SOME], "update"),
        ("get_many", [SAMPLE], "get_many"),
        ("key_range", BOUNDS, "range"),
        ("transaction", [SAMPLE], "transaction"),
        ("put", [LISTS], "list put"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operation(benchmark: Any, entry: Entry, store: Any, operation: str, arguments: list[Any], name: str) -> None:
    if not entry.can(operation):
        pytest.skip(f"{entry.label} has no such operation")
    benchmark.group = f"{name}, {entry.safety}"
    benchmark(getattr(entry.contender, operation), store, *arguments)


def test_items(benchmark: Any, entry: Entry, tmp_path: Path) -> None:
    store = entry.connect(str(tmp_path))
    entry.contender.update(store, SOME)
    benchmark.group = f"items, {entry.safety}"
    benchmark(entry.contender.items, store)
    store.close()


def test_list_get(benchmark: Any, entry: Entry, store: Any) -> None:
    entry.contender.put(store, LISTS)
    benchmark.group = f"list get, {entry.safety}"
    benchmark(entry.contender.get, store, list(LISTS))


@pytest.mark.parametrize("entry", entries(FULL))
def test_put_full(benchmark: Any, entry: Entry, tmp_path: Path) -> None:
    store = entry.connect(str(tmp_path))
    benchmark.group = f"put, {entry.safety}"
    benchmark.pedantic(entry.contender.put, (store, FEW), rounds=5, warmup_rounds=1)
    store.close()


def test_delete(benchmark: Any, entry: Entry, store: Any) -> None:
    if not entry.can("delete"):
        pytest.skip(f"{entry.label} has no such operation")

    def refill() -> None:
        entry.contender.update(store, SOME)

    benchmark.group = f"delete, {entry.safety}"
    benchmark.pedantic(entry.contender.delete, (store, SAMPLE), setup=refill, rounds=50, warmup_rounds=1)
