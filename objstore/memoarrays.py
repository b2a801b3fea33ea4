"""What stands for a value of NumPy or pandas in the text of a key: its type, its shape and its content.

How the memory lies is nothing to a key: strides, order, and whether an array is a view.  What a computation
can see of it counts: dtype with byte order, shape, names, and the content bit by bit, so that two NaNs with
different bits are two, and so are 0.0 and -0.0.  Bytes that no field of a dtype covers do not count, nor
does what a mask hides; the frequency and `attrs` of pandas do not, either, nor whether its texts lie in
Arrow's memory or in Python's.

An array of 100 MB is digested where it lies if its content lies there in C order; else in pieces.

Neither library is imported here, at no time: somebody who holds an array has done so, and the objects' own
methods do the rest.  Each function takes a value and `text`, which gives the text of any value within it.
The texts are stored as digests: DO NOT CHANGE ONE (the format is described in `memokeys`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

Text = Callable[[Any], str]
"""Gives the text of a value that is part of another; TypeError where it has none."""

DIGEST_BYTES = 20
_TILE = 128  # columns
_PIECE_BYTES = 1 << 20  # fits the caches of a core, so that what was just copied is digested from there
_OF_NUMPY = ("NumpyExtensionArray", "PandasArray")
_DATETIMES = ("DatetimeArray", "TimedeltaArray", "PeriodArray")


class NotKeyable(TypeError):
    """A value, or something in it, has no stable key; `kind` is the type that would have to be registered."""

    def __init__(self, kind: type, reason: str) -> None:
        super().__init__(f"an object of type {kind.__module__}.{kind.__qualname__} has no stable key: {reason}")
        self.kind = kind
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[type, str]]:
        return type(self), (self.kind, self.reason)


def content_digest(content: Any) -> str:
    """The digest of bytes, in hexadecimal."""
    return blake2b(content, digest_size=DIGEST_BYTES).hexdigest()


def _digest_of_pieces(pieces: Iterator[Any]) -> str:
    """The same of bytes that come in pieces, each of which is good until the next one is asked for."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


# NumPy.


def array(value: Any, text: Text) -> str:
    return f"<numpy.ndarray {dtype(value.dtype, text)} {value.shape!a} {_content(value, text)}>"


def scalar(value: Any, text: Text) -> str:
    """A number of NumPy, as the array without dimensions that it is."""
    if value.dtype.type is not type(value):
        raise NotKeyable(type(value), f"it may hold more than the {value.dtype.type.__name__} that it is")
    plain = sys.modules["numpy"].asarray(value)
    return f"<numpy.generic {dtype(plain.dtype, text)} {_content(plain, text)}>"


def masked_array(value: Any, text: Text) -> str:
    """An array with a mask; where it is masked, its content is the fill value."""
    numpy = sys.modules["numpy"]
    parts = numpy.ma.getmaskarray(value), value.filled(), numpy.asarray(value.fill_value)
    return f"<numpy.ma.MaskedArray {' '.join(array(part, text) for part in parts)}>"


def function(value: Any, text: Text) -> str:
    """A universal function, by name; one that was made of a Python function has no name to be found by."""
    name = value.__name__
    if getattr(sys.modules["numpy"], name, None) is not value:
        raise NotKeyable(type(value), "it is not one of NumPy's own")
    return f"<numpy.ufunc {name!a}>"


def dtype(value: Any, text: Text) -> str:
    """The text of a dtype, with offsets and size where it has fields, since padding is part of its type."""
    if value.names is not None:
        fields = [_field(name, value.fields[name], text) for name in value.names]
        return f"<numpy.dtype {value.itemsize} {' '.join(fields)}>"
    if value.subdtype is not None:
        base, shape = value.subdtype
        return f"<numpy.dtype of {dtype(base, text)} {shape!a}>"
    if value.kind == "T":
        missing = text(value.na_object) if hasattr(value, "na_object") else "none"
        return f"<numpy.StringDType {missing} {value.coerce}>"
    if value.type.__module__ != "numpy":  # a dtype that another library has added
        return f"<numpy.dtype {value.str!a} {f'{value.type.__module__}:{value.type.__qualname__}'!a}>"
    return f"<numpy.dtype {value.str!a}>"


def _field(name: str, field: Any, text: Text) -> str:
    title = f" {text(field[2])}" if len(field) > 2 else ""
    return f"({name!a} {dtype(field[0], text)} {field[1]}{title})"


def _content(value: Any, text: Text) -> str:
    """What is in an array: a digest of its bytes in C order, or its elements, or its fields one by one."""
    kind = value.dtype
    if kind.names is not None and (kind.hasobject or not _is_gapless(kind)):
        return f"<{' '.join(_content(value[name], text) for name in kind.names)}>"
    if kind.hasobject:
        return text(value.reshape(-1).tolist())
    return _digest_of_pieces(_pieces(value)) if value.nbytes else content_digest(b"")


def _is_gapless(kind: Any) -> bool:
    """Whether each byte of a dtype belongs to one of its fields, and has a meaning there."""
    if kind.subdtype is not None:
        return _is_gapless(kind.subdtype[0])
    if kind.names is None:
        return kind.char not in "gG"
    fields = sorted((kind.fields[name][1], kind.fields[name][0]) for name in kind.names)
    end = 0
    for offset, field in fields:
        if offset != end or not _is_gapless(field):
            return False
        end += field.itemsize
    return bool(end == kind.itemsize)


