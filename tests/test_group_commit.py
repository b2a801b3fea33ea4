"""Threads that write share their syncs, and nothing else: results, errors and interruptions are each one's own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from programs import run

from objstore import OutcomeUnknown, Store, StoreFull, TransactionError
from objstore.engines.lmdb.grouping import GroupCommit, _Waiting
from objstore.engines.lmdb.transactions import LmdbWriter

THREADS = 8
WRITES = 25


@pytest.fixture(params=["full", "relaxed"])
def synced(request, tmp_path):
    with Store(tmp_path / "a.store", durability=request.param, map_size=1 << 26) as store:
        yield store


@pytest.fixture
def commits(monkeypatch):
    """How many transactions were committed; each waits as for a slow disk."""
    counted = []
    commit = LmdbWriter.commit

    def slow(self):
        time.sleep(0.005)
        commit(self)
        counted.append(None)

    monkeypatch.setattr(LmdbWriter, "commit", slow)
    return counted


def in_threads(work, threads=THREADS):
    """Run `work(number)` in so many threads; what each returned or raised."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, number) for number in range(threads)]
        return [future.exception(timeout=60) or future.result() for future in futures]


def test_writes_that_wait_share_a_transaction(synced, commits):
    def work(number):
        for step in range(WRITES):
            synced[number, step] = step
            assert synced[number, step] == step  # it returns when it is committed, not before

    assert in_threads(work) == [None] * THREADS
    assert len(synced) == THREADS * WRITES
    assert len(commits) < THREADS * WRITES / 2


def test_one_thread_has_a_transaction_for_each_write(synced, commits):
    for step in range(5):
        synced[step] = step
    assert len(commits) == 5


def test_where_nothing_is_synced_nothing_waits(tmp_path, commits):
    with Store(tmp_path / "a.store", durability="process") as store:
        in_threads(lambda number: store.update({(number, 0): 1}))
        assert len(commits) == THREADS


def test_nothing_is_applied_twice(synced, commits):
    def work(number):
        for _ in range(WRITES):
            synced.increment("sum")
        return [synced.add("first", number), synced.increment(("own", number), 5)]

    ended = in_threads(work)
    assert synced["sum"] == THREADS * WRITES
    assert sum(added for added, _ in ended) == 1
    assert [own for _, own in ended] == [5] * THREADS


def test_an_error_is_the_callers_who_caused_it(synced, commits):
    class BadError(Exception):
        pass

    def fail(writer):
        writer.put(b"\x10half", b"x")
        raise BadError

    def work(number):
        outcomes = []
        for step in range(WRITES):
            try:
                if number % 4 == 3:
                    synced._engine.transact(fail)
                else:
                    synced[number, step] = step
                outcomes.append("done")
            except BadError:
                outcomes.append("failed")
        return Counter(outcomes)

    for number, outcomes in enumerate(in_threads(work)):
        assert outcomes == {"failed" if number % 4 == 3 else "done": WRITES}
    assert len(synced) == 6 * WRITES
    assert synced._engine.get(b"\x10half") is None


def test_who_is_led_by_a_thread_that_is_stopped_is_told_that_nothing_is_known(synced):
    class StoppedError(BaseException):
        pass

    def stop(writer):
        raise StoppedError

    led = GroupCommit(synced._engine._transact_all)

    def lead():
        with pytest.raises(StoppedError):
            led.transact(stop)

    leading = threading.Thread(target=lead)
    other = _Waiting(lambda writer: None)
    led._waiting.append(other)
    led._lately = 2
    leading.start()
    leading.join(10)
    assert other.is_done
    assert isinstance(other.error, OutcomeUnknown)
    assert led.transact(lambda writer: writer.get(b"\x10nothing")) is None  # and others go on


@pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
def test_a_store_whose_durability_was_changed_shares_syncs_as_a_new_one(tmp_path, durability, commits):
    with Store(tmp_path / "a.store", durability="full" if durability == "process" else "process") as store:
        store["a"] = 1
    with Store(tmp_path / "a.store", durability=durability) as store:
        before = len(commits)
        in_threads(lambda number: [store.__setitem__((number, step), 1) for step in range(10)])
        # What is not synced does not go through the slow commit that counts, but straight to LMDB's.
        shared = len(commits) - before
        assert shared == 0 if durability == "process" else 0 < shared < 80 / 2


