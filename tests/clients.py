"""Clients of a store on servers: processes that work while the servers fail, and remember what they were told.

Each client has keys of its own, so it knows what it must find: what was acknowledged last, or where the outcome is
unknown, one of several values.  `Writing` does what may be done twice (set, get, delete, get_many, update), `Counting`
what may not (increment, compare_and_set, add, pop), and that on keys that all share.

The clients are forked by `working`, which tells whether each goes on, and ends them all; then they report.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from children import results
from servers import wait_for

from objstore import OutcomeUnknown, Store, StoreError

ABSENT = "absent"
_count = struct.Struct("<Q")


@dataclass
class Report:
    """What a client was told."""

    calls: int = 0
    worst: float = 0.0
    """Seconds of the longest call."""
    writes: int = 0
    """Acknowledged ones."""
    errors: list[str] = field(default_factory=list)
    unknown: Counter[Any] = field(default_factory=Counter)
    """How often the outcome was unknown, by what it was about."""
    done: Counter[Any] = field(default_factory=Counter)
    """How often something was done for sure, likewise."""
    wrong: list[str] = field(default_factory=list)
    """What was read and cannot be."""
    possible: dict[Any, set[Any]] = field(default_factory=dict)
    """What each key of its own may hold now."""


class Client:
    """One that works until it is told to stop.

    `pause`: seconds between two calls, because the servers need the processors, too.
    """

    def __init__(self, location: str, pause: float = 0.001, **options: Any) -> None:
        self._location = location
        self._pause = pause
        self._options = options

    def open(self) -> Store[Any, Any]:
        return Store(self._location, **self._options)

    def run(self, store: Store[Any, Any], number: int, rng: Any, go_on: Callable[[int], bool]) -> Report:
        report = Report()
        while go_on(report.calls):
            started = time.monotonic()
            try:
                self.step(store, number, rng, report)
            except StoreError as error:
                report.errors.append(f"{type(error).__name__}: {error}; from {error.__cause__!r}")
            report.worst = max(report.worst, time.monotonic() - started)
            report.calls += 1
            time.sleep(self._pause)
        return report

    def step(self, store: Store[Any, Any], number: int, rng: Any, report: Report) -> None:
        raise NotImplementedError


class Writing(Client):
    """Sets, reads and deletes keys of its own.

    `keys` is how many it has; with `may_be_unknown` an unknown outcome is no error.
    """

    def __init__(self, location: str, keys: int = 60, may_be_unknown: bool = False, **options: Any) -> None:
        super().__init__(location, **options)
        self._keys = keys
        self._may_be_unknown = may_be_unknown

    def step(self, store: Store[Any, Any], number: int, rng: Any, report: Report) -> None:
        key = (number, rng.randrange(self._keys))
        some = [(number, n) for n in rng.sample(range(self._keys), 10)]
        value = (report.calls, "x" * rng.randrange(200))
        kind = rng.choice(["set", "set", "delete", "update", "get", "get_many", "in"])
        if kind == "set":
            self._write({key: value}, report, store.__setitem__, key, value)
        elif kind == "delete":
            self._write({key: ABSENT}, report, store.delete, key)
        elif kind == "update":
            self._write(dict.fromkeys(some, value), report, store.update, dict.fromkeys(some, value))
        elif kind == "get":
            self._read({key: store.get(key, ABSENT)}, report)
        elif kind == "get_many":
            found = store.get_many(some)
            self._read({each: found.get(each, ABSENT) for each in some}, report)
        elif (key in store) not in {value != ABSENT for value in report.possible.get(key, {ABSENT})}:
            report.wrong.append(f"{key} in the store: not {report.possible.get(key, {ABSENT})}")

    def _write(self, new: dict[Any, Any], report: Report, call: Callable[..., object], *args: Any) -> None:
        try:
            call(*args)
        except StoreError as error:
            for key, value in new.items():
                report.possible.setdefault(key, {ABSENT}).add(value)
            if not (self._may_be_unknown and isinstance(error, OutcomeUnknown)):
                raise
            report.unknown["write"] += 1
        else:
            report.possible.update({key: {value} for key, value in new.items()})
            report.writes += len(new)

    def _read(self, found: dict[Any, Any], report: Report) -> None:
        for key, value in found.items():
            if value not in report.possible.get(key, {ABSENT}):
                report.wrong.append(f"{key}: {value!r}, not {report.possible.get(key, {ABSENT})!r}")
                report.possible[key] = {value}


TOKENS = 1500
SHARED = 6


class Counting(Client):
    """Counts in `SHARED` counters, in two ways, adds keys that others add, too, and takes tokens."""

    def step(self, store: Store[Any, Any], number: int, rng: Any, report: Report) -> None:
        which = rng.randrange(SHARED)
        kind = rng.choice(["increment", "compare_and_set", "add", "pop"])
        about: tuple[str, int] = (kind, which)
        try:
            if kind == "increment":
                store.increment(about)
                done = True
            elif kind == "compare_and_set":
                found = store[about]
                done = store.compare_and_set(about, found, found + 1)
            elif kind == "add":
                about = (kind, report.calls // 20)
                done = store.add(about, number)
            else:
                about = (kind, rng.randrange(TOKENS))
                done = store.pop(about, ABSENT) != ABSENT
        except OutcomeUnknown:
            report.unknown[about] += 1
        else:
            report.done[about] += done


def prepare_counting(store: Store[Any, Any]) -> None:
    """What `Counting` begins with."""
    store.update({("compare_and_set", n): 0 for n in range(SHARED)} | {("pop", n): n for n in range(TOKENS)})


def check_counting(store: Store[Any, Any], reports: Sequence[Report]) -> None:
    """What is there is what was done, and of what is unknown any part."""
    done = sum((report.done for report in reports), Counter())
    unknown = sum((report.unknown for report in reports), Counter())
    found = dict(store.items())
    for kind in "increment", "compare_and_set":
        for n in range(SHARED):
            value, least, most = found.get((kind, n), 0), done[kind, n], done[kind, n] + unknown[kind, n]
            assert least <= value <= most, f"{kind} {n}: {value}, not {least} to {most}"
    for about in {about for about in {*done, *unknown} if about[0] == "add"}:
        assert done[about] <= 1, f"{about} was added {done[about]} times"
        assert (about in found) or not done[about], f"{about} was added, and is not there"
        assert done[about] or unknown[about] or about not in found, f"{about} is there, and nobody added it"
    for about in (("pop", n) for n in range(TOKENS)):
        assert done[about] <= 1, f"{about} was given to {done[about]}"
        assert about not in found or not done[about], f"{about} was taken, and is there"
        assert about in found or done[about] or unknown[about], f"{about} is gone, and nobody took it"


class _ClientFailed(Exception):
    """A client raised what it should not; its report says what."""


class Load:
    """Clients at work."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reports: list[Report] = []
        self._shared = mmap.mmap(-1, (count + 1) * _count.size)

    def stop(self) -> None:
        _count.pack_into(self._shared, 0, 1)

    def _calls(self, number: int) -> int:
        return _count.unpack_from(self._shared, (number + 1) * _count.size)[0]

    def go_on(self, number: int, calls: int) -> bool:
        """In a client: whether it is to go on, with how many calls it has made."""
        _count.pack_into(self._shared, (number + 1) * _count.size, calls)
        return not self._is_over()

    def wait(self, calls: int = 30, among: Sequence[int] | None = None, seconds: float = 60) -> None:
        """Wait until each client (of `among`) has made so many more calls.  Raises TimeoutError."""
        among = range(self.count) if among is None else among
        goal = {number: self._calls(number) + calls for number in among}
        wait_for(lambda: self._is_over() or all(self._calls(n) >= c for n, c in goal.items()), seconds, "clients work")
        if self._is_over():
            raise _ClientFailed

    def _is_over(self) -> bool:
        return bool(_count.unpack_from(self._shared, 0)[0])


