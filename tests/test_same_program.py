"""One program, everywhere: with only its location changed it does the same on a machine and on a cluster.

What it uses is what a program that may outgrow its machine should use: the mapping, ranges, expiry and tags, single
atomic operations, a cache, memoized functions.
"""

from __future__ import annotations

import asyncio
from datetime import date
from itertools import count

import pytest

from objstore import Cache, Store

_numbers = count()


def mapping(store):
    store["config"] = {"width": 3}
    store.update({("user", number): {"id": number, "visits": 0} for number in range(50)})
    store |= {date(2026, 1, day): day for day in range(1, 31)}
    yield store["config"], store.get("nothing"), "config" in store, len(store)
    yield list(store)[:5], list(reversed(store))[:5], store.first(), store.last()
    yield list(store.items())[-3:], sorted(store.keys() & {"config", "other"})
    yield store.setdefault("config", 1), store.setdefault("new", 1), store.pop("new"), store.pop("new", None)
    del store["config"]
    yield "config" in store, store.delete("config"), store.get_many([("user", 1), "nothing"])


def ranges(store):
    store.update({f"2026-{month:02}-{day:02}": month * day for month in range(1, 4) for day in range(1, 29)})
    yield list(store.range("2026-01-27", "2026-02-02")), len(store.range(prefix="2026-03"))
    yield list(store.range(prefix=("user", 4), reverse=True)), list(store.range(prefix="2026-01", reverse=True))[:2]
    yield store.range(prefix="2026-02").clear(), len(store.range("2026-01", "2026-03"))


def atomic(store):
    yield store.add("counter", 0), store.add("counter", 1), store.increment("counter", 5), store.increment("other")
    yield store.compare_and_set("counter", 5, 7), store.compare_and_set("counter", 5, 8), store["counter"]
    yield store.modify("counter", lambda value: value * 2)
    with store.edit("cart", default_factory=list) as cart:
        cart.append("book")
    with store.edit("cart") as cart:
        cart.append("pen")
    yield store["cart"]


def expiry_and_tags(store):
    store.set("session", "a", ttl=1000, tags=("web", "eu"))
    store.set("other", "b", tags=("web",))
    yield 999 < store.ttl("session") <= 1000, store.ttl("other"), store.entry("session").tags
    yield list(store.range(tag="web")), store.touch("session", None), store.ttl("session"), store.delete_tag("eu")
    yield list(store.range(tag="web"))


def namespaces(store):
    users = store.namespace("users", codec="json")
    users["a"] = [1]
    yield store.namespaces(), dict(users), "a" in store
    store.drop_namespace("users")
    yield store.namespaces(), dict(users)


def computing(store):
    calls = []

    @store.memoize(name="square", ttl=1000)
    def square(number, *, power=2):
        calls.append(number)
        return number**power

    @store.memoize(name="cube")
    async def cube(number):
        calls.append(number)
        return number**3

    async def cubes():
        return await asyncio.gather(*(cube(number % 3) for number in range(9)))

    yield square(3), square(number=3, power=2), square(4), calls[:]
    yield asyncio.run(cubes()), sorted(calls)
    yield store.get_or_compute("report", lambda: "made"), store.get_or_compute("report", lambda: "again")
    yield square.cache_info().hits, square.cache_contains(3), square.cache_delete(3), square(3), calls.count(3)


def caching(cache):
    cache.update({number: str(number) for number in range(100)})
    cache["large"] = bytes(1_000_000)
    yield len(cache), cache[7], len(cache["large"]), sorted(key for key in cache if key != "large")
    yield 50 < cache.ttl(7) <= 60, cache.get("nothing"), cache.delete_many(range(90, 110)), cache.pop(1)
    yield cache.stats().hits, cache.stats().misses
    cache.clear()
    yield dict(cache)


PROGRAMS = [mapping, ranges, atomic, expiry_and_tags, namespaces, computing]


def outcome(location):
    """What the programs say, one after the other, in one store."""
    with Store(location) as store:
        said = [(program.__name__, list(program(store))) for program in PROGRAMS]
        assert store.check().ok
    with Cache(location + "-cache", ttl=60) as cache:
        said += [(program.__name__, list(program(cache))) for program in (caching, computing)]
        cache.set("a", 1, tags=["red"])
        assert cache.check().ok
    with Store(location) as store:
        return [*said, list(store.items())]


@pytest.fixture
def places(tmp_path, cluster, single):
    name = f"program-{next(_numbers)}"
    return [str(tmp_path / name), cluster.url(name), single.url(name)]


def test_it_says_the_same_wherever_it_is(places):
    said = [outcome(place) for place in places]
    assert said[1] == said[0]
    assert said[2] == said[0]
