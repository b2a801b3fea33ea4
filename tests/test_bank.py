"""Money moved between accounts by processes of threads: none is lost or made, whoever is killed, whenever one looks.

`bank` has the tellers, who move money in transactions of many kinds and are killed and replaced, and the auditors,
who sum all accounts in snapshots, iterations and batches meanwhile.  Each sum must be right, and in the end each
thread's count is what was acknowledged to it, or one more where it was killed.

What processes see of a single key is held against a model in which one thing happens after the other: a history of
calls, with the times of their begin and end, must have an order that explains every answer (`explained`).

The long form, transfers in durability "process" (a tenth as many in the others), with 8 processes of 4 threads:

    OBJSTORE_TRANSFERS=1000000 OBJSTORE_SEED=1 python -m pytest tests/test_bank.py -s

OBJSTORE_SEED replays who moves what; the order among them is the machine's.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple

import pytest
from programs import run

TRANSFERS = int(os.environ.get("OBJSTORE_TRANSFERS", "1100"))
IS_LONG = TRANSFERS >= 100_000
PROCESSES, THREADS = (8, 4) if IS_LONG else (4, 2)
HOURS = 3600 * (1 + TRANSFERS // 1_000_000)

BANK = """
    import sys
    sys.path.insert(0, "tests")
    import bank
    bank.main(*sys.argv[1:])
