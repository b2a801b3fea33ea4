"""What is done to a store while it is recorded, for the power to fail anywhere in it.

A `Run` is a store under a recorder, with a model beside it.  It goes by steps; before each step a mark says what
begins, and after it another that it was acknowledged.  Of each commit, the run keeps what the store then holds, so that
what is found after a cut can be named by a commit.  A workload is a function of a run: long ones take their steps from
the run's random numbers, short ones do one thing.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pytest
from disk import Disk, Ended, Mark, Recorder, Write

from objstore import Store, StoreError
from objstore.engines.lmdb import directory as lmdb_directory
from objstore.engines.lmdb.transactions import LmdbWriter

LEVELS = ("full", "relaxed", "process")
SPACES = ("", "users", "groups")
NAME = "a.store"


def clock():
    return 1_800_000_000.0


# What is recorded


class Began(NamedTuple):
    what: str
    level: str  # what holds from now on, as soon as it is acknowledged


class Done(NamedTuple):
    what: str


class Put(NamedTuple):
    """One of several threads: its write is in the transaction that is committed next."""

    thread: int


class Returned(NamedTuple):
    """And this thread knows that."""

    thread: int


Content = dict[str, dict[Any, Any]]


class History(NamedTuple):
    name: str  # of the store, below the directory that is recorded
    log: list[Any]
    contents: list[Content]  # of the store, after each commit


def is_commit(event):
    """LMDB's header after the first one: from the size of the map to the number of the transaction."""
    return isinstance(event, Write) and len(event.data) == 120 and event.offset < 2 * 65536


def record(place, workload, level, seed, turn=0, name=NAME):
    """Run a workload in this process, which should be a child; its History."""
    lmdb_directory.boot_id = lambda: "the first boot"
    failed = []
    sys.unraisablehook = lambda caught: failed.append(caught.exc_value)  # what a hook raises comes there
    root = tempfile.mkdtemp(dir=place)
    recorder = Recorder(root)
    with recorder.recording():
        run = Run(recorder, os.path.join(root, name), level, random.Random(seed), turn)
        workload(run)
        run.close()
    assert not failed, failed
    disk = Disk()
    for event in recorder.log:
        disk.follow(event)
    differences = disk.differs(root)
    assert not differences, f"something was changed in a way that is not recorded: {differences}"
    shutil.rmtree(root)
    assert sum(map(is_commit, recorder.log)) == len(run.contents)
    return History(name, recorder.log, run.contents)


