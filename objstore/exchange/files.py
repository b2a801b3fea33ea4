"""Files that are there as a whole or not at all.

What is written goes into a file beside its place, which is forced to the disk and gets its name at the end.  Who is
interrupted leaves nothing; who is killed leaves a file `.objstore-....part`, which nobody takes for anything.  Nothing
is overwritten unless it is asked for, also where another process makes the same file meanwhile.  Like a store, a file
is for its owner alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import BinaryIO

from objstore.engines.lmdb.directory import sync_directory
from objstore.errors import StoreDenied, StoreError, StoreExists, StoreFull

_BUFFER_BYTES = 1 << 20


@contextmanager
def new_file(path: str | os.PathLike[str], force: bool) -> Iterator[BinaryIO]:
    """A file to write into, which is at `path` when the block has ended; with `force`, in the place of another.

    Raises StoreExists, StoreFull, StoreDenied, StoreError where it cannot be written.
    """
    place = os.path.abspath(path)
    with _translated(place):
        if not force:
            _refuse_existing(place)
        elif os.path.lexists(place) and not os.path.isfile(place):  # a device, say, which many need
            raise StoreExists(f"{place!r} is no file that could be replaced; name a file")
        part = _beside(place)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", _BUFFER_BYTES) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            (os.replace if force else _rename)(part, place)
            sync_directory(os.path.dirname(place))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)


def target_file(target: str | os.PathLike[str], force: bool, opened: ExitStack) -> BinaryIO:
    """A new file that is whole when what is `opened` ends, or standard output where that is "-"."""
    if os.fspath(target) == "-":
        opened.callback(sys.stdout.buffer.flush)
        return sys.stdout.buffer
    return opened.enter_context(new_file(target, force))


@contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[str]:
    """A directory to write into, by the name it has meanwhile, which is at `path` when the block has ended.

    Raises what `new_file` raises.
    """
    place = os.path.abspath(path)
    with _translated(place):
        _refuse_existing(place)
        part = _beside(place)
        os.mkdir(part, 0o700)
        try:
            yield part
            sync_directory(part)
            _refuse_existing(place)
            os.rename(part, place)  # which takes the place of nothing but an empty directory
            sync_directory(os.path.dirname(place))
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _beside(place: str) -> str:
    return os.path.join(os.path.dirname(place), f".objstore-{os.urandom(8).hex()}.part")


def _refuse_existing(place: str) -> None:
    if os.path.lexists(place):
        raise StoreExists(
            f"there is something at {place!r} already; name another place, remove it first, or replace it, if it is a "
            f"file, with force (--force)"
        )


def _rename(part: str, place: str) -> None:
    """Give a file its name, if nobody has that."""
    try:
        os.link(part, place)
    except FileExistsError:
        _refuse_existing(place)
        raise
    except OSError:  # a file system without links
        _refuse_existing(place)
        os.rename(part, place)


_KINDS: dict[int | None, type[StoreError]] = {
    errno.ENOSPC: StoreFull,
    errno.EDQUOT: StoreFull,
    errno.EACCES: StoreDenied,
    errno.EPERM: StoreDenied,
    errno.EROFS: StoreDenied,
}


@contextmanager
def _translated(place: str) -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except OSError as exc:
        kind = _KINDS.get(exc.errno, StoreError)
        raise kind(f"{place!r} cannot be written: {exc.strerror or exc}; nothing was left there") from exc
