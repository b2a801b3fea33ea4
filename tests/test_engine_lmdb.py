"""The embedded engine: the contract, and what LMDB, its files and its processes ask for."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import struct
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace

import lmdb
import pytest
from contract_engine import LETTERS, EngineContract, error_of, fill, user_keys, writing
from programs import begun

from objstore.engines import connect
from objstore.engines.base import DURABILITY_KEY
from objstore.engines.lmdb import directory as directory_module
from objstore.engines.lmdb import engine as engine_module
from objstore.engines.lmdb import opening
from objstore.engines.lmdb.datafile import check_whole
from objstore.engines.lmdb.directory import boot_id, text_of
from objstore.errors import (
    ReadOnlyStore,
    StoreClosed,
    StoreCorrupt,
    StoreDenied,
    StoreFull,
    StoreLocked,
    StoreNotFound,
    StoreSuspect,
    TransactionError,
)

PAGE = 4096

# What a child process begins with.  It says a word when it is somewhere, and waits for one to go on.
CHILD = """
import os, resource, signal, sys
from objstore.engines import connect
from objstore.errors import *

path = sys.argv[1]

def say(word):
    print(word, flush=True)

def wait():
    assert sys.stdin.readline()
"""


@contextmanager
def opened(path, flag="c", durability=None, **options):
    engine = connect(path, flag, {}, durability, **options)
    try:
        yield engine
    finally:
        engine.release()


@contextmanager
def child(code, path):
    """A process that runs `code`; it is killed at the end of the block if it still runs."""
    process = begun(CHILD + code, [str(path)])
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def hear(process):
    return process.stdout.readline().strip()


def tell(process):
    process.stdin.write("go on\n")
    process.stdin.flush()


def run(code, path):
    """What a process says, from its beginning to its end."""
    process = begun(CHILD + code, [str(path)], stdin=False, stderr=True)
    printed, _ = process.communicate(timeout=60)
    return process.returncode, printed.split()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def stored(path):
    """The path of a store that has the letters and is closed."""
    with opened(path) as engine:
        fill(engine)
    return path


@pytest.fixture
def hasty(monkeypatch):
    """A clock on which every look is a second later, so that waiting takes no time."""
    seconds = iter(range(10**9))
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _seconds: None)
    monkeypatch.setattr(engine_module, "time", clock)
    monkeypatch.setattr(directory_module, "time", clock)
    return clock


class TestLmdbEngine(EngineContract):
    @pytest.fixture
    def engine(self, path):
        with opened(path, durability="process") as engine:
            yield engine

    @pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
    def test_what_is_committed_is_there_when_it_is_opened_again(self, path, durability):
        with opened(path, durability=durability) as engine:
            fill(engine)
        with opened(path) as engine:
            assert engine.durability == durability
            assert user_keys(engine.read()) == LETTERS

    def test_a_key_that_is_too_long_is_an_error_of_ours(self, engine):
        with writing(engine) as writer:
            assert error_of(lambda: writer.put(b"\x10" * 512, b"")).__module__ == "objstore.errors"

    def test_a_savepoint_in_use_blocks_the_writer_around_it(self, engine):
        with writing(engine) as writer:
            inner = writer.savepoint()
            with pytest.raises(TransactionError, match="open savepoint blocks"):
                writer.put(b"\x10k", b"")
            inner.abort()
            writer.put(b"\x10k", b"")

    def test_a_closed_engine_says_so(self, stored):
        with opened(stored) as engine:
            pass
        for use in (
            lambda: engine.get(b"\x10a"),
            lambda: engine.contains(b"\x10a", b"\x10a"),
            engine.read,
            engine.write,
            engine.sync,
            engine.stats,
        ):
            with pytest.raises(StoreClosed):
                use()


class TestOneEnvironmentForAll:
    def test_every_way_to_a_directory_leads_to_one_engine(self, stored, tmp_path, monkeypatch):
        link = tmp_path / "link"
        link.symlink_to(stored)
        monkeypatch.chdir(tmp_path)
        ways = [stored, str(stored), link, "store", "./link", f"lmdb://{stored}", str(stored) + "/", "store/../store"]
        engines = [connect(way, "c", {}, None) for way in ways]
        assert all(engine is engines[0] for engine in engines)
        for engine in engines:
            assert engine.get(b"\x10a") == b"a"
            engine.release()
        with pytest.raises(StoreClosed):
            engine.get(b"\x10a")

    def test_it_closes_with_the_last_of_its_handles_and_opens_anew(self, stored):
        first, second = connect(stored, "c", {}, None), connect(stored, "r", {}, None)
        first.release()
        assert second.get(b"\x10a") == b"a"
        second.release()
        with opened(stored) as third:
            assert third is not first
            assert third.get(b"\x10a") == b"a"

    @pytest.mark.parametrize(
        "options", [{"map_size": 1 << 25}, {"max_readers": 7}, {"readahead": False}, {"immutable": True}], ids=str
    )
    def test_options_that_contradict_those_of_the_open_environment_are_refused(self, stored, options):
        with opened(stored), pytest.raises(StoreLocked, match=f"leave {next(iter(options))} out"):
            connect(stored, "r", {}, None, **options)

    def test_options_that_agree_or_are_left_out_are_taken(self, stored):
        options = {"map_size": 1 << 25, "max_readers": 7, "readahead": False}
        with opened(stored, **options) as first, opened(stored, **options) as second, opened(stored) as third:
            assert first is second is third

    def test_another_durability_and_flag_n_are_refused(self, stored):
        with opened(stored):
            with pytest.raises(StoreLocked, match="leave durability out"):
                connect(stored, "c", {}, "relaxed")
            with pytest.raises(StoreLocked, match="close it first"):
                connect(stored, "n", {}, None)
            with opened(stored, durability="full") as engine:
                assert user_keys(engine.read()) == LETTERS

    def test_a_replaced_directory_is_another_store(self, stored, tmp_path):
        with opened(stored) as old:
            stored.rename(tmp_path / "elsewhere")
            with opened(stored) as new:
                assert new is not old
                assert user_keys(new.read()) == []
                assert user_keys(old.read()) == LETTERS


class TestMap:
    def test_the_map_is_reserved_and_the_file_is_small(self, stored):
        with opened(stored) as engine:
            figures = engine.stats()
        assert figures["map_bytes"] >= 1 << 30
        assert figures["file_bytes"] <= 1 << 20
        assert (stored / "data.mdb").stat().st_size <= 1 << 20

    def test_a_map_of_a_given_size_is_of_that_size(self, stored):
        with opened(stored, map_size=1 << 25) as engine:
            assert engine.stats()["map_bytes"] == 1 << 25

    def test_a_full_map_leaves_everything_stored_intact_and_usable(self, stored):
        with opened(stored, map_size=1 << 20) as engine:
            with pytest.raises(StoreFull, match="larger map_size"):
                engine.transact(lambda writer: writer.put(b"\x10big", bytes(2 << 20)))
            with writing(engine) as writer, pytest.raises(StoreFull):
                for number in range(1000):
                    writer.put(b"\x10%d" % number, bytes(PAGE))
            assert [engine.get(key) for key in LETTERS] == [key[1:] for key in LETTERS]
            engine.transact(lambda writer: writer.delete(b"\x10a"))
            engine.transact(lambda writer: writer.put(b"\x10f", b"f"))
            assert user_keys(engine.read()) == [*LETTERS[1:], b"\x10f"]
        with opened(stored) as engine:
            engine.transact(lambda writer: writer.put(b"\x10big", bytes(2 << 20)))
            assert len(user_keys(engine.read())) == 6

    def test_room_that_was_made_in_a_full_map_is_room_two_commits_later(self, path):
        with opened(path, "c", "process", map_size=1 << 20) as engine:
            for _ in range(3):
                count = 0
                with pytest.raises(StoreFull):
                    while True:
                        engine.transact(lambda writer, n=count: writer.put(b"\x10%05d" % n, bytes(PAGE)))
                        count += 1
                assert len(user_keys(engine.read())) == count > 50
                engine.transact(lambda writer: writer.delete_range(b"\x1000010", None))
                fill(engine, [b"\x1000000"])
                fill(engine, [b"\x1000001"])
                assert len(user_keys(engine.read())) == 10

    SCARCE = """