class Run:
    """A store under a recorder, with a model beside it: steps, each of which is acknowledged."""

    def __init__(self, recorder, path, level, rng, turn):
        self.recorder = recorder
        self.path = path
        self.level = level
        self.rng = rng
        self.turn = turn  # how many runs of this workload were before
        self.now = {space: {} for space in SPACES}
        self.contents = []
        self._number = 0
        self.stores = []

    def make(self):
        self.step("make", lambda: self.stores.append(Store(self.path, "c", durability=self.level, clock=clock)))

    @property
    def store(self):
        return self.rng.choice(self.stores)

    def step(self, what, act):
        """One step: begun, done, acknowledged.  At most one commit of it changes the content."""
        self.recorder.mark(Began(what, self.level))
        act()
        commits = self._commits() - len(self.contents)
        if commits == 0:
            assert not self.contents or self.contents[-1] == self.now, f"{what} committed nothing"
        before = self.contents[-1:] or [self.now]
        now = {space: dict(items) for space, items in self.now.items()}
        self.contents += before * (commits - 1) + [now] * bool(commits)
        self.recorder.mark(Done(what))

    def _commits(self):
        return sum(map(is_commit, self.recorder.log))

    # What a workload is made of

    def value(self):
        self._number += 1
        size = self.rng.choice([0, 10, 100, 1_000, 5_000, 20_000, 100_000])
        return self._number, self.rng.randbytes(1) * size

    def key(self):
        rng = self.rng
        return rng.choice([rng.randrange(12), ("row", rng.randrange(6)), "k" * 600 + str(rng.randrange(3))])

    def _target(self, base, space):
        return base.namespace(space) if space else base

    def put(self):
        space, key, value = self.rng.choice(SPACES), self.key(), self.value()
        target = self._target(self.store, space)
        self.now[space][key] = value
        self.step("write", lambda: target.__setitem__(key, value))

    def put_array(self):
        array = np.full(self.rng.randrange(10_000, 30_000), self.rng.random())
        key = ("array", self.rng.randrange(3))
        self.now[""][key] = array.tobytes()
        store = self.store
        self.step("write", lambda: store.__setitem__(key, array))

    def put_marked(self):
        key, value = self.key(), self.value()
        self.now["users"][key] = value
        store = self.store.namespace("users")
        self.step("write", lambda: store.set(key, value, ttl=100, tags=["red"]))

    def delete(self):
        space = self.rng.choice([space for space in SPACES if self.now[space]] or [""])
        if not self.now[space]:
            return
        key = self.rng.choice(list(self.now[space]))
        target = self._target(self.store, space)
        del self.now[space][key]
        self.step("write", lambda: target.__delitem__(key))

    def update(self):
        space = self.rng.choice(SPACES)
        items = {self.key(): self.value() for _ in range(self.rng.randint(1, 10))}
        target = self._target(self.store, space)
        self.now[space].update(items)
        self.step("write", lambda: target.update(items))

    def transaction(self):
        writes = [(self.rng.choice(SPACES), self.key(), self.value()) for _ in range(self.rng.randint(1, 10))]
        deleted = self.rng.random() < 0.3 and writes[0]
        store = self.store
        for space, key, value in writes:
            self.now[space][key] = value
        if deleted:
            self.now[deleted[0]].pop(deleted[1], None)

        def act():
            with store.transaction() as txn:
                for number, (space, key, value) in enumerate(writes):
                    if number % 3 == 2:
                        with txn.transaction() as inner:
                            self._target(inner, space)[key] = value
                    else:
                        self._target(txn, space)[key] = value
                if deleted:
                    self._target(txn, deleted[0]).delete(deleted[1])

        self.step("write", act)

    def drop(self):
        store = self.store
        self.now["groups"].clear()
        self.step("write", lambda: store.drop_namespace("groups"))

    def threads(self):
        """Threads that write at the same time, and share commits where those are synced."""
        store, threads = self.store, range(4)
        values = {thread: self.value() for thread in threads}
        begun = len(self.recorder.log)
        put = LmdbWriter.put
        keys = {store._space.tree_key(("thread", thread)): thread for thread in threads}

        def recorded_put(writer, tree_key, packed):
            put(writer, tree_key, packed)
            if tree_key in keys:
                self.recorder.mark(Put(keys[tree_key]))

        def work(thread):
            store["thread", thread] = values[thread]
            self.recorder.mark(Returned(thread))

        self.recorder.mark(Began("write", self.level))
        LmdbWriter.put = recorded_put
        try:
            with ThreadPoolExecutor(len(threads)) as pool:
                list(pool.map(work, threads))
        finally:
            LmdbWriter.put = put
        for event in self.recorder.log[begun:]:
            if isinstance(event, Mark) and isinstance(event.what, Put):
                self.now[""]["thread", event.what.thread] = values[event.what.thread]
            elif is_commit(event):
                self.contents.append({space: dict(items) for space, items in self.now.items()})
        self.recorder.mark(Done("write"))

    def sync(self):
        store = self.store
        self.step("sync", store.sync)

    def another_handle(self):
        if len(self.stores) == 1:
            self.stores.append(Store(self.path, "w", clock=clock))
        else:
            self.stores.pop(self.rng.randrange(2)).close()

    def close(self):
        if self.stores:
            self.step("close", lambda: [store.close() for store in self.stores])
            self.stores.clear()

    def reopen(self, level=None, flag="w"):
        """Close it, and open it again: as it was, or with another durability, or anew."""
        self.close()
        what = {"n": "replace"}.get(flag, "open" if level is None else "change")
        self.level = level or self.level
        if flag == "n":
            for items in self.now.values():
                items.clear()
            level = self.level
        self.step(what, lambda: self.stores.append(Store(self.path, flag, durability=level, clock=clock)))


