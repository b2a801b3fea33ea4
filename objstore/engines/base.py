"""The contract of an engine: one ordered tree of bytes, with transactions.

An engine maps keys (1 to `MAX_KEY_BYTES` bytes) to records (any bytes), in the order of the keys.  It
knows no objects, no codecs, no namespaces and no expiry; it says what it can do in `capabilities`, and
what it cannot do raises `UnsupportedOperation` above it, never an imitation.

A `Reader` sees one committed state for as long as it lives.  There is no `close`: it ends when the last
reference to it, or to an iterator from it, is dropped, or with the engine.  A `Writer` also sees its own
changes; there is one at a time, in all processes, and it belongs to the thread that opened it.

Some readers do not copy large records but show them: what they give is then a read-only view of the engine's
memory.  It stays as it is for as long as anybody refers to it or to a part of it, whatever becomes of the
reader and the engine.

After a fork, what the child inherited is not its own.  `process.generation` tells: it is counted up in
every forked child, and whoever remembers the count of its birth knows whether it was inherited.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, Self, TypeVar
from weakref import ref

from objstore.record import MAX_RECORD_BYTES, Packed

P = ParamSpec("P")
R = TypeVar("R")

MAX_KEY_BYTES = 511

# The one key that an engine keeps in the tree for itself: its durability, recorded when the store is made.
DURABILITY_KEY = b"\x00d"
DURABILITIES = ("full", "relaxed", "process")


def durability_of(stored: bytes | None) -> str | None:
    """The durability that a record says, or None where it says none that there is."""
    found = (stored or b"").decode(errors="replace")
    return found if found in DURABILITIES else None


# The largest record that a server takes, unless it is told otherwise.
MAX_SERVED_BYTES = 512 << 20

# With what an entry begins that stands for the place of a record in the order, where an engine keeps that by itself.
ORDER_ENTRY = b"\x06"

# Where those above keep what the store is; an engine lets them look at it before it changes anything.
IDENTITY_KEY = b"\x00i"

# What a thread is told that waits for itself.
OWN_TRANSACTION = (
    "this thread has a transaction or an edit open: write through that, or after it ends; to wait for it here would "
    "be for ever"
)


class _Process:
    """Which process this is: `generation` counts the forks that lead here."""

    generation = 0


process = _Process()


def _count_fork() -> None:
    process.generation += 1


os.register_at_fork(after_in_child=_count_fork)


Progress = Callable[[int, int], object]
"""Called with how much is done, and how much there is."""


# A record as a reader gives it: a copy, or a view where it is large and the reader shows such.
Stored = bytes | memoryview


class Held(NamedTuple):
    """A state that somebody holds: a snapshot, or views of large records that outlived it."""

    age: float
    """Seconds since it was taken."""
    bytes: int
    """The size of the large records that were shown from it without a copy."""


class Activity(NamedTuple):
    """A process that reads a state of a store, or that has its write transaction."""

    process: int
    """Its id, as this process sees it."""
    age: float | None
    """Seconds since it began, where it said so: snapshots, views and explicit transactions do."""
    behind: int
    """Commits that followed the state it reads; all that they freed stays in the file meanwhile."""


class Disposable(NamedTuple):
    """What a store is whose values can be computed again, so that it may begin empty where it is suspect.

    Whoever empties it gives it bounds if it has some, and the same seal.
    """

    bounded: bool
    seal: str = "-"


class Inspection(NamedTuple):
    """What another process needs to look through one state of a store without its engine."""

    location: str
    descriptor: int
    """Of the data file, open for reading."""
    state: str
    """Which state of it: what the engine's `inspect` takes."""
    keeper: object = None
    """What must live meanwhile, so that the state stays as it is."""


Verify = Callable[[Inspection, Progress | None], None]


