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
from contextlib import suppress
from threading import get_ident
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


class Lease:
    """What a parent holds for its children: it ends when none of them looks at it any more, killed or not.

    A pipe tells: children have the end for writing, each until the last of what it inherited is dropped, and the
    parent sees when all of these are closed.  It is for one fork, of the thread that began it.
    """

    def __init__(self, holds: list[Any]) -> None:
        self._thread = get_ident()
        self._holds = holds
        self._reading = self._writing = -1
        with suppress(OSError):  # without descriptors nobody can tell, and it does not end
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._reading, False)

    def keep_parents_end(self) -> None:
        """In the parent, after the fork."""
        if self._is_for_this_fork():
            writing, self._writing = self._writing, -1
            os.close(writing)

    def keep_childs_end(self) -> list[Any]:
        """In the child, after the fork: what was lent to it.  The lease ends here when it is dropped."""
        if not self._is_for_this_fork():
            return []
        holds, self._holds = self._holds, []
        os.close(self._reading)
        self._reading = -1
        return holds

    def _is_for_this_fork(self) -> bool:
        return self._writing >= 0 and self._thread == get_ident()

    def has_ended(self) -> bool:
        """In the parent: whether no child has its end any more."""
        if self._reading < 0 or self._writing >= 0:
            return False
        try:
            return os.read(self._reading, 1) == b""
        except BlockingIOError:
            return False

    def __del__(self) -> None:
        for descriptor in (self._reading, self._writing):
            if descriptor >= 0:
                os.close(descriptor)


def allow_opening_again() -> None:
    """Let py-lmdb open files that it remembers to be open: that was in the parent.

    It refuses to open a file twice in one process, going by device and inode, and forgets a file only
    when its environment is closed, which a child must not do.  So in a child the process is made a
    part of that identity.
    """
    module: Any = _envid  # it is not typed
    plain, here = module.env_keys, os.getpid()
    module.env_keys = lambda path, subdir: tuple((*key, here) for key in plain(path, subdir))
