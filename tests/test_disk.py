"""What a disk does to a store: it is full, read-only, of a network, of somebody else, or prepared by somebody.

Whatever it is, an error of the store's own says so before anything is harmed, and says what to do; what was stored
is there, and a store that met a full disk goes on when there is room.

Full and read-only disks are small ones in memory, mounted for one program, by root or in a user namespace; where
neither may mount, those tests are skipped, and the limit on file sizes stands for a full disk.  Files of other
owners need root.  What could end a process runs in another one.
"""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import pytest
from programs import NOBODY, as_nobody, run

from objstore import ReadOnlyStore, Store, StoreDenied, StoreError, StoreFull, StoreNotFound
from objstore.engines.lmdb import filesystem
from objstore.engines.lmdb.errors import translate
from objstore.engines.lmdb.filesystem import find_mount, mounts

FILES = ("data.mdb", "lock.mdb", "objstore.lock")
IS_ROOT = os.getuid() == 0

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can give files to another user")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is mounted where")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.fixture
def stored(path):
    with Store(path) as store:
        store["a"] = 1
    return path


def contents(path):
    """All that is in a directory, as bytes."""
    return {name: (path / name).read_bytes() for name in os.listdir(path) if (path / name).is_file()}


def reading(path, **options):
    with Store(path, "r", **options) as store:
        return dict(store)


# A disk of its own for a program


MOUNT = 'mount -t tmpfs -o "size=$1,mode=755" none "$2" && shift 2 && exec "$@"'


def namespace():
    """The command for a program that may mount, or None where there is none."""
    command = ["unshare", "--mount"] if IS_ROOT else ["unshare", "--user", "--map-root-user", "--mount"]
    with tempfile.TemporaryDirectory() as directory:
        try:
            tried = [*command, "sh", "-c", MOUNT, "sh", "1m", directory, "true"]
            done = subprocess.run(tried, capture_output=True, check=False, timeout=60)
        except OSError:
            return None
    return None if done.returncode else command


@pytest.fixture(scope="session")
def with_disk():
    """Runs a program that has a small disk: `disk` is its directory, and `path` that of a store on it."""
    command = namespace()
    if command is None:
        pytest.skip("this user may mount nothing, not even in a namespace")

    def run_with_disk(program, *arguments, size="2m", seconds=120):
        with tempfile.TemporaryDirectory() as disk:
            within = [*command, "sh", "-c", MOUNT, "sh", size, disk]
            return run(program, disk, *arguments, prelude=PRELUDE, seconds=seconds, within=within)

    return run_with_disk


PRELUDE = """
import os, resource, shutil, signal, subprocess, sys, threading
from objstore import *

disk = sys.argv[1]
path = disk + "/a.store"

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def mount(*options):
    subprocess.run(["mount", *options], check=True)

def take_all_but(pages):
    "Fill the disk up, and leave so many pages."
    with open(disk + "/filler", "ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
        os.truncate(file.fileno(), max(file.tell() // 4096 - pages, 0) * 4096)

def refused(call, kind=StoreFull):
    "The error of a call that must raise such."
    try:
        call()
    except StoreError as exc:
        assert type(exc) is kind, repr(exc)
        return str(exc)
    raise AssertionError("it was not refused")

def mark():
    "What our file says, read by another process: this one would lose its lock."
    said = subprocess.run(["cat", path + "/objstore.lock"], check=True, capture_output=True).stdout
    return said.partition(b"\\0")[0].decode()

def child(call):
    "The exit status of a forked child that makes a call: 0 where it ends well, negative for a signal."
    process = os.fork()
    if process == 0:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
"""


# Full


