"""Memoize between processes: one computes, whoever is killed, and all others have what came of it.

The one result that a thousand callers ask for takes 0.7 seconds, or as many as OBJSTORE_MEMOIZE_SECONDS says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import children
import pytest
from jobs import Journal
from programs import ROOT, run
from test_computing_processes import ended, hear, processes, tell, until

from objstore import Store

SECONDS = float(os.environ.get("OBJSTORE_MEMOIZE_SECONDS", 0.7))


@pytest.fixture
def path(place):
    path = os.path.join(place, "a.store")
    Store(path, durability="process").close()
    return path


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal"


THOUSAND = """
seconds = float(sys.argv[3])

@store.memoize(name="slow", version=1)
def slow(x):
    journal.add(os.getpid())
    time.sleep(seconds)
    return [x]

@store.memoize(name="slow", version=1)
async def slow_async(x):
    journal.add(os.getpid())
    await asyncio.sleep(seconds)
    return [x]

async def main():
    return await asyncio.gather(*(slow_async(x=1) for _ in range(100)))

results = []
threads = threading.Thread(target=lambda: results.extend(in_threads(lambda: slow(1), 25)))
threads.start()
results.extend(asyncio.run(main()))
threads.join()
say(results.count([1]))
say(len({id(result) for result in results}))
"""


def test_a_thousand_callers_in_eight_processes_have_what_one_computes(path, journal):
    with processes(THOUSAND, 8, path, journal, SECONDS) as started:
        tell(*started)
        assert [ended(process) for process in started] == [["125", "125"]] * 8
    assert len(Journal(journal).lines()) == 1


FIRST_IS_KILLED = """
@store.memoize(name="slow", version=1)
def slow():
    journal.add(os.getpid())
    if len(journal.lines()) == 1:
        time.sleep(60)
    return "result"

@store.memoize(name="slow", version=1)
async def slow_async():
    return await asyncio.to_thread(slow.__wrapped__)

async def main():
    return await asyncio.gather(*(slow_async() for _ in range(10)))

say((in_threads(slow, 10) if int(sys.argv[3]) else asyncio.run(main())).count("result"))
"""


@pytest.mark.parametrize("threads", [1, 0], ids=["threads", "tasks"])
def test_where_the_first_is_killed_half_way_it_is_computed_twice(path, journal, threads):
    with processes(FIRST_IS_KILLED, 3, path, journal, threads) as started:
        tell(*started)
        until(lambda: Journal(journal).lines())
        time.sleep(0.1)  # the others wait by now, or come later: all the same
        (first,) = Journal(journal).lines()
        os.kill(int(first), signal.SIGKILL)
        printed = [ended(process) for process in started if process.pid != int(first)]
    assert printed == [["10"]] * 2
    assert len(Journal(journal).lines()) == 2


COMES_OUT = """
class OneWay(Exception):
    def __init__(self, one, other):
        super().__init__(one + other)

options = {
    "error": {},
    "one way": {},
    "remembered": {"exceptions": KeyError},
    "not kept": {"store_if": lambda result: False},
}

@store.memoize(name="slow", version=1, **options[sys.argv[3]])
def slow():
    journal.add(os.getpid())
    until = time.monotonic() + 20
    while not os.path.exists(sys.argv[2] + ".go") and time.monotonic() < until:
        time.sleep(0.001)
    if sys.argv[3] in ("error", "remembered"):
        raise KeyError("wrong")
    if sys.argv[3] == "one way":
        raise OneWay("wr", "ong")
    return ["right"]

def call():
    try:
        return slow()[0]
    except Exception as exc:
        return exc.args[0]

say(*set(in_threads(call, 3)))
"""


@pytest.mark.parametrize(
    ("what", "expected", "times"),
    [
        ("error", "wrong", 1),
        ("remembered", "wrong", 1),
        ("not kept", "right", 1),
        # What cannot be built of what is pickled does not arrive, and the others compute it themselves, one by one.
        ("one way", "wrong", 3),
    ],
)
def test_what_comes_out_reaches_other_processes(path, journal, what, expected, times):
    with processes(COMES_OUT, 3, path, journal, what) as started:
        tell(*started)
        until(lambda: Journal(journal).lines())
        time.sleep(0.1)  # the others wait by now
        (journal.parent / "journal.go").touch()
        assert [ended(process) for process in started] == [[expected]] * 3
    assert len(Journal(journal).lines()) == times
    with Store(path, clock=lambda: time.time() + 3600) as store:
        assert store.expire() == (0 if what == "remembered" else 1)  # what was left for others does not stay for ever
        assert store.namespaces() == []


STALE = """
@store.memoize(name="slow", version=1, ttl=0.2, stale=3600)
def slow():
    journal.add(os.getpid())
    if len(journal.lines()) == 2:
        until = time.monotonic() + 20
        while not os.path.exists(sys.argv[2] + ".go") and time.monotonic() < until:
            time.sleep(0.001)
    return len(journal.lines())

