"""Consent: the bytes of a source to keys and values, and no code of anybody's without consent.

What a pickle names is loaded only if it is plain data of the standard library (`PLAIN`), or an array or a number of
NumPy, or if whoever imports has allowed it by name, or trusts the source.  Everything else stays where it is, with the
names of what it needs: those are read from the opcodes, which runs nothing.

Pickles of old protocols write bytes and sets, and name the modules of Python 2, in ways of their own; that is data
too.
"""

from __future__ import annotations

import copyreg
import json
import pickletools
import zlib
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from objstore.codecs.names import OPEN_DOORS, Name, parse, show
from objstore.codecs.pickling import Pickle
from objstore.codecs.rehearsing import Refused
from objstore.codecs.sealing import forbidding
from objstore.exchange.base import Unreadable

Buffer = bytes | memoryview

HOW_KEYS = ("bytes", "text")
HOW_VALUES = ("bytes", "text", "json", "pickle")

# What is data, whoever says it.
PLAIN = (
    *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set"),
    *("slice", "str", "tuple"),
    *("collections.Counter", "collections.OrderedDict", "collections.defaultdict", "collections.deque"),
    *("datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta", "datetime.timezone"),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "uuid.SafeUUID"),
    *("pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.PureWindowsPath"),
)
_PLAIN = [name if "." in name else f"builtins.{name}" for name in PLAIN]

# By these, pickles of protocols 0 to 2 make instances and bytes.
_OLD_BUILTINS = {f"__builtin__.{name}": f"builtins.{name}" for name in PLAIN if "." not in name and name != "bytes"} | {
    "__builtin__.bytes": "builtins.bytes",
    "__builtin__.unicode": "builtins.str",
    "__builtin__.long": "builtins.int",
}
_OLD: dict[str, Any] = {
    **_OLD_BUILTINS,
    "copy_reg._reconstructor": copyreg._reconstructor,  # type: ignore[attr-defined]
    "__builtin__.xrange": "builtins.range",
}

_MOST_EXPANDED = 1 << 30  # bytes that a compressed value may have
_ZLIB = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")  # no pickle begins so


def latin_bytes(text: str, encoding: str) -> bytes:
    """What old pickles call `_codecs.encode` for: bytes that were written as text."""
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"the pickle encodes a text as {encoding!r}, and bytes are 'latin1' there")
    return text.encode("latin-1")


class Decoding:
    """How the keys and values of one import are decoded.

    `allow`, `rename`: as in `Pickle`; what is renamed is allowed. `trust`: pickles may name everything. `keys`,
    `values`: how they are written, where that is another way than the format says.

    Raises ValueError and TypeError where an option makes no sense, or nothing has an allowed name.
    """

    def __init__(
        self,
        allow: Iterable[Any] = (),
        trust: bool = False,
        rename: Mapping[str, Any] | None = None,
        keys: str | None = None,
        values: str | None = None,
    ) -> None:
        self.keys = _one_of("keys", keys, HOW_KEYS)
        self.values = _one_of("values", values, HOW_VALUES)
        self._trusts = trust
        self._allow, self._rename = [*allow], dict(rename or {})
        self._with_numpy = False
        self._forbidden = forbidding() is not None
        try:
            self._codec = self._new_codec()
        except ValueError as exc:
            if isinstance(exc.__cause__, ImportError):
                raise ValueError(f"{exc}; PYTHONPATH=. makes modules of this directory importable") from exc
            raise

    def described(self) -> list[Any]:
        """What makes another import of it, as JSON can tell it."""
        names = [each if isinstance(each, str) else repr(each) for each in self._allow]
        renames = sorted((old, repr(new)) for old, new in self._rename.items())
        return [self.keys, self.values, self._trusts, sorted(names), renames, self._forbidden]

    def _new_codec(self) -> Pickle:
        if self._trusts:
            return Pickle(rename=self._rename) if self._rename else Pickle()
        arrays = ["numpy.ndarray"] if self._with_numpy else []
        # What old pickles need of this library and of copyreg is allowed under its old name alone, as it were.
        allow = [*_PLAIN, *arrays, copyreg._reconstructor, latin_bytes, *self._allow, *self._rename.values()]  # type: ignore[attr-defined]
        return Pickle(allow, {**_OLD, "_codecs.encode": latin_bytes, **self._rename})

    # Keys and values

    def key(self, raw: Any, usual: str) -> Any:
        """The key that is written so.  Raises Unreadable."""
        how = self.keys or usual
        if how == "bytes":
            return raw.encode() if isinstance(raw, str) else bytes(raw)
        return text(raw, "its key is not UTF-8; with keys='bytes' (--keys bytes) it is taken as it is")

    def value(self, raw: Any, usual: str) -> Any:
        """The value that is written so.  Raises Unreadable."""
        how = self.values or usual
        if how == "pickle":
            return self.unpickle(_expanded(raw) if raw[:2] in _ZLIB else raw)
        if how == "bytes":
            return raw.encode() if isinstance(raw, str) else bytes(raw)
        found = text(raw, "its value is not UTF-8")
        return found if how == "text" else parsed(found)

    def unpickle(self, data: Buffer) -> Any:
        """The object that was pickled.  Raises Unreadable."""
        if self._forbidden:
            raise Unreadable("it is a pickle, and OBJSTORE_PICKLE=forbid keeps this process from pickles")
        try:
            return self._codec.decode(memoryview(data), ())
        except Refused as exc:
            if self._learns_numpy(data):
                return self.unpickle(data)
            raise self._refusal(data, exc) from exc
        except (ImportError, AttributeError) as exc:
            raise Unreadable(
                f"its pickle needs what is not found ({exc}): make the module importable (PYTHONPATH=. for one in this "
                f"directory), or say where the class is now with rename (--rename OLD.Name=NEW.Name)"
            ) from exc
        except Exception as exc:  # whatever the objects raise while they are built
            raise Unreadable(f"its pickle cannot be loaded ({type(exc).__name__}: {exc})") from exc

    def _learns_numpy(self, data: Buffer) -> bool:
        """Allow arrays from now on, where this pickle has such and nobody has asked before."""
        if self._with_numpy or not any(module.startswith("numpy") for module, _ in names_in(data)):
            return False
        self._with_numpy = find_spec("numpy") is not None
        if self._with_numpy:
            self._codec = self._new_codec()
        return self._with_numpy

    def _refusal(self, data: Buffer, exc: Refused) -> Unreadable:
        known = {*map(parse, (*_PLAIN, *_OLD, "_codecs.encode", *self._rename))}
        known |= {parse(each) for each in self._allow if isinstance(each, str)}
        names = [name for name in names_in(data) if name not in known and not _is_of_numpy(name)]
        if not names:
            return Unreadable(f"its pickle is refused: {exc}")
        shown = ", ".join(map(show, names[:5])) + (", ..." if len(names) > 5 else "")
        if any((module.replace("__builtin__", "builtins"), name) in OPEN_DOORS for module, name in names):
            return Unreadable(f"its pickle names {shown}, by which it may run anything; only trust loads it (--trust)")
        return Unreadable(f"its pickle names {shown}, which is not allowed", tuple(map(show, names)))


