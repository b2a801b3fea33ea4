"""Memoize and get_or_compute from the side of their user: what is kept, for how long, and what is served.

Coroutine functions are in `test_memoize_async`, processes in `test_memoize_processes`, types in `test_memoize_types`.
Random functions are called with random arguments at the end: OBJSTORE_EXAMPLES says how many (see `strategies`).
"""

from __future__ import annotations

import functools
import gc
import inspect
import linecache
import logging
import pickle
import sys
import textwrap
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore import (
    BadSignature,
    Cache,
    CorruptRecord,
    DecodeError,
    EncodeError,
    Msgpack,
    Store,
    StoreClosed,
    StoreFull,
    register_key,
)
from objstore.calls.values import text_of
from objstore.engines.base import put
from objstore.mapping import DEFAULT
from objstore.memoize import _Job, _rules
from objstore.record import digest, key_digest

# How long anything may take before it is said to hang.
LONG = 10

KEY = bytes(range(32))


def open_store(kind, location, **options):
    bound = {"max_entries": 10_000} if kind is Cache else {}
    return kind(location, **bound, **options)


@pytest.fixture(params=[Store, Cache])
def kind(request):
    return request.param


PLACES = [(Store, "lmdb"), (Store, "memory"), (Cache, "lmdb"), (Store, "servers")]


@pytest.fixture(params=PLACES, ids=["lmdb", "memory", "cache", "servers"])
def store(request, tmp_path, clock):
    """A store on each engine, and a cache, which go by `clock`."""
    kind, engine = request.param
    if engine == "servers":
        location = request.getfixturevalue("on_servers")
    else:
        location = tmp_path / "a.store" if engine == "lmdb" else "memory://"
    with open_store(kind, location, durability="process", clock=clock) as store:
        yield store


@pytest.fixture
def in_memory(clock):
    """A store in memory: for what is no matter of stores."""
    with Store("memory://", clock=clock) as store:
        yield store


class Calls:
    """A function that lists its calls; `result` is what it gives, and an error is raised."""

    def __init__(self, result="result"):
        self.result = result
        self.calls = []

    def __len__(self):
        return len(self.calls)

    def function(self, **options):
        """A function to be memoized, by decorating with the options."""

        def function(x=0, *, y=0):
            self.calls.append((x, y))
            result = self.result(x) if callable(self.result) else self.result
            if isinstance(result, BaseException):
                raise result
            return result

        return function

    def kept(self, store, **options):
        return store.memoize(**{"name": "function", **options})(self.function())


