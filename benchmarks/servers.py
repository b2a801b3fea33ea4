"""What a store on servers costs, beside the client that it uses: `python -m benchmarks.servers`.

A real cluster of six processes on this machine (three primaries, three replicas), and three who use it in turns: a
`Store`, which keeps an index, a `Cache`, which keeps none, and by hand, a package's own cluster client with `pickle`.
Where both packages are installed, it is measured with redis-py and with valkey-py, each held against itself.  Short
rounds, medians, and ratios within a round; nothing is asserted.

The servers, the clients and the network of this machine share its processors, so these are costs of calls and no
throughput of a cluster: that is what the figures of the processors are for, at the end (docs/servers.md).

`--server` is "valkey" or "redis" (Debian's redis-server).  The servers keep their data in memory, without a journal.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha1
from pickle import dumps, loads
from statistics import median
from time import perf_counter, process_time, sleep
from types import ModuleType
from typing import Any, NamedTuple

from benchmarks.measure import Turn, interleave, machine, packages, ratio, timed, today
from objstore import Cache, Store, UnsealedWarning
from tests.servers import Cluster, chosen, find, memory_directory

HAND, STORE, CACHE = "by hand", "Store", "Cache"
CLIENTS = {"redis": "RedisCluster", "valkey": "ValkeyCluster"}

CALL, BATCH = 1.25, 1.25  # at most so many times what it takes by hand: a batch has 0.8 of the throughput


class Row(NamedTuple):
    """One line of a table: what who does how often in a round."""

    name: str
    times: int
    turns: Mapping[str, Turn]
    goal: float | None = None
    before: Callable[[], object] = lambda: None
    """Called before each round, untimed."""
    rounds: int | None = None


class Size(NamedTuple):
    """How much is done."""

    rounds: int
    times: int
    """Calls in a round."""
    entries: int
    costs: int
    """Calls, and batches, over which processors are read."""


FULL = Size(rounds=21, times=60, entries=20_000, costs=3_000)
QUICK = Size(rounds=2, times=5, entries=300, costs=20)

SMALL, LARGE = b"v" * 100, b"v" * 30_000
LIST = list(range(10_000))
COUNT = 100  # keys of a batch


# By hand.

_SWAP = b"if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[1], ARGV[2]) return 1"


class ByHand:
    """The same operations, written on the cluster client of a package."""

    def __init__(self, package: ModuleType, host: str, port: int) -> None:
        self._client: Any = getattr(package, CLIENTS[package.__name__])(host=host, port=port)
        self._client.script_load(_SWAP)
        self._swap = sha1(_SWAP, usedforsecurity=False).hexdigest()

    def close(self) -> None:
        self._client.close()

    def __getitem__(self, key: str) -> Any:
        return loads(self._client.get(key))

    def __setitem__(self, key: str, value: Any) -> None:
        self._client.set(key, dumps(value))

    def set(self, key: str, value: Any, ttl: int) -> None:
        self._client.set(key, dumps(value), ex=ttl)

    def __contains__(self, key: str) -> bool:
        return bool(self._client.exists(key))

    def __delitem__(self, key: str) -> None:
        self._client.delete(key)

    def add(self, key: str, value: Any) -> bool:
        return bool(self._client.set(key, dumps(value), nx=True))

    def increment(self, key: str) -> int:
        while True:
            found = self._client.get(key)
            value: int = loads(found) + 1
            if self._client.evalsha(self._swap, 1, key, found, dumps(value)):
                return value

    def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        found = self._client.get(key)
        return loads(found) == expected and bool(self._client.evalsha(self._swap, 1, key, found, dumps(value)))

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        pipeline = self._client.pipeline()
        for key in keys:
            pipeline.get(key)
        return {key: loads(found) for key, found in zip(keys, pipeline.execute(), strict=True) if found is not None}

    def update(self, items: Mapping[str, Any]) -> None:
        pipeline = self._client.pipeline()
        for key, value in items.items():
            pipeline.set(key, dumps(value))
        pipeline.execute()

    def keys(self) -> list[str]:
        """Of all that is there, in no order, some perhaps twice."""
        return [key.decode() for key in self._client.scan_iter(match="entry *", count=1000)]

    def items(self) -> Iterator[tuple[str, Any]]:
        keys = self.keys()
        for at in range(0, len(keys), 500):
            yield from self.get_many(keys[at : at + 500]).items()


# What one does in a round.


def get(mapping: Any, keys: Sequence[str]) -> None:
    for key in keys:
        mapping[key]


def put(mapping: Any, keys: Sequence[str], value: Any) -> None:
    for key in keys:
        mapping[key] = value


def put_ttl(mapping: Any, keys: Sequence[str], value: Any) -> None:
    for key in keys:
        mapping.set(key, value, ttl=3600)


def look_up(mapping: Any, keys: Sequence[str]) -> None:
    for key in keys:
        assert key in mapping


def delete(mapping: Any, keys: Sequence[str]) -> None:
    for key in keys:
        del mapping[key]


def add(mapping: Any, keys: Sequence[str], value: Any) -> None:
    for key in keys:
        assert mapping.add(key, value)


def increment(mapping: Any, keys: Sequence[str]) -> None:
    for key in keys:
        mapping.increment(key)


def swap(mapping: Any, keys: Sequence[str], value: Any) -> None:
    for key in keys:
        assert mapping.compare_and_set(key, value, value)


def remove(mappings: Sequence[Any], keys: Sequence[str]) -> None:
    for mapping in mappings:
        for key in keys:
            with suppress(KeyError):
                del mapping[key]


def walk(iterable: Callable[[], Any]) -> None:
    for _ in iterable():
        pass


# The tables.


def calls(size: Size, who: Mapping[str, Any], safe: Store[Any, Any]) -> Iterator[Row]:
    """One key each: every one is at least one round trip."""
    some = [f"call {number}" for number in range(size.times)]
    new = [f"new {number}" for number in range(size.times)]
    counters = [f"counter {number}" for number in range(size.times)]
    everybody = list(who.values())

    def row(name: str, function: Callable[..., None], *arguments: object, **more: Any) -> Row:
        turns = {each: timed(function, mapping, *arguments) for each, mapping in who.items()}
        return Row(name, size.times, turns, more.pop("goal", CALL), **more)

    yield row("set, 100 B", put, some, SMALL)
    yield row("get, 100 B", get, some)
    yield row("in", look_up, some)
    yield row("compare_and_set", swap, some, SMALL)
    yield row("set with ttl", put_ttl, some, SMALL)
    yield row("get with ttl", get, some)
    yield row("set, 30 kB", put, some, LARGE)
    yield row("get, 30 kB", get, some)
    yield row("add", add, new, SMALL, before=lambda: remove(everybody, new))
    yield row("del", delete, new, before=lambda: [mapping.update(dict.fromkeys(new, SMALL)) for mapping in everybody])
    for mapping in everybody:
        mapping.update(dict.fromkeys(counters, 0))
    yield row("increment", increment, counters)
    few = ["list"] * (size.times // 4 + 1)
    for name, function, more in (("list of 10,000, set", put, (LIST,)), ("list of 10,000, get", get, ())):
        turns = {each: timed(function, mapping, few, *more) for each, mapping in who.items()}
        yield Row(name, len(few), turns, CALL)
    turns = {HAND: timed(put, who[HAND], some, SMALL), STORE: timed(put, safe, some, SMALL)}
    yield Row("set, replicated", size.times, turns)
    turns = {HAND: timed(get, who[HAND], some)}
    for each in STORE, CACHE:
        function = who[each].memoize(_computed, name="computed")
        turns[each] = timed(_call, function, size.times)
    yield Row("memoize, hit", size.times, turns)


def _computed(number: int) -> bytes:
    return SMALL


def _call(function: Callable[[int], bytes], times: int) -> None:
    for _ in range(times):
        function(1)


def batches(size: Size, who: Mapping[str, Any]) -> Iterator[Row]:
    """A hundred keys at once; times are those of one key."""
    times = max(1, size.times // 12)
    for name, value in (("100 B", SMALL), ("30 kB", LARGE)):
        items = {f"batch {number}": value for number in range(COUNT)}
        for what, argument in (("update", items), ("get_many", list(items))):
            turns = {each: timed(_repeat, getattr(mapping, what), argument, times) for each, mapping in who.items()}
            yield Row(f"{what}, {name}", COUNT * times, turns, BATCH)


def _repeat(function: Callable[[Any], object], argument: object, times: int) -> None:
    for _ in range(times):
        function(argument)


def walks(size: Size, who: Mapping[str, Any]) -> Iterator[Row]:
    """Everything that is there; times are those of one entry, but for the last ones."""
    rounds = min(size.rounds, 3)
    for mapping in who.values():
        if not isinstance(mapping, ByHand):
            mapping.clear()
        entries = [f"entry {number}" for number in range(size.entries)]
        for at in range(0, size.entries, 500):
            mapping.update(dict.fromkeys(entries[at : at + 500], SMALL))
    for name in "keys", "items":
        turns = {each: timed(walk, getattr(mapping, name)) for each, mapping in who.items()}
        yield Row(f"{name}(), per entry", size.entries, turns, rounds=rounds)
    mine = {each: who[each] for each in (STORE, CACHE)}
    yield Row("len()", 1, {each: timed(len, mapping) for each, mapping in mine.items()}, rounds=rounds)
    yield Row("first()", 1, {STORE: timed(who[STORE].first)})


def openings(size: Size, cluster: Cluster, scheme: str, package: ModuleType) -> Iterator[Row]:
    def by_hand() -> None:
        ByHand(package, "127.0.0.1", cluster.nodes[0].port).close()

    turns = {HAND: timed(by_hand)}
    for name, kind in (STORE, Store), (CACHE, Cache):
        location = _location(cluster, scheme, name, timeout=29)  # another engine than the one that is open
        turns[name] = timed(lambda location=location, kind=kind: kind(location).close())
    yield Row("open and close", 1, turns)


def _location(cluster: Cluster, scheme: str, name: str, **options: object) -> str:
    return f"{scheme}://{cluster.url(f'{scheme}-{name}', **options).partition('://')[2]}"


def show(row: Row, rounds: int) -> None:
    """Measure a row, and print it."""
    times = interleave(row.turns, row.rounds or rounds, before=row.before)
    line = f"{row.name:<24}"
    verdicts = []
    for name in HAND, STORE, CACHE:
        if name not in times:
            line += f"{'-':>10}" + f"{'':>7}" * (name != HAND)
            continue
        line += f"{median(times[name]) / row.times * 1e6:10,.1f}"
        if name != HAND:
            found = ratio(times[name], times[HAND]) if HAND in times else None
            line += f"{'' if found is None else f'{found:.2f}':>7}"
            if row.goal is not None and found is not None:
                verdicts.append("yes" if found <= row.goal else "NO")
    print(line + (f"   <= {row.goal:.2f} x  {', '.join(verdicts)}" if verdicts else ""), flush=True)


# What the processors, the network and the memory have of it.


class Spent(NamedTuple):
    """What was used up so far."""

    at: float
    client: float
    primaries: float
    replicas: float
    """Seconds of processors."""
    received: int
    sent: int
    """Bytes, as the primaries count them."""


def spent(cluster: Cluster) -> Spent:
    said = [node.info("INFO", "everything") for node in cluster.nodes]
    processors = {"master": 0.0, "slave": 0.0}
    received = sent = 0
    for each in said:
        processors[each["role"]] += float(each["used_cpu_user"]) + float(each["used_cpu_sys"])
        if each["role"] == "master":
            received += int(each["total_net_input_bytes"])
            sent += int(each["total_net_output_bytes"])
    return Spent(perf_counter(), process_time(), processors["master"], processors["slave"], received, sent)


def costs(size: Size, cluster: Cluster, who: Mapping[str, Any]) -> Iterator[str]:
    """Microseconds of processors, and bytes, for each operation."""
    idle = spent(cluster)
    sleep(1)
    idle = Spent(*(after - before for after, before in zip(spent(cluster), idle, strict=True)))
    yield f"{'':<26}{'client us':>11}{'primaries us':>14}{'replicas us':>13}{'bytes in':>10}{'bytes out':>11}"
    some = [f"cost {number}" for number in range(size.costs)]
    batch = dict.fromkeys(some[:COUNT], SMALL)
    times = max(1, size.costs // 20)
    works: list[tuple[str, int, Callable[[Any], None]]] = [
        ("set", size.costs, lambda mapping: put(mapping, some, SMALL)),
        ("get", size.costs, lambda mapping: get(mapping, some)),
        ("update of 100, per key", len(batch) * times, lambda mapping: _repeat(mapping.update, batch, times)),
        ("get_many of 100, per key", len(batch) * times, lambda mapping: _repeat(mapping.get_many, list(batch), times)),
    ]
    for what, count, work in works:
        for name, mapping in who.items():
            before = spent(cluster)
            work(mapping)
            after = spent(cluster)
            each = [(late - early) / count for late, early in zip(after, before, strict=True)]
            seconds = each[0] / idle.at
            primaries, replicas = each[2] - seconds * idle.primaries, each[3] - seconds * idle.replicas
            yield (
                f"{f'{what}, {name}':<36}{each[1] * 1e6:7,.1f}{primaries * 1e6:12,.1f}{replicas * 1e6:13,.1f}"
                f"{each[4]:10,.0f}{each[5]:11,.0f}"
            )


def memory(cluster: Cluster) -> int:
    """Bytes that the primaries use for what is stored: not for replication, nor for clients."""
    total = 0
    for node in cluster.nodes:
        said = node.info("INFO", "everything")
        if said["role"] == "master":
            beside = ("mem_clients_normal", "mem_clients_slaves", "mem_total_replication_buffers")
            total += int(said["used_memory"]) - sum(int(said.get(name, 0)) for name in beside)
    return total


def footprints(size: Size, cluster: Cluster, scheme: str) -> Iterator[str]:
    """Bytes of memory of one primary's copy, for an entry with a key of 12 letters and a value of 100 bytes."""
    yield f"{'':<36}{'bytes':>8}"
    numbers = itertools.count()
    for buckets in 256, 16:
        for index in "yes", "no":
            location = _location(cluster, scheme, f"memory-{next(numbers)}", buckets=buckets, index=index)
            with Store(location) as store:
                before = memory(cluster)
                for at in range(0, size.entries, 500):
                    store.update({f"entry-{number:06}": SMALL for number in range(at, min(size.entries, at + 500))})
                each = (memory(cluster) - before) / size.entries
                store.clear()
            keys = size.entries // buckets
            yield f"{f'index={index}, {keys:,} keys in a bucket':<36}{each:8,.0f}"