def _one_of(option: str, given: str | None, choices: tuple[str, ...]) -> str | None:
    if given is not None and given not in choices:
        raise ValueError(f"{option} is one of {', '.join(map(repr, choices))}, not {given!r}")
    return given


def _is_of_numpy(name: Name) -> bool:
    return name[0].partition(".")[0] == "numpy"


def _expanded(raw: Buffer) -> bytes:
    """What was compressed by zlib, as the manual of sqlitedict shows.  Raises Unreadable."""
    return decompressed(raw, "its value is neither a pickle nor what zlib has made of one")


def decompressed(raw: Buffer, otherwise: str) -> bytes:
    """The bytes that zlib made smaller, within bounds.  Raises Unreadable."""
    machine = zlib.decompressobj()
    try:
        found = machine.decompress(raw, _MOST_EXPANDED)
    except zlib.error as exc:
        raise Unreadable(f"{otherwise} ({exc})") from exc
    if not machine.eof:
        raise Unreadable(f"{otherwise} (it is cut short, or has more than {_MOST_EXPANDED} bytes)")
    return found


def text(raw: Any, otherwise: str) -> str:
    """The text that is written so, in UTF-8.  Raises Unreadable."""
    if isinstance(raw, str):
        return raw
    try:
        return str(raw, "utf-8")
    except (UnicodeDecodeError, TypeError) as exc:
        raise Unreadable(otherwise) from exc


def parsed(found: str) -> Any:
    """The value that JSON tells.  Raises Unreadable."""
    try:
        return json.loads(found)
    except (ValueError, RecursionError) as exc:
        raise Unreadable(f"its value is not JSON: {exc}") from exc


# What a pickle says, without running it


def names_in(data: Buffer) -> list[Name]:
    """The names of classes and functions in a pickle, as far as its opcodes make sense, each once."""
    names: dict[Name, None] = {}
    memo: dict[int, str | None] = {}
    texts = ["", ""]
    last: str | None = None
    for name, argument in _opcodes(data):
        if name in ("GLOBAL", "INST"):
            module, _, qualified = argument.partition(" ")
            names[module, qualified] = None
        elif name == "STACK_GLOBAL":
            names[texts[-2], texts[-1]] = None
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            memo[len(memo) if argument is None else int(argument)] = last
            continue  # what is on top is still there
        last = memo.get(int(argument)) if "GET" in name else argument if isinstance(argument, str) else None
        if last is not None:
            texts = [texts[-1], last]
    return list(names)


def _opcodes(data: Buffer) -> Iterator[tuple[str, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(bytes(data)):
            yield opcode.name, argument
    except (ValueError, IndexError, UnicodeDecodeError):  # it ends in the middle
        return


def ends_at(data: bytes) -> int | None:
    """Where the first pickle in these bytes ends, or None where there is none."""
    end = 0
    try:
        for _, _, position in pickletools.genops(data):
            end = 1 + (position or 0)
    except (ValueError, IndexError, UnicodeDecodeError):
        return None
    return end
