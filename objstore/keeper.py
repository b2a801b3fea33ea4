"""The keeper: one thread that writes down what is read of caches where nobody writes.

A process that writes takes along what it has read (see `cache`).  For one that only reads, this does it, once a second
and at its end, for all its caches; the thread is there only while something is read.
"""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import suppress
from functools import cache
from weakref import WeakKeyDictionary

from objstore import eviction
from objstore.engines.base import Engine
from objstore.errors import StoreError
from objstore.usage import MOST_NOTED, Usage

_usages: WeakKeyDictionary[Engine, Usage] = WeakKeyDictionary()
_usages_lock = threading.RLock()


def usage_of(engine: Engine) -> Usage:
    """What this process has used of a cache that it has open."""
    _stop_at_the_end()
    with _usages_lock:
        return _usages.setdefault(engine, Usage())


@cache
def _stop_at_the_end() -> None:
    """Once, when there is an engine: what is registered later is called earlier, before that is closed."""
    atexit.register(keeper.stop)


def _all_usages() -> list[tuple[Engine, Usage]]:
    with _usages_lock:  # or it changes while it is copied
        return list(_usages.items())


def write_down(engine: Engine, usage: Usage) -> bool:
    """Write down a batch of what was read; whether there was anything, and it could be.

    Beside an explicit transaction it could not: that may last, and nobody is to wait for what is not needed.  (Other
    writes have no age, and are over at once.)
    """
    if not usage.has_any():
        return False
    writing = engine.writing()
    if writing is not None and writing.age is not None:
        return False
    with usage.taking() as recent:
        engine.transact(eviction.merge, recent)
    return True


class Keeper:
    """A thread that writes down what is read where nobody writes; it is there while something is read."""

    _SECONDS = 1.0
    _IDLE_ROUNDS = 3
    _BATCHES = 16

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As in a forked child, which has not the thread."""
        self._lock = threading.RLock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self, usage: Usage) -> None:
        """Something is read: be there."""
        usage.patience = MOST_NOTED
        usage.fold()
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                thread = threading.Thread(target=self._keep, name="objstore-keeper", daemon=True)
                with suppress(RuntimeError):  # no thread begins while the interpreter ends, and `stop` is still to come
                    thread.start()
                    self._thread = thread

    def _keep(self) -> None:
        idle = 0
        try:
            while idle < self._IDLE_ROUNDS and not self._stopped.wait(self._SECONDS):
                idle = 0 if self._write_all_down() else idle + 1
        finally:
            with self._lock:
                self._thread = None
                for _, usage in _all_usages():
                    usage.patience = 0  # the next note wakes another

    def _write_all_down(self) -> bool:
        """Whether anybody has read anything since, or anything was written down."""
        is_used = False
        for engine, usage in _all_usages():
            usage.fold()
            is_used = usage.was_used() or is_used
            if usage.may_write and usage.is_due(self._SECONDS):
                is_used = self._write_all_of(engine, usage) or is_used
        return is_used

    def _write_all_of(self, engine: Engine, usage: Usage) -> bool:
        """Write down what was read of one cache, but no more than some batches; whether there was anything."""
        batches = 0
        with suppress(StoreError):  # it is closed, or there is something wrong with it
            while batches < self._BATCHES and write_down(engine, usage):
                batches += 1
        return batches > 0

    def stop(self) -> None:
        """At the end of the interpreter, before stores are closed: a program may be shorter than a round of the thread.

        What lives in memory ends with it, and needs nothing written down.
        """
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(self._SECONDS)
        for engine, usage in _all_usages():
            if usage.may_write and engine.name != "memory":
                self._write_all_of(engine, usage)


keeper = Keeper()


def _forget_in_child() -> None:
    global _usages_lock
    _usages_lock = threading.RLock()
    keeper.forget()
    for usage in list(_usages.values()):
        usage.reset()


os.register_at_fork(after_in_child=_forget_in_child)
