"""kill -9 at any moment: what was acknowledged is there, nothing is there by half, and the books are right.

A child commits numbered transactions and acknowledges each through a pipe; the parent kills it at some
moment, opens the store, and compares it with what a dict would hold after the last acknowledged
transaction, or after the one that followed it.  The child is forked while no store is open.

The same with several threads that write at once, so that a kill hits a group that shares its sync, or the queue for
it: each thread has namespaces, numbers and a clock of its own, and each must find its last acknowledged transaction,
or the one that followed, whatever became of the others'.

The long form, kills for each test:

    OBJSTORE_KILLS=10000 OBJSTORE_SEED=1 python -m pytest tests/test_crash.py -s

OBJSTORE_SEED replays the transactions; the moments of the kills are the machine's.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from objstore import Store, StoreCorrupt, StoreNotFound, check
from objstore.engines.lmdb import registry

pytestmark = pytest.mark.usefixtures("forked_checks")

KILLS = int(os.environ.get("OBJSTORE_KILLS", "7"))
THREADS = 4
SPACES = ("", "users", "groups")
TAGS = ("red", "blue")

_number = struct.Struct("<Q")


# What the child writes: transaction by transaction a function of the seed, so that the parent knows it, too


class Write(NamedTuple):
    space: str
    key: Any
    value: Any  # None: delete the key
    ttl: float | None = None
    tags: tuple[str, ...] = ()


class Plan(NamedTuple):
    """One transaction."""

    how: str
    writes: list[Write]


def plan(seed: int | str, number: int) -> Plan:
    rng = random.Random(f"{seed}:{number}")
    how = rng.choice(["item", "update", "update", "transaction", "transaction", "savepoint", "expire", "tag", "drop"])
    space = rng.choice(SPACES)
    ttl = rng.choice([None, 3, 20])
    tags = tuple(rng.sample(TAGS, rng.randrange(3)))

    def a_write(space):
        key = rng.choice([rng.randrange(30), ("row", rng.randrange(10)), "k" * 600 + str(rng.randrange(3))])
        size = rng.choice([0, 10, 1_000, 10_000, 100_000])
        return Write(space, key, (number, rng.randbytes(1) * size), ttl, tags)

    if how == "item":
        return Plan(how, [a_write(space)])
    if how == "update":
        return Plan(how, [a_write(space) for _ in range(rng.randint(1, 12))])
    if how in ("transaction", "savepoint"):
        writes = [a_write(rng.choice(SPACES)) for _ in range(rng.randint(2, 12))]
        return Plan(how, [write if rng.random() < 0.7 else write._replace(value=None) for write in writes])
    return Plan(how, [Write(space, None, None, tags=TAGS[:1])])


class Clock(threading.local):
    """It shows the number of the thread's transaction, so that what expires is known, too."""

    now = 0

    def __call__(self):
        return float(self.now)


def namespace(mapping, name):
    return mapping.namespace(name) if name else mapping


def carry_out(store, plan, prefix=""):
    """Do what the plan says, in the namespaces of a thread: those whose names begin so."""
    first = plan.writes[0]
    target = namespace(store, prefix + first.space)
    if plan.how == "item":
        target.set(first.key, first.value, ttl=first.ttl, tags=first.tags)
    elif plan.how == "update":
        target.update([(write.key, write.value) for write in plan.writes], ttl=first.ttl, tags=first.tags)
    elif plan.how == "expire":
        target.expire()
    elif plan.how == "tag":
        target.delete_tag(first.tags[0])
    elif plan.how == "drop":
        store.drop_namespace(prefix + "groups")
    else:
        with store.transaction() as txn:
            write_all(txn, plan.writes[::2], prefix)
            if plan.how == "savepoint":
                with txn.transaction() as inner:
                    write_all(inner, plan.writes[1::2], prefix)
            else:
                write_all(txn, plan.writes[1::2], prefix)


def write_all(txn, writes, prefix):
    for space, key, value, ttl, tags in writes:
        target = namespace(txn, prefix + space)
        if value is None:
            target.delete(key)
        else:
            target.set(key, value, ttl=ttl, tags=tags)


class Model:
    """What the store holds after so many transactions, in the namespaces whose names begin with the prefix."""

    def __init__(self, seed, prefix=""):
        self.seed = seed
        self.prefix = prefix
        self.number = 0
        self.spaces = {space: {} for space in SPACES}

    def advance(self):
        self.number += 1
        how, writes = plan(self.seed, self.number)
        if how == "drop":
            self.spaces["groups"].clear()
        elif how == "tag":
            space = self.spaces[writes[0].space]
            for key in [key for key, write in space.items() if writes[0].tags[0] in write.tags and self.lives(write)]:
                del space[key]
        elif how != "expire":
            for write in writes[::2] + writes[1::2] if how in ("transaction", "savepoint") else writes:
                self.spaces[write.space].pop(write.key, None)
                if write.value is not None:
                    self.spaces[write.space][write.key] = write

    def lives(self, write):
        return write.ttl is None or write.value[0] + write.ttl > self.number

    def live(self, space):
        return {key: write for key, write in self.spaces[space].items() if self.lives(write)}

    def is_in(self, store, clock):
        """Whether this is what the store holds."""
        clock.now = self.number
        for name in SPACES:
            space = namespace(store, self.prefix + name)
            live = self.live(name)
            if dict(space.items()) != {key: write.value for key, write in live.items()}:
                return False
            if any(set(space.range(tag=tag)) != {key for key in live if tag in live[key].tags} for tag in TAGS):
                return False
        return True


