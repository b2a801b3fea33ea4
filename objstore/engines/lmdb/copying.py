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
from objstore.errors import StoreCorrupt

# Seconds between two looks at how far LMDB is.
_LOOK_AGAIN = 0.05


def copy_into(
    directory: str, environment: Any, location: str, mode: int, verify: Verify, progress: Progress | None
) -> None:
    """Write what is committed, without free pages, into an empty directory; look through it, and sync it.

    `progress` is called with pages: first as they are written, then as they are looked through.
    """
    descriptor = os.open(os.path.join(directory, DATA), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        figures = environment.stat()
        pages = figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]
        page_size = figures["psize"]

        def tell(done: int) -> None:
            if progress:
                progress(min(done, 2 * pages), 2 * pages)

        error: list[lmdb.Error] = []

        def copy() -> None:
            try:
                environment.copyfd(descriptor, compact=True)
            except lmdb.Error as exc:
                error.append(exc)

        # A thread of its own, so that this one can tell how far it is.
        thread = threading.Thread(target=copy, name="objstore-copy")
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_LOOK_AGAIN)
                tell(min(os.fstat(descriptor).st_size // page_size, pages))
        finally:
            thread.join()  # whatever `progress` raised: it writes to our descriptor
        if error:
            raise translate(error[0], location) from error[0]
        os.fsync(descriptor)
        file = DataFile(descriptor)
        metas = file.metas()
        if not metas:
            raise StoreCorrupt(f"the copy of {location!r} is not whole, and was thrown away; try again")
        copied = Inspection(location, descriptor, state_text(metas[0]))
        verify(copied, lambda done, total: tell(pages + done * pages // max(total, 1)))
        tell(2 * pages)
    finally:
        os.close(descriptor)
    sync_directory(directory)
