"""Storms: forks, readers that are killed, writers that are stopped, and maps that must grow, all at once and again.

Each runs in a program of its own under a time limit, so that a hang is a failure.  (Processes that are started by
spawn and forkserver are among the tellers of `test_bank`.)  The long forms:

    OBJSTORE_FORKS=10000 python -m pytest tests/test_storms.py -k fork -s
    OBJSTORE_READERS=10000 python -m pytest tests/test_storms.py -k reader -s
    OBJSTORE_WRITERS=3000 python -m pytest tests/test_storms.py -k asleep -s
    OBJSTORE_GROWTHS=1000 python -m pytest tests/test_storms.py -k map -s

OBJSTORE_SEED replays what is done; when the machine does it, it does not.
"""

from __future__ import annotations

import os
import sys

import pytest
from programs import run

FORKS = int(os.environ.get("OBJSTORE_FORKS", "70"))
READERS = int(os.environ.get("OBJSTORE_READERS", "25"))
WRITERS = int(os.environ.get("OBJSTORE_WRITERS", "15"))
GROWTHS = int(os.environ.get("OBJSTORE_GROWTHS", "25"))

PRELUDE = """
    import faulthandler, gc, os, random, signal, subprocess, sys, threading, time
    from objstore import *

    faulthandler.enable()
    path = sys.argv[1]

    def fails(call):
        "The name of the error that a call raises."
        try:
            call()
        except Exception as exc:
            return type(exc).__name__
        return "nothing"

    def forked(body, *arguments):
        "Run `body` in a forked process, which a hang would kill; its id."
        process = os.fork()
        if process == 0:
            signal.alarm(60)
            status = 1
            try:
                status = body(*arguments) or 0
            except BaseException:
                faulthandler.dump_traceback()
                import traceback
                traceback.print_exc()
            finally:
                os._exit(status)
        return process

    def end(process):
        "The exit status of a child, or minus the signal that killed it."
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def killed(process):
        os.kill(process, signal.SIGKILL)
        assert end(process) == -signal.SIGKILL

    def hear(pipe):
        assert os.read(pipe, 1) == b"x", "a child ended before its time"
"""


def storm(program, *arguments, limit, anew=False):
    return run(program, *arguments, prelude=PRELUDE, seconds=limit, anew=anew)


# Forks

ACCOUNTS = """
    EVERYBODY = [("account", number) for number in range(10)]

    def move(store, rng):
        from_, to = rng.sample(EVERYBODY, 2)
        with store.transaction() as txn:
            txn.increment(from_, -1)
            txn.increment(to, 1)

    def is_right(mapping):
        return sum(money for _, money in mapping.range(prefix=("account",)).items()) == 1000
"""

