"""Arrays of NumPy as a buffer and a description of it: dtype, shape and order; and back, without pickle.

The description may come from anybody.  It is compared with the buffer, which must have just the size that it
says, so nothing is allocated that is not there already; and a dtype is taken only where it is written as
NumPy writes it (`<f8`, `|S5`, `<M8[ns]`, or a list of fields of those), so no text reaches a parser of
NumPy's that does more.

This is the door to NumPy for the codecs.  Somebody who holds an array has imported NumPy; to import it for
nobody's array would be slow, so values are asked for their class by way of `sys.modules`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from typing import Any

Array = Any
"""A `numpy.ndarray`; its class is named where NumPy is imported."""

Buffer = bytes | bytearray | memoryview
Description = tuple[Any, list[int], str]
"""The dtype, the shape, and "C" or "F"."""

_MOST_DIMENSIONS = 64
_SIMPLE = re.compile(r"[<>|=][biufcmMSUV][0-9]{1,10}(\[[0-9]{0,9}[a-zA-Z]{1,7}(/[0-9]{1,9})?\])?", re.ASCII)


def is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_array_class(kind: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(kind, type) and issubclass(kind, numpy.ndarray)


def is_plain_array_class(kind: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and kind is numpy.ndarray


def takes_array_state(kind: Any) -> bool:
    """Whether NumPy itself takes the state that a pickle has for instances of a class."""
    numpy = sys.modules.get("numpy")
    return is_array_class(kind) and numpy is not None and kind.__setstate__ is numpy.ndarray.__setstate__


def plain_number(value: Any) -> Any:
    """The plain number or text of one of NumPy's scalars; None where the value is something else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    plain = value.item() if value.dtype.kind in "biufSU" else None
    if type(plain) not in (bool, int, float, str, bytes):
        raise TypeError(f"{type(value).__name__} of NumPy has no plain form; store an array of it")
    return plain


def describe(array: Array) -> tuple[Description, memoryview]:
    """The description of an array, and its buffer as a flat view of bytes, without a copy where it has no gaps.

    Raises TypeError where the dtype is not made of numbers, dates, texts and bytes, or could not be given back.
    """
    import numpy as np

    if type(array) not in (np.ndarray, np.memmap):
        raise TypeError(f"an array of class {type(array).__name__} would come back as a plain one; store its parts")
    descr = _descr(array.dtype)
    array = np.asarray(array)
    if not array.flags.forc:
        gapless = np.zeros(array.shape, array.dtype)  # between fields too, where nothing need be copied to
        gapless[...] = array
        array = gapless
    order = "C" if array.flags.c_contiguous else "F"
    flat: Any = array.reshape(-1, order="C" if order == "C" else "F").view(np.uint8)
    return (descr, list(array.shape), order), memoryview(flat)


def _descr(dtype: Any) -> Any:
    """How a dtype is written down; TypeError where that would not give it back."""
    if dtype.hasobject:
        raise TypeError(f"an array of dtype {dtype} holds objects; store them as a list, or use the codec 'pickle'")
    try:
        descr = dtype.str if dtype.names is None else dtype.descr
        back = _dtype(descr)
    except ValueError as exc:
        raise TypeError(f"an array of dtype {dtype} cannot be written down: {exc}") from exc
    if back != dtype or not dtype.itemsize:
        raise TypeError(f"an array of dtype {dtype} would come back as one of {back}; convert it first")
    return descr


def restore(descr: Any, shape: Any, order: Any, buffer: Buffer) -> Array:
    """The array in a buffer, of which it is a view; ValueError where the description does not fit."""
    import numpy as np

    dtype = _dtype(descr)
    sizes = _sizes(shape)
    if order not in ("C", "F"):
        raise ValueError(f"an array has the order {order!r}")
    if not dtype.itemsize or math.prod(sizes) * dtype.itemsize != len(buffer):
        raise ValueError(f"an array of {sizes} and dtype {dtype} does not lie in {len(buffer)} bytes")
    return np.ndarray(sizes, dtype, buffer, order="C" if order == "C" else "F")


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, (list, tuple)) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("the shape of an array is no list of sizes")
    if not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
        raise ValueError(f"an array has the shape {shape!r}")
    return tuple(shape)


def _dtype(descr: Any) -> Any:
    """The dtype that is written down so; ValueError where it is none."""
    import numpy as np

    try:
        dtype = np.lib.format.descr_to_dtype(_checked(descr))
    except (TypeError, OverflowError, MemoryError, SyntaxError) as exc:
        raise ValueError(f"NumPy knows no such dtype: {exc}") from exc
    return dtype


def _checked(descr: Any) -> Any:
    """The same, in tuples where NumPy wants them, with nothing in it but what NumPy itself writes."""
    if isinstance(descr, str):
        if not _SIMPLE.fullmatch(descr):
            raise ValueError(f"a dtype is called {descr[:40]!r}")
        return descr
    if not isinstance(descr, list) or not descr:
        raise ValueError("a dtype is neither a text nor a list of fields")
    return [tuple(_checked_field(field)) for field in descr]


def _checked_field(field: Any) -> Iterable[Any]:
    if not isinstance(field, (list, tuple)) or len(field) not in (2, 3):
        raise ValueError("a field of a dtype is not a name, a dtype and a shape")
    label, descr, *shape = field
    texts = label if isinstance(label, (list, tuple)) else [label]
    if len(texts) > 2 or not all(isinstance(text, str) for text in texts):
        raise ValueError("the name of a field of a dtype is no text")
    yield tuple(texts) if isinstance(label, (list, tuple)) else label
    yield _checked(descr)
    if shape:
        yield _sizes(shape[0])


_DERIVED_FLAGS = 0x7F  # of a dtype: whether its elements are references and the like; the others are about layout only


def refuse_unsound(dtype: Any) -> None:
    """Raise ValueError where a dtype is not what NumPy would make of its parts.

    NumPy believes the state of a dtype that a pickle gives, and so a forged one makes an array read beyond its
    buffer, or take numbers for references to objects.
    """
    try:
        sound = _rebuilt(dtype)
    except TypeError as exc:
        raise ValueError(f"the dtype {dtype!r} cannot be: {exc}") from exc
    if sound != dtype or _layout(sound) != _layout(dtype):
        raise ValueError(f"the dtype {dtype!r} does not fit its parts")


def _layout(dtype: Any) -> tuple[Any, ...]:
    return dtype.num, dtype.kind, dtype.itemsize, dtype.alignment, dtype.flags & _DERIVED_FLAGS


def _rebuilt(dtype: Any) -> Any:
    import numpy as np

    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((_rebuilt(base), shape))
    if dtype.names is None:
        return np.dtype(dtype.str)
    fields = [dtype.fields[name] for name in dtype.names]
    titles = [field[2] if len(field) == 3 else None for field in fields]
    if set(dtype.fields) != {*dtype.names, *titles} - {None}:
        raise ValueError("the dtype has fields without a name")
    parts: Any = {
        "names": list(dtype.names),
        "formats": [_rebuilt(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": titles,
        "itemsize": dtype.itemsize,
    }
    sound: Any = np.dtype(parts, bool(dtype.isalignedstruct))
    return sound
