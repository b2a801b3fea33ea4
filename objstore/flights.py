"""Flights: computations that are under way in this process, and those who wait for them.

A flight has one leader, a thread or a task of an event loop, and threads and tasks of whatever loops wait until it is
over.  What is computed, how, and where it is stored is none of its business: see `computing`, which says, too, who may
wait for whom.

A flight is over as soon as its leader has left the frame that leads it, whether or not he could say so; and those who
wait look again by and by.  So whoever is interrupted, anywhere, leaves nobody waiting.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

from objstore.engines.base import Claim, process
from objstore.lookout import Lookout

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from concurrent.futures import ThreadPoolExecutor

# Seconds after which one who waits looks again, woken or not.
_LOOK_AGAIN = 0.25

# How many look, store and claim for coroutines at the same time.
_HELPERS = 4


class Leader:
    """What the frame of a leader holds: when it is gone, nobody leads."""

    __slots__ = ("__weakref__",)


# How a flight may have ended.
STORED = "stored"  # the others look
MADE = "made"  # it was not stored: the others get the leader's object
FAILED = "failed"  # the others get his error
GIVEN_UP = "given up"  # one of the others leads


class Flight:
    """One computation of one name in this process, from the first who asks until it is over."""

    def __init__(
        self, name: bytes, flights: dict[bytes, ref[Flight]], leader: Leader, loop: AbstractEventLoop | None
    ) -> None:
        self.name = name
        self._flights = flights  # where others find it
        self.leader = ref(leader)
        self.loop = loop  # None: a thread leads
        self.thread = get_ident()  # which it runs in
        self._born = process.generation
        self.parent = computing_flight()
        self.claim: Claim | None = None
        self.since = 0.0
        self.is_outside = False  # whether it waits for another process
        self.awaits: list[Flight] = []  # what its computation waits for
        self.wakes: list[Callable[[], object]] = []  # of those who wait for it
        self.task: Task[None] | None = None
        self.end: str | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        flights[name] = ref(self)
        here.in_threads.setdefault(self.thread, {})[ref(self)] = None
        if self.parent is not None:
            self.parent.awaits.append(self)

    def is_over(self) -> bool:
        """Whether it has ended, or nobody leads it any more."""
        if self.end is not None or self.leader() is None:
            return True
        return self.loop is not None and self.loop.is_closed()

    def is_stopped(self) -> bool:
        """Whether it may never go on: the loop that it runs in does not run."""
        return self.loop is not None and not self.loop.is_running()

    def finish(self, end: str, result: object = None, error: BaseException | None = None) -> None:
        """Say how it ended, give up the claim, and wake those who wait.  What the first call says counts."""
        self._give_up_claim()  # first: whoever leads next finds it free
        with here.lock:
            wakes, self.wakes = self.wakes, []
            if self.end is None:
                self.result, self.error, self.end = result, error, end
                self._withdraw()
        self._give_up_claim()  # which it may have got meanwhile
        if self._born == process.generation:  # else those who wait are in the parent
            for wake in wakes:
                wake()

    def take(self, claim: Claim | None) -> bool:
        """Have a claim, if there is one, until it is over; whether there is."""
        self.claim = claim
        if self.end is not None:
            self._give_up_claim()
        return claim is not None

    def _give_up_claim(self) -> None:
        claim, self.claim = self.claim, None
        if claim is not None:
            claim.release()

    def _withdraw(self) -> None:
        self.task = None
        mine = self._flights.get(self.name)
        if mine is not None and mine() is self:
            del self._flights[self.name]
        beside = here.in_threads.get(self.thread, {})
        beside.pop(ref(self), None)
        if not beside:
            here.in_threads.pop(self.thread, None)
        if self.parent is not None:
            self.parent.awaits.remove(self)

    def wake(self) -> None:
        """Let those who wait look at it."""
        for wake in list(self.wakes):
            wake()

    def enter(self, inside: Flight | None, wake: Callable[[], object]) -> None:
        """One more waits, maybe inside a computation.  Under the lock."""
        self.wakes.append(wake)
        if inside is not None:
            inside.awaits.append(self)

    def exit(self, inside: Flight | None, wake: Callable[[], object]) -> None:
        """One less.  With the last of those who wait for a task, it is cancelled."""
        with here.lock:
            with suppress(ValueError):  # it is over
                self.wakes.remove(wake)
            if inside is not None:
                inside.awaits.remove(self)
            task, loop = self.task, self.loop
            if self.wakes or self.end is not None or task is None or loop is None:
                return
        self.finish(GIVEN_UP)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(task.cancel)


class _Inside(NamedTuple):
    """Where a context is: inside the computation of a flight, which is inside of others."""

    flight: ref[Flight]  # which a context does not keep, with its result
    around: _Inside | None


_inside: ContextVar[_Inside | None] = ContextVar("objstore.computing", default=None)


def _innermost() -> _Inside | None:
    """Where this context is.

    A task may outlive the computation that began it, and is inside of the next one around it then.
    """
    place = _inside.get()
    while place is not None and ((flight := place.flight()) is None or flight.is_over()):
        place = place.around
    return place


def computing_flight() -> Flight | None:
    """The flight inside whose computation this is."""
    place = _innermost()
    return None if place is None else place.flight()


def go_inside(flight: Flight) -> Token[_Inside | None]:
    """From now on this context is inside the computation of a flight."""
    return _inside.set(_Inside(ref(flight), _innermost()))


def leave_it(token: Token[_Inside | None]) -> None:
    """The context is where it was before."""
    _inside.reset(token)


class _Here:
    """What there is once in a process; a forked child has another."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As there is nothing under way.  Never waits."""
        # Held for a moment, and by one who is interrupted by a signal or a destructor, again.
        self.lock = threading.RLock()
        self.blocked: dict[int, Flight] = {}  # what threads wait for
        self.in_threads: dict[int, dict[ref[Flight], None]] = {}  # what runs in them
        self.lookout = Lookout(self.lock)
        self.helpers: ThreadPoolExecutor | None = None

    def is_any_in(self, thread: int, but: Flight | None = None) -> bool:
        """Whether a computation goes on in a thread.  Under the lock."""
        flights = (reference() for reference in self.in_threads.get(thread, ()))
        return any(flight is not None and flight is not but and not flight.is_over() for flight in flights)

    def get_helpers(self) -> ThreadPoolExecutor:
        """The threads that look, store and claim for coroutines."""
        with self.lock:
            if self.helpers is None:
                from concurrent.futures import ThreadPoolExecutor

                self.helpers = ThreadPoolExecutor(_HELPERS, "objstore-helper")
            return self.helpers


