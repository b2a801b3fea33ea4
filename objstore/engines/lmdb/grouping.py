"""Group commit: writes of several threads that wait at the same time share one transaction and one sync.

Where a commit waits for the disk, threads that write queue up behind it.  One of them leads: it takes what waits,
runs all of it in one transaction, commits, and wakes the others, each with its own result.  While a commit
is under way the next ones gather, so nobody waits longer than in a queue of single commits.

A leader also waits a moment, a part of what a commit takes, for as many as there were lately: they are on their
way back, and without them every second commit would be half empty.  A thread that writes alone never waits.

An error belongs to the one who caused it: if anything in a group fails, nothing of it was applied, and each runs
again by itself, in its own thread.

Signals are handled in the main thread, between any two steps of it.  So that thread leads for nobody but
itself, leadership is a lock in a `with` block, and being woken is never relied on: who waits looks again by and by.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import perf_counter, sleep
from typing import Any

from objstore.engines.base import OWN_TRANSACTION
from objstore.engines.lmdb.transactions import LmdbWriter
from objstore.errors import OutcomeUnknown, TransactionError

Call = Callable[[LmdbWriter], Any]
"""What one caller does in a transaction; it may be run again."""

# How long a leader waits for the others, as a part of what a commit takes.
_PATIENCE = 0.5

# Seconds after which one who waits looks again, woken or not.
_LOOK_AGAIN = 0.05


class _Waiting:
    """A call that waits for its turn."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.result: Any = None
        # What is so unless a leader says otherwise.
        self.error: Exception | None = OutcomeUnknown(
            "the thread that wrote for this one was stopped; look what is stored, and write again"
        )
        self.is_done = False
        self.runs_alone = False  # something in its group failed
        self.wake: SimpleQueue[None] = SimpleQueue()


class GroupCommit:
    """Runs calls in transactions: `run` runs them all in one, commits, and gives their results."""

    def __init__(self, run: Callable[[Sequence[Call]], list[Any]]) -> None:
        self._run = run
        self._leadership = threading.Lock()
        self._leader = 0  # the thread that has it, or had it last
        self._waiting: deque[_Waiting] = deque()
        self._lately = 1  # how many came together
        self._seconds = 0.0  # that a commit takes

    def transact(self, call: Call) -> Any:
        """The result of `call(writer)`, when it is on the disk.  Raises what it raises.

        Raises TransactionError where this thread leads already: it came here from inside, by a signal or by the
        garbage collector.
        """
        is_main = threading.current_thread() is threading.main_thread()
        me = threading.get_ident()
        if self._leadership.locked():
            if self._leader == me:
                raise TransactionError(OWN_TRANSACTION)
        elif is_main:
            return self._run_alone(call)
        mine = _Waiting(call)
        self._waiting.append(mine)
        try:
            while not mine.is_done:
                if self._leadership.locked():
                    with suppress(Empty):
                        mine.wake.get(timeout=_LOOK_AGAIN)
                    continue
                with self._leadership:
                    self._leader = me  # first, and without a call, after which a signal would be handled
                    if not mine.is_done:
                        self._lead(mine, alone=is_main)
                self._wake_next()
        finally:
            if not mine.is_done:
                with suppress(ValueError):  # somebody leads it already
                    self._waiting.remove(mine)
        if mine.runs_alone:
            return self._run_alone(call)
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _run_alone(self, call: Call) -> Any:
        me = threading.get_ident()
        with self._leadership:
            self._leader = me
            result = self._run([call])[0]
        self._wake_next()
        return result

    def _lead(self, mine: _Waiting, alone: bool) -> None:
        """Run what waits, `mine` first."""
        self._waiting.remove(mine)
        group = [mine]
        try:
            if not alone:
                self._gather(group)
            began = perf_counter()
            results = self._run([each.call for each in group])
            self._seconds += (perf_counter() - began - self._seconds) / 8
            for each, result in zip(group, results, strict=True):
                each.result, each.error = result, None
        except Exception as exc:  # noqa: BLE001  (whatever it is, it goes to the one who caused it)
            mine.error = exc
            for each in group if len(group) > 1 else ():
                each.runs_alone = True
        finally:
            for each in group:
                each.is_done = True
                each.wake.put(None)

    def _gather(self, group: list[_Waiting]) -> None:
        """Take what waits into the group, and what will come in a moment."""
        if self._lately > 1:
            until = perf_counter() + _PATIENCE * self._seconds
            while len(self._waiting) + 1 < self._lately and perf_counter() < until:
                sleep(0.00001)
        while self._waiting:
            with suppress(IndexError):  # one who was interrupted took itself away
                group.append(self._waiting.popleft())
        self._lately = max(len(group), self._lately - 1)

    def _wake_next(self) -> None:
        with suppress(IndexError):
            self._waiting[0].wake.put(None)
