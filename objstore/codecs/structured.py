"""MessagePack and JSON, by msgspec: formats that hold data and no code.

What they know is None, truth, numbers, text, lists and mappings (MessagePack: bytes, too).  Everything else is
written as one of those: a tuple as a list, a dataclass as a mapping.  So a codec is best given the type of its
values, and with it makes the same again and nothing else; a value that would not come back as that type is
refused when it is written, for it is read back then and there.

Arrays of NumPy are in both of them, see `arrays`.  In MessagePack an array is an extension (`ARRAY`) that holds
its description, and its bytes where they are few, or else the number of a frame.  JSON holds no bytes.  There
every array is a frame; the payload then begins with the byte 0x1E, which begins no JSON, and a line that says
what the arrays are and which token stands for them in the text after it.  The token is drawn anew for every
record, so that no text of anybody's can be one.

msgspec is imported when a codec is made.  Models of pydantic are known by their methods.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from objstore.codecs import arrays
from objstore.record import LARGE, MAX_FRAMES

ARRAY = 78
"""The type of the extension of MessagePack that is an array."""

_WITH_ARRAYS = 0x1E
_TOKEN = re.compile("[0-9a-f]{32}")
_NUMBER = re.compile("[0-9]{1,5}")

Frames = Sequence[bytearray | memoryview]


class _NeedsFrames(Exception):
    """There is an array that must be a frame."""


def _msgspec() -> Any:
    try:
        import msgspec
        import msgspec.json
        import msgspec.msgpack
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "the codecs 'msgpack' and 'json' need msgspec: pip install msgspec", name="msgspec"
        ) from exc
    return msgspec


class _Structured:
    """What both formats share: one type, checked on both ways."""

    name: str
    _type: Any
    _msgspec: Any

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return type(self), (self._type,)

    def __repr__(self) -> str:
        shown = getattr(self._type, "__qualname__", None) if isinstance(self._type, type) else repr(self._type)
        return f"{type(self).__name__}({'' if self._type is None else shown})"

    @property
    def _wanted(self) -> Any:
        return Any if self._type is None else self._type

    def _read_back(self, value: Any, payload: bytes, frames: Frames) -> Any:
        """What a payload gives; raises where that is no value of the type, or another than was written."""
        try:
            back = self.decode(memoryview(payload), frames)
        except (ValueError, TypeError, self._msgspec.MsgspecError) as exc:
            raise TypeError(f"it would not come back as {self._type!r}: {exc}") from exc
        if type(back) is not type(value) and not _equal(back, value):
            raise TypeError(f"it is a {type(value).__qualname__}, and would come back as a {type(back).__qualname__}")
        return back

    def decode(self, payload: memoryview, frames: Frames) -> Any:
        raise NotImplementedError


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def _is_model(kind: Any) -> bool:
    return callable(getattr(kind, "model_validate", None)) and callable(getattr(kind, "model_dump", None))


def _as_type(kind: Any, plain: Any) -> Any:
    """Of a class that msgspec does not know, as it asks for it."""
    if _is_model(kind):
        return kind.model_validate(plain)
    if arrays.is_array_class(getattr(kind, "__origin__", kind)) and arrays.is_array(plain):
        return plain
    raise TypeError(f"{kind!r} cannot be made of {type(plain).__name__}")


def _unknown(value: Any) -> TypeError:
    return TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} is nothing that these formats know; make a dataclass "
        f"of it, or use the codec 'pickle'"
    )


class Msgpack(_Structured):
    """MessagePack: compact, fast, and no code runs when it is read.

    * `type`: what the values are, in the way of annotations: a dataclass, a class of attrs, a `msgspec.Struct`, a
      TypedDict, a model of pydantic, a NumPy array, or lists, mappings and unions of such things. None: anything that
      the format knows.

    Raises ModuleNotFoundError where msgspec is not installed, and TypeError for a type that it does not know.

    Without a type these come back as something else: tuples and sets as lists; bytearrays as bytes; dataclasses,
    models and the like as dicts; members of enumerations as their values; Decimal, UUID, timedelta, date, time and
    datetime without a zone as text; a datetime with a zone in UTC. Those of a type come back as what the type says.
    In both, numbers of NumPy come back as plain ones, and with a type an instance of a subclass, somewhere inside the
    value, as one of the class that the type names. A `msgspec.Ext` of type 78 is taken for an array.
    Refused are integers beyond 64 bits, lone surrogates, arrays of objects, subclasses of arrays, and what the
    format does not know.
    """

    name = "msgpack"
    number = 4
    runs_code = False

    def __init__(self, type: Any = None) -> None:  # noqa: A002  (it is what a user writes)
        self._type = type
        self._msgspec = _msgspec()
        self._format = self._msgspec.msgpack
        self._encode = self._encoder(_too_large_inside).encode
        self._decode = self._decoder(()).decode

    def _encoder(self, keep: Callable[[memoryview], int | memoryview]) -> Any:
        def hook(value: Any) -> Any:
            if arrays.is_array(value):
                description, buffer = arrays.describe(value)
                return self._format.Ext(ARRAY, self._format.encode((*description, keep(buffer))))
            plain = arrays.plain_number(value)
            if plain is not None:
                return plain
            if _is_model(type(value)):
                return value.model_dump(by_alias=True, round_trip=True, warnings=False)
            raise _unknown(value)

        return self._format.Encoder(enc_hook=hook)

    def _decoder(self, frames: Frames) -> Any:
        def hook(code: int, data: memoryview) -> Any:
            if code != ARRAY:
                return self._format.Ext(code, bytes(data))
            descr, shape, order, place = self._format.decode(data, type=tuple[Any, list[int], str, int | bytes])
            return arrays.restore(descr, shape, order, _buffer(place, frames))

        return self._format.Decoder(self._wanted, ext_hook=hook, dec_hook=_as_type)

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        frames: list[memoryview] = []

        def keep(buffer: memoryview) -> int | memoryview:
            if len(buffer) < LARGE or len(frames) == MAX_FRAMES:
                return buffer
            frames.append(buffer)
            return len(frames) - 1

        try:
            payload = self._encode(value)
        except _NeedsFrames:
            payload = self._encoder(keep).encode(value)
        if self._type is not None:
            self._read_back(value, payload, frames)
        return payload, frames

    def decode(self, payload: memoryview, frames: Frames) -> Any:
        # A copy, since what is decoded may be a view of it.
        return (self._decoder(frames).decode if frames else self._decode)(bytes(payload))


def _too_large_inside(buffer: memoryview) -> memoryview:
    if len(buffer) >= LARGE:
        raise _NeedsFrames
    return buffer


def _buffer(place: int | bytes, frames: Frames) -> arrays.Buffer:
    if isinstance(place, bytes):
        return bytearray(place)  # so that the array can be changed
    if not 0 <= place < len(frames):
        raise ValueError(f"an array lies in frame {place}, and there are {len(frames)}")
    return frames[place]


class Json(_Structured):
    """JSON: what everybody reads, and no code runs when it is read.

    `type` as for `Msgpack`.

    Without a type, what is no JSON is refused where it would come back as another value without a trace: numbers
    that are not finite, keys that are not text, bytes. And these come back as something else: tuples and sets as
    lists; dataclasses, models and the like as dicts; members of enumerations as their values; Decimal, UUID,
    timedelta, date, time and datetime as text. With a type all of them come back as what it says, except that a
    number must be finite. Refused are lone surrogates, arrays of objects, and what the format does not know.
    """

    name = "json"
    number = 3
    runs_code = False

    def __init__(self, type: Any = None) -> None:  # noqa: A002  (it is what a user writes)
        self._type = type
        self._msgspec = _msgspec()
        self._format = self._msgspec.json
        self._encode = self._format.Encoder(enc_hook=_json_hook(_no_frames)).encode
        self._decode = self._format.Decoder(self._wanted, dec_hook=_as_type).decode
        self._decode_plain = self._format.Decoder().decode

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        try:
            payload: bytes = self._encode(value)
        except _NeedsFrames:
            return self._encode_with_arrays(value)
        if self._type is not None:
            back = self._read_back(value, payload, ())
            if b"null" in payload and not _equal(back, value):
                self._refuse_changes(value)
        elif self._decode_plain(payload) != value:
            self._refuse_changes(value)
        return payload, ()

    def _encode_with_arrays(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        token = os.urandom(16).hex()
        frames: list[memoryview] = []
        descriptions: list[arrays.Description] = []

        def keep(array: Any) -> str:
            if len(frames) == MAX_FRAMES:
                raise ValueError(f"it holds more than {MAX_FRAMES} arrays; stack them, or use the codec 'msgpack'")
            description, buffer = arrays.describe(array)
            frames.append(buffer)
            descriptions.append(description)
            return f"{token}{len(frames) - 1}"

        text = self._format.encode(value, enc_hook=_json_hook(keep))
        self._refuse_changes(value)
        payload = b"%c%b\n%b" % (_WITH_ARRAYS, self._format.encode((token, descriptions)), text)
        if self._type is not None:
            self._read_back(value, payload, frames)
        return payload, frames

    def _refuse_changes(self, value: Any) -> None:
        """Raise where a number, a key or bytes would come back as something else."""
        kept = (bytes, bytearray, memoryview)
        typed = self._type is not None
        todo = [self._msgspec.to_builtins(value, builtin_types=kept, enc_hook=_json_hook(lambda array: None))]
        while todo:
            each = todo.pop()
            if isinstance(each, dict):
                if not typed and not all(isinstance(key, str) for key in each):
                    raise TypeError("a key of a dict in it is not text, and JSON would make it text; give a type")
                todo += each.values()
            elif isinstance(each, (list, tuple, set, frozenset)):
                todo += each
            elif isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"JSON has no {each}; store None, or use the codec 'msgpack'")
            elif isinstance(each, kept) and not typed:
                raise TypeError("JSON has no bytes; give a type, or use the codec 'msgpack'")

    def decode(self, payload: memoryview, frames: Frames) -> Any:
        data = bytes(payload)  # what is decoded may be a view of it
        return self._decode_with_arrays(data, frames) if data[:1] == b"\x1e" else self._decode(data)

    def _decode_with_arrays(self, data: bytes, frames: Frames) -> Any:
        end = data.index(b"\n")
        token, descriptions = self._format.decode(data[1:end], type=tuple[str, list[tuple[Any, list[int], str]]])
        if not _TOKEN.fullmatch(token) or len(descriptions) != len(frames):
            raise ValueError(f"the payload describes {len(descriptions)} arrays, and there are {len(frames)} frames")
        found = [
            arrays.restore(descr, shape, order, frame)
            for (descr, shape, order), frame in zip(descriptions, frames, strict=True)
        ]
        value = _put_in(self._decode_plain(data[end + 1 :]), token, found)
        if self._type is None:
            return value
        return self._msgspec.convert(value, self._type, dec_hook=_as_type, str_keys=True)


def _no_frames(array: Any) -> Any:
    raise _NeedsFrames


def _json_hook(keep: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def hook(value: Any) -> Any:
        if arrays.is_array(value):
            return keep(value)
        plain = arrays.plain_number(value)
        if plain is not None:
            return plain
        if _is_model(type(value)):
            return _dump_as_json(value, hook)
        raise _unknown(value)

    return hook


def _dump_as_json(model: Any, hook: Callable[[Any], Any]) -> Any:
    """A model of pydantic in what JSON knows, and what else `hook` makes of it."""
    options = {"mode": "json", "by_alias": True, "round_trip": True, "warnings": False}
    try:
        return model.model_dump(**options)
    except ValueError:  # there are arrays in it, say; before pydantic 2.11 there can be none
        return model.model_dump(**options, fallback=hook)


def _put_in(value: Any, token: str, found: list[Any]) -> Any:
    """The value, which is nobody else's yet, with the arrays where their tokens stand."""
    whole = [value]
    todo: list[Any] = [whole]
    while todo:
        each = todo.pop()
        for place, part in list(each.items() if isinstance(each, dict) else enumerate(each)):
            if isinstance(part, (list, dict)):
                todo.append(part)
            elif isinstance(part, str) and part.startswith(token):
                each[place] = _array_of(part[len(token) :], found)
    return whole[0]


def _array_of(number: str, found: list[Any]) -> Any:
    if not _NUMBER.fullmatch(number) or int(number) >= len(found):
        raise ValueError(f"there is no array {number[:20]!r}")
    return found[int(number)]
