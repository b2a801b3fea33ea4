"""A disk that loses power: what a process did to it, and what it may show after a cut at any point of that.

`Recorder` writes down, in order, what LMDB and objstore do to the files below a directory.  `Disk` follows such a log
and builds images: directories as they may be found when the power comes back.  The model is harsher than any file
system that is known to us:

* What a sync of a file covered is there.  Of all else, each sector of 512 bytes (or each page of 4096, the draw of
  the image decides) shows any of the contents it had since the last sync, whatever its neighbours show.  So writes
  are lost, reordered and torn.  A sector itself is never torn: LMDB's header write, 120 bytes within one sector, is
  atomic on a disk, and LMDB relies on that.
* A write through a descriptor with O_DSYNC is there when it returns: its own sectors, and no others.
* A file is as long as at its last sync, or as any later write or truncation made it, or as a part (in pages) of a
  write that was to make it longer, independently of which sectors are there.  What never arrived reads as zeros.
* A directory has the entries of its last sync, and of the later changes (making, moving, deleting) any number from
  the first on, in each directory independently of others.  Syncing a file does not save its entry.  A file or a
  directory without an entry does not exist.  A move is atomic, also between directories.
* A sync that fails leaves what it was to save as unsafe as before, and takes it off the list: later syncs succeed, and
  do not save it unless it was written again.  (So do Linux's file systems.)
* `lock.mdb`, which LMDB writes through memory and never syncs, is empty, rubbish, or not there.

A write counts as begun before the system is called, and a sync as done when it has returned.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from interposing import OPENS, SYNCS, WRITES, fail, lmdb_calls, os_calls, pieces

SECTOR = 512
PAGE = 4096
ROOT = 0
LOCK = "lock.mdb"

_open, _lseek, _close = os.open, os.lseek, os.close  # also while those of `os` are recorded


# What happened


class Write(NamedTuple):
    file: int
    offset: int
    data: bytes


class Written(NamedTuple):
    """A write with O_DSYNC returned."""

    file: int
    offset: int
    size: int


class Truncate(NamedTuple):
    file: int
    size: int


class Sync(NamedTuple):
    """Of a file or a directory; it returned."""

    node: int


class FailedSync(NamedTuple):
    """Of a file: what was not safe stays so, until it is written again, and later syncs say nothing of it."""

    file: int


class Make(NamedTuple):
    """A new file, or a directory, under a name."""

    directory: int
    name: str
    node: int
    is_directory: bool


class Move(NamedTuple):
    directory: int
    name: str
    node: int
    from_directory: int
    from_name: str


class Delete(NamedTuple):
    directory: int
    name: str


class Mark(NamedTuple):
    """Something that the one who records wants to find again."""

    what: Any


class Ended(BaseException):
    """The process ends here, as far as what it does to the disk goes."""


class Recorder:
    """Writes down what this process does to the files below `root`, an empty directory."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)
        self.log: list[Any] = []
        self._nodes: dict[tuple[int, int], int] = {}
        self._pinned: list[int] = []
        self._number(self.root)
        self._left: int | None = None
        self._good_syncs: int | None = None

    def fail_sync_after(self, syncs: int) -> None:
        """Let a sync of LMDB's fail, after so many more."""
        self._good_syncs = syncs

    def end_after(self, calls: int | None) -> None:
        """Raise Ended instead of a call of objstore's after so many more; None: do not."""
        self._left = calls

    def mark(self, what: Any) -> None:
        self.log.append(Mark(what))

    @contextmanager
    def recording(self) -> Iterator[None]:
        with lmdb_calls(self._lmdb, OPENS | WRITES | SYNCS), os_calls(self._os):
            yield
        for descriptor in self._pinned:
            _close(descriptor)

    # Files and directories are numbered when they are made

    def _number(self, path: str) -> int:
        """The number of what is at a path.

        It is held, so that the system does not give its inode to another; and with O_PATH, because to close any other
        descriptor of it would end the locks on it.
        """
        self._pinned.append(_open(path, os.O_PATH | os.O_NOFOLLOW))
        status = os.fstat(self._pinned[-1])
        return self._nodes.setdefault((status.st_dev, status.st_ino), len(self._nodes))

    def _node(self, file: int | str) -> int | None:
        """The number of an open file or a path, or None for what is not ours."""
        status = os.stat(file)
        return self._nodes.get((status.st_dev, status.st_ino))

    def _place(self, path: str, dir_fd: int | None = None) -> tuple[int | None, str, str]:
        """Directory, name and whole path."""
        above = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else os.getcwd()
        directory, name = os.path.split(os.path.join(above, os.fspath(path)))
        directory = os.path.realpath(directory)
        node = self._node(directory) if os.path.isdir(directory) else None
        return node, name, os.path.join(directory, name)

    # What LMDB calls

    def _lmdb(self, name: str, call: Any, args: tuple[Any, ...]) -> Any:
        if name == "open":
            return self._open(ctypes.string_at(args[0]).decode(), args[1], None, lambda: call(*args))
        descriptor = args[0]
        if name in ("fsync", "fdatasync"):
            if self._good_syncs is not None:
                self._good_syncs -= 1
                if self._good_syncs == -1:
                    self.log.append(FailedSync(self._node(descriptor)))
                    fail(errno.EIO)
                    return -1
            return self._sync(descriptor, lambda: call(*args) == 0)
        if name == "ftruncate":
            return self._truncate(descriptor, args[1], lambda: call(*args))
        assert name != "msync", "LMDB is to write nothing through its map"
        if name in ("writev", "pwritev"):
            data = b"".join(ctypes.string_at(*piece) for piece in pieces(args[1], args[2]))
        else:
            data = ctypes.string_at(args[1], args[2])
        offset = args[3] if name.startswith("p") else _lseek(descriptor, 0, os.SEEK_CUR)
        return self._write(descriptor, offset, data, lambda: call(*args))

    # What objstore calls

    def _os(self, name: str, call: Any, *args: Any, **keywords: Any) -> Any:
        def run() -> Any:
            return call(*args, **keywords)

        if self._left is not None:
            if self._left == 0:
                raise Ended
            self._left -= 1

        if name == "os.open":
            flags = args[1] if len(args) > 1 else keywords["flags"]
            return self._open(args[0], flags, keywords.get("dir_fd"), run)
        if name in ("os.fsync", "os.fdatasync"):
            return self._sync(args[0], lambda: run() is None, None)
        if name in ("os.ftruncate", "os.truncate"):
            return self._truncate(args[0], args[1], run)
        if name in ("os.write", "os.pwrite"):
            offset = args[2] if name == "os.pwrite" else None
            return self._write(args[0], offset, bytes(args[1]), run)
        return self._change(name, run, *args, **keywords)

    def _change(self, name: str, run: Any, *args: Any, **keywords: Any) -> Any:
        directory, entry, path = self._place(args[0], keywords.get("dir_fd", keywords.get("src_dir_fd")))
        if name in ("os.replace", "os.rename"):
            target, new, _ = self._place(args[1], keywords.get("dst_dir_fd"))
            node = self._node(path) if os.path.lexists(path) else None
            result = run()
            if target is not None or directory is not None:
                assert node is not None, f"{path} comes from elsewhere"
                self.log.append(Move(target, new, node, directory, entry))
            return result
        result = run()
        if directory is not None:
            if name == "os.mkdir":
                self.log.append(Make(directory, entry, self._number(path), True))
            else:
                self.log.append(Delete(directory, entry))
        return result

    # What all of them come to

    def _open(self, path: str, flags: int, dir_fd: int | None, run: Any) -> Any:
        directory, name, path = self._place(path, dir_fd)
        is_new = directory is not None and bool(flags & os.O_CREAT) and not os.path.lexists(path)
        result = run()
        if directory is not None and result >= 0:
            if is_new:
                self.log.append(Make(directory, name, self._number(path), False))
            elif flags & os.O_TRUNC:
                self.log.append(Truncate(self._node(path), 0))
        return result

    def _write(self, descriptor: int, offset: int | None, data: bytes, run: Any) -> Any:
        node = self._node(descriptor)
        if node is None:
            return run()
        if offset is None:
            offset = _lseek(descriptor, 0, os.SEEK_CUR)
        self.log.append(Write(node, offset, data))
        result = run()
        assert result == len(data), f"a write of {len(data)} bytes gave {result}"
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC:
            self.log.append(Written(node, offset, len(data)))
        return result

    def _truncate(self, file: int | str, size: int, run: Any) -> Any:
        node = self._node(file)
        if node is not None:
            self.log.append(Truncate(node, size))
        return run()

    def _sync(self, descriptor: int, run: Any, result: Any = 0) -> Any:
        node, before = self._node(descriptor), len(self.log)
        assert run(), "a sync failed"
        if node is not None:
            meanwhile = [each for each in self.log[before:] if isinstance(each, Write) and each.file == node]
            assert not meanwhile, "others wrote the file while it was synced; which writes that covers is not known"
            self.log.append(Sync(node))
        return result


