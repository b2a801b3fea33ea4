"""Turns: of the threads of one process, one at a time holds LMDB's writer lock or waits for it.

That lock is a mutex in shared memory, which the kernel frees when its holder is killed, waking one of those who wait.
Where the holder's process has several threads, that one may be another of them, which dies as well without passing the
lock on; and the writers of all other processes then sleep for ever beside a free lock (seen: 6 times in 1,452 kills).
So threads wait for each other here, in memory that dies with them.

A turn ends when the last reference to it is dropped: one who is interrupted anywhere leaves none behind.  As long as
only one thread writes, there are none.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import get_ident
from weakref import ref

from objstore.engines.base import OWN_TRANSACTION
from objstore.errors import TransactionError

_SEVERAL = -1


class Turns:
    """Gives turns to threads that write."""

    def __init__(self) -> None:
        self._writer = 0  # the only thread that has written so far, or _SEVERAL
        self.holder = 0
        self.free: SimpleQueue[_Turn] = SimpleQueue()
        self.free.put(_Turn(self))

    def take(self) -> object:
        """The turn of this thread, to be held until its transaction has ended.

        Raises TransactionError where this thread has it already.
        """
        me = get_ident()
        if self._writer == me:
            return None
        if not self._writer:
            self._writer = me
            return None
        self._writer = _SEVERAL
        if self.holder == me:
            raise TransactionError(OWN_TRANSACTION)
        turn = None
        try:
            turn = self.free.get()
            self.holder = me
            return turn
        finally:
            del turn  # not even a traceback keeps it


class _Turn:
    """The one turn there is: when it is dropped, another is free."""

    def __init__(self, turns: Turns) -> None:
        self._turns = ref(turns)

    def __del__(self) -> None:
        turns = self._turns()
        if turns is not None:
            turns.holder = 0
            turns.free.put(_Turn(turns))  # which a destructor may do in the middle of anything
