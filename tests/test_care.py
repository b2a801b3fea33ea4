"""Looking after a store: check, accept, backup, compact, and what stats tell of those who read and write."""

from __future__ import annotations

import errno
import multiprocessing.spawn
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time

import lmdb
import numpy as np
import pytest
from programs import run

import objstore
from objstore import (
    Damage,
    Store,
    StoreCorrupt,
    StoreDenied,
    StoreError,
    StoreExists,
    StoreLocked,
    StoreReplaced,
    StoreSuspect,
    TransactionError,
    UnsupportedOperation,
)
from objstore.engines.base import DURABILITY_KEY, IDENTITY_KEY
from objstore.engines.lmdb import directory, engine
from objstore.space import CATALOG, EXPIRY, STATE_KEY, USER

pytestmark = pytest.mark.usefixtures("forked_checks")

FILES = {"data.mdb", "lock.mdb", "objstore.lock"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


def fill(store):
    """Something of everything."""
    store.update({number: "x" * number for number in range(500)})
    store["array"] = np.arange(20_000)
    store["k" * 1000] = "under a long key"
    users = store.namespace("users")
    users.update({("user", number): number for number in range(100)}, ttl=1e6, tags=("a", "b"))
    for number in range(0, 500, 2):
        del store[number]


def spoil(store, tree_key, change):
    """Change a record behind the back of the store."""
    stored = store._engine.get(tree_key)
    store._engine.transact(lambda writer: writer.put(tree_key, change(stored)))


def last_byte(stored):
    return stored[:-1] + bytes([stored[-1] ^ 1])


def tree_keys(store, start, stop):
    return list(store._engine.read().scan_keys(start, stop))


class TestCheck:
    def test_a_store_without_damage(self, store):
        fill(store)
        report = store.check()
        assert report.ok
        assert report == (352, (), (), False, 0)

    def test_an_empty_store(self, store):
        assert store.check() == (0, (), (), False, 0)

    def test_a_damaged_record_is_named_by_its_key(self, store):
        fill(store)
        users = store.namespace("users")
        spoil(store, store._space.tree_key(3), last_byte)
        spoil(store, users._space.tree_key(("user", 4)), last_byte)
        report = store.check()
        assert not report.ok
        assert {(damage.namespace, damage.key) for damage in report.damaged} == {("", 3), ("users", ("user", 4))}
        assert report.entries == 352
        assert report.problems == ()

    def test_a_long_key_is_named_too_as_long_as_the_record_still_says_it(self, store):
        store["k" * 1000] = "value"
        spoil(store, store._space.tree_key("k" * 1000), last_byte)
        assert [damage.key for damage in store.check().damaged] == ["k" * 1000]
        spoil(store, store._space.tree_key("k" * 1000), lambda _stored: b"nonsense")
        assert [type(damage.key) for damage in store.check().damaged] == [objstore.LostKey]

    @pytest.mark.parametrize("large", [False, True])
    def test_a_damaged_buffer_is_found(self, store, large):
        store["array"] = np.arange(100_000 if large else 1000)
        spoil(store, store._space.tree_key("array"), last_byte)
        assert [damage.key for damage in store.check().damaged] == ["array"]

    @pytest.mark.parametrize(
        ("what", "problem"),
        [
            ("count", "has 100 records of 101"),
            ("name", "whose name is lost"),
            ("state", "the state of the store"),
            ("others", "outside the default namespace"),
            ("expiry", "missing in the index of expiry"),
            ("tags", "missing in the index of tags"),
            ("identity", "the identity of the store"),
            ("durability", "the durability of the store"),
            ("unknown", "the library has no key"),
        ],
    )
    def test_books_that_do_not_agree_are_found(self, store, what, problem):
        fill(store)
        apply = store._engine.transact
        if what == "count":
            (catalog,) = tree_keys(store, CATALOG, EXPIRY)
            spoil(store, catalog, lambda stored: bytes([stored[0] + 1]) + stored[1:])
        elif what == "name":
            (catalog,) = tree_keys(store, CATALOG, EXPIRY)
            spoil(store, catalog, last_byte)
        elif what == "state":
            spoil(store, STATE_KEY, lambda stored: stored[:-1])
        elif what == "others":
            spoil(store, STATE_KEY, lambda stored: stored[:1] + bytes([stored[1] + 1]) + stored[2:])
        elif what in ("expiry", "tags"):
            index = tree_keys(store, EXPIRY if what == "expiry" else b"\x03", b"\x04")[0]
            apply(lambda writer: writer.delete(index))
        elif what in ("identity", "durability"):
            spoil(store, IDENTITY_KEY if what == "identity" else DURABILITY_KEY, last_byte)
        else:
            apply(lambda writer: writer.put(b"\x00z", b"?"))
        report = store.check()
        assert any(problem in each for each in report.problems), report
        assert report.damaged == ()

    def test_more_in_an_index_than_there_should_be_is_no_error(self, store, clock):
        store.set("a", 1, ttl=10, tags=("t",))
        spoil(store, store._space.tree_key("a"), lambda _stored: b"nonsense")
        store["a"] = 2  # the damaged record could not say what it had in the indexes
        assert store.check().ok

    def test_it_sees_one_state_while_others_write(self, path):
        with Store(path, durability="process") as store:
            store.update(dict.fromkeys(range(2000), 0))
            seen = []

            def write_on(done, total):
                seen.append((done, total))
                with store.transaction() as txn:
                    for number in range(2000):
                        txn[number] = "x" * 100

            with_large = {f"large {number}": b"x" * 100_000 for number in range(60)}
            store.update(with_large)
            assert store.check(progress=write_on) == (2060, (), (), False, 0)
            assert seen
            assert seen == sorted(seen)
            assert all(done <= total for done, total in seen)
            assert store.check().ok
            assert store.stats().reading == ()

    def test_what_progress_raises_ends_it(self, path):
        with Store(path) as store:
            store["large"] = b"x" * 5_000_000
            with pytest.raises(ZeroDivisionError):
                store.check(progress=lambda _done, _total: 1 / 0)
            assert store.check().ok

    @pytest.mark.usefixtures("checks_anew")
    def test_a_process_that_ends_early_is_a_problem_not_a_success(self, path, monkeypatch):
        with Store(path) as store:
            monkeypatch.setattr(multiprocessing.spawn, "_python_exe", "/bin/false")
            report = store.check()
            assert not report.ok
            assert "ended early: status 1" in report.problems[0]

    @pytest.mark.usefixtures("checks_anew")
    def test_what_is_in_the_surroundings_of_its_process_does_no_harm(self, path, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        (tmp_path / "here" / "json.py").write_text("raise SystemExit(3)")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text("print('{}', end='')")
        monkeypatch.chdir(tmp_path / "here")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
        monkeypatch.setenv("PYTHONVERBOSE", "2")  # more than a pipe takes
        monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
        with Store(path) as store:
            fill(store)
            assert store.check().ok

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a process has open is read from /proc")
    def test_where_no_process_can_be_started(self, path):
        program = """
            import os, resource, subprocess, sys
            from objstore import Store, StoreError, check
            from objstore.engines import lmdb
            store = Store(sys.argv[1])
            store["a"] = 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), 4096))
            assert store.stats().entries == 1
            for call in (store.check, lambda: check(sys.argv[1])):
                try:
                    call()
                except StoreError as exc:
                    print(exc)
        """
        assert run(program, path).count("no process can be started") == 2

    def test_a_reader_may_check(self, path):
        with Store(path) as store:
            fill(store)
        with Store(path, "r") as store:
            assert store.check().ok
        with Store(path, "r", immutable=True) as store:
            assert store.check().ok


@pytest.mark.usefixtures("checks_anew")
class TestCheckOfALocation:
    def test_it_is_not_open(self, path):
        with Store(path) as store:
            fill(store)
        assert objstore.check(path) == (352, (), (), False, 0)
        assert objstore.check(str(path)).ok
        assert objstore.check(f"lmdb://{path}").ok
        assert set(os.listdir(path)) == FILES

    def test_it_is_open_here(self, path):
        with Store(path) as store:
            fill(store)
            assert objstore.check(path).ok
            with store.transaction():
                assert objstore.check(path).ok
            store["a"] = 1

    def test_it_is_open_elsewhere(self, path):
        with Store(path) as store:
            fill(store)
            run("import objstore, sys; assert objstore.check(sys.argv[1]).ok", path)
            store["a"] = 1

    def test_nobody_opens_it_meanwhile(self, path):
        with Store(path) as store:
            store["large"] = b"x" * 5_000_000
        refused = []

        def try_to_open(_done, _total):
            with pytest.raises(StoreLocked):
                Store(path)
            with pytest.raises(StoreLocked):
                objstore.check(path)
            refused.append(True)

        assert objstore.check(path, progress=try_to_open).ok
        assert refused
        with Store(path) as store:
            assert len(store) == 1

    def test_a_child_that_was_forked_meanwhile_may_open_it(self, path):
        with Store(path) as store:
            store.update({"a": 1, "large": b"x" * 5_000_000})
        processes = []

        def fork(_done, _total):
            process = os.fork()
            if process == 0:
                while True:
                    try:
                        os._exit(Store(path)["a"] != 1)
                    except StoreLocked as exc:
                        if "this process" in str(exc):
                            os._exit(2)
            processes.append(process)

        assert objstore.check(path, progress=fork).ok
        assert processes
        assert [os.waitpid(process, 0)[1] for process in processes] == [0] * len(processes)

    def test_a_foreign_environment_stays_foreign(self, path):
        path.mkdir(mode=0o700)
        environment = lmdb.open(str(path), mode=0o600)
        with environment.begin(write=True) as txn:
            txn.put(b"key", b"value")
        environment.close()
        assert not objstore.check(path).ok
        for flag in "rwcn":
            with pytest.raises(objstore.StoreNotFound, match="no store"):
                Store(path, flag)
        with lmdb.open(str(path)) as environment, environment.begin() as txn:
            assert txn.get(b"key") == b"value"

    def test_a_file_that_may_not_be_read(self, path, monkeypatch):
        with Store(path):
            pass

        def refuse(name, *arguments, was=os.open, **options):
            if os.path.basename(name) == "data.mdb":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
            return was(name, *arguments, **options)

        monkeypatch.setattr(os, "open", refuse)
        for call in (objstore.check, lambda source: objstore.salvage(source, path.with_name("b.store"))):
            with pytest.raises(StoreDenied):
                call(path)

    def test_what_is_none(self, path, tmp_path):
        with pytest.raises(objstore.StoreNotFound):
            objstore.check(path)
        with pytest.raises(objstore.StoreNotFound):
            objstore.check(tmp_path)
        with pytest.raises(ValueError, match="no files"):
            objstore.check("memory://a")
        with pytest.raises(TypeError):
            objstore.check(3)

    @pytest.mark.parametrize("left", [b"", b"no LMDB file at all" * 1000])
    def test_nothing_is_left(self, path, left):
        with Store(path):
            pass
        (path / "data.mdb").write_bytes(left)
        with pytest.raises(StoreCorrupt):
            objstore.check(path)
        (path / "data.mdb").unlink()
        with pytest.raises(StoreCorrupt):
            objstore.check(path)
        assert not (path / "data.mdb").exists()


@pytest.fixture
def suspect(path, monkeypatch):
    """A store whose machine went down in the middle."""
    process = os.fork()
    if process == 0:
        store = Store(path, durability="process")
        fill(store)
        os._exit(0)
    os.waitpid(process, 0)
    monkeypatch.setattr(directory, "boot_id", lambda: "another")
    return path


class TestASuspectStore:
    def test_it_is_refused_until_it_is_accepted(self, suspect):
        for flag in "rwc":
            with pytest.raises(StoreSuspect, match="accept"):
                Store(suspect, flag)
        report = objstore.check(suspect)
        assert report == (352, (), (), True, 0)
        assert not report.ok
        with pytest.raises(StoreSuspect):
            Store(suspect)
        assert objstore.check(suspect, accept=True).ok
        with Store(suspect) as store:
            assert store[3] == "xxx"
            store["a"] = 1
        assert objstore.check(suspect).ok

    def test_it_is_not_accepted_while_anything_is_wrong_with_it(self, suspect):
        data = (suspect / "data.mdb").read_bytes()
        (suspect / "data.mdb").write_bytes(data.replace(b"x" * 400, b"y" + b"x" * 399))
        report = objstore.check(suspect, accept=True)
        assert report.damaged
        assert report.suspect
        with pytest.raises(StoreSuspect):
            Store(suspect)
        salvaged = objstore.salvage(suspect, suspect.with_name("b.store"))
        assert salvaged.entries + len(salvaged.lost) == 352
        assert salvaged.lost == report.damaged
        with Store(suspect.with_name("b.store")) as store:
            assert store.stats().durability == "process"
            assert len(store.namespace("users")) == 100

    def test_flag_n_begins_anew(self, suspect):
        with Store(suspect, "n") as store:
            assert len(store) == 0
        assert objstore.check(suspect).ok

    def test_an_immutable_reader_may_look_at_it(self, suspect):
        with Store(suspect, "r", immutable=True) as store:
            assert store[3] == "xxx"


class TestBackup:
    def test_it_is_a_store_with_the_same_in_it(self, path, tmp_path):
        with Store(path) as store:
            fill(store)
            store.backup(tmp_path / "b.store")
            with Store(tmp_path / "b.store") as backup:
                assert list(backup) == list(store)
                assert backup[499] == store[499]
                assert np.array_equal(backup["array"], store["array"])
                assert backup.namespace("users") == store.namespace("users")
                assert backup.stats().id == store.stats().id
                assert backup.stats().free_bytes == 0 < store.stats().free_bytes
                backup["new"] = 1
                assert backup.check().ok
            assert "new" not in store
        assert set(os.listdir(tmp_path / "b.store")) == FILES

    @pytest.mark.parametrize("permissions", ["private", "umask"])
    def test_its_files_have_the_permissions_of_the_store(self, path, tmp_path, permissions):
        old = os.umask(0o022)
        try:
            with Store(path, permissions=permissions) as store:
                store.backup(tmp_path / "b.store")
        finally:
            os.umask(old)
        for name in ("", "data.mdb", "objstore.lock"):
            modes = [stat.S_IMODE(os.stat(place / name).st_mode) for place in (path, tmp_path / "b.store")]
            assert modes[0] == modes[1]

    def test_it_is_one_state_while_others_write(self, path, tmp_path):
        with Store(path, durability="process") as store:
            store.update(dict.fromkeys(range(300), 0))
            done = threading.Event()

            def write():
                count = 0
                while not done.is_set():
                    count += 1
                    store.update(dict.fromkeys(range(300), count))

            writer = threading.Thread(target=write)
            writer.start()
            try:
                for number in range(5):
                    store.backup(tmp_path / str(number))
            finally:
                done.set()
                writer.join()
        for number in range(5):
            with Store(tmp_path / str(number)) as backup:
                assert len(set(backup.values())) == 1

    def test_it_can_be_taken_in_a_transaction_and_by_a_reader(self, path, tmp_path):
        with Store(path) as store, store.transaction() as txn:
            txn["a"] = 1
            store.backup(tmp_path / "1")
        for options in {}, {"immutable": True}:
            with Store(path, "r", **options) as store:
                store.backup(tmp_path / f"2{len(options)}")
        with Store(tmp_path / "1") as first, Store(tmp_path / "20") as second, Store(tmp_path / "21") as third:
            assert (dict(first), dict(second), dict(third)) == ({}, {"a": 1}, {"a": 1})

    def test_paths_that_are_no_text(self, tmp_path):
        for name in (b"a line\nand another", b"no \xff text", "\u2603".encode()):
            path = os.path.join(tmp_path, os.fsdecode(name))
            try:
                os.mkdir(path, 0o700)
            except OSError:
                continue  # this file system has no such names
            with Store(path) as store:
                store["a"] = 1
                store.compact()
                store.backup(f"{path}.backup")
                assert store.check().ok
            assert objstore.check(f"{path}.backup").ok
            assert objstore.salvage(path, f"{path}.salvaged").entries == 1

    def test_it_takes_the_place_of_nothing(self, path, tmp_path):
        with Store(path) as store:
            store["a"] = 1
            (tmp_path / "file").write_text("")
            (tmp_path / "other").mkdir()
            (tmp_path / "other" / "file").write_text("")
            (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
            for name in ("file", "other", "dangling", "a.store"):
                with pytest.raises(StoreExists) as error:
                    store.backup(tmp_path / name)
                assert isinstance(error.value, FileExistsError)
            with pytest.raises(StoreError, match="throws away"):
                store.backup(path / "objstore.making")
            (tmp_path / "empty").mkdir()
            store.backup(tmp_path / "empty")
            store.backup(tmp_path / "deep" / "down")
            with Store(tmp_path / "deep" / "down", "r") as backup:
                assert backup == {"a": 1}

    def test_a_damaged_store_is_not_backed_up(self, path, tmp_path):
        with Store(path) as store:
            fill(store)
            spoil(store, store._space.tree_key(3), last_byte)
            with pytest.raises(StoreCorrupt, match="record of 3"):
                store.backup(tmp_path / "b.store")
        assert not (tmp_path / "b.store").exists()

    def test_nobody_here_opens_or_makes_it_meanwhile(self, path, tmp_path):
        with Store(path) as store:
            fill(store)
            refused = []

            def try_to_open(_done, _total):
                for call in (
                    lambda: Store(tmp_path / "b.store"),
                    lambda: objstore.check(tmp_path / "b.store"),
                    lambda: store.backup(tmp_path / "b.store"),
                ):
                    with pytest.raises((StoreLocked, StoreExists)):
                        call()
                    refused.append(True)

            store.backup(tmp_path / "b.store", progress=try_to_open)
            assert refused
        with Store(tmp_path / "b.store") as backup:
            assert len(backup) == 252

    def test_another_process_that_makes_one_there_keeps_what_it_has_made(self, path, tmp_path, monkeypatch):
        target = tmp_path / "b.store"
        with Store(path) as store:
            store["a"] = 1
            with monkeypatch.context() as patch:
                patch.setattr(os, "listdir", lambda _path: [])  # it was empty when it was looked at
                target.mkdir()
                program = """
                    import os, sys, fcntl, time
                    os.mkdir(sys.argv[1] + "/objstore.making")
                    lock = os.open(sys.argv[1] + "/objstore.lock", os.O_RDWR | os.O_CREAT)
                    fcntl.lockf(lock, fcntl.LOCK_EX, 1)
                    print(flush=True)
                    sys.stdin.read()
                """
                arguments = [sys.executable, "-c", textwrap.dedent(program), target]
                with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
                    maker.stdout.readline()
                    with pytest.raises(StoreLocked, match="another process makes"):
                        store.backup(target)
                    maker.stdin.close()
            assert set(os.listdir(target)) == {"objstore.lock", "objstore.making"}

    def test_it_leaves_nothing_where_it_fails(self, path, tmp_path):
        with Store(path) as store:
            fill(store)
            (tmp_path / "empty").mkdir()
            for name in ("empty", "new"):
                with pytest.raises(ZeroDivisionError):
                    store.backup(tmp_path / name, progress=lambda _done, _total: 1 / 0)
            assert os.listdir(tmp_path / "empty") == []
            assert not (tmp_path / "new").exists()
            store.backup(tmp_path / "new")

    def test_one_who_is_interrupted_leaves_no_thread_that_writes_into_other_files(self, path, tmp_path, monkeypatch):
        go_on = threading.Event()

        def start(thread, start=threading.Thread.start):
            run = thread.run
            thread.run = lambda: (go_on.wait(60), run())
            start(thread)
            interrupt()

        def interrupt(*_arguments):
            raise KeyboardInterrupt

        with Store(path) as store:
            fill(store)
            before = set(threading.enumerate())
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(threading.Thread, "start", start)
                patch.setattr(threading.Thread, "join", interrupt)
                store.backup(tmp_path / "b.store")
            names = [tmp_path / f"other {number}" for number in range(4)]
            others = [os.open(name, os.O_RDWR | os.O_CREAT) for name in names]  # these get descriptors that were closed
            (copying,) = set(threading.enumerate()) - before
            go_on.set()
            copying.join(60)
            for other in others:
                os.close(other)
            assert [os.path.getsize(name) for name in names] == [0] * 4
            assert not (tmp_path / "b.store").exists()
            store.backup(tmp_path / "b.store")

    def test_progress(self, path, tmp_path):
        seen = []
        with Store(path) as store:
            store.update(dict.fromkeys(range(50), b"x" * 100000))
            store.backup(tmp_path / "b.store", progress=lambda done, total: seen.append((done, total)))
            assert seen == sorted(seen)
            assert seen[-1][0] == seen[-1][1]
            del seen[:]
            store.compact(progress=lambda done, total: seen.append((done, total)))
            assert seen[-1][0] == seen[-1][1]

    def test_memory_has_no_files(self):
        with Store("memory://") as store:
            for refused in (lambda: store.backup("a"), store.compact):
                with pytest.raises(UnsupportedOperation):
                    refused()


class TestCompact:
    @pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
    def test_it_gives_free_pages_back(self, path, durability):
        with Store(path, durability=durability) as store:
            fill(store)
            store["large"] = b"x" * 1_000_000
            del store["large"]
            before = dict(store.items()), store.stats()
            size = os.path.getsize(path / "data.mdb")
            store.compact()
            assert os.path.getsize(path / "data.mdb") < size - 900_000
            assert store.stats().free_bytes == 0 < before[1].free_bytes
            assert store.stats().id == before[1].id
            assert list(store) == list(before[0])
            store["new"] = 1
            assert store.namespace("users")["user", 3] == 3
            assert store.check().ok
        assert set(os.listdir(path)) == FILES
        with Store(path) as store:
            assert store["new"] == 1
            assert store.stats().durability == durability

    @pytest.mark.parametrize("ask", [lambda opened: opened.writing(), lambda opened: opened.reading()])
    def test_who_asks_who_writes_meanwhile_waits_and_is_not_waited_for(self, path, monkeypatch, ask):
        is_unread, answers = engine._is_unread, []

        def is_unread_beside_one_who_asks(environment, views):
            asking.start()
            asking.join(0.2)  # he waits for the compaction, and so has nothing that it waits for
            return is_unread(environment, views)

        with Store(path) as store:
            fill(store)
            asking = threading.Thread(target=lambda: answers.append(ask(store._engine)))
            monkeypatch.setattr(engine, "_is_unread", is_unread_beside_one_who_asks)
            store.compact()
            asking.join()
            assert len(answers) == 1

    def test_a_machine_that_goes_down_afterwards_is_noticed(self, path, monkeypatch):
        process = os.fork()
        if process == 0:
            store = Store(path, durability="process")
            store["a"] = 1
            store.compact()
            store["b"] = 1
            os._exit(0)
        os.waitpid(process, 0)
        monkeypatch.setattr(directory, "boot_id", lambda: "another")
        with pytest.raises(StoreSuspect):
            Store(path)

    def test_others_have_it_open(self, path):
        with Store(path) as store:
            store["a"] = 1
            program = """
                import sys
                from objstore import Store, StoreLocked
                with Store(sys.argv[1]) as store:
                    try:
                        store.compact()
                    except StoreLocked as exc:
                        print(exc)
                    store["b"] = 2
            """
            assert "another process has the store" in run(program, path)
            assert store == {"a": 1, "b": 2}
            store.compact()
            assert store == {"a": 1, "b": 2}

    def test_somebody_here_reads_or_writes(self, path):
        with Store(path) as store:
            fill(store)
            iteration = iter(store.items())
            next(iteration)
            with pytest.raises(StoreLocked, match="iterations"):
                store.compact()
            del iteration
            with store.snapshot() as snapshot:
                with pytest.raises(StoreLocked, match="snapshots"):
                    store.compact()
                assert snapshot[3] == "xxx"
            with store.transaction() as txn:
                txn["a"] = 1
                with pytest.raises(TransactionError):
                    store.compact()
            began, end = threading.Event(), threading.Event()

            def hold():
                with store.transaction() as txn:
                    txn["b"] = 1
                    began.set()
                    end.wait(60)

            thread = threading.Thread(target=hold)
            thread.start()
            began.wait(60)
            with pytest.raises(TransactionError):
                store.compact()
            end.set()
            thread.join()
            store.compact()
            assert store["a"] == store["b"] == 1

    def test_views_stay_as_they_are(self, path):
        with Store(path) as store:
            fill(store)
            first = store.view("array")
            with store.snapshot() as snapshot:
                second = snapshot["array"]
            store.compact()
            store["array"] = np.zeros(20_000)
            store.update(dict.fromkeys(range(1000), "y" * 1000))
            assert np.array_equal(first, np.arange(20_000))
            assert np.array_equal(second, np.arange(20_000))
            assert not store.view("array").any()
        assert np.array_equal(first, np.arange(20_000))

    @pytest.mark.parametrize("durability", ["full", "process"])
    def test_threads_read_and_write_on(self, path, durability):
        program = """
            import sys, threading
            from objstore import Store
            store = Store(sys.argv[1], durability=sys.argv[2])
            store.update({number: 0 for number in range(100)})
            done = threading.Event()
            errors, written = [], [0] * 4

            def write(mine):
                try:
                    while not done.is_set():
                        with_txn = written[mine] % 3
                        if with_txn:
                            store[mine] = written[mine] + 1
                        else:
                            store.update({mine: written[mine] + 1})
                        written[mine] += 1
                        assert store[mine] == written[mine]
                except BaseException as exc:
                    errors.append(exc)

            def read():
                try:
                    while not done.is_set():
                        for number in range(100):
                            assert number < 4 or store[number] == 0
                            assert number in store
                except BaseException as exc:
                    errors.append(exc)

            threads = [threading.Thread(target=write, args=(mine,)) for mine in range(4)]
            threads += [threading.Thread(target=read) for _ in range(2)]
            for thread in threads:
                thread.start()
            compacted = 0
            while compacted < 4 and not errors:
                store.compact()
                compacted += 1
            done.set()
            for thread in threads:
                thread.join()
            assert not errors, errors
            assert [store[mine] for mine in range(4)] == written
            assert min(written) > 0
            assert store.check().ok
        """
        run(program, path, durability)

    def test_a_damaged_store_stays_as_it_is(self, path):
        with Store(path) as store:
            fill(store)
            spoil(store, store._space.tree_key(3), last_byte)
            inode = os.stat(path / "data.mdb").st_ino
            with pytest.raises(StoreCorrupt):
                store.compact()
            assert os.stat(path / "data.mdb").st_ino == inode
            store["a"] = 1
            del store[3]
            store.compact()
            assert store["a"] == 1

    @pytest.mark.parametrize("durability", ["full", "process"])
    @pytest.mark.parametrize("what", ["compact", "backup", "check"])
    def test_one_who_closes_the_last_handle_meanwhile(self, path, tmp_path, durability, what):
        program = """
            import sys
            from objstore import Store
            path, target, durability, what = sys.argv[1:]
            store = Store(path, durability=durability)
            store.update(dict.fromkeys(range(2000), "x" * 1000))
            arguments = [target] if what == "backup" else []

            def close_it(done, total):
                if done > total // 2:
                    store.close()

            report = getattr(store, what)(*arguments, progress=close_it)
            assert report is None or report.ok
            assert store.closed
            with Store(path) as store:
                store.update(dict.fromkeys(range(2000, 2010), 1))
        """
        run(program, path, tmp_path / "b.store", durability, what)
        assert b"dirty" not in (path / "objstore.lock").read_bytes()
        with Store(path) as store:
            assert len(store) == 2010
            store.compact()

    def test_one_who_comes_again_out_of_the_middle_of_it_is_refused(self, path):
        program = """
            import sys
            from objstore import Store, StoreLocked
            from objstore.engines.lmdb import engine
            store = Store(sys.argv[1])
            store.update(dict.fromkeys(range(100), 0))
            refused = []

            def refuse(call):
                try:
                    call()
                except StoreLocked as exc:
                    refused.append(str(exc))

            def come_again(*arguments, was=engine._is_unread):
                refuse(lambda: store[1])  # where a signal may be handled
                return was(*arguments)

            engine._is_unread = come_again
            store.compact(progress=lambda done, total: refuse(lambda: store.delete(1)))
            assert len(refused) > 1, refused
            assert all("this thread is in the middle" in each for each in refused), refused
            store[1] = 2
            assert store[1] == 2
        """
        run(program, path)

    def test_one_who_is_interrupted_while_readers_are_waited_for(self, path, monkeypatch):
        def interrupt(*_arguments):
            raise KeyboardInterrupt

        with Store(path) as store:
            store["a"] = 1
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(engine, "_is_unread", interrupt)
                store.compact()
            assert store["a"] == 1
            store["a"] = 2
            store.compact()
            assert store["a"] == 2

    def test_readers_that_were_killed_do_not_stand_in_its_way(self, path):
        with Store(path) as store:
            store["a"] = 1
            run(
                """
                import os, signal, sys
                from objstore import Store
                store = Store(sys.argv[1])
                process = os.fork()
                if process == 0:
                    snapshot = store.snapshot()
                    os.kill(os.getpid(), signal.SIGKILL)
                os.waitpid(process, 0)
                """,
                path,
            )
            store.compact()

    def test_the_table_of_locks_is_not_looked_at_while_it_goes_away(self, path):
        program = """
            import os, sys, threading, time
            from objstore import Store
            from objstore.engines.lmdb import activity, engine
            store = Store(sys.argv[1])
            store["a"] = 1
            found, closing = threading.Event(), threading.Event()

            def address_of(path, was=activity._address_of):
                address, file = was(path), os.stat(path).st_ino
                found.set()
                closing.wait()
                time.sleep(0.5)  # the compaction waits for this one, or it is too late
                if os.stat(path).st_ino != file:
                    print("what is looked at is gone", flush=True)
                return address

            def is_unread(*arguments, was=engine._is_unread):
                unread = was(*arguments)
                closing.set()
                return unread

            activity._address_of = address_of
            engine._is_unread = is_unread
            threads = [threading.Thread(target=call) for call in (store.stats, store.compact)]
            threads[0].start()
            found.wait()
            for thread in threads[1:]:
                thread.start()
            for thread in threads:
                thread.join()
        """
        assert run(program, path) == ""

    def test_the_files_keep_their_rights(self, path):
        old = os.umask(0o002)
        try:
            with Store(path, permissions="umask") as store:
                store["a"] = 1
                os.umask(0o077)
                if os.geteuid() == 0:
                    for name in FILES:
                        os.chown(path / name, 65534, 65534)
                os.chmod(path / "data.mdb", 0o664)
                rights = {name: os.stat(path / name)[:1] + os.stat(path / name)[4:6] for name in FILES}
                store.compact()
                assert {name: os.stat(path / name)[:1] + os.stat(path / name)[4:6] for name in FILES} == rights
        finally:
            os.umask(old)

    @pytest.mark.parametrize("once_more", [False, True])
    def test_a_forked_child_goes_on_with_its_handle_and_may_open_it_once_more(self, path, once_more):
        with Store(path) as store:
            store["a"] = 1
            read_end, write_end = os.pipe()
            process = os.fork()
            if process == 0:
                os.read(read_end, 1)
                mine = Store(path) if once_more else store
                ok = mine["a"] == 1
                mine["b"] = 2
                os._exit(not ok)
            store.compact()
            os.write(write_end, b".")
            assert os.waitpid(process, 0)[1] == 0
            assert store["b"] == 2
            os.close(read_end)
            os.close(write_end)

    def test_a_reader_cannot(self, path):
        with Store(path):
            pass
        with Store(path, "r") as store, pytest.raises(objstore.ReadOnlyStore):
            store.compact()


class TestFilesThatWereReplaced:
    @pytest.mark.parametrize("name", sorted(FILES))
    @pytest.mark.parametrize("how", ["deleted", "replaced", "moved away"])
    @pytest.mark.parametrize("durability", ["full", "relaxed"])
    def test_the_next_write_is_refused(self, path, name, how, durability):
        with Store(path, durability=durability) as store:
            store["a"] = 1
            whole = (path / name).read_bytes() if name == "data.mdb" else b""
            if how == "deleted":
                os.unlink(path / name)
            elif how == "moved away":
                os.rename(path / name, path / "elsewhere")
                (path / name).write_bytes(whole)
            else:
                (path / "new").write_bytes(whole)
                os.replace(path / "new", path / name)
            for write in (
                lambda: store.__setitem__("a", 2),
                lambda: store.update({"a": 2}),
                lambda: store.transaction().__enter__(),
                lambda: store.delete("a"),
            ):
                with pytest.raises(StoreReplaced, match="open it again"):
                    write()
            assert store["a"] == 1

    def test_what_this_process_may_not_see_any_more_is_not_taken_for_replaced(self, path, monkeypatch):
        with Store(path) as store:
            store["a"] = 1

            def refuse(name, *arguments, was=os.stat, **options):
                if str(name).startswith(f"{path}/"):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
                return was(name, *arguments, **options)

            with monkeypatch.context() as patch:
                patch.setattr(os, "stat", refuse)  # as after setuid
                store["a"] = 2
            assert store["a"] == 2

    def test_without_sync_it_is_refused_within_a_second(self, path):
        with Store(path, durability="process") as store:
            store["a"] = 1
            os.unlink(path / "lock.mdb")
            written_at = time.monotonic()
            with pytest.raises(StoreReplaced):
                for _ in range(10_000_000):
                    before, written_at = written_at, time.monotonic()
                    store["a"] = 2
            assert before < written_at  # some were not refused yet
            with pytest.raises(StoreReplaced):
                store.update({"a": 2})


class TestWhoReadsAndWrites:
    def test_a_process_that_holds_the_lock_is_named(self, path):
        with Store(path) as store:
            store["a"] = 1
            assert store.stats().writing is None
            assert store.stats().reading == ()
            read_end, write_end = os.pipe()
            process = os.fork()
            if process == 0:
                with store.snapshot(), store.transaction():
                    os.write(write_end, b".")
                    signal.pause()
                os._exit(1)
            os.read(read_end, 1)
            os.close(read_end)
            os.close(write_end)
            try:
                stats = store.stats()
                assert stats.writing is not None
                assert stats.writing.process == process
                assert 0 <= stats.writing.age < 60
                assert [each.process for each in stats.reading] == [process]
                assert 0 <= stats.reading[0].age < 60
                assert stats.reading[0].behind == 0
            finally:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            store["a"] = 2
            assert store.stats().writing is None
            assert store.stats().reading == ()

    def test_the_oldest_reader_comes_first(self, path):
        with Store(path) as store:
            first = store.snapshot()
            store["a"] = 1
            second = store.snapshot()
            store["a"] = 2
            assert [each.behind for each in store.stats().reading] == [2, 1]
            first.close()
            store["a"] = 3
            (reading,) = store.stats().reading
            assert reading.behind == 2
            assert reading.age is not None
            second.close()
            assert store.stats().reading == ()

    def test_nobody_is_told_of_where_the_file_of_locks_is_gone(self, path):
        with Store(path) as store, store.transaction():
            os.unlink(path / "lock.mdb")
            assert store.stats().writing is None

    def test_free_pages_are_counted(self, path):
        with Store(path) as store:
            store["large"] = b"x" * 1_000_000
            before = store.stats()
            del store["large"]
            assert store.stats().free_bytes >= before.free_bytes + 1_000_000
            assert store.stats().file_bytes >= store.stats().free_bytes

    def test_memory_knows_nobody(self):
        with Store("memory://") as store:
            assert store.stats().reading == ()
            assert store.stats().writing is None
            assert store.stats().free_bytes == 0


class TestDamagedNames:
    @pytest.mark.parametrize("damage", [b"\xff", b"z"])
    def test_a_namespace_whose_name_is_damaged_is_refused(self, store, damage):
        fill(store)
        (catalog,) = tree_keys(store, CATALOG, EXPIRY)
        spoil(store, catalog, lambda stored: stored[:-1] + damage)
        with pytest.raises(StoreCorrupt, match="damaged; check"):
            store.namespace("users")
        if damage == b"\xff":
            with pytest.raises(StoreCorrupt, match="damaged; check"):
                store.namespaces()
        assert any("name" in problem for problem in store.check().problems)

    def test_a_state_that_is_damaged_is_told(self, store):
        fill(store)
        spoil(store, STATE_KEY, lambda stored: stored[:-1])
        with pytest.raises(StoreCorrupt, match="state of the store"):
            len(store)
        assert store[3] == "xxx"


class TestSalvage:
    def test_names_of_namespaces_that_are_lost(self, path, tmp_path):
        with Store(path) as store:
            fill(store)
            (catalog,) = tree_keys(store, CATALOG, EXPIRY)
            store._engine.transact(lambda writer: writer.delete(catalog))
        report = objstore.salvage(path, tmp_path / "b.store")
        assert report.entries == 352
        with Store(tmp_path / "b.store") as store:
            (name,) = store.namespaces()
            assert name.startswith("lost-")
            assert dict(store.namespace(name)) == {("user", number): number for number in range(100)}
            assert len(store.namespace(name).range(tag="a")) == 100
            assert store.check().ok

    def test_what_is_lost_is_listed(self, path, tmp_path):
        with Store(path) as store:
            fill(store)
            old = store.stats().id
            spoil(store, store._space.tree_key(3), last_byte)
            spoil(store, IDENTITY_KEY, last_byte)
        report = objstore.salvage(path, tmp_path / "b.store")
        assert report.entries == 351
        assert report.lost == (Damage("", 3, "its bytes do not fit their digest"),)
        with Store(tmp_path / "b.store") as store:
            assert 3 not in store
            assert store.stats().id != old

    def test_nobody_may_have_it_open_and_nothing_is_overwritten(self, path, tmp_path):
        with Store(path) as store:
            store["a"] = 1
            with pytest.raises(StoreLocked):
                objstore.salvage(path, tmp_path / "b.store")
        with pytest.raises(StoreExists):
            objstore.salvage(path, path)
        with Store(tmp_path / "c.store") as store:
            store["c"] = 1
        with pytest.raises(StoreExists):
            objstore.salvage(path, tmp_path / "c.store")
        with pytest.raises(StoreError):
            objstore.salvage(tmp_path / "none", tmp_path / "b.store")
        assert not (tmp_path / "b.store").exists()

    def test_progress(self, path, tmp_path):
        with Store(path) as store:
            store.update(dict.fromkeys(range(50), b"x" * 100000))
        seen = []
        objstore.salvage(path, tmp_path / "b.store", progress=lambda done, total: seen.append((done, total)))
        assert seen
        assert seen == sorted(seen)
        assert USER == b"\x10"
