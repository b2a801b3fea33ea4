"""A cache in many threads and processes: its bounds, its figures, kills, forks, the end of a process, and a crash.

What could hang or is killed runs in a process of its own (see `children` and `programs`).  The long form, seconds of
writing and rounds of kills:

    OBJSTORE_CACHE_SECONDS=60 OBJSTORE_CACHE_KILLS=200 python -m pytest tests/test_cache_processes.py -s

OBJSTORE_SEED replays what is written, not how the processes come between each other.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import threading
import time
import weakref
from contextlib import suppress

import pytest
from books import assert_kept, ledger_of, recount
from children import result, results
from programs import run

import objstore
from objstore import Cache, Store, StoreError, StoreFull, StoreSuspect, WrongKind
from objstore import keeper as keeper_module
from objstore.engines.lmdb import directory, registry
from objstore.keeper import _usages, keeper

pytestmark = pytest.mark.usefixtures("forked_checks")

SECONDS = float(os.environ.get("OBJSTORE_CACHE_SECONDS", "0.8"))
KILLS = int(os.environ.get("OBJSTORE_CACHE_KILLS", "4"))
KEY, OLD_KEY = bytes(range(32)), bytes(range(100, 132))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.fixture
def fast_keeper(monkeypatch):
    """What is read is written down twenty times a second."""
    monkeypatch.setattr(keeper, "_SECONDS", 0.05)


def wait_until(holds, seconds=30):
    """Until `holds()`; how long it should take is not what is tested."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never comes"
        time.sleep(0.01)


def keepers():
    return [thread for thread in threading.enumerate() if thread.name == "objstore-keeper"]


def write_on(path, seed, until):
    """Write whatever comes to mind, in every way, until `until()`."""
    rng = random.Random(seed)
    with Cache(path) as cache:
        namespace = cache.namespace(f"n{seed}")
        while not until():
            key = rng.randrange(400)
            what = rng.randrange(8)
            if what == 0:
                cache.update((rng.randrange(400), bytes(rng.randrange(300))) for _ in range(20))
            elif what == 1:
                with cache.transaction() as txn:
                    for _ in range(10):
                        txn[rng.randrange(400)] = bytes(rng.randrange(3_000))
            elif what == 2:
                namespace.set(key, bytes(rng.randrange(5_000)), ttl=0.05, tags=["a"])
            elif what == 3:
                cache.delete(key)
            elif what == 4:
                cache[key] = bytes(rng.randrange(60_000))
            elif what == 5:
                cache.get_many(range(20))
            else:
                cache[key] = key


