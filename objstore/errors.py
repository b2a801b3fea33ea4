"""Every error that objstore raises, in one tree.

The tree answers what a caller can do next, not where in the code the failure arose: give another
value (`EncodeError`), mend or delete one key (`DecodeError`, `CorruptRecord`), open another way
(`StoreNotFound`, `ReadOnlyStore`, ...), try again (`Conflict`, `StoreLocked`), or restore a backup
(`StoreCorrupt`).  Where Python has a word for the same thing, the class is that word too: a store
that is not there is a `FileNotFoundError`, use after `close` a `ValueError`.

A missing key is a plain `KeyError`; a key that cannot be one is a `TypeError` or a `ValueError`, as
with `dict`.  Errors of the libraries below (lmdb and so on) reach nobody except as `__cause__`.

This module imports nothing, and every message ends by saying what to do.
"""

from __future__ import annotations

from typing import Any


class StoreError(Exception):
    """Root of all errors of objstore."""

    keys: tuple[Any, ...] = ()
    """Where many items were to be stored in more than one step: the keys of those that were not, as far as is known."""


# About one record.  The key is an attribute, so that a program can go on with it.


class _KeyedError(StoreError):
    """An error about the record of one key, found in the attribute `key`."""

    def __init__(self, message: str, key: Any = None) -> None:
        super().__init__(message)
        self.key = key

    def __reduce__(self) -> tuple[type, tuple[str, Any]]:
        return type(self), (str(self), self.key)


class EncodeError(_KeyedError):
    """The value for `key` cannot be encoded; the store is as it was."""


class DecodeError(_KeyedError):
    """The record of `key` is intact, but its value cannot be built: a class is gone, or has changed."""


class CorruptRecord(_KeyedError):
    """The stored bytes of `key` do not fit their digest, or are in no format this version knows."""


class BadSignature(_KeyedError):
    """The record of `key` was not sealed with a key of this store, or not for this place in it."""


# About the whole store.


class StoreNotFound(StoreError, FileNotFoundError):
    """There is no store at the location, and the flag or what is there forbids to make one."""


class StoreExists(StoreError, FileExistsError):
    """There is something already where a new store was to be made."""


class WrongKind(StoreError):
    """What is there is a `Cache` where a `Store` was to be opened, or the other way round."""


class StoreDenied(StoreError, PermissionError):
    """The operating system, or the rule `permissions="private"`, keeps this process from the store."""


class ReadOnlyStore(StoreDenied):
    """A write to a store that was opened for reading, or that this process may only read."""


class StoreCorrupt(StoreError):
    """The files of the store are damaged, cut short or missing."""


class StoreSuspect(StoreError):
    """The machine went down while writes were not synced; the store must be checked and accepted."""


class StoreReplaced(StoreError):
    """The files of an open store were replaced or deleted by somebody else."""


class StoreLocked(StoreError):
    """Others have the store open in a way that excludes what was asked."""


class StoreFull(StoreError):
    """The map or the disk has no room; nothing of the transaction was applied."""


class StoreClosed(StoreError, ValueError):
    """The store, or the snapshot, is closed."""


class SourceError(StoreError):
    """What was to be imported is not there, is damaged, or is nothing that can be read; nothing more of it was."""


# About transactions.


class TransactionError(StoreError):
    """A transaction was used where it may not be: another thread, after a fork, after its end."""


class Conflict(StoreError):
    """Another writer changed the key in between; nothing was written."""


# About engines.


class EngineUnavailable(StoreError):
    """The engine (a server) cannot be reached."""


class OutcomeUnknown(StoreError):
    """The connection broke after a write was sent: it may or may not have been applied."""


class UnsupportedOperation(StoreError, NotImplementedError):
    """The engine behind the store cannot do this; `operation` and `engine` name the two, `hint` says what to do."""

    def __init__(self, operation: str, engine: str, hint: str) -> None:
        super().__init__(f"{operation} is not possible on the {engine} engine: {hint}")
        self.operation = operation
        self.engine = engine
        self.hint = hint

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.operation, self.engine, self.hint)


# What is no error, but should be known.


class UnsealedWarning(UserWarning):
    """A store on servers that others may write to loads pickles that nobody has sealed."""
