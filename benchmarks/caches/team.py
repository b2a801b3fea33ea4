"""Processes that work at the same time, as they are told.

They are started once, because starting takes longer than most of what they do, and are told by name what to run: a
function of a module, which is called with what `team` was given and says something that can be pickled.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

_context = multiprocessing.get_context("spawn")


class Worker:
    """One of them."""

    def __init__(self) -> None:
        self._pipe, other = _context.Pipe()
        self.process = _context.Process(target=_work_as_told, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def tell(self, function: str, *arguments: Any) -> None:
        """Begin with a function, "module:name"."""
        self._pipe.send((function, arguments))

    def answer(self, seconds: float | None = None) -> Any:
        """What the function gave.  Raises EOFError where the worker died, TimeoutError after so many seconds."""
        if not self._pipe.poll(seconds):
            raise TimeoutError("the worker is not ready")
        return self._pipe.recv()

    def kill(self) -> None:
        """As `kill -9` does."""
        os.kill(self.process.pid or 0, signal.SIGKILL)
        self.process.join()

    def end(self) -> None:
        if self.process.is_alive():
            self._pipe.send(None)
            self.process.join()
        self._pipe.close()


class Team:
    """Workers for everyone who needs some; those who died are replaced."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []

    def members(self, number: int) -> list[Worker]:
        """So many, who have nothing to do."""
        self._workers = [worker for worker in self._workers if worker.process.is_alive()]
        self._workers += [Worker() for _ in range(number - len(self._workers))]
        return self._workers[:number]

    def end(self) -> None:
        for worker in self._workers:
            worker.end()


def together(members: Sequence[Worker], function: str, *arguments: Any) -> list[Any]:
    """What each says, who all begin now; a worker's number is the last argument."""
    for number, member in enumerate(members):
        member.tell(function, *arguments, number)
    return [member.answer() for member in members]


def _work_as_told(pipe: Connection) -> None:
    while (told := pipe.recv()) is not None:
        function, arguments = told
        module, name = function.split(":")
        pipe.send(getattr(importlib.import_module(module), name)(*arguments))
