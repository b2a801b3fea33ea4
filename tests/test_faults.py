"""One call of the system fails, once: whatever it is, the user gets an error of ours, and nothing is lost or mixed.

A fixed workload is run once to count the calls that LMDB makes to open, read, write, sync, map and allocate, and
those that objstore makes of `os`.  Then it is run again for each of them, in a child, with that one failing: with the
errors that fit it, with half of a write done, or with a write or a sync that is done but reported as failed.  After
that nothing fails any more, and what must hold is:

* The error that reached the user is a StoreError, or a MemoryError where an allocation failed.  (That nothing reached
  the user is right as well, if all that was asked was done.)  The process lives.
* What is read through the same handle is the state before the operation that failed, or the one after it.
* The next write works, or says that the store must be closed and opened again.
* Once it is closed and opened again, everything that was acknowledged is there, and writing works.

Short form: a sample of the faults in a store of each durability.  The long form is all of them:

    OBJSTORE_FAULTS=all python -m pytest tests/test_faults.py -s

It prints what the user sees of each kind of fault, where.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import signal
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import interposing
import numpy as np
import pytest
from children import Died, result
from interposing import ALLOCATIONS, MAPS, OPENS, READS, SYNCS, WRITES, fail, lmdb_calls, os_calls, pieces

from objstore import Store, StoreError
from objstore.engines.lmdb import zerocopy
from objstore.engines.lmdb.transactions import LmdbWriter

ALL = os.environ.get("OBJSTORE_FAULTS") == "all"
SAMPLE = {"full": 18, "relaxed": 9, "process": 9}
LEVELS = ("full", "relaxed", "process")


@pytest.fixture(autouse=True)
def _the_calls_can_be_seen():
    interposing.require()


# The workload: each step with what it makes of a model


class Work:
    """A store and a model of it, {namespace: {key: value}}."""

    def __init__(self, path, level):
        self.path = path
        self.level = level
        self.store = None
        self.model: dict[str, dict[Any, Any]] = {"": {}, "users": {}}

    def open(self, flag):
        if self.store is not None:
            self.store.close()
            self.store = None
        self.store = Store(self.path, flag, durability=self.level)


def make(work):
    work.open("c")


def put(work):
    work.store["a"] = 1


def update(work):
    work.store.update(dict.fromkeys(range(8), b"x" * 3000))


def transaction(work):
    with work.store.transaction() as txn:
        txn["b"] = 2
        with txn.transaction() as inner:
            inner.namespace("users")["ada"] = "countess"
            inner[3] = b"y" * 9000
        txn.delete(4)


def array(work):
    work.store["array"] = np.arange(20_000.0)


def two_at_once(work):
    """Values of several pages that are no neighbours: LMDB writes them in several calls."""
    work.store.update({"large": b"z" * 30_000, 5: b"", 6: b"w" * 12_000})


def delete(work):
    del work.store["array"]


def read_all(work):
    read(work.store)
    with work.store.snapshot() as snap:
        assert snap["b"] == 2
    work.store.stats()


def sync(work):
    work.store.sync()


def reopen(work):
    work.open("w")


def increment(work):
    work.store.increment("count")


def replace(work):
    work.open("n")


def compact(work):
    work.store.compact()


def back_up(work):
    """To a place that is new each time; a backup that failed must not be in the way of the next."""
    shutil.rmtree(work.path + ".backup", ignore_errors=True)
    work.store.backup(work.path + ".backup")
    with Store(work.path + ".backup", "r") as copy:
        assert read(copy) == work.model


def close(work):
    work.store.close()
    work.store = None


def changed(step, model):
    """What a step makes of the model."""
    main, users = dict(model[""]), dict(model["users"])
    if step is put:
        main["a"] = 1
    elif step is update:
        main.update(dict.fromkeys(range(8), b"x" * 3000))
    elif step is transaction:
        main |= {"b": 2, 3: b"y" * 9000}
        del main[4]
        users["ada"] = "countess"
    elif step is array:
        main["array"] = np.arange(20_000.0).tobytes()
    elif step is two_at_once:
        main |= {"large": b"z" * 30_000, 5: b"", 6: b"w" * 12_000}
    elif step is delete:
        del main["array"]
    elif step is increment:
        main["count"] = main.get("count", 0) + 1
    elif step is replace:
        main, users = {}, {}
    return {"": main, "users": users}


STEPS = [
    *(make, put, update, transaction, array, two_at_once, read_all, delete, sync, increment),
    *(compact, update, back_up),
    *(reopen, read_all, increment, array, replace, put, close),
]
WRITING = {put, update, transaction, array, two_at_once, delete, increment}


def read(store):
    content = {"": dict(store.items()), "users": dict(store.namespace("users").items())}
    for space in (store, store.namespace("users")):
        assert len(space) == sum(1 for _ in space)
    return {name: {key: plain(value) for key, value in items.items()} for name, items in content.items()}


def plain(value):
    return value.tobytes() if isinstance(value, np.ndarray) else value


# Faults


class Call(NamedTuple):
    """A call that the workload makes: its function, and the step in which it comes."""

    name: str
    step: str


class Fault(NamedTuple):
    number: int  # of the call in its step, from 0 on
    call: Call
    how: str

    def __str__(self):
        return f"{self.call.step}: {self.call.name} (call {self.number}), {self.how}"


SHORT, LATE = "short", "done, but EIO"
KINDS = {
    **dict.fromkeys(("write", "writev", "pwrite", "pwritev"), ("EIO", "ENOSPC", SHORT, LATE)),
    **dict.fromkeys(("fsync", "fdatasync", "os.fsync"), ("EIO", "ENOSPC", LATE)),
    **dict.fromkeys(("open", "os.open", "FileIO"), ("EIO", "EMFILE", "ENOSPC")),
    **dict.fromkeys(("ftruncate", "os.ftruncate", "os.mkdir", "os.replace"), ("EIO", "ENOSPC")),
    **dict.fromkeys(("os.unlink", "os.rmdir", "pread"), ("EIO",)),
    **dict.fromkeys(("mmap", *ALLOCATIONS), ("ENOMEM",)),
    "os.pwrite": ("EIO", "ENOSPC", SHORT),
}


class Calls:
    """Counts calls, and lets one fail."""

    def __init__(self, fault=None):
        self.seen: list[tuple[int, Call]] = []
        self._counts = Counter[str]()
        self.step = ""
        self._fault = fault

    def __enter__(self):
        names = OPENS | READS | WRITES | SYNCS | MAPS | ALLOCATIONS
        self._stack = ExitStack()
        self._stack.enter_context(lmdb_calls(self._lmdb, names))
        self._stack.enter_context(os_calls(self._os))
        plain_io, zerocopy.FileIO = zerocopy.FileIO, partial(self._os, "FileIO", zerocopy.FileIO)
        self._stack.callback(setattr, zerocopy, "FileIO", plain_io)
        savepoint = LmdbWriter.savepoint
        LmdbWriter.savepoint = lambda writer: self._savepoint(writer, savepoint)
        self._stack.callback(setattr, LmdbWriter, "savepoint", savepoint)
        return self

    def _savepoint(self, writer, savepoint):
        """Tell the calls that LMDB makes to begin a savepoint: one of them is known to end the process."""
        step, self.step = self.step, BEGINS_SAVEPOINT
        try:
            return savepoint(writer)
        finally:
            self.step = step

    def __exit__(self, *_exc):
        self._stack.close()

    def _how(self, name):
        call = Call(name, self.step)
        number = self._counts[self.step]
        self._counts[self.step] += 1
        self.seen.append((number, call))
        if self._fault is None or (number, self.step) != (self._fault.number, self._fault.call.step):
            return None
        if call != self._fault.call:
            os._exit(9)  # the workload is not the same: nothing could be said of this fault
        return self._fault.how

    def _lmdb(self, name, call, args):
        how = self._how(name)
        if how is None:
            return call(*args)
        if how == SHORT:
            return self._short(name, call, args)
        if how == LATE:
            call(*args)
            how = "EIO"
        number = getattr(errno, how)
        fail(number)
        if name == "mmap":
            return (1 << 64) - 1
        return number if name == "posix_memalign" else 0 if name in ALLOCATIONS else -1

    @staticmethod
    def _short(name, call, args):
        """Half of it: of several pieces, the first alone."""
        if name in ("writev", "pwritev"):
            return call(args[0], args[1], 1, *args[3:]) if len(pieces(args[1], args[2])) > 1 else call(*args)
        return call(args[0], args[1], args[2] // 2, *args[3:])

    def _os(self, name, call, *args, **keywords):
        how = self._how(name)
        if how is None:
            return call(*args, **keywords)
        if how == SHORT:
            return call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
        if how == LATE:
            call(*args, **keywords)
            how = "EIO"
        number = getattr(errno, how)
        raise OSError(number, os.strerror(number), args[0] if isinstance(args[0], str) else None)


# One run


class Outcome(NamedTuple):
    error: str  # that the user got
    wrong: list[str]  # what must not be
    calls: list[Call]


def run(place, level, fault=None):
    """The workload, with or without a fault, in this process, which should be a child."""
    gc.disable()  # so that it makes the same calls each time
    work = Work(os.path.join(place, "a.store"), level)
    calls, error, step, after = Calls(fault), None, None, work.model
    wrong: list[str] = []
    with calls:
        for step in STEPS:
            calls.step = step.__name__
            after = changed(step, work.model)
            try:
                step(work)
            except BaseException as exc:  # noqa: BLE001  (whatever it is, it is what is looked at)
                error = exc
                break
            work.model = after
            if step in WRITING and level == "process" and not is_marked(work.store):
                wrong.append("unsynced writes were begun without the mark of them")
    wrong += complaints(work, step, error, after, fault)
    for path in (work.path, work.path + ".backup"):
        shutil.rmtree(path, ignore_errors=True)
    return Outcome(describe(error), wrong, calls.seen)


def is_marked(store):
    """Whether the store says that unsynced writes were begun under this boot of the machine."""
    directory = store._engine._directory
    return directory.dirty and not directory.suspect


def describe(error):
    if error is None:
        return "nothing"
    cause = type(error.__cause__)
    origin = (
        "" if error.__cause__ is None else f" (from {cause.__module__.removesuffix('.cpython')}.{cause.__qualname__})"
    )
    return f"{type(error).__name__}{origin}: {error}"


def complaints(work, step, error, after, fault):
    """What is wrong after the first error, or at the end."""
    allowed = [work.model] if error is None else [work.model, after]
    may_be_memory = fault is not None and fault.call.name in ALLOCATIONS
    if error is not None and not isinstance(error, (StoreError, MemoryError) if may_be_memory else StoreError):
        yield f"the user gets {error!r}"
    if work.store is not None:
        yield from through_the_same_handle(work, allowed)
    try:
        work.store = Store(work.path, "c" if step in (make, replace) else "w")
        if (found := read(work.store)) not in allowed:
            yield f"opened again, it holds {summary(found)}"
        work.store["last"] = "written"
        work.store["large"] = b"l" * 50_000
        work.store.close()
        with Store(work.path, "r") as store:
            if read(store)[""] != found[""] | {"last": "written", "large": b"l" * 50_000}:
                yield "what was written after opening again is not there"
    except Exception as exc:  # noqa: BLE001  (any is wrong)
        yield f"opened again: {exc!r}"


def through_the_same_handle(work, allowed):
    """As long as it is open.  What is written by it, if that works, is added to what is allowed."""
    try:
        if (found := read(work.store)) not in allowed:
            yield f"the handle shows {summary(found)}"
    except StoreError as exc:
        if "open it again" not in str(exc):
            yield f"reading on: {exc!r}"
    except Exception as exc:  # noqa: BLE001  (any is wrong)
        yield f"reading on: {exc!r}"
    try:
        work.store["next"] = 1
        for model in allowed:
            model[""]["next"] = 1
    except StoreError as exc:
        if "open it again" not in str(exc):
            yield f"writing on: {exc!r}"
    except Exception as exc:  # noqa: BLE001  (any is wrong)
        yield f"writing on: {exc!r}"
    try:
        work.store.close()
    except Exception as exc:  # noqa: BLE001  (any is wrong)
        yield f"closing: {exc!r}"


def summary(content):
    return {name: {key: str(value)[:20] for key, value in items.items()} for name, items in content.items()}


# LMDB 0.9 begins a savepoint with four allocations: the transaction, its lists of dirty and of free pages, and a copy
# of the list of pages that may be used again.  Where the fourth fails, `mdb_txn_begin` frees the list of dirty pages
# twice, after `mdb_txn_end` did, and glibc ends the process.  Nothing above LMDB can help that.
BEGINS_SAVEPOINT = "begin of a savepoint"
FATAL_ALLOCATION = 4


def is_known_to_end_the_process(fault, calls):
    if fault.call.step != BEGINS_SAVEPOINT or fault.call.name not in ALLOCATIONS:
        return False
    before = [call for number, call in calls if call.step == BEGINS_SAVEPOINT and number <= fault.number]
    return sum(call.name in ALLOCATIONS for call in before) >= FATAL_ALLOCATION


def faults(place, level):
    """All that can happen to the workload, without what is known to end the process."""
    plain = result(partial(run, place, level))
    assert plain.error == "nothing"
    assert not plain.wrong
    every = [Fault(number, call, how) for number, call in plain.calls for how in KINDS[call.name]]
    return [fault for fault in every if not is_known_to_end_the_process(fault, plain.calls)]


@pytest.mark.parametrize("level", LEVELS)
def test_each_call_that_fails_is_survived(place, level, rng):
    all_faults = faults(place, level)
    chosen = all_faults if ALL else sorted(rng.sample(all_faults, SAMPLE[level]))
    seen = defaultdict(Counter)
    wrong = []
    gc.collect()
    for fault in chosen:
        try:
            outcome = result(partial(run, place, level, fault), seconds=30)
        except (Died, AssertionError) as exc:
            outcome = Outcome(f"the end of the process: {exc}", [f"the process ended: {exc}"], [])
            shutil.rmtree(os.path.join(place, "a.store"), ignore_errors=True)
        seen[fault.call.name, fault.how, outcome.error.replace(place, "")][fault.call.step] += 1
        wrong += [f"{fault}: {text}" for text in outcome.wrong]
    print(f"{level}: {len(chosen)} faults of {len(all_faults)}")
    for (name, how, error), steps in seen.items():
        where = ", ".join(f"{number} x {step}" for step, number in steps.items())
        print(f"  {name}, {how}, in {where}: the user gets {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("end", ["killed", "fails"])
def test_one_who_ends_in_the_middle_of_opening_leaves_no_locks_half_set_up(place, end):
    """LMDB would give the next one the state before the last commit, and let him write on from there."""
    path = f"{place}/a.store"
    with Store(path) as store:
        store.update({"a": 1})
    inside, told = os.pipe()
    going_on, go_on = os.pipe()
    process = os.fork()
    if process == 0:
        maps = 0

        def second_map_waits(name, call, args):
            nonlocal maps
            maps += 1
            if maps < 2:  # that of the lock file
                return call(*args)
            os.write(told, b".")
            os.read(going_on, 1)
            fail(errno.ENOMEM)
            return (1 << 64) - 1

        with lmdb_calls(second_map_waits, MAPS):
            with contextlib.suppress(StoreError):
                Store(path, map_size=1 << 20)
        os._exit(0)
    os.read(inside, 1)
    # Another opens it meanwhile.
    second = os.fork()
    if second == 0:
        with Store(path) as store:
            store["b"] = 2
        os._exit(0)
    time.sleep(0.1)
    if end == "killed":
        os.kill(process, signal.SIGKILL)
    else:
        os.write(go_on, b".")
    os.waitpid(process, 0)
    assert os.waitpid(second, 0)[1] == 0
    for descriptor in (inside, told, going_on, go_on):
        os.close(descriptor)
    with Store(path) as store:
        assert store == {"a": 1, "b": 2}
