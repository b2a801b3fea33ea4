"""Who reads a store, and who writes it: what is told of processes that stand in the way of others.

LMDB's lock file knows the process and the state of each reader, and the thread that has the writer lock.  It knows no
time.  So whoever begins something that may last (a snapshot, a view, an explicit transaction) leaves a note of it in
our own file, behind its text: one slot for a process, found by its id.  A note is believed only where it fits what
LMDB says, so none is ever taken back, and one that was overwritten by another process is only missing.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from objstore.engines.base import Activity
from objstore.engines.lmdb.addresses import bytes_at
from objstore.engines.lmdb.datafile import MAGIC

_PLACE = 4096  # in our file
_SLOTS = 1024
_SLOT_BYTES = 64
_WRITE = 32  # where in a slot the note of a write is; that of a read comes first
_note = struct.Struct("<qqd")  # the process, a state, and since when (seconds, monotonic)
# Where LMDB's lock file has the owner of the writer lock, a mutex of glibc; on other systems nobody is told of.
_OWNER_PLACES = {"x86_64": 72, "aarch64": 136}


class Notes:
    """The notes in our file, which `descriptor()` gives, or None where it cannot be written."""

    def __init__(self, descriptor: Callable[[], int | None]) -> None:
        self.descriptor = descriptor
        self._process = os.getpid()
        self._place = _place(self._process)

    def reads(self, state: int, since: float) -> None:
        """This process reads a state, since then."""
        self._write(self._place, state, since)

    def writes(self, state: int) -> None:
        """This process writes the state of this number, since now."""
        self._write(self._place + _WRITE, state, time.monotonic())

    def _write(self, place: int, state: int, since: float) -> None:
        descriptor = self.descriptor()
        if descriptor is not None:
            try:
                os.pwrite(descriptor, _note.pack(self._process, state, since), place)
            except OSError:  # the disk is full, say: then there is no note
                return

    def age_of_read(self, process: int, state: int) -> float | None:
        """Since when, in seconds, a process reads a state, if it said so."""
        return self._age(_place(process), process, state)

    def age_of_write(self, process: int, state: int) -> float | None:
        """The same of what it writes."""
        return self._age(_place(process) + _WRITE, process, state)

    def _age(self, place: int, process: int, state: int) -> float | None:
        descriptor = self.descriptor()
        found = b"" if descriptor is None else os.pread(descriptor, _note.size, place)
        if len(found) < _note.size:
            return None
        *whose, since = _note.unpack(found)
        age = time.monotonic() - since
        return age if whose == [process, state] and age >= 0 else None  # else from before the machine was started


def _place(process: int) -> int:
    return _PLACE + process % _SLOTS * _SLOT_BYTES


def readers(table: str, last_state: int, notes: Notes) -> tuple[Activity, ...]:
    """Who reads, the oldest state first, by LMDB's table of readers: a heading, and a line for each slot."""
    lines = (line.split() for line in table.splitlines()[1:])
    reads = {(int(state), int(process)) for process, _thread, state in lines if state != "-"}
    return tuple(
        Activity(process, notes.age_of_read(process, state), max(last_state - state, 0))
        for state, process in sorted(reads)
    )


def writer(lock_path: str, last_state: int, notes: Notes) -> Activity | None:
    """Who has the writer lock, as far as this system tells."""
    process = _process_of(_lock_owner(lock_path))
    return None if process is None else Activity(process, notes.age_of_write(process, last_state + 1), 0)


def _lock_owner(lock_path: str) -> int:
    """The thread that has the writer lock, or 0.

    It stands in the memory that LMDB shares with others: to open and close the lock file here would end LMDB's locks.
    """
    place = _OWNER_PLACES.get(os.uname().machine)
    if place is None or sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names:
        return 0
    address = _address_of(lock_path)
    if address is None or int.from_bytes(bytes_at(address, 4), sys.byteorder) != MAGIC:
        return 0
    return int.from_bytes(bytes_at(address + place, 4), sys.byteorder)


def _address_of(path: str) -> int | None:
    """Where a file begins in the memory of this process, or None where that cannot be seen."""
    try:
        inode = str(os.stat(path).st_ino)
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:  # it was deleted, or there is no descriptor left
        return None
    for line in lines:
        addresses, _, offset, _, found, *name = line.split(maxsplit=5)
        if found == inode and not int(offset, 16) and name and os.path.basename(name[0]) == os.path.basename(path):
            return int(addresses.partition("-")[0], 16)
    return None


def _process_of(thread: int) -> int | None:
    """The process of a thread, or None where there is none that this one can see."""
    if thread <= 0:
        return None
    try:
        status = Path(f"/proc/{thread}/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:")), None)
