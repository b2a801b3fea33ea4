"""diskcache: SQLite with a write-ahead log; a value of 32 KiB and more is a file of its own.

Neither eviction nor the size limit of 1 GiB is left on: nothing may vanish during a measurement.  The
files of large values are never synced, so in the full class every value lies in the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diskcache import Cache, Index

from benchmarks.contender import FULL, KILL, Mode, Peer


class DiskCache(Peer):
    NAME = "diskcache"
    PACKAGE = "diskcache"
    IMPORTS = "diskcache"
    MODES: ClassVar = {
        "full": Mode(FULL, "sqlite_synchronous=2, all values in the database (disk_min_file_size=1 GiB)"),
        "default": Mode(KILL, "as it is (sqlite_synchronous=1), without eviction"),
    }
    THREADS = True
    PROCESSES = "write"

    def connect(self, path: str, mode: str) -> Any:
        safe = {"sqlite_synchronous": 2, "disk_min_file_size": 1 << 30} if mode == "full" else {}
        return Cache(path, eviction_policy="none", cull_limit=0, size_limit=1 << 40, timeout=600, **safe)

    def update(self, store: Any, items: Mapping[str, Any]) -> None:
        with store.transact():
            self.put(store, items)

    def items(self, store: Any) -> None:
        super().items(Index.fromcache(store))


PEERS = [DiskCache()]
