"""Opening what a command is given, a store or a cache; a cache keeps the bounds that it has."""

from __future__ import annotations

from typing import Any

from objstore import Cache, Store, WrongKind


def open_any(location: str, flag: str) -> Store[Any, Any]:
    """What is at a location; where there is nothing, flag "c" makes a store."""
    try:
        return Store(location, flag)
    except WrongKind:
        return Cache(location, flag)
