"""Engines keep bytes.  `base` is the contract, `memory` the reference; `connect` picks one by location.

The module of an engine is loaded when it is asked for, so that nobody pays for what they do not use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from objstore.engines.base import DURABILITIES, Engine

FLAGS = ("r", "w", "c", "n")
_SERVER_SCHEMES = ("redis", "rediss", "valkey", "valkeys")


def connect(
    location: str | os.PathLike[str],
    flag: str,
    initial: Mapping[bytes, bytes],
    durability: str | None,
    check: Callable[[bytes | None, str], object] = lambda _identity, _location: None,
    user: object = None,
    evictable: bool = False,
    **options: Any,
) -> Engine:
    """The engine at `location`, retained for `user`.

    What is `evictable` may lie on servers that drop what they have no memory for.

    A new store begins with the records of `initial`; `check(identity, location)` refuses one that is not
    what the caller takes it for, before anything is changed.  Raises ValueError for a flag, an option or a kind
    of location that there is not, and what the engine raises.
    """
    if flag not in FLAGS:
        raise ValueError(f"flag is 'r' (read), 'w' (must exist), 'c' (create) or 'n' (new), not {flag!r}")
    text = _text(location)
    scheme, separator, _ = text.partition("://")
    if is_on_servers(text):
        from objstore.engines.redis import open_redis

        return open_redis(text, flag, initial, durability, check, user, evictable)
    if durability not in (None, *DURABILITIES):
        raise ValueError(f"durability is one of {', '.join(map(repr, DURABILITIES))}, not {durability!r}")
    if separator and scheme == "memory":
        from objstore.engines.memory import open_memory

        return open_memory(text, flag, initial, durability, check, user)
    if separator and scheme != "lmdb":
        raise ValueError(
            f"no engine is known for {scheme}://; a location is a path, lmdb:///path, memory://name, or redis://host/name"
        )

    from objstore.engines.lmdb import Options, open_lmdb

    path = _path(text) if separator else text
    return open_lmdb(path, flag, initial, durability, check, Options(**options), user)


def is_on_servers(location: str | os.PathLike[str]) -> bool:
    """Whether a location is one of servers."""
    scheme, separator, _ = str(location).partition("://")
    return bool(separator) and scheme in _SERVER_SCHEMES


def name_on_servers(location: str | os.PathLike[str]) -> str | None:
    """What a store is called on servers, or None where its location is none of servers."""
    if not is_on_servers(location):
        return None
    return str(location).rpartition("@")[2].partition("?")[0].rpartition("/")[2]


def path_of(location: str | os.PathLike[str]) -> str:
    """The path of a store whose files are asked for.  Raises ValueError for a location that has none."""
    text = _text(location)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "lmdb":
        shown = scheme + separator + rest.rpartition("@")[2]  # before that stands a password
        raise ValueError(f"the store at {shown!r} has no files; this is for stores with a path (copy it into one)")
    return _path(text) if separator else text


def _text(location: str | os.PathLike[str]) -> str:
    text = os.fspath(location)
    if not isinstance(text, str):
        raise TypeError(f"a location is a str or a path, not {type(text).__name__}")
    if not text:
        raise ValueError("a location is a path or a URL, not an empty text")
    return text


def _path(url: str) -> str:
    from urllib.parse import unquote, urlsplit  # here: not cheap to load, and most locations are paths

    parts = urlsplit(url)
    if parts.netloc or not parts.path.startswith("/"):
        raise ValueError(f"{url!r} has no absolute path; write lmdb:///absolute/path, or give the path alone")
    return unquote(parts.path)
