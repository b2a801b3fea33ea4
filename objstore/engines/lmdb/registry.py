"""The environments of this process: one for each directory, whoever opens it by whatever path.

LMDB's locks, and ours, are POSIX record locks.  They belong to the process, and end when it closes *any* descriptor of
the file.  So all handles of a process share one environment, and nobody opens the files of a store beside that:
who must, because the store is not open, claims its directory.

At a fork and at the end of the process, all of them are told.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from objstore.engines.lmdb.datafile import identify
from objstore.engines.lmdb.forks import allow_opening_again
from objstore.errors import StoreLocked

NOWHERE = 0, 0
"""The identity of a directory that is not there."""

engines: dict[tuple[int, int], Any] = {}
"""The engines (`engine.LmdbEngine`, which is above) by the identity of their directory."""

claims: set[tuple[int, int]] = set()
"""Directories of stores that are not open, and may not be for now."""

_opening = threading.RLock()  # a store that is collected inside of it is closed inside of it


def opening() -> Any:
    """The lock of whoever opens or closes an environment."""
    return _opening


def directory_id(path: str) -> tuple[int, int]:
    """What names a directory whatever the path to it."""
    try:
        return identify(os.stat(path))
    except OSError:
        return NOWHERE


def close_unused() -> None:
    """Close what a collector or a child left behind.  Under the lock."""
    for engine in list(engines.values()):
        engine.close_if_unused()


@contextmanager
def claimed(location: str) -> Iterator[None]:
    """Nobody in this process opens or makes the store in a directory in this block.  Raises StoreLocked."""
    with opening():
        close_unused()
        mine = directory_id(location)
        if mine in engines or mine in claims:
            raise StoreLocked(f"the store at {location!r} is open in this process; close it first")
        if mine != NOWHERE:
            claims.add(mine)
    try:
        yield
    finally:
        claims.discard(mine)


def _before_fork() -> None:
    for engine in list(engines.values()):
        engine.lend()


def _after_fork_in_parent() -> None:
    for engine in list(engines.values()):
        engine.lent()


def _after_fork_in_child() -> None:
    global _opening
    _opening = threading.RLock()  # its holder may be a thread that the child does not have
    claims.clear()  # by threads of the parent, and the locks are the parent's, too
    for where, engine in list(engines.items()):
        if not engine.disown():
            del engines[where]
    allow_opening_again()


def _close_at_exit() -> None:
    for engine in list(engines.values()):
        engine.close_at_exit()


atexit.register(_close_at_exit)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
