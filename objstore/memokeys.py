"""Values to keys of computed results: a canonical text, and a digest of it.

Two values have one key exactly when they are of the same types and have the same content, all the way down.
A key depends on nothing else: not on the process, the hash seed, the interpreter, the order in which a set
or a dict was filled, or where an object lies.  Keys are stored, and results must be found again by versions
to come, so the text is a promise: DO NOT CHANGE what is written for a value; add what is new.

    None, bool, float          as Python writes them: None  True  1.5  -0.0  inf  nan (all of them alike)
    int                        as Python writes it; of more than 2,000 bits, as `hex` does
    str, bytes                 as `ascii` quotes them; of more than 1,000 characters or bytes:
                               <str LENGTH DIGEST> <bytes LENGTH DIGEST>, the text in UTF-8, surrogates let through
    tuple, list                (a, b)  (a,)  ()  [a, b]  []
    dict                       {key: value, key: value}, in the order of the texts of the keys
    everything else            <tag part part ...>, each part a text of this table
    set, frozenset             <set a b> in the order of the texts
    complex                    <complex real imag>, both as float
    bytearray, memoryview      <bytearray LENGTH DIGEST>  <memoryview FORMAT SHAPE DIGEST>
    deque, defaultdict         <deque MAXLEN LIST>  <defaultdict FACTORY DICT>
    Counter, OrderedDict       <Counter DICT>  <OrderedDict LIST OF PAIRS>
    namedtuple                 <namedtuple CLASS LIST OF NAMES TUPLE>
    range, slice               <range start stop step>  <slice start stop step>
    Ellipsis, NotImplemented   <Ellipsis>  <NotImplemented>
    members of enumerations    <enum CLASS NAME>; of flags <flag CLASS SORTED NAMES REST OF THE BITS>
    dataclasses, attrs,        <object CLASS DICT>: fields, and whatever else the object has in itself
    Structs of msgspec
    paths                      <path TYPE TEXT>
    date, time, datetime       <date ISO>  <time ISO FOLD ZONE>  <datetime ISO FOLD ZONE>: wall time
    timedelta                  <timedelta days seconds microseconds>
    timezone, ZoneInfo, pytz   <timezone TUPLE>  <ZoneInfo KEY>  <pytz NAME TUPLE>
    UUID, Decimal, Fraction    <UUID HEX>  <Decimal SIGN DIGITS EXPONENT>  <Fraction numerator denominator>
    re.Pattern                 <Pattern TEXT FLAGS>
    functions, classes         <function NAME>  <class NAME>; in __main__ <... NAME DIGEST OF THE SOURCE>
    methods of C types         <method CLASS NAME>
    bound methods, partials    <bound OBJECT FUNCTION>, in C <bound OBJECT NAME>  <partial FUNCTION TUPLE DICT>
    NumPy, pandas              see `memoarrays`
    what was registered        <registered CLASS VALUE>

A class or a function is named 'module:qualified.name', quoted.  Every text that comes from outside is quoted
by `ascii`, so it can pass for nothing else, and the whole is ASCII: `repr` would depend on the version of
Unicode that an interpreter has.

The key is the BLAKE2b digest, 20 bytes, of a salt and the text of the tuple of arguments: arguments may come
from strangers, who would need 2**80 attempts to find two values of one key.  The same digest stands for what is long.
On most machines it is the fastest of its kind that Python has everywhere; SHA-256 needs instructions of its own
for that.  The salt holds the version of this format.

Most arguments are a few short numbers and texts.  What stands in the first lines of the table is what
`ascii` writes of a tuple, in one call.

This module imports no library that may be missing; types of such libraries are known by their names.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import cached_property, partial
from hashlib import blake2b
from inspect import unwrap
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from threading import Lock
from types import (
    BuiltinFunctionType,
    ClassMethodDescriptorType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from objstore import memoarrays
from objstore.memoarrays import DIGEST_BYTES, NotKeyable, content_digest
from objstore.sourcecode import class_text, function_text

FORMAT = 1

LONG = 1_000  # characters of a text that is written as itself, and bytes
_LONG_INT = 1 << 2_000  # the first one in hexadecimal: Python may be set to write no more than 640 digits
_MINUS_LONG_INT = -_LONG_INT

_MADE_BY_CLASS = 1 << 9  # a flag of types that Python calls heap types; others keep state where none of it is seen

_DEEPEST = 100  # fixed, so that what has a key does not depend on how deep in the stack one asks

T = TypeVar("T")
Writer = Callable[[Any, int], str]
"""Gives the text of a value, which lies so many levels deep."""


def digest(values: tuple[Any, ...], salt: bytes) -> bytes:
    """The key of a tuple of values: 20 bytes.  Raises NotKeyable, a TypeError."""
    text = ascii(values) if _is_plain(values) else text_of(values)
    return blake2b(salt + text.encode("ascii"), digest_size=DIGEST_BYTES).digest()


def text_of(value: Any) -> str:
    """The canonical text of a value, ASCII only.  Raises NotKeyable, a TypeError."""
    return _text(value, 0)


def register_key(kind: type[T], function: Callable[[T], Any]) -> None:
    """Teach how objects of a type take part in the keys of computed results.

    `function(value)` returns what the key is made of: all that a result can depend on, in a form that has a
    key itself, such as a tuple of the object's parts.  The name of the object's own class counts, too.  It
    holds in this process, for `kind` and its subclasses (of several registered classes, the nearest one's), from the
    next call on, also for types that have a key anyway, such as dataclasses.  A second registration of
    the same type takes the place of the first.

        register_key(Model, lambda model: (model.name, model.weights))

    Raises TypeError if `kind` is not a class, is `object`, or is one of the standard library's that have a
    key already, and if `function` cannot be called.
    """
    if not isinstance(kind, type):
        raise TypeError(f"register_key takes a class and a function, not {kind!r}")
    if kind is object or kind in _EXACT or kind in (Enum, Flag):
        raise TypeError(f"the key of {kind.__qualname__} cannot be changed; register a class of your own")
    if not callable(function):
        raise TypeError(f"register_key takes a function that is called with a {kind.__qualname__}, not {function!r}")
    global _known
    with _registering:
        registered = {**_known.registered, kind: function}
        _known = _Known(registered)


class _Known:
    """What is registered, and the writers found so far; replaced as a whole when something is registered."""

    def __init__(self, registered: dict[type, Callable[[Any], Any]]) -> None:
        self.registered = registered
        self.writers: dict[type, Writer] = dict(_EXACT)


def _is_plain(values: Iterable[Any]) -> bool:
    """Whether `ascii` writes each of these values as this module does."""
    for value in values:
        kind = type(value)
        if kind is int:
            if not _MINUS_LONG_INT < value < _LONG_INT:
                return False
        elif kind is str or kind is bytes:
            if len(value) > LONG:
                return False
        elif kind is not float and kind is not bool and value is not None:
            return False
    return True


def _text(value: Any, depth: int) -> str:
    known = _known
    kind = type(value)
    writer = known.writers.get(kind)
    if writer is None:
        writer = _find_writer(kind, known.registered)
        known.writers[kind] = writer
    if depth > _DEEPEST:
        raise NotKeyable(kind, f"it lies more than {_DEEPEST} levels deep, or within itself")
    return writer(value, depth)


def _find_writer(kind: type, registered: dict[type, Callable[[Any], Any]]) -> Writer:
    """How objects of a type are written that is not among the exact ones."""
    for base in kind.__mro__:
        if base in registered:
            return _registered(kind, registered[base])
    for base in kind.__mro__:
        function, whom = _BY_NAME.get((_library(base), base.__name__), (None, "none"))
        if function and (whom == "all" or base is kind or (whom == "own" and _library(kind) == _library(base))):
            return _of_library(function)
    if issubclass(kind, Enum):
        return _flag if issubclass(kind, Flag) else _enum
    if issubclass(kind, type):
        return _class
    if issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
        return _namedtuple
    if issubclass(kind, tzinfo) and _library(kind) == "pytz":
        return _pytz
    names = _field_names(kind)
    for base in kind.__mro__[:-1]:
        hidden = names is not None and _library(base) != "msgspec" and not base.__flags__ & _MADE_BY_CLASS
        if hidden or base in _EXACT or (_library(base), base.__name__) in _BY_NAME:
            return _refuse(f"it may hold more than the {base.__qualname__} that it is")
    return _other if names is None else _object(kind, names)


def _library(kind: type) -> str:
    module = kind.__module__
    return module.partition(".")[0] if isinstance(module, str) else ""


def _refuse(reason: str) -> Writer:
    def write(value: Any, depth: int) -> str:
        raise NotKeyable(type(value), reason)

    return write


def _registered(kind: type, function: Callable[[Any], Any]) -> Writer:
    name = ascii(f"{kind.__module__}:{kind.__qualname__}")

    def write(value: Any, depth: int) -> str:
        return f"<registered {name} {_text(function(value), depth + 1)}>"

    return write


def _of_library(function: Callable[[Any, memoarrays.Text], str]) -> Writer:
    def write(value: Any, depth: int) -> str:
        return function(value, lambda part: _text(part, depth + 1))

    return write


# Numbers and texts.


def _as_python(value: Any, depth: int) -> str:
    return ascii(value)


def _int(value: int, depth: int) -> str:
    return ascii(value) if _MINUS_LONG_INT < value < _LONG_INT else hex(value)


def _str(value: str, depth: int) -> str:
    if len(value) <= LONG:
        return ascii(value)
    return f"<str {len(value)} {content_digest(value.encode('utf-8', 'surrogatepass'))}>"


def _bytes(value: bytes, depth: int) -> str:
    return ascii(value) if len(value) <= LONG else f"<bytes {len(value)} {content_digest(value)}>"


def _bytearray(value: bytearray, depth: int) -> str:
    return f"<bytearray {len(value)} {content_digest(value)}>"


def _memoryview(value: memoryview, depth: int) -> str:
    if value.format.lstrip("@=<>!") not in tuple("?cbBhHiIlLqQnNefd"):
        raise NotKeyable(memoryview, f"its items have the format {value.format!r}")
    flat = value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
    return f"<memoryview {value.format!a} {value.shape!a} {content_digest(flat)}>"


def _complex(value: complex, depth: int) -> str:
    return f"<complex {value.real!a} {value.imag!a}>"


def _decimal(value: Decimal, depth: int) -> str:
    sign, digits, exponent = value.as_tuple()
    return f"<Decimal {sign} {''.join(map(str, digits))!a} {exponent!a}>"


def _fraction(value: Fraction, depth: int) -> str:
    return f"<Fraction {_int(value.numerator, depth)} {_int(value.denominator, depth)}>"


def _uuid(value: UUID, depth: int) -> str:
    return f"<UUID {value.hex!a}>"


def _pattern(value: re.Pattern[Any], depth: int) -> str:
    return f"<Pattern {_text(value.pattern, depth + 1)} {value.flags}>"


def _path(value: PurePosixPath | PureWindowsPath, depth: int) -> str:
    return f"<path {type(value).__name__!a} {_str(str(value), depth)}>"


# Times.


def _date(value: date, depth: int) -> str:
    return f"<date {value.isoformat()!a}>"


def _time(value: time, depth: int) -> str:
    return f"<time {value.replace(tzinfo=None).isoformat()!a} {value.fold} {_text(value.tzinfo, depth + 1)}>"


def _datetime(value: datetime, depth: int) -> str:
    return f"<datetime {value.replace(tzinfo=None).isoformat()!a} {value.fold} {_text(value.tzinfo, depth + 1)}>"


def _timedelta(value: timedelta, depth: int) -> str:
    return f"<timedelta {value.days} {value.seconds} {value.microseconds}>"


def _timezone(value: timezone, depth: int) -> str:
    return f"<timezone {_text(value.__reduce__()[1], depth + 1)}>"  # the offset, and the name where it has one


def _zone_info(value: ZoneInfo, depth: int) -> str:
    if value.key is None:
        raise NotKeyable(ZoneInfo, "it was read from a file and has no key of its own")
    return f"<ZoneInfo {value.key!a}>"


def _pytz(value: tzinfo, depth: int) -> str:
    reduced: Any = value.__reduce__()  # a function and its arguments
    return f"<pytz {reduced[0].__name__!a} {_text(reduced[1], depth + 1)}>"


# What holds others.


def _join(values: Iterable[Any], depth: int) -> str:
    return ", ".join([_text(value, depth + 1) for value in values])


def _list(value: list[Any], depth: int) -> str:
    return ascii(value) if _is_plain(value) else f"[{_join(value, depth)}]"


def _tuple(value: tuple[Any, ...], depth: int) -> str:
    if _is_plain(value):
        return ascii(tuple(value))
    return f"({_join(value, depth)})" if len(value) > 1 else f"({_join(value, depth)},)"


def _set(value: set[Any] | frozenset[Any], depth: int) -> str:
    return " ".join([f"<{type(value).__name__}", *sorted([_text(each, depth + 1) for each in value])]) + ">"


def _dict(value: dict[Any, Any], depth: int) -> str:
    pairs = sorted([(_text(key, depth + 1), _text(each, depth + 1)) for key, each in value.items()])
    return f"{{{', '.join([f'{key}: {each}' for key, each in pairs])}}}"


def _ordered_dict(value: OrderedDict[Any, Any], depth: int) -> str:
    return f"<OrderedDict {_list(list(value.items()), depth)}>"


def _defaultdict(value: defaultdict[Any, Any], depth: int) -> str:
    return f"<defaultdict {_text(value.default_factory, depth + 1)} {_dict(value, depth)}>"


def _counter(value: Counter[Any], depth: int) -> str:
    return f"<Counter {_dict(value, depth)}>"


def _deque(value: deque[Any], depth: int) -> str:
    return f"<deque {value.maxlen} {_list(list(value), depth)}>"


def _namedtuple(value: Any, depth: int) -> str:
    if getattr(value, "__dict__", None):
        raise NotKeyable(type(value), "it holds more than its fields")
    return f"<namedtuple {_class_name(type(value))} {list(value._fields)!a} {_tuple(value, depth)}>"


def _range(value: range, depth: int) -> str:
    return f"<range {_int(value.start, depth)} {_int(value.stop, depth)} {_int(value.step, depth)}>"


def _slice(value: slice, depth: int) -> str:
    return f"<slice {' '.join([_text(part, depth + 1) for part in (value.start, value.stop, value.step)])}>"


def _constant(value: Any, depth: int) -> str:
    return f"<{value!a}>"


def _enum(value: Enum, depth: int) -> str:
    return f"<enum {_class_name(type(value))} {value._name_!a}>"


def _flag(value: Flag, depth: int) -> str:
    """By the names of the bits that are set, so that it holds when bits are numbered anew."""
    named = [member for member in type(value) if member._value_ & value._value_ == member._value_]
    rest = value._value_
    for member in named:
        rest &= ~member._value_
    return f"<flag {_class_name(type(value))} {sorted(str(member._name_) for member in named)!a} {rest}>"


def _field_names(kind: type) -> list[str] | None:
    """The fields of a dataclass, an attrs class or a Struct of msgspec; None for any other class."""
    if is_dataclass(kind):
        return [field.name for field in fields(kind)]
    if hasattr(kind, "__attrs_attrs__"):
        return [field.name for field in kind.__attrs_attrs__]
    return list(kind.__struct_fields__) if hasattr(kind, "__struct_fields__") else None


def _object(kind: type, names: list[str]) -> Writer:
    """Fields, and what else was set in an object: a result may depend on it. What it merely remembers is left out."""
    name = _class_name(kind)
    names = [*dict.fromkeys([*names, *_slots(kind)])]

    def write(value: Any, depth: int) -> str:
        state = {name: getattr(value, name) for name in names if hasattr(value, name)}
        for other, each in getattr(value, "__dict__", {}).items():
            if not isinstance(getattr(kind, other, None), cached_property) and other != "_attrs_cached_hash":
                state[other] = each
        return f"<object {name} {_dict(state, depth)}>"

    return write


def _slots(kind: type) -> Iterable[str]:
    """Slots that are no fields; those of attrs are fields, or made by attrs for its own use."""
    for base in kind.__mro__:
        if not {"__attrs_attrs__", "__struct_fields__"} & vars(base).keys():
            slots = vars(base).get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in ("__dict__", "__weakref__"):
                    mangled = slot.startswith("__") and not slot.endswith("__")
                    yield f"_{base.__name__.lstrip('_')}{slot}" if mangled else slot


# Classes, functions, and what is called.


def module_of(thing: Any) -> str:
    """The module that something names as its own; what a spawned child knows as `__mp_main__` is `__main__`."""
    module = getattr(thing, "__module__", None)
    return "__main__" if module == "__mp_main__" else module if isinstance(module, str) else ""


def _class_name(kind: type) -> str:
    if "<locals>" in kind.__qualname__:
        raise NotKeyable(kind, "its class is defined inside a function, and another could have the same name")
    return ascii(f"{module_of(kind)}:{kind.__qualname__}")


def _class(value: type, depth: int) -> str:
    name = _found_name(value)
    source = f" {_source_digest(class_text(value))}" if module_of(value) == "__main__" else ""
    return f"<class {name}{source}>"


def _function(value: Any, depth: int) -> str:
    return f"<function {_found_name(value)}{_source_of(value)}>"


def _other(value: Any, depth: int) -> str:
    """What is called like a function and has a name like one: compiled by Cython or Numba, or cached, ..."""
    if not callable(value) or not isinstance(getattr(value, "__qualname__", None), str):
        raise NotKeyable(type(value), "nothing says what it is made of")
    return _function(value, depth)


def _source_of(value: Any) -> str:
    if module_of(value) != "__main__":
        return ""
    inner = unwrap(value)
    if not isinstance(inner, FunctionType):
        raise NotKeyable(type(value), "its source is not known")
    return f" {_source_digest(function_text(inner))}"


def _source_digest(text: str) -> str:
    return content_digest(text.encode("utf-8", "surrogatepass"))


def _found_name(value: Any) -> str:
    """The name of a class or a function; NotKeyable where it is not what its name stands for."""
    module, qualified = module_of(value), value.__qualname__
    if "<" in qualified:
        raise NotKeyable(type(value), f"{qualified} is defined inside a function or has no name")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    if getattr(found, "__func__", found) is not value and not (module == "builtins" and isinstance(value, type)):
        raise NotKeyable(type(value), f"{module}.{qualified} is something else now, so its name says too little")
    return ascii(f"{module}:{qualified}")


def _builtin(value: Any, depth: int) -> str:
    """A function in C, or a method in C that is bound to an object."""
    owner = value.__self__
    if owner is None or isinstance(owner, ModuleType):
        return f"<function {_found_name(value)}>"
    return f"<bound {_text(owner, depth + 1)} {value.__name__!a}>"


def _descriptor(value: Any, depth: int) -> str:
    return f"<method {_class(value.__objclass__, depth)} {value.__name__!a}>"


def _method(value: MethodType, depth: int) -> str:
    return f"<bound {_text(value.__self__, depth + 1)} {_text(value.__func__, depth + 1)}>"


def _partial(value: partial[Any], depth: int) -> str:
    parts = (value.func, value.args, value.keywords)
    return f"<partial {' '.join([_text(part, depth + 1) for part in parts])}>"


_EXACT: dict[type, Writer] = {
    type(None): _as_python,
    bool: _as_python,
    float: _as_python,
    int: _int,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
    memoryview: _memoryview,
    complex: _complex,
    Decimal: _decimal,
    Fraction: _fraction,
    UUID: _uuid,
    re.Pattern: _pattern,
    PosixPath: _path,
    PurePosixPath: _path,
    WindowsPath: _path,
    PureWindowsPath: _path,
    date: _date,
    time: _time,
    datetime: _datetime,
    timedelta: _timedelta,
    timezone: _timezone,
    ZoneInfo: _zone_info,
    list: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    dict: _dict,
    OrderedDict: _ordered_dict,
    defaultdict: _defaultdict,
    Counter: _counter,
    deque: _deque,
    range: _range,
    slice: _slice,
    type(...): _constant,
    type(NotImplemented): _constant,
    type: _class,
    FunctionType: _function,
    BuiltinFunctionType: _builtin,
    type(re.compile("").match): _builtin,
    MethodWrapperType: _builtin,
    MethodDescriptorType: _descriptor,
    ClassMethodDescriptorType: _descriptor,
    WrapperDescriptorType: _descriptor,
    MethodType: _method,
    partial: _partial,
}

# By library and name, and whether it holds for subclasses: for none, for the library's own, or for all.
_BY_NAME: dict[tuple[str, str], tuple[Callable[[Any, memoarrays.Text], str], str]] = {
    ("numpy", "ndarray"): (memoarrays.array, "none"),
    ("numpy", "memmap"): (memoarrays.array, "none"),
    ("numpy", "MaskedArray"): (memoarrays.masked_array, "none"),
    ("numpy", "generic"): (memoarrays.scalar, "all"),
    ("numpy", "dtype"): (memoarrays.dtype, "all"),
    ("numpy", "ufunc"): (memoarrays.function, "none"),
    ("pandas", "DataFrame"): (memoarrays.frame, "none"),
    ("pandas", "Series"): (memoarrays.series, "none"),
    ("pandas", "RangeIndex"): (memoarrays.range_index, "none"),
    ("pandas", "MultiIndex"): (memoarrays.multi_index, "none"),
    ("pandas", "Index"): (memoarrays.index, "own"),
    ("pandas", "ExtensionArray"): (memoarrays.extension_array, "all"),
    ("pandas", "ExtensionDtype"): (memoarrays.extension_dtype, "all"),
    ("pandas", "Timestamp"): (memoarrays.moment, "none"),
    ("pandas", "Timedelta"): (memoarrays.duration, "none"),
    ("pandas", "Period"): (memoarrays.period, "none"),
    ("pandas", "Interval"): (memoarrays.interval, "none"),
    ("pandas", "NaTType"): (memoarrays.missing, "none"),
    ("pandas", "NAType"): (memoarrays.missing, "none"),
}

_registering = Lock()
_known = _Known({})
