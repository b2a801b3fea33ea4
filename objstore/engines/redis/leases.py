"""Leases: claims that the servers keep, which end by themselves when nobody renews them.

A server cannot see that a process has died.  So a claim is a key that expires after some seconds, and one thread of the
process renews all that it has; when the process dies, or sleeps for longer, somebody else gets the claim.  Then two may
compute the same for a while, which costs time and harms nothing: the results are the same.  It is no lock.

Who waits says so in a key of its own, which expires, too, and asks again and again, less and less often.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from uuid import uuid4

from objstore.engines.base import process
from objstore.engines.redis import scripts
from objstore.engines.redis.layout import AWAITED, CLAIM, Layout
from objstore.engines.redis.routing import ONCE, WRITE, Router
from objstore.errors import OutcomeUnknown, StoreDenied, StoreError

# Seconds for which a claim holds that nobody renews, and between two renewals.
LEASE = 6.0
_RENEWED_EVERY = LEASE / 4

# Seconds for which one who waits is taken to do so after he has said it.
_SAID_FOR = 4.0


class Lease:
    """A claim of this process."""

    def __init__(self, leases: Leases, name: bytes, token: bytes) -> None:
        self._leases = leases
        self.name = name
        self.token = token
        self._born = process.generation

    def release(self) -> None:
        if self._born == process.generation and self._leases.forget(self.token):
            with suppress(StoreError):  # then it ends by itself
                self._leases.give_up(self.name, self.token)

    def is_awaited(self) -> bool:
        """Whether somebody of another process has said so in the last seconds."""
        return self._leases.is_awaited(self.name)

    def __del__(self) -> None:
        if self._born == process.generation:
            self._leases.drop(self.name, self.token)


class Held:
    """A claim where none can be kept, because this user may write nothing: nobody else is kept away."""

    def release(self) -> None:
        """There is nothing to give up."""

    def is_awaited(self) -> bool:
        return False


class WaitingForLease:
    """Somebody who waits for a claim."""

    longest_pause = 0.1

    def __init__(self, leases: Leases, name: bytes) -> None:
        self._leases = leases
        self._name = name
        self._said_until = 0.0
        self._is_closed = False
        self._born = process.generation

    def poll(self) -> Lease | Held | None:
        if self._is_closed or self._born != process.generation:
            return None
        now = time.monotonic()
        if now > self._said_until:
            self._said_until = now + _SAID_FOR / 2
            self._leases.say_awaited(self._name)
        claim = self._leases.take(self._name)
        if claim is not None:
            self.close()
        return claim

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
        self._token = uuid4().hex.encode()  # of this process
        self._held: dict[bytes, weakref.ref[Lease]] = {}
        self._dropped: deque[tuple[bytes, bytes]] = deque()
        # No event: what sets one in the middle of setting it, as the garbage collector may, waits for ever.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._is_ended = False
        self._thread: threading.Thread | None = None

    def _begin_anew_in_child(self) -> None:
        if self._born != process.generation:
            self._forget_all()

    def _place(self, kind: bytes, name: bytes) -> tuple[int, bytes]:
        layout = self._layout
        bucket = layout.bucket(name)
        return layout.slots[bucket], layout.prefixes[bucket] + kind + name

    def call(self, kind: bytes, name: bytes, script: scripts.Script, *arguments: bytes) -> int:
        slot, key = self._place(kind, name)
        return self._router.call(slot, (b"EVALSHA", script.digest, b"1", key, *arguments), WRITE)  # type: ignore[no-any-return]

    def take(self, name: bytes) -> Lease | Held | None:
        """The claim on a name, or None where somebody has it."""
        self._begin_anew_in_child()
        self._give_up_dropped()
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
                thread = threading.Thread(target=self._keep, name="objstore-leases", daemon=True)
                with suppress(RuntimeError):  # the interpreter ends, and so do we before the lease does
                    thread.start()
                    self._thread = thread
        return lease

    def forget(self, token: bytes) -> bool:
        """Renew it no more; whether it was renewed."""
        with self._lock:
            return self._held.pop(token, None) is not None

    def give_up(self, name: bytes, token: bytes) -> None:
        self.call(CLAIM, name, scripts.RELEASE, token)

    def drop(self, name: bytes, token: bytes) -> None:
        """The same for one who waits for no server, as the garbage collector: the thread gives it up."""
        with self._lock:
            if self.forget(token):
                self._dropped.append((name, token))
        self._news.put(None)

    def _give_up_dropped(self) -> None:
        while self._dropped:
            with suppress(IndexError):  # another thread does it, too
                self.give_up(*self._dropped.popleft())

    def is_awaited(self, name: bytes) -> bool:
        slot, key = self._place(AWAITED, name)
        return self._router.call(slot, (b"GET", key)) not in (None, self._token)

    def say_awaited(self, name: bytes) -> None:
        self._begin_anew_in_child()
        slot, key = self._place(AWAITED, name)
        with suppress(StoreDenied):
            self._router.call(slot, (b"SET", key, self._token, b"PX", b"%d" % (_SAID_FOR * 1000)), WRITE)

    def end(self) -> None:
        """Renew nothing any more."""
        self._is_ended = True
        self._news.put(None)

    def _keep(self) -> None:
        """Renew what is held, and give up what was dropped, as long as there is anything."""
        while True:
            with suppress(Empty):
                self._news.get(timeout=_RENEWED_EVERY)
                while True:
                    self._news.get_nowait()
            with self._lock:
                held = [(token, name) for token, reference in self._held.items() if (name := _name(reference))]
                if self._is_ended or not (held or self._dropped):
                    self._thread = None
                    return
            with suppress(StoreError):  # it is tried again in the next round
                self._give_up_dropped()
                for token, name in held:
                    if not self.call(CLAIM, name, scripts.RENEW, token, b"%d" % (LEASE * 1000)):
                        self.forget(token)  # we were too late, and somebody else may have it


def _name(reference: weakref.ref[Lease]) -> bytes | None:
    """The name of a lease that is still there; nothing keeps it alive when this is over."""
    lease = reference()
    return None if lease is None else lease.name