FORK_STORM = (
    ACCOUNTS
    + """
    forks, seed = int(sys.argv[2]), sys.argv[3]
    rng = random.Random(seed)
    store = Store(path, durability=sys.argv[4])
    store.update(dict.fromkeys(EVERYBODY, 100))
    store["large"] = bytearray(200_000)
    stop = threading.Event()
    failed = []

    def keep_on(number, body):
        own = random.Random(f"{seed}:{number}")
        try:
            while not stop.is_set():
                body(own)
        except BaseException as exc:
            failed.append(exc)
            raise

    def write(own):
        move(store, own)
        store.increment(("parent", own.randrange(3)))
        store.namespace("users")[own.randrange(10)] = own.randrange(10)

    def read(own):
        assert is_right(store)
        with store.snapshot() as snapshot:
            assert is_right(snapshot)
            assert len(snapshot) == len(list(snapshot))

    def open_and_close(own):
        with Store(path) as second, second.namespace("users") as users:
            assert len(users.get_many(range(10))) <= 10

    bodies = [write, write, read, open_and_close]
    threads = [threading.Thread(target=keep_on, args=each) for each in enumerate(bodies)]
    for thread in threads:
        thread.start()

    def at_once(own, number):
        "Two threads of a child use first what it inherited, at the same time."
        together, wrong = threading.Barrier(2), []

        def use():
            try:
                together.wait(30)
                move(store, own)
                assert is_right(store)
            except BaseException as exc:
                wrong.append(exc)
                raise

        users = [threading.Thread(target=use) for _ in range(2)]
        for thread in users: thread.start()
        for thread in users: thread.join()
        return len(wrong)

    def child(number, how, pipe):
        own = random.Random(f"{seed}:child {number}")
        if how == "idle":
            os._exit(0)
        if how == "threads":
            return at_once(own, number)
        if how == "close":
            store.close()
            assert fails(lambda: store["large"]) == "StoreClosed"
            return 0
        if how == "exec":
            os.execv("/bin/true" if os.path.exists("/bin/true") else sys.executable, ["true", "-c", "pass"])
        assert is_right(store)
        move(store, own)
        store.namespace("children").increment(number % 7)
        with Store(path) as again, again.snapshot() as snapshot:
            assert is_right(snapshot)
        if how == "killed":
            with store.transaction() as txn:
                txn.increment(EVERYBODY[0], 1_000_000)
                os.write(pipe, b"x")
                signal.pause()
        if how == "reading":
            keys, snapshot, view = iter(store), store.snapshot(), store.view("large")
            next(keys)
            os.write(pipe, b"x")
            signal.pause()
        if how == "exit":  # as a program does, also through atexit
            sys.stdout.flush()
            raise SystemExit(0)
        return 0

    WAYS = ["idle", "threads", "close", "exec", "killed", "reading", "use", "use", "grandchild"]
    used = 0
    for number in range(forks):
        before = store.snapshot()
        assert is_right(before)
        how = rng.choice(WAYS)
        used += how in ("killed", "reading", "use", "grandchild")
        reading, writing = os.pipe()
        if how == "grandchild":
            process = forked(lambda: abs(end(forked(child, number, "use", writing))))
        else:
            process = forked(child, number, how, writing)
        os.close(writing)
        if how in ("killed", "reading"):
            hear(reading)
            killed(process)
        else:
            status = end(process)
            assert status == 0, (how, status)
        os.close(reading)
        assert is_right(before), "a snapshot of the parent has changed"
        before.close()
        assert not failed, failed

    stop.set()
    for thread in threads:
        thread.join()
    assert not failed, failed
    assert is_right(store)
    children = store.namespace("children")
    assert sum(children.values()) == used, (dict(children), used)
    assert len(store) == len(list(store))
    store.close()
    from objstore.engines.lmdb import registry
    gc.collect()
    assert not registry.engines
    print(f"{forks} forks, {used} of them wrote")
    """
)


