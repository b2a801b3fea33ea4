"""The reference engine: a sorted tree in memory, for tests and for stores that need not last.

A committed state is immutable: a tuple of chunks, each a pair of tuples (keys, records).  A change
copies one chunk and the outer tuple, so a reader is a reference to a state, an abort forgets one, and a
savepoint remembers one.  It is meant to be obviously right; the property tests hold the other engines
against it.  Its records are immutable and shared already, so it copies none, and a state costs nothing to hold.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from objstore.engines.base import (
    DURABILITY_KEY,
    IDENTITY_KEY,
    MAX_KEY_BYTES,
    OWN_TRANSACTION,
    Engine,
    Held,
    Users,
    process,
)
from objstore.errors import StoreLocked, StoreNotFound, TransactionError
from objstore.record import HEAD_BYTES, Packed

P = ParamSpec("P")
R = TypeVar("R")

_CHUNK_KEYS = 256


class _State(NamedTuple):
    firsts: tuple[bytes, ...] = ()  # the first key of each chunk
    chunks: tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...] = ()
    size: int = 0  # of all chunks

    def find(self, key: bytes) -> tuple[int, int, bool]:
        """Chunk and place where `key` is or would be, and whether it is there."""
        chunk = max(bisect_right(self.firsts, key) - 1, 0)
        if not self.chunks:
            return 0, 0, False
        keys = self.chunks[chunk][0]
        place = bisect_left(keys, key)
        return chunk, place, place < len(keys) and keys[place] == key

    def get(self, key: bytes) -> bytes | None:
        chunk, place, found = self.find(key)
        return self.chunks[chunk][1][place] if found else None

    def _with_chunk(self, chunk: int, keys: tuple[bytes, ...], records: tuple[bytes, ...], more: int) -> _State:
        """This state with another chunk in that place: none if it is empty, two if it is too long."""
        half = len(keys) // 2 if len(keys) > _CHUNK_KEYS else len(keys)
        halves = [(keys[:half], records[:half]), (keys[half:], records[half:])]
        new = tuple(pair for pair in halves if pair[0])
        return _State(
            self.firsts[:chunk] + tuple(pair[0][0] for pair in new) + self.firsts[chunk + 1 :],
            self.chunks[:chunk] + new + self.chunks[chunk + 1 :],
            self.size + more,
        )

    def put(self, key: bytes, record: bytes) -> _State:
        chunk, place, found = self.find(key)
        keys, records = self.chunks[chunk] if self.chunks else ((), ())
        after = place + found
        return self._with_chunk(
            chunk,
            (*keys[:place], key, *keys[after:]),
            (*records[:place], record, *records[after:]),
            not found,
        )

    def delete(self, key: bytes) -> _State:
        chunk, place, found = self.find(key)
        if not found:
            return self
        keys, records = self.chunks[chunk]
        return self._with_chunk(chunk, keys[:place] + keys[place + 1 :], records[:place] + records[place + 1 :], -1)

    def next(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        """The first item in the range."""
        chunk, place, _ = self.find(start)
        if self.chunks and place == len(self.chunks[chunk][0]):
            chunk, place = chunk + 1, 0
        if chunk >= len(self.chunks):
            return None
        keys, records = self.chunks[chunk]
        return (keys[place], records[place]) if stop is None or keys[place] < stop else None

    def previous(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        """The last item in the range."""
        if not self.chunks:
            return None
        chunk, place, _ = self.find(stop) if stop is not None else (len(self.chunks) - 1, len(self.chunks[-1][0]), 0)
        if place == 0:
            if chunk == 0:
                return None
            chunk, place = chunk - 1, len(self.chunks[chunk - 1][0])
        keys, records = self.chunks[chunk]
        return (keys[place - 1], records[place - 1]) if keys[place - 1] >= start else None


class MemoryReader:
    """A committed state."""

    def __init__(self, state: _State) -> None:
        self._state = state
        self.keeper: object = None
        self._born = process.generation

    def _check(self) -> None:
        if self._born != process.generation:
            raise TransactionError("this began before a fork; begin a new one in the child")

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self._state.get(key)

    def contains(self, key: bytes) -> bool:
        return self.get(key) is not None

    def get_many(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        self._check()
        found = ((key, self._state.get(key)) for key in keys)
        return [(key, record) for key, record in found if record is not None]

    def scan(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        while True:
            self._check()
            item = self._state.previous(start, stop) if reverse else self._state.next(start, stop)
            if item is None:
                return
            yield item
            if reverse:
                stop = item[0]
            else:
                start = item[0] + b"\x00"

    def scan_keys(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        return (key for key, _ in self.scan(start, stop, reverse))

    def scan_heads(
        self, start: bytes, stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes, int]]:
        return ((key, record[:HEAD_BYTES], len(record)) for key, record in self.scan(start, stop, reverse))

    def count(self) -> int:
        self._check()
        return self._state.size


class MemoryWriter(MemoryReader):
    """A state in the making; `_done` hands it to the engine or to the writer around this one."""

    def __init__(self, state: _State, done: Callable[[_State | None], None]) -> None:
        super().__init__(state)
        self._done: Callable[[_State | None], None] | None = done
        self._thread = threading.get_ident()
        self._resting = False  # while a savepoint is open

    def _check(self) -> None:
        super()._check()
        if self._done is None:
            raise TransactionError("this transaction has ended; begin a new one")
        if self._thread != threading.get_ident():
            raise TransactionError("this belongs to the thread that began it; begin another in this one")
        if self._resting:
            raise TransactionError("a savepoint of this transaction is open; use that one, or after it ends")

    def head(self, key: bytes) -> tuple[bytes, int] | None:
        record = self.get(key)
        return None if record is None else (record[:HEAD_BYTES], len(record))

    def get_first(self, start: bytes, stop: bytes | None, count: int) -> list[tuple[bytes, bytes]]:
        return list(islice(self.scan(start, stop), count))

    def put(self, key: bytes, record: Packed) -> None:
        self._check()
        assert 0 < len(key) <= MAX_KEY_BYTES
        self._state = self._state.put(key, bytes(record))

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        for key, record in items:
            self.put(key, record)

    def delete(self, key: bytes) -> bool:
        self._check()
        before, self._state = self._state, self._state.delete(key)
        return self._state is not before

    def delete_range(self, start: bytes, stop: bytes | None) -> int:
        before = self.count()
        for key in self.scan_keys(start, stop):
            self._state = self._state.delete(key)
        return before - self._state.size

    def savepoint(self) -> MemoryWriter:
        self._check()
        self._resting = True

        def done(state: _State | None) -> None:
            self._resting = False
            if state is not None:
                self._state = state

        return MemoryWriter(self._state, done)

    def commit(self) -> None:
        self._check()
        self._end(self._state)

    def abort(self) -> None:
        if self._born == process.generation:
            self._end(None)

    def _end(self, state: _State | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(state)


class MemoryClaim:
    """A claim among `claims`, which are others in a forked child.  It is given up when it is dropped."""

    def __init__(self, claims: dict[bytes, object], name: bytes) -> None:
        self.token = object()
        self._claims = claims
        self._name = name

    def release(self) -> None:
        if self._claims.get(self._name) is self.token:
            del self._claims[self._name]

    def is_awaited(self) -> bool:
        return False  # no other process has this engine

    def __del__(self) -> None:
        self.release()


class MemoryWaiting:
    """Somebody of this process who waits for a claim."""

    longest_pause = 0.02

    def __init__(self, engine: MemoryEngine, name: bytes) -> None:
        self._engine: MemoryEngine | None = engine
        self._name = name
        self._born = process.generation

    def poll(self) -> MemoryClaim | None:
        if self._engine is None or self._born != process.generation:
            return None
        claim = self._engine.claim(self._name)
        if claim is not None:
            self.close()
        return claim

    def close(self) -> None:
        self._engine = None


class MemoryEngine(Engine):
    """A tree that lives as long as its last handle."""

    name = "memory"
    durability = "process"
    capabilities = frozenset({"ordered", "batches", "transaction", "snapshot"})

    def __init__(self, location: str) -> None:
        self.location = location
        self._state = _State()
        self._users = Users(self._close_if_unused)
        self._new_lock()
        _engines.add(self)

    def _new_lock(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._claims: dict[bytes, object] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._state.get(key)

    view = get

    def contains(self, key: bytes, beside: bytes) -> tuple[bool, bytes | None]:
        state = self._state
        return state.get(key) is not None, state.get(beside)

    def read(self, views: bool = False) -> MemoryReader:
        return MemoryReader(self._state)

    def snapshot(self) -> MemoryReader:
        return MemoryReader(self._state)

    def held(self) -> tuple[Held, ...]:
        return ()

    def write(self) -> MemoryWriter:
        if self._owner == threading.get_ident():
            raise TransactionError(OWN_TRANSACTION)
        self._lock.acquire()
        self._owner = threading.get_ident()

        def done(state: _State | None) -> None:
            if state is not None:
                self._state = state
            self._owner = None
            self._lock.release()

        return MemoryWriter(self._state, done)

    def transact(self, function: Callable[Concatenate[MemoryWriter, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        writer = self.write()
        try:
            result = function(writer, *args, **kwargs)
        except BaseException:
            writer.abort()
            raise
        writer.commit()
        return result

    def is_writing_here(self) -> bool:
        return self._owner == threading.get_ident()

    def claim(self, name: bytes) -> MemoryClaim | None:
        claim = MemoryClaim(self._claims, name)
        return claim if self._claims.setdefault(name, claim.token) is claim.token else None

    def await_claim(self, name: bytes) -> MemoryWaiting:
        return MemoryWaiting(self, name)

    def inspection(self) -> None:
        """There is no file."""

    def sync(self) -> None:
        """Nothing to do: memory does not outlive the process."""

    def stats(self) -> Mapping[str, int]:
        return {}

    def retain(self, user: object = None) -> None:
        self._users.add(user)

    def release(self, user: object = None, wait: bool = True) -> None:
        self._users.remove(user)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        with _opening:
            if not self._users.are_there():
                _named.pop(self.location, None)
                _engines.discard(self)


# The named stores of this process, and every engine, for the fork hook.
_named: dict[str, MemoryEngine] = {}
_engines: set[MemoryEngine] = set()
_opening = threading.RLock()  # a store that is collected inside of it is closed inside of it


def open_memory(
    location: str,
    flag: str,
    initial: Mapping[bytes, bytes],
    durability: str | None,
    check: Callable[[bytes | None, str], object],
    user: object = None,
) -> MemoryEngine:
    """The engine behind `memory://name`, one per name and process, or a new one where there is no name.

    It comes retained for `user`, as from every engine's opener.
    """
    if durability not in (None, MemoryEngine.durability):
        raise ValueError(f"a store in memory cannot have durability {durability!r}; leave it out, or name a path")
    with _opening:
        engine = _named.get(location)
        if engine is not None and flag == "n":
            raise StoreLocked(f"flag 'n' replaces {location!r}, but it is open; close it first")
        if engine is not None:
            check(engine.get(IDENTITY_KEY), location)
            engine.retain(user)
            return engine
        if flag in "rw":
            raise StoreNotFound(f"there is no store at {location!r} in this process; open it with flag 'c' first")
        engine = MemoryEngine(location)
        records = {**initial, DURABILITY_KEY: engine.durability.encode()}
        engine.transact(MemoryWriter.put_many, records.items())
        engine.retain(user)
        if location != "memory://":
            _named[location] = engine
        return engine


def _new_locks() -> None:
    global _opening
    _opening = threading.RLock()
    for engine in _engines:
        engine._new_lock()  # its holder may be a thread that the child does not have


os.register_at_fork(after_in_child=_new_locks)
