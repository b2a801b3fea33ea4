"""The embedded engine: one environment, shared by all handles of the process."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar
from weakref import WeakSet, ref

import lmdb

from objstore.engines.base import (
    DURABILITY_KEY,
    IDENTITY_KEY,
    OWN_TRANSACTION,
    Activity,
    Disposable,
    Engine,
    Held,
    Inspection,
    Progress,
    Reader,
    Stored,
    Users,
    Verify,
    durability_of,
)
from objstore.engines.lmdb import activity, registry
from objstore.engines.lmdb.claiming import Claims, LmdbClaim, LmdbWaiting
from objstore.engines.lmdb.copying import copy_into
from objstore.engines.lmdb.datafile import (
    DATA,
    REPLACED,
    DataFile,
    Meta,
    Unreadable,
    check_whole,
    file_id,
    free_pages,
    identify,
    state_text,
)
from objstore.engines.lmdb.directory import LOCK, OURS, Directory
from objstore.engines.lmdb.errors import translate, translated, translated_os
from objstore.engines.lmdb.forks import Inherited, keep_for_ever
from objstore.engines.lmdb.grouping import Call, GroupCommit
from objstore.engines.lmdb.transactions import LmdbReader, LmdbWriter
from objstore.engines.lmdb.turns import Turns
from objstore.engines.lmdb.zerocopy import IN_THE_MIDDLE, Guard, LmdbViewer, Views
from objstore.errors import (
    OutcomeUnknown,
    ReadOnlyStore,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreNotFound,
    StoreReplaced,
    StoreSuspect,
    TransactionError,
)
from objstore.record import Packed

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_MOST_RESERVED = 1 << 40
LEAST_MAP = 1 << 24

# Seconds that those who do not wait for the disk may write on after files were replaced, or a reader was killed.
_LOOK_SECONDS = 0.5

# Nanoseconds after which a change in a directory has a time of its own.  (Where a file system tells whole seconds, what
# is missed so is seen by the next look.)
_SETTLED_NS = 100_000_000

# Seconds in which transactions of this process must end, where something waits for them.
_LONGEST_WAIT = 5.0


class Options(NamedTuple):
    """How an environment is opened: the same for all handles of one process."""

    map_size: int | None = None
    max_readers: int = 1024
    private: bool = True
    immutable: bool = False
    readahead: bool = True
    network: bool = False
    disposable: Disposable | None = None


class LmdbEngine(Engine):
    """One environment, shared by all handles of this process."""

    name = "lmdb"
    capabilities = frozenset({"ordered", "batches", "transaction", "snapshot", "view", "backup", "compact"})
    directory_id = (0, 0)
    _id = b""

    def __init__(
        self,
        location: str,
        directory: Directory | None,
        options: Options,
        check: Callable[[bytes | None, str], object],
    ) -> None:
        """Nothing is opened yet, see `open`."""
        self.location = location
        self.options = options
        self._directory = directory
        self._users = Users(self.close_if_unused)
        self._reopening = threading.RLock()
        self._is_reopening = False  # in the thread that has that lock
        self._unready = True
        self._map_size = 0
        self._has_large = False  # whether there was ever a large record
        self._writing = Guard(location)  # those who are in the middle of a transaction of their engine's
        self._moving = threading.Lock()  # whoever moves the map
        self._turns = Turns()
        self._process = os.getpid()
        self._own: ref[LmdbWriter] | None = None  # the last transaction that a user began
        self._group: GroupCommit | None = None
        self._check = check
        self._notes = activity.Notes(lambda: None if directory is None else directory.descriptor)
        self._claims = Claims(self._notes.descriptor)
        self._next_look = 0.0
        # An lmdb.Environment, or what stands in its place before it is open, after a fork, and after a close.
        self._environment: Any = _Closed(location)
        self._ending: Any = self._environment  # what was there, and is being closed
        self._is_ending = self._is_closed = False

    # Opening and closing

    def open(self, durability: str | None, flag: str, guess: str = "full") -> None:
        """Open the environment as its recorded durability wants it, or change what is recorded.

        It must be opened to be read, so the durability is guessed first, where none is wanted.
        """
        self.read_only = self.options.immutable or not os.access(os.path.join(self.location, DATA), os.W_OK)
        self._check_suspect()
        opened = self._open_environment(durability or guess)
        try:
            with translated(self.location):
                found, identity = _recorded_in(opened)
                opened.reader_check()
            if found is None:
                raise StoreNotFound(f"{self.location!r} is an LMDB environment, but no store; name another place")
            self._check(identity, self.location)
            if self._id not in (b"", identity):
                raise StoreReplaced(REPLACED.format(self.location))
            self._id = identity
            recorded = durability_of(found)
            if recorded is None:
                raise StoreCorrupt(f"the durability of the store at {self.location!r} is damaged; restore a backup")
            self.durability = recorded
            if self.durability != guess and durability is None:
                self._abandon(opened)
                opened = self._open_environment(self.durability)
            # Where nobody waits for the disk, nothing would be shared.
            self._group = None if (durability or self.durability) == "process" else GroupCommit(self._transact_all)
            # Last: in a forked child other threads may wait for it already.
            self._environment = opened
            if durability not in (None, self.durability):
                self._change_durability(durability, flag)
        except BaseException:
            self._abandon(opened)
            raise

    def _abandon(self, environment: Any) -> None:
        """Close an environment that nobody uses yet, or that is of no use any more."""
        environment.close()
        self._views.file.close()

    def _check_suspect(self) -> None:
        if self._directory is not None and self._directory.suspect:
            raise StoreSuspect(
                f"the machine went down while the store at {self.location!r} had unsynced writes, so what is there may "
                f"be a mixture of old and new; restore a backup, begin anew with flag 'n', or check it and accept what "
                f"is there with objstore.check(location, accept=True)"
            )

    def _open_environment(self, durability: str) -> Any:
        check_whole(self.location)
        size = self.options.map_size or self._map_size or _reserved(self.location)
        while True:
            try:
                with nullcontext() if self._directory is None else self._directory.opening():
                    environment = lmdb.open(
                        os.fsencode(self.location),  # a path need not be text
                        map_size=size,
                        readonly=self.read_only,
                        lock=not self.options.immutable,
                        sync=durability != "process",
                        metasync=durability == "full",
                        readahead=self.options.readahead,
                        mode=self._directory.file_mode if self._directory else 0o600,
                        max_readers=self.options.max_readers,
                        max_spare_txns=1,
                        create=False,
                        lib_version=0,
                    )
            except lmdb.MemoryError as exc:
                if self.options.map_size or size // 2 < LEAST_MAP:
                    raise StoreError(
                        f"the system has no {size} bytes of address space for a map; lower map_size, or lift the limit"
                    ) from exc
                size //= 2
            except lmdb.MapResizedError:
                continue  # a process made the file larger than this map meanwhile: the next one is as large as that
            except lmdb.Error as exc:
                raise translate(exc, self.location) from exc
            else:
                try:
                    self._know(environment, size)
                except BaseException:
                    environment.close()  # what was raised may keep it, and it cannot be opened twice
                    raise
                return environment

    def _know(self, environment: Any, size: int) -> None:
        """Know what belongs to an environment that was opened with a map of `size` bytes."""
        self._map_size = size
        self._files = {name: file_id(self.location, name) for name in self._names()}
        self._unchanged: tuple[tuple[int, int], int] | None = None  # the directory, when its files were looked at
        self._movable = size < _reserved(self.location)
        self._readers: WeakSet[Any] = WeakSet()  # these two are kept only where the map may have to move
        self._writers = Guard(self.location)
        # What shows the file of a map that may have to move by itself would stand in its way.
        shows = not self._movable or self.options.map_size is not None
        page_size = environment.stat()["psize"]
        self._views = Views(self.location, page_size, shows, self.close_if_unused, self._notes.reads)

    def _change_durability(self, durability: str | None, flag: str) -> None:
        assert durability is not None
        assert self._directory is not None
        if flag == "r" or self.read_only:
            raise ReadOnlyStore(
                f"the store at {self.location!r} is recorded with durability {self.durability!r}, and a reader cannot "
                f"change that; leave durability out"
            )
        if not self._directory.try_exclusive():
            raise StoreLocked(
                f"the store at {self.location!r} has durability {self.durability!r} for all who have it open; close it "
                f"everywhere to change that, or leave durability out"
            )
        self.durability = durability
        self._unready = True
        self.transact(lambda writer: writer.put(DURABILITY_KEY, durability.encode()))
        self.sync()
        if durability != "process" and self._directory.dirty:
            self._directory.mark_clean()
        self._directory.lock_shared()

    def retain(self, user: object = None) -> None:
        self._users.add(user)

    def release(self, user: object = None, wait: bool = True) -> None:
        self._users.remove(user)
        self.close_if_unused(wait)

    def close_if_unused(self, wait: bool = False) -> None:
        """Close the environment, if no handle, no view and no child needs it any more."""
        if self._is_closed or self._is_used():
            return
        if wait:
            with registry.opening():
                self._close()
        elif (opening := registry.opening()).acquire(blocking=False):
            try:
                self._close()
            finally:
                opening.release()

    def _is_used(self) -> bool:
        return self._users.are_there() or self._views.is_needed()

    def _close(self, by_force: bool = False) -> None:
        """Close it, unless it is used after all.

        Each step may be done again: one that was interrupted is gone through once more by the next who opens or
        closes a store, or by a collector in the middle of it.
        """
        if os.getpid() != self._process or isinstance(self._environment, Inherited) or self._is_closed:
            return
        if not isinstance(self._environment, _Closed):
            is_in_use = True
            try:
                self._writing.close()
                self._views.guard.close()
                is_in_use = self._is_used() and not by_force  # somebody took a view at the last moment
            except StoreLocked:  # somebody is stopped in the middle: the next who opens or closes tries again
                pass
            finally:
                if is_in_use:
                    self._writing.reopen()
                    self._views.guard.reopen()
            if is_in_use:
                return
            self._ending, self._environment = self._environment, _Closed(self.location)
        self._end()

    def _end(self) -> None:
        directory, is_first, self._is_ending = self._directory, not self._is_ending, True
        try:
            if is_first and directory and not self.read_only and directory.dirty and directory.try_exclusive():
                # The last one out syncs what all wrote, and takes the mark away.
                try:
                    self._ending.sync(True)
                except lmdb.Error as exc:
                    raise self._failed(exc) from exc
                directory.mark_clean()
        finally:
            self.abandon()
            if registry.engines.get(self.directory_id) is self:
                del registry.engines[self.directory_id]
            self._is_closed = True

    def abandon(self) -> None:
        """Close what is open, used or not."""
        self._ending.close()
        self._environment.close()
        if hasattr(self, "_views"):  # else it was never open
            self._views.file.close()
        if self._directory is not None:
            self._directory.close()

    def close_at_exit(self) -> None:
        """Close it with the interpreter, whoever uses it."""
        with registry.opening():
            self._close(by_force=True)

    # Forks

    def lend(self) -> None:
        """Before a fork: hold for the child what it will be able to see."""
        self._views.lend()

    def lent(self) -> None:
        """After a fork, in the parent."""
        self._views.lent()

    def disown(self) -> bool:
        """In a forked child: never touch the inherited environment again, open another at first use.

        Whether there will be one: another thread of the parent may have been closing this.
        """
        self._reopening = threading.RLock()
        self._is_reopening = False
        self._moving = threading.Lock()
        self._turns = Turns()
        self._unready = True
        self._writing = Guard(self.location)
        self._process = os.getpid()
        self._notes = activity.Notes(self._notes.descriptor)
        self._claims = Claims(self._notes.descriptor)  # those of the parent are not the child's
        self._next_look = 0.0
        self._group = None  # its lock may be held by a thread that the child does not have
        self._views.borrowed()
        if isinstance(self._environment, _Closed):
            keep_for_ever(self._ending)
            self._is_closed = True
        elif not isinstance(self._environment, Inherited):
            keep_for_ever(self._environment)
            self._environment = Inherited(self._reopen)
        return not self._is_closed

    def _reopen(self) -> Any:
        with self._reopening, translated_os(self.location):
            if self._is_reopening:  # this comes out of a signal handler or a destructor
                raise StoreLocked(IN_THE_MIDDLE.format(self.location))
            if isinstance(self._environment, Inherited):
                self._is_reopening = True
                try:
                    if self._directory is not None:
                        self._directory.lock_shared()
                    self.open(None, "w", guess=self.durability)
                except BaseException:
                    self._environment = Inherited(self._reopen)  # the next who uses it tries again
                    raise
                finally:
                    self._is_reopening = False
            return self._environment

    # What others may have done to the files

    def _names(self) -> tuple[str, ...]:
        return (DATA,) if self._directory is None or self._directory.descriptor is None else (DATA, LOCK, OURS)

    def check_not_replaced(self) -> None:
        """Raise StoreReplaced if one of the files is not the one that was opened."""
        if isinstance(self._environment, Inherited):
            return  # it is not open for now, and whoever opens it looks at its identity
        for name, opened in self._files.items():
            try:
                found = file_id(self.location, name)
            except PermissionError:  # this process has given up rights since; what it opened before is still its own
                return
            if found != opened:
                raise StoreReplaced(REPLACED.format(self.location))

    def _check_directory(self) -> None:
        """The same, where no file need be looked at unless a name in their directory has changed.

        Who asks for the times of a file that is written makes the next write dearer: the system notes its time more
        exactly then.  For the data file that is a fifth of a commit.
        """
        try:
            status = os.stat(self.location)
        except OSError:
            self.check_not_replaced()  # which says what it means
            return
        seen = identify(status), status.st_mtime_ns
        if seen != self._unchanged:
            self.check_not_replaced()
            # A name that changes in this moment could get the same time.
            is_settled = time.time_ns() - status.st_mtime_ns > _SETTLED_NS
            self._unchanged = seen if is_settled else None

    def _look_around(self) -> None:
        """Before a write: refuse files that were replaced, and clear away readers that were killed.

        Where a commit waits for the disk, their directory is looked at each time; else now and then, because asking the
        system takes a third of a put.
        """
        now = time.monotonic()
        if now < self._next_look:
            if self.durability != "process":
                self._check_directory()
            return
        self.check_not_replaced()
        with translated(self.location):
            self._environment.reader_check()
        self._next_look = now + _LOOK_SECONDS

    # Reading

    def get(self, key: bytes) -> bytes | None:
        try:
            record: bytes | None = self._environment.begin().get(key)
        except lmdb.Error:
            return self._reader().get(key)  # again, with what `_begin` can mend
        return record

    def view(self, key: bytes) -> Stored | None:
        return self._viewer().get(key)

    def contains(self, key: bytes, beside: bytes) -> tuple[bool, bytes | None]:
        try:
            txn = self._environment.begin()
            return txn.cursor().set_key(key), txn.get(beside)
        except lmdb.Error:
            reader = self._reader()  # again, with what `_begin` can mend
            return reader.contains(key), reader.get(beside)

    def read(self, views: bool = False) -> Reader:
        return self._viewer() if views else self._reader()

    def snapshot(self) -> Reader:
        self.tend()
        reader = self._viewer()
        reader.hold = self._views.hold(reader.txn)
        return reader

    def inspection(self) -> Inspection:
        reader, meta = self._known_state()
        return Inspection(self.location, self._views.file.fileno(), state_text(meta), reader)

    def _known_state(self) -> tuple[LmdbReader, Meta]:
        """The last committed state, held, and where its trees begin: what its meta page says until the next but one."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            reader: Any = self.snapshot()
            state = reader.txn.id()
            for meta in DataFile(self._views.file.fileno()).metas():
                if meta.transaction == state:
                    return reader, meta
        raise StoreCorrupt(
            f"the state that LMDB shows of the store at {self.location!r} is not one that its data file tells of; "
            f"close it everywhere, and check it"
        )

    def held(self) -> tuple[Held, ...]:
        self.tend()
        return self._views.held()

    def tend(self) -> None:
        """Look after what is held: give up what was for children that are gone, and log what is for long.

        Not to be called with a lock or under the guard: to log runs code of users.
        """
        if self._views.holds:  # what was lent is among them
            self._views.end_leases()
            self._views.tell_oldest()
            self._views.log_old()

    def _reader(self) -> LmdbReader:
        if self._movable:
            return self._begin_movable(LmdbReader)
        try:
            txn = self._environment.begin()
        except lmdb.Error:
            txn = self._begin()
        return LmdbReader(self._environment, txn, self.location)

    def _begin_movable(self, kind: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Begin to read where the map may have to move: nobody moves it before this is known to read."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            token: object
            token, environment = self._enter()
            try:
                txn = environment.begin(**options)
                reader = kind(environment, txn, self.location, *arguments)
                self._readers.add(reader)
                return reader
            except lmdb.Error as exc:
                token = None  # who moves the map waits for it
                self._mend(exc, deadline)
            finally:
                del token

    def _viewer(self) -> LmdbReader:
        """A reader that copies no large record: any, where there are none."""
        if not self._has_large:
            reader = self._reader()
            self._has_large = reader.has_large()
            if not self._has_large:
                return reader
            del reader  # and its slot
        if self._movable:
            return self._begin_movable(LmdbViewer, self._views, buffers=True)
        try:
            txn = self._environment.begin(None, None, False, True)  # db, parent, write, buffers
        except lmdb.Error:
            txn = self._begin(buffers=True)
        return LmdbViewer(self._environment, txn, self.location, self._views)

    # Writing

    def write(self) -> LmdbWriter:
        self.tend()
        token = self._writing.enter()
        try:
            writer = self._writer()
            self._own = ref(writer)
        finally:
            del token
        self._notes.writes(writer.txn.id())
        return writer

    def _writer(self) -> LmdbWriter:
        if self._unready:
            self._make_ready()
        self._look_around()
        if self._movable:
            self._grow_early()
        turn = self._turns.take()
        try:
            writer = self._write_movable() if self._movable else self._write_fixed()
            writer.turn = turn
            return writer
        finally:
            del turn

    def _write_fixed(self) -> LmdbWriter:
        try:
            txn = self._environment.begin(None, None, True, True)  # db, parent, write, buffers
        except lmdb.Error:
            txn = self._begin(write=True, buffers=True)
        return LmdbWriter(self._environment, txn, self.location, self._failed)

    def _write_movable(self) -> LmdbWriter:
        """Begin to write where the map may have to move: nobody of this process moves it before the end."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            token: object = self._writers.enter()
            try:
                txn = self._environment.begin(write=True, buffers=True)
                writer = LmdbWriter(self._environment, txn, self.location, self._failed)
                writer.token = token
                return writer
            except lmdb.Error as exc:
                token = None  # who moves the map waits for it
                self._mend(exc, deadline)
            finally:
                del token

    def _make_ready(self) -> None:
        """What must be done before the first write."""
        if isinstance(self._environment, Inherited):
            self._reopen()
        if self.read_only:
            raise ReadOnlyStore(
                f"the store at {self.location!r} can only be read by this process; mend its permissions"
            )
        if self.durability == "process" and self._directory is not None:
            self._directory.mark_dirty()
        self._unready = False

    def transact(self, function: Callable[Concatenate[LmdbWriter, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        self.tend()
        if self._group is None:
            return self._transact(function, *args, **kwargs)
        if self.is_writing_here():
            raise TransactionError(OWN_TRANSACTION)  # the one who leads would wait for it, and this one for that
        result: R = self._group.transact(lambda writer: function(writer, *args, **kwargs))
        return result

    def put_beside(self, key: bytes, record: Packed, beside: bytes, first: int) -> bool:
        if (
            self._unready
            or self._movable
            or self._group
            or self._views.holds
            or type(record) is not bytes
            or time.monotonic() >= self._next_look
        ):
            return super().put_beside(key, record, beside, first)
        token = self._writing.enter()
        turn: object = None
        try:
            turn = self._turns.take()
            txn = self._environment.begin(None, None, True, True)  # db, parent, write, buffers
            try:
                found = txn.get(beside)
                if not found or found[0] != first:
                    return False
                txn.put(key, record)
                txn.commit()
            finally:
                txn.abort()  # which does nothing after the commit
        except lmdb.Error:
            turn = None
            return super().put_beside(key, record, beside, first)  # again, with what can be mended
        finally:
            del token, turn
        return True

    def _transact_all(self, calls: Sequence[Call]) -> list[Any]:
        return self._transact(lambda writer: [call(writer) for call in calls])

    def _transact(self, function: Callable[Concatenate[LmdbWriter, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            token = self._writing.enter()
            try:
                writer = self._writer()
                try:
                    result = function(writer, *args, **kwargs)
                    writer.commit()
                except BaseException:
                    writer.abort()
                    raise
                return result
            except StoreFull as exc:
                if not self._grow(exc):
                    raise
            finally:
                del token

    def is_writing_here(self) -> bool:
        own = None if self._own is None else self._own()
        return own is not None and own.is_open_here()

    def sync(self) -> None:
        try:
            self._environment.sync(True)
        except lmdb.Error as exc:
            raise self._failed(exc) from exc

    def _failed(self, error: lmdb.Error) -> StoreError:
        """What it means that a commit or a sync has failed.

        Where more was written than what failed, the system may have dropped some of it, and the next sync that
        succeeds says nothing of that: so it is marked.
        """
        meaning = translate(error, self.location)
        try:
            self._environment.begin()
        except lmdb.PanicError:
            return OutcomeUnknown(
                f"the store at {self.location!r} could not write its header, so whether the transaction was applied is "
                f"unknown; close it everywhere in this process, open it again, and look"
            )
        except (lmdb.Error, StoreClosed):
            pass  # of no matter here
        # A disk that is full reads as an input/output error, too, and is no reason.
        is_io = getattr(error, "code", 0) == errno.EIO and not isinstance(meaning, StoreFull)
        if is_io and self._directory is not None and self.durability != "full":
            self._directory.mark_failed()
        return meaning

    # What can go wrong, and be mended

    def _begin(self, **options: Any) -> Any:
        """Begin a transaction, whatever has to be mended or waited for."""
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            try:
                return self._environment.begin(**options)
            except lmdb.Error as exc:
                self._mend(exc, deadline)

    def _mend(self, error: lmdb.Error, deadline: float) -> None:
        """Why a transaction could not begin: wait for a reader slot, or follow a map that others have made larger."""
        if isinstance(error, lmdb.ReadersFullError):
            if not self._environment.reader_check() and time.monotonic() > deadline:
                raise StoreLocked(
                    f"all {self._environment.max_readers()} reader slots of the store at {self.location!r} are taken; "
                    f"end snapshots and iterations, or let the first who opens it give a larger max_readers"
                ) from error
            time.sleep(0.001)
        elif isinstance(error, lmdb.BadRslotError):
            pass  # the cached transaction had lost its slot, and is gone now
        elif isinstance(error, lmdb.MapResizedError):
            self._resize(0, error)
        elif self._views.guard.is_shut:
            self._views.guard.enter()  # the map is being moved: wait for that
        else:
            raise translate(error, self.location) from error

    def _grow(self, full: StoreFull) -> bool:
        """Double a map that could not be reserved whole; whether it was done."""
        if not self._movable or self.options.map_size or not isinstance(full.__cause__, lmdb.MapFullError):
            return False
        self._resize(2 * self._map_size, full.__cause__)
        return True

    def _grow_early(self) -> None:
        """Grow such a map when it is half full: a transaction of the user's cannot be run again."""
        if self.options.map_size or len(self._readers) or self._views.held():
            return
        token = self._views.guard.enter()
        try:
            with translated(self.location):
                used = self._environment.info()["last_pgno"] * self._environment.stat()["psize"]
        finally:
            del token
        if 2 * used > self._map_size:
            with suppress(StoreFull, StoreLocked):
                self._resize(2 * self._map_size, None)

    def _resize(self, size: int, cause: lmdb.Error | None) -> None:
        """Map `size` bytes (0: what the file has), once no reader and no writer of this process is left behind."""
        began = self._map_size
        with self._moving:
            if size and self._map_size > began:
                return  # another thread was faster
            with self._writers.shut():
                self._move(size, cause)

    def _move(self, size: int, cause: lmdb.Error | None) -> None:
        deadline = time.monotonic() + _LONGEST_WAIT
        while True:
            with self._views.guard.shut():
                if not (len(self._readers) or self._views.held()):
                    self._set_map_size(size)
                    return
            if time.monotonic() > deadline:
                raise (StoreLocked if size == 0 else StoreFull)(
                    f"the map of the store at {self.location!r} must grow, but snapshots or iterations of this process "
                    f"are open; end them, or reserve more with map_size"
                ) from cause
            time.sleep(0.001)

    def _set_map_size(self, size: int) -> None:
        try:
            self._environment.set_mapsize(size)
            self._map_size = self._environment.info()["map_size"]
        except lmdb.Error as exc:
            # The old map is gone already, and with it the environment.
            self._abandon(self._environment)
            self._environment = self._open_environment(self.durability)
            raise StoreFull(
                f"the map of the store at {self.location!r} cannot grow: the system has no more addresses; lift "
                f"its limit, or delete something"
            ) from exc

    # Claims

    def claim(self, name: bytes) -> LmdbClaim | None:
        return self._claims.claim(name)

    def await_claim(self, name: bytes) -> LmdbWaiting:
        return self._claims.await_claim(name)

    # Care

    def backup(self, path: str, verify: Verify, progress: Progress | None) -> None:
        private = self._directory is None or self._directory.private
        with self.kept_open(), translated_os(path):
            disposable = None if self._directory is None else self._directory.marked_disposable
            directory = Directory(os.path.abspath(path), private, self.options.max_readers, disposable)
            directory.make_new(lambda making: self._copy(making, verify, progress), registry.claimed)

    def _copy(self, making: str, verify: Verify, progress: Progress | None) -> None:
        mode = 0o600 if self._directory is None else self._directory.file_mode
        copy_into(making, self._environment, self._views.guard, self.location, mode, verify, progress)

    def compact(self, verify: Verify, progress: Progress | None) -> None:
        self._make_ready()
        directory = self._directory
        assert directory is not None, "what has no directory is read-only"
        with (
            self.kept_open(),
            self._opened_alone(),
            self._writing.shut(),
            translated_os(self.location, "compacted"),
        ):
            own = None if self._own is None else self._own()
            if own is not None and own.is_open():
                raise TransactionError(OWN_TRANSACTION if own.is_open_here() else _COMPACTING.format(self.location))
            try:
                with self._reopening:
                    self._is_reopening = True
                    try:
                        directory.replace(
                            lambda making: self._copy_to_replace(making, verify, progress), keeps_rights=True
                        )
                    finally:
                        self._is_reopening = False
            finally:
                directory.remove_making()
                if self.durability == "process":
                    directory.mark_dirty()  # the copy was synced, and what comes next is not
                self._reopen()  # or wait for a reader that does

    @contextmanager
    def _opened_alone(self) -> Iterator[None]:
        assert self._directory is not None
        if not self._directory.try_exclusive():
            raise StoreLocked(f"another process has the store at {self.location!r} open; close it there to compact it")
        try:
            yield
        finally:
            self._directory.lock_shared()

    def _copy_to_replace(self, making: str, verify: Verify, progress: Progress | None) -> None:
        """Make the copy; then nobody reads any more, and the environment is closed."""
        self._copy(making, verify, progress)
        environment = self._environment
        try:
            self._environment = Inherited(self._reopen)  # those who read from now on wait there
            with translated(self.location):
                is_unread = _is_unread(environment, self._views)
            if not is_unread:
                raise StoreLocked(_COMPACTING.format(self.location))
            with self._views.guard.shut():
                environment.close()
        except BaseException:
            with suppress(lmdb.Error):
                environment.info()  # it is open
                self._environment = environment
            raise
        self._views.file.close()  # views go on with the old file, into which nobody writes any more

    def stats(self) -> Mapping[str, int]:
        reader, meta = self._known_state()
        try:
            info = self._environment.info()
            readers = self._environment.readers().count("\n") - 1  # a heading, then a line for each
            free = sum(1 for _ in free_pages(DataFile(self._views.file.fileno(), meta.page_size), meta))
        except lmdb.Error as exc:
            raise translate(exc, self.location) from exc
        except Unreadable as exc:
            raise StoreCorrupt(f"the store at {self.location!r} is damaged: {exc}; check it") from exc
        finally:
            del reader
        return {
            "file_bytes": (meta.last_page + 1) * meta.page_size,
            "free_bytes": free * meta.page_size,
            "map_bytes": info["map_size"],
            "readers": max(readers, 0),
        }

    def reading(self) -> tuple[Activity, ...]:
        token, environment = self._enter()
        try:
            with translated(self.location):
                table = environment.readers()
            return activity.readers(table, self._last_state(environment), self._notes)
        finally:
            del token

    def writing(self) -> Activity | None:
        if self.options.immutable:
            return None
        token, environment = self._enter()
        try:
            return activity.writer(os.path.join(self.location, LOCK), self._last_state(environment), self._notes)
        finally:
            del token

    def _last_state(self, environment: Any) -> int:
        """The number of the last committed state.  Under the guard: it is read from the map."""
        with translated(self.location):
            last: int = environment.info()["last_txnid"]
        return last

    def _enter(self) -> tuple[object, Any]:
        """The token of the guard of the environment that is open, and that.

        A compaction opens another, with another guard.  Who waits for it has no token: it waits for the tokens.
        """
        while True:
            environment = self._environment
            if isinstance(environment, Inherited):
                environment = self._reopen()
            guard = self._views.guard
            token = guard.enter()
            if guard is self._views.guard and environment is self._environment:
                return token, environment
            del token


_COMPACTING = (
    "this process has snapshots, iterations or a transaction of the store at {!r} open, and it cannot be compacted "
    "beside them; end them"
)


def _is_unread(environment: Any, views: Views) -> bool:
    """Whether nobody in this process reads any more; waits for those who are about to begin or to end.

    Nobody else has the store open, so what is left of other processes is of killed ones, and is cleared away.
    """
    environment.reader_check()
    deadline = time.monotonic() + 1.0
    since = time.monotonic()
    while time.monotonic() < deadline:
        states = [line.split()[-1] for line in environment.readers().splitlines()[1:]]
        if sum(state != "-" for state in states) > views.unread():
            since = time.monotonic()
        elif time.monotonic() > since + 4 * sys.getswitchinterval():
            return True
        time.sleep(0.001)
    return False


class _Closed:
    """Stands where the environment of a closed engine was."""

    def __init__(self, location: str) -> None:
        self._location = location

    def __getattr__(self, _name: str) -> Any:
        raise StoreClosed(f"the store at {self._location!r} is closed; open it again")

    def close(self) -> None:
        """Closed already."""


def _recorded_in(environment: Any) -> tuple[Any, Any]:
    """Durability and identity of the store in an environment that nobody uses yet."""
    while True:
        try:
            txn = environment.begin()
            return txn.get(DURABILITY_KEY), txn.get(IDENTITY_KEY)
        except lmdb.MapResizedError:
            environment.set_mapsize(0)  # what the file has by now: a process made it larger than the map


def _reserved(path: str) -> int:
    """As much of the address space as the file system could ever hold, in whole pages, at most 1 TiB."""
    status = os.statvfs(path)
    size = status.f_blocks * status.f_frsize or _MOST_RESERVED  # some count no blocks, and have no limit
    return max(min(size, _MOST_RESERVED), LEAST_MAP) // 65536 * 65536
