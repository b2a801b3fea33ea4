"""joblib.Memory: results of functions, a directory each; a put is a call that is made, a get one that is not.

It is no store, so it has neither `in` nor items and no batches, and small values are left out.  Each
result is written to a file that is then renamed, without a sync.  `view` maps an array instead of reading it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from joblib import Memory

from benchmarks.contender import KILL, Mode


def result(key: str, value: Any) -> Any:
    """What is memoized, by its key alone.  A get must not come here."""
    if value is None:
        raise KeyError(key)
    return value


class Memo:
    """The function, memoized twice over one directory: once read, once mapped."""

    def __init__(self, path: str) -> None:
        self.read = Memory(path, verbose=0).cache(result, ignore=["value"])
        self.mapped = Memory(path, verbose=0, mmap_mode="r").cache(result, ignore=["value"])
        self.read("", "")  # keeps the source of the function, without which a get forgets what `call` stored

    def close(self) -> None:
        """Nothing is open."""


class JoblibMemory:
    NAME = "joblib.Memory"
    PACKAGE = "joblib"
    IMPORTS = "joblib"
    MODES: ClassVar = {"default": Mode(KILL, "as it is")}
    THREADS = True
    PROCESSES = "write"
    LARGE_ONLY = True

    def connect(self, path: str, mode: str) -> Memo:
        return Memo(path)

    def put(self, store: Memo, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            store.read.call(key, value)

    def get(self, store: Memo, keys: Iterable[str]) -> None:
        for key in keys:
            store.read(key, None)

    def view(self, store: Memo, keys: Iterable[str]) -> None:
        for key in keys:
            store.mapped(key, None)


PEERS = [JoblibMemory()]
