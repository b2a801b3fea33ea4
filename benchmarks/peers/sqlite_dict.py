"""sqlitedict: SQLite behind a queue and a thread, always with `synchronous=OFF`.

With `autocommit` an assignment waits for its commit, which has then reached the system and not the disk.
Without it, as by default, writes are queued; each turn ends with one commit, or its work would be done
in the turn of somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from sqlitedict import SqliteDict

from benchmarks.contender import KILL, UNSAFE, Mode, Peer


class SqlitedictPeer(Peer):
    NAME = "sqlitedict"
    PACKAGE = "sqlitedict"
    IMPORTS = "sqlitedict"
    MODES: ClassVar = {
        "autocommit": Mode(KILL, "autocommit=True"),
        "default": Mode(UNSAFE, "as it is, with one commit at the end of a turn"),
    }
    THREADS = True
    PROCESSES = "read"

    def connect(self, path: str, mode: str) -> Any:
        return SqliteDict(f"{path}/dict.sqlite", autocommit=mode == "autocommit", outer_stack=False)

    def put(self, store: Any, items: Mapping[str, Any]) -> None:
        super().put(store, items)
        if not store.autocommit:
            store.commit()

    def update(self, store: Any, items: Mapping[str, Any]) -> None:
        super().update(store, items)
        if not store.autocommit:
            store.commit()


PEERS = [SqlitedictPeer()]
