"""The engine on servers: one store of a Valkey or Redis server, or of a cluster of them.

It is a tree of bytes like the others, spread over buckets (see `layout`), without transactions and snapshots: each
write of one key is one script (see `scripts`), and many keys are many steps, sent together.  What it keeps about
records by itself (their order, when they end, their tags) others keep in the tree.

Engines are shared by all who open the same location in a process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

from objstore.engines.base import (
    DURABILITY_KEY,
    IDENTITY_KEY,
    MAX_SERVED_BYTES,
    Claim,
    Engine,
    Held,
    Reader,
    Stored,
    Users,
    Waiting,
    Writer,
)
from objstore.engines.redis import scripts
from objstore.engines.redis.driver import Driver
from objstore.engines.redis.layout import BUCKETS, LAYOUT_KEY, Layout, Plan, home, unpack
from objstore.engines.redis.leases import Leases, WaitingForLease
from objstore.engines.redis.location import Location, parse
from objstore.engines.redis.routing import WRITE, NodeGone, Router
from objstore.engines.redis.shards import ServerShards
from objstore.errors import StoreError, StoreNotFound, UnsupportedOperation

P = ParamSpec("P")
R = TypeVar("R")

DURABILITIES = ("process", "replicated")


class RedisEngine(Engine):
    """A store on servers."""

    name = "redis"
    is_shared = True
    max_record_bytes = MAX_SERVED_BYTES

    def __init__(self, where: Location, router: Router, layout: Layout, durability: str) -> None:
        self.location = where.text
        self.durability = durability
        self.capabilities = frozenset({"ordered"} if layout.index else ())
        self._router = router
        self._layout = layout
        self._leases = Leases(router, layout)
        self._users = Users(self._close_if_unused)
        self._call, self._bucket = router.call, layout.bucket
        self._slots, self._prefixes = layout.slots, layout.prefixes

    def get(self, key: bytes) -> bytes | None:
        bucket = self._bucket(key)
        return self._call(self._slots[bucket], (b"GET", self._prefixes[bucket] + key))  # type: ignore[no-any-return]

    view = get

    def contains(self, key: bytes, beside: bytes) -> tuple[bool, bytes | None]:
        shards = self.read()
        return shards.contains(key), shards.get(beside)

    def read(self, views: bool = False) -> ServerShards:
        return ServerShards(self._router, self._layout, not self.read_only)

    def snapshot(self) -> Reader:
        self._refuse("snapshot", "it has no common point in time; read the keys one by one")

    def held(self) -> tuple[Held, ...]:
        return ()

    def write(self) -> Writer:
        self._refuse("transaction", "use compare_and_set, modify or edit on single keys")

    def _refuse(self, operation: str, hint: str) -> NoReturn:
        raise UnsupportedOperation(operation, self.name, hint)

    def transact(self, function: Callable[Concatenate[Any, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function(shards, ...)`: each of its writes is a step of its own."""
        return function(self.read(), *args, **kwargs)

    def is_writing_here(self) -> bool:
        return False

    def claim(self, name: bytes) -> Claim | None:
        return self._leases.take(name)

    def await_claim(self, name: bytes) -> Waiting:
        return WaitingForLease(self._leases, name)

    def moment(self) -> float:
        return time.time()  # the clocks of machines agree as well as those who look after them see to it

    def inspection(self) -> None:
        """There is no file."""

    def audited(self) -> Iterator[tuple[bytes, Stored]]:
        return self.read().scan_everything()

    def sync(self) -> None:
        """Nothing to do: what a server writes to its disk, and when, is set there (appendfsync)."""

    def stats(self) -> Mapping[str, int]:
        return {}

    def retain(self, user: object = None) -> None:
        self._users.add(user)

    def release(self, user: object = None, wait: bool = True) -> None:
        self._users.remove(user)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with _opening:
            if not self._users.are_there():
                for key in [key for key, engine in engines.items() if engine is self]:
                    del engines[key]
                self.close()

    def close(self) -> None:
        """Close the connections; nobody uses it."""
        self._leases.end()
        self._router.close()


# The engines of this process.
engines: dict[tuple[Any, ...], RedisEngine] = {}
_opening = threading.RLock()  # a store that is collected inside of it is closed inside of it


def _new_lock() -> None:
    global _opening
    _opening = threading.RLock()


os.register_at_fork(after_in_child=_new_lock)