def limit(more):
    resource.setrlimit(resource.RLIMIT_AS, (more, resource.getrlimit(resource.RLIMIT_AS)[1]))

used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit(used + (200 << 20))
engine = connect(path, "c", {}, "process")
first = engine.stats()["map_bytes"]
say(first)
record = bytes(1 << 20)

def store(number):
    engine.transact(lambda writer: writer.put(b"\\x10%05d" % number, record))

def stored():
    reader = engine.read()
    return all(reader.get(key) == record for key in reader.scan_keys(b"\\x10")) and reader.count() - 1
"""

    def test_where_address_space_is_scarce_the_map_is_smaller_and_grows(self, path):
        code, said = run(
            self.SCARCE
            + """
limit(resource.RLIM_INFINITY)
count = (first >> 20) + 20
for number in range(count):
    store(number)
say(engine.stats()["map_bytes"])
say(stored() == count)
engine.release()
""",
            path,
        )
        assert code == 0
        first, grown, whole = said
        assert 1 << 24 <= int(first) < 200 << 20
        assert int(grown) > int(first)
        assert whole == "True"

    def test_a_map_that_cannot_grow_leaves_everything_stored_intact_and_usable(self, path):
        code, said = run(
            self.SCARCE
            + """
count = 0
try:
    while True:
        store(count)
        count += 1
