"""The lookout: the one thread of a process that looks whether awaited claims are free.

It is there as long as anybody waits for another process, and looks often at first, and then less.  It never ends an
interpreter late: it is a daemon, and stops before stores close.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

from objstore.engines.base import Claim, Waiting

# Seconds between two looks at an awaited claim: a part of how long it was awaited, within bounds.
_SHORTEST, _PART = 0.0005, 0.1

Deliver = Callable[[Claim | None, Exception | None], object]


class Awaited:
    """A claim that a leader waits for: `deliver(claim, error)` is called with one of the two."""

    def __init__(self, waiting: Waiting, deliver: Deliver) -> None:
        self.waiting = waiting
        self.deliver = deliver
        self.began = self.due = time.monotonic()


class Lookout:
    """The one thread of a process that looks whether awaited claims are free, as long as there are any."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._awaited: dict[Awaited, None] = {}
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_ending = False

    def add(self, awaited: Awaited) -> bool:
        """Look whether it is free from now on; False where there can be no thread, as when the interpreter ends."""
        with self._lock:
            self._awaited[awaited] = None
            if self._thread is None:
                # The last to be registered is the first to be called: before stores close.
                atexit.unregister(self._end)
                atexit.register(self._end)
                self._is_ending = False
                thread = threading.Thread(target=self._look_out, name="objstore-lookout", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
        self._news.set()
        return True

    def remove(self, awaited: Awaited) -> None:
        with self._lock:
            self._awaited.pop(awaited, None)
        awaited.waiting.close()
        self._news.set()

    def _end(self) -> None:
        """The interpreter ends: nobody gets anything any more."""
        self._is_ending = True

    def _look_out(self) -> None:
        try:
            self._look_while_awaited()
        finally:
            with self._lock:
                if self._thread is threading.current_thread():  # it was ended by an error: another may begin
                    self._thread = None

    def _look_while_awaited(self) -> None:
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

    def _look(self, awaited: Awaited) -> None:
        claim = error = None
        try:
            claim = awaited.waiting.poll()
        except Exception as exc:  # noqa: BLE001  (it goes to the one who waits)
            error = exc
        if claim is None and error is None:
            moment = time.monotonic()
            awaited.due = moment + min(max(_PART * (moment - awaited.began), _SHORTEST), awaited.waiting.longest_pause)
            return
        with self._lock:
            is_awaited = awaited in self._awaited and not self._is_ending
            self._awaited.pop(awaited, None)
        if is_awaited:
            awaited.deliver(claim, error)
        elif claim is not None:
            claim.release()
