"""Forks, threads and other processes: nobody disturbs, blocks or overtakes anybody.

What ends a process, or could hang, runs in a script of its own under a time limit; see `run_script`.  The
long form of the forks, how many of them beside threads that write:

    OBJSTORE_FORKS=2000 python -m pytest tests/test_processes.py
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import textwrap
import threading

import pytest
from programs import begun, run

from objstore import ReadOnlyStore, Store, TransactionError
from objstore.engines.lmdb import registry

FORKS = int(os.environ.get("OBJSTORE_FORKS", "70"))
LIMIT = 120 + FORKS  # seconds; a hang ends here, nothing else does

PRELUDE = """
import gc, os, signal, sys, threading
import objstore
from objstore import *

path = sys.argv[1]

def fails(call):
    "The name of the error that a call raises."
    try:
        call()
    except Exception as exc:
        return type(exc).__name__
    return "nothing"

def fork(child):
    "Run `child` in a forked process that ends as a program does; its exit status."
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        child()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
"""


def run_script(source, path, *arguments, status=0):
    """Run a program of its own over the store at `path`; what it prints, line by line."""
    process = begun(PRELUDE + textwrap.dedent(source), [str(path), *map(str, arguments)], stdin=False, stderr=True)
    printed, complaints = process.communicate(timeout=LIMIT)
    assert (process.returncode, complaints) == (status, "")
    return printed.splitlines()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.store"


@pytest.fixture
def stored(path):
    """A store with a thousand items, closed."""
    with Store(path) as store:
        store.update((number, number) for number in range(1000))
    return path


class TestFork:
    def test_a_child_may_not_use_what_its_parent_began(self, stored):
        lines = run_script(
            """
            store = Store(path)
            snapshot = store.snapshot()
            keys, items = iter(store), iter(store.items())
            next(keys), next(items)
            with store.transaction() as txn:
                txn_keys = iter(txn)
                next(txn_keys)

                def child():
                    print(fails(lambda: snapshot[1]), fails(lambda: len(snapshot)), fails(lambda: list(snapshot)))
                    print(fails(lambda: 1 in snapshot), fails(lambda: snapshot.get_many([1])))
                    print(fails(lambda: snapshot.namespace("n")))
                    print(fails(lambda: next(keys)), fails(lambda: next(items)), fails(lambda: next(txn_keys)))
                    print(fails(lambda: txn[1]), fails(lambda: txn.set(1, 2)), fails(lambda: len(txn)))
                    print(fails(lambda: txn.transaction().__enter__()), fails(lambda: txn.namespace("n")))
                    print(fails(lambda: txn.__exit__(None, None, None)))

                print(fork(child))
                txn["after"] = 1
            print(store["after"])
            """,
            stored,
        )
        *refused, status, after = lines
        assert set(" ".join(refused).split()) == {"TransactionError"}
        assert len(" ".join(refused).split()) == 15
        assert (status, after) == ("0", "1")

    def test_what_the_parent_began_stays_right_while_the_child_writes_and_ends(self, stored):
        lines = run_script(
            """
            store = Store(path)
            snapshot = store.snapshot()
            keys, items = iter(store), iter(store.items())
            next(keys), next(items)

            def child():
                global snapshot, keys, items
                del snapshot, keys, items
                gc.collect()
                for turn in range(100):
                    store.update((number, (turn, number)) for number in range(1000))

            print(fork(child))
            print(all(snapshot[number] == number for number in range(1000)), len(snapshot))
            print(all(key == value for key, value in items), len(list(keys)))
            print(store[5])
            store[5] = "the parent writes on"
            print(store[5], snapshot[5])
            """,
            stored,
        )
        assert lines == ["0", "True 1000", "True 999", "(99, 5)", "the parent writes on 5"]

    def test_a_child_that_ends_inside_the_transaction_of_its_parent_does_not_end_it(self, stored):
        lines = run_script(
            """
            import subprocess
            store = Store(path)
            with store.transaction() as txn:
                txn["one"] = 1
                process = os.fork()
                if process == 0:
                    sys.exit(0)  # through the end of the block
                print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
                other = subprocess.Popen(
                    [sys.executable, "-c", '''if True:
                        import sys
                        from objstore import Store
                        with Store(sys.argv[1]) as store:
                            print("ready", flush=True)
                            store["other"] = 1  # waits for its turn
                            print("one" in store, "two" in store)
                    ''', path],
                    stdout=subprocess.PIPE, text=True)
                print(other.stdout.readline().strip())
                txn["two"] = 2
            print(other.communicate()[0].strip())
            print(store["one"], store["two"], store["other"])
            """,
            stored,
        )
        assert lines == ["0", "ready", "True True", "1 2 1"]

    def test_a_child_reads_and_writes_through_the_handle_it_inherited(self, stored):
        lines = run_script(
            """
            store = Store(path)
            users = store.namespace("users")
            users["a"] = 1

            def child():
                users["b"] = store[7]
                with store.transaction() as txn:
                    txn["child"] = txn[1] + 1

                def grandchild():
                    users["c"] = store["child"]
                    with Store(path) as again:
                        again["grandchild"] = 1
                    print(len(store), fails(lambda: again[1]))

                print(fork(grandchild))

            print(fork(child))
            print(dict(users), store["child"], store["grandchild"])
            """,
            stored,
        )
        assert lines == ["1002 StoreClosed", "0", "0", "{'a': 1, 'b': 7, 'c': 2} 2 1"]

    def test_a_child_may_close_what_it_inherited_and_the_parent_goes_on(self, stored):
        lines = run_script(
            """
            store = Store(path)
            snapshot = store.snapshot()

            def unused():
                store.close()
                print(fails(lambda: store[1]))

            def used():
                store["child"] = 1
                store.close()
                with Store(path) as again:
                    print(again["child"])

            print(fork(unused), fork(used))
            store["parent"] = 1
            print(snapshot[1], len(snapshot), len(store))
            """,
            stored,
        )
        assert lines == ["StoreClosed", "1", "0 0", "1 1000 1002"]

    def test_a_store_in_memory_is_copied_by_a_fork(self, path):
        lines = run_script(
            """
            store = Store("memory://")
            store["a"] = 1
            snapshot = store.snapshot()
            txn = store.transaction().__enter__()

            def child():
                print(fails(lambda: snapshot["a"]), fails(lambda: txn["a"]))
                store["a"] = 2
                print(store["a"])

            print(fork(child))
            txn["a"] += 10
            txn.__exit__(None, None, None)
            print(store["a"], snapshot["a"])
            """,
            path,
        )
        assert lines == ["TransactionError TransactionError", "2", "0", "11 1"]

    def test_threads_write_read_and_open_while_another_forks(self, path):
        lines = run_script(
            """
            store = Store(path)
            stop = threading.Event()
            counts = [0, 0]
            failed = []

            def write(name):
                while not stop.is_set():
                    try:
                        store.increment(name)
                        counts[name] += 1
                    except Exception as exc:
                        failed.append(exc)

            def read():
                while not stop.is_set():
                    try:
                        sum(1 for _ in store.items())
                    except Exception as exc:
                        failed.append(exc)

            def open_others():
                while not stop.is_set():
                    try:
                        Store(path).close()
                        with Store(path + ".other") as other:
                            other["a"] = 1
                    except Exception as exc:
                        failed.append(exc)

            threads = [threading.Thread(target=write, args=(0,)), threading.Thread(target=write, args=(1,)),
                       threading.Thread(target=read), threading.Thread(target=open_others)]
            for thread in threads:
                thread.start()

            def child():
                signal.alarm(30)  # a child that hangs dies of it
                store.increment("children")
                store["last"] = os.getpid()
                assert len(list(store)) >= 2
                with Store(path + ".other") as other:
                    other["b"] = 2
                os._exit(0)  # the threads of the parent are none of the child's

            ends = [fork(child) for _ in range(int(sys.argv[2]))]
            stop.set()
            for thread in threads:
                thread.join()
            print(sorted(set(ends)), failed[:3])
            print(store["children"], [store[0], store[1]] == counts)
            """,
            path,
            FORKS,
        )
        assert lines == ["[0] []", f"{FORKS} True"]

    def test_a_child_forked_by_a_thread_ends_as_a_program_does(self, stored):
        lines = run_script(
            """
            store = Store(path)
            snapshot = store.snapshot()

            def in_a_thread():
                process = os.fork()
                if process == 0:
                    store["child"] = 1
                    sys.exit(0)
                print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))

            thread = threading.Thread(target=in_a_thread)
            thread.start()
            thread.join()
            print(store["child"], len(snapshot))
            """,
            stored,
        )
        assert lines == ["0", "1 1000"]


def write_through(handle, key):
    handle[key] = os.getpid()
    return len(handle)


def try_to_write(handle):
    try:
        handle["x"] = 1
    except ReadOnlyStore:
        return handle[1]


class TestHandlesThatTravel:
    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_stores_and_namespaces_and_readers_go_to_other_processes(self, stored, method):
        context = multiprocessing.get_context(method)
        with Store(stored) as store, context.Pool(2) as pool:
            users = store.namespace("users")
            assert pool.apply(write_through, (store, "a")) == 1001
            assert pool.apply(write_through, (users, "a")) == 1
            assert store["a"] != os.getpid()
            assert users["a"] != os.getpid()
            with Store(stored, "r") as reader:
                assert pool.apply(try_to_write, (reader,)) == 1
            pool.close()
            pool.join()

    def test_a_handle_keeps_its_options_and_forgets_what_is_not_its_own(self, path):
        with Store(path, durability="relaxed", map_size=1 << 26, max_readers=17) as store:
            again = pickle.loads(pickle.dumps(store))
            assert vars(again.stats()) | {"entries": 0} == vars(store.stats()) | {"entries": 0}
            assert again.stats().map_bytes == 1 << 26
            store["a"] = 1
            store.close()
            assert again["a"] == 1
            again.close()

    def test_a_namespace_lives_without_the_handle_it_came_from(self, stored):
        with Store(stored) as store:
            users = pickle.loads(pickle.dumps(store.namespace("users")))
        users["a"] = 1
        assert users == {"a": 1}
        users.close()

    def test_a_store_in_memory_stays_where_it_is(self):
        with Store("memory://") as store, pytest.raises(TypeError, match="use a path"):
            pickle.dumps(store)


def in_a_thread(call):
    """What a call gives in another thread, or the error it raises."""
    results = []

    def run():
        try:
            results.append(call())
        except Exception as exc:  # noqa: BLE001  (it is the result)
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    return results[0]


class TestTransactionsAndThreads:
    def test_a_transaction_belongs_to_its_thread(self, store):
        store.update(a=1, b=2)
        with store.transaction() as txn:
            calls = [
                lambda: txn["a"],
                lambda: txn.set("a", 2),
                lambda: list(txn),
                lambda: len(txn),
                lambda: txn.namespace("n"),
                lambda: txn.transaction().__enter__(),
                lambda: txn.__exit__(None, None, None),
            ]
            for call in calls:
                assert isinstance(in_a_thread(call), TransactionError)
            txn["a"] = 3
        assert store["a"] == 3

    def test_an_iteration_inside_one_belongs_to_its_thread(self, store):
        store.update(a=1, b=2)
        with store.transaction() as txn:
            for begun in (iter(txn), iter(txn.items()), iter(txn.range("a").entries())):
                next(begun)
                assert isinstance(in_a_thread(lambda begun=begun: next(begun)), TransactionError)

    def test_a_snapshot_belongs_to_nobody(self, store):
        store.update((number, number) for number in range(1000))
        with store.snapshot() as snapshot:
            store.clear()
            assert in_a_thread(lambda: sum(snapshot.values())) == sum(range(1000))

    @pytest.mark.parametrize("kind", ["lmdb", "memory"])
    def test_writing_beside_the_transaction_of_the_same_thread_is_refused_at_once(self, stored, kind):
        lines = run_script(
            """
            signal.alarm(60)
            store = Store(path if sys.argv[2] == "lmdb" else "memory://name")
            second = Store(path if sys.argv[2] == "lmdb" else "memory://name")
            users = store.namespace("users")
            store.clear()
            store["a"] = 1

            with store.transaction() as txn:
                txn["a"] = 2
                for call in (
                    lambda: store.set("a", 3),
                    lambda: store.update(a=3),
                    lambda: store.delete("a"),
                    lambda: store.pop("a"),
                    lambda: store.increment("a"),
                    lambda: store.modify("a", str),
                    lambda: store.add("new", 3),
                    lambda: store.setdefault("new", 3),
                    lambda: store.clear(),
                    lambda: store.load({"a": 3}),
                    lambda: store.expire(),
                    lambda: store.drop_namespace("users"),
                    lambda: store.transaction().__enter__(),
                    lambda: store.edit("a", default=[]).__enter__(),
                    lambda: users.set("a", 3),
                    lambda: second.set("a", 3),
                ):
                    print(fails(call))
                print(store["a"], second["a"], len(users), dict(store))
                print(txn["a"])
            print(store["a"])
            store["a"] = 4
            print(second["a"])
            """,
            stored,
            kind,
        )
        assert lines == ["TransactionError"] * 16 + ["1 1 0 {'a': 1}", "2", "2", "4"]

    def test_another_store_may_be_written_meanwhile(self, tmp_path):
        with Store(tmp_path / "a") as first, Store(tmp_path / "b") as second, first.transaction() as txn:
            second["a"] = 1
            txn["b"] = second["a"]

    def test_a_transaction_that_others_wait_for_is_seen_by_them(self, store):
        waiting = threading.Event()
        results = []

        def wait_and_add():
            waiting.set()
            results.append(store.increment("n"))

        thread = threading.Thread(target=wait_and_add)
        with store.transaction() as txn:
            txn["n"] = 41
            thread.start()
            waiting.wait()
        thread.join(LIMIT)
        assert results == [42]


WORKER = """
import sys
sys.stdin.readline()
with Store(path) as store:
    {body}
