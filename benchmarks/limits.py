"""A limit on the memory of a process, its share of the page cache included.

Linux counts both for a control group, so a group of its own is made for the process where the machine
allows that, in either version of the interface, and removed afterwards.  Limits of a process alone
(`setrlimit`) know nothing of the page cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_limited(limit: int) -> Iterator[Path | None]:
    """A group whose processes have so many bytes; None where none can be made.  A process joins with `join`."""
    group = None
    for parent, file in _candidates():
        made = parent / f"objstore-benchmark-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        try:
            (made / file).write_text(str(limit))
        except OSError:  # the group has no memory controller
            made.rmdir()
            continue
        group = made
        break
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def join(group: str) -> None:
    """Put this process into the group."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))


def forget(path: str) -> None:
    """Write back what the page cache has of a file and drop it, so that the next reader is charged for it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _candidates() -> Iterator[tuple[Path, str]]:
    """Where a group could be made below the one that this process is in, and the file that limits it."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                yield ROOT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
            elif not controllers:
                yield ROOT / path.lstrip("/"), "memory.max"
