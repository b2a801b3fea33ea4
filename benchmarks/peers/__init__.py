"""The peers: packages of others that keep Python objects on disk, one file each.

How safe each mode is was read in the code of the package in the version that `docs/comparison.md`
names, not taken from its documentation, and looked at: in the full class 20 puts make 20 calls that sync,
in the others none (but one each in the relaxed modes), and what each class promises was still there after
a kill.  A peer that is not installed is absent and nothing else changes; so is one that `OBJSTORE_PEERS`, module
names with commas between them, does not name, where that is set.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

MODULES = {
    "rocks": "rocksdict",
    "disk_cache": "diskcache",
    "sqlite_dict": "sqlitedict",
    "lmdbm": "lmdbm",
    "zict": "zict",
    "semidbm": "semidbm",
    "shelves": "shelve",
    "zodb": "ZODB",
    "joblib_memory": "joblib.Memory",
}
"""Modules of this package, and how the names of those whom they bring in begin."""


def installed() -> tuple[list[Any], dict[str, str]]:
    """The peers that can be imported, and of the others why not."""
    found: list[Any] = []
    absent = {}
    wanted = os.environ.get("OBJSTORE_PEERS", ",".join(MODULES)).split(",")
    for module, name in MODULES.items():
        if module not in wanted:
            absent[name] = "not among OBJSTORE_PEERS"
            continue
        try:
            found += _peers(module)
        except ImportError as exc:
            absent[name] = str(exc)
    return found, absent


def named(name: str) -> Any:
    """The peer of this name."""
    module = next(module for module, start in MODULES.items() if name.startswith(start))
    return next(peer for peer in _peers(module) if name == peer.NAME)


def _peers(module: str) -> list[Any]:
    peers: list[Any] = import_module(f"{__name__}.{module}").PEERS
    return peers