FILL = """
import numpy as np

store = Store(path, durability=sys.argv[2])
expected = {}

def put(key, value):
    store[key] = value
    expected[key] = value

def check():
    assert len(store) == len(expected)
    assert all(np.array_equal(store[key], value) for key, value in expected.items())
    with store.snapshot() as snapshot:
        assert list(snapshot) == sorted(expected, key=str)

def in_a_transaction():
    with store.transaction() as txn:
        txn["keep"] = "changed"
        txn.namespace("other")["a"] = 1
        txn["large"] = bytes(3_000_000)

put("keep", b"k" * 1000)
for call in (
    lambda: store.set("large", bytes(3_000_000)),
    lambda: store.set("large", bytes(3_000_000), ttl=100, tags=["red"]),
    lambda: store.set("keep", np.ones(1_000_000)),  # written in its place
    lambda: store.update({("u", number): bytes(30_000) for number in range(100)}),
    in_a_transaction,
):
    said = refused(call)
    assert repr(path) in said and "nothing of the transaction was applied" in said, said
    assert REMEDY in said and "deletes in small batches may still fit" in said, said
    check()
assert store.namespaces() == [] and not store.delete_tag("red")

for number in range(10_000):  # until not even a little has room
    try:
        put(f"n{number}", b"n" * 3000)
    except StoreFull as exc:
        assert REMEDY in str(exc)
        break
else:
    raise AssertionError("it was never full")
assert number > 100
check()

# A load stores batch by batch, and those before the error stay.
del store[f"n{number - 1}"], expected[f"n{number - 1}"]
done = []
refused(lambda: store.load(
    ((f"l{each}", bytes(100_000)) for each in range(30)), batch_bytes=1, progress=lambda n, _: done.append(n)
))
expected.update({f"l{each}": bytes(100_000) for each in range(done[-1] if done else 0)})
check()

make_room()
put("after", b"a" * 100_000)
in_a_transaction()
expected.update(keep="changed", large=bytes(3_000_000))
check()
store.close()
store = Store(path, "w")
check()
assert store.namespace("other") == {"a": 1}
store.close()
assert "dirty" not in mark()
"""

FULL_DISK = """
REMEDY = "is on a disk that is full"

def make_room():
    mount("-o", "remount,size=16m", "none", disk)
"""

AT_THE_LIMIT = """
REMEDY = "has reached the size of a file that this process may write (2000000 bytes)"
limit(2_000_000)

def make_room():
    limit(resource.RLIM_INFINITY)
"""

DURABILITIES = ("full", "relaxed", "process")


