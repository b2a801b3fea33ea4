"""semidbm: an append-only file and an index of all keys in memory; pickle is put around it here.

An assignment is one write to the system.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pickle import dumps, loads
from typing import Any, ClassVar

import semidbm

from benchmarks.contender import KILL, Mode, Peer


class Semidbm(Peer):
    NAME = "semidbm"
    PACKAGE = "semidbm"
    IMPORTS = "semidbm, pickle"
    MODES: ClassVar = {"default": Mode(KILL, "as it is, with pickle around it")}

    def connect(self, path: str, mode: str) -> Any:
        return semidbm.open(f"{path}/semi", "c")

    def put(self, store: Any, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            store[key] = dumps(value, 5)

    update = put

    def get(self, store: Any, keys: Iterable[str]) -> None:
        for key in keys:
            loads(store[key])

    def items(self, store: Any) -> None:
        for key in store.keys():  # noqa: SIM118  (a list; iterating the store itself is the same)
            key.decode(), loads(store[key])


PEERS = [Semidbm()]