except StoreFull:
    say("full")
say(stored() == count)
engine.transact(lambda writer: writer.delete_range(b"\\x1000000", b"\\x1000003"))
engine.transact(lambda writer: writer.put(b"\\x1000001", record[:0]))
engine.transact(lambda writer: writer.delete(b"\\x1000001"))
store(0)
say(stored() == count - 2)
say(engine.stats()["map_bytes"] >= first)
engine.release()
""",
            path,
        )
        assert said[1:] == ["full", "True", "True", "True"]
        assert code == 0

    def test_another_process_that_grows_the_map_is_followed(self, path):
        with opened(path, "c", "process", map_size=1 << 20) as engine:
            fill(engine)
            assert run(STORE_8_MB, path)[0] == 0
            assert len(engine.get(b"\x10big")) == 8 << 20
            assert user_keys(engine.read()) == [b"\x10a", b"\x10b", b"\x10big", *LETTERS[2:]]


STORE_8_MB = """
engine = connect(path, "c", {}, None)
engine.transact(lambda writer: writer.put(b"\\x10big", bytes(8 << 20)))
engine.release()
"""

HOLD_A_READER = """
engine = connect(path, "w", {}, None, max_readers=3)
reader = engine.read()
reader.count()
say("reading")
wait()
"""


class TestReaders:
    @pytest.fixture
    def stored(self, stored):
        """Without a table of readers, which would keep the size that it has."""
        (stored / "lock.mdb").unlink()
        return stored

    def test_readers_that_were_killed_are_cleared_away_at_open(self, stored):
        with child(HOLD_A_READER, stored) as alive, child(HOLD_A_READER, stored) as dead:
            assert [hear(alive), hear(dead)] == ["reading", "reading"]
            dead.send_signal(signal.SIGKILL)
            dead.wait()
            with opened(stored) as engine:
                readers = engine._environment.readers()
            assert str(alive.pid) in readers
            assert str(dead.pid) not in readers

    def test_readers_that_are_killed_later_make_room_for_others(self, stored, hasty):
        with opened(stored, max_readers=3) as engine, child(HOLD_A_READER, stored) as dead:
            assert hear(dead) == "reading"
            readers = [engine.read(), engine.read()]
            with pytest.raises(StoreLocked):
                engine.read()
            dead.send_signal(signal.SIGKILL)
            dead.wait()
            readers.append(engine.read())
            assert [user_keys(reader) for reader in readers] == [LETTERS] * 3

    def test_when_all_slots_are_taken_it_says_so(self, stored, hasty):
        with opened(stored, max_readers=2) as engine:
            readers = [engine.read(), engine.read()]
            for use in (engine.read, lambda: engine.get(b"\x10a"), lambda: engine.contains(b"\x10a", b"\x10a")):
                with pytest.raises(StoreLocked, match=r"all 2 reader slots.*larger max_readers"):
                    use()
            engine.transact(lambda writer: writer.put(b"\x10f", b""))
            readers.pop()
            assert engine.get(b"\x10a") == b"a"
            assert engine.get(b"\x10f") == b""

    def test_it_waits_for_a_slot(self, stored, hasty):
        with opened(stored, max_readers=1) as engine:
            readers = [engine.read()]
            hasty.sleep = lambda _seconds: readers.clear()
            assert engine.get(b"\x10a") == b"a"

    def test_the_table_has_the_size_that_its_first_opener_gave_it(self, stored, hasty):
        with child(HOLD_A_READER, stored) as first:
            assert hear(first) == "reading"
            with opened(stored, max_readers=100) as engine:
                readers = [engine.read(), engine.read()]
                with pytest.raises(StoreLocked, match="all 3 reader slots"):
                    engine.read()
                assert len(readers) == 2

    def test_reader_slots_are_given_back(self, stored):
        with opened(stored, max_readers=3) as engine:
            for _ in range(100):
                reader = engine.read()
                found = reader.scan(b"\x10")
                next(found)
                engine.get(b"\x10a")
                engine.transact(lambda writer: writer.put(b"\x10f", b""))
                del reader, found


def metas(path):
    """Magic and version of the two meta pages."""
    data = (path / "data.mdb").read_bytes()
    return [struct.unpack_from("<II", data, page * PAGE + 16) for page in (0, 1)]


class TestFiles:
    def test_the_format_is_that_of_lmdb_0_9(self, stored):
        assert metas(stored) == [(0xBEEFC0DE, 1)] * 2
        with lmdb.open(str(stored), lib_version=0) as environment, environment.begin() as txn:
            assert txn.get(b"\x10a") == b"a"

    def test_a_directory_holds_three_files(self, path):
        with opened(path):
            assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]
        assert text_of((path / "objstore.lock").read_bytes()) == "objstore 1\n"

    @pytest.fixture
    def umask(self, request):
        before = os.umask(request.param)
        yield request.param
        os.umask(before)

    @staticmethod
    def modes(path):
        return {name: stat.S_IMODE((path / name).stat().st_mode) for name in (".", *os.listdir(path))}

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], indirect=True, ids=oct)
    def test_a_private_store_is_for_its_owner_alone(self, path, umask):
        private = {".": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600, "objstore.lock": 0o600}
        with opened(path) as engine:
            assert self.modes(path) == private
            fill(engine)
        (path / "lock.mdb").unlink()
        with opened(path):
            assert self.modes(path) == private

    @pytest.mark.parametrize("umask", [0o000, 0o027, 0o077], indirect=True, ids=oct)
    def test_with_umask_the_user_decides(self, path, umask):
        file = 0o666 & ~umask
        with opened(path, private=False):
            expected = {".": 0o777 & ~umask, "data.mdb": file, "lock.mdb": file, "objstore.lock": file}
            assert self.modes(path) == expected

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_a_private_store_in_a_directory_that_others_write_is_refused(self, stored, mode):
        stored.chmod(mode)
        with pytest.raises(StoreDenied, match="chmod go-w"):
            connect(stored, "r", {}, None)
        with opened(stored, "r", private=False) as engine:
            assert user_keys(engine.read()) == LETTERS

    @pytest.mark.parametrize("flag", "rwcn")
    @pytest.mark.parametrize("target", ["file", "nothing"])
    def test_a_planted_symlink_in_the_place_of_our_file_is_refused(self, stored, tmp_path, flag, target):
        victim = tmp_path / "victim"
        if target == "file":
            victim.write_text("precious")
        (stored / "objstore.lock").unlink()
        (stored / "objstore.lock").symlink_to(victim)
        with pytest.raises(StoreDenied, match="is a symbolic link"):
            connect(stored, flag, {}, None)
        assert victim.exists() == (target == "file")
        assert not victim.exists() or victim.read_text() == "precious"

    def test_an_immutable_store_is_read_without_a_trace(self, stored):
        (stored / "lock.mdb").unlink()
        (stored / "objstore.lock").unlink()
        with opened(stored, "r", immutable=True) as engine:
            assert user_keys(engine.read()) == LETTERS
            with pytest.raises(ReadOnlyStore):
                engine.write()
        assert os.listdir(stored) == ["data.mdb"]

    def test_an_immutable_store_is_for_reading(self, stored):
        with pytest.raises(ValueError, match="open with flag 'r'"):
            connect(stored, "c", {}, None, immutable=True)


READ_CUT_COPIES = """
from pathlib import Path
data = Path(path, "data.mdb").read_bytes()
right = eval(sys.stdin.readline())
cut = path + ".cut"
os.mkdir(cut, 0o700)
for size in [*range(0, len(data), 4096), *range(1, len(data), 4096 + 1111), len(data)]:
    for name in os.listdir(cut):
        os.unlink(os.path.join(cut, name))
    Path(cut, "objstore.lock").write_text("objstore 1\\n")
    Path(cut, "data.mdb").write_bytes(data[:size])
    try:
        engine = connect(cut, "r", {}, None)
    except StoreCorrupt:
        continue
    reader = engine.read()
    found = {key: hash(record) for key, record in reader.scan(b"\\x10")}
    say(f"{size == len(data)}-{found == {key: hash(bytes(length)) for key, length in right.items()}}")
    engine.release()
