"""zict: a mapping over LMDB for bytes, with pickle around it by its own `Func`.

It opens LMDB with `sync=False, writemap=True`, and one cannot change that.  A kill alone should lose
nothing; but the file is mapped for writing, so that a stray write anywhere in the process damages it, and
a power cut may leave nothing that can be read.
"""

from __future__ import annotations

from functools import partial
from pickle import dumps, loads
from typing import Any, ClassVar

from zict import LMDB, Func

from benchmarks.contender import UNSAFE, Mode, Peer


class Zict(Peer):
    NAME = "zict"
    PACKAGE = "zict"
    IMPORTS = "zict, lmdb, pickle"
    MODES: ClassVar = {"default": Mode(UNSAFE, "Func(dumps, loads, LMDB(path)), as it is")}

    def connect(self, path: str, mode: str) -> Any:
        return Func(partial(dumps, protocol=5), loads, LMDB(path))


PEERS = [Zict()]