def outcome(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as exc:  # noqa: BLE001  (it is the outcome)
        return exc


# Functions that have names of their own.

calls = []


def plain(x, y=1, *rest, z=2, **more):
    """It says what it is."""
    calls.append(x)
    return [x, y, rest, z, more]


def endless(n):
    yield n


async def endless_async(n):
    yield n


async def waits(result):
    return result


class Endless:
    def __call__(self, n):
        yield n


@pytest.fixture(autouse=True)
def _no_calls():
    calls.clear()


class TestWhatCanBeMemoized:
    def test_bare_and_with_options(self, store):
        bare, ttl, nothing = store.memoize(plain), store.memoize(ttl=60)(plain), store.memoize()(plain)
        assert bare(1) == ttl(1) == nothing(1) == [1, 1, (), 2, {}]
        assert calls == [1]  # it is one function

    def test_it_looks_like_the_function(self, store):
        kept = store.memoize(plain)
        assert kept.__wrapped__ is plain
        assert (kept.__name__, kept.__doc__, kept.__module__) == ("plain", "It says what it is.", __name__)
        assert inspect.signature(kept) == inspect.signature(plain)
        assert not inspect.iscoroutinefunction(kept)
        kept(1)
        assert kept.__wrapped__(1) == kept(1)
        assert calls == [1, 1]

    def test_it_can_be_pickled_where_the_function_can(self, store, monkeypatch):
        kept = store.memoize(plain)
        monkeypatch.setattr(sys.modules[__name__], "plain", kept)
        assert pickle.loads(pickle.dumps(kept)) is kept

    def test_partials_and_objects_need_a_name(self, store):
        for function in (functools.partial(plain, 5), functools.partial(functools.partial(plain), 5)):
            with pytest.raises(TypeError, match="name="):
                store.memoize(function)
            kept = store.memoize(name="partial")(function)
            assert kept(6) == kept(6) == [5, 6, (), 2, {}]
        assert calls == [5]

    def test_objects_are_keyed_by_what_they_are(self, store):
        class Adder:
            def __init__(self, number):
                self.number = number

            def __call__(self, x):
                calls.append(x)
                return self.number + x

        register_key(Adder, lambda adder: adder.number)
        one, other, again = (store.memoize(name="adder")(Adder(number)) for number in (1, 2, 1))
        assert [one(1), other(1), again(1), one(1)] == [2, 3, 2, 2]
        assert len(calls) == 2

    def test_lambdas_and_inner_functions_need_a_name(self, store):
        def inner():
            return 1

        for function in (inner, lambda: 1):
            with pytest.raises(ValueError, match="name="):
                store.memoize(function)
            assert store.memoize(name="inner")(function)() == 1

    @pytest.mark.parametrize(
        "function",
        [endless, endless_async, functools.partial(endless, 1), Endless(), staticmethod(endless), classmethod(endless)],
    )
    def test_generators_are_refused(self, in_memory, function):
        with pytest.raises(TypeError, match="generator"):
            in_memory.memoize(name="endless")(function)

    @pytest.mark.parametrize("function", [5, "name", object()])
    def test_what_cannot_be_called_is_refused(self, in_memory, function):
        for options in ({}, {"name": "name"}):
            with pytest.raises(TypeError, match="function is needed"):
                in_memory.memoize(**options)(function)

    def test_classes_and_functions_in_c(self, store):
        number = store.memoize(int)
        assert [number("5"), number("5"), number("6")] == [5, 5, 6]
        assert number.cache_info().misses == 2

    def test_a_function_is_as_it_was_where_its_options_are_wrong(self, store):
        with pytest.raises(TypeError):
            store.memoize(version=object())(plain)
        assert not hasattr(plain, "cache_info")


class Shape:
    def __init__(self, size):
        self.size = size

    def scaled(self, by, *, plus=0):
        calls.append("scaled")
        return self.size * by + plus

    @classmethod
    def made(cls, size=1):
        calls.append("made")
        return cls.__name__, size

    @staticmethod
    def twice(size):
        calls.append("twice")
        return 2 * size


class Square(Shape):
    pass


register_key(Shape, lambda shape: shape.size)


class TestMethods:
    @pytest.fixture(params=["inside", "outside"])
    def kinds(self, request, store, monkeypatch):
        """A class whose methods are memoized, inside of `classmethod` and `staticmethod` or outside, and a subclass."""
        scaled, made, twice = Shape.scaled, Shape.__dict__["made"], Shape.__dict__["twice"]
        if request.param == "inside":
            made, twice = classmethod(store.memoize(made.__func__)), staticmethod(store.memoize(twice.__func__))
        else:
            made, twice = store.memoize(made), store.memoize(twice)
        members = {"scaled": store.memoize(scaled), "made": made, "twice": twice}
        shape = type("Shape", (Shape,), {**members, "__module__": __name__})
        square = type("Square", (shape,), {"__module__": __name__})
        for each in (shape, square):  # a class is keyed by its name, if it is what has that name
            monkeypatch.setattr(sys.modules[__name__], each.__name__, each)
        return shape, square

    def test_they_are_called_as_ever(self, kinds):
        shape, square = kinds
        for _ in range(2):
            assert [shape(2).scaled(3), shape(2).scaled(by=3, plus=0), square(2).scaled(3)] == [6, 6, 6]
            assert [shape.made(), shape(5).made(1), square.made()] == [("Shape", 1), ("Shape", 1), ("Square", 1)]
            assert [shape.twice(4), shape(1).twice(size=4), square.twice(4)] == [8, 8, 8]
        assert sorted(calls) == ["made"] * 2 + ["scaled"] * 2 + ["twice"]  # the class of an object counts

    def test_what_stands_beside(self, kinds):
        shape, _ = kinds
        one = shape(2)
        assert one.scaled(3) == one.scaled(3)
        assert one.scaled.cache_info()[:2] == (1, 1)
        assert shape.scaled.cache_contains(one, 3)
        assert not shape.scaled.cache_contains(one, 4)
        assert shape.scaled.cache_delete(one, 3)
        assert shape.scaled.refresh(one, 3) == 6
        shape.made(7)
        assert shape.made.cache_contains(shape, 7)
        assert not shape.made.cache_contains(Square, 7)
        shape.twice(7)
        assert shape.twice.cache_contains(7)
        shape.twice.cache_clear()
        assert not shape.twice.cache_contains(7)

    def test_an_object_without_a_key_is_named(self, store):
        class Thing:
            method = store.memoize(name="method")(lambda self: 1)

        with pytest.raises(TypeError, match=r"'self'.*ignore=\['self'\]"):
            Thing().method()
        Thing.free = store.memoize(name="free", ignore=["self"])(lambda self, x: x)
        assert (Thing().free(1), Thing().free(1), Thing.free.cache_info()[:2]) == (1, 1, (1, 1))

    def test_a_bound_method(self, store):
        kept = store.memoize(Shape(3).scaled)
        assert [kept(2), store.memoize(Shape(4).scaled)(2), kept(2)] == [6, 8, 6]
        assert calls == ["scaled"] * 2


class TestWrongOptions:
    @pytest.mark.parametrize(
        ("options", "error", "names"),
        [
            ({"ttl": 0}, ValueError, "ttl"),
            ({"ttl": -1}, ValueError, "ttl"),
            ({"ttl": timedelta(0)}, ValueError, "ttl"),
            ({"ttl": "1"}, TypeError, "ttl"),
            ({"ttl": True}, TypeError, "ttl"),
            ({"ttl": 1, "stale": 0}, ValueError, "stale"),
            ({"ttl": 1, "stale": -1}, ValueError, "stale"),
            ({"ttl": 1, "stale": "1"}, TypeError, "stale"),
            ({"ttl": 1, "stale": 1e9}, ValueError, "stale"),
            ({"ttl": 9e8, "stale": 9e8}, ValueError, "stale"),
            ({"stale": 1}, ValueError, "stale"),
            ({"stale": 1, "ttl": None}, ValueError, "stale"),
            ({"exceptions": 5}, TypeError, "exceptions"),
            ({"exceptions": "ValueError"}, TypeError, "exceptions"),
            ({"exceptions": ValueError()}, TypeError, "exceptions"),
            ({"exceptions": [KeyError, KeyboardInterrupt]}, TypeError, "exceptions"),
            ({"exceptions": BaseException}, TypeError, "exceptions"),
            ({"store_if": 3}, TypeError, "store_if"),
            ({"store_if": waits}, TypeError, "store_if"),
            ({"ttl": waits}, TypeError, "ttl"),
            ({"tags": "a"}, TypeError, "tags"),
            ({"tags": [3]}, TypeError, "tag"),
            ({"tags": [""]}, ValueError, "tag"),
            ({"ignore": "x"}, TypeError, "ignore"),
            ({"ignore": ["nobody"]}, TypeError, "ignore"),
            ({"key": 3}, TypeError, "key"),
            ({"key": len, "ignore": ["x"]}, TypeError, "key="),
            ({"name": 3}, TypeError, "name"),
            ({"name": ""}, ValueError, "name"),
            ({"name": "n" * 201}, ValueError, "name"),
            ({"version": object()}, TypeError, "version"),
        ],
    )
    def test_they_are_named_where_the_function_is_decorated(self, options, error, names):
        with Store("memory://") as store, pytest.raises(error, match=names):
            store.memoize(**{"name": "named", **options})(lambda x: x)

    def test_a_ttl_beside_stale_may_be_that_of_the_cache(self, location):
        with Cache(location, ttl=60) as cache:
            assert Calls().kept(cache, stale=60)() == "result"
        with Store("memory://") as store, pytest.raises(ValueError, match="stale"):
            store.memoize(stale=60)

    @pytest.mark.parametrize("options", [{"ttl": 0}, {"ttl": "x"}, {"tags": "a"}])
    def test_those_of_get_or_compute(self, in_memory, options):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            in_memory.get_or_compute("key", lambda: 1, **options)


class TestCalls:
    def test_all_spellings_are_one_entry(self, store):
        kept = store.memoize(plain)
        for args, kwargs in [((1,), {}), ((1, 1), {}), ((), {"x": 1}), ((), {"y": 1, "x": 1}), ((1,), {"z": 2})]:
            assert kept(*args, **kwargs) == [1, 1, (), 2, {}]
        assert calls == [1]
        assert kept.cache_info().currsize == 1
        assert kept(1, 2, 3, z=4, w=5) == [1, 2, (3,), 4, {"w": 5}]
        assert kept.cache_info().currsize == 2

    def test_types_and_contents_count(self, store):
        kept = store.memoize(plain)
        different = [1, 1.0, True, "1", b"1", None, (1,), [1], {1}, {1: 1}, np.array([1]), np.array([1.0])]
        for argument in different:
            kept(argument)
            kept(argument)
        assert len(calls) == len(different)
        assert kept(np.array([[1, 2], [3, 4]]).T)[0].tolist() == [[1, 3], [2, 4]]
        assert kept(np.array([[1, 3], [2, 4]]))[0].tolist() == [[1, 3], [2, 4]]
        assert len(calls) == len(different) + 1

    def test_a_wrong_call_is_refused_in_the_words_of_python(self, store):
        with pytest.raises(TypeError) as its_own:
            plain()
        with pytest.raises(TypeError) as kept:
            store.memoize(plain)()
        assert str(kept.value) == str(its_own.value)
        with pytest.raises(TypeError, match="argument 'x'"):
            store.memoize(plain)(object())
        assert calls == []

    def test_each_caller_has_a_copy_of_his_own(self, store):
        kept = store.memoize(plain)
        results = [kept(1) for _ in range(3)]
        for number, result in enumerate(results):
            assert result == [1, 1, (), 2, {}]
            result.append(number)
        assert kept(1) == [1, 1, (), 2, {}]

    def test_none_is_a_result(self, store):
        function = Calls(None)
        kept = function.kept(store)
        assert [kept(), kept(), kept.cache_contains()] == [None, None, True]
        assert len(function) == 1

    def test_an_argument_that_the_function_changes_counts_as_it_was(self, store):
        @store.memoize(name="greedy")
        def greedy(items):
            calls.append(items)
            return [items.pop() for _ in range(len(items))]

        assert [greedy([1, 2]), greedy([1, 2]), greedy([])] == [[2, 1], [2, 1], []]
        assert len(calls) == 2

    def test_errors_are_the_functions_own(self, store):
        function = Calls(ZeroDivisionError("mine"))
        kept = function.kept(store)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="mine") as raised:
                kept()
            assert raised.value.__context__ is None  # of what happens inside nothing is to be seen
            assert raised.value.__cause__ is None
        assert len(function) == 2
        function.result = KeyError("mine")
        with pytest.raises(KeyError, match="mine"):
            kept()
        assert len(kept.cache_key()) == 20

    def test_an_error_leaves_nothing_behind(self, store):
        class Argument:
            pass

        @store.memoize(name="wrong")
        def wrong(argument):
            raise ZeroDivisionError

        register_key(Argument, lambda _: 1)
        gc.disable()
        try:
            for call in (wrong, wrong.refresh):
                argument = Argument()
                left = weakref.ref(argument)
                with suppress(ZeroDivisionError):
                    call(argument)
                del argument
                assert left() is None
        finally:
            gc.enable()

    def test_an_error_that_is_remembered_leaves_nothing_behind_when_it_is_raised_again(self, store):
        class Argument:
            pass

        register_key(Argument, lambda _: 1)
        kept = Calls(Wrong()).kept(store, exceptions=Wrong, ignore=["y"])
        outcome(kept)
        gc.disable()
        try:
            argument = Argument()
            left = weakref.ref(argument)
            with suppress(Wrong):
                kept(y=argument)
            del argument
            assert left() is None
        finally:
            gc.enable()
        assert kept.cache_info()[:2] == (1, 1)

    def test_recursion(self, store):
        @store.memoize(name="fibonacci")
        def fibonacci(n):
            calls.append(n)
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

        assert fibonacci(30) == 832040
        assert sorted(calls) == list(range(31))

    def test_a_function_that_asks_for_itself_does_not_wait_for_itself(self, store):
        @store.memoize(name="same")
        def same(x):
            calls.append(x)
            return "result" if len(calls) == 2 else same(x)

        assert same(1) == "result"
        assert calls == [1, 1]

    def test_functions_that_call_each_other(self, store):
        @store.memoize(name="even")
        def even(n):
            return n == 0 or odd(n - 1)

        @store.memoize(name="odd")
        def odd(n):
            return n != 0 and even(n - 1)

        assert [even(20), odd(20), even(19)] == [True, False, False]
        assert even.cache_info()[1] == odd.cache_info()[1] == 21

    def test_memoized_twice(self, store, clock):
        function = Calls()
        kept = store.memoize(name="function", ttl=60)(store.memoize(name="function", ttl=60)(function.function()))
        assert [kept(1), kept(1), len(function)] == ["result", "result", 1]
        clock.advance(60)
        assert [kept(1), len(function)] == ["result", 2]


