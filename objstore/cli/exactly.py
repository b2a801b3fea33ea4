"""Whether JSON tells a value exactly: what is read from it again is equal, and of the same types all through."""

from __future__ import annotations

import math
from typing import Any


def inexact(value: Any, place: str = "") -> str | None:
    """What in a value JSON cannot tell, and where; None where it tells all of it."""
    try:
        return _inexact(value, place)
    except RecursionError:
        return "it is nested too deeply, or holds itself"


def _inexact(value: Any, place: str) -> str | None:
    kind = type(value)
    if kind is dict:
        odd = [key for key in value if type(key) is not str or not _is_text(key)]
        if odd:
            return f"the key {odd[0]!r}{_at(place)}"
        parts = ((inner, f"{place}[{key!r}]") for key, inner in value.items())
        return next(filter(None, (_inexact(inner, where) for inner, where in parts)), None)
    if kind is list:
        return next(filter(None, (_inexact(inner, f"{place}[{at}]") for at, inner in enumerate(value))), None)
    if kind in (int, bool, type(None)) or (kind is float and math.isfinite(value)):
        return None
    if kind is str:
        return None if _is_text(value) else f"a lone surrogate{_at(place)}"
    return f"{value!r}{_at(place)}" if kind is float else f"a {kind.__qualname__}{_at(place)}"


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _at(place: str) -> str:
    return f" at {place}" if place else ""
