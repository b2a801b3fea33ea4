"""Keys to bytes and back, so that the order of the bytes is the order of the keys.

The laws of this room, for all keys a and b:

    decode(encode(a)) == a
    encode(a) == encode(b)   exactly when   a == b
    encode(a) <  encode(b)   exactly when   a <  b     (within a type family)

The first byte is a type code; families stand in the order of the table.  An encoding is
self-delimiting inside a tuple, so tuples nest and compare element by element.

    code  what follows
    0x10  None: nothing
    0x26  minus infinity: nothing
    0x2F  integer below -2**63: ~length (4 bytes), ~magnitude
    0x30  integer of 64 bits: value + 2**63 (8 bytes)
    0x31  integer from 2**63: length (4 bytes), magnitude
    0x3A  infinity: nothing
    0x40  text: UTF-8, lone surrogates let through (its byte order is code point order)
    0x48  bytes
    0x50  date: ordinal (4 bytes)
    0x54  datetime without a time zone: microseconds since the year 1 (8 bytes)
    0x58  datetime with a time zone: the same, of the instant in UTC
    0x60  UUID: 16 bytes
    0x80  tuple: the elements, then 0x00

Integers are big-endian; ~ is the complement.  A number that is not whole is its floor, then 0xFF
and the binary digits of the rest, left-aligned: exact for every float, and 0xFF is above every type
code, so (1, anything) < (1.5,) holds.  Text, bytes and digits that something may
follow end with 0x00 and write a 0x00 of their own as 0x00 0xFF; at the end of a key they stand bare.

Datetimes with a time zone are instants: two that `fold` tells apart are two keys, although Python calls
them equal while they are in one zone.

User keys begin at 0x10; what lies below belongs to the library (see `space`).  The codes are stored
on disk: DO NOT CHANGE OR REUSE ONE; the gaps are for types to come.

An engine's keys are short (LMDB ends at 511 bytes).  An encoding of more than `ORDERED_BYTES` is cut
there and goes on with a digest of the whole, which the record then carries.  So any length works, and
the order of keys is exact for the first 480 bytes.

Nothing here knows of records, namespaces or engines.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from hashlib import blake2b
from typing import Any
from uuid import UUID

ORDERED_BYTES = 480
SHORT_DIGEST_BYTES = 16

_NONE = 0x10
_MINUS_INFINITY = 0x26
_INT_BELOW = 0x2F
_INT64 = 0x30
_INT_ABOVE = 0x31
_INFINITY = 0x3A
_TEXT = 0x40
_BYTES = 0x48
_DATE = 0x50
_NAIVE = 0x54
_AWARE = 0x58
_UUID = 0x60
_TUPLE = 0x80

_DEEPEST = 128  # fixed, so that what is a key does not depend on how deep in the stack one asks

_FRACTION = b"\xff"
_END = b"\x00"
_ESCAPED_ZERO = b"\x00\xff"

# First code of each family and the first one after it, for ranges with an open end.
_FAMILIES = (
    (_NONE, _NONE + 1),
    (_MINUS_INFINITY, _INFINITY + 1),
    (_TEXT, _TEXT + 1),
    (_BYTES, _BYTES + 1),
    (_DATE, _DATE + 1),
    (_NAIVE, _NAIVE + 1),
    (_AWARE, _AWARE + 1),
    (_UUID, _UUID + 1),
    (_TUPLE, _TUPLE + 1),
)

_SUPPORTED = (
    "None, bool, int, float, str, bytes, datetime.date, datetime.datetime, uuid.UUID, "
    "whatever has __index__, and tuples of these"
)

_BIAS = 1 << 63
_DAY = 86_400_000_000  # microseconds
_pack_int64 = struct.Struct(">BQ").pack
_pack_length = struct.Struct(">BI").pack
_pack_ordinal = struct.Struct(">BI").pack


def show(key: Any) -> str:
    """The key for a message: shortened, and also where Python refuses to write it (integers of 4,300 digits)."""
    try:
        text = repr(key)
    except ValueError:
        return f"<{type(key).__name__} too long to write>"
    return text if len(text) <= 200 else f"{text[:200]}..."


class LostKey:
    """Stands for a key that was lost by damage: the record can be listed and deleted under it, not more.

    A long key is kept in its record and is lost with it; a damaged short key may decode to nothing.
    `place` is what stands in the tree, without the prefix of the namespace.
    """

    __slots__ = ("place",)

    def __init__(self, place: bytes) -> None:
        self.place = place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LostKey) and self.place == other.place

    def __hash__(self) -> int:
        return hash(self.place)

    def __repr__(self) -> str:
        return f"<LostKey {self.place[:24]!r}...>"


def encode(key: Any) -> bytes:
    """The ordered bytes of `key`, of any length.

    Raises TypeError for a type that cannot be a key and for a subclass that would lose something,
    ValueError for NaN, for an instant that UTC cannot show, and for tuples nested beyond reason.
    """
    if type(key) is str:
        try:
            return b"\x40" + key.encode()
        except UnicodeEncodeError:
            return b"\x40" + key.encode("utf-8", "surrogatepass")
    if type(key) is bytes:
        return b"\x48" + key
    encoder = _ENCODERS.get(type(key))
    return _encode_subclass(key, encode) if encoder is None else encoder(key)


def tree_key(key: Any) -> bytes:
    """What stands in the tree for `key`: its encoding, shortened where it is long.  The hot path of every access."""
    encoded = b"\x40" + key.encode() if type(key) is str and key.isascii() else encode(key)
    return encoded if len(encoded) <= ORDERED_BYTES or type(key) is LostKey else shorten(encoded)


def decode(encoded: bytes) -> Any:
    """The key whose encoding this is, in its plain type: the inverse of `encode`.

    What is no encoding of a key gives a `LostKey`.
    """
    try:
        if encoded[0] == _TEXT:
            return encoded[1:].decode()
        if encoded[0] == _BYTES:
            return encoded[1:]
        key, _ = _decode_element(encoded, 0)
        return key if encode(key) == encoded else LostKey(encoded)
    except UnicodeDecodeError:
        return _decode_surrogates(encoded)
    except (ValueError, LookupError, ArithmeticError, RecursionError):
        return LostKey(encoded)


def decode_long(place: bytes, encoded: bytes | None) -> Any:
    """The key that stands shortened at a place, from the encoding in its record, if that is the right one."""
    if encoded is None or shorten(encoded) != place:
        return LostKey(place)
    key = decode(encoded)
    return LostKey(place) if type(key) is LostKey else key


def shorten(encoded: bytes) -> bytes:
    """What stands in the tree for an encoding longer than `ORDERED_BYTES`."""
    return encoded[:ORDERED_BYTES] + blake2b(encoded, digest_size=SHORT_DIGEST_BYTES).digest()


def family(encoded: bytes) -> tuple[bytes, bytes]:
    """Lowest bytes of the type family that an encoded key belongs to, and lowest bytes after it."""
    for low, high in _FAMILIES:
        if low <= encoded[0] < high:
            return bytes((low,)), bytes((high,))
    raise TypeError("a lost key is in no type family, so it cannot be a bound")


def prefix_bounds(prefix: Any) -> tuple[bytes, bytes]:
    """The half-open range of encodings of all keys that begin with `prefix` (text, bytes or a tuple).

    Raises TypeError for other types, ValueError where the prefix is longer than the order reaches.
    """
    if not isinstance(prefix, (str, bytes, tuple)):
        raise TypeError(f"a prefix is text, bytes or a tuple, not {type(prefix).__name__}; use range(start, stop)")
    start = encode(prefix)
    if start[0] == _TUPLE:
        start = start[:-1]
        stop = start + _FRACTION  # above every element, below a fraction that would change the last one
    else:
        whole = start.rstrip(b"\xff")
        stop = whole[:-1] + bytes((whole[-1] + 1,))
    if len(start) > ORDERED_BYTES - (start[0] == _TUPLE):  # what follows a tuple's elements is looked at, too
        raise ValueError(
            f"a prefix of {len(start)} encoded bytes is too long: keys are ordered by their first "
            f"{ORDERED_BYTES} bytes; use a shorter prefix and filter"
        )
    return start, stop


# Encoding, type by type, each in its self-delimiting form.


def _encode_none(_key: None) -> bytes:
    return b"\x10"


def _encode_int(key: int) -> bytes:
    try:
        return _pack_int64(_INT64, key + _BIAS)
    except struct.error:
        pass
    magnitude = abs(key)
    length = (magnitude.bit_length() + 7) // 8
    if key > 0:
        return _pack_length(_INT_ABOVE, length) + magnitude.to_bytes(length, "big")
    complement = (1 << 8 * length) - 1 - magnitude
    return _pack_length(_INT_BELOW, 0xFFFFFFFF - length) + complement.to_bytes(length, "big")


def _encode_float(key: float) -> bytes:
    if key.is_integer():
        return _encode_int(int(key))
    if key != key:
        raise ValueError("NaN cannot be a key: it equals nothing, so it could never be found again")
    if key in (float("inf"), float("-inf")):
        return b"\x3a" if key > 0 else b"\x26"
    numerator, denominator = key.as_integer_ratio()
    bits = denominator.bit_length() - 1
    padding = -bits % 8
    digits = (numerator & (denominator - 1)) << padding
    fraction = digits.to_bytes((bits + padding) // 8, "big")
    return _encode_int(numerator >> bits) + _FRACTION + _delimited(fraction)


def _delimited(content: bytes) -> bytes:
    return content.replace(_END, _ESCAPED_ZERO) + _END


def _encode_text(key: str) -> bytes:
    return b"\x40" + _delimited(key.encode("utf-8", "surrogatepass"))


def _encode_bytes(key: bytes) -> bytes:
    return b"\x48" + _delimited(key)


def _encode_date(key: date) -> bytes:
    return _pack_ordinal(_DATE, key.toordinal())


def _encode_datetime(key: datetime) -> bytes:
    seconds = (key.toordinal() * 24 + key.hour) * 3600 + key.minute * 60 + key.second
    microseconds = seconds * 1_000_000 + key.microsecond
    offset = key.utcoffset()
    if offset is None:
        return _pack_int64(_NAIVE, microseconds)
    microseconds -= offset // timedelta(microseconds=1)
    if not 1 <= microseconds // _DAY <= date.max.toordinal():
        raise ValueError(f"{key!r} cannot be a key: as an instant in UTC it is outside the years 1 to 9999")
    return _pack_int64(_AWARE, microseconds)


def _encode_uuid(key: UUID) -> bytes:
    return b"\x60" + key.bytes


def _encode_tuple(key: tuple[Any, ...], depth: int = 1) -> bytes:
    if depth > _DEEPEST:
        raise ValueError(f"a key cannot nest tuples deeper than {_DEEPEST} levels; flatten the tuple")
    return b"\x80" + b"".join([_encode_element(element, depth) for element in key]) + _END


def _encode_element(key: Any, depth: int) -> bytes:
    if type(key) is tuple:
        return _encode_tuple(key, depth + 1)
    encoder = _ELEMENT_ENCODERS.get(type(key))
    return _encode_subclass(key, lambda plain: _encode_element(plain, depth)) if encoder is None else encoder(key)


_ELEMENT_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): _encode_none,
    bool: _encode_int,
    int: _encode_int,
    float: _encode_float,
    str: _encode_text,
    bytes: _encode_bytes,
    date: _encode_date,
    datetime: _encode_datetime,
    UUID: _encode_uuid,
}
_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    **_ELEMENT_ENCODERS,
    tuple: _encode_tuple,
    LostKey: lambda key: key.place,
}

# How to see the plain value in an instance of a subclass, whatever the subclass overrides.  datetime
# stands before date, of which it is a subclass.
_PLAIN: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (bytes, lambda key: bytes(memoryview(key))),
    (int, int.__int__),
    (float, float.__float__),
    (tuple, lambda key: tuple.__getitem__(key, slice(None))),
    (
        datetime,
        lambda key: datetime(
            *(key.year, key.month, key.day, key.hour, key.minute, key.second, key.microsecond),
            tzinfo=key.tzinfo,
            fold=key.fold,
        ),
    ),
    (date, lambda key: date(key.year, key.month, key.day)),
    (UUID, lambda key: UUID(int=key.int)),
)


def _encode_subclass(key: Any, encode_plain: Callable[[Any], bytes]) -> bytes:
    """Encode an instance of a subclass as the plain value it equals, or an `__index__` as its integer."""
    for base, plain_value in _PLAIN:
        if isinstance(key, base):
            try:
                plain = plain_value(key)
            except (TypeError, ValueError) as exc:  # a "not a time" is a datetime without a year
                raise TypeError(f"{key!r} cannot be a key: it has no plain {base.__name__} value") from exc
            encoded = encode_plain(plain)
            if not plain == key:
                raise TypeError(
                    f"{key!r} cannot be a key: as a plain {base.__name__} it would lose something; "
                    f"convert it, or add what is lost as a second element of a tuple"
                )
            return encoded
    if hasattr(type(key), "__index__"):
        try:
            return _encode_int(key.__index__())
        except TypeError as exc:
            raise TypeError(f"an array cannot be a key, only {_SUPPORTED}") from exc
    name = (
        type(key).__qualname__
        if type(key).__module__ == "builtins"
        else f"{type(key).__module__}.{type(key).__qualname__}"
    )
    raise TypeError(f"{name} cannot be a key, only {_SUPPORTED}")


# Decoding.  Each function gets the whole encoding and a position, and returns the value and where the
# next element begins.


def _decode_element(encoded: bytes, start: int) -> tuple[Any, int]:
    return _DECODERS[encoded[start]](encoded, start + 1)


def _decode_surrogates(encoded: bytes) -> Any:
    try:
        return encoded[1:].decode("utf-8", "surrogatepass") if encoded[0] == _TEXT else LostKey(encoded)
    except UnicodeDecodeError:
        return LostKey(encoded)


def _decode_int64(encoded: bytes, start: int) -> tuple[int | float, int]:
    end = start + 8
    whole = int.from_bytes(encoded[start:end], "big") - _BIAS
    if encoded[end : end + 1] != _FRACTION:
        return whole, end
    fraction, end = _delimited_content(encoded, end + 1)
    bits = 8 * len(fraction)
    # Division of integers rounds correctly, and the quotient is a float exactly.
    return ((whole << bits) + int.from_bytes(fraction, "big")) / (1 << bits), end


def _decode_int_above(encoded: bytes, start: int) -> tuple[int, int]:
    end = start + 4 + int.from_bytes(encoded[start : start + 4], "big")
    if end > len(encoded):
        raise ValueError("the integer is cut short")
    return int.from_bytes(encoded[start + 4 : end], "big"), end


def _decode_int_below(encoded: bytes, start: int) -> tuple[int, int]:
    length = 0xFFFFFFFF - int.from_bytes(encoded[start : start + 4], "big")
    end = start + 4 + length
    if end > len(encoded):
        raise ValueError("the integer is cut short")
    return int.from_bytes(encoded[start + 4 : end], "big") - (1 << 8 * length) + 1, end


def _delimited_content(encoded: bytes, start: int) -> tuple[bytes, int]:
    end = encoded.index(_END, start)
    while encoded[end : end + 2] == _ESCAPED_ZERO:
        end = encoded.index(_END, end + 2)
    return encoded[start:end].replace(_ESCAPED_ZERO, _END), end + 1


def _decode_text(encoded: bytes, start: int) -> tuple[str, int]:
    content, end = _delimited_content(encoded, start)
    return content.decode("utf-8", "surrogatepass"), end


def _decode_date(encoded: bytes, start: int) -> tuple[date, int]:
    return date.fromordinal(int.from_bytes(encoded[start : start + 4], "big")), start + 4


def _decode_naive(encoded: bytes, start: int) -> tuple[datetime, int]:
    ordinal, microseconds = divmod(int.from_bytes(encoded[start : start + 8], "big"), _DAY)
    return datetime.fromordinal(ordinal) + timedelta(microseconds=microseconds), start + 8


def _decode_aware(encoded: bytes, start: int) -> tuple[datetime, int]:
    naive, end = _decode_naive(encoded, start)
    return naive.replace(tzinfo=timezone.utc), end


def _decode_tuple(encoded: bytes, start: int) -> tuple[tuple[Any, ...], int]:
    elements = []
    while encoded[start]:
        element, start = _decode_element(encoded, start)
        elements.append(element)
    return tuple(elements), start + 1


_DECODERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    _NONE: lambda encoded, start: (None, start),
    _MINUS_INFINITY: lambda encoded, start: (float("-inf"), start),
    _INT_BELOW: _decode_int_below,
    _INT64: _decode_int64,
    _INT_ABOVE: _decode_int_above,
    _INFINITY: lambda encoded, start: (float("inf"), start),
    _TEXT: _decode_text,
    _BYTES: _delimited_content,
    _DATE: _decode_date,
    _NAIVE: _decode_naive,
    _AWARE: _decode_aware,
    _UUID: lambda encoded, start: (UUID(bytes=encoded[start : start + 16]), start + 16),
    _TUPLE: _decode_tuple,
}
