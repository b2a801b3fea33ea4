"""Compute once: of all who want the same result at the same time, one computes it, and the others wait for him.

What is computed has a name (bytes).  In one process whoever asks first leads a *flight*, and the others, threads and
tasks of whatever loops, wait until it is over.  Between processes the leader has the engine's *claim* on the name, or
waits until he gets it; a claim dies with its process, so nobody waits for one who was killed.

This knows no keys, records or codecs, and no files: a `Job` says how to look, compute and store.

Nobody may wait for himself, by whatever detour.  These are the rules that see to it:

* A flight knows what its computation waits for, and a thread what it is blocked on.  Who would close a circle by
  waiting computes himself.
* Who is inside a computation never waits for another process, nor for a flight that does: there, too, somebody may
  wait for him, and nobody sees the whole circle.
* Who blocks a thread in which computations of an event loop are under way is inside of these.

(Threads that a computation starts by itself, without its context, are not known to be inside.)

Who is interrupted anywhere leaves nobody waiting: a flight is over as soon as its leader has left the frame that leads
it, whether or not he could say so.  So being woken is never relied on; who waits looks again by and by.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token, copy_context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary, ref

from objstore.engines.base import Claim, Engine, Waiting, process

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from concurrent.futures import ThreadPoolExecutor

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")

# Seconds after which one who waits looks again, woken or not.
_LOOK_AGAIN = 0.25

# Seconds between two looks at an awaited claim: a part of how long it was awaited, within bounds.
_SHORTEST, _LONGEST, _PART = 0.0005, 0.02, 0.1

# How many look, store and claim for coroutines at the same time.
_HELPERS = 4


class Busy:
    """What one gets who does not want to wait."""

    def __repr__(self) -> str:
        return "BUSY"


BUSY = Busy()


def now() -> float:
    """Seconds, on one clock for all processes of this machine."""
    return time.monotonic() if sys.platform == "linux" else time.time()


class Storage(Protocol[R]):
    """How one result is found and stored."""

    name: bytes

    def look(self) -> R:
        """What is stored, fresh.  Raises KeyError where there is nothing."""

    def keep(self, result: R) -> bool:
        """Store a result; whether it was, so that others find it by `look`."""

    def leave(self, result: R | None, error: Exception | None) -> None:
        """Leave what was not stored, or the error, for those who wait in other processes.

        What cannot be left they compute themselves: whatever this raises is dropped.
        """

    def left(self, since: float) -> tuple[R | None, Exception | None] | None:
        """What was left after that moment (see `now`), the result and None or None and the error; None for nothing."""


class Job(Storage[R], Protocol[R]):
    """How one result is found, computed and stored."""

    def make(self) -> R:
        """Compute it."""


class AsyncJob(Storage[R], Protocol[R]):
    """The same for a coroutine function.  All but `make` is called in another thread."""

    def make(self) -> Awaitable[R]:
        """Compute it."""


class _Leader:
    """What the frame of a leader holds: when it is gone, nobody leads."""

    __slots__ = ("__weakref__",)


# How a flight may have ended.
_STORED = "stored"  # the others look
_MADE = "made"  # it was not stored: the others get the leader's object
_FAILED = "failed"  # the others get his error
_GIVEN_UP = "given up"  # one of the others leads


class _Flight:
    """One computation of one name in this process, from the first who asks until it is over."""

    def __init__(
        self, name: bytes, flights: dict[bytes, ref[_Flight]], leader: _Leader, loop: AbstractEventLoop | None
    ) -> None:
        self.name = name
        self._flights = flights  # where others find it
        self.leader = ref(leader)
        self.loop = loop  # None: a thread leads
        self.thread = get_ident()  # which it runs in
        self._born = process.generation
        self.parent = _computing()
        self.claim: Claim | None = None
        self.since = 0.0
        self.is_outside = False  # whether it waits for another process
        self.awaits: list[_Flight] = []  # what its computation waits for
        self.wakes: list[Callable[[], object]] = []  # of those who wait for it
        self.task: Task[None] | None = None
        self.end: str | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        flights[name] = ref(self)
        _here.in_threads.setdefault(self.thread, {})[ref(self)] = None
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
        with _here.lock:
            claim, self.claim = self.claim, None
        if claim is not None:
            claim.release()  # first: whoever leads next finds it free
        with _here.lock:
            wakes, self.wakes = self.wakes, []
            if self.end is None:
                self.result, self.error, self.end = result, error, end
                self._withdraw()
        if self._born == process.generation:  # else those who wait are in the parent
            for wake in wakes:
                wake()

    def _withdraw(self) -> None:
        self.task = None
        mine = self._flights.get(self.name)
        if mine is not None and mine() is self:
            del self._flights[self.name]
        beside = _here.in_threads.get(self.thread, {})
        beside.pop(ref(self), None)
        if not beside:
            _here.in_threads.pop(self.thread, None)
        if self.parent is not None:
            self.parent.awaits.remove(self)

    def wake(self) -> None:
        """Let those who wait look at it."""
        for wake in list(self.wakes):
            wake()

    def enter(self, inside: _Flight | None, wake: Callable[[], object]) -> None:
        """One more waits, maybe inside a computation.  Under the lock."""
        self.wakes.append(wake)
        if inside is not None:
            inside.awaits.append(self)

    def exit(self, inside: _Flight | None, wake: Callable[[], object]) -> None:
        """One less.  With the last of those who wait for a task, it is cancelled."""
        with _here.lock:
            with suppress(ValueError):  # it is over
                self.wakes.remove(wake)
            if inside is not None:
                inside.awaits.remove(self)
            task, loop = self.task, self.loop
            if self.wakes or self.end is not None or task is None or loop is None:
                return
        self.finish(_GIVEN_UP)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(task.cancel)


class _Inside(NamedTuple):
    """Where a context is: inside the computation of a flight, which is inside of others."""

    flight: ref[_Flight]  # which a context does not keep, with its result
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


def _computing() -> _Flight | None:
    """The flight inside whose computation this is."""
    place = _innermost()
    return None if place is None else place.flight()


def _go_inside(flight: _Flight) -> Token[_Inside | None]:
    return _inside.set(_Inside(ref(flight), _innermost()))


class _Here:
    """What there is once in a process; a forked child has another."""

    def __init__(self) -> None:
        # Held for a moment, and by one who is interrupted by a signal or a destructor, again.
        self.lock = threading.RLock()
        self.computations: WeakKeyDictionary[Engine, Computations] = WeakKeyDictionary()
        self.blocked: dict[int, _Flight] = {}  # what threads wait for
        self.in_threads: dict[int, dict[ref[_Flight], None]] = {}  # what runs in them
        self.lookout = _Lookout(self.lock)
        self.helpers: ThreadPoolExecutor | None = None

    def is_any_in(self, thread: int, but: _Flight | None = None) -> bool:
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


class _Awaited:
    """A claim that a leader waits for: `deliver(claim, error)` is called with one of the two."""

    def __init__(self, waiting: Waiting, deliver: Callable[[Claim | None, Exception | None], object]) -> None:
        self.waiting = waiting
        self.deliver = deliver
        self.began = self.due = time.monotonic()


class _Lookout:
    """The one thread of a process that looks whether awaited claims are free, as long as there are any."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._awaited: dict[_Awaited, None] = {}
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    def add(self, awaited: _Awaited) -> bool:
        """Look whether it is free from now on; False where there can be no thread, as when the interpreter ends."""
        with self._lock:
            self._awaited[awaited] = None
            if self._thread is None:
                # The last to be registered is the first to be called: before stores close.
                atexit.unregister(_end)
                atexit.register(_end)
                self._is_ending = False
                thread = threading.Thread(target=self._look_out, name="objstore-lookout", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
        self._news.set()
        return True

    def remove(self, awaited: _Awaited) -> None:
        with self._lock:
            self._awaited.pop(awaited, None)
        awaited.waiting.close()
        self._news.set()

    def end(self) -> None:
        """The interpreter ends: nobody gets anything any more."""
        self._is_ending = True

    def _look_out(self) -> None:
        while True:
            self._news.clear()
            with self._lock:
                awaited = list(self._awaited)
                if not awaited or self._is_ending:
                    self._thread = None
                    return
            for each in awaited:
                if each.due <= time.monotonic():
                    self._look(each)
            pause = min(each.due for each in awaited) - time.monotonic()
            del awaited, each  # what was delivered is not kept
            self._news.wait(max(pause, _SHORTEST))

    def _look(self, awaited: _Awaited) -> None:
        claim = error = None
        try:
            claim = awaited.waiting.poll()
        except Exception as exc:  # noqa: BLE001  (it goes to the one who waits)
            error = exc
        if claim is None and error is None:
            moment = time.monotonic()
            awaited.due = moment + min(max(_PART * (moment - awaited.began), _SHORTEST), _LONGEST)
            return
        with self._lock:
            is_awaited = awaited in self._awaited and not self._is_ending
            self._awaited.pop(awaited, None)
        if is_awaited:
            awaited.deliver(claim, error)
        elif claim is not None:
            claim.release()


_here = _Here()
_inherited: list[object] = []


def _end() -> None:
    _here.lookout.end()


def _begin_anew() -> None:
    global _here
    _inherited.append(_here)  # nothing of it is ended here: threads that the child does not have may be in the middle
    _here = _Here()


os.register_at_fork(after_in_child=_begin_anew)


def computations_of(engine: Engine) -> Computations:
    """What this process computes for those who use an engine."""
    here = _here
    with here.lock:
        found = here.computations.get(engine)
        if found is None:
            found = here.computations[engine] = Computations(engine)
        return found


class _Nothing:
    """Stands for what was not found."""


_NOTHING = _Nothing()


class Computations:
    """The flights of one engine, by the names of what they compute: see `computations_of`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)
        self._born = process.generation
        self.flights: dict[bytes, ref[_Flight]] = {}

    # For threads

    def run(self, job: Job[R], *, wait: bool = True, look_first: bool = True) -> R | Busy:
        """The result of a job: what is stored, or what it makes now, or what somebody else does.

        `wait=False` gives BUSY where somebody else is computing it.  `look_first=False` leaves out the first look, for
        one who has looked.  Raises what the computation raises, whoever made it, or the engine.

        In a thread that has a transaction of this engine open, it is computed and not stored: whoever stores waits for
        the end of that transaction.
        """
        if look_first:
            found = _looked(job)
            if not isinstance(found, _Nothing):
                return found
        if self._get_engine().is_writing_here():
            return job.make()
        while True:
            leader = _Leader()
            flight = self._board(job.name, leader, None)
            if flight.leader() is leader:
                try:
                    return self._lead(flight, job, wait)
                finally:
                    del flight  # which knows the error, which knows this frame
            del leader
            if not wait:
                return BUSY
            if not _wait_for(flight):
                return _alone(job)
            result = _outcome(flight, job)
            if not isinstance(result, _Nothing):
                return result

    def _board(self, name: bytes, leader: _Leader, loop: AbstractEventLoop | None) -> _Flight:
        """The flight of this name; if there was none, `leader` leads it."""
        with _here.lock:
            if self._born != process.generation:  # whoever leads those is in the parent
                self._born, self.flights = process.generation, {}
                _here.computations[self._get_engine()] = self
            reference = self.flights.get(name)
            flight = None if reference is None else reference()
            if flight is not None:
                if not flight.is_over():
                    return flight
                flight.finish(_GIVEN_UP)  # nobody has said so
            return _Flight(name, self.flights, leader, loop)

    def _get_engine(self) -> Engine:
        engine = self._engine()
        assert engine is not None, "whoever calls has it"
        return engine

    def _lead(self, flight: _Flight, job: Job[R], wait: bool) -> R | Busy:
        try:
            found = self._begin(flight, job)
            if found is BUSY:
                if not wait:
                    flight.finish(_GIVEN_UP)
                    return BUSY
                found = self._get_claim(flight, job)
            if isinstance(found, _Landed):
                flight.finish(found.end, found.result)
                return found.result
            token = _go_inside(flight)
            try:
                result = job.make()
            finally:
                _inside.reset(token)
            flight.finish(_settle(flight, job, result), result)
            return result
        except Exception as exc:
            _leave(flight, job, None, exc)
            flight.finish(_FAILED, error=exc)
            raise
        finally:
            flight.finish(_GIVEN_UP)  # if it is not finished yet
            del flight  # which knows the error, which knows this frame

    def _begin(self, flight: _Flight, job: Storage[R]) -> _Landed[R] | Busy | None:
        """Claim, and then look once more: what was stored meanwhile, if anything; BUSY where the claim is taken."""
        flight.since = now()
        flight.claim = self._get_engine().claim(job.name)
        if flight.claim is None:
            return BUSY
        found = _looked(job)
        return None if isinstance(found, _Nothing) else _Landed(_STORED, found)

    def _get_claim(self, flight: _Flight, job: Job[R]) -> _Landed[R] | None:
        """Wait until this process has the claim, where it may wait; what the one who had it computed, if anything."""
        with _here.lock:
            may_wait = _computing() is None and not _here.is_any_in(get_ident(), but=flight)
        if may_wait:
            gate = _Gate()
            with self._awaiting(flight, job, gate.deliver) as is_looked_for:
                while is_looked_for and not gate.wait():
                    pass
            gate.pass_to(flight)
        return _look_after(flight, job)

    @contextmanager
    def _awaiting(
        self, flight: _Flight, job: Storage[R], deliver: Callable[[Claim | None, Exception | None], object]
    ) -> Iterator[bool]:
        """The lookout waits for the claim of a flight in this block, if it can; those inside a computation do not."""
        lookout = _here.lookout
        awaited = _Awaited(self._get_engine().await_claim(job.name), deliver)
        with _here.lock:
            flight.is_outside = True
            flight.wake()
        try:
            yield lookout.add(awaited)
        finally:
            lookout.remove(awaited)
            flight.is_outside = False

    # For tasks

    async def run_async(self, job: AsyncJob[R], *, wait: bool = True, look_first: bool = True) -> R | Busy:
        """The same for a coroutine function, without blocking the loop.

        The computation runs in a task of its own, and is cancelled with the last who waits for it.
        """
        from asyncio import get_running_loop

        if look_first:
            found = await _helped(_looked, job)
            if not isinstance(found, _Nothing):
                return found
        if self._get_engine().is_writing_here():
            return await job.make()
        loop = get_running_loop()
        while True:
            leader = _Leader()
            flight = self._board(job.name, leader, loop)
            leads = flight.leader() is leader
            if leads:
                flight.task = loop.create_task(self._fly(flight, leader, job, wait))
            elif not wait:
                return BUSY
            del leader
            if not await _wait_for_async(flight, leads):
                return await _alone_async(job)
            result = await self._outcome(flight, job, leads)
            if not isinstance(result, _Nothing):
                return result

    async def _outcome(self, flight: _Flight, job: AsyncJob[R], leads: bool) -> R | Busy | _Nothing:
        """What one gets of a flight that is over; nothing, if it must be done again."""
        if not leads:
            if flight.end == _STORED:
                return await _helped(_outcome, flight, job)
            return _outcome(flight, job)
        if flight.error is not None:
            try:
                raise flight.error
            finally:
                del flight  # which knows the error, which knows this frame
        return _NOTHING if flight.end == _GIVEN_UP and flight.result is not BUSY else flight.result

    async def _fly(self, flight: _Flight, leader: _Leader, job: AsyncJob[R], wait: bool) -> None:
        """Lead a flight in a task of its own."""
        may_wait = _computing() is None
        try:
            found = await _helped(self._begin, flight, job)
            if found is BUSY:
                if not wait:
                    flight.finish(_GIVEN_UP, BUSY)
                    return
                found = await self._get_claim_async(flight, job, may_wait)
            if isinstance(found, _Landed):
                flight.finish(found.end, found.result)
                return
            _go_inside(flight)
            result = await job.make()
            flight.finish(await _helped(_settle, flight, job, result), result)
        except Exception as exc:  # noqa: BLE001  (it goes to those who wait)
            try:
                await _helped(_leave, flight, job, None, exc)
            finally:
                flight.finish(_FAILED, error=exc)
        except BaseException as exc:
            flight.finish(_GIVEN_UP, error=exc)
            raise
        finally:
            flight.finish(_GIVEN_UP)  # if it is not finished yet
            del flight, leader

    async def _get_claim_async(self, flight: _Flight, job: AsyncJob[R], may_wait: bool) -> _Landed[R] | None:
        if may_wait:
            gate = _AsyncGate()
            with self._awaiting(flight, job, gate.deliver) as is_looked_for:
                while is_looked_for and not await gate.wait():
                    pass
            gate.pass_to(flight)
        return await _helped(_look_after, flight, job)


class _Landed(Generic[R]):
    """What a leader found where others have computed it."""

    def __init__(self, end: str, result: R) -> None:
        self.end = end
        self.result = result


class _Delivered:
    """What the lookout delivers: a claim, or an error."""

    claim: Claim | None = None
    error: Exception | None = None

    def pass_to(self, flight: _Flight) -> None:
        """Give the claim to a flight, or raise the error."""
        flight.claim, self.claim = self.claim, None
        if self.error is not None:
            raise self.error


class _Gate(_Delivered):
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


class _AsyncGate(_Delivered):
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


# What a leader does


def _looked(job: Storage[R]) -> R | _Nothing:
    try:
        return job.look()
    except KeyError:
        return _NOTHING


def _look_after(flight: _Flight, job: Storage[R]) -> _Landed[R] | None:
    """What another process, which has had the claim, stored or left."""
    found = _looked(job)
    if not isinstance(found, _Nothing):
        return _Landed(_STORED, found)
    left = job.left(flight.since)
    if left is None:
        return None
    result, error = left
    if error is not None:
        raise error
    return _Landed(_MADE, cast(R, result))


def _settle(flight: _Flight, job: Storage[R], result: R) -> str:
    """Store a result, or leave it for others; which of the two."""
    if job.keep(result):
        return _STORED
    _leave(flight, job, result, None)
    return _MADE


def _leave(flight: _Flight, job: Storage[R], result: R | None, error: Exception | None) -> None:
    claim = flight.claim
    if claim is not None and claim.is_awaited():
        with suppress(Exception):  # those who wait compute it then, and this caller has his result
            job.leave(result, error)


# Waiting for a flight


def _would_close_a_circle(flight: _Flight, current: _Flight | None, thread: int | None) -> bool:
    """Whether a flight waits, by whatever detour, for a computation or for anything in a thread.  Under the lock."""
    seen: set[_Flight] = set()
    ahead = [flight]
    while ahead:
        each = ahead.pop()
        if each in seen or each.is_over():
            continue
        if each is current or each.thread == thread:
            return True
        seen.add(each)
        ahead += each.awaits
        blocked_on = _here.blocked.get(each.thread)
        if blocked_on is not None:
            ahead.append(blocked_on)
    return False


def _wait_for(flight: _Flight) -> bool:
    """Block this thread until a flight is over.  False where it may not wait, or not any more."""
    gate = _Gate()
    me = get_ident()
    current = _computing()
    with _here.lock:
        if flight.is_over():
            return True
        is_inside = current is not None or _here.is_any_in(me)
        if (is_inside and flight.is_outside) or _would_close_a_circle(flight, current, me):
            return False
        before = _here.blocked.get(me)
        _here.blocked[me] = flight
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
            _here.blocked.pop(me, None)
        else:
            _here.blocked[me] = before
        flight.exit(current, gate.open)


async def _wait_for_async(flight: _Flight, leads: bool) -> bool:
    """The same for a task, which blocks nothing.  For the one who began the flight, too."""
    gate = _AsyncGate()
    current = _computing()
    with _here.lock:
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


def _outcome(flight: _Flight, job: Storage[R]) -> R | _Nothing:
    """What one gets of a flight that another led and that is over; nothing, if somebody must lead anew."""
    if flight.end == _STORED:
        found = _looked(job)
        return flight.result if isinstance(found, _Nothing) else found
    if flight.end == _MADE:
        return flight.result  # type: ignore[no-any-return]
    if flight.end == _FAILED:
        assert flight.error is not None
        try:
            raise flight.error
        finally:
            del flight  # which knows the error, which knows this frame
    return _NOTHING


# Computing beside a flight that cannot be waited for


def _alone(job: Job[R]) -> R:
    result = job.make()
    job.keep(result)
    return result


async def _alone_async(job: AsyncJob[R]) -> R:
    result = await job.make()
    await _helped(job.keep, result)
    return result


async def _helped(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in one of the helpers, in the context of this task."""
    from asyncio import get_running_loop

    call = partial(copy_context().run, function, *args, **kwargs)
    try:
        future = get_running_loop().run_in_executor(_here.get_helpers(), call)
    except RuntimeError:  # the interpreter ends, and begins no threads any more
        return call()
    return await future
