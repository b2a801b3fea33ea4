"""One computes, all others wait: processes, whoever is killed in the middle.

Random programs of calls that call each other run in three processes at the end, in threads and tasks, and one of the
processes is killed in every second round: two rounds, or as many as OBJSTORE_COMPUTING_ROUNDS says (a round takes
about half a second).
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import pytest
from jobs import Job, Journal
from programs import begun

from objstore import Store
from objstore.computing.once import computations_of

ROUNDS = int(os.environ.get("OBJSTORE_COMPUTING_ROUNDS", 2))

# Seconds that anything may take before it is said to hang.
LONG = 20

# A process that has a store open says "ready", and begins when it is told to.
PRELUDE = """
import asyncio, atexit, os, random, signal, sys, threading, time
if "ends slowly" in sys.argv:
    atexit.register(time.sleep, 0.2)  # when stores are closed
sys.path.insert(0, "tests")
from jobs import Job, Journal
from objstore import Store
from objstore.computing.once import BUSY, computations_of

store = Store(sys.argv[1], durability="process")
engine = store._engine
computations = computations_of(engine)
journal = Journal(sys.argv[2])

def say(word):
    print(word, flush=True)

def wait():
    assert sys.stdin.readline()

def in_threads(call, number):
    results = []
    threads = [threading.Thread(target=lambda: results.append(call())) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results

say("ready")
wait()
"""


@contextmanager
def processes(code, number, path, journal, *arguments):
    """Processes that run a program, ready to be told to begin; they are killed at the end of the block."""
    arguments = [str(path), str(journal), *map(str, arguments)]
    with ExitStack() as stack:
        started = []
        for _ in range(number):
            process = begun(PRELUDE + code, arguments)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            assert hear(process) == "ready"
        yield started


def hear(process):
    return process.stdout.readline().strip()


def tell(*to):
    for process in to:
        process.stdin.write("\n")
        process.stdin.flush()


def ended(process):
    """What a process prints until it ends, well and in time."""
    printed, _ = process.communicate(timeout=LONG)
    assert process.returncode == 0, printed
    return printed.split()


def until(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never comes to that"
        time.sleep(0.001)


@pytest.fixture
def path(place):
    path = os.path.join(place, "a.store")
    Store(path, durability="process").close()
    return path


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "journal"


THOUSAND = """
def make():
    journal.add(os.getpid())
    time.sleep(0.5)
    return "result"

async def make_async():
    journal.add(os.getpid())
    await asyncio.sleep(0.5)
    return "result"

def in_threads_here():
    return in_threads(lambda: computations.run(Job(engine, "name", make)), 62)

def in_tasks():
    async def main():
        return await asyncio.gather(*(computations.run_async(Job(engine, "name", make_async)) for _ in range(63)))
    return asyncio.run(main())

results = []
other = threading.Thread(target=lambda: results.extend(in_threads_here()))
other.start()
results.extend(in_tasks())
other.join()
say(results.count("result"))
"""


def test_a_thousand_callers_in_eight_processes_get_what_one_computes(path, journal):
    with processes(THOUSAND, 8, path, journal) as started:
        tell(*started)
        assert [ended(process) for process in started] == [["125"]] * 8
    assert len(Journal(journal).lines()) == 1


FIRST_IS_KILLED = """
def make():
    journal.add(os.getpid())
    if len(journal.lines()) == 1:
        if "forks" in sys.argv and not os.fork():
            journal.add(f"forked:{os.getpid()}")
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
    return "result"

say(in_threads(lambda: computations.run(Job(engine, "name", make)), 10).count("result"))
"""


@pytest.mark.parametrize("forks", ["forks", "alone"])
def test_where_the_first_is_killed_half_way_it_is_computed_twice(path, journal, forks):
    with processes(FIRST_IS_KILLED, 4, path, journal, forks) as started:
        tell(*started)
        until(lambda: len(Journal(journal).lines()) == (2 if forks == "forks" else 1))
        first, *forked = Journal(journal).lines()
        time.sleep(0.05)  # the others wait by now, or come later: all the same
        try:
            os.kill(int(first), signal.SIGKILL)
            printed = [ended(process) for process in started if process.pid != int(first)]
            if forked:
                os.kill(int(forked[0].partition(":")[2]), 0)  # it lives
        finally:
            for each in forked:
                os.kill(int(each.partition(":")[2]), signal.SIGKILL)
    assert printed == [["10"]] * 3
    assert len(Journal(journal).lines()) == 2 + len(forked)


LEAVES = """
def make():
    journal.add(os.getpid())
    until = time.monotonic() + 20
    while not os.path.exists(sys.argv[2] + ".go") and time.monotonic() < until:
        time.sleep(0.001)
    if sys.argv[3] == "error":
        raise KeyError("wrong")
    return "result"

async def make_async():
    return await asyncio.to_thread(make)

def call():
    try:
        if sys.argv[4] == "tasks":
            return asyncio.run(computations.run_async(Job(engine, "name", make_async, stores=False)))
        return computations.run(Job(engine, "name", make, stores=False))
    except KeyError as exc:
        return str(exc)

say(set(in_threads(call, 5)))
"""


@pytest.mark.parametrize("kind", ["threads", "tasks"])
@pytest.mark.parametrize(("what", "expected"), [("error", "{\"'wrong'\"}"), ("result", "{'result'}")])
def test_what_is_not_stored_reaches_other_processes(path, journal, what, expected, kind):
    with processes(LEAVES, 3, path, journal, what, kind) as started:
        tell(*started)
        until(lambda: Journal(journal).lines())
        time.sleep(0.3)  # the others wait by now
        (journal.parent / "journal.go").touch()
        assert [ended(process) for process in started] == [[expected]] * 3
    assert len(Journal(journal).lines()) == 1


CALL_EACH_OTHER = """
me, other = sys.argv[3:5] if os.getpid() % 2 else sys.argv[4:2:-1]

def call(name, other, depth):
    def make():
        if depth == 2:
            journal.add(name)
            until = time.monotonic() + 2
            while len(set(journal.lines())) < 2 and time.monotonic() < until:
                time.sleep(0.001)
        return name + (call(other, name, depth - 1) if depth else "")
    return computations.run(Job(engine, name, make))

async def call_async(name, other, depth):
    async def make():
        if depth == 2:
            journal.add(name)
            until = time.monotonic() + 2
            while len(set(journal.lines())) < 2 and time.monotonic() < until:
                await asyncio.sleep(0.001)
        return name + (await call_async(other, name, depth - 1) if depth else "")
    return await computations.run_async(Job(engine, name, make))

def begin(name, other):
    if "tasks" in sys.argv:
        return asyncio.run(call_async(name, other, 2))
    return call(name, other, 2)

# In each process two threads begin from both ends: one of the two waits for the other process.
pairs = [(me, other), (other, me)]
results = []
threads = [threading.Thread(target=lambda pair=pair: results.append(begin(*pair))) for pair in pairs]
for thread in threads:
    thread.start()
    time.sleep(0.02)
for thread in threads:
    thread.join()
say(sorted(result[0] for result in results))
"""


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_two_that_call_each_other_from_two_processes(path, journal, kind):
    with processes(CALL_EACH_OTHER, 4, path, journal, "a", "b", kind) as started:
        tell(*started)
        assert [ended(process) for process in started] == [["['a',", "'b']"]] * 4


FORKS = """
def make():
    child = os.fork()
    if child:
        assert os.waitpid(child, 0) == (child, 0)
        assert engine.claim(b"name") is None
        return "parent"
    if "in a task" in sys.argv:
        go_on("child")  # the loop is its parent's, and turns no more
    return "child"

async def make_async():
    return make()

def go_on(result):
    again = computations.run(Job(engine, "another", lambda: "again"))
    threads = in_threads(lambda: computations.run(Job(engine, "one more", lambda: "one more")), 10)
    async def compute():
        return "in a task"
    task = in_threads(lambda: asyncio.run(computations.run_async(Job(engine, "task", compute))), 1)
    is_right = (result, again, set(threads), task) == ("child", "again", {"one more"}, ["in a task"])
    os._exit(0 if is_right else 1)

parent = os.getpid()
if "in a task" in sys.argv:
    result = asyncio.run(computations.run_async(Job(engine, "name", make_async)))
else:
    result = computations.run(Job(engine, "name", make))
if os.getpid() != parent:
    go_on(result)
say(result)
say(computations.run(Job(engine, "another", lambda: "mine")))
"""


@pytest.mark.parametrize("where", ["in a thread", "in a task"])
def test_a_computation_that_forks(path, journal, where):
    """What the child makes of it harms nobody: it ends there, too, and the parent still has its claim."""
    with processes(FORKS, 1, path, journal, where) as started:
        tell(*started)
        assert ended(*started) == ["parent", "again"]


def test_a_forked_child_does_not_wait_for_what_threads_of_its_parent_compute(path, journal):
    code = """
began, may_end = threading.Event(), threading.Event()

def make():
    began.set()
    may_end.wait(30)
    return "parent"

leader = threading.Thread(target=lambda: computations.run(Job(engine, "name", make)))
leader.start()
waiter = threading.Thread(target=lambda: computations.run(Job(engine, "name", make)))
waiter.start()
began.wait()
child = os.fork()
if not child:
    assert computations.run(Job(engine, "other", lambda: "other")) == "other"
    assert computations.run(Job(engine, "name", lambda: "child"), wait=False) is BUSY  # the parent has the claim
    say("busy")
    say(computations.run(Job(engine, "name", lambda: "child")))
    os._exit(0)
time.sleep(0.2)
may_end.set()
os.waitpid(child, 0)
leader.join()
waiter.join()
"""
    with processes(code, 1, path, journal) as started:
        tell(*started)
        assert ended(*started) == ["busy", "parent"]


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_an_interpreter_ends_while_daemons_wait(path, journal, kind):
    """Nobody gets a claim from a store that is closed by then, only to fail."""
    code = """
async def make():
    return 1

def call():
    if "tasks" in sys.argv:
        asyncio.run(computations.run_async(Job(engine, "name", make)))
    else:
        computations.run(Job(engine, "name", lambda: 1))

for _ in range(3):
    threading.Thread(target=call, daemon=True).start()
threading.Thread(target=lambda: computations.run(Job(engine, "other", lambda: time.sleep(60))), daemon=True).start()
time.sleep(0.05)
say("ends")
"""
    with Store(path) as store, processes(code, 2, path, journal, kind, "ends slowly") as started:
        claim = store._engine.claim(b"name")
        tell(*started)
        assert [ended(process) for process in started] == [["ends"]] * 2
        claim.release()


def test_it_works_while_the_interpreter_ends(path, journal):
    """Some versions of Python begin no thread then, so nobody looks out, and it computes beside the claim."""
    code = """
@atexit.register
def last():
    say(computations.run(Job(engine, "last", lambda: "computed")))
    async def make():
        return "awaited"
    say(asyncio.run(computations.run_async(Job(engine, "async", make))))
    claim = engine.claim(b"name")
    may_end.set()
    taken.append(claim)
    del claim
    say(computations.run(Job(engine, "name", lambda: "late")))

taken = []
may_end = threading.Event()

def release_later():
    may_end.wait()
    time.sleep(0.1)
    taken.pop().release()

threading.Thread(target=release_later, daemon=True).start()
"""
    with processes(code, 1, path, journal) as started:
        tell(*started)
        assert ended(*started) == ["computed", "awaited", "late"]


INTERRUPTED = """
import gc

def make():
    return sum(range(200))

def call(name):
    return computations.run(Job(engine, name, make, stores=False), wait=name != "1")

def in_thread():
    while not is_over:
        for name in "0", "1", "2":
            assert call(name) in (19900, BUSY)
    ended.append(None)

def interrupt(*_):
    global may_interrupt
    if may_interrupt:
        may_interrupt = False
        raise KeyboardInterrupt

is_over, ended, times, may_interrupt = False, [], 0, False
sys.unraisablehook = lambda _: None  # some come while a claim is dropped
signal.signal(signal.SIGALRM, interrupt)
rng = random.Random(int(sys.argv[3]))
threads = [threading.Thread(target=in_thread) for _ in range(2)]
for thread in threads:
    thread.start()
sys.setswitchinterval(0.0001)
until = time.monotonic() + float(sys.argv[4])

def calls():
    global may_interrupt
    may_interrupt = True
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00001, 0.002))
    for _ in range(1000):
        assert call(rng.choice("012")) in (19900, BUSY)
    may_interrupt = False

