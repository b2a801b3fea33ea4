"""Pickle, protocol 5, with large buffers out-of-band.

The protocol is fixed, not the newest of the running interpreter, so that every Python from 3.8 on
reads what any other wrote.  A buffer (of a NumPy array, say) of at least `LARGE` bytes becomes a
frame and is copied once, into the record; smaller ones stay in the pickle, where they cost less.
"""

from __future__ import annotations

from collections.abc import Sequence
from pickle import PickleBuffer, dumps, loads
from typing import Any

from objstore.record import LARGE, MAX_FRAMES, PICKLE

PROTOCOL = 5


class _LargeBuffer(Exception):
    """There is a buffer for a frame."""


def _refuse_large(buffer: PickleBuffer) -> bool:
    """As a `buffer_callback`: keep small buffers in the pickle, and stop at the first large one."""
    if _large(buffer) is not None:
        raise _LargeBuffer
    return True


def _large(buffer: PickleBuffer) -> memoryview | None:
    """The bytes of a buffer that is to be a frame."""
    try:
        view = buffer.raw()
    except BufferError:  # not contiguous
        return None
    return view if view.nbytes >= LARGE else None


class Pickle:
    """The standard library's pickle."""

    name = "pickle"
    number = PICKLE
    runs_code = True

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        try:
            return dumps(value, PROTOCOL, buffer_callback=_refuse_large), ()
        except _LargeBuffer:
            return self._encode_with_frames(value)

    def _encode_with_frames(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        frames: list[memoryview] = []

        def keep(buffer: PickleBuffer) -> bool:
            view = _large(buffer)
            if view is None or len(frames) == MAX_FRAMES:
                return True
            frames.append(view)
            return False

        return dumps(value, PROTOCOL, buffer_callback=keep), frames

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> Any:
        return loads(payload, buffers=frames)  # noqa: S301  (what it is here for; verified before)