@contextmanager
def working(clients: Sequence[Client], rng: Any) -> Iterator[Load]:
    """Fork the clients, which are at work when the block begins, and stop when it ends; then `reports` are there."""
    load = Load(len(clients))
    seeds = [rng.randrange(1 << 32) for _ in clients]

    def be(number: int) -> Callable[[Callable[[Any], None]], None]:
        def run(send: Callable[[Any], None]) -> None:
            own = type(rng)(seeds[number])
            try:
                with clients[number].open() as store:
                    send("ready")
                    send(clients[number].run(store, number, own, lambda calls: load.go_on(number, calls)))
            except BaseException:
                load.stop()
                raise

        return run

    running = [results(be(number), 90) for number in range(len(clients))]
    try:
        for client in running:
            next(client)
        try:
            load.wait(1)
            yield load
        except _ClientFailed:
            pass  # said by the reports
        load.stop()
        load.reports = [next(client) for client in running]
    finally:
        load.stop()
        for client in running:
            client.close()


def lost(store: Store[Any, Any], reports: Sequence[Report]) -> list[str]:
    """What a store does not hold as its clients were told, also while they worked.

    Whatever is lost, the store agrees with itself: what it lists is what it has.
    """
    held = dict(store.items())
    assert sorted(held) == list(store)
    assert len(held) == len(store)
    found = [each for report in reports for each in report.wrong]
    for report in reports:
        keys = list(report.possible)
        there = store.get_many(keys)
        for key in keys:
            value = there.get(key, ABSENT)
            assert held.get(key, ABSENT) == value, f"{key} is listed with {held.get(key)!r} and read as {value!r}"
            if value not in report.possible[key]:
                found.append(f"{key}: {value!r}, not {report.possible[key]!r}")
    return found