class TestBesideTheFunction:
    def test_cache_info_has_the_fields_of_functools(self, store):
        kept = Calls().kept(store)
        info = kept.cache_info()
        assert info._fields == functools.lru_cache(plain).cache_info()._fields
        assert info == (0, 0, 10_000 if isinstance(store, Cache) else None, 0)
        kept(1), kept(1), kept(2), kept(1)
        assert kept.cache_info() == (2, 2, info.maxsize, 2)
        assert kept.cache_info() == (2, 2, info.maxsize, 2)  # looking is not counted

    def test_cache_clear_counts_anew(self, store):
        kept, other = Calls().kept(store), Calls().kept(store, name="other")
        for _ in range(3):
            kept(1), kept(1), other(1)
            kept.cache_info()
            kept.cache_clear()
            assert kept.cache_info()[:2] == (0, 0)
            assert kept.cache_info().currsize == 0
            kept(1), kept(2), kept(2)
            assert kept.cache_info()[:2] == (1, 2)
            kept.cache_clear()
        assert other.cache_info()[:2] == (2, 1)

    def test_hits_of_many_threads_are_all_counted(self, store):
        kept = Calls().kept(store)
        kept(1)
        threads = [threading.Thread(target=lambda: [kept(1) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            kept.cache_info()
        assert kept.cache_info()[:2] == (200, 1)

    def test_cache_key(self, store):
        kept, other = Calls().kept(store), Calls().kept(store, name="other")
        assert kept.cache_key(1) == kept.cache_key(x=1, y=0) == other.cache_key(1)
        assert kept.cache_key(1) != kept.cache_key(2)
        assert (type(kept.cache_key()), len(kept.cache_key())) == (bytes, 20)
        other(1)
        assert not kept.cache_contains(1)

    def test_contains_and_delete(self, store, clock):
        kept = Calls().kept(store, ttl=10)
        assert not kept.cache_contains(1)
        assert not kept.cache_delete(1)
        kept(1), kept(2)
        assert kept.cache_contains(x=1)
        assert kept.cache_delete(1)
        assert not kept.cache_contains(1)
        assert kept.cache_contains(2)
        clock.advance(10)
        assert not kept.cache_contains(2)
        assert not kept.cache_delete(2)
        for call in (kept.cache_contains, kept.cache_delete, kept.cache_key, kept.refresh):
            with pytest.raises(TypeError, match="unexpected keyword"):
                call(nobody=1)

    def test_refresh(self, store, clock):
        function = Calls(lambda x: len(function))
        kept = function.kept(store, ttl=10)
        assert [kept.refresh(5), kept(5), kept.refresh(5), kept(5)] == [1, 1, 2, 2]
        clock.advance(9)
        assert kept.refresh(5) == 3
        clock.advance(9)
        assert kept(5) == 3  # its time begins anew
        function.result = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            kept.refresh(5)
        assert kept(5) == 3

    def test_a_refresh_computes_even_while_somebody_computes(self, store):
        began, go_on = threading.Event(), threading.Event()
        data = ["old"]

        @store.memoize(name="slow")
        def slow():
            seen = list(data)
            if seen == ["old"]:
                began.set()
                assert go_on.wait(LONG)
            return seen

        first = threading.Thread(target=slow)
        first.start()
        assert began.wait(LONG)
        data[0] = "new"
        results = []
        others = [threading.Thread(target=lambda: results.append(slow.refresh())) for _ in range(3)]
        for thread in others:
            thread.start()
        go_on.set()
        for thread in (first, *others):
            thread.join(LONG)
        assert results == [["new"]] * 3
        assert slow() == ["new"]
        assert len({id(result) for result in results}) == 3  # each has his own


class TestWhereResultsAre:
    def test_outside_of_the_store_itself(self, store):
        store["key"] = 1
        kept = Calls().kept(store)
        kept(1)
        assert (len(store), list(store), list(store.keys()), store.namespaces()) == (1, ["key"], ["key"], [])
        store.clear()
        assert kept.cache_contains(1)
        assert store.get(kept.cache_key(1)) is None
        assert kept.cache_info().currsize == 1
        kept.cache_clear()
        store["key"] = 1
        kept.cache_clear()
        assert list(store) == ["key"]

    def test_inside_the_bound_of_a_cache(self, location):
        with Cache(location, max_entries=10) as cache:
            kept = Calls().kept(cache)
            for number in range(100):
                kept(number)
            assert cache.stats().entries <= 10
            assert kept.cache_info()[2] == 10
            assert 0 < kept.cache_info().currsize <= 10
            assert cache.stats().evicted >= 90

    def test_each_function_has_its_own(self, store):
        one, other = Calls("one").kept(store, name="one"), Calls("other").kept(store, name="other")
        assert [one(1), other(1)] == ["one", "other"]
        one.cache_clear()
        assert [one.cache_contains(1), other.cache_contains(1)] == [False, True]

    @pytest.mark.parametrize(
        "names",
        [
            ("a", "a:"),
            ("a:b", "a"),
            ("left", "\x00left"),
            ("n" * 200, "n" * 199 + "m"),
            ("ü", "\ud800"),
            ("1", "1\x00"),
        ],
    )
    def test_strange_names_are_kept_apart(self, in_memory, names):
        one, other = (Calls(name).kept(in_memory, name=name) for name in names)
        assert [one(1), other(1), one(1), other(1)] == [*names, *names]
        one.cache_clear()
        assert other.cache_contains(1)
        assert in_memory.namespaces() == []

    def test_a_name_of_its_own_may_be_long(self, store):
        def function():
            return 1

        function.__qualname__ = "n" * 5_000
        kept = store.memoize(function)
        assert [kept(), kept(), kept.cache_info()[:2]] == [1, 1, (1, 1)]

    def test_two_stores(self, kind):
        function = Calls()
        with open_store(kind, "memory://") as one, open_store(kind, "memory://") as other:
            kept, elsewhere = function.kept(one), function.kept(other)
            kept(1), elsewhere(1), kept(1), elsewhere(1)
            assert len(function) == 2
            kept.cache_clear()
            assert elsewhere.cache_contains(1)

    def test_two_handles_of_one_store(self, kind, tmp_path):
        function = Calls()
        path = tmp_path / "a.store"
        with open_store(kind, path) as one, open_store(kind, path) as other:
            kept, elsewhere = function.kept(one), function.kept(other)
            assert [kept(1), elsewhere(1), len(function)] == ["result", "result", 1]

    def test_namespaces_have_results_of_their_own(self, store):
        function = Calls()
        inner = store.namespace("x")
        kept, below = function.kept(store), function.kept(inner)
        kept(1), below(1)
        assert len(function) == 2
        assert len(inner) == 0
        store.drop_namespace("x")
        assert [kept.cache_contains(1), below.cache_contains(1)] == [True, False]
        below(1)  # it comes into being again
        assert below.cache_contains(1)

    def test_a_tag_of_the_store_reaches_them(self, store):
        kept, other = Calls().kept(store, tags=["a", "b"]), Calls().kept(store, name="other", tags=["b"])
        kept(1), kept(2), other(1)
        store.set("key", 1, tags=["a"])
        assert store.delete_tag("a") == 3
        assert [kept.cache_contains(1), other.cache_contains(1)] == [False, True]

    def test_a_sweep_of_the_store_reaches_them(self, store, clock):
        kept = Calls().kept(store, ttl=10)
        kept(1), kept(2)
        clock.advance(10)
        assert kept.cache_info().currsize == 0
        assert store.expire() == 2

    def test_a_store_that_nobody_remembers_stays_open_for_its_functions(self, tmp_path, kind):
        function = Calls()
        kept = function.kept(open_store(kind, tmp_path / "a.store"))
        gc.collect()
        assert [kept(1), kept(1), len(function)] == ["result", "result", 1]
        engine = weakref.ref(kept.cache_info.__self__.results._engine)
        del kept
        gc.collect()
        assert engine() is None

    def test_decorating_again_and_again_leaves_nothing_behind(self, store):
        for _ in range(50):
            Calls().kept(store)(1)
        gc.collect()
        assert len([child for child in store._children if child() is not None]) <= 1


class TestHowLong:
    @pytest.mark.parametrize("ttl", [10, 10.0, timedelta(seconds=10), lambda _: 10, lambda _: timedelta(seconds=10)])
    def test_until_its_ttl_ends(self, in_memory, clock, ttl):
        function = Calls()
        kept = function.kept(in_memory, ttl=ttl)
        kept()
        clock.advance(9.999)
        kept()
        assert len(function) == 1
        clock.advance(0.001)
        kept()
        assert len(function) == 2

    def test_the_default_is_that_of_the_cache(self, location, clock):
        with Cache(location, ttl=10, clock=clock) as cache:
            some, always = Calls(), Calls()
            kept = some.kept(cache, name="some")
            for_ever = always.kept(cache, name="always", ttl=None)
            as_said = Calls().kept(cache, name="as said", ttl=lambda _: DEFAULT)
            kept(), for_ever(), as_said(), cache.get_or_compute("key", lambda: 1)
            clock.advance(10)
            assert not as_said.cache_contains()
            assert "key" not in cache
            kept(), for_ever()
            assert [len(some), len(always)] == [2, 1]

    def test_the_default_of_a_store_is_for_ever(self, location, clock):
        with Store(location, clock=clock) as store:
            kept = Calls().kept(store)
            kept()
            clock.advance(1e9)
            assert kept.cache_contains()

    @pytest.mark.parametrize("ttl", [0, -1, timedelta(0), timedelta(-1), 0.0])
    def test_zero_or_less_of_a_result_is_not_kept(self, in_memory, ttl):
        function = Calls()
        kept = function.kept(in_memory, ttl=lambda _: ttl)
        assert [kept(), kept(), len(function), kept.cache_info().currsize] == ["result", "result", 2, 0]

    def test_it_may_depend_on_the_result(self, store, clock):
        kept = Calls(lambda x: x).kept(store, ttl=lambda result: None if result > 9 else result)
        for number in (0, 5, 9, 10):
            kept(number)
        clock.advance(5)
        assert [kept.cache_contains(number) for number in (0, 5, 9, 10)] == [False, False, True, True]
        clock.advance(1e8)
        assert [kept.cache_contains(number) for number in (0, 5, 9, 10)] == [False, False, False, True]

    @pytest.mark.parametrize("ttl", ["abc", [1], True, float("nan"), 2e9])
    def test_what_is_no_time_is_said_with_the_function(self, in_memory, ttl):
        kept = Calls().kept(in_memory, ttl=lambda _: ttl)
        with pytest.raises((TypeError, ValueError), match="ttl"):
            kept()
        assert not kept.cache_contains()

    def test_an_error_of_the_ttl_is_raised(self, store):
        kept = Calls().kept(store, ttl=lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            kept()
        assert kept.cache_info().currsize == 0


class TestStale:
    def test_after_its_ttl_it_is_served_while_one_refreshes_it(self, store, clock):
        began, go_on = threading.Event(), threading.Event()

        @store.memoize(name="slow", ttl=10, stale=timedelta(seconds=20))
        def slow():
            calls.append(1)
            if len(calls) == 2:
                began.set()
                assert go_on.wait(LONG)
            return [len(calls)]

        assert slow() == [1]
        clock.advance(9.99)
        assert slow() == [1]
        clock.advance(0.01)
        refreshed = []
        thread = threading.Thread(target=lambda: refreshed.append(slow()))
        thread.start()
        assert began.wait(LONG)
        assert [slow(), slow()] == [[1], [1]]
        assert slow.cache_contains()
        go_on.set()
        thread.join(LONG)
        assert [refreshed, slow(), len(calls)] == [[[2]], [2], 2]
        assert slow.cache_info()[:2] == (4, 2)

    def test_after_both_it_is_gone(self, store, clock):
        function = Calls()
        kept = function.kept(store, ttl=10, stale=20)
        kept()
        clock.advance(29.99)
        assert kept.cache_contains()
        clock.advance(0.01)
        assert not kept.cache_contains()
        kept()
        assert len(function) == 2

    def test_one_thread_alone_refreshes_it_himself(self, store, clock):
        function = Calls(lambda _: len(function))
        kept = function.kept(store, ttl=10, stale=20)
        assert kept() == 1
        clock.advance(10)
        assert [kept(), kept()] == [2, 2]

    def test_whose_ttl_is_a_function(self, store, clock):
        function = Calls(lambda x: x)
        kept = function.kept(store, ttl=lambda result: result, stale=20)
        for number in (None, 0, 10):
            kept(number)
        assert [kept.cache_contains(number) for number in (None, 0, 10)] == [True, False, True]
        clock.advance(10)
        kept(10), kept(None)
        assert len(function) == 4
        clock.advance(20)
        assert [kept.cache_contains(number) for number in (None, 10)] == [True, True]
        clock.advance(10)
        assert [kept.cache_contains(number) for number in (None, 10)] == [True, False]

    def test_an_error_of_the_refresh_is_his_who_refreshes(self, store, clock):
        function = Calls()
        kept = function.kept(store, ttl=10, stale=20)
        kept()
        clock.advance(10)
        function.result = ZeroDivisionError()
        with pytest.raises(ZeroDivisionError):
            kept()
        assert kept.cache_contains()


class Wrong(Exception):
    pass


class Unpicklable(Exception):
    def __reduce__(self):
        raise TypeError("no")


class OneWay(Exception):
    """Can be pickled, and not be built of that."""

    def __init__(self, one, other):
        super().__init__(one + other)


class TestErrorsThatAreRemembered:
    @pytest.mark.parametrize("error", [Wrong("a", 1), KeyError("a"), LookupError(), OSError(2, "gone", "file")])
    def test_they_are_raised_again(self, in_memory, error):
        function = Calls(error)
        kept = function.kept(in_memory, exceptions=(LookupError, Wrong, OSError))
        raised = [outcome(kept, 1) for _ in range(3)]
        assert {type(each) for each in raised} == {type(error)}
        assert {each.args for each in raised} == {error.args}
        assert len(function) == 1
        assert kept.cache_contains(1)
        assert kept.cache_info()[:2] == (2, 1)

    def test_others_are_not(self, store):
        function = Calls(ZeroDivisionError())
        kept = function.kept(store, exceptions=[Wrong])
        for number in (1, 2):
            with pytest.raises(ZeroDivisionError):
                kept()
            assert len(function) == number
        assert not kept.cache_contains()

    def test_for_as_long_as_results(self, store, clock):
        function = Calls(Wrong(5))
        kept = function.kept(store, exceptions=Wrong, ttl=10)
        outcome(kept), clock.advance(9.99), outcome(kept)
        assert len(function) == 1
        clock.advance(0.01)
        function.result = "result"
        assert kept() == "result"

    def test_a_ttl_that_depends_on_the_result_is_none_of_theirs(self, store, clock):
        function = Calls(Wrong(5))
        kept = function.kept(store, exceptions=Wrong, ttl=lambda result: result["age"])
        assert type(outcome(kept)) is Wrong
        clock.advance(5)
        assert type(outcome(kept)) is Wrong
        assert len(function) == 1

    def test_stale_is_no_matter_of_theirs(self, store, clock):
        function = Calls(Wrong())
        kept = function.kept(store, exceptions=Wrong, ttl=10, stale=20)
        outcome(kept), clock.advance(10)
        assert not kept.cache_contains()
        outcome(kept)
        assert len(function) == 2

    def test_an_error_of_the_refresh_is_remembered_too(self, store, clock):
        function = Calls()
        kept = function.kept(store, exceptions=Wrong, ttl=10, stale=20)
        kept(), clock.advance(10)
        function.result = Wrong()
        assert {type(outcome(kept)) for _ in range(3)} == {Wrong}
        assert len(function) == 2

    def test_the_last_outcome_counts(self, store):
        function = Calls(Wrong())
        kept = function.kept(store, exceptions=Wrong)
        for result in (Wrong("a"), "result", Wrong("b"), "other"):
            function.result = result
            assert repr(outcome(kept.refresh)) == repr(result)
            assert repr(outcome(kept)) == repr(result)
            assert kept.cache_info().currsize == 1
        assert len(function) == 4

    def test_forgetting(self, store):
        function = Calls(Wrong())
        kept = function.kept(store, exceptions=Wrong, tags=["tag"])
        for forget in (kept.cache_clear, kept.cache_delete, lambda: store.delete_tag("tag")):
            outcome(kept)
            assert kept.cache_contains()
            forget()
            assert not kept.cache_contains()
        assert len(function) == 3

    def test_what_cannot_be_pickled_is_raised_and_said_in_the_log(self, store, caplog):
        function = Calls(Unpicklable("a"))
        kept = function.kept(store, exceptions=Unpicklable)
        assert [type(outcome(kept)) for _ in range(2)] == [Unpicklable] * 2
        assert len(function) == 2
        assert "an error of function cannot be remembered" in caplog.text

    def test_what_cannot_be_built_again_is_computed_again(self, store, caplog):
        function = Calls(OneWay("a", "b"))
        kept = function.kept(store, exceptions=OneWay)
        assert [type(outcome(kept)) for _ in range(2)] == [OneWay] * 2
        assert len(function) == 2
        assert "an error of function cannot be remembered" in caplog.text
        assert not kept.cache_contains()
        function.result = "result"
        assert [kept(), kept()] == ["result", "result"]

    def test_store_if_is_about_results(self, store):
        function = Calls(Wrong())
        kept = function.kept(store, exceptions=Wrong, store_if=lambda result: result.nothing)
        assert [type(outcome(kept)) for _ in range(2)] == [Wrong] * 2
        assert len(function) == 1


class TestWhatIsStored:
    def test_store_if(self, store):
        function = Calls(lambda x: x)
        kept = function.kept(store, store_if=lambda result: result)
        assert [kept(0), kept(0), kept(1), kept(1), len(function)] == [0, 0, 1, 1, 3]
        assert kept.refresh(0) == 0
        assert not kept.cache_contains(0)

    def test_an_error_of_store_if_is_raised(self, store):
        kept = Calls().kept(store, store_if=lambda result: result.nothing)
        with pytest.raises(AttributeError, match="nothing"):
            kept()
        assert not kept.cache_contains()

    def test_ttl_and_store_if_may_call_other_functions_and_the_store(self, store):
        other = Calls(10).kept(store, name="other")
        store["least"] = 1
        rule = {"ttl": other, "store_if": lambda result: result >= store["least"] and kept(result - 1) >= 0}
        kept = Calls(lambda x: x).kept(store, **rule)
        assert kept(3) == 3
        assert [kept.cache_contains(number) for number in (3, 2, 1, 0)] == [True, True, True, False]

    def test_what_cannot_be_stored_names_the_function_and_the_way_out(self, store):
        function = Calls(lambda x: lambda: x)
        kept = function.kept(store)
        with pytest.raises(EncodeError, match=r"the result of function cannot be stored.*store_if") as raised:
            kept(1)
        assert raised.value.key == kept.cache_key(1)
        assert kept.cache_info().currsize == 0
        assert function.kept(store, store_if=lambda _: False)(1)() == 1

    def test_a_function_that_gives_a_coroutine_and_is_none(self, store):
        async def coroutine():
            return 1

        made = []

        def function():
            made.append(coroutine())
            return made[-1]

        with pytest.raises(EncodeError, match="coroutine"):
            store.memoize(name="function")(function)()
        with pytest.raises(EncodeError, match="coroutine"):
            store.get_or_compute("key", function)
        for each in made:
            each.close()

    def test_what_is_larger_than_the_cache_has_a_note(self, location):
        with Cache(location, max_size=100_000) as cache:
            kept = Calls(lambda x: bytes(x)).kept(cache)
            with pytest.raises(StoreFull) as raised:
                kept(200_000)
            assert raised.value.__notes__ == ["It is the result of function; leave such results out with store_if."]
            assert kept(50_000) == kept(50_000) == bytes(50_000)
            assert Calls(bytes(200_000)).kept(cache, store_if=lambda _: False)() == bytes(200_000)


class Gone:
    def __init__(self, x=1):
        self.x = x


class Forger:
    def __reduce__(self):
        return calls.append, ("forged",)


class TestWhatCannotBeReadAnyMore:
    @pytest.mark.parametrize("options", [{}, {"exceptions": Wrong}, {"ttl": 60, "stale": 60}])
    def test_whose_class_is_gone(self, store, monkeypatch, caplog, options):
        function = Calls(Gone())
        kept = function.kept(store, **options)
        assert kept().x == 1
        function.result = "other"
        with monkeypatch.context() as patch:
            patch.delattr(sys.modules[__name__], "Gone")
            assert not kept.cache_contains()
            assert [kept(), kept()] == ["other", "other"]
        assert len(function) == 2
        assert {record.levelname for record in caplog.records} == {"WARNING"}
        assert {record.name for record in caplog.records} == {"objstore"}
        assert "the result of function cannot be read, and is computed again: the value of key" in caplog.text

    @pytest.mark.parametrize("damage", [b"", b"\x80", b"\xffnothing", "flip"])
    def test_whose_bytes_are_damaged(self, store, damage, caplog):
        function = Calls()
        kept = function.kept(store)
        kept()
        tree_key, engine = tree_key_of(kept), store._engine
        found = engine.get(tree_key)
        engine.transact(put, tree_key, found[:-1] + bytes([found[-1] ^ 1]) if damage == "flip" else damage)
        with caplog.at_level(logging.WARNING):
            assert [kept(), kept()] == ["result", "result"]
        assert len(function) == 2
        assert "computed again" in caplog.text

    @pytest.mark.parametrize("seal", ["signing_key", "encryption_key"])
    def test_who_forges_is_refused(self, kind, location, seal):
        with open_store(kind, location, **{seal: KEY}) as store:
            kept = Calls().kept(store)
            kept(1)
            tree_key, forged = tree_key_of(kept, 1), pickle.dumps(Forger())
            store._engine.transact(put, tree_key, forged + digest(forged, key_digest(tree_key)))
            for call in (kept, kept.cache_contains):
                with pytest.raises(BadSignature):
                    call(1)
            assert calls == []
            assert kept.refresh(1) == "result"

    def test_get_or_compute_raises_what_is_wrong_with_an_item(self, store, monkeypatch):
        store["key"] = Gone()
        with monkeypatch.context() as patch:
            patch.delattr(sys.modules[__name__], "Gone")
            with pytest.raises(DecodeError):
                store.get_or_compute("key", lambda: 1)
        assert store["key"].x == 1
        store._engine.transact(put, store._space.tree_key("key"), b"\x80nothing")
        with pytest.raises(CorruptRecord):
            store.get_or_compute("key", lambda: 1)


def tree_key_of(kept, *args):
    """Where in the engine the result of a call is."""
    return kept.cache_info.__self__.results._space.tree_key(kept.cache_key(*args))


CELL = """
@store.memoize
def cell(x):
    calls.append(x)
    return x + 1
"""


class TestVersionsAndKeys:
    def test_another_version_finds_nothing(self, store):
        function = Calls()
        versions = [None, 1, 2, "1", (1, 2), {"model": "a"}]
        for _ in range(2):
            for version in versions:
                function.kept(store, version=version)(1)
        assert len(function) == len(versions)
        assert function.kept(store).cache_info().currsize == len(versions)  # those of former ones are among them
        function.kept(store).cache_clear()
        assert not function.kept(store, version=1).cache_contains(1)

    def test_the_source(self, store):
        def function(x):
            calls.append(x)
            return 1

        first = function

        def function(x):
            calls.append(x)
            return 2

        kept = [store.memoize(name="function", version="source")(each) for each in (first, function, first)]
        assert [each(1) for each in kept] == [1, 2, 1]
        assert len(calls) == 2

    def test_an_edited_cell_of_a_notebook_never_serves_its_former_result(self, store, monkeypatch):
        monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
        results = []
        for number, source in enumerate([CELL, CELL, CELL.replace("+ 1", "+ 2"), CELL]):
            cell = f"<cell {number}>"
            monkeypatch.setitem(linecache.cache, cell, (len(source), None, source.splitlines(keepends=True), cell))
            namespace = {"__name__": "__main__", "store": store, "calls": calls}
            exec(compile(source, cell, "exec", dont_inherit=True), namespace)
            results.append(namespace["cell"](1))
        assert results == [2, 2, 3, 2]
        assert len(calls) == 2

    def test_ignore(self, store):
        function = Calls()
        kept = function.kept(store, ignore=["y"])
        kept(1, y=1), kept(1, y=object()), kept(1)
        assert function.calls == [(1, 1)]
        kept(2, y=5)
        assert len(function) == 2

    def test_key(self, store):
        function = Calls()
        kept = function.kept(store, key=lambda x, *, y=0: x % 10)
        kept(1), kept(11, y=object()), kept(2)
        assert [x for x, _ in function.calls] == [1, 2]
        assert kept.cache_contains(21)
        with pytest.raises(TypeError):
            kept("no number")

    def test_register_key(self, store):
        class Model:
            def __init__(self, weight):
                self.weight = weight

        kept = Calls().kept(store)
        with pytest.raises(TypeError, match="register_key"):
            kept(Model(1))
        register_key(Model, lambda model: model.weight)
        kept(Model(1)), kept(Model(1)), kept(Model(2))
        assert kept.cache_info()[:2] == (1, 2)

    def test_what_cannot_be_keyed_is_said_before_anything_is_computed(self, store):
        function = Calls()
        kept = function.kept(store)
        with pytest.raises(TypeError, match=r"argument 'y' of .*key="):
            kept(1, y=object())
        with pytest.raises(TypeError, match="levels deep"):
            nested = []
            nested.append(nested)
            kept(nested)
        assert len(function) == 0


@dataclass
class Point:
    x: int
    y: int


class TestKindsOfStores:
    @pytest.mark.parametrize(
        ("codec", "results"),
        [
            ("json", [1, "a", None, [1, {"a": 2.5}]]),
            ("msgpack", [1, "a", None, b"a", [1, {"a": 2.5}]]),
            (Msgpack(Point), [Point(1, 2), Point(3, 4)]),
            ("bytes", [b"a", b"", b"\x80"]),
        ],
    )
    def test_codecs(self, kind, location, codec, results):
        with open_store(kind, location, codec=codec) as store:
            function = Calls(lambda x: results[x])
            kept = function.kept(store, ttl=60, stale=60, exceptions=Wrong)
            for _ in range(2):
                assert [kept(number) for number in range(len(results))] == results
            assert len(function) == len(results)
            for wrong in (lambda: 1, MappingProxyType({})):
                with pytest.raises(EncodeError, match="the result of"):
                    Calls(lambda _, wrong=wrong: wrong).kept(store, name="wrong")()

    @pytest.mark.parametrize("options", [{"signing_key": KEY}, {"encryption_key": KEY}, {"compression": "zlib"}])
    def test_sealed_and_compressed(self, kind, location, options):
        with open_store(kind, location, **options) as store:
            function = Calls(["a" * 100_000, np.arange(100_000)])
            kept = function.kept(store, exceptions=Wrong)
            for _ in range(3):
                text, array = kept()
                assert (text, array.sum()) == ("a" * 100_000, sum(range(100_000)))
                array += 1  # it is the caller's own
            assert len(function) == 1
            function.result = Wrong("a")
            outcome(kept, 2)
            assert outcome(kept, 2).args == ("a",)
            assert len(function) == 2

    def test_large_arrays_are_private_copies(self, store):
        kept = Calls(lambda _: np.zeros(100_000)).kept(store)
        for _ in range(3):
            array = kept()
            assert array.sum() == 0
            array += 1

    def test_for_reading_it_is_computed_and_not_kept(self, kind, tmp_path):
        path = tmp_path / "a.store"
        function = Calls()
        with open_store(kind, path) as store:
            function.kept(store)(1)
        before = (path / "data.mdb").read_bytes()
        with kind(path, "r") as store:
            kept = function.kept(store)
            assert kept(1) == "result"
            assert len(function) == 1
            kept(2), kept(2), kept.refresh(1)
            assert len(function) == 4
            assert outcome(Calls(Wrong("a")).kept(store, exceptions=Wrong), 5).args == ("a",)
            assert store.get_or_compute("key", lambda: 5) == 5
            assert "key" not in store
            assert kept.cache_info().currsize == 1
        assert (path / "data.mdb").read_bytes() == before

    def test_each_call_counts_once(self, tmp_path, clock):
        with Cache(tmp_path / "a.cache", max_entries=100, clock=clock) as cache:
            plain = Calls().kept(cache)
            aging = Calls().kept(cache, name="aging", ttl=10, stale=10)
            for _ in range(2):
                for number in range(3):
                    plain(number), aging(number)
            assert cache.stats().hits == cache.stats().misses == 6
            clock.advance(25)
            aging(0), aging(0)
            assert (cache.stats().hits, cache.stats().misses) == (7, 7)

    def test_what_is_not_kept_takes_no_room(self, tmp_path):
        with Cache(tmp_path / "a.cache", max_size=1_000_000) as cache:
            cache.update({number: bytes(3_000) for number in range(100)})
            job = _Job(cache, cache, "key", _rules("f", DEFAULT, ()), lambda: None)
            job.leave(bytes(900_000), None)
            assert job.left(0.0) is None
            job.leave(bytes(9_000), None)
            assert job.left(0.0) == (bytes(9_000), None)
            assert cache.stats().evicted == 0

    def test_in_a_transaction_of_another_store_nobody_waits_for_who_may_wait_for_that(self, store, tmp_path):
        begun, calls = threading.Event(), []
        with Store(tmp_path / "other.store") as other:

            @store.memoize(name="f")
            def f():
                calls.append(threading.get_ident())
                begun.set()
                if len(calls) == 1:
                    other["a"] = 1  # which waits for the transaction below
                return 1

            with other.transaction() as txn:
                thread = threading.Thread(target=f, daemon=True)
                thread.start()
                assert begun.wait(20)
                assert f() == 1
                txn["b"] = 2
            thread.join(20)
            assert not thread.is_alive()
            assert dict(other) == {"a": 1, "b": 2}
            assert len(calls) == 2

    def test_in_a_transaction_it_is_computed_and_not_kept(self, store):
        function = Calls()
        kept = function.kept(store, exceptions=Wrong)
        kept(1)
        with store.transaction() as txn:
            txn["key"] = 1
            assert [kept(1), len(function)] == ["result", 1]
            assert [kept(2), kept(2), kept.refresh(1), len(function)] == ["result", "result", "result", 4]
            assert store.get_or_compute("other", lambda: 5) == 5
            function.result = Wrong()
            assert type(outcome(kept, 3)) is Wrong
        assert store["key"] == 1
        assert "other" not in store
        assert [kept.cache_contains(number) for number in (1, 2, 3)] == [True, False, False]

    def test_a_transaction_of_another_thread_is_waited_for(self, store):
        began, go_on, results = threading.Event(), threading.Event(), []
        kept = Calls().kept(store)

        def compute():
            began.set()
            results.append(kept(1))

        with store.transaction() as txn:
            thread = threading.Thread(target=compute)
            thread.start()
            assert began.wait(LONG)
            txn["key"] = 1
            assert kept(1) == "result"  # which does not wait for the thread, which waits for the transaction
            go_on.set()
        thread.join(LONG)
        assert results == ["result"]
        assert kept.cache_contains(1)

    def test_a_function_may_have_a_transaction_of_its_own(self, store):
        @store.memoize(name="function")
        def function(x):
            with store.transaction() as txn:
                txn["key"] = x
            return x

        assert [function(1), function(1), store["key"]] == [1, 1, 1]

    def test_closed(self, store):
        kept = Calls().kept(store, name="old")
        kept(1)
        store.close()
        for call in (kept, kept.refresh, kept.cache_contains, kept.cache_delete):
            with pytest.raises(StoreClosed):
                call(1)
        for call in (kept.cache_clear, kept.cache_info, lambda: Calls().kept(store)):
            with pytest.raises(StoreClosed):
                call()
        with pytest.raises(StoreClosed):
            store.get_or_compute("key", lambda: 1)

    def test_closed_while_it_is_computed(self, store):
        began, go_on = threading.Event(), threading.Event()

        @store.memoize(name="slow")
        def slow():
            began.set()
            assert go_on.wait(LONG)
            return 1

        outcomes = []
        threads = [threading.Thread(target=lambda: outcomes.append(outcome(slow))) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert began.wait(LONG)
        store.close()
        go_on.set()
        for thread in threads:
            thread.join(LONG)
        assert {type(each) for each in outcomes} == {StoreClosed}
        assert len(outcomes) == 3

    def test_full_durability(self, tmp_path, kind):
        with open_store(kind, tmp_path / "a.store", durability="full") as store:
            kept = Calls().kept(store)
            assert [kept(1), kept(1), kept.cache_info()[:2]] == ["result", "result", (1, 1)]


class TestThreads:
    def test_one_computes_and_each_of_the_others_has_a_copy(self, store):
        began, go_on = threading.Event(), threading.Event()

        @store.memoize(name="slow")
        def slow():
            calls.append(1)
            began.set()
            assert go_on.wait(LONG)
            return [1]

        results = []
        threads = [threading.Thread(target=lambda: results.append(slow())) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert began.wait(LONG)
        go_on.set()
        for thread in threads:
            thread.join(LONG)
        assert results == [[1]] * 8
        assert len({id(result) for result in results}) == 8
        assert calls == [1]
        assert sum(slow.cache_info()[:2]) == 8

    def test_an_error_reaches_all_who_wait(self, store):
        began, go_on = threading.Event(), threading.Event()

        @store.memoize(name="slow")
        def slow():
            calls.append(1)
            began.set()
            assert go_on.wait(LONG)
            raise Wrong("a")

        outcomes = []
        threads = [threading.Thread(target=lambda: outcomes.append(outcome(slow))) for _ in range(4)]
        threads[0].start()
        assert began.wait(LONG)
        for thread in threads[1:]:
            thread.start()
        until_waiting(slow, 4)
        go_on.set()
        for thread in threads:
            thread.join(LONG)
        assert [each.args for each in outcomes] == [("a",)] * 4
        assert len(calls) == 1

    def test_a_result_that_comes_after_it_was_forgotten_is_kept(self, store):
        began, go_on = threading.Event(), threading.Event()

        @store.memoize(name="slow", exceptions=Wrong)
        def slow():
            began.set()
            assert go_on.wait(LONG)
            return 1

        thread = threading.Thread(target=slow)
        thread.start()
        assert began.wait(LONG)
        assert not slow.cache_delete()
        slow.cache_clear()
        go_on.set()
        thread.join(LONG)
        assert slow.cache_contains()

    def test_what_others_left_before_one_asked_does_not_count(self, store):
        kept = Calls().kept(store)
        job = kept.cache_info.__self__.job(_Job, kept.cache_key(), (), {})
        before = store._engine.moment()
        job.leave([1], None)
        after = store._engine.moment()
        assert job.left(before) == ([1], None)
        assert after > before
        assert job.left(after + 1) is None
        job.leave(None, Wrong("a"))
        result, error = job.left(after)
        assert (result, error.args) == (None, ("a",))
        assert kept.cache_info().currsize == 0


def until_waiting(kept, number):
    """Wait until so many callers are on their way."""
    done = threading.Event()
    for _ in range(LONG * 1000):
        if kept.cache_info().misses == number:
            done.wait(0.05)  # the last is between counting and waiting
            return
        done.wait(0.001)
    raise AssertionError("they never come")


class TestGetOrCompute:
    def test_what_is_there_is_given_and_what_is_not_is_made(self, store):
        store["there"] = 1
        make = Calls(lambda _: [1])
        assert store.get_or_compute("there", make.function()) == 1
        results = [store.get_or_compute("new", make.function()) for _ in range(3)]
        assert results == [[1]] * 3
        assert len({id(result) for result in results}) == 3
        assert len(make) == 1
        assert store["new"] == [1]
        assert sorted(store) == ["new", "there"]

    def test_none_is_a_value(self, store):
        make = Calls(None)
        assert [store.get_or_compute("key", make.function()) for _ in range(2)] == [None, None]
        assert len(make) == 1

    def test_ttl_and_tags(self, store, clock):
        make = Calls(lambda _: 10)
        for ttl in (10, timedelta(seconds=10), lambda result: result):
            store.get_or_compute("key", make.function(), ttl=ttl, tags=["tag"])
            assert store.ttl("key") == 10
            assert list(store.range(tag="tag")) == ["key"]
            clock.advance(10)
        assert len(make) == 3
        assert store.get_or_compute("none", make.function(), ttl=lambda _: 0) == 10
        assert "none" not in store
        store.get_or_compute("ever", make.function(), ttl=None)
        assert store.ttl("ever") is None

    def test_errors(self, store):
        with pytest.raises(KeyError, match="mine") as raised:
            store.get_or_compute("key", Calls(KeyError("mine")).function())
        assert raised.value.__context__ is None
        assert "key" not in store
        with pytest.raises(TypeError, match="key"):
            store.get_or_compute(object(), lambda: 1)
        with pytest.raises(EncodeError, match=r"key 'key'.*store"):
            store.get_or_compute("key", lambda: lambda: 1)
        with pytest.raises(TypeError):
            store.get_or_compute("key", 5)
        assert len(store) == 0

    def test_long_keys_and_tuples(self, store):
        make = Calls(lambda _: len(make))
        some = ["k" * 5_000, "k" * 4_999 + "l", ("a", 1), ("a", 2), b"k", 1]
        assert [store.get_or_compute(key, make.function()) for key in some] == [1, 2, 3, 4, 5, 6]
        assert [store.get_or_compute(key, make.function()) for key in some] == [1, 2, 3, 4, 5, 6]

    def test_namespaces_have_keys_of_their_own(self, store):
        one, other = store.namespace("one"), store.namespace("other")
        assert one.get_or_compute("key", lambda: 1) == 1
        assert other.get_or_compute("key", lambda: other.get("inner", 2)) == 2
        assert store.get_or_compute("key", lambda: one.get_or_compute("key", lambda: 3) + 10) == 11
        assert [one["key"], other["key"], store["key"]] == [1, 2, 11]

    def test_beside_plain_assignment(self, store):
        began, go_on = threading.Event(), threading.Event()

        def make():
            began.set()
            assert go_on.wait(LONG)
            return "made"

        results = []
        threads = [threading.Thread(target=lambda: results.append(store.get_or_compute("key", make))) for _ in range(3)]
        threads[0].start()
        assert began.wait(LONG)
        for thread in threads[1:]:
            thread.start()
        store["key"] = "assigned"  # which waits for nobody
        assert store.get_or_compute("key", make) == "assigned"
        go_on.set()
        for thread in threads:
            thread.join(LONG)
        assert results[0] in ("made", "assigned")
        assert set(results) <= {"made", "assigned"}
        assert store["key"] == "made"  # the last who stores

    def test_another_process_writes_what_this_one_cannot_decode(self, store, monkeypatch):
        """What is stored meanwhile is an item of the user: it is not computed anew over it."""

        def make():
            raise AssertionError("it was there")

        store["key"] = Gone()
        looks = []
        found = type(store).__getitem__

        def not_at_first(self, key):
            looks.append(key)
            if len(looks) == 1:
                raise KeyError(key)
            return found(self, key)

        monkeypatch.setattr(type(store), "__getitem__", not_at_first)
        monkeypatch.delattr(sys.modules[__name__], "Gone")
        with pytest.raises(DecodeError):
            store.get_or_compute("key", make)


# Random functions and calls.

VALUES = st.sampled_from([0, 1, 2, 1.0, True, None, "1", (), (1,), [1], {"a": 1}])
SIGNATURES = ["a", "a, b=1", "a, /, b=2, *c", "a, *, b=3", "*a, b=4", "a=5, **b", "a, b=(1,), /, *c, d=None, **e", ""]
_functions = {}


def random_function(parameters):
    """A function of these parameters that gives what it is called with; it lists its calls."""
    if parameters not in _functions:
        source = f"""
            def function({parameters}):
                values = dict(locals())
                calls.append(values)
                return values
        """
        namespace = {"calls": calls, "__name__": __name__}
        exec(textwrap.dedent(source), namespace)
        _functions[parameters] = namespace["function"]
    return _functions[parameters]


ARGUMENTS = st.tuples(st.lists(VALUES, max_size=3), st.dictionaries(st.sampled_from("abdx"), VALUES, max_size=2))


@settings(max_examples=strategies.EXAMPLES, deadline=None)
@given(st.sampled_from(SIGNATURES), st.lists(st.tuples(st.sampled_from("ccccrdi"), ARGUMENTS), max_size=12))
def test_random_calls_give_what_the_function_gives(parameters, steps):
    function, model = random_function(parameters), {}
    with Store("memory://") as store:
        kept = store.memoize(name="function")(function)
        for step, (args, kwargs) in steps:
            calls.clear()
            expected = outcome(function, *args, **kwargs)
            if isinstance(expected, TypeError):
                assert str(outcome(kept, *args, **kwargs)) == str(expected)
                continue
            calls.clear()
            place = text_of(expected)
            if step == "c":
                assert repr(kept(*args, **kwargs)) == repr(expected)
                assert len(calls) == (place not in model)
                model[place] = expected
            elif step == "r":
                assert repr(kept.refresh(*args, **kwargs)) == repr(expected)
                assert len(calls) == 1
                model[place] = expected
            elif step == "d":
                assert kept.cache_delete(*args, **kwargs) == (model.pop(place, None) is not None)
            else:
                assert kept.cache_contains(*args, **kwargs) == (place in model)
            assert kept.cache_info().currsize == len(model)
