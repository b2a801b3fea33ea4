"""Forks: in a child, LMDB must see neither the inherited environment nor its end.

The hook in the child loads nothing: a module that another thread was loading at the fork stays locked.

LMDB forbids all use of an environment across a fork, and closing it in the child is no way out: py-lmdb
waits there for operations of threads that the child does not have, for ever, and aborting the inherited
read transactions frees the reader slots in which the parent still reads.  So a child keeps what it
inherited, untouched, until it ends, and opens the files anew at its first use.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

from lmdb import _envid


class Inherited:
    """Stands where a parent's environment was, and opens one of the child's own when it is used."""

    def __init__(self, reopen: Callable[[], Any]) -> None:
        self._reopen = reopen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reopen(), name)


def keep_for_ever(environment: Any) -> None:
    """Count one reference more than there is, so that not even the end of the interpreter closes it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(environment))


def allow_opening_again() -> None:
    """Let py-lmdb open files that it remembers to be open: that was in the parent.

    It refuses to open a file twice in one process, going by device and inode, and forgets a file only
    when its environment is closed, which a child must not do.  So in a child the process is made a
    part of that identity.
    """
    module: Any = _envid  # it is not typed
    plain, here = module.env_keys, os.getpid()
    module.env_keys = lambda path, subdir: tuple((*key, here) for key in plain(path, subdir))