"""


@pytest.mark.parametrize(("durability", "share"), [("process", 1), ("relaxed", 10), ("full", 10)])
def test_no_money_is_lost_or_made(tmp_path, durability, share, seed):
    transfers = TRANSFERS // share if IS_LONG else TRANSFERS
    kills = max(transfers // 2000, 3)
    path = tmp_path / "a.store"
    # In a new interpreter: it begins processes by every method of multiprocessing, one of which has servers of its own.
    rules = path, durability, seed, PROCESSES, THREADS, transfers, kills, 0
    print(run(BANK, *rules, seconds=HOURS if IS_LONG else 120, anew=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="addresses are limited and counted as on Linux")
def test_no_money_is_lost_or_made_while_the_map_grows(tmp_path, seed):
    transfers = TRANSFERS // 20 if IS_LONG else TRANSFERS
    path = tmp_path / "a.store"
    seconds = HOURS if IS_LONG else 120
    # In a new interpreter: addresses are counted.
    print(run(BANK, path, "process", seed, PROCESSES, THREADS, transfers, 3, 400_000, seconds=seconds, anew=True))
    assert (path / "data.mdb").stat().st_size > 48 << 20, "the map did not have to grow"


# One key, seen by many


class Call(NamedTuple):
    """A call on one key, with what it gave and the nanoseconds when it began and ended."""

    what: str
    arguments: list[Any]
    result: Any
    began: int
    ended: int


def answer(what: str, arguments: list[Any], value: Any) -> tuple[Any, Any]:
    """What a call gives where the key has this value (None: absent), and the value that it leaves."""
    if what == "get":
        return value, value
    if what == "put":
        return None, arguments[0]
    if what == "delete":
        return value is not None, None
    if what == "add":
        return value is None, arguments[0] if value is None else value
    if what == "increment":
        return (value or 0) + arguments[0], (value or 0) + arguments[0]
    assert what == "compare_and_set"
    same = value is not None and value == arguments[0]
    return same, arguments[1] if same else value


def explained(history: list[Call]) -> bool:
    """Whether the calls can be put in an order that explains every answer, and no call before one that ended first.

    The search of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993), with Lowe's memory of what was
    tried.
    """
    tried = set()

    def search(left: frozenset[int], value: Any) -> bool:
        if not left:
            return True
        if (left, value) in tried:
            return False
        tried.add((left, value))
        first_end = min(history[number].ended for number in left)
        for number in left:
            call = history[number]
            if call.began <= first_end:
                result, after = answer(call.what, call.arguments, value)
                if result == call.result and search(left - {number}, after):
                    return True
        return False

    return search(frozenset(range(len(history))), None)


@pytest.mark.parametrize(
    ("calls", "is_possible"),
    [
        ([("put", [1], None, 0, 1), ("get", [], 1, 2, 3)], True),
        ([("put", [1], None, 0, 1), ("get", [], None, 2, 3)], False),  # a write that was over is not seen
        ([("put", [1], None, 0, 5), ("get", [], None, 2, 3), ("get", [], 1, 4, 6)], True),
        ([("put", [1], None, 0, 5), ("get", [], 1, 1, 2), ("get", [], None, 3, 4)], False),  # seen, and not any more
        ([("increment", [1], 1, 0, 5), ("increment", [1], 1, 0, 5)], False),  # one is lost
        ([("add", [1], True, 0, 5), ("add", [2], True, 0, 5)], False),  # both win
        ([("put", [1], None, 0, 1), ("compare_and_set", [1, 2], True, 2, 9), ("get", [], 2, 3, 4)], True),
    ],
)
def test_the_search_knows_what_is_possible(calls, is_possible):
    assert explained([Call(*call) for call in calls]) is is_possible


CLERKS = """
    import json, multiprocessing, os, random, sys, threading, time, traceback
    from objstore import Store

    path, durability, seed, rounds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

    def choose(rng):
        what = rng.choice(["get", "get", "put", "delete", "add", "increment", "increment", "compare_and_set"])
        numbers = {"get": 0, "delete": 0, "compare_and_set": 2}.get(what, 1)
        return what, [rng.randrange(1, 4) for _ in range(numbers)]

    def call(store, key, what, arguments):
        if what == "put":
            store[key] = arguments[0]
            return None
        if what in ("get", "delete"):
            return getattr(store, what)(key)
        return getattr(store, what)(key, *arguments)

    def clerk(store, number, barrier, queue):
        rng = random.Random(f"{seed}:{number}")
        calls = []
        for key in range(rounds):
            chosen = [choose(rng) for _ in range(5)]
            barrier.wait(60)
            together = (time.monotonic_ns() // 1_000_000 + 2) * 1_000_000
            while time.monotonic_ns() < together:  # for most of them the same moment: all want the key at once
                pass
            for what, arguments in chosen:
                began = time.monotonic_ns()
                result = call(store, key, what, arguments)
                calls.append((key, what, arguments, result, began, time.monotonic_ns()))
        queue.put(calls)

    def to_the_end(*arguments):
        try:
            clerk(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # the others would wait for it

    def process(store, first, barrier, queue):
        sys.setswitchinterval(0.00001)
        clerks = [(store, first + number, barrier, queue) for number in range(2)]
        threads = [threading.Thread(target=to_the_end, args=each) for each in clerks]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]

    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.SimpleQueue()
    with Store(path, durability=durability) as store:
        processes = [context.Process(target=process, args=(store, 2 * number, barrier, queue)) for number in range(3)]
        [process.start() for process in processes]
        done = []
        while len(done) < 6:
            if not queue.empty():
                done.append(queue.get())
            elif any(process.exitcode for process in processes):
                sys.exit("a clerk failed; its error is above")
            else:
                time.sleep(0.001)
        print(json.dumps(done))
        [process.join(60) for process in processes]
        assert [process.exitcode for process in processes] == [0, 0, 0]
"""


@pytest.mark.parametrize("durability", ["full", "process"])
def test_what_is_seen_of_one_key_has_an_order_that_explains_it(tmp_path, durability, seed):
    rounds = 1000 if IS_LONG else 40
    printed = run(CLERKS, tmp_path / "a.store", durability, seed, rounds, seconds=600)
    histories: dict[int, list[Call]] = {key: [] for key in range(rounds)}
    for key, *call in (call for calls in json.loads(printed) for call in calls):
        histories[key].append(Call(*call))
    overlapping = -30 * rounds  # each with itself
    for key, history in histories.items():
        assert len(history) == 30
        assert explained(history), (key, sorted(history, key=lambda call: call.began))
        overlapping += sum(one.began < other.ended and other.began < one.ended for one in history for other in history)
    print(f"{durability}: {rounds} histories of 30 calls, {overlapping // 2} pairs of calls at the same time")
