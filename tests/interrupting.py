"""Interrupts one operation at every place where that can happen, and looks each time what is left behind.

A program of its own, for `test_signals`: `python -c "import interrupting; interrupting.main(...)"`.

A trace function raises KeyboardInterrupt at the n-th place that an operation passes, for n = 1, 2, ...  Places are
those where the interpreter looks for signals: when a function has begun, when a call has returned (before its result
is assigned!), and when a loop turns; in objstore and in all Python code below it.  These are finer than lines, and
none is impossible: between the end of a `with lock` block and the release of its lock the interpreter does not look,
though there is a line.

A second process, the witness, opens the store after each interruption, writes and reads; so what is still locked
shows.  What is found wrong is gathered, not raised, so that one run tells all of it.
"""

from __future__ import annotations

import dis
import faulthandler
import gc
import linecache
import os
import random
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pickle import PickleBuffer
from typing import Any, NamedTuple

import objstore
from objstore import Store
from objstore.engines.lmdb import registry

HERE = os.path.dirname(os.path.abspath(objstore.__file__))
UNOWNED = "these descriptors stay open"
PATIENCE = 20  # seconds; who takes longer hangs


class Large:
    """Has a buffer that is stored beside its pickle, as arrays have."""

    def __init__(self, buffer):
        self.buffer = buffer

    def __reduce_ex__(self, _protocol):
        return Large, (PickleBuffer(self.buffer),)

    def __eq__(self, other):
        return type(other) is Large and bytes(self.buffer) == bytes(other.buffer)

    __hash__ = None


# What is interrupted


class Operation(NamedTuple):
    run: Callable[[Any, str], object]  # (store, path of a store that nobody has open)
    changes: bool = True
    beside: Callable[[Any], AbstractContextManager[object]] = nullcontext  # what another thread does meanwhile


def _transaction(store, _path):
    with store.transaction() as txn:
        txn["plain"] = 2
        with txn.transaction() as inner:
            inner["inner"] = Large(b"2" * 100_000)
            del inner["list"]
        txn.namespace("users").increment("ada")


def _failing_transaction(store, _path):
    with suppress(ZeroDivisionError), store.transaction() as txn:
        txn["plain"] = 2
        with suppress(KeyError), txn.transaction() as inner:
            inner["plain"] = inner["nothing"]
        txn["plain"] = 1 / 0


def _snapshot(store, _path):
    with store.snapshot() as snapshot:
        return snapshot["plain"], snapshot["large"], list(snapshot.items())


def _edit(store, _path):
    with store.edit("list") as value:
        value.append(2)


def _large_twice(store, _path):
    return store["large"], store["large"], store["plain"]  # the second is read another way


def _open(_store, path):
    with Store(path) as store:
        store["opened"] = 1


def _second_handle(store, _path):
    with Store(store.location) as second, second.namespace("users") as users:
        users["second"] = 1


def _make(_store, path):
    Store(path + ".new").close()


@contextmanager
def _led_by_another(store):
    """Another thread leads those who write (see `grouping`), until one waits for it."""
    group = store._engine._group
    leading, over = threading.Event(), threading.Event()

    def lead():
        with group._leadership:
            leading.set()
            while not group._waiting and not over.is_set():
                over.wait(0.001)
        group._wake_next()

    thread = threading.Thread(target=lead)
    if group is not None:
        thread.start()
        leading.wait()
    try:
        yield
    finally:
        over.set()
        if group is not None:
            thread.join()


OPERATIONS = {
    "get": Operation(lambda store, _: store["plain"], changes=False),
    "get large": Operation(_large_twice, changes=False),
    "in": Operation(lambda store, _: "plain" in store, changes=False),
    "put": Operation(lambda store, _: store.__setitem__("plain", 2)),
    "put in a queue": Operation(lambda store, _: store.__setitem__("plain", 2), beside=_led_by_another),
    "put large": Operation(lambda store, _: store.__setitem__("large", Large(b"2" * 200_000))),
    "put ttl": Operation(lambda store, _: store.set("plain", 2, ttl=1000, tags=["red"])),
    "put in a namespace": Operation(lambda store, _: store.namespace("users").__setitem__("bob", 2)),
    "update": Operation(lambda store, _: store.update({"plain": 2, "more": 3, "large": Large(b"3" * 100_000)})),
    "delete": Operation(lambda store, _: store.delete("plain")),
    "pop": Operation(lambda store, _: store.pop("plain")),
    "increment": Operation(lambda store, _: store.increment("plain")),
    "compare_and_set": Operation(lambda store, _: store.compare_and_set("plain", 1, 2)),
    "clear": Operation(lambda store, _: store.clear()),
    "transaction": Operation(_transaction),
    "transaction that fails": Operation(_failing_transaction, changes=False),
    "snapshot": Operation(_snapshot, changes=False),
    "items": Operation(lambda store, _: list(store.items()), changes=False),
    "range": Operation(lambda store, _: list(store.range("a", "z", reverse=True).entries()), changes=False),
    "view": Operation(lambda store, _: store.view("large"), changes=False),
    "edit": Operation(_edit),
    "stats": Operation(lambda store, _: store.stats(), changes=False),
    "second handle": Operation(_second_handle),
    "open and close": Operation(_open, changes=False),
    "make": Operation(_make, changes=False),
}

