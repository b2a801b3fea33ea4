"""The contract of a codec.

A codec turns an object into a payload and, where the object holds large buffers, into frames beside
it; and back.  It knows nothing of keys, records, digests or engines.  It may raise whatever the
objects raise: the one who calls it knows the key and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Codec(Protocol):
    """How objects become bytes.  `name` is recorded in the store, `number` in every record."""

    name: str
    number: int

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        """The payload of `value`, and its large buffers, each a contiguous view of unsigned bytes."""
        ...

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> Any:
        """The object again.  The frames are given away: the object may keep them, and change those that can change."""
        ...