class TestFull:
    @pytest.mark.parametrize("durability", DURABILITIES)
    def test_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(self, with_disk, durability):
        with_disk(FULL_DISK + FILL, durability)

    @pytest.mark.parametrize("durability", DURABILITIES)
    def test_the_limit_on_file_sizes_is_one_more_way_to_be_full(self, tmp_path, durability):
        run(AT_THE_LIMIT + FILL, tmp_path, durability, prelude=PRELUDE)

    def test_deletes_in_small_batches_make_room(self, with_disk):
        with_disk("""
            store = Store(path)
            try:
                while True:
                    store[len(store)] = bytes(3000)
            except StoreFull:
                count = len(store)
            for number in range(0, count, 2):
                del store[number]
            for number in range(0, count // 2 - 10):
                store["new", number] = bytes(3000)
            store.close()
        """)

    @pytest.mark.parametrize("durability", DURABILITIES)
    def test_threads_that_write_together_get_each_what_became_of_theirs(self, with_disk, durability):
        with_disk(
            """
            store = Store(path, durability=sys.argv[2])
            written, failed, other = [], [], []

            def write(thread):
                for number in range(100):
                    key = thread, number
                    try:
                        store[key] = bytes(5000)
                        written.append(key)
                    except StoreFull:
                        failed.append(key)
                    except BaseException as exc:
                        other.append(exc)

            threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert not other, other
            assert written and failed and len(written) + len(failed) == 800
            assert list(store) == sorted(written)
            store.close()
            with Store(path, "r") as store:
                assert list(store) == sorted(written)
            """,
            durability,
        )

    def test_a_store_is_made_wholly_or_not_at_all_however_little_room_there_is(self, with_disk):
        with_disk(
            """
            def make():
                try:
                    with Store(path) as store:
                        store["a"] = 1
                except StoreFull as exc:
                    assert repr(path) in str(exc) and "make room" in str(exc), exc

            made = []
            for pages in range(40):
                take_all_but(pages)
                assert child(make) == 0, f"{pages} pages: {child(make)}"
                os.unlink(disk + "/filler")
                try:
                    with Store(path, "r") as store:
                        made.append(pages)
                        assert store in ({}, {"a": 1})
                except StoreNotFound:
                    assert not os.path.exists(path + "/objstore.making")
                with Store(path) as store:
                    store["b"] = 1
                shutil.rmtree(path)
            assert made and made[0] > 0
            """,
            size="1m",
        )

    def test_flag_n_replaces_a_store_wholly_or_not_at_all(self, with_disk):
        with_disk(
            """
            def replace():
                try:
                    Store(path, "n").close()
                except StoreFull as exc:
                    assert "make room" in str(exc), exc
                    with Store(path, "r") as store:
                        assert store == {"a": 1}
                    os._exit(2)
                with Store(path, "r") as store:
                    assert store == {}

            ended = set()
            for pages in range(40):
                with Store(path, "n") as store:
                    store["a"] = 1
                take_all_but(pages)
                ended.add(child(replace))
                os.unlink(disk + "/filler")
            assert ended == {0, 2}, ended
            """,
            size="1m",
        )

    @pytest.mark.parametrize("first", [1000, 10])
    def test_readers_that_come_when_the_disk_is_full_find_a_slot(self, with_disk, first):
        # LMDB leaves holes in its lock file, and the system ends a process that touches one when the disk is full.
        with_disk(
            """
            Store(path, max_readers=int(sys.argv[2])).close()
            Store(path, max_readers=1000).close()
            take_all_but(0)

            def read():
                with Store(path, "r", max_readers=1000) as store:
                    snapshots = [store.snapshot() for _ in range(990)]
                    assert all(snapshot == {} for snapshot in snapshots)

            assert child(read) == 0
            """,
            first,
        )

    @pytest.mark.parametrize("how", ["missing", "holes"])
    def test_without_room_for_locks_a_store_is_not_opened(self, with_disk, how):
        with_disk(
            """
            Store(path).close()
            lock = path + "/lock.mdb"
            size = os.stat(lock).st_size
            os.unlink(lock)
            if sys.argv[2] == "holes":
                with open(lock, "wb") as file:
                    file.truncate(size)
                os.chmod(lock, 0o600)
            take_all_but(0)
            for flag in "rw":
                assert child(lambda: refused(lambda: Store(path, flag))) == 0
            with Store(path, "r", immutable=True) as store:
                assert store == {}
            os.unlink(disk + "/filler")
            Store(path).close()
            assert os.stat(lock).st_size == size
            """,
            how,
        )

    @pytest.mark.parametrize("size", [0, 5, 11, 20, 53])
    def test_the_mark_of_unsynced_writes_is_written_wholly_or_not_at_all(self, tmp_path, size):
        run(
            """
            Store(path, durability="process").close()
            store = Store(path)
            limit(int(sys.argv[2]))
            said = refused(lambda: store.set("a", 1))
            assert repr(path) in said and "lift ulimit -f" in said, said
            assert mark() == "objstore 1\\n"
            limit(resource.RLIM_INFINITY)
            store["a"] = 1
            assert "\\ndirty " in mark()
            limit(int(sys.argv[2]))
            store.close()  # to take it away needs no room
            limit(resource.RLIM_INFINITY)
            assert mark() == "objstore 1\\n"
            with Store(path, "r") as store:
                assert store == {"a": 1}
            """,
            tmp_path,
            size,
            prelude=PRELUDE,
        )

    @pytest.mark.parametrize("size", [0, 5, 4096, 10_000, 30_000, 70_000])
    def test_below_the_limit_on_file_sizes_no_store_is_made(self, tmp_path, size):
        run(
            """
            limit(int(sys.argv[2]))
            try:
                Store(path).close()
                assert int(sys.argv[2]) == 70_000
            except StoreFull as exc:
                assert "lift ulimit -f and try again" in str(exc) and repr(path) in str(exc), exc
                limit(resource.RLIM_INFINITY)
                refused(lambda: Store(path, "w"), StoreNotFound)
            limit(resource.RLIM_INFINITY)
            with Store(path) as store:
                store["a"] = 1
            assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]
            """,
            tmp_path,
            size,
            prelude=PRELUDE,
        )


def lmdb_error(code, what="mdb_txn_commit"):
    """An error as py-lmdb raises it."""
    kind = lmdb.DiskError if code == errno.ENOSPC else lmdb.Error
    exc = kind(f"{what}: {os.strerror(code)}")
    exc.what, exc.code, exc.reason = what, code, os.strerror(code)
    return exc