WRITING = [Run.put, Run.put, Run.put_array, Run.put_marked, Run.delete, Run.update, Run.transaction, Run.drop]


def any_workload(run, steps=24):
    """Steps of all kinds, in any order."""
    run.make()
    others = [Run.sync, Run.another_handle, Run.reopen, Run.reopen]
    shared = [Run.threads] if run.level != "process" else []
    for _ in range(steps):
        run.rng.choice(WRITING * 2 + others + shared)(run)
    if run.rng.random() < 0.3:
        run.reopen(flag="n")
        run.update()


def changing_workload(run):
    """The durability changes, again and again."""
    run.make()
    for level in run.rng.sample(LEVELS, 3) * 2:
        for _ in range(2):
            run.rng.choice(WRITING)(run)
        if level != run.level:
            run.reopen(level)


def making_workload(run):
    """A store is made, and written to once."""
    run.make()
    run.put()


def interrupted_workload(run):
    """A store is made, but its maker ends in between, as if killed; another makes it, or finishes it."""
    run.recorder.mark(Began("make", run.level))
    run.recorder.end_after(run.turn)
    with suppress(Ended):
        Store(run.path, "c", durability=run.level, clock=clock).close()
    run.recorder.end_after(None)
    run.make()
    run.put()


def interrupted_marking_workload(run):
    """The first unsynced write of a process is interrupted before it begins; another follows."""
    run.make()
    run.update()
    run.reopen()
    store = run.store
    run.recorder.end_after(run.turn % 2)  # one writes the mark, one syncs it
    run.recorder.mark(Began("write", run.level))
    with suppress(Ended):
        store["a"] = 1
    run.recorder.end_after(None)
    run.update()
    run.update()


def failing_sync_workload(run):
    """A sync of a commit fails, whose transaction is undone; the next ones succeed."""
    run.make()
    run.put()
    for _ in range(2):
        before = {space: dict(items) for space, items in run.now.items()}
        run.recorder.mark(Began("failing sync", run.level))
        run.recorder.fail_sync_after(run.rng.randrange(3))
        with pytest.raises(StoreError):
            for _ in range(3):
                before = {space: dict(items) for space, items in run.now.items()}
                run.update()
        run.now = before
        for _ in range(4):
            run.update()


def failing_close_workload(run):
    """The sync fails with which unsynced writes end; the next one succeeds."""
    run.make()
    run.update()
    run.recorder.mark(Began("failing sync", run.level))
    run.recorder.fail_sync_after(0)
    with pytest.raises(StoreError):
        run.store.close()
    run.stores.clear()
    run.reopen()
    run.put()
    run.close()
    run.reopen()


def replacing_workload(run):
    """A store is replaced, by flag "n"."""
    run.make()
    run.update()
    run.reopen(flag="n")
    run.put()


def compacting_workload(run):
    """A store is compacted, and used before and afterwards."""
    run.make()
    for _ in range(4):
        run.rng.choice(WRITING)(run)
    run.step("compact", run.store.compact)
    run.put()
    run.reopen()
    run.delete()


def backing_up_workload(run):
    """A store is backed up, and what is looked at is the backup."""
    whole, run.path = run.path, run.path + ".source"
    run.step("open", lambda: run.stores.append(Store(run.path, "c", durability=run.level, clock=clock)))
    for _ in range(4):
        run.rng.choice(WRITING)(run)
    run.step("make", lambda: run.store.backup(whole))


SHORT_WORKLOADS = [
    making_workload,
    replacing_workload,
    compacting_workload,
    backing_up_workload,
]
