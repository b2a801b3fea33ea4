"""The directory of an embedded store: whose it is, who has it open, and whether it is whole.

A directory holds LMDB's two files and one of ours:

    data.mdb  lock.mdb  objstore.lock

`objstore.lock` serves two ends.  Its first byte is locked, shared by everybody who has the store open,
exclusively by whoever makes, empties or compacts it.  Its second byte is locked by whoever opens LMDB's
environment, one after the other.  These are POSIX record locks: they die with the
process, and no child inherits them.  Such a lock is lost as soon as the process closes *any* descriptor
of the file, so nobody else may open it, and one process has one descriptor (the engine sees to that).

And its text says what the data file cannot say of itself:

    objstore 1                 the store was made completely
    disposable <bounds> <seal> where it is suspect, it may be emptied (see `base.Disposable`)
    dirty <boot id>            unsynced writes were begun under this boot of the machine
    failed <boot id>           a sync failed under it

(Behind the text are notes of who reads and writes, see `activity`; far behind its end, bytes are locked by those who
compute something, see `claiming`.)

A store is made in a directory of its own inside this one and moved into place, and the first line is
written last.  So a crash or a race while making one leaves nothing behind that looks like a store, and a
data file that is missing *after* the first line was written is damage, never "a new store".

Whoever can write here runs code in those who read, so what lies here is looked at before anything is opened:
files are plain ones with one name, and, unless the user trusts others, nobody else owns or writes them.  Between
the look and the opening things may change, but only by those who may write in this directory.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from io import FileIO
from pathlib import Path

from objstore.engines.base import Disposable
from objstore.engines.lmdb.datafile import DATA
from objstore.engines.lmdb.errors import translated_os
from objstore.engines.lmdb.filesystem import network_type, others_may_write
from objstore.errors import (
    ReadOnlyStore,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreExists,
    StoreLocked,
    StoreNotFound,
)

LOCK = "lock.mdb"
OURS = "objstore.lock"
MAKING = "objstore.making"

_COMPLETE = "objstore 1"
_DISPOSABLE = "disposable"
_BOUNDED, _UNBOUNDED = "bounded", "unbounded"
_DIRTY = "dirty"
_FAILED = "failed"
_TEXT_BYTES = 256  # of our file; what comes behind it are notes (see `activity`)
_WAIT_SECONDS = 10.0
_OPENING = 1  # the byte of our file that is locked by whoever opens the environment


class Directory:
    """The directory at `path`: from `open` to `close` this process holds the shared lock."""

    def __init__(self, path: str, private: bool, max_readers: int, disposable: Disposable | None = None) -> None:
        self.path = path
        self._disposable = disposable
        self.was_emptied = False
        self.private = private
        self._max_readers = max_readers
        self._file: FileIO | None = None  # it knows whether it is closed, where a number may be somebody else's by then
        self.descriptor: int | None = None  # as on read-only media, where nobody can lock or write

    @property
    def data(self) -> str:
        return os.path.join(self.path, DATA)

    @property
    def making(self) -> str:
        """Where what is to become the data file is made."""
        return os.path.join(self.path, MAKING)

    def remove_making(self) -> None:
        """Throw away what was not finished."""
        _remove(self.making)

    @property
    def file_mode(self) -> int:
        return 0o600 if self.private else 0o666

    # Opening

    def open(self, flag: str, make: Callable[[str], None], is_store: Callable[[str], bool], *, network: bool) -> None:
        """Open the directory of a store, and make the store where `flag` allows it.  Who fails must `close` it.

        `make(path)` writes a new environment into the empty directory it is given, `is_store(path)` tells
        whether an environment without our file is a store that lost it, or somebody else's.
        """
        path, private = self.path, self.private
        if not network:
            _check_local(path)
        if flag in "cn" and not os.path.lexists(path):
            _make_parents(os.path.dirname(path), 0o755 if private else 0o777)
            with suppress(FileExistsError):  # another process makes it too
                os.mkdir(path, 0o700 if private else 0o777)
        names = _check_is_store(path, making=flag in "cn")
        _check_trusted(path, names, private)
        if OURS not in names and DATA in names and not is_store(path):
            raise _foreign(path)
        self._open_lock_file(flag)
        self._open_or_make(flag, make, is_store)
        if flag != "n":
            self._check_writable(flag)
        self._keep_room_for_locks(flag)

    def _open_lock_file(self, flag: str) -> None:
        """Open our file; leave it where it is missing from a disk that nobody can write."""
        path = self.path
        name = os.path.join(path, OURS)
        always = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            create = os.O_CREAT if flag in "cn" or os.path.exists(self.data) else 0
            self._file = FileIO(os.open(name, os.O_RDWR | create | always, self.file_mode), "r+")
            self.descriptor = self._file.fileno()
            return
        except FileNotFoundError:
            raise StoreNotFound(f"there is no store at {path!r}; flag 'c' makes one") from None
        except OSError as exc:
            if exc.errno == errno.ELOOP:  # since it was looked at
                raise _link(name) from exc
            if exc.errno not in _REFUSED:
                raise
            if flag != "r":
                raise _read_only(path, name) from exc
            nobody_writes = exc.errno == errno.EROFS
            if nobody_writes and others_may_write(path):  # where it is mounted once more
                raise _unprotected(path, name) from exc
        try:
            self._file = FileIO(os.open(name, os.O_RDONLY | always))
            self.descriptor = self._file.fileno()
        except FileNotFoundError as exc:
            if not nobody_writes:
                raise _unprotected(path, name) from exc

    def _open_or_make(self, flag: str, make: Callable[[str], None], is_store: Callable[[str], bool]) -> None:
        self.lock_shared()
        if not self._text() and self._data_bytes() and not is_store(self.path):  # our file is one that a check made
            raise _foreign(self.path)
        if flag == "n" or not self._exists():
            if flag in "rw":
                raise StoreNotFound(f"there is no store at {self.path!r}; flag 'c' makes one")
            self._make(flag, make)
        elif flag != "r" and self._may_be_emptied():
            self._empty(make)
        elif flag != "r" and not self._text().startswith(_COMPLETE) and self.try_exclusive():
            self._finish()  # what a maker that was killed left undone
        if flag != "r" and os.path.lexists(self.making) and self.try_exclusive():
            self.remove_making()  # what was to replace the data file, and was not finished
            self.lock_shared()
        if not self._data_bytes():
            raise StoreCorrupt(
                f"the data file of the store at {self.path!r} is missing or empty; restore a backup, or start "
                f"anew with flag 'n'"
            )

    def _exists(self) -> bool:
        return bool(self._data_bytes()) or self._text().startswith(_COMPLETE)

    def _data_bytes(self) -> int:
        try:
            return os.stat(self.data).st_size
        except FileNotFoundError:
            return 0

    def _make(self, flag: str, make: Callable[[str], None]) -> None:
        """Make the store, unless somebody else did while this process waited for its turn."""
        if flag == "n" and self._exists():
            if not self.try_exclusive():
                raise StoreLocked(
                    f"flag 'n' replaces the store at {self.path!r}, but others have it open; close it there"
                )
        elif not self._wait_to_make(self._exists):
            if flag == "n":
                raise StoreLocked(f"another process made a store at {self.path!r} in this moment; close it there")
            return
        self.replace(make)

    def _finish(self, *marks: str) -> None:
        """The data file is in its place, whole and synced: clear away, and say so, when the disk knows its name.

        That is said last, because who reads it syncs no name any more.
        """
        self.remove_making()
        sync_directory(self.path)
        sync_directory(os.path.dirname(self.path))
        self._write_text(_COMPLETE, *marks)
        self.lock_shared()

    @property
    def marked_disposable(self) -> Disposable | None:
        """What its text says of that."""
        for mark in self._marks(_DISPOSABLE):
            _, bounds, seal, *_ = f"{mark}  ".split(" ")  # also where it is damaged
            return Disposable(bounds != _UNBOUNDED, seal)
        return None

    def _may_be_emptied(self) -> bool:
        mine, there = self._disposable, self.marked_disposable
        if mine is None or there is None or mine.seal != there.seal:
            return False
        return self.suspect and (mine.bounded or not there.bounded)

    def _empty(self, make: Callable[[str], None]) -> None:
        """Put a new store in the place of one that is suspect, unless somebody else did."""
        if self._wait_to_make(lambda: not self._may_be_emptied()):
            self.replace(make)
            self.was_emptied = True

    def _wait_to_make(self, is_made: Callable[[], bool]) -> bool:
        """Wait for the turn of this process, which then has the exclusive lock; False if another made the store."""
        deadline = time.monotonic() + _WAIT_SECONDS
        self._unlock()
        while True:
            if self._try(fcntl.LOCK_EX):
                if not is_made():
                    return True
                self.lock_shared()
                return False
            if self._try(fcntl.LOCK_SH) and is_made():
                return False
            self._unlock()  # those who wait with a shared lock would wait for each other
            self._check_deadline(deadline)

    def take(self) -> None:
        """Take the directory of a store that nobody has open, whole or not, with the exclusive lock.

        Raises StoreNotFound, StoreDenied, StoreLocked.  Who fails must `close` it.
        """
        names = _check_is_store(self.path, making=False)
        _check_trusted(self.path, names, private=False, linked=True)
        self._open_lock_file("w")
        if not self.try_exclusive():
            raise StoreLocked(f"another process has the store at {self.path!r} open; close it there")

    def make_new(self, make: Callable[[str], None], claimed: Callable[[str], AbstractContextManager[None]]) -> None:
        """Make a store where there is nothing, or an empty directory, and close it.  If that fails, nothing is left.

        `make(path)` writes the data file, synced, into the empty directory it is given.  `claimed(path)` keeps others
        in this process away meanwhile: the lock keeps only other processes away.
        """
        path = self.path
        _make_parents(os.path.dirname(path), 0o755 if self.private else 0o777)
        was_there = os.path.isdir(path)
        if os.path.basename(path) == MAKING:
            raise StoreError(f"{path!r} is where a store makes what it throws away; name another place")
        if os.path.lexists(path) and (not was_there or os.listdir(path)):
            raise _exists(path)
        try:
            if not was_there:
                os.mkdir(path, 0o700 if self.private else 0o777)
        except FileExistsError as exc:
            raise _exists(path) from exc
        try:
            with claimed(path):
                self._make_alone(make)
        except BaseException:
            if not was_there:
                with suppress(OSError):  # it is not empty: there was somebody else
                    os.rmdir(path)
            raise

    def _make_alone(self, make: Callable[[str], None]) -> None:
        """Make a store in an empty directory; if that fails, it is empty again."""
        try:
            self._open_lock_file("c")
            if not self.try_exclusive():
                raise StoreLocked(f"another process makes a store at {self.path!r}; name another place")
            if self._exists():  # another process made it, since it was looked at
                raise _exists(self.path)
            try:
                self.replace(make)
            except BaseException:
                self._leave_nothing()
                raise
        finally:
            self.close()

    def _leave_nothing(self) -> None:
        """Take back what was made, unless it is a whole store already."""
        if os.path.exists(self.data):
            return
        self.remove_making()
        for name in (LOCK, OURS):
            with suppress(FileNotFoundError):  # it was not made yet
                os.unlink(os.path.join(self.path, name))

    def replace(self, make: Callable[[str], None], keeps_rights: bool = False) -> None:
        """Put what `make(path)` writes into a directory of its own in the place of the data file, with new locks.

        With `keeps_rights` they belong to whom the old files belong, and may be used by the same.  If that fails, what
        there was is as it was, and has its room again.
        """
        marks = self._marks(_DISPOSABLE) if keeps_rights else _mark_of(self._disposable)
        self.remove_making()
        os.mkdir(self.making, 0o700)
        lock = os.path.join(self.making, LOCK)
        try:
            make(self.making)
            reserve_locks(lock, self.file_mode, self._max_readers, lambda: True)
            if keeps_rights:
                self._copy_rights()
        except BaseException:
            self.remove_making()
            raise
        os.replace(lock, os.path.join(self.path, LOCK))
        os.replace(os.path.join(self.making, DATA), self.data)
        self._finish(*marks)

    def _copy_rights(self) -> None:
        """Let those use the new files who may use the old ones, whoever replaces them, with whatever umask."""
        for name in (DATA, LOCK):
            new = os.path.join(self.making, name)
            try:
                old = os.stat(os.path.join(self.path, name))
            except FileNotFoundError:
                continue
            for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
                with suppress(PermissionError):  # who may not give it away keeps it
                    os.chown(new, owner, group)
            os.chmod(new, stat.S_IMODE(old.st_mode))

    def _check_writable(self, flag: str) -> None:
        """Refuse to open for writing what could only be read: one who asked to write should know at once."""
        if flag != "r" and not os.access(self.data, os.W_OK):
            raise _read_only(self.path, self.data)

    def _keep_room_for_locks(self, flag: str) -> None:
        """See to it that LMDB can take its locks, and on a full disk, too."""
        name = os.path.join(self.path, LOCK)
        try:
            reserve_locks(name, self.file_mode, self._max_readers, self.try_exclusive)
        except OSError as exc:
            if exc.errno == errno.EROFS and flag == "r":
                return  # nobody can write, and LMDB does without locks
            if exc.errno not in _REFUSED:
                raise
            if flag != "r":
                raise _read_only(self.path, name) from exc
            raise _unprotected(self.path, name) from exc
        finally:
            self.lock_shared()

    # Locks

    def lock_shared(self) -> None:
        """Hold the shared lock, also after a fork (no child inherits it) and in the place of the exclusive one."""
        self._wait(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Trade the shared lock for the exclusive one, if nobody else has the store open."""
        return self._try(fcntl.LOCK_EX)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Nobody else, in no process, opens the environment in this block.

        Who opens LMDB's lock file alone sets it up.  If he fails or is killed in the middle, one who waits for his
        turn there would take it as it is, and begin with an older state: with an empty one, where there was one commit.
        """
        self._wait(fcntl.LOCK_EX if self._file is None or self._file.writable() else fcntl.LOCK_SH, _OPENING)
        try:
            yield
        finally:
            if self.descriptor is not None:
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1, _OPENING)

    def _try(self, kind: int, byte: int = 0) -> bool:
        if self.descriptor is None:
            return False
        try:
            fcntl.lockf(self.descriptor, kind | fcntl.LOCK_NB, 1, byte)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EAGAIN, errno.EBADF):  # EBADF: open for reading only
                raise
            return False
        return True

    def _wait(self, kind: int, byte: int = 0) -> None:
        """Wait for the lock.  Its holders keep it for milliseconds, or for something long: then say so."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while self.descriptor is not None and not self._try(kind, byte):
            self._check_deadline(deadline)

    def _check_deadline(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise StoreLocked(f"another process makes, empties or compacts the store at {self.path!r}; try again later")
        time.sleep(random.uniform(0.001, 0.01))  # noqa: S311  (so that two who wait do not keep step)

    def _unlock(self) -> None:
        assert self.descriptor is not None
        fcntl.lockf(self.descriptor, fcntl.LOCK_UN, 1)

    def close(self) -> None:
        """Give up the lock."""
        self.descriptor = None
        if self._file is not None:
            self._file.close()

    # The text of our file

    def _text(self) -> str:
        if self.descriptor is None:
            try:
                return text_of(Path(self.path, OURS).read_bytes())
            except FileNotFoundError:
                return ""
        return text_of(os.pread(self.descriptor, _TEXT_BYTES, 0))

    def _write_text(self, *lines: str) -> None:
        """Write it as a whole or, where the disk refuses, not at all: half a mark would make the store suspect."""
        assert self.descriptor is not None
        old, new = self._text().encode(), "".join(f"{line}\n" for line in lines).encode()
        same = len(os.path.commonprefix([old, new]))  # noqa: RUF071  (byte by byte is what is meant)
        with translated_os(self.path, f"marked in {OURS}"):
            try:
                done = same
                while done < len(new):
                    done += os.pwrite(self.descriptor, new[done:], done)
                if len(new) < len(old):
                    os.ftruncate(self.descriptor, len(new))  # and the notes with it: nobody else is here
                os.fsync(self.descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self.descriptor, same)
                raise

    def mark_dirty(self) -> None:
        """Say, synced, that unsynced writes begin now; also where it says so, for that may not be synced."""
        self._write_text(_COMPLETE, *self._marks(_DISPOSABLE), f"{_DIRTY} {boot_id()}", *self._marks(_FAILED))

    def mark_clean(self) -> None:
        """Say, synced, that everything is on the disk."""
        self._write_text(_COMPLETE, *self._marks(_DISPOSABLE), *self._marks(_FAILED))

    def mark_failed(self) -> None:
        """Say that a sync has failed: the system may have dropped what it could not write, and forgets that.

        What it has in memory is right until it goes down; then only a copy or somebody's decision makes it so.
        """
        self._write_text(_COMPLETE, *self._marks(_DISPOSABLE), *self._marks(_DIRTY), f"{_FAILED} {boot_id()}")

    def accept(self) -> None:
        """Take the data file as it is for what it should be: somebody has checked it, and decided so."""
        with open(self.data, "rb") as file:
            os.fsync(file.fileno())
        self._write_text(_COMPLETE, *self._marks(_DISPOSABLE))

    @property
    def dirty(self) -> bool:
        """Whether unsynced writes were begun, now or before a crash."""
        return bool(self._marks(_DIRTY))

    @property
    def suspect(self) -> bool:
        """Whether the machine went down after unsynced writes were begun, or after a sync had failed."""
        now = boot_id()
        return any(mark.partition(" ")[2] != now for mark in self._marks(_DIRTY) + self._marks(_FAILED))

    def _marks(self, kind: str) -> list[str]:
        return [line for line in self._text().splitlines() if line.startswith(kind)]


def _mark_of(disposable: Disposable | None) -> list[str]:
    if disposable is None:
        return []
    return [f"{_DISPOSABLE} {_BOUNDED if disposable.bounded else _UNBOUNDED} {disposable.seal}"]


def text_of(found: bytes) -> str:
    return found[:_TEXT_BYTES].partition(b"\0")[0].decode(errors="replace")


def boot_id() -> str:
    """What names this run of the operating system."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        # Elsewhere: when the machine was started, to the minute, as far as its clock can tell.
        return f"minute-{round((time.time() - time.monotonic()) / 60)}"


def _make_parents(path: str, mode: int) -> None:
    if os.path.isdir(path):
        return
    _make_parents(os.path.dirname(path), mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError as exc:
        if not os.path.isdir(path):  # or another process made it
            raise _below_a_file(path) from exc
    except NotADirectoryError as exc:
        raise _below_a_file(path) from exc
    sync_directory(os.path.dirname(path))  # it is a name in there


def _below_a_file(path: str) -> StoreNotFound:
    return StoreNotFound(f"{path!r} is a file, so there can be no store below it; name another place")


def _foreign(path: str) -> StoreNotFound:
    return StoreNotFound(f"{path!r} holds an LMDB environment that is no store; name another place")


def _exists(path: str) -> StoreExists:
    return StoreExists(f"there is something at {path!r} already; name a new or an empty directory")


def _check_local(path: str) -> None:
    """Refuse a place on a file system that other hosts may write: locks and maps end at the kernel."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)  # the first that is there, and the store would lie on its file system
    kind = network_type(path)
    if kind is not None:
        raise StoreError(
            f"{path!r} is on a network file system ({kind}), where the locks and maps of LMDB do not work; keep the "
            f"store on a disk of this host, read what nobody writes with flag 'r' and immutable=True, or pass "
            f"network=True if no other host ever has it open"
        )


def _check_is_store(path: str, making: bool) -> set[str]:
    """What is in the directory.  Refuses what is neither a store nor, for one who makes one, an empty directory."""
    try:
        names = set(os.listdir(path))
    except FileNotFoundError:
        raise StoreNotFound(f"there is no store at {path!r}; flag 'c' makes one") from None
    except NotADirectoryError:
        raise StoreNotFound(f"{path!r} is a file, and a store is a directory; name another place") from None
    if OURS in names or DATA in names or (making and not names):
        return names
    if not names:
        raise StoreNotFound(f"the directory {path!r} is empty; flag 'c' makes a store in it")
    some = ", ".join(sorted(names)[:3])
    raise StoreNotFound(f"{path!r} is no store and holds other things ({some}); name a new or an empty directory")


def check_readable(path: str, private: bool) -> None:
    """Refuse what is no whole and trustworthy store, for one who reads without a lock."""
    names = _check_is_store(path, making=False)
    _check_trusted(path, names, private, linked=True)
    if DATA not in names:
        raise StoreCorrupt(f"the data file of the store at {path!r} is missing; restore a backup")


def _check_trusted(path: str, names: set[str], private: bool, linked: bool = False) -> None:
    """Refuse what somebody else may have put into the place of a store or of its files.

    `linked`: files may have more than one name, for one who neither writes nor locks them.
    """
    if private:
        _check_private(path, "the directory", os.stat(path))
    for name in names & {DATA, LOCK, OURS, MAKING}:
        file = os.path.join(path, name)
        try:
            status = os.lstat(file)
        except FileNotFoundError:  # one who made the store has cleared away
            continue
        _check_plain(file, status, stat.S_ISDIR if name == MAKING else stat.S_ISREG)
        if status.st_nlink > 1 and not linked and name != MAKING:
            raise StoreDenied(
                f"{file!r} has {status.st_nlink} names (hard links), and who opens it by another one would change this "
                f"store, too; put a copy in its place (cp, then mv), or read it with flag 'r' and immutable=True"
            )
        if private:
            _check_private(file, "the file", status)


def _check_plain(name: str, status: os.stat_result, is_right: Callable[[int], bool]) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _link(name)
    if not is_right(status.st_mode):
        raise StoreDenied(f"{name!r} is not the kind of file that a store has; remove what was planted there")


def _check_private(name: str, what: str, status: os.stat_result) -> None:
    """Refuse what others can write: what they put there would be unpickled here."""
    why = None
    if status.st_uid not in (os.geteuid(), 0):
        why = "is owned by another user"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = "can be written by others"
    if why:
        raise StoreDenied(
            f"{what} {name!r} {why}, and whoever can write a store can run code in those who read it; "
            f"take it over with chown or chmod go-w, or pass permissions='umask' if you trust them"
        )


def _link(name: str) -> StoreDenied:
    return StoreDenied(f"{name!r} is a symbolic link, which no store has; remove what was planted there")


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def _read_only(path: str, name: str) -> ReadOnlyStore:
    return ReadOnlyStore(
        f"the store at {path!r} cannot be written by this process, which is refused {name!r}; open it with flag 'r', "
        f"or mend its permissions"
    )


def _unprotected(path: str, name: str) -> StoreDenied:
    return StoreDenied(
        f"the store at {path!r} cannot be locked by this process, which is refused {name!r}, while others may write "
        f"it; mend its permissions, or pass immutable=True if nobody writes"
    )


def _remove(directory: str) -> None:
    """Remove a directory with what is in it, as far as that goes.

    Not by `shutil.rmtree`: one that is interrupted closes a descriptor twice, which may be somebody else's by then.
    """
    with suppress(OSError):
        for name in os.listdir(directory):
            inner = os.path.join(directory, name)
            if os.path.isdir(inner) and not os.path.islink(inner):
                _remove(inner)
            else:
                os.unlink(inner)
        os.rmdir(directory)


# LMDB's table of readers: 64 bytes for each, and what all share.
_READER_BYTES = 64
_SHARED_BYTES = 128


def reserve_locks(name: str, mode: int, max_readers: int, is_alone: Callable[[], bool]) -> None:
    """Have the disk give LMDB's lock file all of its room.

    LMDB leaves holes in it and writes it through a map: where the disk has no room for one then, the system ends
    the process.  It makes the file larger for more readers, if nobody else has the store open: so does this.
    To be called while this process does not have the store open, whose locks would be lost.
    """
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        status = os.fstat(descriptor)
        size, wanted = status.st_size, _READER_BYTES * max_readers + _SHARED_BYTES
        if size < wanted and (size == 0 or is_alone()):
            size = wanted
        if status.st_blocks * 512 < size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    finally:
        os.close(descriptor)


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut, which syncing the files does not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