class Reader(Protocol):
    """One committed state of the tree.  `keeper` is what must live as long as it."""

    keeper: object

    def get(self, key: bytes) -> Stored | None:
        """The record of `key`, or None."""

    def contains(self, key: bytes) -> bool:
        """Whether `key` has a record; what this costs does not depend on its size."""

    def get_many(self, keys: Iterable[bytes]) -> Sequence[tuple[bytes, Stored]]:
        """Key and record of those that are there, in the order asked for."""

    def scan(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, Stored]]:
        """Keys and records from `start` (included) to `stop` (not; None is the end), in order.

        In a writer the scan moves forward and sees what is written behind it and before it.
        """

    def scan_keys(self, start: bytes, stop: bytes | None = None, reverse: bool = False) -> Iterator[bytes]:
        """The keys alone."""

    def scan_heads(
        self, start: bytes, stop: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes, int]]:
        """Key, first `record.HEAD_BYTES` bytes and size of each record."""

    def count(self) -> int:
        """How many keys the whole tree holds, in constant time."""


class Writer(Reader, Protocol):
    """The one write transaction.  It copies every record that it gives."""

    def get(self, key: bytes) -> bytes | None:
        """The record of `key`, or None."""

    def head(self, key: bytes) -> tuple[bytes, int] | None:
        """First `record.HEAD_BYTES` bytes and size of the record of `key`, or None."""

    def get_first(self, start: bytes, stop: bytes | None, count: int) -> Sequence[tuple[bytes, bytes]]:
        """So many items from `start` (included) to `stop` (not), at once."""

    def put(self, key: bytes, record: Packed) -> None:
        """Store `record` under `key`, in the place of what was there."""

    def put_many(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """`put` for each."""

    def delete(self, key: bytes) -> bool:
        """Remove `key`; whether it was there."""

    def delete_range(self, start: bytes, stop: bytes | None) -> int:
        """Remove all keys from `start` (included) to `stop` (not); how many there were."""

    def savepoint(self) -> Self:
        """A writer inside this one, which commits into it or aborts alone.  This one rests meanwhile."""

    def commit(self) -> None:
        """Apply everything; the writer is used up, also when this raises."""

    def abort(self) -> None:
        """Drop everything; the writer is used up.  Harmless when it is already."""


class Marks(NamedTuple):
    """What an engine that keeps the books itself is told about a record."""

    expires_at: int | None = None
    """Microseconds since 1970."""
    tags: tuple[bytes, ...] = ()
    """Hashes of its tags, of the same length all."""
    prefix: bytes = b""
    """With what the keys of its namespace begin; none is the default namespace."""
    name: bytes = b""
    """What is recorded of that namespace: its name, and its codec."""


class Anything:
    """Stands for whatever is stored, where something is to be stored only in a certain case."""


ANYTHING = Anything()

Put = tuple[bytes, bytes, Marks]
"""A key, its record, and what is known about it."""


class Shards(Reader, Protocol):
    """What an engine without transactions reads and writes: many small trees that look like one.

    A reader sees what is there now, and not one state: a scan shows what was there all the time, and what comes or goes
    meanwhile or not.  Each write of one key is one step, with all that is kept about it; several are several steps.

    `now` is the time of the caller, in microseconds since 1970.
    """

    def put(self, key: bytes, record: Packed) -> None:
        """Store a record of the library's own."""

    def store(self, key: bytes, record: bytes, marks: Marks, now: int, found: bytes | Anything | None) -> int:
        """Store `record` if `found` is what is there (None: nothing).

        Gives 0 where it is not; 1, or 2 where this is the first of its namespace here; -1 where the namespace has
        another name by now.
        """

    def store_many(self, items: Sequence[Put], now: int, found: Sequence[bytes | None] | None = None) -> list[int]:
        """`store` for each, whatever is there, or if it is what was found there.

        An error has the places of those that failed in `places`.
        """

    def exchange(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> int:
        """Key, record, and another one for the same thing: put it in its place if it is still there; how many were."""

    def remove(self, key: bytes, now: int, found: bytes | Anything | None) -> bool:
        """Remove the record if `found` is what is there; whether it was, and was not expired.

        With None, where there is nothing, what is still known about it is forgotten.
        """

    def remove_many(self, keys: Sequence[bytes], now: int) -> list[bool]:
        """`remove`, whatever is there, for each."""

    def remove_between(self, start: bytes, stop: bytes | None, now: int) -> int:
        """Remove everything from `start` (included) to `stop` (not); how much of it was not expired."""

    def count_between(self, start: bytes, stop: bytes | None, now: int) -> int:
        """How many keys there are from `start` (included) to `stop` (not) that are not expired."""

    def scan_live_keys(self, start: bytes, stop: bytes | None, reverse: bool, now: int) -> Iterator[bytes]:
        """The keys alone, without the expired ones."""

    def scan_tagged(self, tag: bytes, start: bytes, stop: bytes | None, reverse: bool) -> Iterator[bytes]:
        """The keys of what may bear a tag, given by its hash; their records say whether they do."""

    def sweep(self, prefix: bytes, now: int) -> int:
        """Remove what has expired in a namespace; how much that was."""

    def forget_namespace(self, prefix: bytes) -> None:
        """Forget the namespace in all parts."""


class Claim(Protocol):
    """What one has who does alone what others would do, too: nobody else gets it, in no thread and no process.

    It dies with its process, however that ends, and no forked child has it.  In a child it does nothing.
    """

    def release(self) -> None:
        """Give it up.  Harmless when that was done."""

    def is_awaited(self) -> bool:
        """Whether somebody of another process waits for it."""


class Waiting(Protocol):
    """Somebody who waits for a claim, which its holder can see."""

    longest_pause: float
    """Seconds between two polls, at most; more often costs more than it is worth when one has waited for long."""

    def poll(self) -> Claim | None:
        """The claim if nobody has it, and then this is closed.  Never waits itself."""

    def close(self) -> None:
        """Wait no more.  Harmless when that was done."""


def put(writer: Writer, key: bytes, record: Packed) -> None:
    """`Writer.put`, for `Engine.transact`."""
    writer.put(key, record)


def _put_beside(writer: Writer, key: bytes, record: Packed, beside: bytes, first: int) -> bool:
    found = writer.get(beside)
    if not found or found[0] != first:
        return False
    writer.put(key, record)
    return True


class Users:
    """Who uses an engine: handles and transactions, for as long as they live.

    They are looked at, not counted: one who is interrupted between any two steps of opening or closing is forgotten
    with what was to use the engine.  `last` is called when one is dropped, by the garbage collector in the middle of
    anything.
    """

    def __init__(self, last: Callable[[], object]) -> None:
        self._last = last
        self._seen: dict[int, ref[Any]] = {}  # by identity: a mapping has no hash
        self._unseen: list[None] = []  # counted by its length

    def add(self, user: object) -> None:
        """Remember a user; None is one whose life nobody can see."""
        if user is None:
            self._unseen.append(None)
        else:
            self._seen[id(user)] = ref(user, partial(self._forget, id(user)))

    def remove(self, user: object) -> None:
        """Forget a user."""
        if user is None:
            self._unseen.pop()
        else:
            self._seen.pop(id(user), None)

    def _forget(self, name: int, reference: ref[Any]) -> None:
        if self._seen.get(name) is reference:
            del self._seen[name]
        self._last()

    def are_there(self) -> bool:
        """Whether anybody uses the engine."""
        return bool(self._unseen) or any(reference() is not None for reference in list(self._seen.values()))


class Engine(ABC):
    """Where a store keeps its bytes."""

    name: str
    location: str
    durability: str
    read_only = False
    is_shared = False
    """Whether it is reached over a network, where others may write into it."""
    was_emptied = False
    """Whether it was suspect, and is new now, as its opener had allowed."""
    capabilities: frozenset[str]
    max_record_bytes = MAX_RECORD_BYTES
    """Where a record ends that it takes."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The record of `key` in the last committed state, or None: the hot path."""

    @abstractmethod
    def view(self, key: bytes) -> Stored | None:
        """The same, where a large record is shown and not copied."""

    @abstractmethod
    def contains(self, key: bytes, beside: bytes) -> tuple[bool, bytes | None]:
        """Whether `key` has a record, and the record of another key, both in the last committed state.

        What this costs does not depend on the size of the first.
        """

    @abstractmethod
    def read(self, views: bool = False) -> Reader:
        """The last committed state, where with `views` large records are shown and not copied."""

    @abstractmethod
    def snapshot(self) -> Reader:
        """The same with views, by somebody who may keep it: `held` tells of it for as long as it is held."""

    @abstractmethod
    def held(self) -> tuple[Held, ...]:
        """The states that this process holds, the oldest first."""

    @abstractmethod
    def write(self) -> Writer:
        """The write transaction; waits for its turn.

        Raises TransactionError in a thread that already has one, ReadOnlyStore where one cannot write.
        """

    @abstractmethod
    def transact(self, function: Callable[Concatenate[Writer, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function(writer, ...)` in a write transaction of its own and commit it.

        The function touches nothing but the writer and its arguments: it may be run again.
        """

    def put_beside(self, key: bytes, record: Packed, beside: bytes, first: int) -> bool:
        """Store `record` under `key` if the record of `beside` begins with the byte `first`; whether it did.

        A transaction of its own: the hot path of a plain assignment.
        """
        return self.transact(_put_beside, key, record, beside, first)

    @abstractmethod
    def is_writing_here(self) -> bool:
        """Whether this thread has a transaction of `write` open."""

    @abstractmethod
    def claim(self, name: bytes) -> Claim | None:
        """The claim on a name, or None where somebody has it, this thread or another one of any process.

        Where this process cannot write, it knows of no others.
        """

    @abstractmethod
    def await_claim(self, name: bytes) -> Waiting:
        """Say that somebody waits for the claim on a name, and will poll for it."""

    def moment(self) -> float:
        """Seconds, on one clock for all processes that may have this engine open."""
        return time.monotonic() if sys.platform == "linux" else time.time()

    @abstractmethod
    def inspection(self) -> Inspection | None:
        """The last committed state for another process to look through, or None where there is no file to look at."""

    def audited(self) -> Iterator[tuple[bytes, Stored]]:
        """Everything that an audit looks at, where it is looked at here: first the library's own, then the records."""
        return self.read().scan(b"")

    def backup(self, path: str, verify: Verify, progress: Progress | None) -> None:
        """Write the last committed state into a new directory at `path`, as a store of its own.

        `verify(inspection, progress)` looks through the copy before it becomes a store, and raises what it likes.
        `progress(done, total)` is called with pages, read and looked through.
        """
        raise NotImplementedError  # not among its capabilities

    def compact(self, verify: Verify, progress: Progress | None) -> None:
        """Put such a copy, which has no free pages, in the place of the data file.

        Raises StoreLocked where anybody else has the store open, or anybody here reads or writes.
        """
        raise NotImplementedError

    @abstractmethod
    def sync(self) -> None:
        """Force what was committed to the disk."""

    @abstractmethod
    def stats(self) -> Mapping[str, int]:
        """Figures of the engine: `file_bytes`, `free_bytes`, `map_bytes`, `readers`, as far as it has them."""

    def reading(self) -> tuple[Activity, ...]:
        """Who reads, in all processes, the oldest state first."""
        return ()

    def writing(self) -> Activity | None:
        """Who has the write transaction, if somebody has and the system tells who."""
        return None

    @abstractmethod
    def retain(self, user: object = None) -> None:
        """One more uses this engine: for as long as it lives, or until `release`.

        None stands for somebody whose life nobody can see; each of those must `release` it.
        """

    @abstractmethod
    def release(self, user: object = None, wait: bool = True) -> None:
        """One user less; the engine closes with the last, and with what is shown of it.

        The garbage collector, which may come in the middle of anything, does not `wait` for others; what it cannot
        close at once is closed by the next who opens a store.
        """

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Whoever gives up the last handle meanwhile, it is open until this block ends."""
        self.retain()
        try:
            yield
        finally:
            self.release()
