"""Pickle, protocol 5, with large buffers out-of-band.

The protocol is fixed, not the newest of the running interpreter, so that every Python from 3.8 on
reads what any other wrote.  A buffer (of a NumPy array, say) of at least `FRAME_BYTES` becomes a
frame and is copied once, into the record; smaller ones stay in the pickle, where they cost less.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from objstore.record import MAX_FRAMES, PICKLE

PROTOCOL = 5
FRAME_BYTES = 64 * 1024


class _Frames(list[memoryview]):
    """Collects large buffers; as a `buffer_callback`, its answer says whether to keep one in the pickle."""

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < FRAME_BYTES or len(self) == MAX_FRAMES:
            return True
        self.append(view)
        return False


class Pickle:
    """The standard library's pickle."""

    name = "pickle"
    number = PICKLE

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        frames = _Frames()
        return pickle.dumps(value, PROTOCOL, buffer_callback=frames), frames

    def decode(self, payload: memoryview, frames: Sequence[bytearray]) -> Any:
        return pickle.loads(payload, buffers=frames)  # noqa: S301  (what it is here for; verified before)