class TestWhatTheSystemSays:
    @pytest.mark.parametrize(
        ("code", "kind", "message"),
        [
            (errno.ENOSPC, StoreFull, "disk that is full, and nothing of the transaction was applied; make room"),
            (errno.EDQUOT, StoreFull, "disk that is full, and nothing of the transaction was applied; make room"),
            (errno.EFBIG, StoreFull, "file system allows, and nothing .* applied; move it to another"),
            (errno.EROFS, ReadOnlyStore, "become read-only, and nothing of the transaction was applied"),
            (errno.EIO, StoreError, "the disk has failed, or a quota is used up; close the store"),
            (errno.EPIPE, StoreError, "look at the cause"),
        ],
    )
    def test_each_error_of_a_disk_has_its_own_meaning(self, stored, monkeypatch, code, kind, message):
        monkeypatch.setattr(filesystem, "_LITTLE", 0)  # there is room
        error = translate(lmdb_error(code), str(stored))
        assert type(error) is kind
        assert str(error).startswith(f"the store at {str(stored)!r} ")
        with pytest.raises(kind, match=message):
            raise error

    def test_an_input_or_output_error_without_room_is_a_full_disk(self, stored, monkeypatch):
        monkeypatch.setattr(filesystem, "_LITTLE", 1 << 62)
        assert type(translate(lmdb_error(errno.EIO), str(stored))) is StoreFull

    def test_of_a_sync_it_says_what_is_in_doubt(self, stored):
        for code in (errno.EIO, errno.ENOSPC):
            assert "what was committed may not be on the disk" in str(
                translate(lmdb_error(code, "mdb_env_sync"), str(stored))
            )


# Read-only


class TestReadOnlyDisks:
    def test_a_store_on_a_disk_that_nobody_can_write_is_read_and_not_opened_for_writing(self, with_disk):
        with_disk("""
            with Store(path) as store:
                store["a"] = 1
            os.mkdir(disk + "/unlocked", 0o700)
            shutil.copy(path + "/data.mdb", disk + "/unlocked")
            os.chmod(disk + "/unlocked/data.mdb", 0o600)
            mount("-o", "remount,ro", "none", disk)
            for place in (path, disk + "/unlocked"):
                for immutable in (False, True):
                    with Store(place, "r", immutable=immutable) as store:
                        assert store == {"a": 1}
                        refused(lambda: store.set("b", 1), ReadOnlyStore)
            for flag in "wcn":
                assert "open it with flag 'r'" in refused(lambda: Store(path, flag), ReadOnlyStore)
            for flag in "cn":
                assert "name another place" in refused(lambda: Store(disk + "/new", flag), ReadOnlyStore)
            mount("-o", "remount,rw", "none", disk)
            with Store(path) as store:
                store["b"] = 2
        """)

    def test_a_store_that_others_may_write_where_it_is_mounted_once_more_is_not_read_without_locks(self, with_disk):
        with_disk("""
            os.mkdir(disk + "/data")
            os.mkdir(disk + "/mine")
            path = disk + "/data/a.store"
            with Store(path) as store:
                store["a"] = 1
            mount("--bind", disk + "/data", disk + "/mine")
            mount("-o", "remount,bind,ro", "none", disk + "/mine")
            mine = disk + "/mine/a.store"
            said = refused(lambda: Store(mine, "r"), StoreDenied)
            assert "others may write it" in said and "immutable=True if nobody writes" in said, said
            with Store(mine, "r", immutable=True) as store:
                assert store == {"a": 1}
            for flag in "wcn":
                refused(lambda: Store(mine, flag), ReadOnlyStore)
            with Store(path, "w") as store:
                assert store == {"a": 1}
        """)


