"""Leases: claims that the servers keep, which end by themselves when nobody renews them.

A server cannot see that a process has died.  So a claim is a key that expires after some seconds, and one thread of the
process renews all that it has; when the process dies, or sleeps for longer, somebody else gets the claim.  Then two may
compute the same for a while, which costs time and harms nothing: the results are the same.  It is no lock.

Who waits says so in a key of its own, which expires, too, and asks again and again, less and less often.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from contextlib import suppress
from uuid import uuid4

from objstore.engines.base import process
from objstore.engines.redis import scripts
from objstore.engines.redis.layout import AWAITED, CLAIM, Layout
from objstore.engines.redis.routing import ONCE, WRITE, Router
from objstore.errors import EngineUnavailable, OutcomeUnknown, StoreDenied, StoreError

# Seconds for which a claim holds that nobody renews, and between two renewals.
LEASE = 6.0
_RENEWED_EVERY = LEASE / 4

# Seconds between two questions of one who waits, and how long he is taken to wait after he has said so.
_SHORTEST, _LONGEST, _PART = 0.005, 0.1, 0.1
_SAID_FOR = 4.0


class Lease:
    """A claim of this process."""

    def __init__(self, leases: Leases, name: bytes, token: bytes) -> None:
        self._leases = leases
        self.name = name
        self.token = token
        self._born = process.generation

    def release(self) -> None:
        leases = self._leases
        if self._born != process.generation or not leases.forget(self):
            return
        with suppress(StoreError):  # then it ends by itself
            leases.call(CLAIM, self.name, scripts.RELEASE, self.token)

    def is_awaited(self) -> bool:
        """Whether somebody of another process has said so in the last seconds."""
        return self._leases.is_awaited(self.name)

    def __del__(self) -> None:
        self._leases.forget(self)  # and nobody renews it: a destructor waits for no server


class Held:
    """A claim where none can be kept, because this user may write nothing: nobody else is kept away."""

    def release(self) -> None:
        """There is nothing to give up."""

    def is_awaited(self) -> bool:
        return False


class WaitingForLease:
    """Somebody who waits for a claim, and asks the server not too often."""

    def __init__(self, leases: Leases, name: bytes) -> None:
        self._leases = leases
        self._name = name
        self._began = self._due = time.monotonic()
        self._said_until = 0.0
        self._is_closed = False
        self._born = process.generation

    def poll(self) -> Lease | Held | None:
        now = time.monotonic()
        if self._is_closed or self._born != process.generation or now < self._due:
            return None
        if now > self._said_until:
            self._said_until = now + _SAID_FOR / 2
            self._leases.say_awaited(self._name)
        claim = self._leases.take(self._name)
        if claim is not None:
            self.close()
            return claim
        pause = min(max(_PART * (now - self._began), _SHORTEST), _LONGEST)
        self._due = now + pause * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
        return None

    def close(self) -> None:
        self._is_closed = True


class Leases:
    """The claims of one engine, and the thread that renews them as long as there are any."""

    def __init__(self, router: Router, layout: Layout) -> None:
        self._router = router
        self._layout = layout
        self._forget_all()

    def _forget_all(self) -> None:
        self._born = process.generation
        self._lock = threading.RLock()  # a claim may be dropped by the garbage collector inside of it
        self._held: dict[bytes, weakref.ref[Lease]] = {}
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def _place(self, kind: bytes, name: bytes) -> tuple[int, bytes]:
        layout = self._layout
        bucket = layout.bucket(name)
        return layout.slots[bucket], layout.prefixes[bucket] + kind + name

    def call(self, kind: bytes, name: bytes, script: scripts.Script, *arguments: bytes) -> int:
        slot, key = self._place(kind, name)
        return self._router.call(slot, (b"EVALSHA", script.digest, b"1", key, *arguments), WRITE)  # type: ignore[no-any-return]

    def take(self, name: bytes) -> Lease | Held | None:
        """The claim on a name, or None where somebody has it."""
        if self._born != process.generation:
            self._forget_all()
        token = uuid4().hex.encode()
        slot, key = self._place(CLAIM, name)
        try:
            taken = self._router.call(slot, (b"SET", key, token, b"NX", b"PX", b"%d" % (LEASE * 1000)), ONCE)
        except StoreDenied:
            return Held()
        except OutcomeUnknown:  # then we have it if it is ours
            taken = self._router.call(slot, (b"GET", key)) == token
        if not taken:
            return None
        lease = Lease(self, name, token)
        with self._lock:
            self._held[token] = weakref.ref(lease)
            if self._thread is None:
                self._ended.clear()
                thread = threading.Thread(target=self._renew, name="objstore-leases", daemon=True)
                with suppress(RuntimeError):  # the interpreter ends, and so do we before the lease does
                    thread.start()
                    self._thread = thread
        return lease

    def forget(self, lease: Lease) -> bool:
        """Renew it no more; whether it was renewed."""
        with self._lock:
            return self._held.pop(lease.token, None) is not None

    def is_awaited(self, name: bytes) -> bool:
        slot, key = self._place(AWAITED, name)
        return bool(self._router.call(slot, (b"EXISTS", key)))

    def say_awaited(self, name: bytes) -> None:
        slot, key = self._place(AWAITED, name)
        with suppress(StoreDenied):
            self._router.call(slot, (b"SET", key, b"", b"PX", b"%d" % (_SAID_FOR * 1000)), WRITE)

    def end(self) -> None:
        """Renew nothing any more."""
        self._ended.set()

    def _renew(self) -> None:
        idle = 0
        while not self._ended.wait(_RENEWED_EVERY):
            with self._lock:
                held = [lease for reference in self._held.values() if (lease := reference()) is not None]
                idle = 0 if held else idle + 1
                if idle > 2:
                    self._thread = None
                    return
            for lease in held:
                with suppress(EngineUnavailable, OutcomeUnknown):  # it is tried again in the next round
                    if not self.call(CLAIM, lease.name, scripts.RENEW, lease.token, b"%d" % (LEASE * 1000)):
                        self.forget(lease)  # we were too late, and somebody else may have it
            del held
