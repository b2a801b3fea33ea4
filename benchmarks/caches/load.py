"""The operations of a cache, one by one, and a mixed load of several processes.

The load is what diskcache publishes of itself: 90 % get, 9 % set, 1 % delete, short keys and values of bytes, each
operation timed.  One bound is never reached, the other holds about a quarter of all keys.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle
from random import Random
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.caches.contenders import UNBOUNDED, Contender, by_name, caches
from benchmarks.caches.sizes import Size, grid
from benchmarks.caches.team import Team, Worker, together
from benchmarks.contender import CLASSES, FULL, KILL
from benchmarks.measure import Turn, interleave, no_collection
from benchmarks.tables import Table, add, markdown, shown, table

VALUE_BYTES = 256
ROUNDS = 3


def values() -> list[bytes]:
    random = Random(6)
    return [random.randbytes(random.randrange(2 * VALUE_BYTES)) for _ in range(1_000)]


def key(number: int) -> bytes:
    return b"%d" % number


def tight(keys: int) -> int:
    """A bound that is reached: bytes."""
    return max(keys * VALUE_BYTES // 4, 600_000)  # below that, eight shards hold little but their own tables


# One by one


def operations(size: Size, directory: str, team: Team) -> Iterator[str]:
    """What one operation takes in one process."""
    contenders = [contender for contender in caches() if contender.safety == KILL]
    result = table(
        "Operations of a cache",
        "",
        "µs",
        [contender.name for contender in contenders],
    )
    for reached in (False, True):
        bound = tight(size.keys) if reached else UNBOUNDED
        stores = {
            contender.name: contender.open(f"{directory}/{contender.name} {reached}", bound) for contender in contenders
        }
        for store in stores.values():
            fill(store, size.keys)
        for name, work in works(size.keys, reached):
            turns = {label: repeated(work(store), size.turn) for label, store in stores.items()}
            with no_collection():
                taken = interleave(turns, size.rounds)
            add(result, name, {label: [each / size.turn * 1e6 for each in times] for label, times in taken.items()})
        for store in stores.values():
            store.close()
    yield from section("Operations of a cache, one process", contenders)
    yield from printed(result)


def works(keys: int, reached: bool) -> Iterator[tuple[str, Callable[[Any], Callable[[], object]]]]:
    """What is done, by name: given a cache, the operation."""
    random = Random(7)
    some = [key(random.randrange(keys)) for _ in range(5_000)]
    written = values()

    def getting(store: Any) -> Callable[[], object]:
        # Those that are there, where some are not.
        keys = [each for each in some if store.get(each) is not None]
        following = cycle(keys).__next__
        return lambda: store.get(following())

    def missing(store: Any) -> Callable[[], object]:
        return lambda: store.get(b"none")

    def overwriting(store: Any) -> Callable[[], object]:
        following, value = cycle(some).__next__, cycle(written).__next__
        return lambda: store.set(following(), value())

    def adding(store: Any) -> Callable[[], object]:
        number, value = count(keys).__next__, cycle(written).__next__
        return lambda: store.set(key(number()), value())

    def deleting(store: Any) -> Callable[[], object]:
        number = count(keys).__next__
        return lambda: store.delete(key(number()))

    if reached:
        yield "get, while it is full", getting
        yield "set a new key, evicting", adding
    else:
        yield "get", getting
        yield "get, nothing there", missing
        yield "set, overwriting", overwriting
        yield "set a new key", adding
        yield "delete", deleting


def fill(store: Any, keys: int) -> None:
    """Set all keys one by one: in one transaction, diskcache would evict what it has just set."""
    for number, value in zip(range(keys), cycle(values()), strict=False):
        store.set(key(number), value)


def repeated(operation: Callable[[], object], times: int) -> Turn:
    def turn() -> float:
        began = perf_counter()
        for _ in range(times):
            operation()
        return perf_counter() - began

    return turn


# Mixed


def mixed(size: Size, directory: str, team: Team) -> Iterator[str]:
    """Processes that get, set and delete at the same time."""
    members = team.members(size.team)
    for reached in (False, True):
        bound = tight(size.keys) if reached else UNBOUNDED
        for safety in (KILL,) if reached else (KILL, FULL):  # what waits for the disk does so with either bound
            contenders = [contender for contender in caches() if contender.safety == safety]
            paths = {each.name: f"{directory}/mixed {each.name} {reached}" for each in contenders}
            for contender in contenders:
                unsynced = by_name(contender.name.removesuffix(", full"))
                store = unsynced.open(paths[contender.name], bound)
                fill(store, size.keys)
                store.close()
                contender.open(paths[contender.name], bound).close()  # from now on in its own class
            what = f"holds about a quarter of {size.keys:,} keys" if reached else "is never reached"
            yield from section(f"Mixed load, a bound that {what}: {safety}", contenders)
            yield from grid(HEADS, loads(members, contenders, paths, bound, size))


HEADS = [
    "processes",
    "cache",
    "operations/s",
    "ratio",
    "get µs: median",
    "90 %",
    "99 %",
    "max",
    "set µs: median",
    "99 %",
    "max",
    "delete µs: median",
    "found",
    "given up",
]


def loads(
    members: Sequence[Worker], contenders: Sequence[Contender], paths: dict[str, str], bound: int, size: Size
) -> Iterator[list[str]]:
    """The rows of a table."""
    for processes in size.processes:
        said: dict[str, list[list[Said]]] = {contender.name: [] for contender in contenders}
        for number in range(min(ROUNDS, size.rounds)):
            for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
                arguments = contender.name, paths[contender.name], bound, size.keys, size.load, number
                said[contender.name].append(together(members[:processes], "benchmarks.caches.load:work", *arguments))
        rates = {name: [rate(each) for each in rounds] for name, rounds in said.items()}
        base = rates[contenders[0].name]
        for name, rounds in said.items():
            relation = median(mine / other for mine, other in zip(rates[name], base, strict=True))
            yield [str(processes), name, shown(median(rates[name])), shown(relation), *latencies(rounds)]


Said = tuple[float, dict[str, "array[float]"], int, int]
"""Of a worker: seconds, times by operation, gets that found nothing, sets that were given up."""


def rate(workers: Sequence[Said]) -> float:
    done = sum(len(times) for _, taken, _, _ in workers for times in taken.values())
    return done / max(passed for passed, _, _, _ in workers)


def latencies(rounds: Sequence[Sequence[Said]]) -> Iterator[str]:
    """The cells about single operations."""
    workers = [said for round_ in rounds for said in round_]
    parts = {"get": (0.5, 0.9, 0.99, 1.0), "set": (0.5, 0.99, 1.0), "delete": (0.5,)}
    for operation, quantiles in parts.items():
        times = sorted(time for _, taken, _, _ in workers for time in taken[operation])
        for part in quantiles:
            yield shown(times[min(len(times) - 1, int(part * len(times)))] * 1e6) if times else "-"
    gets = sum(len(taken["get"]) for _, taken, _, _ in workers)
    sets = sum(len(taken["set"]) for _, taken, _, _ in workers)
    yield f"{1 - sum(missed for _, _, missed, _ in workers) / max(gets, 1):.1%}"
    yield f"{sum(lost for _, _, _, lost in workers) / max(sets, 1):.1%}"


def work(name: str, path: str, bound: int, keys: int, seconds: float, seed: int, worker: int) -> Said:
    """Work until the time is over."""
    random = Random(seed * 100 + worker)
    store = by_name(name).open(path, bound)
    chosen = random.choices(("get", "set", "delete"), (90, 9, 1), k=10_000)
    numbers = [key(random.randrange(keys)) for _ in chosen]
    plan = list(zip(chosen, numbers, cycle(values())))
    taken = {operation: array("d") for operation in ("get", "set", "delete")}
    missed = lost = 0
    now = began = perf_counter()
    end = began + seconds
    for operation, each, value in cycle(plan):
        before = perf_counter()
        if operation == "get":
            missed += store.get(each) is None
        elif operation == "set":
            lost += store.set(each, value) is False
        else:
            store.delete(each)
        now = perf_counter()
        taken[operation].append(now - before)
        if now >= end:
            break
    store.close()
    return now - began, taken, missed, lost


def section(title: str, contenders: Sequence[Contender]) -> Iterator[str]:
    """A title, and who takes part."""
    yield f"### {title}"
    yield ""
    safety = contenders[0].safety
    yield f"{safety}: {CLASSES[safety]}. " + "; ".join(f"{each.name}: {each.how}" for each in contenders) + "."
    yield ""


def printed(result: Table) -> Iterator[str]:
    yield "The best of each row is bold; in brackets, how many times as long as objstore."
    yield ""
    yield markdown(result)
    yield ""