OLD = {"plain": 1, "large": Large(b"1" * 100_000), "list": [1], "long" * 200: "key"}


def _state(store):
    users = store.namespace("users")
    assert len(store) == len(list(store)), "the books are wrong"
    assert len(users) == len(list(users)), "the books are wrong"
    return dict(store.items()), dict(users.items())


# Where it is interrupted


class Interruption:
    """In its block, the n-th place raises KeyboardInterrupt; `place` is then where that was.

    `opened`: in a line that opens a file by its number.  What `os.open` gives belongs to nobody until it is assigned,
    so one who is interrupted between the two leaves a descriptor open, and Python has no way around that.
    """

    def __init__(self, n: int) -> None:
        self.place: str | None = None
        self.opened = False
        self.left = n
        self._last: dict[Any, int] = {}  # the last instruction of each frame

    def __enter__(self) -> Interruption:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: Any, event: str, _argument: object) -> Any:
        if frame.f_code.co_filename == __file__:
            return self._trace_not
        frame.f_trace_opcodes = True
        if event == "opcode":
            before, self._last[frame] = self._last.get(frame), frame.f_lasti
            if before in _looks(frame.f_code):
                self._pass(frame)
        elif event in ("return", "exception"):  # behind a call that raised it does not look
            self._last.pop(frame, None)
        return self._trace

    def _trace_not(self, _frame: Any, _event: str, _argument: object) -> Any:
        return self._trace_not

    def _pass(self, frame: Any) -> None:
        self.left -= 1
        if not self.left:
            self._last.clear()
            name = os.path.relpath(frame.f_code.co_filename, os.path.dirname(HERE))
            if name.startswith(".."):
                name = os.path.basename(name)
            self.place = f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
            self.opened = "os.open(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0)
            raise KeyboardInterrupt


@cache
def _looks(code: Any) -> frozenset[int]:
    """The instructions after which the interpreter looks for signals."""
    names = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD")
    never = ("CALL_INTRINSIC", "JUMP_BACKWARD_NO_INTERRUPT")
    instructions = dis.get_instructions(code)
    return frozenset(
        each.offset for each in instructions if each.opname.startswith(names) and not each.opname.startswith(never)
    )


# What is looked at afterwards


WITNESS = """
import fcntl, os, sys
from objstore import Store
for line in sys.stdin:
    what, path, number = line.rstrip("\\n").split("\\t")
    if what == "write":
        with Store(path) as store:
            store["witness"] = int(number)
            read = store["witness"]
        print(read, flush=True)
    else:
        descriptor = os.open(os.path.join(path, "objstore.lock"), os.O_RDWR)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
            print(number, flush=True)
        except OSError:
            print("locked", flush=True)
        os.close(descriptor)
"""


class Witness:
    """Another process, which must get its turn at once."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", WITNESS]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._asked = 0

    def can(self, what: str, path: str) -> bool:
        self._asked += 1
        self._process.stdin.write(f"{what}\t{path}\t{self._asked}\n".encode())
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise SystemExit(f"another process waits for ever, to {what}")
        return int_or_none(self._process.stdout.readline()) == self._asked

    def end(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(PATIENCE)


def int_or_none(line: bytes) -> int | None:
    return int(line) if line.strip().isdigit() else None


def descriptors() -> list[str]:
    """What this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the directory that is listed
            found.append(os.readlink(f"/proc/self/fd/{name}").removesuffix(" (deleted)"))
    return sorted(name for name in found if not name.startswith("/proc"))