# What the disk shows


class _File:
    """A file: what it holds, and what of that is safe."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.safe = bytearray()
        self._unsafe: dict[int, list[bytes]] = {}  # by sector: what it held since the last sync
        self._given_up: dict[int, list[bytes]] = {}  # the same, where a sync has failed
        self._lengths: list[int] = []  # that it had since then

    def write(self, offset: int, data: bytes) -> None:
        stop = offset + len(data)
        if stop > len(self.now):
            self._lengths += range(-(-(len(self.now) + 1) // PAGE) * PAGE, stop, PAGE)
            self._lengths.append(stop)
            self.now.extend(bytes(stop - len(self.now)))
        self.now[offset:stop] = data
        self._remember(offset, stop)

    def truncate(self, size: int) -> None:
        self._lengths.append(size)
        if size < len(self.now):
            del self.now[size:]
            self._remember(size, size + 1)
        else:
            self.now.extend(bytes(size - len(self.now)))

    def _remember(self, start: int, stop: int) -> None:
        for sector in range(start // SECTOR, -(-stop // SECTOR)):
            self._unsafe.setdefault(sector, []).append(self._sector(sector))

    def _sector(self, sector: int) -> bytes:
        return bytes(self.now[sector * SECTOR : (sector + 1) * SECTOR]).ljust(SECTOR, b"\x00")

    def fail_to_sync(self) -> None:
        for sector, contents in self._unsafe.items():
            self._given_up.setdefault(sector, []).extend(contents)
        self._unsafe.clear()

    def sync(self) -> None:
        for sector in self._unsafe:
            self._put(self.safe, sector, self._sector(sector))
            self._given_up.pop(sector, None)
        del self.safe[len(self.now) :]
        self.safe.extend(bytes(len(self.now) - len(self.safe)))
        self._unsafe.clear()
        self._lengths.clear()

    def sync_range(self, start: int, stop: int) -> None:
        before = len(self.safe)
        for sector in range(start // SECTOR, -(-stop // SECTOR)):
            self._put(self.safe, sector, self._sector(sector))
            self._unsafe.pop(sector, None)
            self._given_up.pop(sector, None)
        del self.safe[max(before, stop) :]

    @staticmethod
    def _put(data: bytearray, sector: int, content: bytes) -> None:
        start = sector * SECTOR
        data.extend(bytes(max(0, start + SECTOR - len(data))))
        data[start : start + SECTOR] = content

    def after_a_cut(self, rng: random.Random, draw: Draw) -> bytearray:
        if not self._unsafe and not self._given_up and not self._lengths:
            return self.safe
        length = rng.choice([len(self.safe), len(self.now), *self._lengths])
        data = bytearray(self.safe)
        kept: dict[int, bool] = {}
        for sector in sorted(self._unsafe.keys() | self._given_up.keys()):
            contents = self._given_up.get(sector, []) + self._unsafe.get(sector, [])
            unit = sector * SECTOR // draw.grain
            if unit not in kept:
                kept[unit] = rng.random() < draw.kept
            if kept[unit]:
                content = contents[-1] if len(contents) == 1 or rng.random() < 0.7 else rng.choice(contents)
                self._put(data, sector, content)
        del data[length:]
        data.extend(bytes(length - len(data)))
        return data


class Draw(NamedTuple):
    """How an image is drawn: the unit in which a disk keeps or loses, and what part it keeps."""

    grain: int
    kept: float

    @classmethod
    def any(cls, rng: random.Random) -> Draw:
        return cls(rng.choice([SECTOR, PAGE]), rng.choice([0, 0.05, 0.5, 0.5, 0.95, 1]))


class Disk:
    """Follows a log, and builds what a power cut would leave."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._safe: dict[int, dict[str, int]] = {ROOT: {}}  # the entries of each directory
        self._changes: list[Make | Move | Delete] = []  # that are not safe

    def follow(self, event: Any) -> None:
        if isinstance(event, Write):
            self._files[event.file].write(event.offset, event.data)
        elif isinstance(event, Written):
            self._files[event.file].sync_range(event.offset, event.offset + event.size)
        elif isinstance(event, Truncate):
            self._files[event.file].truncate(event.size)
        elif isinstance(event, Sync):
            self._sync(event.node)
        elif isinstance(event, FailedSync):
            self._files[event.file].fail_to_sync()
        elif isinstance(event, (Make, Move, Delete)):
            if isinstance(event, Make):
                if event.is_directory:
                    self._safe[event.node] = {}
                else:
                    self._files[event.node] = _File()
            self._changes.append(event)

    def _sync(self, node: int) -> None:
        if node in self._files:
            self._files[node].sync()
            return
        for change in self._changes:
            if change.directory == node:
                _apply(self._safe, change)
        self._changes = [change for change in self._changes if change.directory != node]

    def image(self, place: str, rng: random.Random) -> None:
        """Write what the root directory may be after a cut now into a new directory at `place`."""
        entries = {node: dict(names) for node, names in self._safe.items()}
        left = {node: rng.randint(0, len(self._changes)) for node in sorted({each.directory for each in self._changes})}
        if rng.random() < 0.3:  # what most file systems do: a journal, for all directories
            left = dict.fromkeys(left, 1 << 30)
        for change in self._changes:
            if left[change.directory]:
                left[change.directory] -= 1
                _apply(entries, change)
        draw = Draw.any(rng)
        self._write(place, entries, ROOT, lambda file: file.after_a_cut(rng, draw), rng)

    def differs(self, place: str) -> list[str]:
        """What is otherwise below `place` than this disk has it, where nothing was lost: it was not recorded."""
        entries = {node: dict(names) for node, names in self._safe.items()}
        for change in self._changes:
            _apply(entries, change)
        return list(self._differences(place, entries, ROOT))

    def _differences(self, place: str, entries: dict[int, dict[str, int]], node: int) -> Iterator[str]:
        if set(os.listdir(place)) != set(entries[node]):
            yield f"{place}: {sorted(os.listdir(place))}, recorded are {sorted(entries[node])}"
            return
        for name, each in entries[node].items():
            path = os.path.join(place, name)
            if each in entries:
                yield from self._differences(path, entries, each)
            elif name != LOCK:
                with open(path, "rb") as file:
                    if file.read() != self._files[each].now:
                        yield path

    def _write(self, place: str, entries: dict[int, dict[str, int]], node: int, content: Any, rng: Any) -> None:
        os.mkdir(place, 0o700)
        for name, each in entries[node].items():
            path = os.path.join(place, name)
            if each in entries:
                self._write(path, entries, each, content, rng)
                continue
            data = content(self._files[each]) if name != LOCK else rng.randbytes(rng.choice([0, 100, 8192]))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            if data:
                os.write(descriptor, data)
            os.close(descriptor)


def _apply(entries: dict[int, dict[str, int]], change: Make | Move | Delete) -> None:
    if isinstance(change, Delete):
        entries[change.directory].pop(change.name, None)
        return
    entries[change.directory][change.name] = change.node
    if isinstance(change, Move):
        entries[change.from_directory].pop(change.from_name, None)