def test_a_full_map_fails_those_who_do_not_fit(synced, commits):
    def work(number):
        for step in range(3):
            synced[number, step] = bytes((40 << 20) if number == 0 else 10)

    ended = in_threads(work)
    assert isinstance(ended[0], StoreFull)
    assert ended[1:] == [None] * (THREADS - 1)
    assert sum(1 for key in synced if key[0]) == 3 * (THREADS - 1)


def test_a_thread_with_a_transaction_of_its_own_is_refused_and_delays_nobody(synced, commits):
    def work(number):
        if number:
            synced[number] = 1
            return
        with synced.transaction() as txn:
            txn["mine"] = 1
            time.sleep(0.02)
            with pytest.raises(TransactionError, match="this thread has a transaction"):
                synced["other"] = 1
        synced["other"] = 2

    assert in_threads(work) == [None] * THREADS
    assert synced["mine"] == 1
    assert synced["other"] == 2


@pytest.mark.parametrize("durability", ["full", "process"])
def test_a_signal_handler_that_writes_in_the_middle_of_a_write_is_refused_or_done(tmp_path, durability):
    program = """
        import signal, sys, time
        from objstore import Store, TransactionError
        outcomes = {"done": 0, "refused": 0}

        def handler(*_):
            try:
                store.increment("handled")
                outcomes["done"] += 1
            except TransactionError:
                outcomes["refused"] += 1

        with Store(sys.argv[1], durability=sys.argv[2]) as store:
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0007)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                store["own"] = 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert store.get("handled", 0) == outcomes["done"], outcomes
            assert outcomes["refused"], "no signal came in the middle"
    """
    run(program, tmp_path / "a.store", durability)


def test_transactions_and_single_writes_mix(synced):
    def work(number):
        for _ in range(WRITES):
            if number % 2:
                synced.increment("sum")
            else:
                with synced.transaction() as txn:
                    txn["sum"] = txn.get("sum", 0) + 1

    assert in_threads(work) == [None] * THREADS
    assert synced["sum"] == THREADS * WRITES


INTERRUPTED = """
    import os, signal, sys, threading, time
    from objstore import Store

    # Whoever runs the tests in the background may have SIGINT ignored, and this would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    store, stop = Store(sys.argv[1]), False

    def work(number):
        step = 0
        while not stop:
            step += 1
            store["worker", number] = step

    def interrupt():
        while not stop:
            time.sleep(0.003)
            os.kill(os.getpid(), signal.SIGINT)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    caught = written = 0
    killer = threading.Thread(target=interrupt)
    try:
        killer.start()
    except KeyboardInterrupt:
        caught += 1
    while caught < 200:
        try:
            while True:
                store["main"] = written
                written += 1
        except KeyboardInterrupt:
            caught += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = [store.get(("worker", number), 0) for number in range(4)]
    time.sleep(0.3)
    assert all(store.get(("worker", number), 0) > count for number, count in enumerate(before)), "a worker hangs"
    stop = True
    [thread.join(10) for thread in (*threads, killer)]
    store["main"] = "alive"
    assert store["main"] == "alive"
    store.close()
    print(caught, written)
"""


def test_interrupting_the_main_thread_stops_nobody_else(tmp_path):
    run(INTERRUPTED, tmp_path / "a.store")


FORKED = """
    import os, sys, threading, time
    from objstore import Store

    store, stop = Store(sys.argv[1]), False

    def work(number):
        while not stop:
            store.increment("sum")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    for child in range(20):
        process = os.fork()
        if process == 0:
            for step in range(3):
                store["child", child, step] = step
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
    stop = True
    [thread.join() for thread in threads]
    assert len(store.range(prefix=("child",))) == 60
    store.close()
"""


def test_a_child_that_is_forked_in_the_middle_of_it_writes_by_itself(tmp_path):
    run(FORKED, tmp_path / "a.store")
