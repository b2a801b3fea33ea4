"""What is stored: the keys and values of all benchmarks."""

from __future__ import annotations

import random
from typing import Any

LIST = list(range(10_000))


def value(number: int) -> dict[str, Any]:
    """A small dict; its pickle has 74 to 82 bytes."""
    return {"id": number, "name": f"u{number:05}", "size": number / 7, "tags": ["a"], "ok": True}


def key(number: int) -> str:
    """Text, in the order of the numbers."""
    return f"user:{number:08d}"


def items(count: int) -> dict[str, Any]:
    """So many small items, in the order of their keys."""
    return {key(number): value(number) for number in range(count)}


def sample(count: int, among: int) -> list[str]:
    """Some of the keys of `items(among)`, at random, the same in every run."""
    return [key(number) for number in random.Random(1).sample(range(among), count)]