def check_books(store):
    """The counts that are kept say what is there."""
    spaces = [store, *map(store.namespace, store.namespaces())]
    for space in spaces:
        assert len(space) == sum(1 for _ in space) == sum(1 for _ in space.items())
    # Without any item, the tree holds three records of the library, and the names of the namespaces.
    with pytest.raises(Undo), store.transaction() as txn:
        for name in store.namespaces():
            txn.namespace(name).clear()
        txn.clear()
        assert len(txn) == 0
        assert [len(txn.namespace(name)) for name in store.namespaces()] == [0] * len(store.namespaces())
        assert txn._reader().count() == 3 + len(store.namespaces())
        raise Undo


class Undo(Exception):
    pass


# Processes that are killed


@contextmanager
def child(body):
    """A forked process that runs `body(pipe)`; gives its id and the end of the pipe from which to read."""
    assert not registry.engines, "a child is to begin with nothing open"
    read_end, write_end = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(read_end)
        to_the_end(body, write_end)
    os.close(write_end)
    try:
        yield process, read_end
    finally:
        os.close(read_end)


def to_the_end(body, *arguments):
    """In a child, or in one of its threads: run `body`, whose end is the end of the process."""
    try:
        body(*arguments)
    except BaseException as exc:  # noqa: BLE001  (it goes no further than this process)
        os.write(2, f"the child failed: {exc!r}\n".encode())
    finally:
        os._exit(1)


def kill(process):
    """Kill -9, and see that nothing else was the end of it."""
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself: its error is above"
    assert os.WTERMSIG(status) == signal.SIGKILL


def acknowledged(pipe, at_most=None):
    """The numbers that come through the pipe: all of them, or the first few."""
    numbers = []
    while at_most is None or len(numbers) < at_most:
        data = os.read(pipe, _number.size)
        if not data:
            break
        numbers.append(_number.unpack(data)[0])
    return numbers


@pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
def test_what_was_acknowledged_survives_a_kill_and_nothing_is_there_by_half(tmp_path, durability, seed, rng):
    path = tmp_path / "a.store"
    clock = Clock()
    model = Model(seed)

    def work(pipe):
        with Store(path, durability=durability, clock=clock) as store:
            for number in range(model.number + 1, 1 << 62):
                clock.now = number
                carry_out(store, plan(seed, number))
                os.write(pipe, _number.pack(number))

    ahead = 0
    for _ in range(KILLS):
        with child(work) as (process, pipe):
            numbers = acknowledged(pipe, at_most=rng.randrange(40))
            time.sleep(rng.uniform(0, 0.003))  # no synchronisation: the moment is to be any
            kill(process)
            numbers += acknowledged(pipe)
        assert numbers == list(range(model.number + 1, model.number + 1 + len(numbers)))
        for _ in numbers:
            model.advance()
        with Store(path, durability=durability, clock=clock) as store:
            if not model.is_in(store, clock):
                model.advance()
                ahead += 1
                assert model.is_in(store, clock)
            check_books(store)
    print(f"{durability}: {KILLS} kills, {model.number} transactions, {ahead} times one more than was acknowledged")


@pytest.mark.parametrize("durability", ["full", "relaxed", "process"])
def test_each_of_several_threads_finds_after_a_kill_what_was_acknowledged_to_it(tmp_path, durability, seed, rng):
    path = tmp_path / "a.store"
    clock = Clock()
    models = [Model(f"{seed}:{thread}", f"{thread}" if thread else "") for thread in range(THREADS)]

    def work(pipe):
        with Store(path, durability=durability, clock=clock) as store:

            def write(thread):
                for number in range(models[thread].number + 1, 1 << 62):
                    clock.now = number
                    carry_out(store, plan(models[thread].seed, number), models[thread].prefix)
                    os.write(pipe, _number.pack(number * THREADS + thread))

            for thread in range(1, THREADS):
                threading.Thread(target=to_the_end, args=(write, thread), daemon=True).start()
            write(0)  # the main thread is led by others, and leads nobody (see `grouping`)

    ahead = transactions = 0
    for _ in range(KILLS):
        with child(work) as (process, pipe):
            numbers = acknowledged(pipe, at_most=rng.randrange(60))
            time.sleep(rng.uniform(0, 0.003))  # no synchronisation: the moment is to be any
            kill(process)
            numbers += acknowledged(pipe)
        transactions += len(numbers)
        with Store(path, durability=durability, clock=clock) as store:
            for thread, model in enumerate(models):
                mine = [number // THREADS for number in numbers if number % THREADS == thread]
                assert mine == list(range(model.number + 1, model.number + 1 + len(mine)))
                for _ in mine:
                    model.advance()
                if not model.is_in(store, clock):
                    model.advance()
                    ahead += 1
                    assert model.is_in(store, clock), f"thread {thread}, transaction {model.number}"
            check_books(store)
    print(
        f"{durability}: {KILLS} kills of {THREADS} threads, {transactions} transactions acknowledged, {ahead} times "
        f"one more was there than was acknowledged to its thread"
    )


def test_a_kill_while_a_store_is_made_leaves_none_or_a_whole_one(tmp_path, rng):
    made = 0
    for number in range(KILLS):
        path = tmp_path / str(number)

        def work(pipe, path=path):
            with Store(path) as store:
                os.write(pipe, _number.pack(1))
                store.namespace("n")["a"] = 1
                os.write(pipe, _number.pack(2))
                signal.pause()

        with child(work) as (process, pipe):
            time.sleep(rng.uniform(0, 0.02))
            kill(process)
            done = len(acknowledged(pipe))
        made += done > 0
        with Store(path, "w" if done else "c") as store:
            there = dict(store.namespace("n"))
            assert there == {"a": 1} if done == 2 else there in ({}, {"a": 1})
            assert len(store) == 0
            store["b"] = 2
            check_books(store)
        with Store(path, "r") as store:
            assert store == {"b": 2}
        assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]
    print(f"{KILLS} kills, {made} times after the store was made")


