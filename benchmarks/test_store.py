"""Each operation under pytest-benchmark, objstore beside the hand-written loop: `python -m pytest benchmarks`.

One round is a thousand operations (or one on a thousand items), so milliseconds in the table are
microseconds for each; of the 10,000-element list it is ten.  `python -m benchmarks.ratios` takes turns
between the contenders and is the one to compare them by; this shows each operation and its spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import handwritten, ours, workload

COUNT = 1_000
ITEMS = workload.items(20_000)
SAMPLE = workload.sample(COUNT, len(ITEMS))
SOME = {key: ITEMS[key] for key in SAMPLE}
LISTS = {f"list {number}": workload.LIST for number in range(10)}
BOUNDS = workload.key(5_000), workload.key(5_000 + COUNT)


@pytest.fixture(params=[ours, handwritten], ids=["objstore", "by hand"])
def contender(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def store(contender: Any, tmp_path: Path) -> Iterator[Any]:
    """A store with `ITEMS`, of durability "process": what the disk takes would hide the rest."""
    opened = contender.connect(str(tmp_path / "store"), "process")
    contender.update(opened, ITEMS)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        pytest.param("put", [SOME], marks=pytest.mark.benchmark(group="put"), id="put"),
        pytest.param("get", [SAMPLE], marks=pytest.mark.benchmark(group="get"), id="get"),
        pytest.param("contains", [SAMPLE], marks=pytest.mark.benchmark(group="contains"), id="contains"),
        pytest.param("length", [COUNT], marks=pytest.mark.benchmark(group="len"), id="len"),
        pytest.param("update", [SOME], marks=pytest.mark.benchmark(group="update"), id="update"),
        pytest.param("get_many", [SAMPLE], marks=pytest.mark.benchmark(group="get_many"), id="get_many"),
        pytest.param("key_range", BOUNDS, marks=pytest.mark.benchmark(group="range"), id="range"),
        pytest.param("transaction", [SAMPLE], marks=pytest.mark.benchmark(group="transaction"), id="transaction"),
        pytest.param("put", [LISTS], marks=pytest.mark.benchmark(group="list put"), id="list put"),
    ],
)
def test_operation(benchmark: Any, contender: Any, store: Any, operation: str, arguments: list[Any]) -> None:
    benchmark(getattr(contender, operation), store, *arguments)


@pytest.mark.benchmark(group="items")
def test_items(benchmark: Any, contender: Any, tmp_path: Path) -> None:
    store = contender.connect(str(tmp_path / "store"), "process")
    contender.update(store, SOME)
    benchmark(contender.items, store)
    store.close()


@pytest.mark.benchmark(group="list get")
def test_list_get(benchmark: Any, contender: Any, store: Any) -> None:
    contender.put(store, LISTS)
    benchmark(contender.get, store, list(LISTS))


@pytest.mark.benchmark(group="put, full")
def test_put_full(benchmark: Any, contender: Any, tmp_path: Path) -> None:
    store = contender.connect(str(tmp_path / "store"), "full")
    benchmark.pedantic(contender.put, (store, SOME), rounds=5, warmup_rounds=1)
    store.close()


@pytest.mark.benchmark(group="delete")
def test_delete(benchmark: Any, contender: Any, store: Any) -> None:
    def refill() -> None:
        contender.update(store, SOME)

    benchmark.pedantic(contender.delete, (store, SAMPLE), setup=refill, rounds=50, warmup_rounds=1)