def report(size: Size, cluster: Cluster, package: ModuleType, only: str) -> None:
    scheme = package.__name__
    head = f"{'':<24}{HAND:>10}{STORE:>10}{'ratio':>7}{CACHE:>10}{'ratio':>7}   goal"
    with (
        Store[Any, Any](_location(cluster, scheme, STORE)) as store,
        Cache[Any, Any](_location(cluster, scheme, CACHE)) as cache,
        Store[Any, Any](_location(cluster, scheme, "safe"), durability="replicated") as safe,
    ):
        hand = ByHand(package, "127.0.0.1", cluster.nodes[0].port)
        who = {HAND: hand, STORE: store, CACHE: cache}
        for title, rows in (
            ("calls", calls(size, who, safe)),
            (f"batches of {COUNT}, per key", batches(size, who)),
            (f"{size.entries:,} entries", walks(size, who)),
            ("opening", openings(size, cluster, scheme, package)),
        ):
            if only in title:
                print(f"\n{scheme}: {title}, us\n{head}")
                for row in rows:
                    show(row, size.rounds)
        if only in "processors":
            print(f"\n{scheme}: processors and network, for one operation")
            for line in costs(size, cluster, who):
                print(line, flush=True)
        for mapping in store, cache, safe:
            mapping.clear()
        hand.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=__doc__.split(":")[0])
    parser.add_argument("--quick", action="store_true", help="small and short: that it runs, not what it shows")
    parser.add_argument("--server", choices=("valkey", "redis"), default=chosen(), help="the program of the servers")
    parser.add_argument("--client", choices=CLIENTS, help="one package; all that are installed if it is left out")
    parser.add_argument("--only", metavar="NAME", default="", help="only the tables whose title contains this")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    program = find(arguments.server)
    if program is None:
        parser.error(f"no server of {arguments.server} is installed")
    warnings.simplefilter("ignore", UnsealedWarning)
    installed = [name for name in CLIENTS if arguments.client in (None, name) and importlib.util.find_spec(name)]
    with memory_directory() as directory, Cluster.start(directory, program) as cluster:
        said = cluster.nodes[0].info("INFO", "server")
        server = next(f"{name[:-8]} {said[name]}" for name in ("valkey_version", "redis_version") if name in said)
        versions = packages(["objstore", *CLIENTS, "hiredis", "libvalkey"])
        print(f"{today()}, {machine(directory)}")
        print(f"Python {platform.python_version()}, {', '.join(map(' '.join, versions.items()))}, server {server}")
        for name in installed:
            report(size, cluster, importlib.import_module(name), arguments.only)
        if arguments.only in "memory":
            print("\nmemory of one copy, for one entry with a key of 12 letters and a value of 100 bytes")
            for line in footprints(size, cluster, installed[0]):
                print(line, flush=True)


if __name__ == "__main__":
    main()
