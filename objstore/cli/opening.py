"""Opening what a command is given, a store or a cache; a cache keeps the bounds that it has."""

from __future__ import annotations

import warnings
from typing import Any

from objstore import Cache, Store, UnsealedWarning, WrongKind


def open_any(location: str, flag: str) -> Store[Any, Any]:
    """What is at a location; where there is nothing, flag "c" makes a store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsealedWarning)  # what unpickles says so in its help
        try:
            return Store(location, flag)
        except WrongKind:
            return Cache(location, flag)
