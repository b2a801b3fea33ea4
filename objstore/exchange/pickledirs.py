"""Entries as plain pickle files in a directory: what their names are, and the index that says what the names cannot.

    exported/
      index.jsonl             {"file": "Ada.pickle", "key": "Ada", "tags": ["people"]}, a line for each file, in order
      Ada.pickle              a pickle of protocol 5, as `pickle.load` reads it
      =42.pickle              of the key 42; keys that are no text are written as in Python, behind "="
      users/                  a namespace
        a%2Fb.pickle          of the key "a/b"

Letters, digits and what is harmless in every file system stand as they are, all else is percent-encoded.  So a name has
no separator, is not hidden, and leads nowhere.  What is long is cut, and has a digest at its end; and where two names
would be the same to a file system that ignores case, the second has a number: both behind "~", which no other name has.
The index has the exact key of each file, and what the entry has beside: namespace, expiry and tags.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from pickle import dumps
from typing import Any

from objstore.exchange.jsonlines import Item, beside, key_to_json, line_of, object_in, told_beside
from objstore.keys import LostKey

INDEX = "index.jsonl"
SUFFIX = ".pickle"
_PROTOCOL = 5
_MOST_BYTES = 200  # of a name; a file system takes 255
_HARMLESS = frozenset(" ,-.@_+()[]'")
_LEADING = frozenset(".- =")  # which mean something at the beginning of a name


class PickleDirectory:
    """Writes pickle files and their index into a directory that is new."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directories: dict[str | None, str] = {None: ""}  # of namespaces
        self._taken: dict[str, set[bytes]] = {"": {_folded(INDEX)}}  # of each directory
        self._index = open(os.path.join(path, INDEX), "xb")  # noqa: SIM115  (for as long as there are entries)

    def sink(self, item: Item) -> Callable[[], object]:
        """Encode an entry, and give what writes its file.

        Runs the code of its class, and raises what that raises, and Inexact where the index cannot tell of it.
        """
        fields = {"key": key_to_json(item.key), **beside(item)}
        line_of(fields)
        return partial(self._write, name_of(item.key), item.namespace, dumps(item.value, _PROTOCOL), fields)

    def _write(self, name: str, namespace: str | None, content: bytes, fields: dict[str, Any]) -> None:
        directory = self._directory(namespace)
        free = _free_name(name, SUFFIX, self._taken[directory])
        place = os.path.join(directory, free)
        with open(os.path.join(self._path, place), "xb") as file:
            file.write(content)
        self._taken[directory].add(_folded(free))
        self._index.write(line_of({"file": place, **fields}))

    def close(self) -> None:
        """Force the index to the disk."""
        self._index.flush()
        os.fsync(self._index.fileno())
        self._index.close()

    def _directory(self, namespace: str | None) -> str:
        if namespace not in self._directories:
            name = _free_name(_safe(namespace or ""), "", self._taken[""])
            os.mkdir(os.path.join(self._path, name), 0o700)
            self._taken[""].add(_folded(name))
            self._taken[name] = set()
            self._directories[namespace] = name
        return self._directories[namespace]


def read_index(directory: str | os.PathLike[str]) -> Iterator[tuple[str, Item]]:
    """The path of each file that the index of a directory names, and its entry, without the value.

    Raises ValueError for a line that makes no sense, or names a file elsewhere.
    """
    with open(os.path.join(directory, INDEX), "rb") as index:
        for number, line in enumerate(index, 1):
            try:
                yield _indexed(os.fspath(directory), object_in(line))
            except ValueError as exc:
                raise ValueError(f"line {number} of {INDEX} makes no sense: {exc}") from exc


def _indexed(directory: str, fields: dict[str, Any]) -> tuple[str, Item]:
    name = fields.get("file")
    if not isinstance(name, str) or "key" not in fields:
        raise ValueError("it has no file, or no key")
    parts = name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise ValueError("its file is none of this directory")
    return os.path.join(directory, *parts), told_beside(fields["key"], None, fields)


def name_of(key: Any) -> str:
    """The name of the file of a key, without a suffix, as long as the key makes it."""
    if isinstance(key, str):
        return _safe(key)
    try:
        literal = key.place.hex() if isinstance(key, LostKey) else repr(key)
    except ValueError:  # an integer of more digits than Python writes
        literal = repr(key_to_json(key))
    return "=" + _escaped(literal)


def _safe(text: str) -> str:
    if text[:1] in _LEADING:
        return _quoted(text[:1]) + _escaped(text[1:])
    return _escaped(text) or "%"


def _escaped(text: str) -> str:
    return "".join(
        character if character.isalnum() or character in _HARMLESS else _quoted(character) for character in text
    )


def _quoted(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _free_name(name: str, suffix: str, taken: set[bytes]) -> str:
    """A name that is not too long, and not taken."""
    encoded = name.encode()
    if len(encoded) > _MOST_BYTES:
        short = encoded[: _MOST_BYTES - 40].decode(errors="ignore")
        name = f"{short}~{blake2b(encoded, digest_size=16).hexdigest()}"
    free, number = name + suffix, 1
    while _folded(free) in taken:
        number += 1
        free = f"{name}~{number}{suffix}"
    return free


def _folded(name: str) -> bytes:
    """What is the same for names that a file system may take for one."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    return blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=12).digest()
