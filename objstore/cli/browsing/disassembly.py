"""What a value is made of, as text, without decoding it: no code runs that somebody has stored.

A pickle is a program, and is listed as one, step by step and never run; JSON is shown as it stands, indented; other
bytes as text where they are text, else in hexadecimal digits.  All of it ends at a bound, and says so.

The text may hold anything that was stored: what prints it makes it printable.
"""

from __future__ import annotations

import json
import pickletools
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from objstore import Entry, Payload, StoreError

MOST_LINES = 1_000
MOST_BYTES = 64 << 20
"""Of a record, stored or expanded: what is larger is not read for a look."""

_WIDEST = 160
_LONGEST = 80  # text or bytes within a pickle
_DUMPED_BYTES = 16
_DUMPED_COLUMNS = 76
_MOST_STEPS = 20 * MOST_LINES  # most of which are worth no line, if somebody means ill
_DEEPEST = 30
_QUOTES = "'\""
_MOST_TEXT = 64 << 10
_INDENTED_BYTES = 1 << 20

RUNS_NO_CODE = frozenset({"bytes", "json", "msgpack"})
"""The codecs whose values are decoded without running code of anybody's."""

# What the steps of a pickle do.  Those that are missing here have their own names; None is not worth a line.
_STEPS: dict[str, str | None] = {
    "PROTO": None,
    "FRAME": None,
    "MEMOIZE": None,
    "PUT": None,
    "BINPUT": None,
    "LONG_BINPUT": None,
    "STOP": None,
    "MARK": "(",
    "EMPTY_LIST": "new list",
    "EMPTY_DICT": "new dict",
    "EMPTY_TUPLE": "()",
    "EMPTY_SET": "new set",
    "APPEND": "append it",
    "APPENDS": ") append these",
    "SETITEM": "set this item",
    "SETITEMS": ") set these items",
    "ADDITEMS": ") add these",
    "TUPLE": ") as a tuple",
    "TUPLE1": "the last as a tuple",
    "TUPLE2": "the last two as a tuple",
    "TUPLE3": "the last three as a tuple",
    "LIST": ") as a list",
    "DICT": ") as a dict",
    "FROZENSET": ") as a frozenset",
    "NONE": "None",
    "NEWTRUE": "True",
    "NEWFALSE": "False",
    "GLOBAL": "find",
    "STACK_GLOBAL": "find",
    "REDUCE": "CALL it with that tuple",
    "NEWOBJ": "NEW instance with that tuple",
    "NEWOBJ_EX": "NEW instance with that tuple and dict",
    "INST": ") CALL",
    "OBJ": ") CALL it with these",
    "BUILD": "set its state",
    "GET": "again",
    "BINGET": "again",
    "LONG_BINGET": "again",
    "DUP": "the same again",
    "POP": "forget it",
    "POP_MARK": ") forget these",
    "NEXT_BUFFER": "the next buffer",
    "READONLY_BUFFER": "read-only",
    "PERSID": "object outside the pickle:",
    "BINPERSID": "object outside the pickle, of that name",
    "EXT1": "extension",
    "EXT2": "extension",
    "EXT4": "extension",
}


def look(entry: Entry[Any, Any], in_bytes: bool = False, width: int = 80) -> tuple[str, str]:
    """How a value is shown (`pickle, not run`, say), and the value so; why not, where it cannot be shown.

    With `in_bytes` it is shown in hexadecimal digits; `width` is how many columns there are for them.

    Raises KeyError if it is gone.
    """
    if entry.size > MOST_BYTES:
        return "not read", f"{entry.size:,} bytes: more than {MOST_BYTES:,} are not read for a look"
    try:
        payload = entry.payload(max_size=MOST_BYTES)
    except StoreError as exc:
        return "not readable", str(exc)
    size = _DUMPED_BYTES if width >= _DUMPED_COLUMNS else _DUMPED_BYTES // 2
    how, lines = _hexadecimal(payload.data, size) if in_bytes else _told(entry.codec, payload, size)
    sizes = [f"buffer {number}: {buffer.nbytes:,} bytes" for number, buffer in enumerate(payload.buffers, 1)]
    return f"{how}, {payload.data.nbytes:,} bytes", "\n".join([*_bounded(lines), *_bounded(sizes)])