"""


class TestCheckWhole:
    @staticmethod
    def cut_everywhere(path, sizes):
        """What becomes of a store that is cut short at each page and between: all that could be opened, and how."""
        with child(READ_CUT_COPIES, path) as process:
            said, _ = process.communicate(f"{sizes}\n")
        assert process.returncode == 0
        return said.split()

    def test_a_file_cut_short_anywhere_is_found_or_intact(self, path):
        sizes = {b"\x10%03d" % number: number * 100 for number in range(100)}
        with opened(path, "c", "process") as engine:
            for key, size in sizes.items():
                engine.transact(lambda writer, key=key, size=size: writer.put(key, bytes(size)))
        said = self.cut_everywhere(path, sizes)
        assert set(said) <= {"False-True", "True-True"}
        assert said[-1] == "True-True"

    def test_a_file_that_lacks_free_pages_and_is_cut_short_is_found_or_intact(self, short):
        said = self.cut_everywhere(short, {b"\x10k": 20_000})
        assert set(said) <= {"False-True", "True-True"}
        assert said[-1] == "True-True"

    def test_pages_that_were_used_and_freed_in_one_transaction_need_not_be_in_the_file(self, short):
        assert (short / "data.mdb").stat().st_size < 500_000
        check_whole(short)
        with opened(short) as engine:
            assert engine.stats()["file_bytes"] > 500_000
            assert len(engine.get(b"\x10k")) == 20_000

    @pytest.mark.parametrize("seed", range(6))
    def test_a_whole_file_is_never_refused(self, path, seed):
        chance = random.Random(seed)
        with opened(path, "c", "process") as engine:
            for _ in range(200):
                with writing(engine) as writer:
                    for _ in range(chance.randrange(1, 8)):
                        key = b"\x10%03d" % chance.randrange(60)
                        if chance.random() < 0.6:
                            writer.put(key, bytes(chance.choice((10, 100, 3000, 5000, 20_000, 200_000))))
                        else:
                            writer.delete(key)
                    writer.commit()
                check_whole(path)

    def test_a_snapshot_that_makes_the_file_grow_does_not_make_it_suspect(self, path):
        with opened(path, "c", "process") as engine:
            readers = []
            for number in range(60):
                engine.transact(lambda writer, n=number: writer.put(b"\x10k", bytes(n * 1000)))
                readers.append(engine.read())
                check_whole(path)
            assert [len(reader.get(b"\x10k")) for reader in readers] == list(range(0, 60_000, 1000))

    @pytest.mark.parametrize("content", [b"", b"x", bytes(PAGE), bytes(2 * PAGE), b"\xff" * 2 * PAGE], ids=len)
    def test_what_is_no_file_of_lmdb_is_found(self, tmp_path, content):
        (tmp_path / "data.mdb").write_bytes(content)
        with pytest.raises(StoreCorrupt, match="no LMDB file; restore a backup"):
            check_whole(tmp_path)

    @pytest.fixture
    def short(self, path):
        """The path of a whole file that lacks free pages at its end."""
        with opened(path, "c", "process") as engine:
            for _ in range(4):
                engine.transact(lambda writer: writer.put(b"\x10k", bytes(20_000)))
            with writing(engine) as writer:
                for key in LETTERS:
                    writer.put(key, bytes(100_000))
                writer.delete_range(b"\x10a", b"\x10f")
                writer.commit()
        return path

    @pytest.mark.parametrize("kind", ["stored", "short"])
    def test_a_damaged_meta_page_is_found_or_does_not_matter(self, request, kind):
        path = request.getfixturevalue(kind)
        data = (path / "data.mdb").read_bytes()
        with (path / "data.mdb").open("r+b", buffering=0) as file:
            for place in (*range(16, 152), *range(PAGE + 16, PAGE + 152)):
                for changed in {data[place] ^ 1 << bit for bit in range(8)} | {0, 0xFF}:
                    os.pwrite(file.fileno(), bytes((changed,)), place)
                    with suppress(StoreCorrupt):
                        check_whole(path)
                os.pwrite(file.fileno(), data[place : place + 1], place)
        check_whole(path)

    @pytest.mark.parametrize("seed", range(3))
    def test_damage_anywhere_in_the_list_of_free_pages_is_found_or_does_not_matter(self, short, seed):
        chance = random.Random(seed)
        data = (short / "data.mdb").read_bytes()
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(chance.randrange(1, 100)):
                damaged[chance.randrange(2 * PAGE, len(data))] = chance.choice(
                    (0, 1, 2, 0x7F, 0xFF, chance.randrange(256))
                )
            (short / "data.mdb").write_bytes(damaged)
            with suppress(StoreCorrupt):
                check_whole(short)

    def test_one_damaged_meta_page_leaves_the_other(self, stored):
        data = bytearray((stored / "data.mdb").read_bytes())
        data[PAGE + 16 : PAGE + 20] = b"junk"
        (stored / "data.mdb").write_bytes(data)
        check_whole(stored)


class TestDurability:
    def test_a_new_store_is_full_and_says_so_on_disk(self, path):
        with opened(path) as engine:
            assert engine.durability == "full"
            assert engine.get(DURABILITY_KEY) == b"full"

    @pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
    def test_what_was_asked_for_first_is_recorded(self, path, durability):
        with opened(path, "c", durability):
            pass
        for flag in "rwc":
            with opened(path, flag) as engine:
                assert engine.durability == durability
                flags = engine._environment.flags()
                assert (flags["sync"], flags["metasync"]) == (durability != "process", durability == "full")

    @pytest.mark.parametrize("before", ["full", "relaxed", "process"])
    @pytest.mark.parametrize("after", ["full", "relaxed", "process"])
    def test_the_only_opener_may_change_it(self, path, before, after):
        with opened(path, "c", before) as engine:
            fill(engine)
        with opened(path, "c", after) as engine:
            assert engine.durability == after
            assert engine._environment.flags()["sync"] == (after != "process")
            engine.transact(lambda writer: writer.put(b"\x10f", b""))
        with opened(path) as engine:
            assert engine.durability == after
            assert user_keys(engine.read()) == [*LETTERS, b"\x10f"]
        assert text_of((path / "objstore.lock").read_bytes()) == "objstore 1\n"

    def test_one_of_several_openers_may_not(self, stored):
        with child(HOLD_A_READER, stored) as other:
            assert hear(other) == "reading"
            with pytest.raises(StoreLocked, match="leave durability out"):
                connect(stored, "c", {}, "process")
        with opened(stored) as engine:
            assert engine.durability == "full"

    def test_a_reader_may_not(self, stored):
        with pytest.raises(ReadOnlyStore, match="leave durability out"):
            connect(stored, "r", {}, "process")
        with opened(stored, "r", "full") as engine:
            assert engine.durability == "full"

    @pytest.mark.parametrize("durability", ["", "fsync", "FULL", 1])
    def test_others_are_not_known(self, path, durability):
        with pytest.raises(ValueError, match="durability is one of 'full', 'relaxed', 'process'"):
            connect(path, "c", {}, durability)
        assert not path.exists()

    def test_unsynced_writes_leave_a_mark_until_the_last_one_closes(self, path):
        ours = path / "objstore.lock"
        with opened(path, "c", "process") as engine:
            assert text_of(ours.read_bytes()) == "objstore 1\n"
            fill(engine)
            assert text_of(ours.read_bytes()) == f"objstore 1\ndirty {boot_id()}\n"
        assert text_of(ours.read_bytes()) == "objstore 1\n"

    def test_a_process_that_dies_leaves_the_mark_and_the_store_stays_usable(self, path):
        die = 'connect(path, "c", {}, "process").transact(lambda writer: writer.put(b"\\x10k", b"")); os._exit(0)'
        assert run(die, path)[0] == 0
        assert text_of((path / "objstore.lock").read_bytes()) == f"objstore 1\ndirty {boot_id()}\n"
        with opened(path) as engine:
            assert user_keys(engine.read()) == [b"\x10k"]
        assert text_of((path / "objstore.lock").read_bytes()) == "objstore 1\n"

    @pytest.mark.parametrize("flag", "rwc")
    def test_a_mark_of_another_boot_makes_the_store_suspect(self, stored, flag):
        (stored / "objstore.lock").write_text("objstore 1\ndirty 00000000-0000-0000-0000-000000000000\n")
        with pytest.raises(StoreSuspect, match="restore a backup"):
            connect(stored, flag, {}, None)


OPEN_AND_HOLD = """
say("started")
wait()
engine = connect(path, "c", {}, None)
engine.transact(lambda writer: writer.put(b"\\x10%d" % os.getpid(), b""))
say("open")
wait()
engine.release()
"""

COME_TOGETHER = """
import objstore.engines.lmdb.directory as directory

