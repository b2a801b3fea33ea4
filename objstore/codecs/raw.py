"""Bytes as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Bytes:
    """Takes bytes, bytearrays and memoryviews without gaps, and gives bytes."""

    name = "bytes"
    number = 2
    runs_code = False

    def __repr__(self) -> str:
        return "Bytes()"

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        if type(value) is bytes:
            return value, ()
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"bytes, a bytearray or a memoryview is needed, not {type(value).__name__}")
        view = memoryview(value)
        if not view.c_contiguous:
            raise TypeError("a memoryview without gaps is needed; bytes(view) makes bytes of this one")
        return bytes(view), ()

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> bytes:
        return bytes(payload)