def _told(codec: str, payload: Payload, dumped: int) -> tuple[str, Iterable[str]]:
    if codec == "pickle":
        return "pickle, not run", _pickled(payload.data)
    if codec == "json":
        return "json", _indented(bytes(payload.data))
    text = _as_text(bytes(payload.data[: _MOST_TEXT + 4])) if codec == "bytes" else None
    if text is not None:
        return "text", text.splitlines() or [""]
    return _hexadecimal(payload.data, dumped)


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    """The first lines, each cut where it is long."""
    every = iter(lines)
    for line in islice(every, MOST_LINES):
        yield line if len(line) <= _WIDEST else f"{line[:_WIDEST]} ..."
    if next(every, None) is not None:
        yield "... and more"


def _pickled(data: memoryview) -> Iterator[str]:
    """The steps of a pickle, one a line, what stands between marks indented."""
    depth, memo = 0, _Memo()
    try:
        for opcode, argument, at in islice(pickletools.genops(bytes(data)), _MOST_STEPS):
            step = _STEPS.get(opcode.name, opcode.name.lower())
            if step is None:
                memo.keep(opcode.name, argument)
                continue
            if step.startswith(") "):
                depth = max(0, depth - 1)
            yield f"{at:>8}  {'  ' * min(depth, _DEEPEST)}{memo.told(opcode.name, step, argument, at)}"
            depth += step == "("
    except ValueError as exc:  # it is no pickle, or not all of one
        yield f"here it is no pickle any more: {exc}"
    if memo.steps == _MOST_STEPS:
        yield "... and more"


class _Memo:
    """What a pickle has put aside, each by its look, so that a step back to it can say what it is."""

    def __init__(self) -> None:
        self.steps = 0
        self._kept: dict[int, str] = {}
        self._last: list[str] = ["?", "?"]

    def keep(self, name: str, argument: Any) -> None:
        """Take note of a step that is not worth a line."""
        self.steps += 1
        if name == "MEMOIZE":
            self._kept[len(self._kept)] = self._last[-1]
        elif name.endswith("PUT"):
            self._kept[argument] = self._last[-1]

    def told(self, name: str, step: str, argument: Any, at: int | None) -> str:
        """A step in words, and what it leaves, remembered."""
        self.steps += 1
        if name == "STACK_GLOBAL":
            shown = f"{step} {'.'.join(part.strip(_QUOTES) for part in self._last)}"
        elif name.endswith("GET"):
            shown = f"{step} {self._kept.get(argument, argument)}"
        elif argument is None:
            shown = step
        elif name not in _STEPS:  # it pushes what it carries, and nothing else
            shown = _shown(argument)
        else:
            shown = f"{step} {_shown(argument)}"
        left = shown.removeprefix(_STEPS["GET"] or "").strip() if name.endswith("GET") else shown
        self._last = [self._last[-1], left if argument is not None or name == "STACK_GLOBAL" else f"{left} ({at})"]
        return shown


def _shown(argument: Any) -> str:
    """What a step carries, cut before it is written out."""
    if isinstance(argument, (str, bytes, bytearray)) and len(argument) > _LONGEST:
        return f"{argument[:_LONGEST]!r} ... ({len(argument):,} in all)"
    if isinstance(argument, int) and argument.bit_length() > _WIDEST:
        return f"an integer of {argument.bit_length():,} bits"
    return repr(argument)


def _indented(data: bytes) -> list[str]:
    if len(data) <= _INDENTED_BYTES:
        try:
            return json.dumps(json.loads(data), indent=2, ensure_ascii=False).splitlines()
        except (ValueError, RecursionError):  # no JSON, or nested too deep for a parser
            pass
    return data[:_MOST_TEXT].decode("utf-8", "replace").splitlines()


def _as_text(data: bytes) -> str | None:
    """The text that the first bytes are, if they are one that can be read."""
    try:
        text = data[:_MOST_TEXT].decode()
    except UnicodeDecodeError as exc:
        if len(data) <= _MOST_TEXT or exc.start < _MOST_TEXT - 4:  # else a character was cut
            return None
        text = data[: exc.start].decode()
    return text if all(character.isprintable() or character in "\n\r\t" for character in text) else None


def _hexadecimal(data: memoryview, size: int) -> tuple[str, Iterable[str]]:
    return "bytes", (_dumped(at, bytes(data[at : at + size]), size) for at in range(0, len(data), size))


def _dumped(at: int, piece: bytes, size: int) -> str:
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in piece)
    return f"{at:08x}  {piece.hex(' '):<{3 * size}} {text}"
