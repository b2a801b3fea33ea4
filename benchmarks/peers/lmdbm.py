"""lmdbm: a mapping over LMDB; it takes bytes, and a subclass is its own way to pickle.

Each assignment is a transaction, and synced.  What `lmdb.open` takes can be passed, `sync=False` too.
The map is made large at once, because it grows only for the process that fills it.
"""

from __future__ import annotations

from pickle import dumps, loads
from typing import Any, ClassVar

from lmdbm import Lmdb

from benchmarks.contender import FULL, KILL, Mode, Peer


class Pickled(Lmdb):  # type: ignore[type-arg]
    def _pre_value(self, value: Any) -> bytes:
        return dumps(value, 5)

    def _post_value(self, value: bytes) -> Any:
        return loads(value)


class Lmdbm(Peer):
    NAME = "lmdbm"
    PACKAGE = "lmdbm"
    IMPORTS = "lmdbm, pickle"
    MODES: ClassVar = {"default": Mode(FULL, "as it is"), "nosync": Mode(KILL, "sync=False")}
    THREADS = True
    PROCESSES = "write"

    def connect(self, path: str, mode: str) -> Any:
        return Pickled.open(path, "c", map_size=1 << 36, autogrow=False, sync=mode == "default")


PEERS = [Lmdbm()]