while time.monotonic() < until:
    try:
        calls()
    except KeyboardInterrupt:
        times += 1
signal.setitimer(signal.ITIMER_REAL, 0)
is_over = True
for thread in threads:
    thread.join(20)
assert len(ended) == 2, "a thread hangs"
gc.collect()
for name in "0", "1", "2":
    assert computations.run(Job(engine, name, make, stores=False), wait=False) == 19900, name
assert times > 10, times
say("ended")
"""


def test_whoever_is_interrupted_anywhere_leaves_nobody_waiting(path, journal, seed):
    with processes(INTERRUPTED, 1, path, journal, seed, min(0.5 * ROUNDS, 60)) as started:
        tell(*started)
        assert ended(*started) == ["ended"]


# Random programs


ANY_PROGRAM = """
class Programs:
    def __init__(self, seed):
        rng = random.Random(seed)
        self.names = [f"{number}" for number in range(12)]
        self.outer = self.names[:3]  # which nobody calls from inside, so they are computed once
        # Whom each calls, of all others: in circles, too.
        self.inner = {name: rng.sample(self.names[3:], rng.choice((0, 0, 1, 2, 3))) for name in self.names}
        self.pause = {name: rng.random() * 0.02 for name in self.names}
        self.fails = {name for name in self.names if rng.random() < 0.15} - set(self.outer)
        self.is_lost = {name for name in self.names if rng.random() < 0.15} - set(self.outer)

    def job(self, name, make):
        return Job(engine, name, make, stores=name not in self.is_lost)

    def call(self, name, depth=0):
        def make():
            journal.add(name)
            time.sleep(self.pause[name])
            for other in self.inner[name] if depth < 3 else ():
                self.call(other, depth + 1)
            time.sleep(self.pause[name])
            if name in self.fails:
                raise ValueError(name)
            return name
        return self.checked(name, lambda: computations.run(self.job(name, make)))

    async def call_async(self, name, depth=0):
        async def make():
            journal.add(name)
            await asyncio.sleep(self.pause[name])
            inner = self.inner[name] if depth < 3 else ()
            if len(inner) == 3:
                self.call(inner[0], depth + 1)  # which blocks the loop
            await asyncio.gather(*(self.call_async(other, depth + 1) for other in inner))
            await asyncio.sleep(self.pause[name])
            if name in self.fails:
                raise ValueError(name)
            return name
        try:
            result = await computations.run_async(self.job(name, make))
        except ValueError as exc:
            result = self.failed(name, exc)
        assert result == name, (result, name)

    def checked(self, name, call):
        try:
            result = call()
        except ValueError as exc:
            result = self.failed(name, exc)
        assert result == name, (result, name)

    def failed(self, name, exc):
        assert name in self.fails, (name, exc)
        return str(exc)

