"""Compute once: of all who want the same result at the same time, one computes it, and the others wait for him.

What is computed has a name (bytes).  In one process whoever asks first leads a flight (see `flights`), and the others
wait for it.  Between processes the leader has the engine's claim on the name, or waits until he gets it (see
`lookout`); a claim dies with its process, so nobody waits for one who was killed.

This knows no keys, records or codecs, and no files: a `Job` says how to look, compute and store.

Nobody may wait for himself, by whatever detour.  These are the rules that see to it:

* A flight knows what its computation waits for, and a thread what it is blocked on.  Who would close a circle by
  waiting computes himself.
* Who is inside a computation never waits for another process, nor for a flight that does: there, too, somebody may
  wait for him, and nobody sees the whole circle.
* Who blocks a thread in which computations of an event loop are under way is inside of these.
* Who has a transaction open waits for nobody: whoever computes may wait for its end, to store.

(Threads that a computation starts by itself, without its context, are not known to be inside.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Generic, ParamSpec, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary, ref

from objstore.computing.flights import (
    FAILED,
    GIVEN_UP,
    MADE,
    STORED,
    AsyncGate,
    Flight,
    Gate,
    Leader,
    computing_flight,
    go_inside,
    here,
    leave_it,
    wait_for,
    wait_for_async,
)
from objstore.computing.lookout import Awaited, Deliver
from objstore.engines.base import Engine, process
from objstore.transaction import is_in_transaction

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")


class Busy:
    """What one gets who does not want to wait."""

    def __repr__(self) -> str:
        return "BUSY"


BUSY = Busy()


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
        """What was left after that moment (see `Engine.moment`), the result and None or None and the error.

        None for nothing.
        """


class Job(Storage[R], Protocol[R]):
    """How one result is found, computed and stored."""

    def make(self) -> R:
        """Compute it."""


class AsyncJob(Storage[R], Protocol[R]):
    """The same for a coroutine function.  All but `make` is called in another thread."""

    def make(self) -> Awaitable[R]:
        """Compute it."""


_computations: WeakKeyDictionary[Engine, Computations] = WeakKeyDictionary()


def computations_of(engine: Engine) -> Computations:
    """What this process computes for those who use an engine."""
    with here.lock:
        found = _computations.get(engine)
        if found is None:
            found = _computations[engine] = Computations(engine)
        return found


class _Nothing:
    """Stands for what was not found."""


_NOTHING = _Nothing()


class Computations:
    """The flights of one engine, by the names of what they compute: see `computations_of`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = ref(engine)
        self._born = process.generation
        self.flights: dict[bytes, ref[Flight]] = {}

    # For threads

    def run(self, job: Job[R], *, wait: bool = True, look_first: bool = True) -> R | Busy:
        """The result of a job: what is stored, or what it makes now, or what somebody else does.

        `wait=False` gives BUSY where somebody else is computing it.  `look_first=False` leaves out the first look, for
        one who has looked.  Raises what the computation raises, whoever made it, or the engine.

        In a thread that has a transaction open, of whatever store, it is computed and not stored: whoever computes it
        may wait for the end of that transaction.
        """
        if look_first:
            found = _looked(job)
            if not isinstance(found, _Nothing):
                return found
        if is_in_transaction() or self._get_engine().is_writing_here():
            return job.make()
        while True:
            leader = Leader()
            flight = self._board(job.name, leader, None)
            if flight.leader() is leader:
                try:
                    return self._lead(flight, job, wait)
                finally:
                    del flight  # which knows the error, which knows this frame
            del leader
            if not wait:
                return BUSY
            if not wait_for(flight):
                return _alone(job)
            try:
                result = _outcome(flight, job)
            finally:
                del flight  # which knows the error, which knows this frame
            if not isinstance(result, _Nothing):
                return result

    def _board(self, name: bytes, leader: Leader, loop: AbstractEventLoop | None) -> Flight:
        """The flight of this name; if there was none, `leader` leads it."""
        with here.lock:
            if self._born != process.generation:  # whoever leads those is in the parent
                self._born, self.flights = process.generation, {}
            reference = self.flights.get(name)
            flight = None if reference is None else reference()
            if flight is not None:
                if not flight.is_over():
                    return flight
                flight.finish(GIVEN_UP)  # nobody has said so
            return Flight(name, self.flights, leader, loop)

    def _get_engine(self) -> Engine:
        engine = self._engine()
        assert engine is not None, "whoever calls has it"
        return engine

    def _lead(self, flight: Flight, job: Job[R], wait: bool) -> R | Busy:
        result: R | None = None
        try:
            found = self._begin(flight, job)
            if found is BUSY:
                if not wait:
                    flight.finish(GIVEN_UP)
                    return BUSY
                found = self._get_claim(flight, job)
            if isinstance(found, _Landed):
                flight.finish(found.end, found.result)
                return found.result
            token = go_inside(flight)
            try:
                result = job.make()
            finally:
                leave_it(token)
            flight.finish(_settle(flight, job, result), result)
            return result
        except Exception as exc:
            _leave(flight, job, None, exc)
            flight.finish(FAILED, error=exc)
            raise
        finally:
            flight.finish(GIVEN_UP)  # if it is not finished yet
            del flight  # which knows the error, which knows this frame
            result = None  # which may hold one, too: that of a computation was raised beneath this frame

    def _begin(self, flight: Flight, job: Storage[R]) -> _Landed[R] | Busy | None:
        """Claim, and then look once more: what was stored meanwhile, if anything; BUSY where the claim is taken."""
        flight.since = self._get_engine().moment()
        if not flight.take(self._get_engine().claim(job.name)):
            return BUSY
        found = _looked(job)
        return None if isinstance(found, _Nothing) else _Landed(STORED, found)

    def _get_claim(self, flight: Flight, job: Job[R]) -> _Landed[R] | None:
        """Wait until this process has the claim, where it may wait; what the one who had it computed, if anything."""
        with here.lock:
            may_wait = computing_flight() is None and not here.is_any_in(get_ident(), but=flight)
        if may_wait:
            gate = Gate()
            with self._awaiting(flight, job, gate.deliver) as is_looked_for:
                while is_looked_for and not gate.wait():
                    pass
            gate.pass_to(flight)
        return _look_after(flight, job)

    @contextmanager
    def _awaiting(self, flight: Flight, job: Storage[R], deliver: Deliver) -> Iterator[bool]:
        """The lookout waits for the claim of a flight in this block, if it can; those inside a computation do not."""
        lookout = here.lookout
        awaited = Awaited(self._get_engine().await_claim(job.name), deliver)
        with here.lock:
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
            found = await off_loop(_looked, job)
            if not isinstance(found, _Nothing):
                return found
        if is_in_transaction() or self._get_engine().is_writing_here():
            return await job.make()
        loop = get_running_loop()
        while True:
            leader = Leader()
            flight = self._board(job.name, leader, loop)
            leads = flight.leader() is leader
            if leads:
                flight.task = loop.create_task(self._fly(flight, leader, job, wait))
            elif not wait:
                return BUSY
            del leader
            if not await wait_for_async(flight, leads):
                return await _alone_async(job)
            try:
                result = await self._outcome(flight, job, leads)
            finally:
                del flight  # which knows the error, which knows this frame
            if not isinstance(result, _Nothing):
                return result

    async def _outcome(self, flight: Flight, job: AsyncJob[R], leads: bool) -> R | Busy | _Nothing:
        """What one gets of a flight that is over; nothing, if it must be done again."""
        if not leads:
            if flight.end == STORED:
                return await off_loop(_outcome, flight, job)
            return _outcome(flight, job)
        if flight.error is not None:
            try:
                raise flight.error
            finally:
                del flight  # which knows the error, which knows this frame
        return _NOTHING if flight.end == GIVEN_UP and flight.result is not BUSY else flight.result

    async def _fly(self, flight: Flight, leader: Leader, job: AsyncJob[R], wait: bool) -> None:
        """Lead a flight in a task of its own."""
        may_wait = computing_flight() is None
        result: R | None = None
        try:
            found = await off_loop(self._begin, flight, job)
            if found is BUSY:
                if not wait:
                    flight.finish(GIVEN_UP, BUSY)
                    return
                found = await self._get_claim_async(flight, job, may_wait)
            if isinstance(found, _Landed):
                flight.finish(found.end, found.result)
                return
            go_inside(flight)
            result = await job.make()
            flight.finish(await off_loop(_settle, flight, job, result), result)
        except Exception as exc:  # noqa: BLE001  (it goes to those who wait)
            try:
                await off_loop(_leave, flight, job, None, exc)
            finally:
                flight.finish(FAILED, error=exc)
        except BaseException as exc:
            flight.finish(GIVEN_UP, error=exc)
            raise
        finally:
            flight.finish(GIVEN_UP)  # if it is not finished yet
            del flight, leader
            result = None  # as in `_lead`

    async def _get_claim_async(self, flight: Flight, job: AsyncJob[R], may_wait: bool) -> _Landed[R] | None:
        if may_wait:
            gate = AsyncGate()
            with self._awaiting(flight, job, gate.deliver) as is_looked_for:
                while is_looked_for and not await gate.wait():
                    pass
            gate.pass_to(flight)
        return await off_loop(_look_after, flight, job)