here = _Here()
_inherited: list[object] = []


def _begin_anew() -> None:
    # Nothing of it is ended in the child: threads that it does not have may be in the middle.
    _inherited.append(vars(here).copy())
    here.begin()


os.register_at_fork(after_in_child=_begin_anew)


class _Delivered:
    """What the lookout delivers: a claim, or an error."""

    claim: Claim | None = None
    error: Exception | None = None

    def pass_to(self, flight: Flight) -> None:
        """Give the claim to a flight, or raise the error."""
        flight.take(self.claim)
        self.claim = None
        if self.error is not None:
            raise self.error


class Gate(_Delivered):
    """Where a thread waits for something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        with suppress(RuntimeError):  # it is open
            self._lock.release()

    def deliver(self, claim: Claim | None, error: Exception | None) -> None:
        self.claim, self.error = claim, error
        self.open()

    def wait(self) -> bool:
        """Whether it was opened; not for longer than until one should look again."""
        return self._lock.acquire(timeout=_LOOK_AGAIN)


class AsyncGate(_Delivered):
    """Where a task waits for something, which any thread may tell it."""

    def __init__(self) -> None:
        from asyncio import Event, get_running_loop

        self._loop = get_running_loop()
        self._event = Event()

    def open(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._event.set)

    def deliver(self, claim: Claim | None, error: Exception | None) -> None:
        self.claim, self.error = claim, error
        self.open()
        if self._loop.is_closed():
            self.claim = None  # which gives it up

    async def wait(self) -> bool:
        """The same."""
        from asyncio import timeout

        try:
            async with timeout(_LOOK_AGAIN):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


# Waiting


def _would_close_a_circle(flight: Flight, current: Flight | None, thread: int | None) -> bool:
    """Whether a flight waits, by whatever detour, for a computation or for anything in a thread.  Under the lock."""
    seen: set[Flight] = set()
    ahead = [flight]
    while ahead:
        each = ahead.pop()
        if each in seen or each.is_over():
            continue
        if each is current or each.thread == thread:
            return True
        seen.add(each)
        ahead += each.awaits
        blocked_on = here.blocked.get(each.thread)
        if blocked_on is not None:
            ahead.append(blocked_on)
    return False


def wait_for(flight: Flight) -> bool:
    """Block this thread until a flight is over.  False where it may not wait, or not any more."""
    gate = Gate()
    me = get_ident()
    current = computing_flight()
    with here.lock:
        if flight.is_over():
            return True
        is_inside = current is not None or here.is_any_in(me)
        if (is_inside and flight.is_outside) or _would_close_a_circle(flight, current, me):
            return False
        before = here.blocked.get(me)
        here.blocked[me] = flight
        flight.enter(current, gate.open)
    try:
        while True:
            woken = gate.wait()
            if flight.is_over():
                return True
            if (is_inside and flight.is_outside) or (not woken and flight.is_stopped()):
                return False
    finally:
        if before is None:
            here.blocked.pop(me, None)
        else:
            here.blocked[me] = before
        flight.exit(current, gate.open)


async def wait_for_async(flight: Flight, leads: bool) -> bool:
    """The same for a task, which blocks nothing.  For the one who began the flight, too."""
    gate = AsyncGate()
    current = computing_flight()
    with here.lock:
        if flight.is_over():
            return True
        if current is not None and not leads and (flight.is_outside or _would_close_a_circle(flight, current, None)):
            return False
        flight.enter(current, gate.open)
    try:
        while True:
            woken = await gate.wait()
            if flight.is_over():
                return True
            if (current is not None and flight.is_outside) or (not woken and flight.is_stopped()):
                return False
    finally:
        flight.exit(current, gate.open)