programs = Programs(int(sys.argv[3]))
rng = random.Random(int(sys.argv[3]) + os.getpid())
ended = []

def in_thread(names):
    for name in names:
        programs.call(name)
    ended.append(None)

def in_loop(names, cancels):
    async def main():
        mine = [name for name in names if not cancels or name not in programs.outer]
        tasks = [asyncio.create_task(programs.call_async(name)) for name in mine]
        if cancels:
            await asyncio.sleep(rng.random() * 0.05)
            for task in tasks[::3]:
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
    asyncio.run(main())
    ended.append(None)

def some():
    return [rng.choice(programs.names) for _ in range(6)]

threads = [threading.Thread(target=in_thread, args=(some(),)) for _ in range(4)]
threads += [threading.Thread(target=in_loop, args=(some(), cancels)) for cancels in (False, True)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not any(thread.name == "objstore-lookout" for thread in threading.enumerate()) or not time.sleep(0.5)
assert not any(thread.name == "objstore-lookout" for thread in threading.enumerate())
say(f"ended:{len(ended)}")
"""


@pytest.mark.parametrize("number", range(ROUNDS))
def test_random_programs_end(place, tmp_path, rng, number):
    path, journal = os.path.join(place, "a.store"), tmp_path / "journal"
    Store(path, durability="process").close()
    with processes(ANY_PROGRAM, 3, path, journal, rng.randrange(1 << 32)) as started:
        tell(*started)
        killed = None
        if number % 2:
            time.sleep(rng.random() * 0.2)
            killed = started.pop()
            killed.kill()
        for process in started:
            assert ended(process) == ["ended:6"]
    times = Counter(Journal(journal).lines())
    assert all(times[name] <= 1 + (killed is not None) for name in ("0", "1", "2")), times
    with Store(path) as store:
        computations = computations_of(store._engine)
        for name in range(12):
            assert computations.run(Job(store._engine, f"{name}", lambda: "anew"), wait=False) in (f"{name}", "anew")