def _pieces(value: Any) -> Iterator[Any]:
    """The bytes of an array in C order, without a copy where they lie so."""
    if value.dtype.char in "gG":
        value = _without_padding(value)
    if value.flags.c_contiguous:
        yield value.reshape(-1).view("u1")
    else:
        yield from _copied_pieces(value)


def _copied_pieces(value: Any) -> Iterator[Any]:
    """The same from an array that lies otherwise: copies of some rows at a time, all into one buffer."""
    rows = value.shape[0]
    at_once = min(rows, rows * _PIECE_BYTES // value.nbytes)
    if not at_once and value.ndim > 1:
        for row in value:
            yield from _pieces(row)
        return
    step = max(at_once, 1)
    buffer = sys.modules["numpy"].empty((step, *value.shape[1:]), value.dtype)
    for first in range(0, rows, step):
        some = value[first : first + step]
        copy = buffer[: len(some)]
        for columns in _tiles(value):
            copy[columns] = some[columns]
        yield copy.reshape(-1).view("u1")


def _tiles(value: Any) -> list[Any]:
    """In which parts to copy: few columns at a time where each of them lies far from the next."""
    if value.ndim == 1 or abs(value.strides[-1]) <= abs(value.strides[-2]):
        return [...]
    return [(..., slice(first, first + _TILE)) for first in range(0, value.shape[-1], _TILE)]


def _without_padding(value: Any) -> Any:
    """Long doubles of x87 fill ten of their twelve or sixteen bytes; the others may hold anything."""
    numpy = sys.modules["numpy"]
    native = numpy.ascontiguousarray(value, value.dtype.newbyteorder("="))
    if numpy.finfo(native.dtype).nmant != 63:
        return native
    size = native.dtype.itemsize // (2 if native.dtype.char == "G" else 1)
    return native.reshape(-1).view("u1").reshape(-1, size)[:, :10]


# pandas.


def frame(value: Any, text: Text) -> str:
    columns = (_values(value.iloc[:, number], text) for number in range(value.shape[1]))
    return f"<pandas.DataFrame {text(value.index)} {text(value.columns)} [{', '.join(columns)}]>"


def series(value: Any, text: Text) -> str:
    return f"<pandas.Series {text(value.index)} {text(value.name)} {_values(value, text)}>"


def index(value: Any, text: Text) -> str:
    return f"<pandas.Index {text(value.name)} {_values(value, text)}>"


def range_index(value: Any, text: Text) -> str:
    return f"<pandas.RangeIndex {text(value.name)} {value.start} {value.stop} {value.step}>"


def multi_index(value: Any, text: Text) -> str:
    """By the values of each level, since the same ones may be coded in many ways."""
    levels = (_values(value.get_level_values(number), text) for number in range(value.nlevels))
    return f"<pandas.MultiIndex {text(list(value.names))} [{', '.join(levels)}]>"


def _values(value: Any, text: Text) -> str:
    """What is in a column or an index, which is NumPy's or one of pandas' own kinds of array."""
    return array(value.to_numpy(), text) if _is_of_numpy(value.dtype) else text(value.array)


def _is_of_numpy(kind: Any) -> bool:
    return isinstance(kind, sys.modules["numpy"].dtype)


def extension_array(value: Any, text: Text) -> str:
    """An array of pandas, or of a library that extends it."""
    return f"<pandas.array {extension_dtype(value.dtype, text)} {_extension_content(value, text)}>"


def _extension_content(value: Any, text: Text) -> str:
    if _is_of_numpy(value.dtype):
        return array(value.to_numpy(), text)
    name = type(value).__name__
    if name in _OF_NUMPY:
        return array(value.to_numpy(), text)
    if name == "Categorical":
        return array(value.codes, text)
    if name in _DATETIMES:
        return array(value.view("i8"), text)
    if any(base.__name__ == "BaseMaskedArray" for base in type(value).__mro__):
        kind = value.dtype.numpy_dtype
        return f"{array(value.isna(), text)} {array(value.to_numpy(dtype=kind, na_value=kind.type(0)), text)}"
    return text(list(value))


def extension_dtype(value: Any, text: Text) -> str:
    if _is_of_numpy(value):
        return dtype(value, text)
    module, _, _ = type(value).__module__.partition(".")
    categories = f" {text(value.categories)} {value.ordered}" if type(value).__name__ == "CategoricalDtype" else ""
    return f"<pandas.dtype {module!a} {str(value)!a}{categories}>"


def moment(value: Any, text: Text) -> str:
    """A Timestamp: the instant, its unit and its zone."""
    return f"<pandas.Timestamp {scalar(value.asm8, text)} {text(value.tz)}>"


def duration(value: Any, text: Text) -> str:
    return f"<pandas.Timedelta {scalar(value.asm8, text)}>"


def period(value: Any, text: Text) -> str:
    return f"<pandas.Period {value.ordinal} {value.freqstr!a}>"


def interval(value: Any, text: Text) -> str:
    return f"<pandas.Interval {text(value.left)} {text(value.right)} {value.closed!a}>"


def missing(value: Any, text: Text) -> str:
    """NaT or NA."""
    return f"<pandas.{type(value).__name__}>"
