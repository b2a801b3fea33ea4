"""The wall: what an error of LMDB means for a user.  No exception of `lmdb` passes it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import lmdb

from objstore.engines.base import OWN_TRANSACTION
from objstore.engines.lmdb.datafile import DATA
from objstore.engines.lmdb.filesystem import why_full
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
        (lmdb.MemoryError,),
        StoreError,
        "got no memory from the system, and nothing of the transaction was applied; try again when there is some",
    ),
    (
        (lmdb.PanicError,),
        StoreError,
        "could not write its header before; close it everywhere in this process, and open it again",
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


def translate(exc: lmdb.Error, location: str, making: str | None = None) -> StoreError:
    """The error of ours that says what this error of LMDB means, to be raised `from` it.

    `making`: the directory that is written, where that is not yet the one at the location.
    """
    where = f"the store at {location!r}"
    if "closed/deleted/dropped" in str(exc):
        return StoreClosed(f"{where} is closed, or the transaction has ended; open it again, or begin another")
    if "on the same thread" in str(exc):
        return TransactionError(OWN_TRANSACTION)
    for kinds, error, message in _TRANSLATIONS:
        if isinstance(exc, kinds):
            return error(f"{where} {message}")
    return _from_the_disk(exc, where, location, making) or StoreError(
        f"{where} met an error of LMDB; close it, open it again, and look at the cause: {exc}"
    )


def _from_the_disk(exc: lmdb.Error, where: str, location: str, making: str | None) -> StoreError | None:
    """What the operating system said when LMDB wrote the data file."""
    code = getattr(exc, "code", 0)
    outcome, otherwise = "nothing of the transaction was applied", " (deletes in small batches may still fit)"
    if making:
        outcome, otherwise = "it was not made", ""
    elif getattr(exc, "what", "") == "mdb_env_sync":
        outcome = "what was committed may not be on the disk"
    if full := why_full(os.path.join(making or location, DATA), code):
        reason, remedy = full
        return StoreFull(f"{where} {reason}, and {outcome}; {remedy} and try again{otherwise}")
    if code == errno.EROFS:
        return ReadOnlyStore(f"{where} is on a disk that has become read-only, and {outcome}; look why it has")
    if code == errno.EIO:
        return StoreError(
            f"{where} met an input/output error, and {outcome}: the disk has failed, or a quota is used up; close the "
            f"store, look after the disk, and copy what can still be read"
        )
    return None


@contextmanager
def translated(location: str, making: str | None = None) -> Iterator[None]:
    """`translate` for a block that is not on the hot path."""
    try:
        yield
    except lmdb.Error as exc:
        raise translate(exc, location, making) from exc


@contextmanager
def translated_os(location: str, what: str = "opened or made") -> Iterator[None]:
    """The same for what the operating system says while files are opened, made, or marked."""
    try:
        yield
    except StoreError:  # some are OSError, too
        raise
    except OSError as exc:
        said = f"the store at {location!r} cannot be {what}: {exc.strerror}"
        if exc.errno in (errno.EACCES, errno.EPERM):
            raise StoreDenied(
                f"no permission to open the store at {location!r}: {exc.filename!r} is refused to this process; mend "
                f"its permissions, or name another place"
            ) from exc
        if exc.errno == errno.EROFS:
            raise ReadOnlyStore(f"{said}; open what is there with flag 'r', or name another place") from exc
        if exc.errno == errno.EFBIG:
            raise StoreFull(f"{said}, by the limit of this process; lift ulimit -f and try again") from exc
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{said}; make room and try again") from exc
        if exc.errno == errno.EIO:
            raise StoreError(f"{said}; look after the disk, and copy what can still be read") from exc
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise StoreError(f"{said}; close some, or lift ulimit -n, and try again") from exc
        raise StoreError(f"{said} ({exc.filename!r}); name another place") from exc
