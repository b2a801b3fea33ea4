"""A store does what dicts do: random programs run on both, and after each step both must look alike.

A program writes through handles, transactions, savepoints, a second handle and a second process, moves
the clock, reopens the store, and takes snapshots.  Keys come from a small pool, so that they repeat.

By default a program run is short.  The long form counts steps, those of both engines together:

    OBJSTORE_STEPS=50000 OBJSTORE_SEED=1 python -m pytest tests/test_model.py -s

OBJSTORE_SEED replays a run; it is printed at its start.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import tempfile
import uuid
from contextlib import suppress
from datetime import date, datetime, timezone
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from objstore import EncodeError, Pickle, Store, TransactionError, keys

STEPS = int(os.environ.get("OBJSTORE_STEPS", "1000"))
STEPS_A_PROGRAM = 50

# What the steps draw from


class Large:
    """A value whose bytes become a frame of their own."""

    def __init__(self, content):
        self.content = bytearray(content)

    def __reduce_ex__(self, protocol):
        # Pipes between processes take no protocol 5.
        return Large, (pickle.PickleBuffer(self.content) if protocol >= 5 else self.content,)

    def __deepcopy__(self, _memo):
        return Large(self.content)

    def __eq__(self, other):
        return isinstance(other, Large) and self.content == other.content

    def __hash__(self):
        return len(self.content)

    def __repr__(self):
        return f"Large({len(self.content)} bytes)"


class Unpicklable:
    def __deepcopy__(self, _memo):
        return self

    def __reduce__(self):
        raise ZeroDivisionError("not to be pickled")


LONG = "user:" + "x" * 3_000
KEYS = [
    None,
    0,
    1,
    True,
    1.0,
    1.5,
    2**70,
    float("-inf"),
    "",
    "user:1",
    "user:2",
    LONG,
    LONG,
    LONG + "y",
    b"user:\xff",
    date(2026, 1, 1),
    datetime(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=timezone.utc),
    UUID(int=7),
    (),
    ("user", 1),
    ("user", 1.0, "a"),
    ("user", 1.5),
    ("user", ("x" * 600,), 1),
]
PLAIN = {key: keys.decode(keys.encode(key)) for key in KEYS}
VALUES = [None, 0, 1, 2.5, "text", [], [1, [2]], {"a": []}, (1, "two"), b"\x00" * 500, Large(b"\x07" * 70_000)]
TAGS = ["red", "blue", "grün"]
NAMES = ["", "users", "ünï/2"]
PREFIXES = ["", "user:", "user:1", b"", b"user:", (), ("user",), ("user", 1)]
NO_LABELS = {"ttl": None, "tags": ()}
SAME = "the value that is there"

# Half of the steps fall on a few keys, so that they find something there.
HOT = [1, "user:1", LONG, ("user", 1.0, "a")]
# By number: Hypothesis would write all of them into every report.
a_hot_key = st.integers(0, len(HOT) - 1).map(lambda number: HOT[number])
a_key = a_hot_key | st.integers(0, len(KEYS) - 1).map(lambda number: KEYS[number])
a_value = st.integers(0, len(VALUES) - 1).map(lambda number: VALUES[number])
a_ttl = st.sampled_from([None, None, 2.5, 10, 100])
some_tags = st.lists(st.sampled_from(TAGS), unique=True, max_size=3).map(tuple)
some_items = st.lists(st.tuples(a_key, a_value), max_size=12)
some_keys = st.lists(a_key, max_size=4)
bounds = st.one_of(
    st.fixed_dictionaries({"start": a_key}),
    st.fixed_dictionaries({"stop": a_key}),
    st.fixed_dictionaries({"start": a_key, "stop": a_key}),
    st.fixed_dictionaries({"prefix": st.sampled_from(PREFIXES)}),
)


def double(value):
    return value + value


def listed(value):
    return [value][:1]


class Step(NamedTuple):
    """A method of a mapping, to be called on the store and on the model."""

    method: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}  # noqa: RUF012  (nobody changes it)


def step(method, *arguments, **options):
    return st.builds(Step, st.just(method), st.tuples(*arguments), st.fixed_dictionaries(options))


PUTS = [
    step("__setitem__", a_key, a_value),
    step("set", a_key, a_value, ttl=a_ttl, tags=some_tags),
    step("set", a_key, a_value, ttl=a_ttl),
    step("setdefault", a_key, a_value),
    step("add", a_key, a_value, ttl=a_ttl, tags=some_tags),
    step("update", some_items),
    step("update", some_items, ttl=a_ttl, tags=some_tags),
    step("update", some_items.map(dict), named=a_value),
]
CHANGES = [
    step("compare_and_set", a_key, st.just(SAME), a_value),
    step("compare_and_set", a_key, a_value, a_value),
    step("increment", a_key, st.sampled_from([1, -3, 0.5]), st.just(0), ttl=a_ttl, tags=some_tags),
    step("modify", a_key, st.sampled_from([double, listed])),
    step("modify", a_key, st.just(listed), default=a_value),
    step("touch", a_key, a_ttl),
    step("touch", a_key, a_ttl),
    step("append", a_key),
    step("append", a_key, st.just([])),
    step("delete", a_key),
    step("__delitem__", a_key),
    step("pop", a_key),
    step("pop", a_key, a_value),
    step("popitem"),
    step("delete_many", some_keys),
]
SWEEPS = [
    step("delete_tag", st.sampled_from(TAGS)),
    step("expire"),
    step("clear"),
    step("clear_range", bounds),
    step("clear_tag", bounds, st.sampled_from(TAGS)),
]
# Hypothesis picks evenly; a store that is mostly empty would show little.
WRITES = st.one_of(*PUTS, *PUTS, *CHANGES, *CHANGES, *SWEEPS)
LOADS = step("load", some_items, ttl=a_ttl, tags=some_tags, batch_bytes=st.sampled_from([1, 1 << 20]))
SPOILED = some_items.map(lambda items: [*items, ("spoiled", Unpicklable()), ("behind", 1)])

a_name = st.sampled_from(["", *NAMES])
inside = st.tuples(a_name, WRITES)
BODIES = st.recursive(
    st.lists(inside, max_size=4),
    lambda body: st.lists(inside | st.tuples(st.just("savepoint"), st.booleans(), body), max_size=4),
    max_leaves=3,
)


class Calls:
    """Steps that are no method, or take more than one call: written once for store and model."""

    @staticmethod
    def clear_range(target, where):
        return target.range(**where).clear()

    @staticmethod
    def clear_tag(target, where, tag):
        return target.range(**where, tag=tag).clear()

    @staticmethod
    def append(target, key, *default):
        with target.edit(key, **({"default": copy.deepcopy(default[0])} if default else {})) as value:
            value.append("more")


def call(target, step):
    """What a step gives or raises."""
    special = getattr(Calls, step.method, None)
    arguments, options = copy.deepcopy((step.arguments, step.options))
    try:
        if special:
            return "gives", special(target, *arguments, **options)
        return "gives", getattr(target, step.method)(*arguments, **options)
    except (KeyError, TypeError, AttributeError, EncodeError) as exc:
        return "raises", type(exc)


# The model


class Item(NamedTuple):
    value: Any
    expires_at: int | None = None
    tags: tuple[str, ...] = ()


def order(key):
    """Where a key stands: by its encoding, which is cut where it is long."""
    encoded = keys.encode(key)
    return encoded if len(encoded) <= keys.ORDERED_BYTES else keys.shorten(encoded)


class Model:
    """What a store should hold: a dict for each namespace, and the names that were written to."""

    def __init__(self, clock):
        self.clock = clock
        self.spaces = {name: {} for name in NAMES}
        self.known = set()

    def copy(self):
        other = Model(self.clock)
        other.spaces = copy.deepcopy(self.spaces)
        other.known = set(self.known)
        return other

    def become(self, other):
        self.spaces, self.known = other.spaces, other.known

    def frozen(self):
        """This state at this moment, when the clock goes on."""
        other = self.copy()
        now = self.clock()
        other.clock = lambda: now
        return other

    def namespace(self, name):
        return Plain(self, name)

    def namespaces(self):
        return sorted(self.known)

    def drop_namespace(self, name):
        self.spaces[name].clear()
        self.known.discard(name)


class Plain:
    """One namespace of the model.  What is expired stays in the dict until something removes it."""

    def __init__(self, model, name):
        self.model, self.name = model, name

    @property
    def items(self):
        return self.model.spaces[self.name]

    def now(self):
        return int(self.model.clock() * 1_000_000)

    def expires(self, ttl):
        return None if ttl is None else self.now() + round(ttl * 1_000_000)

    def live(self):
        now = self.now()
        found = {key: item for key, item in self.items.items() if item.expires_at is None or item.expires_at > now}
        return dict(sorted(found.items(), key=lambda pair: order(pair[0])))

    def put(self, key, item):
        if isinstance(item.value, Unpicklable):
            raise EncodeError("", key)
        if self.name:
            self.model.known.add(self.name)
        self.items.pop(key, None)
        self.items[PLAIN.get(key, key)] = item._replace(value=copy.deepcopy(item.value))

    # The methods of a store

    def get(self, key, default=None):
        item = self.live().get(key)
        return default if item is None else copy.deepcopy(item.value)

    def set(self, key, value, ttl=None, tags=()):
        self.put(key, Item(value, self.expires(ttl), tags))

    def __setitem__(self, key, value):
        self.put(key, Item(value))

    def delete(self, key):
        there = key in self.live()
        self.items.pop(key, None)
        return there

    def __delitem__(self, key):
        if not self.delete(key):
            raise KeyError(key)

    def pop(self, key, *default):
        if key in self.live():
            return self.items.pop(key).value
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self):
        key = next(reversed(self.live()), self)
        if key is self:
            raise KeyError
        return key, self.items.pop(key).value

    def setdefault(self, key, default):
        self.add(key, default)
        return self.get(key)

    def add(self, key, value, ttl=None, tags=()):
        if key in self.live():
            return False
        self.set(key, value, ttl, tags)
        return True

    def change(self, key, value):
        self.put(key, self.live()[key]._replace(value=value))

    def compare_and_set(self, key, expected, value):
        if key not in self.live() or self.get(key) != expected:
            return False
        self.change(key, value)
        return True

    def increment(self, key, delta, default, ttl=None, tags=()):
        value = self.get(key, default) + delta
        if not self.add(key, value, ttl, tags):
            self.change(key, value)
        return value

    def modify(self, key, function, **default):
        if key not in self.live() and not default:
            raise KeyError(key)
        value = function(self.get(key, default.get("default")))
        if not self.add(key, value):
            self.change(key, value)
        return value

    def edit(self, key, **default):
        return Edit(self, key, default)

    def touch(self, key, ttl):
        item = self.live().get(key)
        if item is None:
            return False
        self.put(key, item._replace(expires_at=self.expires(ttl)))
        return True

    def update(self, other, *, ttl=None, tags=(), **more):
        items = [*(other.items() if isinstance(other, dict) else other), *more.items()]
        for key, value in items:
            if isinstance(value, Unpicklable):
                raise EncodeError("", key)
        for key, value in items:
            self.set(key, value, ttl, tags)

    def load(self, items, *, ttl, tags, batch_bytes):
        if batch_bytes > 1:
            self.update(items, ttl=ttl, tags=tags)
        else:  # each item is a batch
            for key, value in items:
                self.set(key, value, ttl, tags)
        return len(items)

    def delete_many(self, keys):
        return sum([self.delete(key) for key in keys])

    def expire(self):
        expired = self.items.keys() - self.live().keys()
        for key in expired:
            del self.items[key]
        return len(expired)

    def clear(self):
        self.items.clear()

    def delete_tag(self, tag):
        return self.range(tag=tag).clear()

    def range(self, **where):
        return Stretch(self, **where)


class Edit:
    """`edit` of the model."""

    def __init__(self, plain, key, default):
        self.plain, self.key, self.default = plain, key, default

    def __enter__(self):
        if self.key not in self.plain.live() and not self.default:
            raise KeyError(self.key)
        self.value = self.plain.get(self.key, self.default.get("default"))
        if isinstance(self.value, (type(None), bool, int, float, str, bytes, tuple)):
            raise TypeError
        return self.value

    def __exit__(self, kind, *_):
        if kind is None and not self.plain.add(self.key, self.value):
            self.plain.change(self.key, self.value)


UNSET = object()


class Stretch:
    """`range` of the model."""

    def __init__(self, plain, start=UNSET, stop=UNSET, prefix=UNSET, tag=None):
        self.plain, self.start, self.stop, self.prefix, self.tag = plain, start, stop, prefix, tag

    def holds_key(self, key):
        if self.prefix is not UNSET:
            if not isinstance(key, type(self.prefix)):
                return False
            return key[: len(self.prefix)] == self.prefix
        place = order(key)
        low, high = b"", b"\xff"
        if self.start is not UNSET:
            low, high = order(self.start), keys.family(keys.encode(self.start))[1]
        if self.stop is not UNSET:
            high = order(self.stop)
            if self.start is UNSET:
                low = keys.family(keys.encode(self.stop))[0]
        return low <= place < high

    def live(self):
        return {
            key: item
            for key, item in self.plain.live().items()
            if self.holds_key(key) and (self.tag is None or self.tag in item.tags)
        }

    def clear(self):
        found = self.live()
        if self.tag is None:  # takes what is expired along
            for key in [key for key in self.plain.items if self.holds_key(key)]:
                del self.plain.items[key]
        else:
            for key in found:
                del self.plain.items[key]
        return len(found)


# The second process


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


def serve(pipe):
    """Do to a store what comes through the pipe: the body of the second process."""
    server = Server()
    while True:
        command, now, *arguments = pipe.recv()
        server.clock.now = now
        try:
            pipe.send((getattr(server, command)(*arguments), None))
        except Exception as exc:  # noqa: BLE001  (it is raised where it was asked for)
            pipe.send((None, f"{type(exc).__name__}: {exc}"))


class Server:
    def __init__(self):
        self.clock = Clock()

    def open(self, location, options):
        self.store = Store(location, clock=self.clock, **options)

    def close(self):
        self.store.close()

    def do(self, name, step):
        return call(self.store.namespace(name) if name else self.store, step)

    def show(self):
        spaces = {name: self.store.namespace(name) if name else self.store for name in NAMES}
        return {name: (len(space), list(space.items())) for name, space in spaces.items()}


class OtherProcess:
    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=serve, args=(end,), daemon=True)
        self.process.start()
        end.close()

    def ask(self, *command):
        self.pipe.send(command)
        result, error = self.pipe.recv()
        assert error is None, f"in the other process: {error}"
        return result

    def end(self):
        self.process.terminate()
        self.process.join()
        self.process.close()
        self.pipe.close()


@pytest.fixture(scope="module")
def other_process():
    process = OtherProcess()
    yield process
    process.end()


# The programs


class Abort(Exception):
    pass


# A store is a dictionary whatever becomes of its records.
OPTIONS = [
    {},
    {"signing_key": bytes(range(32))},
    {"encryption_key": bytes(range(32)), "compression": "zstd"},
    {"compression": "zlib"},
    {"codec": Pickle(allow=[Large])},
]


class Program(RuleBasedStateMachine):
    """The rules; a subclass says which engine."""

    steps = 0
    options: ClassVar[dict[str, Any]] = {}

    def make_location(self):
        raise NotImplementedError

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.model = Model(self.clock)
        self.snapshots = []
        self.seen = 0
        self.location = self.make_location()
        self.open()

    def open(self):
        self.store = Store(self.location, clock=self.clock, **self.options)
        self.handles = {name: self.store.namespace(name) for name in NAMES if name}
        self.handles[""] = self.store

    def teardown(self):
        self.snapshots.clear()
        self.store.close()

    def do(self, target, plain, step):
        """One step on both, which must give the same."""
        step = self.resolve(plain, step)
        assert call(target, step) == call(plain, step), step

    def resolve(self, plain, step):
        arguments = tuple(plain.get(step.arguments[0]) if value is SAME else value for value in step.arguments)
        if self.labels:
            return step._replace(arguments=arguments)
        if step.method == "touch":
            arguments = (arguments[0], None)
        options = {name: NO_LABELS.get(name, value) for name, value in step.options.items()}
        return Step(step.method, arguments, options)

    # Rules

    @initialize(labels=st.booleans())
    def with_or_without_labels(self, labels):
        """A store in which nothing ever expires or bears a tag keeps fewer books, by other ways."""
        self.labels = labels

    @rule(steps=st.lists(st.tuples(a_name, WRITES | LOADS), min_size=2, max_size=12))
    def write(self, steps):
        for name, step in steps:
            self.do(self.handles[name], self.model.namespace(name), step)

    @rule(name=a_name, step=WRITES | LOADS)
    def write_once(self, name, step):
        self.do(self.handles[name], self.model.namespace(name), step)

    @rule(name=a_name, items=some_items, ttl=a_ttl, tags=some_tags)
    def fill(self, name, items, ttl, tags):
        step = Step("update", (items,), {"ttl": ttl, "tags": tags})
        self.do(self.handles[name], self.model.namespace(name), step)

    @rule(name=a_name, items=SPOILED)
    def a_bad_value_spoils_an_update(self, name, items):
        self.do(self.handles[name], self.model.namespace(name), Step("update", (items,)))

    @rule(name=a_name, items=SPOILED, size=st.sampled_from([1, 1 << 20]))
    def a_bad_value_ends_a_load(self, name, items, size):
        options = {"ttl": None, "tags": (), "batch_bytes": size}
        self.do(self.handles[name], self.model.namespace(name), Step("load", (items,), options))

    @rule(seconds=st.sampled_from([0.5, 2, 2.5, 10]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(which=st.integers(0, 5), before=st.booleans())
    def wait_for_something_to_expire(self, which, before):
        """Until the very moment at which something ends, or half a second before."""
        moments = {item.expires_at for space in self.model.spaces.values() for item in space.values()} - {None}
        later = sorted(moment / 1_000_000 for moment in moments if moment / 1_000_000 > self.clock.now + 0.5)
        if later:
            self.clock.now = later[which % len(later)] - 0.5 * before

    @rule(name=st.sampled_from(NAMES[1:]))
    def drop_namespace(self, name):
        self.store.drop_namespace(name)
        self.model.drop_namespace(name)

    @precondition(lambda self: self.store.supports("transaction"))
    @rule(body=BODIES, commit=st.booleans())
    def transaction(self, body, commit):
        self.unit(self.store, self.model, body, commit)

    def unit(self, source, model, body, commit):
        """A transaction or savepoint on the store, and a copy of the model that replaces it or is forgotten."""
        copy_of_model = model.copy()
        with suppress(Abort), source.transaction() as txn:
            for part in body:
                if part[0] == "savepoint":
                    self.unit(txn, copy_of_model, part[2], part[1])
                else:
                    name, step = part
                    self.do(txn.namespace(name) if name else txn, copy_of_model.namespace(name), step)
                self.looks_like(txn, copy_of_model)
            with pytest.raises(TransactionError):
                self.store["x"] = 1
            if not commit:
                raise Abort
        if commit:
            model.become(copy_of_model)

    @precondition(lambda self: self.store.supports("transaction"))
    @rule(body=st.lists(st.tuples(a_name, WRITES), max_size=4))
    def others_see_a_transaction_when_it_is_committed(self, body):
        after = self.model.copy()
        with self.store.transaction() as txn:
            for name, step in body:
                self.do(txn.namespace(name) if name else txn, after.namespace(name), step)
            self.looks_like(self.store, self.model)
        self.model.become(after)

    @rule(second_first=st.booleans())
    def reopen(self, second_first):
        """Close and open, or open a second handle before the first is closed."""
        self.snapshots.clear()
        old = self.store
        if second_first or not self.survives:
            self.open()
            old.close()
        else:
            old.close()
            self.open()

    @precondition(lambda self: self.store.supports("snapshot"))
    @rule()
    def take_a_snapshot(self):
        self.snapshots = [(self.store.snapshot(), self.model.frozen()), *self.snapshots[:1]]

    @precondition(lambda self: self.snapshots)
    @invariant()
    def a_snapshot_stays_what_it_was(self):
        snapshot, model = self.snapshots[-1]
        self.looks_like(snapshot, model)
        for name in NAMES[1:]:
            self.looks_like_space(snapshot.namespace(name), model.namespace(name))

    @rule(name=a_name, where=bounds, tag=st.none() | st.sampled_from(TAGS))
    def look_at_a_range(self, name, where, tag):
        self.range_looks_like_model(name, where, tag)

    @invariant()
    def some_ranges_look_like_the_model(self):
        for number in range(self.seen, self.seen + 4):
            where = {"start": KEYS[number % len(KEYS)], "stop": KEYS[number // 7 % len(KEYS)]}
            if number % 4 < 2:
                del where[("start", "stop")[number % 4]]
            self.range_looks_like_model(NAMES[number % 3], where, (*TAGS, None)[number % 4])
        self.range_looks_like_model("", {"prefix": PREFIXES[self.seen % len(PREFIXES)]}, None)

    def range_looks_like_model(self, name, where, tag):
        found = self.handles[name].range(**where, tag=tag)
        expected = Stretch(self.model.namespace(name), **where, tag=tag).live()
        there = list(expected)
        assert list(found) == there
        assert list(reversed(found)) == there[::-1]
        assert list(self.handles[name].range(**where, tag=tag, reverse=True)) == there[::-1]
        assert list(found.values()) == [item.value for item in expected.values()]
        assert list(found.items()) == [(key, item.value) for key, item in expected.items()]
        assert [entry.tags for entry in found.entries()] == [item.tags for item in expected.values()]
        assert len(found) == len(there)
        assert bool(found) == bool(there)
        assert [key for key in KEYS if key in found] == [key for key in KEYS if key in expected]

    @rule(name=a_name, some=some_keys)
    def look_at_keys(self, name, some):
        store, plain = self.handles[name], self.model.namespace(name)
        live = plain.live()
        assert store.get_many(some) == {key: live[key].value for key in some if key in live}
        for key in some:
            assert store.get(key, "absent") == plain.get(key, "absent")
            if key in live:
                ttl = store.ttl(key)
                assert ttl == (None if live[key].expires_at is None else (live[key].expires_at - plain.now()) / 1e6)
            else:
                with pytest.raises(KeyError):
                    store.ttl(key)

    # What always holds

    @invariant()
    def the_store_looks_like_the_model(self):
        Program.steps += 1
        self.seen += 1
        self.looks_like(self.store, self.model)
        assert self.store.namespaces() == self.model.namespaces()
        for name in NAMES:
            self.looks_like_space(self.handles[name], self.model.namespace(name))

    def looks_like(self, source, model):
        self.looks_like_space(source, model.namespace(""))

    def looks_like_space(self, source, plain):
        live = plain.live()
        there = list(live)
        assert len(source) == len(there)
        found = list(source)
        assert found == there
        assert [type(key) for key in found] == [type(PLAIN.get(key, key)) for key in there]
        assert list(source.items()) == [(key, item.value) for key, item in live.items()]
        assert list(reversed(source)) == there[::-1]
        assert [key for key in KEYS if key in source] == [key for key in KEYS if key in live]
        for tag in TAGS:
            assert list(source.range(tag=tag)) == [key for key, item in live.items() if tag in item.tags]


class MemoryProgram(Program):
    survives = False  # a store in memory ends with its last handle

    def make_location(self):
        return f"memory://{uuid.uuid4()}"

    @initialize(options=st.sampled_from(OPTIONS))
    def begin(self, options):
        self.store.close()
        self.options = options
        self.open()


class SharedProgram(Program):
    """A store that a second process has open, too."""

    survives = True
    durabilities: ClassVar[list[str]]
    other: OtherProcess

    @initialize(data=st.data(), options=st.sampled_from(OPTIONS))
    def begin(self, data, options):
        self.store.close()
        self.options = options
        Store(self.location, "n", durability=data.draw(st.sampled_from(self.durabilities)), **options).close()
        self.open()
        self.other.ask("open", self.clock.now, self.location, options)

    def teardown(self):
        super().teardown()
        self.other.ask("close", self.clock.now)

    @rule(name=a_name, step=WRITES | LOADS)
    def the_other_process_writes(self, name, step):
        plain = self.model.namespace(name)
        step = self.resolve(plain, step)
        assert self.other.ask("do", self.clock.now, name, step) == call(plain, step), step

    @rule()
    def the_other_process_reads(self):
        shown = self.other.ask("show", self.clock.now)
        for name in NAMES:
            live = self.model.namespace(name).live()
            assert shown[name] == (len(live), [(key, item.value) for key, item in live.items()])


class LmdbProgram(SharedProgram):
    durabilities: ClassVar[list[str]] = ["full", "relaxed", "process"]

    def make_location(self):
        self.directory = tempfile.mkdtemp()
        return os.path.join(self.directory, "a.store")

    def teardown(self):
        super().teardown()
        shutil.rmtree(self.directory)


class ServersProgram(SharedProgram):
    durabilities: ClassVar[list[str]] = ["process", "replicated"]
    cluster: Any

    def make_location(self):
        return self.cluster.url(f"model-{uuid.uuid4()}", buckets=4)

    def do(self, target, plain, step):
        if step.method != "expire":
            super().do(target, plain, step)
            return
        call(target, step)  # writes have swept some of it before
        call(plain, step)


def run(program, seed, steps=STEPS // 2):
    """Programs until so many steps are done; half of all for each of the engines of this machine."""
    Program.steps = 0
    rounds = 0
    while Program.steps < steps:
        with_seed(seed + rounds)(program)
        run_state_machine_as_test(
            program,
            settings=settings(
                max_examples=min((steps - Program.steps) // STEPS_A_PROGRAM + 1, 100),
                stateful_step_count=STEPS_A_PROGRAM,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
        rounds += 1
    print(f"{program.__name__}: {Program.steps} steps")


def test_a_store_in_memory_is_a_dict(seed):
    run(MemoryProgram, seed)


def test_a_store_on_disk_is_a_dict(seed, other_process):
    LmdbProgram.other = other_process
    run(LmdbProgram, seed)


def test_a_store_on_servers_is_a_dict(seed, other_process, cluster):
    ServersProgram.other, ServersProgram.cluster = other_process, cluster
    run(ServersProgram, seed, STEPS // 20)
