"""rocksdict: RocksDB, which pickles what is not a str, bytes or number.

A write is appended to a log through the system and applied to a table in memory; `sync` waits for the
log to be on the disk.  One process at a time, but any number may open it for reading alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rocksdict import AccessType, Rdict, WriteBatch, WriteOptions

from benchmarks.contender import FULL, KILL, Mode, Peer


class Rocks(Peer):
    NAME = "rocksdict"
    PACKAGE = "rocksdict"
    IMPORTS = "rocksdict"
    MODES: ClassVar = {
        "sync": Mode(FULL, "WriteOptions.sync = True"),
        "default": Mode(KILL, "as it is: a log that is not synced"),
    }
    THREADS = True
    PROCESSES = "read"

    def connect(self, path: str, mode: str) -> Any:
        store = Rdict(f"{path}/rocks")
        options = WriteOptions()
        options.sync = mode == "sync"
        store.set_write_options(options)
        return store

    def connect_reading(self, path: str) -> Any:
        return Rdict(f"{path}/rocks", access_type=AccessType.read_only(False))

    def update(self, store: Any, items: Mapping[str, Any]) -> None:
        batch = WriteBatch()
        for key, value in items.items():
            batch[key] = value
        store.write(batch)


PEERS = [Rocks()]
