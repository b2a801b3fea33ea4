"""The wall: what an error of LMDB means for a user.  No exception of `lmdb` passes it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

from objstore.engines.base import OWN_TRANSACTION
from objstore.errors import (
    ReadOnlyStore,
    StoreClosed,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreFull,
    TransactionError,
)

_TRANSLATIONS: tuple[tuple[tuple[type[lmdb.Error], ...], type[StoreError], str], ...] = (
    (
        (lmdb.MapFullError,),
        StoreFull,
        "is full: its map has no room, and nothing of the transaction was applied; open it with a larger map_size",
    ),
    (
        (lmdb.DiskError,),
        StoreFull,
        "is on a disk that is full, and nothing of the transaction was applied; make room and try again",
    ),
    (
        (lmdb.TxnFullError,),
        StoreFull,
        "cannot take so large a transaction, and nothing of it was applied; write in smaller batches (see load)",
    ),
    (
        (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError),
        StoreCorrupt,
        "is damaged, or of another version of LMDB; restore a backup",
    ),
    (
        (lmdb.PanicError,),
        StoreError,
        "could not write its header, so the outcome of that commit is unknown; close and open it again, and look",
    ),
    (
        (lmdb.ReadonlyError,),
        StoreDenied,
        "refuses this process the access it needs; mend its permissions, or pass immutable=True where nobody writes",
    ),
    (
        (lmdb.BadTxnError,),
        TransactionError,
        "has a transaction that an error or an open savepoint blocks; end that first, or begin a new one",
    ),
)


def translate(exc: lmdb.Error, location: str) -> StoreError:
    """The error of ours that says what this error of LMDB means, to be raised `from` it."""
    where = f"the store at {location!r}"
    if "closed/deleted/dropped" in str(exc):
        return StoreClosed(f"{where} is closed, or the transaction has ended; open it again, or begin another")
    if "on the same thread" in str(exc):
        return TransactionError(OWN_TRANSACTION)
    for kinds, error, message in _TRANSLATIONS:
        if isinstance(exc, kinds):
            return error(f"{where} {message}")
    return StoreError(f"{where} met an error of LMDB; close it, open it again, and look at the cause: {exc}")


@contextmanager
def translated(location: str) -> Iterator[None]:
    """`translate` for a block that is not on the hot path."""
    try:
        yield
    except lmdb.Error as exc:
        raise translate(exc, location) from exc


@contextmanager
def translated_os(location: str) -> Iterator[None]:
    """The same for what the operating system says while files are opened or made."""
    try:
        yield
    except StoreError:  # some are OSError, too
        raise
    except OSError as exc:
        said = f"the store at {location!r} cannot be opened or made: {exc.strerror}"
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise StoreDenied(
                f"no permission to open the store at {location!r}: {exc.filename!r} is refused to this process; mend "
                f"its permissions, or name another place"
            ) from exc
        if exc.errno == errno.EROFS:
            raise ReadOnlyStore(f"{said}; open it with flag 'r'") from exc
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{said}; make room and try again") from exc
        raise StoreError(f"{said} ({exc.filename!r}); name another place") from exc