class Trial:
    """One operation on one store, interrupted again and again."""

    def __init__(self, path: str, durability: str, name: str, witness: Witness) -> None:
        self.path = path
        self.witness = witness
        self.title = f"{name} ({durability})"
        self.operation = OPERATIONS[name]
        self.idle = path + ".idle"
        self.found: list[str] = []
        self.unowned = 0
        for each in (self.path, self.idle):
            Store(each, durability=durability).close()
        self.old = self._prepared()
        with Store(self.path) as store:
            self.operation.run(store, self.idle)
            self.new = _state(store)
        assert (self.new != self.old) == self.operation.changes
        self.before = descriptors()

    def _prepared(self) -> Any:
        shutil.rmtree(self.idle + ".new", ignore_errors=True)
        with Store(self.path) as store:
            store.clear()
            store.namespace("users").clear()
            store.update(OLD)
            store.namespace("users")["ada"] = 1
            return _state(store)

    def count(self) -> int:
        """How many places there are."""
        self._prepared()
        counting = Interruption(1 << 60)
        with Store(self.path) as store, self.operation.beside(store), counting:
            self.operation.run(store, self.idle)
        return (1 << 60) - counting.left

    def interrupt(self, n: int) -> bool:
        """Interrupt at the n-th place; whether there is one."""
        self._prepared()
        swallowed: list[Any] = []
        sys.unraisablehook = lambda unraisable: swallowed.append(unraisable.exc_type)
        store = Store(self.path)
        interruption = Interruption(n)
        came_out: type[BaseException] | None = None
        try:
            with self.operation.beside(store), interruption:
                self.operation.run(store, self.idle)
        except BaseException as exc:  # noqa: BLE001  (what came out is what is asked)
            came_out = type(exc)
        sys.unraisablehook = sys.__unraisablehook__
        if interruption.place is None:
            store.close()
            assert came_out is None, came_out
            return False
        where = f"{self.title}: {interruption.place}"
        try:
            problems = list(self._problems(store, came_out, swallowed))
            if interruption.opened and len(problems) == 1 and problems[0].startswith(UNOWNED):
                self.unowned += 1
            else:
                self.found += [f"{where}: {problem}" for problem in problems]
        except Exception as exc:  # noqa: BLE001  (it is found wrong, and the next place is to be looked at)
            self.found.append(f"{where}: afterwards {exc!r}")
            del store
            self._clear_away()
        return True

    def _problems(self, store: Store[Any, Any], came_out: Any, swallowed: list[Any]) -> Any:
        if came_out is not KeyboardInterrupt and swallowed != [KeyboardInterrupt]:
            yield f"{came_out} came out, and {swallowed} was swallowed"
        if _state(store) not in (self.old, self.new):
            yield "neither the old state nor the new one"
        if not self.witness.can("write", self.path):
            yield "another process cannot write"
        store["after"] = self.title
        if store["after"] != self.title:
            yield "the next write is not read"
        gc.collect()
        if store.stats().held:
            yield f"a state is still held: {store.stats().held}"
        if store.stats().readers > 1:  # one, which py-lmdb keeps for the next reader
            yield f"{store.stats().readers} reader slots are still taken"
        store.close()
        with Store(self.idle) as idle:  # what could not be closed at once is closed now
            idle["after"] = self.title
        with Store(self.idle + ".new"):
            pass
        del store
        gc.collect()
        if registry.engines:
            yield f"{[engine.location for engine in registry.engines.values()]} stays open for ever"
            self._clear_away()
        if (after := descriptors()) != self.before:
            more = [name for name in after if after.count(name) > self.before.count(name)]
            yield f"{UNOWNED}: {more}"
            self.before = after
        for path in (self.path, self.idle):
            if not self.witness.can("lock", path):
                yield f"{path} stays locked"

    def _clear_away(self) -> None:
        """End what an interruption left behind, so that the next is judged by itself."""
        for engine in list(registry.engines.values()):
            engine.close_at_exit()
        gc.collect()
        self.before = descriptors()


def main(path: str, durability: str, share: str, seed: str) -> None:
    """Interrupt all operations at a share of the places, and print what was found wrong."""
    rng = random.Random(seed)
    gc.freeze()
    witness = Witness()
    found: list[str] = []
    interrupted = unowned = 0
    for number, name in enumerate(OPERATIONS):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        trial = Trial(f"{path}/{number}", durability, name, witness)
        for n in range(1, trial.count() + 1):
            if rng.random() < float(share):
                faulthandler.dump_traceback_later(PATIENCE, exit=True)  # in the place of the last one
                interrupted += trial.interrupt(n)
        found += trial.found
        unowned += trial.unowned
    faulthandler.cancel_dump_traceback_later()
    witness.end()
    print(
        f"{durability}: interrupted at {interrupted} places, {len(found)} times something was wrong; {unowned} times a "
        f"descriptor was left that os.open had just given"
    )
    print("\n".join(found))
