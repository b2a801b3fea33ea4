"""JSON Lines: one entry of a store as one line of JSON, and back, so that other programs can read and write it.

    {"key": "user:1", "value": {"name": "Ada"}, "namespace": "users", "expires_at": "2026-11-26T12:00:00+00:00",
     "tags": ["people"]}

`namespace`, `expires_at` and `tags` are left out where there is nothing to say.  A key is written so:

    text, an integer, a finite float, null   as it is
    a tuple                                  an array
    bytes                                    {"bytes": "base64"}
    a date, a datetime                       {"date": "2026-11-26"}, {"datetime": "2026-11-26T12:00:00+00:00"}
    a UUID                                   {"uuid": "12345678-1234-5678-1234-567812345678"}
    an infinite float                        {"float": "inf"}, {"float": "-inf"}
    an integer of thousands of digits        {"int": "0x12ab..."}
    text with a lone surrogate               {"text": "base64 of its UTF-8, surrogates let through"}

The rule of this room is that nothing is told approximately.  A value is written only if reading the line gives it back
equal and of the same types; else `Inexact` says where in the value something else is, and what.  Lines are ASCII: what
is not ASCII is escaped, so that they are the same in every encoding, and a terminal obeys none of it.

Nothing here knows of stores or files.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from math import isfinite
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from objstore.keys import LostKey, show

_FIELDS = {"key", "value", "namespace", "expires_at", "tags"}
_SCALARS = (type(None), bool)
_NO_EXPORT = "if this is no export, name the field that is the key (key_field, --key)"
_MOST_BITS = 10_000  # of a number in JSON: Python neither writes nor reads more than 4,300 digits unless it is told to


class Item(NamedTuple):
    """An entry, as a line tells it."""

    key: Any
    value: Any
    namespace: str | None = None
    """Its namespace; None is the default one."""
    expires_at: float | None = None
    """When it expires, in seconds since 1970; None is never."""
    tags: tuple[str, ...] = ()


class Inexact(ValueError):
    """JSON cannot tell this exactly."""


# Writing


def write_line(item: Item) -> bytes:
    """The line of an entry, with its line end.  Raises Inexact for what would not be read back as it is."""
    key, fields = key_to_json(item.key), beside(item)
    try:
        _check_value(item.value)
        return line_of({"key": key, "value": item.value, **fields})
    except Inexact as exc:
        raise Inexact(f"{exc}; export to pickle or dump") from None


def text_of(value: Any) -> str:
    """The value alone, in one line without its end.  Raises Inexact for what would not be read back as it is."""
    _check_value(value)
    return _text_of(value)


def beside(item: Item) -> dict[str, Any]:
    """What a line tells of an entry beside its key and its value.  Raises Inexact."""
    fields: dict[str, Any] = {}
    if item.namespace is not None:
        _check_text(item.namespace, "the name of its namespace")
        fields["namespace"] = item.namespace
    if item.expires_at is not None:
        fields["expires_at"] = datetime.fromtimestamp(item.expires_at, timezone.utc).isoformat()
    if item.tags:
        for tag in item.tags:
            _check_text(tag, "a tag")
        fields["tags"] = item.tags
    return fields


def line_of(fields: dict[str, Any]) -> bytes:
    """A line of these fields, which are exact.  Raises Inexact for an integer that Python does not write."""
    return _text_of(fields).encode("ascii") + b"\n"


def _text_of(told: Any) -> str:
    try:
        return _encode(told)
    except ValueError as exc:  # an integer of more digits than Python writes
        raise Inexact("it holds an integer of more digits than Python writes") from exc
    except RecursionError as exc:
        raise _too_deep() from exc


_encode = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(", ", ": ")).encode


def key_to_json(key: Any) -> Any:
    """What is written for a key.  Raises Inexact."""
    if type(key) is tuple:
        return [key_to_json(element) for element in key]
    if type(key) is str:
        return key if _is_text(key) else {"text": b64encode(key.encode("utf-8", "surrogatepass")).decode()}
    if type(key) is float and not isfinite(key):
        return {"float": repr(key)}
    if type(key) is int and key.bit_length() > _MOST_BITS:
        return {"int": hex(key)}
    writer = _KEY_WRITERS.get(type(key))
    if writer is None:
        what = "is lost" if isinstance(key, LostKey) else f"is of type {type(key).__name__}"
        raise Inexact(f"the key {show(key)} {what}, which JSON cannot tell")
    return writer(key)


def _as_it_is(key: Any) -> Any:
    return key


def _moment_text(key: datetime) -> str:
    offset = key.utcoffset()
    if offset is not None and offset % timedelta(seconds=1):  # `fromisoformat` takes less than a second for nothing
        key = key.astimezone(timezone.utc)
    return key.isoformat()


_KEY_WRITERS: dict[type, Callable[[Any], Any]] = {
    type(None): _as_it_is,
    bool: _as_it_is,
    int: _as_it_is,
    float: _as_it_is,
    bytes: lambda key: {"bytes": b64encode(key).decode()},
    datetime: lambda key: {"datetime": _moment_text(key)},
    date: lambda key: {"date": key.isoformat()},
    UUID: lambda key: {"uuid": str(key)},
}


def _check_text(text: str, what: str) -> None:
    if not _is_text(text):
        raise Inexact(f"{what} holds a lone surrogate, which is no text in JSON")


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_value(value: Any) -> None:
    """Raise Inexact if the value is anything that JSON does not give back equal and of the same type."""
    try:
        found = _stranger(value)
    except RecursionError:
        raise _too_deep() from None
    if found is not None:
        path, what = found
        raise Inexact(f"at {''.join(reversed(path))}: {what}" if path else what) from None


def _too_deep() -> Inexact:
    return Inexact("it is nested too deeply, or holds itself")


def _stranger(value: Any) -> tuple[list[str], str] | None:
    """The first part of a value that JSON does not give back: the way to it, last step first, and what it is."""
    kind = type(value)
    if kind in _SCALARS:
        return None
    if kind is str:
        return None if _is_text(value) else ([], "a text with a lone surrogate")
    if kind is int:
        return None
    if kind is float:
        return None if isfinite(value) else ([], f"the float {value!r}")
    if kind is list:
        return _stranger_in_list(value)
    if kind is dict:
        return _stranger_in_dict(value)
    return [], f"{_article(kind)}"


def _stranger_in_list(values: list[Any]) -> tuple[list[str], str] | None:
    for index, value in enumerate(values):
        if (found := _stranger(value)) is not None:
            found[0].append(f"[{index}]")
            return found
    return None


def _stranger_in_dict(values: dict[Any, Any]) -> tuple[list[str], str] | None:
    for name, value in values.items():
        if type(name) is not str:
            return [], f"a dict with the key {show(name)}, which is no text"
        if not _is_text(name):
            return [], "a dict with a key that holds a lone surrogate"
        if (found := _stranger(value)) is not None:
            found[0].append(f"[{show(name)}]")
            return found
    return None


def _article(kind: type) -> str:
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return name if kind is bytes else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


# Reading


def read_line(line: bytes, key_field: str | None = None) -> Item:
    """The entry that a line tells.

    With `key_field`, it is a line of another program: that field is the key, and the whole object is the value.

    Raises ValueError for what is no JSON, and for JSON that tells no entry.
    """
    fields = object_in(line)
    if key_field is not None:
        if key_field not in fields:
            raise ValueError(f"it has no field {key_field!r}; the fields are {_few(fields)}")
        return Item(_key_of_json(fields[key_field]), fields)
    if missing := {"key", "value"} - fields.keys():
        raise ValueError(
            f"it has no field {min(missing)!r}; if this is no export, name the field that is the key (key_field, --key)"
        )
    if unknown := fields.keys() - _FIELDS:
        raise ValueError(
            f"the field {min(unknown)!r} has no meaning here; name the field that is the key (key_field, --key)"
        )
    return told_beside(fields["key"], fields["value"], fields)


def told_beside(key: Any, value: Any, fields: dict[str, Any]) -> Item:
    """The entry with that key, as it is written, and what a line tells of it beside.  Raises ValueError."""
    namespace = fields.get("namespace")
    if not (namespace is None or isinstance(namespace, str)):
        raise ValueError("its namespace is no text")
    expires_at, tags = _moment(fields.get("expires_at")), _tags(fields.get("tags", []))
    return Item(_key_of_json(key), value, namespace, expires_at, tags)


def object_in(line: bytes) -> dict[str, Any]:
    """The object that a line is.  Raises ValueError."""
    try:
        found = _decode(line.decode("utf-8-sig").strip())
    except UnicodeDecodeError as exc:
        raise ValueError(f"it is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise ValueError(f"it is not JSON: {exc.msg} at character {exc.pos}") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(found, dict):
        raise ValueError("it is JSON, but no object ({...})")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise ValueError(f"the number {digits[:40]} is too large for a float")
    return number


_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode


def _key_of_json(told: Any) -> Any:
    """The key that was written so.  Raises ValueError."""
    if isinstance(told, list):
        return tuple(map(_key_of_json, told))
    if not isinstance(told, dict):
        return told
    kind, text = next(iter(told.items()), ("", None))
    reader = _KEY_READERS.get(kind)
    if len(told) != 1 or reader is None or not isinstance(text, str):
        raise ValueError(
            f"an object is a key only with one field, which is one of {_few(_KEY_READERS)}, and text in it"
        )
    try:
        return reader(text)
    except ValueError as exc:
        raise ValueError(f"the key {{{kind!r}: {show(text)}}} makes no sense: {exc}") from exc


def _infinity(text: str) -> float:
    if text not in ("inf", "-inf"):
        raise ValueError("it is 'inf' or '-inf'; other floats are numbers")
    return float(text)


_KEY_READERS: dict[str, Callable[[str], Any]] = {
    "bytes": lambda text: b64decode(text, validate=True),
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "float": _infinity,
    "int": lambda text: int(text, 16),
    "text": lambda text: b64decode(text, validate=True).decode("utf-8", "surrogatepass"),
    "uuid": UUID,
}


def _moment(told: Any) -> float | None:
    if told is None:
        return None
    try:
        moment = datetime.fromisoformat(told)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"expires_at is a moment in ISO 8601 (2026-11-26T12:00:00+00:00), not {show(told)}") from exc
    if moment.tzinfo is None:
        raise ValueError(f"expires_at {told!r} has no time zone; write it in UTC, with +00:00 at the end")
    return moment.timestamp()


def _tags(told: Any) -> tuple[str, ...]:
    if not (isinstance(told, list) and all(isinstance(tag, str) for tag in told)):
        raise ValueError("its tags are no array of text")
    return tuple(told)


def _few(names: Any) -> str:
    texts = [repr(name) for name in names]
    return f"{', '.join(texts[:5])}{', ...' if len(texts) > 5 else ''}" or "none"
