"""Children that may crash or hang: functions that run in a forked process, under a time limit.

A fork takes a millisecond where a new interpreter takes a hundred, and the child has all that its parent recorded.
It ends without running what its parent would run at its end.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from typing import Any

_size = struct.Struct("<Q")
_write = os.write  # also while those of `os` are recorded


class Died(Exception):
    """The child ended otherwise than by returning."""


def results(function: Callable[[Callable[[Any], None]], None], seconds: float = 60) -> Iterator[Any]:
    """Run `function(send)` in a child; what it sends, one by one.

    Raises Died where the child is ended by a signal, which it names, or is silent for so many seconds (to hang in a
    lock is to be silent); and AssertionError with what was raised in it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child(function, writing)
    os.close(writing)
    silent = False
    kind = "sent"
    try:
        while kind == "sent":
            silent = not select.select([reading], [], [], seconds)[0]
            message = None if silent else _receive(reading)
            if message is None:
                break
            kind, value = message
            if kind == "sent":
                yield value
            elif kind == "raised":
                raise AssertionError(f"in a child:\n{value}")
    except GeneratorExit:  # nobody wants more of it
        silent = True
        raise
    finally:
        os.close(reading)
        if silent:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if kind == "sent":
        raise Died("it hung" if silent else _how(status))


def result(function: Callable[[], Any], seconds: float = 60) -> Any:
    """What `function()` returns, in a child; see `results`."""
    (value,) = results(lambda send: send(function()), seconds)
    return value


def _be_child(function: Callable[[Callable[[Any], None]], None], pipe: int) -> None:
    def send(*message: object) -> None:
        packed = pickle.dumps(message)
        data = memoryview(_size.pack(len(packed)) + packed)
        while data:
            data = data[_write(pipe, data) :]

    status = 1
    try:
        function(lambda value: send("sent", value))
        send("ended", None)
        status = 0
    except BaseException:  # noqa: BLE001  (it goes no further than this process)
        send("raised", traceback.format_exc())
    finally:
        os._exit(status)


def _receive(pipe: int) -> Any:
    """The next message, or None where the other end is closed."""
    size = _exactly(pipe, _size.size)
    data = None if size is None else _exactly(pipe, _size.unpack(size)[0])
    return None if data is None else pickle.loads(data)


def _exactly(pipe: int, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = os.read(pipe, size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _how(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit status {status >> 8}"
