"""The table of the codecs: their names, which a user gives, and their numbers, which the records have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from objstore.codecs.base import OWN_NUMBERS, Codec
from objstore.codecs.pickling import Pickle
from objstore.codecs.raw import Bytes
from objstore.codecs.structured import Json, Msgpack

CODECS: dict[str, type[Pickle | Bytes | Json | Msgpack]] = {
    codec.name: codec for codec in (Pickle, Bytes, Json, Msgpack)
}

_NAMES = {codec.number: name for name, codec in CODECS.items()}


def codec_of(codec: str | Codec) -> Codec:
    """The codec of a name, or an object with the contract of one, checked.

    Raises ValueError and TypeError that say what there is and what is asked, and ModuleNotFoundError where a codec
    needs a package that is not installed.
    """
    if isinstance(codec, str):
        if codec not in CODECS:
            raise ValueError(f"no codec is called {codec!r}; there are {', '.join(map(repr, CODECS))}")
        return CODECS[codec]()
    if not isinstance(codec, tuple(CODECS.values())):
        _check_own(codec)
    return codec


def encoder_of(codec: Codec) -> Callable[[Any], tuple[bytes, Sequence[memoryview]]]:
    """What encodes with it; what somebody's own gives is looked at, because what is wrong could not be read back."""
    return codec.encode if isinstance(codec, tuple(CODECS.values())) else partial(_encode, codec)


def _encode(codec: Codec, value: Any) -> tuple[bytes, Sequence[memoryview]]:
    payload, frames = codec.encode(value)
    if not isinstance(payload, bytes):
        raise TypeError(f"its encode() gave a payload of type {type(payload).__name__}, which must be bytes")
    return payload, [memoryview(frame).cast("B") for frame in frames]


def name_of(number: int) -> str | None:
    """The name of the codec of this library that has a number, or None."""
    return _NAMES.get(number)


def _check_own(codec: Any) -> None:
    """Raise where an object is not the codec of somebody's own that it should be."""
    if isinstance(codec, type):
        raise TypeError(f"a codec is needed, not the class {codec.__name__}; {codec.__name__}() makes one perhaps")
    missing = [part for part in ("name", "number", "runs_code", "encode", "decode") if not hasattr(codec, part)]
    if missing:
        raise TypeError(
            f"{codec!r} is neither the name of a codec ({', '.join(map(repr, CODECS))}) nor one: it has no "
            f"{', '.join(missing)}; objstore.codecs.base.Codec says what a codec has"
        )
    if not callable(codec.encode) or not callable(codec.decode):
        raise TypeError(f"encode and decode of the codec {codec!r} must be methods")
    if not isinstance(codec.runs_code, bool):
        raise TypeError(f"runs_code of the codec {codec!r} must be True or False: can forged bytes run code in decode?")
    if not isinstance(codec.name, str) or not codec.name:
        raise TypeError(f"the name of the codec {codec!r} must be a text that is not empty, not {codec.name!r}")
    if codec.name in CODECS:
        raise ValueError(f"a codec of your own cannot be called {codec.name!r}; that is one of this library")
    if type(codec.number) is not int or codec.number not in OWN_NUMBERS:
        raise ValueError(
            f"a codec of your own has a number from {OWN_NUMBERS.start} to {OWN_NUMBERS.stop - 1}, "
            f"the same for ever, not {codec.number!r}"
        )