class TestWhatMayOnlyBeRead:
    """Each of the three files alone, and the directory, refused to a user without rights."""

    @pytest.fixture
    def theirs(self, open_path):
        with Store(open_path) as store:
            store["a"] = 1
        if IS_ROOT:
            for name in (".", *FILES):
                os.chown(open_path / name, NOBODY, NOBODY)
        return open_path

    @pytest.mark.parametrize("name", ["data.mdb", "objstore.lock"])
    def test_without_the_data_or_our_file_a_reader_has_its_locks(self, theirs, name):
        (theirs / name).chmod(0o444)
        assert as_nobody(lambda: reading(theirs)) == {"a": 1}

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("flag", "wc")
    def test_one_who_wants_to_write_is_told_at_opening_which_file_is_refused(self, theirs, name, flag):
        (theirs / name).chmod(0o444)
        before = contents(theirs)
        error = as_nobody(lambda: Store(theirs, flag))
        assert type(error) is ReadOnlyStore
        assert repr(str(theirs / name)) in str(error)
        assert "open it with flag 'r', or mend its permissions" in str(error)
        assert contents(theirs) == before

    @pytest.mark.parametrize("mode", [0o444, 0o000, None], ids=["read-only", "closed", "missing"])
    def test_a_reader_who_cannot_lock_is_refused_unless_nobody_writes(self, theirs, mode):
        if mode is None:
            (theirs / "lock.mdb").unlink()
            theirs.chmod(0o500)
        else:
            (theirs / "lock.mdb").chmod(mode)
        error = as_nobody(lambda: reading(theirs))
        assert type(error) is StoreDenied
        assert repr(str(theirs / "lock.mdb")) in str(error)
        assert "pass immutable=True if nobody writes" in str(error)
        assert as_nobody(lambda: reading(theirs, immutable=True)) == {"a": 1}

    def test_so_is_one_who_cannot_say_that_it_reads(self, theirs):
        (theirs / "objstore.lock").unlink()
        theirs.chmod(0o500)
        error = as_nobody(lambda: reading(theirs))
        assert type(error) is StoreDenied
        assert "pass immutable=True if nobody writes" in str(error)
        assert as_nobody(lambda: reading(theirs, immutable=True)) == {"a": 1}

    def test_a_second_handle_that_wants_to_write_is_told_too(self, theirs):
        (theirs / "data.mdb").chmod(0o444)

        def both():
            with Store(theirs, "r"):
                Store(theirs, "w")

        error = as_nobody(both)
        assert type(error) is ReadOnlyStore
        assert "open it with flag 'r'" in str(error)

    def test_in_a_directory_that_cannot_be_written_a_store_is_written_but_not_replaced(self, theirs):
        theirs.chmod(0o500)

        def write():
            with Store(theirs, "w") as store:
                store["b"] = 2
                return dict(store)

        assert as_nobody(write) == {"a": 1, "b": 2}
        assert isinstance(as_nobody(lambda: Store(theirs, "n")), StoreDenied)
        assert as_nobody(lambda: reading(theirs)) == {"a": 1, "b": 2}


# File systems of several hosts