def open_redis(
    location: str,
    flag: str,
    initial: Mapping[bytes, bytes],
    durability: str | None,
    check: Callable[[bytes | None, str], object],
    user: object,
    evictable: bool,
) -> RedisEngine:
    """The engine at a location, retained for `user`; see `engines.connect`.

    Where records may not be `evictable`, servers that evict are refused.
    """
    where = parse(location)
    if durability not in (None, *DURABILITIES):
        raise ValueError(f"durability on servers is 'process' or 'replicated', not {durability!r}")
    key = (where, durability)
    with _opening:
        engine = None if flag == "n" else engines.get(key)
        if engine is not None:
            engine.retain(user)
    if engine is not None:
        try:
            stored = engine.get(IDENTITY_KEY)
            if stored is not None or not evictable:
                check(stored, where.text)
                return engine
        except BaseException:
            engine.release(user)
            raise
        engine.release(user)  # what the cache is was evicted: it is opened as if nobody had it open
    made = _open(where, flag, initial, durability, check, evictable)
    with _opening:
        engine = engines[key] = made if flag == "n" else engines.get(key, made)
        engine.retain(user)
    if engine is not made:  # somebody was faster
        made.close()
    return engine


def _open(
    where: Location,
    flag: str,
    initial: Mapping[bytes, bytes],
    durability: str | None,
    check: Callable[[bytes | None, str], object],
    evictable: bool,
) -> RedisEngine:
    driver = Driver(where)
    router = Router(driver, where)
    try:
        router.knows(scripts.TEXTS)
        slot = driver.slot_of(home(where.name))
        plan, recorded = _look(router, slot, where, flag, check, evictable)
        if not evictable:
            _refuse_eviction(router, where)
        if plan is not None and flag == "n":
            _wipe(ServerShards(router, Layout(where.name, plan, driver.slot_of), True))
            plan = None
        if plan is None:
            asked = Plan(where.buckets or BUCKETS, evictable is False if where.index is None else where.index)
            records = {**initial, DURABILITY_KEY: (durability or "process").encode()}
            _create(router, slot, where, asked, records)
            plan, recorded = _look(router, slot, where, "w", check, evictable)
            assert plan is not None
        for name, value in (("buckets", where.buckets), ("index", where.index)):
            if value is not None and value != getattr(plan, name):
                raise StoreError(
                    f"the store at {where.text!r} was made with {name}={getattr(plan, name)!r}; leave {name} out of "
                    f"the location, or copy the store into a new one"
                )
        chosen = durability or (recorded if recorded in DURABILITIES else "process")
        router.replicas = where.replicas if chosen == "replicated" else 0
        return RedisEngine(where, router, Layout(where.name, plan, driver.slot_of), chosen)
    except BaseException:
        router.close()
        raise


def _look(
    router: Router,
    slot: int,
    where: Location,
    flag: str,
    check: Callable[[bytes | None, str], object],
    evictable: bool,
) -> tuple[Plan | None, str | None]:
    """The plan and the durability of what is there, if that is what its opener takes it for.

    What a cache is may be evicted as its records are; then it is made once more, around what is left.
    """
    prefix = home(where.name)
    keys = (LAYOUT_KEY, IDENTITY_KEY, DURABILITY_KEY)
    layout, identity, durability = router.call_many([(slot, (b"GET", prefix + key)) for key in keys])
    if layout is None or (identity is None and evictable and flag != "n"):
        if flag in ("r", "w"):
            raise StoreNotFound(f"there is no store at {where.text!r}; flag 'c' makes one")
        return None, None
    plan = unpack(layout, where.text)
    if flag != "n":
        check(identity, where.text)
    return plan, (durability or b"").decode(errors="replace")


def _create(router: Router, slot: int, where: Location, plan: Plan, records: Mapping[bytes, bytes]) -> None:
    """Make a store, unless somebody else does that in the same moment: all of its first records, or none."""
    prefix = home(where.name)
    first = {LAYOUT_KEY: plan.pack(), **records}
    names = [prefix + b"\x06", *(prefix + key for key in first)]
    arguments = [each for item in first.items() for each in item]
    command = (b"EVALSHA", scripts.CREATE.digest, b"%d" % len(names), *names, *arguments)
    router.call(slot, command, WRITE)  # which does nothing where it was done


def _wipe(shards: ServerShards) -> None:
    """Remove everything, the layout record last."""
    shards.remove_between(b"\x04", None, 0)
    for prefix in [key for key, _ in shards.scan(b"\x01", b"\x02")]:
        shards.forget_namespace(b"\x04" + prefix[1:])
    shards.remove_between(b"\x00m", b"\x04", 0)
    shards.remove_between(b"\x00", b"\x00m", 0)


def _refuse_eviction(router: Router, where: Location) -> None:
    """Raise StoreError where a server would drop what is stored to make room."""
    for node in router.primaries():
        try:
            answer = router.call_node(node, (b"INFO", b"memory"))
        except NodeGone:  # somebody else has its slots by now
            _refuse_eviction(router, where)
            return
        text = answer.decode() if isinstance(answer, bytes) else str(answer)
        figures = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        policy = figures.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreError(
                f"the server {node} of {where.text!r} has maxmemory-policy {policy}: it drops what is stored when its "
                f"memory is full. Set it to noeviction (CONFIG SET maxmemory-policy noeviction) for a Store, or open a "
                f"Cache"
            )