"""


def run_together(count, body, path):
    """Several processes run `body` at once; what each prints."""
    code = PRELUDE + WORKER.format(body=textwrap.indent(textwrap.dedent(body), "    ").strip())
    processes = [begun(code, [str(path), str(number)], stderr=True) for number in range(count)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=LIMIT) for process in processes]
    assert [error for _, error in ends] == [""] * count
    return [output.strip() for output, _ in ends]


class TestManyWriters:
    def test_no_increment_is_lost_among_threads(self, store):
        def work():
            for _ in range(200):
                store.increment("n")
                store.modify("m", lambda value: [value[0] + 1], default=[0])
                store.namespace("users").increment("n", ttl=1000)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (store["n"], store["m"], store.namespace("users")["n"]) == (800, [800], 800)

    def test_no_increment_is_lost_among_processes_of_threads(self, path):
        run_together(
            4,
            """
            def work():
                for _ in range(100):
                    store.increment("n")
                    store.modify("m", lambda value: [value[0] + 1], default=[0])
                    with store.transaction() as txn:
                        txn["t"] = txn.get("t", 0) + 1
                    with store.edit("e", default=[]) as value:
                        value.append(1)
            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            """,
            path,
        )
        with Store(path) as store:
            assert (store["n"], store["m"], store["t"], sum(store["e"])) == (1200, [1200], 1200, 1200)

    def test_exactly_one_of_many_adds_wins(self, path):
        outputs = run_together(
            4,
            """
            me = int(sys.argv[2])
            print([key for key in range(200) if store.add(key, me)])
            """,
            path,
        )
        winners = [eval(output) for output in outputs]
        assert sorted(key for keys in winners for key in keys) == list(range(200))
        with Store(path) as store:
            assert all(store[key] == number for number, keys in enumerate(winners) for key in keys)

    def test_setdefault_gives_everybody_the_same(self, path):
        outputs = run_together(
            4,
            """
            me = int(sys.argv[2])
            print([store.setdefault(key, me) for key in range(200)])
            """,
            path,
        )
        assert len(set(outputs)) == 1
        with Store(path) as store:
            assert list(store.values()) == eval(outputs[0])

    def test_every_item_is_popped_once(self, stored):
        outputs = run_together(
            4,
            """
            popped = []
            while store:
                try:
                    popped.append(store.popitem()[0])
                except KeyError:
                    break
            print(popped)
            """,
            stored,
        )
        assert sorted(key for output in outputs for key in eval(output)) == list(range(1000))

    def test_all_who_make_a_store_at_once_share_it(self, path):
        run_together(6, "store[sys.argv[2]] = 1", path)
        with Store(path) as store:
            assert list(store) == ["0", "1", "2", "3", "4", "5"]


class TestDeath:
    def test_a_writer_that_is_killed_does_not_block_the_next(self, stored):
        lines = run_script(
            """
            signal.alarm(60)
            store = Store(path)
            for turn in range(10):
                read, write = os.pipe()
                process = os.fork()
                if process == 0:
                    with store.transaction() as txn:
                        txn[1] = "by half"
                        os.write(write, b"x")
                        signal.pause()
                os.read(read, 1)
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                store[2] = turn
            print(store[1], store[2], len(store))
            """,
            stored,
        )
        assert lines == ["1 9 1000"]

    def test_readers_that_are_killed_leave_no_slots_taken(self, stored):
        lines = run_script(
            """
            signal.alarm(60)
            store = Store(path, max_readers=8)
            for turn in range(20):
                read, write = os.pipe()
                process = os.fork()
                if process == 0:
                    snapshots = [store.snapshot() for _ in range(3)]
                    os.write(write, b"x")
                    signal.pause()
                os.read(read, 1)
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            snapshots = [store.snapshot() for _ in range(6)]
            print(sum(snapshot[1] for snapshot in snapshots))
            """,
            stored,
        )
        assert lines == ["6"]


class TestHandlesOfOneProcess:
    def test_two_handles_share_one_environment(self, stored, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(stored)
        with Store(stored) as first, Store(link) as second:
            assert len(registry.engines) == 1
            first["a"] = 1
            assert second["a"] == 1
            first.close()
            second["b"] = 2
            assert second["b"] == 2
            with Store(stored, "r") as third:
                assert third["b"] == 2
        assert not registry.engines

    def test_a_store_that_nobody_remembers_is_released(self, stored):
        store = Store(stored)
        users = store.namespace("users")
        users["a"] = 1
        del store
        gc.collect()
        assert users["a"] == 1
        del users
        gc.collect()
        assert not registry.engines
        with Store(stored, "n") as store:
            assert not store

    def test_a_store_in_a_cycle_may_be_collected_while_another_is_opened(self, stored):
        lines = run_script(
            """
            signal.alarm(60)

            class Holder:
                pass

            gc.disable()
            for end in ("", ".second", ".third"):
                holder = Holder()
                holder.itself, holder.store = holder, Store(path)
                del holder
                # The collector may run anywhere; here it runs wherever a file is looked at.
                collecting = True
                if not end:
                    sys.addaudithook(lambda event, _: gc.collect() if collecting and event.startswith("o") else None)
                store = Store(path + end)
                store["a"] = 1
                store.close()
                collecting = False
            print("done")
            """,
            stored,
        )
        assert lines == ["done"]

    @pytest.mark.parametrize(
        "read",
        [
            lambda store: list(iter(store)),
            lambda store: [key for key, _ in store.items()],
            lambda store: list(store.range(0)),
            lambda store: [entry.key for entry in store.entries()],
            lambda store: list(store.snapshot()),
        ],
    )
    def test_what_reads_a_store_keeps_it_open(self, stored, read):
        assert read(Store(stored)) == list(range(1000))

    def test_threads_that_open_and_close_one_store_do_not_disturb_each_other(self, stored):
        failed = []

        def work(number):
            try:
                for turn in range(50):
                    with Store(stored) as store:
                        store["n", number] = turn
                        assert store["n", number] == turn
            except Exception as exc:  # noqa: BLE001  (it is told below)
                failed.append(exc)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert not registry.engines


def test_a_child_that_is_forked_while_another_thread_closes_the_store_opens_it_anew(tmp_path):
    run(
        """
        import os, sys, threading
        from objstore import Store
        from objstore.engines.lmdb.directory import Directory

        path = sys.argv[1]
        store = Store(path)
        store["a"] = 1
        closed, forked = threading.Event(), threading.Event()
        close = Directory.close

        def close_and_wait(self):
            close(self)
            closed.set()
            forked.wait(60)

        Directory.close = close_and_wait
        thread = threading.Thread(target=store.close)
        thread.start()
        closed.wait(60)
        process = os.fork()
        if process == 0:
            Directory.close = close
            with Store(path) as store:
                store["b"] = 2
                # It has its own lock: nobody may replace the store.
                other = os.fork()
                if other == 0:
                    from objstore import StoreLocked
                    try:
                        os.execv(sys.executable, [sys.executable, "-c", (
                            "import sys; from objstore import Store, StoreLocked\\n"
                            "try: Store(sys.argv[1], 'n')\\n"
                            "except StoreLocked: sys.exit(7)"), path])
                    finally:
                        os._exit(1)
                assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 7
            os._exit(0)
        status = os.waitpid(process, 0)[1]
        forked.set()
        thread.join()
        assert status == 0
        with Store(path) as store:
            assert store == {"a": 1, "b": 2}
        """,
        tmp_path / "a.store",
    )
