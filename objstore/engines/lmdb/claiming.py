"""Claims: who computes what, told to other processes by locks on single bytes of our own file.

The bytes lie far behind the end of `objstore.lock`, where a lock needs no room, and a name is found by its digest.
A claim is an exclusive lock on one byte; who waits for it has a shared lock on the next one, so the holder can see
whether anybody does.  These are POSIX record locks: they die with the process that holds them, whatever it forked.

Such a lock belongs to the whole process, so which of its threads has a claim is kept here, in a dict whose single
operations are atomic.  There is no lock to wait for: a claim may be dropped by the garbage collector in the middle of
anything, and that gives it up, so one who is interrupted anywhere leaves none behind.

Nothing here ever waits in the kernel, which takes the processes of a circle for its threads, and refuses to wait where
two threads wait for two others.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Callable
from hashlib import blake2b

from objstore.engines.base import process

_PLACE = 1 << 40  # in our file: behind all that could be written
_BITS = 61  # of a digest, so that the last place is one that a file could have

# Why a lock is not given: somebody else has it.
_TAKEN = (errno.EACCES, errno.EAGAIN)


class Claims:
    """The claims of this process on what our file stands for, which `descriptor()` gives.

    Where there is no file that could be locked (None, or one that is open for reading only), it knows of no other
    process: nobody here can store what he computes.
    """

    def __init__(self, descriptor: Callable[[], int | None]) -> None:
        self.descriptor = descriptor
        self._born = process.generation
        self._held: dict[int, object] = {}  # what stands for a claim, by its byte

    def claim(self, name: bytes) -> LmdbClaim | None:
        """The claim on `name`, unless somebody has it."""
        return self._claim(_place_of(name))

    def await_claim(self, name: bytes) -> LmdbWaiting:
        """Say that somebody waits for the claim on `name`."""
        return LmdbWaiting(self, _place_of(name))

    def _claim(self, place: int) -> LmdbClaim | None:
        claim: LmdbClaim | None = LmdbClaim(self, place)
        try:
            assert claim is not None
            if self._held.setdefault(place, claim.token) is not claim.token:
                return None
            try:
                is_mine = self.lock(fcntl.LOCK_EX, place)
            except OSError:
                claim.release()
                raise
            if not is_mine:
                self.forget(place, claim.token)
                return None
            return claim
        finally:
            del claim  # not even a traceback keeps it

    def holds(self, place: int, token: object) -> bool:
        """Whether a claim is held in this process, and not in one that it was forked from."""
        return self.is_of_this_process() and self._held.get(place) is token

    def forget(self, place: int, token: object) -> None:
        """The claim is not held any more."""
        if self.holds(place, token):
            del self._held[place]

    def is_of_this_process(self) -> bool:
        """Whether this was not inherited by a fork."""
        return self._born == process.generation

    def lock(self, kind: int, place: int) -> bool:
        """Lock a byte if nobody else has; whether it is locked now, or could not be by anybody here."""
        descriptor = self.descriptor()
        if descriptor is None:
            return True
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, 1, place)
        except OSError as exc:
            if exc.errno == errno.EBADF:  # open for reading only, or closed by now
                return True
            if exc.errno not in _TAKEN:
                raise
            return False
        return True

    def unlock(self, place: int) -> None:
        """Unlock a byte."""
        descriptor = self.descriptor()
        if descriptor is None:
            return
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, place)
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise


class LmdbClaim:
    """A claim that this process has until it is released, or dropped."""

    def __init__(self, claims: Claims, place: int) -> None:
        self.token = object()
        self._claims = claims
        self._place = place

    def release(self) -> None:
        if self._claims.holds(self._place, self.token):
            # In this order: another thread that had it in between would lose it.
            self._claims.unlock(self._place)
            self._claims.forget(self._place, self.token)

    def is_awaited(self) -> bool:
        claims, sign = self._claims, self._place + 1
        if not claims.holds(self._place, self.token):
            return False
        if not claims.lock(fcntl.LOCK_EX, sign):
            return True
        claims.unlock(sign)  # also what another thread of this process had there: it says so again when it polls
        return False

    def __del__(self) -> None:
        self.release()


class LmdbWaiting:
    """Somebody who waits for a claim, until it is closed, or dropped."""

    longest_pause = 0.02

    def __init__(self, claims: Claims, place: int) -> None:
        self._claims = claims
        self._place = place
        self._is_closed = False
        self._announce()

    def _announce(self) -> None:
        # Where it fails, the holder looks at the byte in this moment: said again by the next poll.
        self._claims.lock(fcntl.LOCK_SH, self._place + 1)

    def poll(self) -> LmdbClaim | None:
        if self._is_closed or not self._claims.is_of_this_process():
            return None
        self._announce()
        claim = self._claims._claim(self._place)
        if claim is not None or self._is_closed:  # another thread may have closed it, before it was said again
            self._withdraw()
        return claim

    def close(self) -> None:
        if not self._is_closed:
            self._withdraw()

    def _withdraw(self) -> None:
        self._is_closed = True
        if self._claims.is_of_this_process():
            self._claims.unlock(self._place + 1)

    def __del__(self) -> None:
        self.close()


def _place_of(name: bytes) -> int:
    number = int.from_bytes(blake2b(name, digest_size=8, usedforsecurity=False).digest(), "big")
    return _PLACE + 2 * (number >> (64 - _BITS))
