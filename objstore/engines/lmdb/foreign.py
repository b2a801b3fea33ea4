"""Environments of others: read as they are, beside those who write them.

Nothing here belongs to a store: keys and values are bytes of whoever wrote them, in the main database or in named ones.
Both formats are read, that of LMDB 0.9 and that of 1.0; which it is stands in the first page.  Where there is a lock
file, somebody may have the environment open, and a reader takes a slot there as any other; where there is none, none is
made.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import lmdb

from objstore.engines.lmdb.datafile import DATA, MAGIC, DataFile, Unreadable, cut_short
from objstore.errors import SourceError

LOCK = "lock.mdb"

_MAGIC = struct.pack("<I", MAGIC)
_MAGIC_AT = {16: 0, 24: 1}  # by version of the library
_BEGIN_BYTES = 28
_MOST_DATABASES = 4096
_DESCRIPTION = struct.Struct("<IHH5Q")  # of a named database, under its name in the main one


class Named(NamedTuple):
    """A database in an environment; the main one has no name."""

    name: bytes | None
    entries: int
    repeats: bool
    """Whether a key may have several values."""


def version_of(begin: bytes) -> int | None:
    """The version of LMDB whose file begins with these bytes, 0 or 1; None where none does."""
    found = [version for at, version in _MAGIC_AT.items() if begin[at : at + 4] == _MAGIC]
    return found[0] if found else None


def is_environment(path: str) -> bool:
    """Whether there is one: a directory with a data file, or a data file.  Raises OSError."""
    data = os.path.join(path, DATA) if os.path.isdir(path) else path
    if not os.path.isfile(data):
        return False
    with open(data, "rb") as file:
        return version_of(file.read(_BEGIN_BYTES)) is not None


class Foreign:
    """An environment of somebody else's, in one state, as long as it is open.  Raises SourceError, here and later."""

    def __init__(self, path: str) -> None:
        self.path = path
        is_directory = os.path.isdir(path)
        self.data = os.path.join(path, DATA) if is_directory else path
        lock = os.path.join(path, LOCK) if is_directory else path + "-lock"
        with self._told():
            self._environment = lmdb.open(
                os.fsencode(path),
                subdir=is_directory,
                readonly=True,
                lock=os.access(lock, os.R_OK | os.W_OK),
                create=False,
                max_dbs=_MOST_DATABASES,
                lib_version=self._check(),
            )
        try:
            with self._told():
                self._txn = self._environment.begin(buffers=True)
                self._found = self._named()
        except BaseException:
            self._environment.close()
            raise

    def _check(self) -> int:
        """The version of the library that reads it, if it is whole."""
        with open(self.data, "rb") as file:
            version = version_of(file.read(_BEGIN_BYTES))
            if version is None:
                raise SourceError(f"{self.data!r} is no file of LMDB; restore it, or name another source")
            try:
                lack = cut_short(DataFile(file.fileno())) if version == 0 else None
            except Unreadable as exc:
                raise SourceError(f"{self.data!r} is damaged: {exc}; restore it from a backup") from exc
        if lack is not None:
            raise SourceError(f"{self.data!r} is cut short: {lack[0]} bytes of {lack[1]}; restore it from a backup")
        return version

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as exc:
            hint = "close it in this process first" if "already open" in str(exc) else "restore it from a backup"
            raise SourceError(f"the LMDB environment at {self.path!r} cannot be read: {exc}; {hint}") from exc
        except OSError as exc:
            raise SourceError(f"{self.path!r} cannot be read: {exc.strerror or exc}; mend its permissions") from exc

    def close(self) -> None:
        self._txn.abort()
        self._environment.close()

    def databases(self) -> list[Named]:
        """Those that there are, the main one first, if it holds anything but the names of the others."""
        return [named for named, _ in self._found]

    def holds(self, key: bytes) -> bool:
        """Whether the main database has a key."""
        with self._told():
            return self._txn.get(key) is not None

    def _named(self) -> list[tuple[Named, lmdb._Database]]:
        main = self._environment.open_db(None, txn=self._txn, create=False)
        found = [self._describe(name, handle) for name, handle in self._candidates(main)]
        plain, handle = self._describe(None, main)
        plain = plain._replace(entries=plain.entries - len(found))
        return [*([(plain, handle)] if plain.entries else []), *found]

    def _describe(self, name: bytes | None, handle: lmdb._Database) -> tuple[Named, lmdb._Database]:
        entries = self._txn.stat(handle)["entries"]
        return Named(name, entries, bool(handle.flags()["dupsort"])), handle

    def _candidates(self, main: lmdb._Database) -> Iterator[tuple[bytes, lmdb._Database]]:
        """The named databases: under their names in the main one stand descriptions of them, and not plain values."""
        names = [bytes(key) for key, value in self._txn.cursor(main) if len(value) == _DESCRIPTION.size]
        there = set(names)
        for name in names:
            # LMDB reads a name up to a NUL, and so would open another one under it.
            if b"\0" in name[:-1] or (name.endswith(b"\0") and name[:-1] in there):
                continue
            try:
                yield name, self._environment.open_db(name, txn=self._txn, create=False)
            except (lmdb.IncompatibleError, lmdb.NotFoundError, lmdb.BadValsizeError):  # a plain value of that size
                continue

    def scan(self, name: bytes | None, after: bytes | None) -> Iterator[tuple[bytes, memoryview, int]]:
        """Keys of a database, in order, behind a key; the first value of each, and how many it has.

        A value is valid while the environment is open.
        """
        handles = {named.name: handle for named, handle in self._found}
        repeats = any(named.repeats for named, _ in self._found if named.name == name)
        with self._told(), self._txn.cursor(handles[name]) as cursor:
            there = cursor.first() if after is None else cursor.set_range(after)
            while there:
                key = bytes(cursor.key())
                if key != after and not (name is None and key in handles):
                    yield key, cursor.value(), cursor.count() if repeats else 1
                there = cursor.next_nodup()