def make_together(self, flag, make, make_now=directory.Directory._make):
    say("saw none")
    wait()
    make_now(self, flag, make)

directory.Directory._make = make_together
"""

COME_LATE = """
from types import SimpleNamespace
import objstore.engines.lmdb.directory as directory

def unlock_and_wait(self, unlock=directory.Directory._unlock):
    directory.Directory._unlock = unlock
    unlock(self)
    say("about to make")
    wait()

seconds = iter(range(10**9))
directory.Directory._unlock = unlock_and_wait
directory.time = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _seconds: None)
"""

DIE_WHILE_MAKING = """
import objstore.engines.lmdb.directory as directory
place, name = {place}, "{name}"
setattr(place, name, lambda *_, **__: os._exit(7))
connect(path, "c", {{}}, None)
"""


class TestMaking:
    def test_all_who_make_one_store_at_once_have_it(self, path):
        with ExitStack() as stack:
            processes = [stack.enter_context(child(OPEN_AND_HOLD, path)) for _ in range(8)]
            assert [hear(process) for process in processes] == ["started"] * 8
            for process in processes:
                tell(process)
            assert [hear(process) for process in processes] == ["open"] * 8
            for process in processes:
                tell(process)
            assert [process.wait() for process in processes] == [0] * 8
        with opened(path, "w") as engine:
            assert set(user_keys(engine.read())) == {b"\x10%d" % process.pid for process in processes}

    def test_all_who_saw_at_once_that_there_is_no_store_agree_on_one(self, path):
        with ExitStack() as stack:
            processes = [stack.enter_context(child(COME_TOGETHER + OPEN_AND_HOLD, path)) for _ in range(8)]
            for word in ("started", "saw none", "open"):
                assert [hear(process) for process in processes] == [word] * 8
                for process in processes:
                    tell(process)
            assert [process.wait() for process in processes] == [0] * 8
        with opened(path, "w") as engine:
            assert engine.read().count() == 1 + 8

    def test_one_who_was_about_to_make_a_store_takes_what_another_made_and_holds(self, path):
        with child(COME_LATE + OPEN_AND_HOLD, path) as late, child(OPEN_AND_HOLD, path) as early:
            assert [hear(late), hear(early)] == ["started", "started"]
            tell(late)
            assert hear(late) == "about to make"
            tell(early)
            assert hear(early) == "open"
            tell(late)
            assert hear(late) == "open"

    @pytest.mark.parametrize(
        ("place", "name"),
        [
            ("os", "mkdir"),
            ("directory.Directory", "_open_lock_file"),
            ("directory.Directory", "lock_shared"),
            ("directory.Directory", "_make"),
            ("directory", "_remove"),
            ("directory", "reserve_locks"),
            ("os", "replace"),
            ("directory", "sync_directory"),
            ("directory.Directory", "_write_text"),
            ("os", "pwrite"),
            ("os", "fsync"),
        ],
    )
    def test_a_crash_at_any_step_leaves_nothing_that_is_in_the_way(self, path, place, name):
        assert run(DIE_WHILE_MAKING.format(place=place, name=name), path)[0] == 7
        with opened(path) as engine:
            fill(engine)
            assert user_keys(engine.read()) == LETTERS
        assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]

    def test_leftovers_of_an_unfinished_making_are_no_store_and_no_obstacle(self, path):
        path.mkdir(mode=0o700)
        (path / "objstore.lock").touch()
        making = path / "objstore.making"
        making.mkdir()
        (making / "data.mdb").write_bytes(b"half")
        (making / "lock.mdb").write_bytes(b"")
        for flag in "rw":
            with pytest.raises(StoreNotFound, match="flag 'c' makes one"):
                connect(path, flag, {}, None)
        with opened(path) as engine:
            fill(engine)
        assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]

    def test_a_failure_while_making_leaves_no_store(self, path, monkeypatch):
        def fail(*_arguments):
            raise OSError(28, "no space left")

        monkeypatch.setattr(opening, "_make_environment", fail)
        with pytest.raises(StoreFull, match="no space left; make room and try again"):
            connect(path, "c", {}, None)
        monkeypatch.undo()
        with pytest.raises(StoreNotFound):
            connect(path, "w", {}, None)
        with opened(path) as engine:
            assert user_keys(engine.read()) == []

    @pytest.mark.parametrize("damage", ["missing", "empty"])
    def test_a_data_file_that_vanished_is_damage_and_never_a_new_store(self, stored, damage):
        if damage == "missing":
            (stored / "data.mdb").unlink()
        else:
            (stored / "data.mdb").write_bytes(b"")
        for flag in "rwc":
            with pytest.raises(StoreCorrupt, match="missing or empty; restore a backup"):
                connect(stored, flag, {}, None)
        with opened(stored, "n") as engine:
            assert user_keys(engine.read()) == []

    def test_flag_n_begins_anew(self, stored):
        with opened(stored, "n") as engine:
            assert user_keys(engine.read()) == []
            fill(engine, [b"\x10new"])
        with opened(stored) as engine:
            assert user_keys(engine.read()) == [b"\x10new"]

    def test_flag_n_does_not_replace_what_another_process_has_open(self, stored):
        with child(HOLD_A_READER, stored) as other:
            assert hear(other) == "reading"
            with pytest.raises(StoreLocked, match="others have it open"):
                connect(stored, "n", {}, None)
        with opened(stored) as engine:
            assert user_keys(engine.read()) == LETTERS

    def test_an_empty_directory_becomes_a_store(self, path):
        path.mkdir(mode=0o700)
        for flag in "rw":
            with pytest.raises(StoreNotFound, match="is empty; flag 'c' makes a store in it"):
                connect(path, flag, {}, None)
        with opened(path) as engine:
            fill(engine)

    def test_missing_parents_are_made(self, tmp_path):
        with opened(tmp_path / "a" / "b" / "store") as engine:
            fill(engine)

    @pytest.mark.parametrize("flag", "rw")
    def test_flags_r_and_w_make_nothing(self, path, flag):
        with pytest.raises(StoreNotFound, match="flag 'c' makes one"):
            connect(path, flag, {}, None)
        assert not path.exists()


def everything_in(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


class TestWhatIsNotOurs:
    @pytest.mark.parametrize("flag", "rwcn")
    def test_a_directory_that_holds_other_things_is_untouched(self, path, flag):
        path.mkdir(mode=0o700)
        (path / "thesis.txt").write_text("precious")
        with pytest.raises(StoreNotFound, match="holds other things"):
            connect(path, flag, {}, None)
        assert everything_in(path) == {"thesis.txt": b"precious"}

    @pytest.mark.parametrize("flag", "rwcn")
    def test_a_file_is_untouched(self, path, flag):
        path.write_text("precious")
        with pytest.raises(StoreNotFound, match="is a file"):
            connect(path, flag, {}, None)
        assert path.read_text() == "precious"

    @pytest.fixture
    def foreign(self, path):
        """An environment of LMDB that somebody else made."""
        path.mkdir(mode=0o700)
        with lmdb.open(str(path), lib_version=0) as environment, environment.begin(write=True) as txn:
            txn.put(b"key", b"precious")
        return path

    @pytest.mark.parametrize("flag", "rwcn")
    def test_an_environment_of_somebody_else_is_untouched(self, foreign, flag):
        before = everything_in(foreign)
        with pytest.raises(StoreNotFound):
            connect(foreign, flag, {}, None)
        assert everything_in(foreign) == before

    @pytest.mark.parametrize("flag", "rwcn")
    def test_an_environment_of_somebody_else_keeps_its_data(self, foreign, flag):
        with pytest.raises(StoreNotFound, match="no store; name another place"):
            connect(foreign, flag, {}, None)
        with lmdb.open(str(foreign), lib_version=0) as environment, environment.begin() as txn:
            assert txn.get(b"key") == b"precious"

    def test_a_copy_of_the_data_file_alone_is_a_store(self, stored, tmp_path):
        copy = tmp_path / "copy"
        copy.mkdir(mode=0o700)
        shutil.copy(stored / "data.mdb", copy)
        with opened(copy, "r") as engine:
            assert user_keys(engine.read()) == LETTERS
