"""The contract of a codec.

A codec turns an object into a payload and, where the object holds large buffers, into frames beside
it; and back.  It knows nothing of keys, records, digests, seals or engines.  It may raise whatever the
objects raise: the one who calls it knows the key and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

OWN_NUMBERS = range(128, 255)
"""The numbers that a codec of somebody's own may have."""


class Codec(Protocol):
    """How objects become bytes: what an object needs to be given as `codec`."""

    name: str
    """What is recorded in the store; another codec with another name is refused there."""
    number: int
    """What is recorded in every record: from 128 to 254 for a codec of your own, the same for ever."""
    runs_code: bool
    """Whether to decode bytes that somebody has chosen can run code that is chosen by them, as with pickle."""

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        """The payload of `value`, and its large buffers, each a contiguous view of unsigned bytes.

        Whatever it raises becomes an EncodeError that names the key.
        """
        ...

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> Any:
        """The object again.  The frames are given away: the object may keep them, and change those that can change.

        `payload` is not: it may be gone, or be something else, when this has returned.  Whatever it raises becomes a
        DecodeError that names the key.
        """
        ...
