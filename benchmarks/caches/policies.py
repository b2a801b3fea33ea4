"""How often a cache has what is asked for, beside the same policy done exactly.

The traces are one where few keys are asked for often (Zipf), and one where scans of keys that are asked for once come
in between.  The exact policies are simulated here, with a dictionary each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from random import Random
from statistics import mean
from typing import Any

from benchmarks.caches.contenders import diskcache, ours
from benchmarks.caches.sizes import Size, grid
from benchmarks.caches.team import Team, together

SKEW = 0.9
KEYS_FOR_EACH = 10  # keys of a trace, for each entry of the largest cache
SCANS = 0.3  # of the accesses of a mixed trace
SHARING = 4  # processes, at most

PEERS = {"lru": "least-recently-used", "lfu": "least-frequently-used", "fifo": "least-recently-stored"}


def policies(size: Size, directory: str, team: Team) -> Iterator[str]:
    """Hit ratios of one process, and of several that share a cache."""
    keys = KEYS_FOR_EACH * max(size.held)
    yield "### Hit ratios of the policies"
    yield ""
    yield (
        f"Traces of {size.trace:,} accesses to {keys:,} keys (Zipf, exponent {SKEW}; in the other, {SCANS:.0%} are "
        "scans of keys that come once), of which the first quarter fills the cache. In brackets, how many points more "
        "than the exact policy. diskcache culls 10 at a time, as it is."
    )
    yield ""
    rows = chain.from_iterable(
        compared(kind, maker(1, size.trace, keys), held, held == max(size.held), f"{directory}/{kind} {held}")
        for kind, maker in TRACES.items()
        for held in size.held
    )
    yield from grid(HEADS, rows)
    yield f"{min(SHARING, size.team)} processes share one cache, each with a trace of its own, as fast as they can:"
    yield ""
    yield from grid(
        ["trace", "policy", "entries", "exact, taking turns", "objstore"], shared(size, keys, directory, team)
    )


def compared(kind: str, trace: Sequence[int], held: int, with_peer: bool, directory: str) -> Iterator[list[str]]:
    """A row for each policy."""
    for policy, peer in PEERS.items():
        exactly = ratio_of(trace, EXACT[policy](held))
        with ours(f"{directory} {policy}", max_entries=held, policy=policy) as cache:
            mine = ratio_of(trace, through(cache.get, cache.__setitem__))
        row = [kind, policy, f"{held:,}", f"{exactly:.1%}", beside(mine, exactly)]
        if diskcache is not None and with_peer:
            with counting(f"{directory} peer {policy}", held, peer) as cache:
                theirs = ratio_of(trace, through(cache.get, cache.set))
            row.append(beside(theirs, exactly))
        yield row + ["-"] * (len(HEADS) - len(row))


HEADS = ["trace", "policy", "entries", "exact", "objstore", "diskcache"]


def beside(ratio: float, exactly: float) -> str:
    return f"{ratio:.1%} ({(ratio - exactly) * 100:+.1f})"


def counting(path: str, held: int, policy: str) -> Any:
    """A cache of diskcache that takes the number of its entries for its size, and so has a bound for them."""

    class Counting(diskcache.Cache):  # type: ignore[misc]
        def volume(self) -> int:
            return len(self)

    return Counting(path, size_limit=held + 1, eviction_policy=policy)


# Traces


def zipf(seed: int, accesses: int, keys: int) -> list[int]:
    """Keys, of which the n-th is asked for as often as 1 / n ** SKEW."""
    weights = list(accumulate(1 / number**SKEW for number in range(1, keys + 1)))
    names = list(range(keys))
    Random(0).shuffle(names)  # so that no order of keys says anything
    return Random(seed).choices(names, cum_weights=weights, k=accesses)


def scanned(seed: int, accesses: int, keys: int) -> list[int]:
    """The same, and between its parts scans of a hundredth of the trace, each over keys of its own."""
    length = max(accesses // 100, 1)
    random = Random(-seed)
    usual = iter(zipf(seed, accesses, keys))
    once = iter(range(10 * keys * seed + keys, 10 * keys * seed + keys + 2 * accesses))
    parts = (once if random.random() < SCANS else usual for _ in range(accesses // length))
    return [next(part) for part in parts for _ in range(length)]


# Policies


Access = Callable[[int], bool]
"""Ask for a key, and put it there where it is missing; whether it was there."""


def ratio_of(trace: Sequence[int], access: Access) -> float:
    """The part of the accesses that found something, once a quarter is over."""
    warm = len(trace) // 4
    hits = [access(key) for key in trace]
    return mean(hits[warm:])


def through(get: Callable[[int], Any], put: Callable[[int, int], object]) -> Access:
    def access(key: int) -> bool:
        if get(key) is not None:
            return True
        put(key, key)
        return False

    return access


def lru(held: int) -> Access:
    there: OrderedDict[int, None] = OrderedDict()

    def access(key: int) -> bool:
        if key in there:
            there.move_to_end(key)
            return True
        there[key] = None
        if len(there) > held:
            there.popitem(last=False)
        return False

    return access


def fifo(held: int) -> Access:
    there: OrderedDict[int, None] = OrderedDict()

    def access(key: int) -> bool:
        if key in there:
            return True
        there[key] = None
        if len(there) > held:
            there.popitem(last=False)
        return False

    return access


def lfu(held: int) -> Access:
    """Of those that were used as seldom, the one goes that was not used for longest."""
    uses: dict[int, int] = {}
    by_uses: dict[int, OrderedDict[int, None]] = {}

    def access(key: int) -> bool:
        there = key in uses
        if not there and len(uses) == held:
            del uses[by_uses[min(number for number, keys in by_uses.items() if keys)].popitem(last=False)[0]]
        if there:
            del by_uses[uses[key]][key]
        uses[key] = uses.get(key, 0) + 1
        by_uses.setdefault(uses[key], OrderedDict())[key] = None
        return there

    return access


EXACT = {"lru": lru, "lfu": lfu, "fifo": fifo}


# Several processes


def shared(size: Size, keys: int, directory: str, team: Team) -> Iterator[list[str]]:
    held = max(size.held)
    processes = min(SHARING, size.team)
    members = team.members(processes)
    for kind, maker in TRACES.items():
        traces = [maker(number + 1, size.trace // 2, keys) for number in range(processes)]
        turns = list(chain.from_iterable(zip(*traces, strict=True)))
        for policy in PEERS:
            path = f"{directory}/shared {kind} {policy}"
            ours(path, max_entries=held, policy=policy).close()
            said = together(members, "benchmarks.caches.policies:run", path, kind, size.trace // 2, keys)
            exactly = ratio_of(turns, EXACT[policy](held))
            yield [kind, policy, f"{held:,}", f"{exactly:.1%}", beside(mean(said), exactly)]


TRACES = {"Zipf": zipf, "with scans": scanned}


def run(path: str, kind: str, accesses: int, keys: int, worker: int) -> float:
    """What one process does."""
    with ours(path, ttl=3600) as cache:
        return ratio_of(TRACES[kind](worker + 1, accesses, keys), through(cache.get, cache.__setitem__))