class _Landed(Generic[R]):
    """What a leader found where others have computed it."""

    def __init__(self, end: str, result: R) -> None:
        self.end = end
        self.result = result


# What a leader does


def _looked(job: Storage[R]) -> R | _Nothing:
    try:
        return job.look()
    except KeyError:
        return _NOTHING


def _look_after(flight: Flight, job: Storage[R]) -> _Landed[R] | None:
    """What another process, which has had the claim, stored or left."""
    found = _looked(job)
    if not isinstance(found, _Nothing):
        return _Landed(STORED, found)
    left = job.left(flight.since)
    if left is None:
        return None
    result, error = left
    if error is not None:
        raise error
    return _Landed(MADE, cast(R, result))


def _settle(flight: Flight, job: Storage[R], result: R) -> str:
    """Store a result, or leave it for others; which of the two."""
    if job.keep(result):
        return STORED
    _leave(flight, job, result, None)
    return MADE


def _leave(flight: Flight, job: Storage[R], result: R | None, error: Exception | None) -> None:
    claim = flight.claim
    if claim is not None and claim.is_awaited():
        with suppress(Exception):  # those who wait compute it then, and this caller has his result
            job.leave(result, error)


def _outcome(flight: Flight, job: Storage[R]) -> R | _Nothing:
    """What one gets of a flight that another led and that is over; nothing, if somebody must lead anew."""
    if flight.end == STORED:
        found = _looked(job)
        return flight.result if isinstance(found, _Nothing) else found
    if flight.end == MADE:
        return flight.result  # type: ignore[no-any-return]
    if flight.end == FAILED:
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
    await off_loop(job.keep, result)
    return result


async def off_loop(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in one of the helpers, in the context of this task."""
    from asyncio import get_running_loop

    call = partial(copy_context().run, function, *args, **kwargs)
    try:
        future = get_running_loop().run_in_executor(here.get_helpers(), call)
    except RuntimeError:  # the interpreter ends, and begins no threads any more
        return call()
    try:
        return await future
    finally:
        del future  # which knows the error, which knows this frame
