"""The directory of an embedded store: whose it is, who has it open, and whether it is whole.

A directory holds LMDB's two files and one of ours:

    data.mdb  lock.mdb  objstore.lock

`objstore.lock` serves two ends.  Its first byte is locked, shared by everybody who has the store open,
exclusively by whoever makes, empties or compacts it.  These are POSIX record locks: they die with the
process, and no child inherits them.  Such a lock is lost as soon as the process closes *any* descriptor
of the file, so nobody else may open it, and one process has one descriptor (the engine sees to that).

And its text says what the data file cannot say of itself:

    objstore 1                 the store was made completely
    dirty <boot id>            unsynced writes were begun under this boot of the machine

A store is made in a directory of its own inside this one and moved into place, and the first line is
written last.  So a crash or a race while making one leaves nothing behind that looks like a store, and a
data file that is missing *after* the first line was written is damage, never "a new store".
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path

from objstore.engines.lmdb.datafile import DATA
from objstore.errors import (
    ReadOnlyStore,
    StoreCorrupt,
    StoreDenied,
    StoreLocked,
    StoreNotFound,
)

LOCK = "lock.mdb"
OURS = "objstore.lock"
MAKING = "objstore.making"

_COMPLETE = "objstore 1"
_WAIT_SECONDS = 10.0


class Directory:
    """The directory at `path`: from `open` to `close` this process holds the shared lock."""

    def __init__(self, path: str, private: bool) -> None:
        self.path = path
        self.private = private
        self._file: FileIO | None = None  # it knows whether it is closed, where a number may be somebody else's by then
        self._descriptor: int | None = None  # as on read-only media, where nobody can lock or write

    @property
    def data(self) -> str:
        return os.path.join(self.path, DATA)

    @property
    def file_mode(self) -> int:
        return 0o600 if self.private else 0o666

    # Opening

    def open(self, flag: str, make: Callable[[str], None], is_store: Callable[[str], bool]) -> None:
        """Open the directory of a store, and make the store where `flag` allows it.  Who fails must `close` it.

        `make(path)` writes a new environment into the empty directory it is given, `is_store(path)` tells
        whether an environment without our file is a store that lost it, or somebody else's.
        """
        path, private = self.path, self.private
        if flag in "cn" and not os.path.lexists(path):
            _make_parents(os.path.dirname(path))
            with suppress(FileExistsError):  # another process makes it too
                os.mkdir(path, 0o700 if private else 0o777)
        names = _check_is_store(path, making=flag in "cn")
        if private:
            _check_private(path)
        if OURS not in names and DATA in names and not is_store(path):
            raise StoreNotFound(f"{path!r} holds an LMDB environment that is no store; name another place")
        self._open_lock_file(flag)
        self._open_or_make(flag, make)

    def _open_lock_file(self, flag: str) -> None:
        """Open our file; leave it where it can be neither made nor opened for want of a writable disk."""
        path = self.path
        name = os.path.join(path, OURS)
        always = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            create = os.O_CREAT if flag in "cn" or os.path.exists(os.path.join(path, DATA)) else 0
            self._file = FileIO(os.open(name, os.O_RDWR | create | always, self.file_mode), "r+")
            self._descriptor = self._file.fileno()
            return
        except FileNotFoundError:
            raise StoreNotFound(f"there is no store at {path!r}; flag 'c' makes one") from None
        except OSError as exc:
            if exc.errno == errno.ELOOP:
                raise StoreDenied(
                    f"{name!r} is a symbolic link, which no store has; remove what was planted there"
                ) from exc
            if exc.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            if flag != "r":
                raise ReadOnlyStore(
                    f"the store at {path!r} cannot be written by this process; open it with flag 'r'"
                ) from exc
        try:
            self._file = FileIO(os.open(name, os.O_RDONLY | always))
            self._descriptor = self._file.fileno()
        except FileNotFoundError:
            return

    def _open_or_make(self, flag: str, make: Callable[[str], None]) -> None:
        self.lock_shared()
        if flag == "n" or not self._exists():
            if flag in "rw":
                raise StoreNotFound(f"there is no store at {self.path!r}; flag 'c' makes one")
            self._make(flag, make)
        elif flag != "r" and not self._text().startswith(_COMPLETE) and self.try_exclusive():
            self._finish()  # what a maker that was killed left undone
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
        elif not self._wait_to_make():
            if flag == "n":
                raise StoreLocked(f"another process made a store at {self.path!r} in this moment; close it there")
            return
        making = os.path.join(self.path, MAKING)
        _remove(making)
        os.mkdir(making, 0o700)
        make(making)
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, LOCK))
        os.replace(os.path.join(making, DATA), self.data)
        self._finish()

    def _finish(self) -> None:
        """The data file is in its place: clear away, and say so, when the disk knows."""
        _remove(os.path.join(self.path, MAKING))
        _sync_directory(self.path)
        self.mark_clean()
        _sync_directory(os.path.dirname(self.path))
        self.lock_shared()

    def _wait_to_make(self) -> bool:
        """Wait for the turn of this process, which then has the exclusive lock; False if another made the store."""
        deadline = time.monotonic() + _WAIT_SECONDS
        self._unlock()
        while True:
            if self._try(fcntl.LOCK_EX):
                if not self._exists():
                    return True
                self.lock_shared()
                return False
            if self._try(fcntl.LOCK_SH) and self._exists():
                return False
            self._unlock()  # those who wait with a shared lock would wait for each other
            self._check_deadline(deadline)

    # Locks

    def lock_shared(self) -> None:
        """Hold the shared lock, also after a fork (no child inherits it) and in the place of the exclusive one."""
        self._wait(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Trade the shared lock for the exclusive one, if nobody else has the store open."""
        return self._try(fcntl.LOCK_EX)

    def _try(self, kind: int) -> bool:
        if self._descriptor is None:
            return False
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, 1)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EAGAIN, errno.EBADF):  # EBADF: open for reading only
                raise
            return False
        return True

    def _wait(self, kind: int) -> None:
        """Wait for the lock.  Its holders keep it for milliseconds, or for something long: then say so."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while self._descriptor is not None and not self._try(kind):
            self._check_deadline(deadline)

    def _check_deadline(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise StoreLocked(f"another process makes, empties or compacts the store at {self.path!r}; try again later")
        time.sleep(random.uniform(0.001, 0.01))  # noqa: S311  (so that two who wait do not keep step)

    def _unlock(self) -> None:
        assert self._descriptor is not None
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1)

    def close(self) -> None:
        """Give up the lock."""
        self._descriptor = None
        if self._file is not None:
            self._file.close()

    # The text of our file

    def _text(self) -> str:
        if self._descriptor is None:
            try:
                return Path(self.path, OURS).read_text()
            except FileNotFoundError:
                return ""
        return os.pread(self._descriptor, 4096, 0).decode(errors="replace")

    def _write_text(self, text: str) -> None:
        assert self._descriptor is not None
        os.pwrite(self._descriptor, text.encode(), 0)
        os.ftruncate(self._descriptor, len(text.encode()))
        os.fsync(self._descriptor)

    def mark_dirty(self) -> None:
        """Say, synced, that unsynced writes begin now."""
        self._write_text(f"{_COMPLETE}\ndirty {boot_id()}\n")

    def mark_clean(self) -> None:
        """Say, synced, that everything is on the disk."""
        self._write_text(f"{_COMPLETE}\n")

    @property
    def dirty(self) -> bool:
        """Whether unsynced writes were begun, now or before a crash."""
        return "\ndirty " in self._text()

    @property
    def suspect(self) -> bool:
        """Whether the machine went down after unsynced writes were begun."""
        return self.dirty and f"\ndirty {boot_id()}\n" not in self._text()


def boot_id() -> str:
    """What names this run of the operating system."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        # Elsewhere: when the machine was started, to the minute, as far as its clock can tell.
        return f"minute-{round((time.time() - time.monotonic()) / 60)}"


def _make_parents(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise StoreNotFound(
            f"{exc.filename!r} is a file, so there can be no store below it; name another place"
        ) from exc


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
    if private:
        _check_private(path)
    if DATA not in names:
        raise StoreCorrupt(f"the data file of the store at {path!r} is missing; restore a backup")


def _check_private(path: str) -> None:
    """Refuse a directory that others can write: what they put there would be unpickled here."""
    status = os.stat(path)
    who = "is owned by another user" if status.st_uid not in (os.geteuid(), 0) else None
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        who = "can be written by others"
    if who:
        raise StoreDenied(
            f"the directory {path!r} {who}, and whoever can write a store can run code in those who read it; "
            f"take it over with chown or chmod go-w, or pass permissions='umask' if you trust them"
        )


def _remove(directory: str) -> None:
    """Remove a directory of files, as far as that goes.

    Not by `shutil.rmtree`: one that is interrupted closes a descriptor twice, which may be somebody else's by then.
    """
    with suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)


def _sync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut, which syncing the files does not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