def test_a_kill_while_a_store_is_replaced_leaves_the_old_or_the_new_one(tmp_path, rng):
    path = tmp_path / "a.store"
    replaced = 0
    for number in range(KILLS):
        with Store(path) as store:
            store.clear()
            store.update({"number": number, "large": b"x" * 100_000})
            old = store.stats().id

        def work(pipe):
            with Store(path, "n"):
                os.write(pipe, _number.pack(1))
                signal.pause()

        with child(work) as (process, pipe):
            time.sleep(rng.uniform(0, 0.02))
            kill(process)
            done = bool(acknowledged(pipe))
        with Store(path, "w") as store:
            if store.stats().id == old:
                assert not done
                assert store == {"number": number, "large": b"x" * 100_000}
            else:
                replaced += 1
                assert store == {}
            check_books(store)
    print(f"{KILLS} kills, {replaced} times after the store was replaced")


def test_what_a_kill_left_undone_is_done_by_the_next_who_opens(tmp_path):
    path = tmp_path / "a.store"
    with Store(path) as store:
        store["a"] = 1
    # As it is after a kill between the two last steps of making it.
    (path / "objstore.making").mkdir()
    os.truncate(path / "objstore.lock", 0)
    with Store(path) as store:
        assert store == {"a": 1}
    assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]
    os.unlink(path / "data.mdb")
    with pytest.raises(StoreCorrupt):
        Store(path)


@pytest.mark.parametrize("durability", ["full", "process"])
def test_a_kill_while_a_store_is_compacted_leaves_it_whole(tmp_path, durability, rng):
    path = tmp_path / "a.store"
    compacted = number = 0

    def work(pipe):
        with Store(path, durability=durability) as store:
            for value in range(number + 1, 1 << 62):
                store.update({"number": value, "large": b"x" * rng.randrange(100_000)})
                os.write(pipe, _number.pack(value))
                store.compact()

    for _ in range(KILLS):
        with child(work) as (process, pipe):
            seen = acknowledged(pipe, at_most=1)
            time.sleep(rng.uniform(0, 0.2))  # in which some are done
            kill(process)
            seen += acknowledged(pipe)
        compacted += len(seen) - 1
        with Store(path, durability=durability) as store:
            assert store["number"] in (seen[-1], seen[-1] + 1)
            number = store["number"]
            assert store.stats().durability == durability
            check_books(store)
        assert sorted(os.listdir(path)) == ["data.mdb", "lock.mdb", "objstore.lock"]
        assert check(path).ok
    print(f"{durability}: {KILLS} kills, {compacted} compactions")


def test_a_kill_while_a_backup_is_made_leaves_a_whole_one_or_none(tmp_path, rng):
    path = tmp_path / "a.store"
    with Store(path) as store:
        store.update(dict.fromkeys(range(100), "x" * 1000))
    made = 0
    for number in range(KILLS):
        target = tmp_path / str(number)

        def work(pipe, target=target):
            with Store(path, "r") as store:
                os.write(pipe, _number.pack(1))
                store.backup(target)
                os.write(pipe, _number.pack(2))
                signal.pause()

        with child(work) as (process, pipe):
            seen = acknowledged(pipe, at_most=1)
            time.sleep(rng.uniform(0, 0.1))  # a backup takes about as long
            kill(process)
            seen += acknowledged(pipe)
        try:
            with Store(target, "r") as backup:
                assert backup == dict.fromkeys(range(100), "x" * 1000)
                made += 1
        except StoreNotFound:
            assert 2 not in seen
            with Store(target) as store:  # what is left there is in nobody's way
                assert store == {}
        assert check(target).ok
    print(f"{KILLS} kills, {made} backups")