class TestManyWriters:
    def test_no_state_that_anybody_sees_is_above_a_bound(self, path, seed):
        Cache(path, max_size=100_000, max_entries=150).close()
        seen = path.with_name("seen")

        def write(number):
            return lambda send: send(write_on(path, f"{seed}{number}", seen.exists))

        writers = [results(write(number)) for number in range(4)]
        threads = [threading.Thread(target=lambda writer=writer: ended.extend(writer)) for writer in writers]
        ended = []

        def watch(send):
            end, samples = time.monotonic() + SECONDS, 0
            try:
                with Cache(path, "r") as cache:
                    while time.monotonic() < end or samples < 10:
                        assert_kept(cache)
                        stats = cache.stats()
                        assert stats.entries <= 150
                        assert stats.bytes <= 100_000
                        samples += 1
            finally:
                seen.touch()
            send(None)

        for thread in threads:
            thread.start()
        assert result_of(watch) is None
        for thread in threads:
            thread.join()
        assert ended == [None] * 4
        with Cache(path) as cache:
            assert cache.stats().evicted
            assert_kept(cache)
            assert cache.check().ok

    @pytest.mark.parametrize("durability", ["process", "full"])
    def test_writers_that_are_killed_leave_true_books(self, path, seed, rng, durability):
        Cache(path, max_size=100_000, max_entries=150, durability=durability).close()
        for number in range(KILLS // 2):
            writers = []
            for other in range(2):
                writer = os.fork()
                if writer == 0:
                    try:
                        write_on(path, f"{seed}{number}{other}", lambda: False)
                    finally:
                        os._exit(1)
                writers.append(writer)
            time.sleep(rng.random() * 0.15)
            for writer in writers:
                os.kill(writer, signal.SIGKILL)
            assert [os.WTERMSIG(os.waitpid(writer, 0)[1]) for writer in writers] == [signal.SIGKILL] * 2
            with Cache(path) as cache:
                assert_kept(cache)
                cache["a"] = 1
        with Cache(path) as cache:
            assert cache.check().ok

    def test_threads_that_fail_in_the_middle_of_a_group_do_no_harm(self, path, seed):
        """With "full" durability, one commit is of many threads."""
        failures = []
        with Cache(path, max_size=60_000, max_entries=100, durability="full") as cache:
            end = time.monotonic() + SECONDS / 2

            def write(number):
                rng = random.Random(f"{seed}{number}")
                namespace = cache.namespace("n")
                while time.monotonic() < end:
                    key = rng.randrange(200)
                    try:
                        cache[key] = key
                        namespace.set(key, bytes(rng.randrange(70_000)), ttl=0.1, tags=["t"])
                        assert cache.get(key, key) == key
                        cache.update((key, key) for key in range(rng.randrange(30)))
                        if key % 5 == 0:
                            namespace.delete_tag("t")
                        if key % 7 == 0:
                            cache._apply(stumble)
                    except (StoreFull, ZeroDivisionError) as exc:
                        failures.append(type(exc))

            threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert {StoreFull, ZeroDivisionError} <= set(failures)
            assert_kept(cache)
            assert cache.check().ok
            hits = cache.stats().hits
        with Cache(path) as cache:
            assert cache.stats().hits == hits

    def test_threads_count_exactly(self, path):
        with Cache(path, max_entries=50) as cache:
            cache.update((number, number) for number in range(50))

            def work(thread):
                for number in range(500):
                    assert cache[number % 50] == number % 50
                    assert cache.get(("none", number)) is None
                    if number % 10 == 0:
                        cache[number % 50] = number % 50
                        cache._usage._next_merge = 0.0

            threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert (cache.stats().hits, cache.stats().misses) == (3_000, 3_000)


def stumble(txn):
    """Fail where a change was made."""
    txn.put(b"@stumbled", b"")
    raise ZeroDivisionError


def result_of(function):
    (value,) = results(function)
    return value


class TestReaders:
    def test_no_read_waits_for_a_writer(self, path):
        """They end while a transaction is open, in the same process and in another one."""
        with Cache(path, max_entries=10) as cache:
            cache.update((number, number) for number in range(10))

            def read():
                with Cache(path, max_entries=10) as handle:
                    for _ in range(1_000):
                        assert handle[1] == 1
                        assert handle.get("none") is None
                        handle.get_many(range(10))
                    with handle.snapshot() as snapshot:
                        assert len(snapshot) == len(list(handle.items())) == 10
                    assert handle.stats().hits >= 11_000
                    os._exit(0)

            def read_here():
                for _ in range(5_000):
                    assert cache[1] == 1
                found.append(cache.stats().hits)

            found = []
            with cache.transaction() as txn:
                txn["a"] = 1
                child = os.fork()
                if child == 0:
                    try:
                        read()
                    finally:
                        os._exit(1)
                thread = threading.Thread(target=read_here)
                thread.start()
                thread.join()
                assert os.waitpid(child, 0)[1] == 0
                assert cache._engine.writing() is not None
                assert found == [5_000]
                assert "a" not in cache

    def test_nobody_waits_to_write_down_what_he_has_read(self, path, fast_keeper):
        """Closing, and the thread, look whether a transaction is open; what is not written down then goes later."""
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1

            def read(send):
                with Cache(path) as other, Cache(path):
                    assert other["a"] == 1
                    wait_until(keepers)
                    wait_until(lambda: not keepers())
                    assert other._usage.has_any()
                send("closed")

            with cache.transaction() as txn:
                txn["b"] = 1
                assert list(results(read, seconds=20)) == ["closed"]

    def test_the_reads_of_a_process_that_never_writes_are_written_down(self, path, fast_keeper):
        with Cache(path, max_entries=10) as cache:
            cache.update((number, number) for number in range(10))

            def read(send):
                with Cache(path) as other:
                    for _ in range(7):
                        assert other[3] == 3
                    assert other.get("none") is None
                    send("read")
                    wait_until(lambda: ledger_of(other).hits == 7)
                    send("written down")
                    wait_until(lambda: not keepers())
                    assert other[4] == 4
                    wait_until(lambda: ledger_of(other).hits == 8)
                    send("again")

            assert list(results(read)) == ["read", "written down", "again"]
            assert (cache.stats().hits, cache.stats().misses) == (8, 1)
            for number in range(100, 109):  # this process knows that 3 and 4 were used by another
                cache[number] = number
            assert {3, 4} & set(cache)

    def test_the_thread_ends_where_nobody_reads_any_more(self, path, fast_keeper):
        for flag in ("c", "r"):
            with Cache(path, flag, max_entries=10) as cache:
                for number in range(10):
                    cache.get(number)
                assert len(keepers()) == 1
                wait_until(lambda: not keepers())
            with Cache(path, flag, max_entries=10) as closed:
                closed.get(1)
            wait_until(lambda: not keepers())

    def test_a_reader_of_much_has_it_written_down_in_batches(self, path, fast_keeper):
        with Cache(path, max_entries=3_000) as cache:
            cache.update((number, number) for number in range(3_000))
        with Cache(path) as cache:
            cache.get_many(range(3_000))
            cache.get(1)
            wait_until(lambda: not cache._usage.has_any())
            assert ledger_of(cache).hits == 3_001

    def test_what_is_closed_is_closed_whatever_the_thread_does(self, path, fast_keeper, monkeypatch):
        write_down, at_work, go_on = keeper_module.write_down, threading.Event(), threading.Event()

        def slow(engine, usage):
            if threading.current_thread() in keepers():
                at_work.set()
                assert go_on.wait(30)
            return write_down(engine, usage)

        monkeypatch.setattr(keeper_module, "write_down", slow)
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
            cache.get("a")
            assert at_work.wait(30)
        assert not registry.engines
        go_on.set()
        wait_until(lambda: not keepers())
        with Cache(path) as cache:
            assert (cache.stats().hits, len(registry.engines)) == (1, 1)


class TestForks:
    def test_a_child_has_no_notes_of_its_parent(self, path):
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
            assert [cache["a"] for _ in range(5)] == [1] * 5

            def child():
                before = cache.stats().hits
                assert [cache["a"] for _ in range(2)] == [1, 1]
                during = cache.stats().hits
                cache["b"] = 1
                cache.close()
                with Cache(path) as again:
                    return before, during, again.stats().hits

            assert result(child) == (0, 2, 2)
            assert cache.stats().hits == 7
        with Cache(path) as cache:
            assert cache.stats().hits == 7

    def test_a_child_has_a_keeper_of_its_own(self, path, fast_keeper):
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
            assert cache["a"] == 1
            wait_until(lambda: ledger_of(cache).hits == 1)
            assert keepers()

            def child():
                assert not keepers()
                assert cache["a"] == 1
                assert keepers()
                wait_until(lambda: ledger_of(cache).hits == 2)
                return True

            assert result(child)
            assert cache.stats().hits == 2

    def test_children_of_a_busy_parent(self, path, fast_keeper):
        with Cache(path, max_entries=50) as cache:
            stop = threading.Event()

            def work():
                while not stop.is_set():
                    for number in range(100):
                        cache[number] = number
                        cache.get(number)
                        cache.get_many(range(number))

            thread = threading.Thread(target=work)
            thread.start()

            def child():
                for number in range(200, 300):
                    cache[number] = number
                    assert cache.get(number) in (None, number)
                assert cache.stats().hits > 0
                assert_kept(cache)
                return True

            assert [result(child) for _ in range(10)] == [True] * 10
            stop.set()
            thread.join()
            assert_kept(cache)
            assert cache.check().ok


PRELUDE = """
    import os, sys, threading, time
    from objstore import Cache
    from objstore.keeper import keeper
    path = sys.argv[1]
    cache = Cache(path, max_entries=10)
    cache["a"] = 1
"""


class TestTheEnd:
    @pytest.mark.parametrize(
        "program",
        [
            "assert [cache['a'] for _ in range(10)]",
            "keeper._SECONDS = 0.05; assert [cache['a'] for _ in range(10)]; time.sleep(0.3)",
            "cache['a']; cache.close()",
            "cache['a']; cache.self = cache; del cache",
            "txn = cache.transaction().__enter__(); txn['b'] = 1; cache['a']",
            "threading.Thread(target=lambda: (cache['a'], time.sleep(0.2), cache['a'])).start()",
            "threading.Thread(target=lambda: (time.sleep(0.2), cache['a'], cache['a'])).start()",
            "os.fork(); cache['a']",
            "import atexit; atexit.register(lambda: cache['a']); cache['a']",
        ],
    )
    def test_a_process_ends_quietly(self, path, program):
        assert run(program, path, prelude=PRELUDE, seconds=30) == ""
        with Cache(path) as cache:
            assert cache["a"] == 1
            assert_kept(cache)

    def test_a_short_program_that_closes_nothing_has_used_what_it_read(self, path):
        """Or a script that runs every hour would lose what it uses every time."""
        with Cache(path, max_entries=200) as cache:
            cache.update((number, number) for number in range(200))
        program = "cache = Cache(sys.argv[1]); assert [cache[number] for number in range(100)]"
        assert run("import sys; from objstore import Cache; " + program, path, seconds=30) == ""
        with Cache(path) as cache:
            assert cache.stats().hits == 100
            for number in range(1_000, 1_050):
                cache[number] = number
            assert sum(number in cache for number in range(100)) > 90

    @pytest.mark.skipif("OBJSTORE_CACHE_SECONDS" not in os.environ, reason="it waits for seconds: in the long form")
    def test_a_process_ends_where_another_writes(self, path):
        with Cache(path, max_entries=10) as cache:
            cache["a"] = 1
            with cache.transaction() as txn:
                txn["b"] = 1
                program = "cache = Cache(sys.argv[1], max_entries=10); cache['a']; time.sleep(2.2)"
                assert run("import sys, time; from objstore import Cache; " + program, path, seconds=30) == ""

    def test_one_that_nobody_closes_goes_with_its_last_reference(self, path):
        for cyclic in (False, True):
            cache = Cache(path, max_entries=10)
            cache["a"] = 1
            assert cache["a"] == 1
            namespace = cache.namespace("n")
            namespace["a"] = 1
            if cyclic:
                cache.itself, namespace.other = cache, cache
            engine, handle = weakref.ref(cache._engine), weakref.ref(cache)
            del cache, namespace
            gc.collect()
            assert handle() is None
            assert engine() is None or engine() not in _usages or keepers()  # which may be looking at it
        with Cache(path) as cache:
            assert cache["a"] == 1
            assert_kept(cache)

    def test_a_namespace_may_be_dropped_by_another_process(self, path):
        with Cache(path, max_entries=10) as cache:
            namespace = cache.namespace("n", codec="bytes")
            namespace.update((number, b"a") for number in range(10))
            assert cache.get_many(range(10)) == {}
            cache["x"] = 1  # which makes a sample

            def drop():
                with Cache(path) as other:
                    other.drop_namespace("n")
                    other.namespace("n").update((number, "text") for number in range(3))

            result(drop)
            for number in range(30):
                cache[number] = number
            with pytest.raises(StoreError, match="codec"):
                namespace["a"] = b"a"
                namespace["b"] = b"a"
            assert_kept(cache)
            assert cache.check().ok
            namespace.close()


@pytest.fixture
def crashed(path, monkeypatch):
    """A cache whose machine went down in the middle; how it was opened."""

    def crash(kind=Cache, **options):
        child = os.fork()
        if child == 0:
            with suppress(StoreError, ValueError):  # else the child would go on with the tests
                store = kind(path, **options)
                for number in range(5):
                    store[number] = number
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        monkeypatch.setattr(directory, "boot_id", lambda: "another boot")

    return crash


KEY, OTHER_KEY = bytes(range(32)), bytes(range(32, 64))
BOUNDS = {"max_entries": 4, "max_size": 50_000, "policy": "lfu"}


class TestACrashOfTheMachine:
    def test_a_cache_begins_empty_with_the_bounds_that_are_given(self, crashed, path, caplog):
        crashed(**BOUNDS)
        with caplog.at_level(logging.WARNING, "objstore"), Cache(path, **BOUNDS) as cache:
            assert "begins empty" in caplog.text
            assert str(path) in caplog.text
            stats = cache.stats()
            assert (stats.entries, stats.bytes, stats.evicted) == (0, 0, 0)
            assert (stats.max_entries, stats.max_size, stats.policy) == (4, 50_000, "lfu")
            assert stats.durability == "process"
            cache["a"] = 1
            assert cache.check().ok
        caplog.clear()
        with Cache(path, **BOUNDS) as cache:
            assert dict(cache) == {"a": 1}
        assert caplog.text == ""

    @pytest.mark.parametrize("options", [{}, {"flag": "w"}, {"flag": "r"}, {"flag": "r", "max_entries": 4}])
    def test_who_names_no_bounds_or_reads_is_told(self, crashed, path, options):
        crashed(**BOUNDS)
        before = (path / "data.mdb").read_bytes()
        with pytest.raises(StoreSuspect):
            Cache(path, **options)
        assert (path / "data.mdb").read_bytes() == before
        assert objstore.check(path).entries == 4

    def test_who_would_leave_it_without_bounds_is_told(self, crashed, path):
        crashed(**BOUNDS)
        with pytest.raises(StoreSuspect):
            Cache(path, ttl=10)
        assert objstore.check(path).entries == 4

    @pytest.mark.parametrize("options", [{"ttl": 20}, BOUNDS])
    def test_one_without_bounds_begins_empty_for_everybody(self, crashed, path, options):
        crashed(ttl=1000)
        with Cache(path, **options) as cache:
            assert cache.stats().entries == 0

    @pytest.mark.parametrize("options", [{}, {"signing_key": OTHER_KEY}, {"encryption_key": KEY}])
    def test_who_has_not_its_key_is_told(self, crashed, path, options):
        crashed(**BOUNDS, signing_key=KEY)
        with pytest.raises(StoreSuspect):
            Cache(path, **BOUNDS, **options)
        with Cache(path, **BOUNDS, signing_key=KEY) as cache:
            assert (cache.stats().entries, cache.stats().sealing) == (0, "signed")

    def test_a_backup_is_disposable_too(self, path, tmp_path, monkeypatch):
        with Cache(path, **BOUNDS) as cache:
            cache["a"] = 1
            cache.backup(tmp_path / "backup")
        path = tmp_path / "backup"
        child = os.fork()
        if child == 0:
            cache = Cache(path)
            cache["b"] = 1
            os._exit(0)
        os.waitpid(child, 0)
        monkeypatch.setattr(directory, "boot_id", lambda: "another boot")
        with Cache(path, **BOUNDS) as cache:
            assert dict(cache) == {}

    @pytest.mark.parametrize("flag", ["r", "w", "c"])
    def test_a_store_is_never_emptied(self, crashed, path, flag):
        crashed(Store, durability="process")
        for kind, options in ((Store, {}), (Cache, {"max_entries": 4}), (Cache, {})):
            with pytest.raises((StoreSuspect, WrongKind)):
                kind(path, flag, **options)
        assert objstore.check(path).entries == 5

    def test_a_cache_is_not_emptied_by_who_takes_it_for_a_store(self, crashed, path):
        crashed(**BOUNDS)
        with pytest.raises((StoreSuspect, WrongKind)):
            Store(path)
        assert objstore.check(path).entries == 4

    def test_one_that_was_synced_is_whole(self, crashed, path):
        crashed(**BOUNDS, durability="full")
        with Cache(path, **BOUNDS) as cache:
            assert len(cache) == 4

    def test_it_may_be_accepted(self, crashed, path):
        crashed(**BOUNDS)
        assert objstore.check(path, accept=True).ok
        with Cache(path, **BOUNDS) as cache:
            assert len(cache) == 4

    def test_one_of_two_empties_it(self, crashed, path):
        crashed(**BOUNDS)

        def open_it(number):
            def child():
                with Cache(path, **BOUNDS) as cache:
                    cache["by", number] = number
                    return cache._engine.was_emptied

            return child

        emptied = []
        threads = [
            threading.Thread(target=lambda number=number: emptied.append(result(open_it(number))))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(emptied) == [False, False, False, True]
        with Cache(path, **BOUNDS) as cache:
            assert set(cache) == {("by", number) for number in range(4)}
            assert cache.check().ok

    @pytest.mark.parametrize("step", range(0, 8, 2) if SECONDS < 5 else range(8))
    def test_one_that_is_killed_while_it_empties_does_no_harm(self, crashed, path, step, monkeypatch):
        crashed(**BOUNDS)
        child = os.fork()
        if child == 0:
            steps = 0
            for module, name in ((os, "replace"), (os, "mkdir"), (os, "unlink"), (directory, "sync_directory")):
                plain = getattr(module, name)

                def killing(*arguments, plain=plain, **options):
                    nonlocal steps
                    if steps == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                    steps += 1
                    return plain(*arguments, **options)

                setattr(module, name, killing)
            try:
                Cache(path, **BOUNDS)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        with Cache(path, **BOUNDS) as cache:
            assert len(cache) == 0
            cache["a"] = 1
            assert cache.stats().max_entries == 4
            assert_kept(cache)
        with Cache(path) as cache:
            assert dict(cache) == {"a": 1}


SEALS = [{}, {"signing_key": KEY}, {"encryption_key": KEY}]


@pytest.mark.parametrize("keys", SEALS, ids=["open", "signed", "encrypted"])
class TestCare:
    @pytest.fixture
    def cache(self, path, keys):
        with Cache(path, max_entries=20, max_size=200_000, policy="lfu", **keys) as cache:
            for number in range(30):
                (cache.namespace("n") if number % 2 else cache).set(
                    number, bytes(number * 100), ttl=1_000 if number % 3 else None, tags=["a"]
                )
            cache.namespace("own", codec="json")["a" * 600] = [1]
            yield cache

    def assert_same(self, path, cache, keys):
        wanted = dict(cache), dict(cache.namespace("n")), dict(cache.namespace("own"))
        with Cache(path, **keys) as copy:
            assert (dict(copy), dict(copy.namespace("n")), dict(copy.namespace("own"))) == wanted
            stats = copy.stats()
            assert (stats.entries, stats.bytes) == recount(copy)
            assert (stats.max_entries, stats.max_size, stats.policy) == (20, 200_000, "lfu")
            for number in range(100, 130):
                copy[number] = number
            assert_kept(copy)
            assert copy.check().ok

    def test_a_backup(self, cache, path, keys):
        cache.backup(path.with_name("b.store"))
        self.assert_same(path.with_name("b.store"), cache, keys)

    def test_a_salvage(self, cache, path, keys):
        cache.close()
        report = objstore.salvage(path, path.with_name("b.store"), **keys)
        assert (report.entries, report.lost) == (20, ())
        with Cache(path, **keys) as cache:
            self.assert_same(path.with_name("b.store"), cache, keys)

    def test_a_compaction(self, cache, path, keys):
        before = dict(cache), dict(cache.namespace("n")), cache.stats().bytes
        cache.compact()
        assert (dict(cache), dict(cache.namespace("n")), cache.stats().bytes) == before
        assert cache.check().ok
        cache.update((number, number) for number in range(100, 200))
        assert_kept(cache)

    def test_new_keys(self, cache, path, keys):
        if not keys:
            with pytest.raises(StoreError, match="sealed"):
                cache.rekey()
            return
        cache.close()
        ((option, key),) = keys.items()
        with Cache(path, **{option: [OLD_KEY, key]}) as cache:
            cache["new"] = 1
            assert cache.rekey().needed == ()
            assert_kept(cache)
            assert cache.check().ok
        with Cache(path, **{option: OLD_KEY}) as cache:
            assert cache["new"] == 1
            cache.update((number, number) for number in range(100, 200))
            assert_kept(cache)


class TestADamagedLedger:
    def test_salvage_makes_it_anew_with_the_bounds_that_were_given_then(self, path):
        with Cache(path, max_entries=20) as cache:
            cache.update((number, number) for number in range(20))
            cache._engine.transact(lambda txn: txn.put(b"\x00c", b"?"))
        assert objstore.check(path).problems
        report = objstore.salvage(path, path.with_name("b.store"))
        assert report.entries == 20
        with Cache(path.with_name("b.store"), max_entries=10) as cache:
            assert len(cache) == 10
            assert_kept(cache)
            assert cache.check().ok


class TestTheCommandLine:
    def test_it_works_on_a_cache(self, path):
        pytest.importorskip("click")
        from click.testing import CliRunner

        from objstore.cli.commands import objstore as command_line

        def line(*arguments):
            done = CliRunner().invoke(command_line, list(map(str, arguments)))
            assert done.exit_code == 0, done.output
            return done.output

        with Cache(path, max_entries=3) as cache:
            cache.update(a=1, b=2, c=3)
        assert line("get", path, "b") == "2\n"
        assert line("ls", path) == "'a'\n'b'\n'c'\n"
        line("set", path, "d", "4")
        assert line("get", path, "d") == "4\n"
        assert len(line("ls", path).splitlines()) == 3
        line("delete", path, "d")
        assert "entries" in line("info", path)
        line("check", path)
        line("backup", path, path.with_name("b.store"))
        line("compact", path)
        line("salvage", path, path.with_name("c.store"))
        for name in ("a.store", "b.store", "c.store"):
            with Cache(path.with_name(name)) as cache:
                assert len(cache) == 2
                assert cache.stats().max_entries == 3
                assert cache.check().ok
