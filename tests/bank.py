"""A bank: processes of threads move money between the accounts of one store, and somebody sums all the while.

A program of its own, for `test_bank`: `python -c "import bank; bank.main(...)"`.  It starts tellers (processes, by
spawn, forkserver and fork in turn, to which the handle is sent or left) and auditors, kills tellers and replaces
them, and looks at the end whether each teller's books agree with what was acknowledged to it.

Acknowledged is what a thread has written into its place in a file that all have mapped: that survives a kill.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
import time
from mmap import mmap
from typing import Any, NamedTuple

from objstore import Store

ACCOUNTS = 40
MONEY = 1000  # on each account, at the beginning
SLOTS = 1 << 16  # in the file of acknowledgements; the first one says whether it is over
NUMBER = 8  # bytes


class Rules(NamedTuple):
    path: str
    durability: str
    seed: str
    processes: int
    threads: int
    transfers: int  # by all together
    kills: int
    ballast: int  # bytes that each fifth transfer stores beside; the map must grow for them


def account(number: int) -> Any:
    return ("account", number) if number % 3 else ("account", f"{number:>04}")


EVERYBODY = [account(number) for number in range(ACCOUNTS)]


class Acknowledged:
    """Numbers in a file that all processes map."""

    def __init__(self, path: str) -> None:
        with open(path + ".acknowledged", "a+b") as file:
            file.truncate(SLOTS * NUMBER)
            self._numbers = memoryview(mmap(file.fileno(), 0)).cast("Q")

    def __getitem__(self, slot: int) -> int:
        return self._numbers[slot]

    def __setitem__(self, slot: int, number: int) -> None:
        self._numbers[slot] = number

    @property
    def is_over(self) -> bool:
        return bool(self[0])


# Tellers


def transfer(store: Any, rng: random.Random, me: int, rules: Rules) -> None:
    """Move money in one of several ways, and count it in the same transaction."""
    from_, to = rng.sample(EVERYBODY, 2)
    amount = rng.randrange(1, 100)
    with store.transaction() as txn:
        way = rng.randrange(6)
        if way == 0:
            txn[from_] -= amount
            txn[to] += amount
        elif way == 1:
            txn.increment(from_, -amount)
            txn.modify(to, lambda money: money + amount)
        elif way == 2:
            assert txn.compare_and_set(from_, txn[from_], txn[from_] - amount)
            assert not txn.compare_and_set(to, "not so much", 0)
            txn.increment(to, amount)
        elif way == 3:
            moved = txn.get_many([from_, to])
            txn.update({from_: moved[from_] - amount, to: moved[to] + amount})
        elif way == 4:
            with txn.transaction() as inner:
                inner[to] = inner.pop(to) + amount
            txn[from_] = txn.pop(from_) - amount
        else:
            try:
                with txn.transaction() as inner:
                    inner[from_] = 0
                    inner.delete(to)
                    raise Undo
            except Undo:
                txn.increment(to, -amount)
            txn.increment(from_, amount)
        if rules.ballast and rng.random() < 0.2:
            txn["ballast", rng.randrange(400)] = rng.randbytes(1) * rules.ballast
        txn.increment(("done", me))


class Undo(Exception):
    pass


def work(store: Any, acknowledged: Acknowledged, me: int, share: int, rules: Rules) -> None:
    """One thread of a teller."""
    rng = random.Random(f"{rules.seed}:{me}")
    for number in range(1, share + 1):
        transfer(store, rng, me, rules)
        acknowledged[me] = number
        if number % 8 == 0:
            store.increment(("single", me))  # what threads share a sync for


def teller(store: Any, first: int, share: int, rules: Rules, limit: int) -> None:
    """A process whose threads move money; their slots begin with `first`.  `limit`: of addresses, or 0."""
    faulthandler.enable()
    failed: list[BaseException] = []
    acknowledged = Acknowledged(rules.path)

    def run(me: int) -> None:
        try:
            work(store, acknowledged, me, share, rules)
        except BaseException as exc:
            failed.append(exc)
            raise

    if limit:
        store = in_little_space(store)
    threads = [threading.Thread(target=run, args=(first + number,)) for number in range(rules.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    sys.exit(bool(failed))


def in_little_space(store: Any) -> Any:
    """The store, opened anew where its map could not be reserved whole, and must grow."""
    path = store.location
    store.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    needed = os.stat(os.path.join(path, "data.mdb")).st_size  # all of what is there must be mapped
    resource.setrlimit(resource.RLIMIT_AS, (used + needed + (48 << 20), hard))
    store = Store(path)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert store.stats().map_bytes < needed + (48 << 20), "the map was reserved, though there is no room"
    return store


# Auditors


def sums(store: Any) -> list[int]:
    """All money, looked at in several ways."""
    with store.snapshot() as snapshot:
        first = sum(snapshot[each] for each in EVERYBODY)
        again = sum(snapshot.range(prefix=("account",)).values())
    listed = sum(money for _, money in store.range(prefix=("account",)).items())
    whole = sum(money for key, money in store.items() if key[0] == "account")
    fetched = sum(store.get_many(EVERYBODY).values())
    backwards = sum(entry.value for entry in store.snapshot().range(prefix=("account",), reverse=True).entries())
    return [first, again, listed, whole, fetched, backwards]


def auditor(store: Any, slot: int, rules: Rules, limit: int) -> None:
    """A process that sums until it is over."""
    faulthandler.enable()
    if limit:
        store = in_little_space(store)
    acknowledged = Acknowledged(rules.path)
    while not acknowledged.is_over:
        found = sums(store)
        assert found == [ACCOUNTS * MONEY] * len(found), found
        acknowledged[slot] += 1
    store.close()


# The whole


class Bank:
    def __init__(self, store: Any, rules: Rules) -> None:
        self.store = store
        self.rules = rules
        self.rng = random.Random(rules.seed)
        self.acknowledged = Acknowledged(rules.path)
        self.next_slot = 1
        self.methods = [multiprocessing.get_context(method) for method in ("spawn", "forkserver", "fork")]
        self.started: list[Any] = []
        self.shares: dict[int, int] = {}  # of each slot

    def start(self, target: Any, *arguments: Any) -> Any:
        """Start a process, by another method each time."""
        context = self.methods[len(self.started) % len(self.methods)]
        process = context.Process(target=target, args=(self.store, self.next_slot, *arguments), daemon=True)
        process.start()
        self.started.append(process)
        return process

    def start_teller(self, share: int) -> tuple[Any, range]:
        process = self.start(teller, share, self.rules, self.rules.ballast)
        slots = range(self.next_slot, self.next_slot + self.rules.threads)
        self.shares.update(dict.fromkeys(slots, share))
        self.next_slot = slots.stop
        return process, slots

    def start_auditor(self) -> tuple[Any, int]:
        process = self.start(auditor, self.rules, self.rules.ballast)
        self.next_slot += 1
        return process, self.next_slot - 1

    def run(self) -> str:
        rules, acknowledged = self.rules, self.acknowledged
        share = -(-rules.transfers // (rules.processes * rules.threads))
        auditors = [self.start_auditor() for _ in range(2)]
        tellers = [self.start_teller(share) for _ in range(rules.processes)]
        killed: set[int] = set()
        while tellers:
            time.sleep(self.rng.uniform(0, 0.02))
            assert all(process.is_alive() for process, _ in auditors), "an auditor failed; its error is above"
            found = sums(self.store)
            assert found == [ACCOUNTS * MONEY] * len(found), found
            for process, slots in list(tellers):
                if process.exitcode is not None:
                    assert process.exitcode == 0, f"a teller failed ({process.exitcode}); its error is above"
                    tellers.remove((process, slots))
            done = sum(acknowledged[slot] for slot in self.shares)
            if tellers and len(killed) < rules.kills * rules.threads * min(done / rules.transfers + 0.1, 1):
                process, slots = self.rng.choice(tellers)
                if any(acknowledged[slot] for slot in slots) and self.kill(process):
                    tellers.remove((process, slots))
                    killed.update(slots)
                    left = sum(self.shares[slot] - acknowledged[slot] for slot in slots)
                    tellers.append(self.start_teller(-(-left // rules.threads)))
        acknowledged[0] = 1
        for process, _ in auditors:
            process.join(60)
            assert process.exitcode == 0, "an auditor failed; its error is above"
        self.check(killed)
        audits = sum(acknowledged[slot] for _, slot in auditors)
        transfers = sum(acknowledged[slot] for slot in self.shares)
        return (
            f"{rules.durability}: {transfers} transfers by {rules.processes} processes of {rules.threads} threads, "
            f"{len(killed) // rules.threads} killed, {audits} times summed in 6 ways meanwhile"
        )

    def kill(self, process: Any) -> bool:
        """Kill -9; False if it ended by itself before."""
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        return bool(process.exitcode == -signal.SIGKILL)

    def check(self, killed: set[int]) -> None:
        found = sums(self.store)
        assert found == [ACCOUNTS * MONEY] * len(found), found
        for slot, share in self.shares.items():
            acknowledged = self.acknowledged[slot]
            done, single = self.store.get(("done", slot), 0), self.store.get(("single", slot), 0)
            if slot in killed:
                assert acknowledged <= done <= acknowledged + 1, (slot, acknowledged, done)
                assert acknowledged // 8 - 1 <= single <= acknowledged // 8 + 1, (slot, acknowledged, single)
            else:
                assert done == acknowledged == share, (slot, acknowledged, done)
                assert single == share // 8
        assert len(self.store) == len(list(self.store))


def main(*arguments: str) -> None:
    faulthandler.enable()
    rules = Rules(*arguments[:3], *map(int, arguments[3:]))
    with Store(rules.path, durability=rules.durability) as store:
        store.update(dict.fromkeys(EVERYBODY, MONEY))
        print(Bank(store, rules).run())
