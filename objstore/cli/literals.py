"""How keys and values are written on a command line.

As Python writes them (`42`, `('user', 42)`, `datetime.date(2026, 11, 23)`), so what `ls` prints can be given back; what
is not that is text as it stands (`user:1`, `2026-01`).  A text that looks like something else keeps its quotes
(`"'42'"`), and a negative number comes after `--`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from datetime import date, datetime, timezone
from typing import Any
from uuid import UUID


def literal(text: str) -> Any:
    """The object that a text is in Python, or the text."""
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # the last two: nested too deeply
        return text


def written(key: Any) -> str:
    """A key as `literal` reads it: as Python writes it, but for what Python writes and does not read."""
    if isinstance(key, tuple):
        inner = ", ".join(map(written, key))
        return f"({inner},)" if len(key) == 1 else f"({inner})"
    if isinstance(key, float) and math.isinf(key):
        return "1e999" if key > 0 else "-1e999"
    if isinstance(key, int) and abs(key) >> 4096:  # Python writes no integer of 4,300 digits in decimal
        return hex(key)
    return repr(key)


def prefix_of(text: str) -> Any:
    """What a prefix is: text, bytes, or the first elements of tuples."""
    prefix = literal(text)
    return prefix if isinstance(prefix, (str, bytes, tuple)) else text


_CALLS: dict[str, Callable[..., Any]] = {
    "datetime.date": date,
    "datetime.datetime": datetime,
    "UUID": UUID,
}


def _evaluate(node: ast.expr) -> Any:
    """A literal, or one of the few calls that the `repr` of a key has in it.  Raises ValueError for others."""
    if isinstance(node, ast.Tuple):
        return tuple(map(_evaluate, node.elts))
    if isinstance(node, ast.Attribute) and ast.unparse(node) == "datetime.timezone.utc":
        return timezone.utc
    if isinstance(node, ast.Call):
        call = _CALLS.get(ast.unparse(node.func))
        if call is None:
            raise ValueError(f"{ast.unparse(node)} is no literal")
        keywords = {keyword.arg or "": _evaluate(keyword.value) for keyword in node.keywords}
        return call(*map(_evaluate, node.args), **keywords)
    return ast.literal_eval(node)