# Lines of machines: optional fields or none, blanks in names, one device at several places, a network in a local
# directory, a container, btrfs with subvolumes, a mount on a mount.
REAL = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 27 0:27 / /home/ada rw,nosuid,nodev shared:290 master:7 - nfs4 files:/home/ada rw,vers=4.2,hard,proto=tcp
32 27 0:28 / /mnt/two\040words\134x rw,relatime - cifs //files/share rw,vers=3.1.1
33 27 0:28 /part /mnt/again ro,relatime - cifs //files/share rw,vers=3.1.1
34 27 0:29 / /mnt/by\040ssh rw,nosuid - fuse.sshfs ada@host:/data rw,user_id=1000
35 27 0:30 / /run/user/1000/doc rw,nosuid shared:9 - fuse.portal portal rw,user_id=1000
36 27 0:31 /@home /srv rw,relatime shared:12 - btrfs /dev/sda2 rw,ssd,subvol=/@home
37 27 0:32 / /var/lib/box rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
38 27 0:33 / /media/cd ro,relatime - iso9660 /dev/sr0 ro,norock
39 27 254:0 /volumes /volume ro,relatime master:1 propagate_from:2 unbindable - ext4 /dev/vda rw,discard
40 36 0:34 / /srv/pool rw,relatime - glusterfs pool rw
41 40 0:35 / /srv/pool rw,relatime - tmpfs none rw
""".strip().splitlines()


class TestMounts:
    @pytest.fixture
    def table(self):
        return mounts(f"{line}\n" for line in REAL)

    def test_every_line_is_read(self, table):
        assert len(table) == len(REAL)
        assert [mount.kind for mount in table[:4]] == ["proc", "ext4", "nfs4", "cifs"]
        assert table[1].device == os.makedev(254, 0)

    def test_names_have_their_blanks_and_backslashes(self, table):
        assert table[3].point == "/mnt/two words\\x"
        assert table[5].point == "/mnt/by ssh"

    def test_a_file_system_is_read_only_where_all_of_it_is(self, table):
        assert [mount.point for mount in table if mount.read_only] == ["/media/cd"]

    @pytest.mark.parametrize(
        ("minor", "path", "kind"),
        [
            (27, "/home/ada/a.store", "nfs4"),
            (28, "/anywhere", "cifs"),
            (31, "/srv", "btrfs"),
            (777, "/srv/a.store", "btrfs"),  # a subvolume has a device that no line has
            (777, "/srv", "btrfs"),
            (777, "/srvice", "ext4"),
            (777, "/srv/pool/a", "tmpfs"),  # the upper one of two mounts at one place
            (777, "/var/lib/box/a", "overlay"),
            (777, "/somewhere/else", "ext4"),
        ],
    )
    def test_a_path_is_on_the_mount_of_its_device_or_on_the_innermost_around_it(self, table, minor, path, kind):
        assert find_mount(table, os.makedev(0, minor), path).kind == kind

    def test_an_empty_table_says_nothing(self):
        assert find_mount([], 5, "/") is None

    @pytest.mark.parametrize(
        ("kind", "refused"),
        [
            *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "afs", "ceph", "lustre", "gfs2", "beegfs")),
            *((kind, True) for kind in ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.ceph")),
            *((kind, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "fuseblk")),
            *((kind, False) for kind in ("fuse", "fuse.encfs", "fuse.gocryptfs", "vfat", "fuse.of-the-future")),
        ],
    )
    def test_what_several_hosts_may_write_is_known_by_its_type(self, kind, refused):
        assert (kind in filesystem.NETWORK) is refused

    @on_linux
    def test_the_table_of_this_machine_knows_where_things_are(self):
        with open(filesystem.MOUNTS) as file:
            table = mounts(file)
        assert find_mount(table, os.stat("/proc").st_dev, "/proc").kind == "proc"
        assert all(mount.point.startswith("/") for mount in table)


@pytest.fixture
def on_network(tmp_path, monkeypatch):
    """Lets the directory of the test be on a file system of a network."""
    device = os.stat(tmp_path).st_dev
    table = tmp_path / "mountinfo"
    table.write_text(f"27 1 {os.major(device)}:{os.minor(device)} / / rw shared:1 - nfs4 host:/ rw,vers=4.2\n")

    def switch():
        monkeypatch.setattr(filesystem, "MOUNTS", str(table))
        monkeypatch.setattr(filesystem, "_network", {})

    return switch


class TestNetworks:
    @pytest.mark.parametrize("flag", "rwcn")
    def test_a_store_there_is_refused_and_left_alone(self, stored, on_network, flag):
        before = contents(stored)
        on_network()
        with pytest.raises(StoreError, match=r"network file system \(nfs4\).*immutable=True, or pass network=True"):
            Store(stored, flag)
        assert contents(stored) == before

    @pytest.mark.parametrize("flag", "cn")
    def test_none_is_made_there(self, tmp_path, on_network, flag):
        on_network()
        with pytest.raises(StoreError, match="network file system"):
            Store(tmp_path / "deep" / "down" / "a.store", flag)
        assert os.listdir(tmp_path) == ["mountinfo"]

    def test_what_is_not_there_is_not_there(self, tmp_path, on_network):
        on_network()
        with pytest.raises(StoreNotFound):
            Store(tmp_path / "none", "r", network=True)

    def test_what_nobody_writes_can_be_read(self, stored, on_network):
        on_network()
        assert reading(stored, immutable=True) == {"a": 1}

    def test_one_who_takes_it_upon_himself_may_use_it(self, tmp_path, on_network):
        on_network()
        with Store(tmp_path / "a.store", network=True) as store:
            store["a"] = 1
            data = pickle.dumps(store)
        with pickle.loads(data) as again:
            assert again == {"a": 1}
            assert pickle.dumps(again) == data

    @pytest.mark.parametrize("text", [None, "", "of the future\n", "1 2 x:y / / rw - nfs4 a rw\n"])
    def test_where_nothing_is_known_it_is_allowed(self, tmp_path, path, on_network, text):
        on_network()
        if text is None:
            (tmp_path / "mountinfo").unlink()
        else:
            (tmp_path / "mountinfo").write_text(text)
        Store(path).close()

    def test_it_is_looked_up_once(self, path, on_network, monkeypatch):
        on_network()
        monkeypatch.setattr(filesystem, "NETWORK", frozenset())
        Store(path).close()
        monkeypatch.setattr(filesystem, "NETWORK", frozenset({"nfs4"}))
        Store(path).close()


# What others put into the place of a file


def planted(path, name, kind, victim):
    """Put something into the place of a file of a store; what it leads to must stay as it is."""
    file = path / name
    if file.exists():
        file.unlink()
    if kind == "file":
        victim.write_text("precious")
    elif kind == "directory":
        victim.mkdir()
        (victim / "letter").write_text("precious")
    file.symlink_to(victim)


def untouched(kind, victim):
    if kind == "nothing":
        return not os.path.lexists(victim)
    if kind == "file":
        return victim.read_text() == "precious"
    return contents(victim) == {"letter": b"precious"}


class TestPlantedLinks:
    @pytest.mark.parametrize("permissions", ["private", "umask"])
    @pytest.mark.parametrize("kind", ["file", "nothing", "directory"])
    @pytest.mark.parametrize("name", [*FILES, "objstore.making"])
    def test_a_symbolic_link_is_refused_and_not_followed(self, stored, tmp_path, name, kind, permissions):
        victim = tmp_path / "victim"
        planted(stored, name, kind, victim)
        before = {other: (stored / other).read_bytes() for other in FILES if other != name}
        for flag, immutable in (*((flag, False) for flag in "rwcn"), ("r", True)):
            with pytest.raises(StoreDenied, match=f"{name}' is a symbolic link, which no store has"):
                Store(stored, flag, permissions=permissions, immutable=immutable)
            assert untouched(kind, victim)
            assert os.path.islink(stored / name)
        assert {other: (stored / other).read_bytes() for other in before} == before

    @pytest.mark.parametrize("kind", ["file", "nothing", "directory"])
    @pytest.mark.parametrize("name", [*FILES, "objstore.making"])
    def test_also_where_there_is_no_store_yet(self, path, tmp_path, name, kind):
        path.mkdir(0o700)
        planted(path, name, kind, tmp_path / "victim")
        for flag in "rwcn":
            with pytest.raises((StoreDenied, StoreNotFound)):
                Store(path, flag)
            assert untouched(kind, tmp_path / "victim")
        assert os.listdir(path) == [name]

    def test_one_to_the_whole_directory_is_fine(self, stored, tmp_path):
        (tmp_path / "link").symlink_to(stored)
        for flag in "rwcn":
            with Store(tmp_path / "link", flag) as store:
                assert store == ({} if flag == "n" else {"a": 1})

    @pytest.mark.parametrize("name", [*FILES, "objstore.making"])
    @pytest.mark.parametrize("kind", ["pipe", "directory or file"])
    def test_what_is_no_file_at_all_is_refused_and_hangs_nobody(self, stored, name, kind):
        if (stored / name).exists():
            (stored / name).unlink()
        if kind == "pipe":
            os.mkfifo(stored / name, 0o600)
        elif name == "objstore.making":
            (stored / name).touch(0o600)
        else:
            (stored / name).mkdir(0o700)
        run(
            """
            import sys
            from objstore import *
            for flag, immutable in ("r", False), ("w", False), ("c", False), ("n", False), ("r", True):
                try:
                    Store(sys.argv[1], flag, immutable=immutable)
                except StoreDenied as exc:
                    assert "not the kind of file that a store has; remove" in str(exc), exc
                else:
                    raise AssertionError(flag)
            """,
            stored,
            seconds=30,
        )

    @pytest.mark.parametrize("permissions", ["private", "umask"])
    @pytest.mark.parametrize("name", FILES)
    def test_a_file_with_two_names_is_refused_but_can_be_read_where_nobody_writes(
        self, stored, tmp_path, name, permissions
    ):
        os.link(stored / name, tmp_path / "another")
        before = contents(stored)
        for flag in "rwcn":
            with pytest.raises(StoreDenied, match=rf"{name}' has 2 names \(hard links\).*put a copy in its place"):
                Store(stored, flag, permissions=permissions)
        assert contents(stored) == before
        assert reading(stored, immutable=True, permissions=permissions) == {"a": 1}
        # What the message says helps.
        shutil.copy2(stored / name, tmp_path / "copy")
        os.replace(tmp_path / "copy", stored / name)
        with Store(stored, permissions=permissions) as store:
            assert store == {"a": 1}


# Owners and modes


class TestOwners:
    @pytest.mark.parametrize("name", [".", *FILES])
    @needs_root
    def test_what_another_user_owns_is_refused(self, open_path, name):
        with Store(open_path) as store:
            store["a"] = 1
        os.chown(open_path / name, NOBODY, NOBODY)
        for flag, immutable in (*((flag, False) for flag in "rwcn"), ("r", True)):
            with pytest.raises(StoreDenied, match=r"is owned by another user.* chown .*permissions='umask'") as caught:
                Store(open_path, flag, immutable=immutable)
            assert repr(os.path.normpath(open_path / name)) in str(caught.value)
        with Store(open_path, permissions="umask") as store:
            assert store == {"a": 1}

    @needs_root
    def test_what_root_owns_is_trusted(self, open_path):
        with Store(open_path, permissions="umask") as store:
            store["a"] = 1
        (open_path / "data.mdb").chmod(0o644)
        os.chown(open_path / "lock.mdb", NOBODY, NOBODY)
        assert as_nobody(lambda: reading(open_path)) == {"a": 1}

    @needs_root
    def test_a_user_is_not_trusted_by_another_one(self, open_path):
        def make():
            Store(open_path, permissions="umask").close()

        open_path.parent.chmod(0o777)
        assert as_nobody(make) is None
        for options in ({}, {"flag": "r"}, {"flag": "n"}, {"flag": "r", "immutable": True}):
            with pytest.raises(StoreDenied, match="is owned by another user"):
                Store(open_path, **options)

    @pytest.mark.parametrize("bit", [0o020, 0o002])
    @pytest.mark.parametrize("name", [".", *FILES])
    def test_what_others_can_write_is_refused_and_named(self, stored, name, bit):
        place = Path(os.path.normpath(stored / name))
        place.chmod(stat.S_IMODE(place.stat().st_mode) | bit)
        for flag, immutable in (*((flag, False) for flag in "rwcn"), ("r", True)):
            with pytest.raises(StoreDenied, match=r"can be written by others.* chmod go-w") as caught:
                Store(stored, flag, immutable=immutable)
            assert repr(str(place)) in str(caught.value)
        with Store(stored, permissions="umask") as store:
            assert store == {"a": 1}
        place.chmod(stat.S_IMODE(place.stat().st_mode) & ~0o022)
        with Store(stored) as store:
            assert store == {"a": 1}

    def test_a_parent_that_all_share_is_no_matter(self, tmp_path):
        parent = tmp_path / "shared"
        parent.mkdir()
        parent.chmod(0o1777)
        for _ in range(2):
            Store(parent / "a.store").close()


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(path):
    return {name: stat.S_IMODE((path / name).stat().st_mode) for name in (".", *os.listdir(path))}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], indirect=True, ids=oct)
class TestModes:
    @pytest.mark.parametrize("permissions", ["private", "umask"])
    def test_they_are_exact_whatever_is_done(self, path, umask, permissions):
        private = permissions == "private"
        file = 0o600 if private else 0o666 & ~umask
        expected = {".": 0o700 if private else 0o777 & ~umask, **dict.fromkeys(FILES, file)}

        def check(flag, **options):
            with Store(path, flag, permissions=permissions, **options) as store:
                assert modes(path) == expected
                if flag != "r":
                    store["a"] = bytes(100_000)
            assert modes(path) == expected

        check("c", durability="process")
        check("n", durability="process")
        check("w")
        check("r")
        for name in ("lock.mdb", "objstore.lock"):  # made anew
            (path / name).unlink()
            check("w")
        check("n")

    def test_parents_that_are_made_are_not_for_others_to_write(self, tmp_path, umask):
        Store(tmp_path / "some" / "where" / "a.store").close()
        assert modes(tmp_path / "some")["where"] == 0o755 & ~umask
        Store(tmp_path / "any" / "where" / "a.store", permissions="umask").close()
        assert modes(tmp_path / "any")["where"] == 0o777 & ~umask

    @pytest.mark.parametrize("flag", "cn")
    def test_a_private_store_is_not_open_to_others_for_a_moment(self, path, umask, flag):
        seen = set()

        def look(*_):
            sys.setprofile(None)
            for place, directories, files in os.walk(path):
                for name in (".", *directories, *files):
                    seen.add((name, stat.S_IMODE(os.lstat(os.path.join(place, name)).st_mode)))
            sys.setprofile(look)  # before and after each call, also of what is written in C

        if flag == "n":
            Store(path).close()
        sys.setprofile(look)
        try:
            store = Store(path, flag, durability="process")
            store["a"] = 1
            store.close()
        finally:
            sys.setprofile(None)
        assert {(name, mode) for name, mode in seen if mode & 0o077} == set()
        assert {"objstore.making", *FILES} <= {name for name, _ in seen}
