"""The file system below a store: whether it is of this host alone, can be written, and has room.

LMDB's lock is a mutex in memory that processes share, and its readers look at the file through maps.  Both end
at the kernel: on a file system that several hosts write, each host sees locks of its own and pages that are out
of date, and a store there is damaged without an error.  So such a one is known by its type, and refused.

Linux says in `/proc/self/mountinfo` what is mounted where.  Elsewhere nothing is known, and all is allowed.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterable
from typing import NamedTuple

# The types of file systems of networks and clusters.  After `fuse.` comes the program that serves it.  The folders
# that a host lends to its virtual machines (9p, virtiofs and so on) are not among them: machines and containers often
# have nothing else, and there it takes a host and a guest that open one store at the same time to do harm.
_NAMES = """
    acfs afs beegfs ceph cifs coda davfs exafs fhgfs gfs gfs2 glusterfs gpfs ibrix lustre ncp ncpfs nfs nfs3 nfs4
    ocfs2 orangefs panfs pvfs2 smb2 smb3 smbfs wekafs
    fuse.afp fuse.beegfs fuse.blobfuse fuse.blobfuse2 fuse.ceph fuse.ceph-fuse fuse.curlftpfs fuse.cvmfs2 fuse.davfs2
    fuse.gcsfuse fuse.gfapi fuse.glusterfs fuse.goofys fuse.hdfs fuse.juicefs fuse.lizardfs fuse.mfs
    fuse.moosefs fuse.mount-s3 fuse.mountpoint-s3 fuse.nfs fuse.quobyte fuse.rclone fuse.s3fs
    fuse.seaweedfs fuse.smbnetfs fuse.sshfs fuse.weed
"""
NETWORK = frozenset(_NAMES.split())

MOUNTS = "/proc/self/mountinfo"

# Bytes: with less than this left, a disk is taken for full.  What was written of a transaction that failed keeps
# its place in the file, so there is next to nothing left then; a little is what others may have freed since.
_LITTLE = 1 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOO_LARGE = errno.EFBIG


class Mount(NamedTuple):
    """A line of mountinfo, as far as it matters here."""

    device: int
    point: str
    kind: str
    read_only: bool
    """Whether the file system is, and so for everybody; a mount can be read-only where another is not."""


def mounts(lines: Iterable[str]) -> list[Mount]:
    """What the lines of a mountinfo say, in their order: what covers another mount comes after it."""
    found = []
    for line in lines:
        mount, _, system = line.partition(" - ")  # in front of it are any number of optional fields
        _, _, device, _, point, *_ = mount.split(" ")
        kind, _, options = system.rstrip("\n").split(" ")[:3]
        major, minor = map(int, device.split(":"))
        found.append(Mount(os.makedev(major, minor), _unescape(point), kind, "ro" in options.split(",")))
    return found


def _unescape(text: str) -> str:
    """A path, in which blanks, tabs, newlines and backslashes are written as three octal digits."""
    first, *others = text.split("\\")
    return first + "".join(chr(int(each[:3], 8)) + each[3:] for each in others)


def find_mount(found: Iterable[Mount], device: int, path: str) -> Mount | None:
    """The mount that `path` lies on, which has no links in it.

    It has the device of the path.  Some file systems give their parts devices that no table names (the subvolumes
    of btrfs): then it is the innermost that the path lies below.
    """
    best = None
    for mount in found:
        if mount.device == device:
            return mount
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(point + "/")) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _mount_of(path: str, device: int) -> Mount | None:
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            return find_mount(mounts(file), device, os.path.realpath(path))
    except (OSError, ValueError):  # there is no such file here, or it is written in a way of the future
        return None


# What was found, by the device and the identity of the file system: a device is given to another when it is free.
_network: dict[tuple[int, int], str | None] = {}


def network_type(path: str) -> str | None:
    """The type of the file system that a directory lies on, if it is one that several hosts may write; or None."""
    device = os.stat(path).st_dev
    file_system = device, os.statvfs(path).f_fsid
    if file_system not in _network:
        mount = _mount_of(path, device)
        _network[file_system] = mount.kind if mount is not None and mount.kind in NETWORK else None
    return _network[file_system]


def others_may_write(path: str) -> bool:
    """Whether a file system that this process finds read-only is so here alone: there is a mount that is writable."""
    mount = _mount_of(path, os.stat(path).st_dev)
    return mount is not None and not mount.read_only


def why_full(path: str, code: int) -> tuple[str, str] | None:
    """What keeps a file from growing, when writing it failed with the error `code`, and what helps.

    None where it failed for another reason.

    LMDB makes an input/output error of a write that was cut short, by a disk without room as well as by one that
    fails.  So this looks how things are.
    """
    if code not in (*_FULL, _TOO_LARGE, errno.EIO):
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and (code == _TOO_LARGE or _size(path) + resource.getpagesize() > limit):
        return f"has reached the size of a file that this process may write ({limit} bytes)", "lift ulimit -f"
    if code == _TOO_LARGE:
        return "has reached the size of a file that its file system allows", "move it to another"
    if code in _FULL or _has_little_room(path):
        return "is on a disk that is full", "make room"
    return None


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _has_little_room(path: str) -> bool:
    try:
        status = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    free = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return status.f_blocks > 0 and free * status.f_frsize < _LITTLE  # where there are none, they are not counted