say(slow())
wait()
say(slow())
"""


def test_what_is_stale_is_served_while_another_process_refreshes_it(path, journal):
    with processes(STALE, 3, path, journal) as started:
        refreshing, *others = started
        for process in started:
            tell(process)
            assert hear(process) == "1"
        time.sleep(0.25)  # it is stale by now
        tell(refreshing)
        until(lambda: len(Journal(journal).lines()) == 2)
        tell(*others)
        assert [ended(process) for process in others] == [["1"]] * 2
        (journal.parent / "journal.go").touch()
        assert ended(refreshing) == ["2"]
    assert len(Journal(journal).lines()) == 2


CALL_EACH_OTHER = """
def meet(name, depth):
    if depth == 2:
        journal.add(name)
        until = time.monotonic() + 1
        while len(set(journal.lines())) < 2 and time.monotonic() < until:
            time.sleep(0.001)

@store.memoize(version=1)
def one(depth):
    meet("one", depth)
    return "1" + (other(depth - 1) if depth else "")

@store.memoize(version=1)
def other(depth):
    meet("other", depth)
    return "2" + (one(depth - 1) if depth else "")

# In each process two threads begin from both ends: one of the two waits for the other process.
results = in_threads(lambda functions=[one, other]: functions.pop()(2), 2)
say(" ".join(sorted(results)))
"""


def test_functions_that_call_each_other_from_two_processes_do_not_wait_for_ever(path, journal):
    with processes(CALL_EACH_OTHER, 2, path, journal) as started:
        tell(*started)
        assert [ended(process) for process in started] == [["121", "212"]] * 2


CLOSED = """
@store.memoize(name="slow", version=1)
def slow():
    journal.add(os.getpid())
    if len(journal.lines()) == 1:
        time.sleep(60)
    return "result"

def call():
    try:
        return slow()
    except Exception as exc:
        return type(exc).__name__

results = []
thread = threading.Thread(target=lambda: results.append(call()))
thread.start()
wait()
store.close()
say("closed")
thread.join()
say(*results)
"""


def test_who_waits_while_his_store_is_closed_is_told_so(path, journal):
    with processes(CLOSED, 2, path, journal) as started:
        first, waiting = started
        tell(first)
        until(lambda: Journal(journal).lines())
        tell(waiting)
        time.sleep(0.1)  # it waits by now
        tell(waiting)
        assert hear(waiting) == "closed"
        first.kill()
        assert ended(waiting) == ["StoreClosed"]


# Children of a process


def calls_and_hits(kept, *args):
    return kept(*args), kept.cache_info()[:2]


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_a_forked_child_goes_on(tmp_path, kind):
    calls = []
    with Store(str(tmp_path / "a.store") if kind == "lmdb" else "memory://", durability="process") as store:

        @store.memoize(name="function")
        def function(x):
            calls.append(x)
            return [x]

        function(1)
        assert children.result(lambda: [*calls_and_hits(function, 1), *calls_and_hits(function, 2), calls]) == [
            *([1], (1, 1)),
            *([2], (1, 2)),
            [1, 2],
        ]
        assert function(2) == [2]
        assert calls == ([1] if kind == "lmdb" else [1, 2])  # memory is the child's own


MODULE = """
import os
from objstore import Store

store = Store(os.environ["PLACE"])

@store.memoize
def square(x):
    with open(os.environ["PLACE"] + ".calls", "a") as file:
        file.write(f"{x}\\n")
    return x * x
"""

POOL = """
import multiprocessing, os, pickle, sys
import squares

if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(squares.square)) is squares.square
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(squares.square, [1, 2, 3, 1, 2, 3], chunksize=1) == [1, 4, 9, 1, 4, 9]
    assert squares.square(3) == 9
    print(squares.square.cache_info()[:2])
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_can_be_sent_to_the_processes_of_a_pool(tmp_path, method):
    (tmp_path / "squares.py").write_text(MODULE)
    (tmp_path / "pool.py").write_text(POOL)
    assert run_script(tmp_path / "pool.py", method) == "(1, 0)\n"
    assert sorted((tmp_path / "place.calls").read_text().split()) == ["1", "2", "3"]


SCRIPT = """
import os
from objstore import Store

with Store(os.environ["PLACE"]) as store:
    @store.memoize
    def function(x):
        print("computed")
        return x + 1

    print(function(1))
"""


def test_an_edited_script_does_not_serve_what_it_computed_before(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert run_script(script).split() == ["computed", "2"]
    assert run_script(script).split() == ["2"]
    script.write_text(SCRIPT.replace("x + 1", "x + 2"))
    assert run_script(script).split() == ["computed", "3"]


def run_script(script, *arguments):
    environment = {**os.environ, "PLACE": str(script.parent / "place"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(
        command, env=environment, cwd=script.parent, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_the_interpreter_ends_while_functions_are_under_way(tmp_path):
    program = f"""
        import threading
        from objstore import Store
        store = Store({str(tmp_path / "a.store")!r})
        go_on = threading.Event()
        kept = store.memoize(name="slow")(lambda: go_on.wait(60))
        for _ in range(3):
            threading.Thread(target=kept, daemon=True).start()
        print("ended")
    """
    assert run(textwrap.dedent(program), seconds=20) == "ended\n"
