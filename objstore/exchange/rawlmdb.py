"""LMDB environments that others have written: lmdbm, zict, or whoever calls LMDB himself.

Keys and values are bytes, since that is all that LMDB knows; whoever imports says what else they are.  A named database
is a namespace.  Where keys have several values, none of them is taken: a store has one value a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from objstore.engines.base import DURABILITY_KEY
from objstore.engines.lmdb.foreign import Foreign, Named
from objstore.exchange.base import Content, Entry, Position, Unreadable, states
from objstore.exchange.consent import Decoding


class RawLmdb:
    """An LMDB environment, in the state in which it was when it was opened."""

    format = "lmdb"

    def __init__(self, path: Path, decoding: Decoding) -> None:
        self.path, self._decoding = str(path), decoding
        self._environment = Foreign(self.path)
        self._databases = self._environment.databases()

    def is_a_store(self) -> bool:
        """Whether it is one of this library, which says of itself how durable it is."""
        return self._environment.holds(DURABILITY_KEY)

    def close(self) -> None:
        self._environment.close()

    def count(self) -> int:
        return sum(named.entries for named in self._databases)

    def fingerprint(self) -> list[Any]:
        return states([self._environment.data])

    def entries(self, after: Position | None) -> Iterator[Entry]:
        first, key = (None, None) if after is None else map(bytes.fromhex, after)
        for named in self._databases:
            if first is None or (named.name or b"") >= first:
                yield from self._of(named, key if (named.name or b"") == first else None)

    def _of(self, named: Named, after: bytes | None) -> Iterator[Entry]:
        place = (named.name or b"").hex()
        for key, value, values in self._environment.scan(named.name, after):
            read = partial(self._read, named.name, key, value, values)
            yield Entry([place, key.hex()], repr(key), len(key) + len(value), read)

    def _read(self, name: bytes | None, key: bytes, value: memoryview, values: int) -> Content:
        if values > 1:
            raise Unreadable(f"it has {values:,} values (DUPSORT), and a store has one; store them in Python as a list")
        namespace = None if name is None else name.removesuffix(b"\0").decode("utf-8", "backslashreplace")
        return Content(self._decoding.key(key, "bytes"), partial(self._decoding.value, value, "bytes"), namespace)
