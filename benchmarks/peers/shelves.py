"""shelve, over each `dbm` that this Python has.

`dbm.sqlite3` commits each assignment, and SQLite syncs it.  The others are whole after a close: `dbm.dumb`
keeps in memory until then where overwritten records have moved to, `dbm.gnu` and `dbm.ndbm` buffer.
"""

from __future__ import annotations

import shelve
from importlib import import_module
from typing import Any

from benchmarks.contender import FULL, UNSAFE, Mode, Peer

BACKENDS = {"sqlite3": FULL, "gnu": UNSAFE, "ndbm": UNSAFE, "dumb": UNSAFE}


class Shelf(Peer):
    PACKAGE = ""

    def __init__(self, backend: str) -> None:
        self.PROCESSES = "" if backend == "gnu" else "read"  # type: ignore[misc]  # gnu lets one in, who locks it
        self.dbm = import_module(f"dbm.{backend}")
        self.NAME = f"shelve ({backend})"  # type: ignore[misc]
        self.IMPORTS = f"shelve, dbm.{backend}"  # type: ignore[misc]
        self.MODES = {"default": Mode(BACKENDS[backend], f"as it is, over dbm.{backend}")}  # type: ignore[misc]

    def connect(self, path: str, mode: str) -> Any:
        return shelve.Shelf(self.dbm.open(f"{path}/shelf", "c"), protocol=5)


def shelves() -> list[Shelf]:
    found = []
    for backend in BACKENDS:
        try:
            found.append(Shelf(backend))
        except ImportError:
            continue
    return found


PEERS = shelves()
