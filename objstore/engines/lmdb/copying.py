"""A compact copy of an environment: what a backup and a compaction begin with."""

from __future__ import annotations

import os
import threading
from typing import Any

import lmdb

from objstore.engines.base import Inspection, Progress, Verify
from objstore.engines.lmdb.datafile import DATA, DataFile, state_text
from objstore.engines.lmdb.directory import sync_directory
from objstore.engines.lmdb.errors import translate
from objstore.engines.lmdb.zerocopy import Guard
from objstore.errors import StoreCorrupt, StoreError

# Seconds between two looks at how far LMDB is.
_LOOK_AGAIN = 0.05


def copy_into(
    directory: str, environment: Any, guard: Guard, location: str, mode: int, verify: Verify, progress: Progress | None
) -> None:
    """Write what is committed, without free pages, into an empty directory; look through it, and sync it.

    `progress` is called with pages: first as they are written, then as they are looked through.
    """
    name = os.path.join(directory, DATA)
    figures = environment.stat()
    pages = figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]
    page_size = figures["psize"]

    def tell(done: int) -> None:
        if progress:
            progress(min(done, 2 * pages), 2 * pages)

    errors: list[Exception] = []

    def copy() -> None:
        try:
            _copy(name, environment, guard, mode)
        except (lmdb.Error, StoreError, OSError) as exc:
            errors.append(exc)

    # A thread of its own, so that this one can tell how far it is.  What it writes to is its own, too: this one may be
    # interrupted and not come to wait for it, and a descriptor that was closed becomes that of another file.
    thread = threading.Thread(target=copy, name="objstore-copy")
    try:
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK_AGAIN)
            tell(min(_size(name) // page_size, pages))
    finally:
        if thread.is_alive():
            thread.join()
    for error in errors:
        if isinstance(error, lmdb.Error):
            raise translate(error, location) from error
        raise error
    with open(name, "rb") as file:
        metas = DataFile(file.fileno()).metas()
        if not metas:
            raise StoreCorrupt(f"the copy of {location!r} is not whole, and was thrown away; try again")
        copied = Inspection(location, file.fileno(), state_text(metas[0]))
        verify(copied, lambda done, total: tell(pages + done * pages // max(total, 1)))
    tell(2 * pages)
    sync_directory(directory)


def _copy(name: str, environment: Any, guard: Guard, mode: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        token = guard.enter()  # the map stays where it is meanwhile
        try:
            environment.copyfd(descriptor, compact=True)
        finally:
            del token
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(name: str) -> int:
    try:
        return os.stat(name).st_size
    except FileNotFoundError:  # the thread has not come so far
        return 0