@pytest.mark.parametrize("durability", ["full", "process"])
def test_a_fork_storm_harms_nobody(tmp_path, durability, seed):
    print(storm(FORK_STORM, tmp_path / "a.store", FORKS // 2, seed, durability, limit=120 + FORKS))


@pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
def test_threads_of_a_forked_child_may_use_it_first_at_the_same_time(tmp_path, durability):
    program = """
        store = Store(path, durability=sys.argv[2])
        store["a"] = 1

        def child():
            together, wrong = threading.Barrier(4), []

            def use(number):
                together.wait(30)
                try:
                    for _ in range(3):
                        store["a"], store.increment(("own", number)), list(store.items()), len(store)
                        with store.transaction() as txn:
                            txn["b"] = 1
                except StoreError as exc:
                    wrong.append(repr(exc))

            threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            for each in wrong[:1]: print(each, flush=True)
            return len(wrong)

        assert [end(forked(child)) for _ in range(30)] == [0] * 30
        assert [store["own", number] for number in range(4)] == [90] * 4
        store.close()
    """
    storm(program, tmp_path / "a.store", durability, limit=120)


BEGUN = """
    store = Store(path)
    store.update((number, number) for number in range(100))
    store.update(large=bytearray(200_000), other=bytearray(200_000), list=[])
    store.set("tagged", 1, tags=["red"]), store.set("tagged too", 1, tags=["red"])
    users = store.namespace("users")
    users.update(a=1, b=2)
    snapshot = store.snapshot()
    writes = Store(path + ".second")
    writes.update((number, number) for number in range(100))

    def begin(mapping):
        "Everything that can be begun on a mapping, and what goes on with it."
        numbers = mapping.range(0, 50)
        iterations = {
            "keys": iter(mapping), "keys()": iter(mapping.keys()), "values()": iter(mapping.values()),
            "items()": iter(mapping.items()), "entries()": iter(mapping.entries()), "reversed": reversed(mapping),
            "reversed items": reversed(mapping.items()), "range": iter(numbers), "range items": iter(numbers.items()),
            "range entries": iter(numbers.entries()), "range reversed": reversed(numbers),
            "range reverse": iter(mapping.range(0, 50, reverse=True).items()),
        }
        for iteration in iterations.values():
            next(iteration)
        return {name: lambda iteration=iteration: next(iteration) for name, iteration in iterations.items()}

    begun = {
        **{("store", name): call for name, call in begin(store).items()},
        **{("snapshot", name): call for name, call in begin(snapshot).items()},
        ("snapshot", "get"): lambda: snapshot[1],
        ("snapshot", "large"): lambda: snapshot["large"],
        ("snapshot", "in"): lambda: 1 in snapshot,
        ("snapshot", "entry"): lambda: snapshot.entry(1),
        ("snapshot", "get_many"): lambda: snapshot.get_many([1, 2]),
        ("snapshot", "namespace"): lambda: snapshot.namespace("users"),
        ("snapshot", "enter"): lambda: snapshot.__enter__()[1],
    }
    tagged = {"range": iter(store.range(tag="red")), "items": iter(store.range(tag="red").items()),
              "entries": iter(store.range(tag="red").entries()), "namespace": iter(users)}
    for name, iteration in tagged.items():
        next(iteration)
        begun["tag", name] = lambda iteration=iteration: next(iteration)

    edit = store.edit("list")
    value = edit.__enter__()
    value.append(1)
    with writes.transaction() as txn:
        txn["written"] = 1
        savepoint = txn.transaction()
        inner = savepoint.__enter__()
        inner["inner"] = 1
        for title, mapping in (("inner", inner),):
            begun |= {(title, name): call for name, call in begin(mapping).items()}
        for title, mapping in (("transaction", txn), ("inner", inner)):
            begun |= {
                (title, "get"): lambda mapping=mapping: mapping[1],
                (title, "set"): lambda mapping=mapping: mapping.set(1, 2),
                (title, "delete"): lambda mapping=mapping: mapping.delete(1),
                (title, "len"): lambda mapping=mapping: len(mapping),
                (title, "update"): lambda mapping=mapping: mapping.update({1: 2}),
                (title, "increment"): lambda mapping=mapping: mapping.increment(1),
                (title, "clear"): lambda mapping=mapping: mapping.clear(),
                (title, "edit"): lambda mapping=mapping: mapping.edit(1, default=[]).__enter__(),
                (title, "iter"): lambda mapping=mapping: list(mapping.items()),
                (title, "namespace"): lambda mapping=mapping: mapping.namespace("n"),
                (title, "savepoint"): lambda mapping=mapping: mapping.transaction().__enter__(),
                (title, "end"): lambda mapping=mapping: mapping.__exit__(None, None, None),
            }
        begun["edit", "end"] = lambda: edit.__exit__(None, None, None)

        def child():
            wrong = {name: how for name, call in begun.items() if (how := fails(call)) != "TransactionError"}
            print(len(begun), wrong, flush=True)
            assert store[1] == 1 and len(list(store.items())) == 105  # what the child begins is its own
            assert writes[1] == 1 and "written" not in writes
            return bool(wrong)

        assert end(forked(child)) == 0
        savepoint.__exit__(None, None, None)
    edit.__exit__(None, None, None)
    wrong = {name: how for name, call in begun.items() if name[0] in ("store", "snapshot", "tag")
             and (how := fails(call)) != "nothing" and not (name[0] == "tag" and how == "StopIteration")}
    assert not wrong, f"for the parent, too: {wrong}"
    assert (writes["written"], writes["inner"], store["list"]) == (1, 1, [1])
"""


def test_nothing_that_was_begun_before_a_fork_can_be_used_by_the_child(tmp_path):
    print(storm(BEGUN, tmp_path / "a.store", limit=60))


# Readers and writers that are killed or stopped


READERS_DIE = """
    durability, count, rng = sys.argv[2], int(sys.argv[3]), random.Random(sys.argv[4])
    SLOTS = 8

    def make(path):
        with Store(path, durability=durability, max_readers=SLOTS) as store:
            store.update((number, (0, bytes(3000))) for number in range(10))
            store["large"] = bytearray(200_000)

    def write(path, pipe):
        "Overwrite at some pace, for as long as somebody hears how often."
        signal.alarm(0)
        os.close(hearing)
        with Store(path) as store:
            number = 0
            while True:
                number += 1
                store[number % 10] = (number, bytes(3000))
                time.sleep(0.001)
                if number % 100 == 0:
                    os.write(pipe, b"x")

    def begin_to_read(store, how):
        if how == "items":
            kept = iter(store.items())
            next(kept)
            return kept
        if how == "view":
            return store.view("large")
        return [store.snapshot(), iter(store)] if how == "many" else store.snapshot()

    def read(store, how, pipe):
        kept = begin_to_read(store, how)
        os.write(pipe, b"x")
        signal.pause()

    def ready_to_die(store):
        "A process that reads; its id."
        pipe, telling = os.pipe()
        reader = forked(read, store, rng.choice(["snapshot", "items", "view", "many"]), telling)
        os.close(telling)
        hear(pipe)
        os.close(pipe)
        return reader

    def size(path):
        return os.stat(path + "/data.mdb").st_size

    def wait_for(hundreds):
        "Until so many hundreds of writes followed."
        os.set_blocking(hearing, False)
        try:
            while os.read(hearing, 4096):
                pass
        except BlockingIOError:
            os.set_blocking(hearing, True)
        for _ in range(hundreds + 1):
            hear(hearing)

    # The clean twin, written at the same pace: its readers read for longer than the dead may, and end as they should.
    twin = path + ".twin"
    make(twin)
    hearing, telling = os.pipe()
    writer = forked(write, twin, telling)
    with Store(twin) as store:
        for how in ("many", "view"):
            wait_for(1)
            kept = begin_to_read(store, how)
            time.sleep(1.5)
            del kept
        wait_for(5)
    killed(writer)
    clean = size(twin)

    make(path)
    writer = forked(write, path, telling)
    wait_for(1)
    store = Store(path)  # opened once, before anybody dies; the readers open what they inherit from it
    for number in range(count):
        killed(ready_to_die(store))
        if number % 5 == 0:
            with store.snapshot() as snapshot:
                assert len(snapshot) == 11
    # Three hold almost all slots and die together; those after them are not refused.
    for _ in range(5):
        for reader in [ready_to_die(store) for _ in range(3)]:
            killed(reader)
        with store.snapshot() as snapshot, store.snapshot() as again:
            assert len(snapshot) == len(again) == 11

    # Nobody opens the store any more: those who write must find that the readers are dead, within seconds.
    deadline = time.monotonic() + 30
    while (taken := store.stats().readers) > 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    wait_for(5)
    before = size(path)
    wait_for(15)
    after = size(path)
    killed(writer)
    print(f"{durability}: {count} readers killed, {taken} slots taken; {before} and then {after} bytes, twin {clean}")
    assert taken <= 3, f"{taken} slots are still taken by the dead"
    assert after == before, "the file goes on growing for readers that are dead"
    assert after <= 2 * clean
    store.close()
"""


@pytest.mark.parametrize("durability", ["full", "process"])
def test_slots_of_readers_that_are_killed_return_and_the_file_stays_small(tmp_path, durability, seed):
    print(storm(READERS_DIE, tmp_path / "a.store", durability, READERS, seed, limit=180 + READERS))


def test_a_writer_that_is_killed_lets_the_next_go_on_at_once(tmp_path):
    program = """
        store = Store(path)
        store["written"] = 0

        def hold(pipe, value):
            with store.transaction() as txn:
                txn["written"] = value
                os.write(pipe, b"x")
                signal.pause()

        def wait_and_write(pipe, number):
            os.write(pipe, b"x")
            store.increment("waited")  # one call, which waits for its turn
            os.write(pipe, b"x")

        for turn in range(20):
            pipe, telling = os.pipe()
            holding = forked(hold, telling, turn)
            hear(pipe)
            waiting = [forked(wait_and_write, telling, number) for number in range(3)]
            for _ in waiting:
                hear(pipe)  # they are about to wait, or do
            assert store["written"] == 0
            os.set_blocking(pipe, False)
            assert fails(lambda: os.read(pipe, 1)) == "BlockingIOError", "somebody wrote beside the transaction"
            os.set_blocking(pipe, True)
            killed(holding)
            for _ in waiting:
                hear(pipe)
            assert [end(process) for process in waiting] == [0] * 3
            os.close(pipe), os.close(telling)
        assert (store["written"], store["waited"]) == (0, 60)
        store.close()
    """
    storm(program, tmp_path / "a.store", limit=120)


def test_a_writer_that_is_stopped_delays_writers_and_no_reader(tmp_path):
    program = """
        store = Store(path)
        store.update((number, number) for number in range(100))

        def hold(pipe):
            with store.transaction() as txn:
                txn[1] = "never"
                os.write(pipe, b"x")
                signal.pause()

        def wait_and_write(pipe):
            store[2] = "written"
            os.write(pipe, b"x")

        pipe, telling = os.pipe()
        holding = forked(hold, telling)
        hear(pipe)
        os.kill(holding, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(holding, os.WUNTRACED)[1])
        waiting = forked(wait_and_write, telling)

        def read():
            "Somebody who opens it, with the writer stopped."
            with Store(path) as again, again.snapshot() as snapshot:
                assert len(snapshot) == len(list(again)) == 100 and again[1] == 1

        for _ in range(20):
            assert store[1] == 1 and len(list(store.items())) == 100 and store.view(2) == 2
            assert end(forked(read)) == 0
        os.set_blocking(pipe, False)
        assert fails(lambda: os.read(pipe, 1)) == "BlockingIOError", "somebody wrote beside the transaction"
        os.set_blocking(pipe, True)
        killed(holding)
        hear(pipe)
        assert end(waiting) == 0
        assert (store[1], store[2]) == (1, "written")
        store.close()
    """
    storm(program, tmp_path / "a.store", limit=120)


# Maps that must grow

MAP_STORM = """
    import resource

    growths, rng = int(sys.argv[2]), random.Random(sys.argv[3])
    THREADS, PROCESSES = int(sys.argv[4]), 4

    def in_little_space():
        "The store, where its map cannot be reserved whole."
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        needed = os.stat(path + "/data.mdb").st_size  # all of what is there must be mapped
        resource.setrlimit(resource.RLIMIT_AS, (used + needed + (48 << 20), hard))
        store = Store(path, durability="process")
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert store.stats().map_bytes < needed + (48 << 20)
        return store

    def work(store, number, turns, done):
        own = random.Random(f"{sys.argv[3]}:{number}")
        for turn in range(turns):
            key = ("large", number, turn)
            way = own.randrange(4)
            if way == 0:
                store[key] = bytes(own.randrange(1_000_000))
            elif way == 1:
                store.update({key: bytes(300_000), ("mark", number): turn})
            elif way == 2:
                with store.transaction() as txn:
                    txn[key] = bytearray(300_000)
                    txn["mark", number] = turn
            else:
                store[key] = bytearray(own.randrange(1_000_000))
            assert key in store and store.increment(("count", number)) == turn + 1
            assert len(store[key]) == len(store.view(key))
            found = sum(1 for name, _ in store.range(prefix=("large",)).items() if name[1] == number)
            assert found == turn + 1, (found, turn)
            with store.snapshot() as snapshot:
                assert snapshot["count", number] == turn + 1
        done.append(number)

    def process(first):
        store = in_little_space()
        began, done = store.stats().map_bytes, []
        names = range(first, first + THREADS)
        threads = [threading.Thread(target=work, args=(store, name, growths, done)) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        store["map", first] = (began, store.stats().map_bytes)
        store.close()
        return len(done) != THREADS

    Store(path, durability="process").close()
    processes = [forked(process, THREADS * number) for number in range(PROCESSES)]
    assert [end(each) for each in processes] == [0] * PROCESSES
    with Store(path) as store:
        counts = {key[1]: count for key, count in store.range(prefix=("count",)).items()}
        assert counts == dict.fromkeys(range(PROCESSES * THREADS), growths), counts
        assert len(store.range(prefix=("large",))) == PROCESSES * THREADS * growths
        maps = [store["map", THREADS * number] for number in range(PROCESSES)]
    assert any(grown > began for began, grown in maps), f"no map had to grow: {maps}"
    print(f"{PROCESSES} processes of {THREADS} threads, {growths} turns each; maps grew from {maps}")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="addresses are limited and counted as on Linux")
@pytest.mark.parametrize("threads", [1, 3])
def test_a_map_that_must_grow_while_all_write_and_read_disturbs_nobody(tmp_path, threads, seed):
    turns, seconds = -(-GROWTHS // threads), 120 + 10 * GROWTHS
    print(
        storm(MAP_STORM, tmp_path / "a.store", turns, seed, threads, limit=seconds, anew=True)
    )  # addresses are counted


def test_who_opens_a_store_that_outgrows_his_map_meanwhile_gets_a_larger_one(tmp_path):
    program = """
        def grow():
            with Store(path) as store:
                for number in range(300): store[number] = bytes(200_000)

        Store(path, durability="process").close()
        writer = forked(grow)
        opened = 0
        while (ended := os.waitpid(writer, os.WNOHANG)) == (0, 0):
            with Store(path, map_size=1 << 20) as store:
                store.get(0)
            opened += 1
        assert ended[1] == 0 and opened > 3, (ended, opened)
        with Store(path, map_size=1 << 20) as store:
            assert len(store) == 300
    """
    storm(program, tmp_path / "a.store", limit=120)


# Threads that write, and are killed with their process


def test_of_the_threads_of_a_process_only_one_waits_for_the_lock_that_others_share(tmp_path):
    program = """
        with Store(path, durability="process") as store:
            store["a"] = 0
            thread = threading.Thread(target=store.update, args=({"b": 0},))
            thread.start()
            thread.join()
            others = [
                threading.Thread(target=store.update, args=({"b": 1},)),
                threading.Thread(target=store.__setitem__, args=("c", 1)),
            ]
            with store.transaction() as txn:
                txn["a"] = 1
                for each in others: each.start()
                deadline = time.monotonic() + 60
                waiting = 0
                while waiting < 2 and time.monotonic() < deadline:
                    time.sleep(0.01)
                    frames = [sys._current_frames()[each.ident] for each in others]
                    waiting = sum(frame.f_code.co_filename.endswith("turns.py") for frame in frames)
                assert waiting == 2, frames
                assert fails(lambda: store.update({"d": 1})) == "TransactionError"
            for each in others: each.join()
            assert store == {"a": 1, "b": 1, "c": 1}
    """
    storm(program, tmp_path / "a.store", limit=120)


def test_who_is_killed_with_several_threads_that_write_leaves_nobody_asleep(tmp_path, seed):
    program = """
        import mmap, struct
        rng = random.Random(sys.argv[3])
        told = mmap.mmap(-1, 4096)

        def write(slot):
            store = Store(path, durability="process")
            def put(thread):
                for number in range(1 << 62):
                    store[slot, thread] = number
                    struct.pack_into("<Q", told, 16 * slot + 8 * thread, number + 1)
            threads = [threading.Thread(target=put, args=(thread,)) for thread in range(2)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()

        Store(path, durability="process").close()
        writers = [forked(write, slot) for slot in range(4)]
        for number in range(int(sys.argv[2])):
            time.sleep(rng.uniform(0.01, 0.05))
            slot = rng.randrange(4)
            os.kill(writers[slot], signal.SIGKILL)
            os.waitpid(writers[slot], 0)
            before, deadline = told[:], time.monotonic() + 20
            while told[:] == before and time.monotonic() < deadline:
                time.sleep(0.001)
            assert told[:] != before, f"nobody writes after {number + 1} kills"
            writers[slot] = forked(write, slot)
        for each in writers:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)
    """
    print(f"{WRITERS} killed writers")
    storm(program, tmp_path / "a.store", WRITERS, seed, limit=120 + WRITERS)
