"""Memoize and get_or_compute of coroutine functions, from the side of their user."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading

import pytest
from test_memoize import LONG, Gone, Unpicklable, Wrong, open_store

from objstore import Cache, DecodeError, EncodeError, Store, StoreClosed, register_key


@pytest.fixture(params=[Store, Cache])
def kind(request):
    return request.param


@pytest.fixture(params=[(Store, "lmdb"), (Store, "memory"), (Cache, "lmdb")], ids=["lmdb", "memory", "cache"])
def store(request, tmp_path, clock):
    """A store on each engine, and a cache, which go by `clock`."""
    kind, engine = request.param
    location = tmp_path / "a.store" if engine == "lmdb" else "memory://"
    with open_store(kind, location, durability="process", clock=clock) as store:
        yield store


class Calls:
    """A coroutine function that lists its calls, and gives, or raises, `result`."""

    def __init__(self, result="result"):
        self.result = result
        self.calls = []
        self.is_open = True

    def __len__(self):
        return len(self.calls)

    def kept(self, store, **options):
        @store.memoize(**{"name": "function", **options})
        async def function(x=0, *, y=0):
            self.calls.append((x, y))
            await asyncio.sleep(0)
            while not self.is_open:
                await asyncio.sleep(0.001)
            result = self.result(x) if callable(self.result) else self.result
            if isinstance(result, BaseException):
                raise result
            return result

        return function


async def outcome(awaitable):
    try:
        return await awaitable
    except Exception as exc:  # noqa: BLE001  (it is the outcome)
        return exc


async def until(condition):
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.001)


def run(main):
    """Run a coroutine function, which must end in time."""

    async def limited():
        async with asyncio.timeout(LONG):
            return await main()

    return asyncio.run(limited())


async def plain(x, y=1):
    """It says what it is."""
    return [x, y]


class Adder:
    def __init__(self, number):
        self.number = number

    async def __call__(self, x):
        return self.number + x

    async def plus(self, x):
        return self.number + x

    @classmethod
    async def made(cls, number):
        return cls.__name__, number

    @staticmethod
    async def twice(number):
        return 2 * number


register_key(Adder, lambda adder: adder.number)


class TestWhatCanBeMemoized:
    def test_it_stays_a_coroutine_function(self, store):
        kept = store.memoize(plain)
        assert inspect.iscoroutinefunction(kept)
        assert inspect.iscoroutinefunction(kept.refresh)
        assert kept.__wrapped__ is plain
        assert inspect.signature(kept) == inspect.signature(plain)
        assert (kept.__name__, kept.__doc__) == ("plain", "It says what it is.")

    @pytest.mark.parametrize("function", [functools.partial(plain, 1), Adder(1), functools.partial(Adder(1))])
    def test_partials_and_objects(self, store, function):
        kept = store.memoize(name="other")(function)
        assert inspect.iscoroutinefunction(kept)

        async def main():
            return [await kept(2), await kept(2), await function(2)]

        first, second, expected = run(main)
        assert first == second == expected
        assert kept.cache_info()[:2] == (1, 1)

    @pytest.mark.parametrize("order", ["inside", "outside"])
    def test_methods(self, store, order, monkeypatch):
        made, twice = Adder.__dict__["made"], Adder.__dict__["twice"]
        if order == "inside":
            made, twice = classmethod(store.memoize(made.__func__)), staticmethod(store.memoize(twice.__func__))
        else:
            made, twice = store.memoize(made), store.memoize(twice)
        members = {"plus": store.memoize(Adder.plus), "made": made, "twice": twice, "__module__": __name__}
        adder = type("Adder", (Adder,), members)
        monkeypatch.setattr(sys.modules[__name__], "Adder", adder)

        async def main():
            for _ in range(2):
                assert [await adder(2).plus(3), await adder.made(1), await adder.twice(4)] == [5, ("Adder", 1), 8]
            assert await adder.plus.refresh(adder(2), 3) == 5
            for function in (adder.plus, adder.made, adder.twice):
                assert function.cache_info()[:2] == (1, 1)

        run(main)


class TestCalls:
    def test_one_entry_for_all_spellings_and_a_copy_for_each(self, store):
        kept = store.memoize(plain)

        async def main():
            results = [await kept(1), await kept(1, 1), await kept(y=1, x=1)]
            results += await asyncio.gather(*(kept(1) for _ in range(5)))
            return results

        results = run(main)
        assert results == [[1, 1]] * 8
        assert len({id(result) for result in results}) == 8
        assert kept.cache_info() == (7, 1, kept.cache_info().maxsize, 1)

    def test_of_many_tasks_one_computes_and_each_has_a_copy(self, store):
        function = Calls(lambda x: [x])
        kept = function.kept(store)

        async def main():
            function.is_open = False
            tasks = [asyncio.create_task(kept(1)) for _ in range(20)]
            await until(lambda: kept.cache_info().misses == 20)
            function.is_open = True
            return await asyncio.gather(*tasks)

        results = run(main)
        assert results == [[1]] * 20
        assert len({id(result) for result in results}) == 20
        assert len(function) == 1

    @pytest.mark.parametrize("options", [{"store_if": lambda _: False}, {"ttl": lambda _: 0}])
    def test_what_is_not_kept_is_a_copy_for_each_too(self, store, options):
        function = Calls(lambda x: [x])
        kept = function.kept(store, **options)

        async def main():
            function.is_open = False
            tasks = [asyncio.create_task(kept(1)) for _ in range(5)]
            await until(lambda: kept.cache_info().misses == 5)
            await asyncio.sleep(0.05)
            function.is_open = True
            return await asyncio.gather(*tasks)

        results = run(main)
        assert results == [[1]] * 5
        assert len({id(result) for result in results}) == 5
        assert len(function) == 1
        assert not kept.cache_contains(1)

    def test_what_is_not_kept_and_cannot_be_copied_is_shared(self, store):
        function = Calls(lambda _: threading.Lock())
        kept = function.kept(store, store_if=lambda _: False)

        async def main():
            function.is_open = False
            tasks = [asyncio.create_task(kept(1)) for _ in range(3)]
            await until(lambda: kept.cache_info().misses == 3)
            await asyncio.sleep(0.05)
            function.is_open = True
            return await asyncio.gather(*tasks)

        assert len(set(run(main))) == len(function) == 1

    def test_threads_of_coroutines_and_of_functions_wait_for_each_other(self, store):
        """Two loops, each with tasks, ask for the same."""
        function = Calls(lambda x: [x])
        kept = function.kept(store)
        function.is_open = False
        results = []

        async def main():
            results.extend(await asyncio.gather(*(kept(1) for _ in range(5))))

        threads = [threading.Thread(target=run, args=[main]) for _ in range(3)]
        for thread in threads:
            thread.start()
        run(lambda: until(lambda: kept.cache_info().misses == 15))
        function.is_open = True
        for thread in threads:
            thread.join(LONG)
        assert results == [[1]] * 15
        assert len(function) == 1

    def test_none_is_a_result_and_a_wrong_call_is_refused(self, store):
        function = Calls(None)
        kept = function.kept(store)

        async def main():
            assert [await kept(), await kept()] == [None, None]
            assert "unexpected keyword" in str(await outcome(kept(z=1)))
            assert "argument 'x'" in str(await outcome(kept(object())))

        run(main)
        assert len(function) == 1

    def test_errors_are_the_functions_own(self, store):
        function = Calls(lambda _: KeyError("mine"))
        kept = function.kept(store)

        async def main():
            function.is_open = False
            tasks = [asyncio.create_task(outcome(kept())) for _ in range(5)]
            await until(lambda: kept.cache_info().misses == 5)
            await asyncio.sleep(0.05)
            function.is_open = True
            return await asyncio.gather(*tasks)

        errors = run(main)
        assert {(type(error), error.args) for error in errors} == {(KeyError, ("mine",))}
        assert {error.__context__ for error in errors} == {None}
        assert len(function) == 1

    def test_who_is_cancelled_takes_nobody_with_him(self, store):
        function = Calls()
        kept = function.kept(store)

        async def main():
            function.is_open = False
            tasks = [asyncio.create_task(kept()) for _ in range(5)]
            await until(lambda: kept.cache_info().misses == 5)
            await until(lambda: len(function) == 1)
            for task in tasks[:3]:  # the one who began is among them
                task.cancel()
            await asyncio.sleep(0.01)
            function.is_open = True
            return await asyncio.gather(*tasks, return_exceptions=True)

        results = run(main)
        assert [type(result) for result in results[:3]] == [asyncio.CancelledError] * 3
        assert results[3:] == ["result"] * 2
        assert len(function) == 1

    def test_where_all_are_cancelled_nothing_is_kept_and_the_next_computes(self, store):
        function = Calls()
        kept = function.kept(store, exceptions=Exception)

        async def main():
            function.is_open = False
            tasks = [asyncio.create_task(kept()) for _ in range(3)]
            await until(lambda: len(function) == 1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not kept.cache_contains()
            function.is_open = True
            return await kept()

        assert run(main) == "result"
        assert len(function) == 2

    def test_a_time_limit_of_one_caller_is_his_own(self, store):
        function = Calls()
        kept = function.kept(store)

        async def main():
            function.is_open = False
            other = asyncio.create_task(kept())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(kept(), 0.05)
            function.is_open = True
            return await other

        assert run(main) == "result"
        assert len(function) == 1

    def test_recursion_and_functions_that_call_each_other(self, store):
        @store.memoize(name="fibonacci")
        async def fibonacci(n):
            return n if n < 2 else sum(await asyncio.gather(fibonacci(n - 1), fibonacci(n - 2)))

        @store.memoize(name="even")
        async def even(n):
            return n == 0 or await odd(n - 1)

        @store.memoize(name="odd")
        async def odd(n):
            return n != 0 and await even(n - 1)

        async def main():
            return [await fibonacci(12), *await asyncio.gather(even(8), odd(8), even(7))]

        assert run(main) == [144, True, False, False]

    def test_the_loop_goes_on_while_the_store_waits(self, store):
        """A transaction of another thread keeps the result from being stored."""
        kept = Calls().kept(store)
        began, go_on = threading.Event(), threading.Event()

        def keep_writing():
            with store.transaction() as txn:
                txn["key"] = 1
                began.set()
                go_on.wait(LONG)

        thread = threading.Thread(target=keep_writing)
        thread.start()
        assert began.wait(LONG)

        async def main():
            task = asyncio.create_task(kept())
            await until(lambda: kept.cache_info().misses == 1)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not task.done()
            go_on.set()
            return await task

        assert run(main) == "result"
        thread.join(LONG)
        assert kept.cache_contains()


class TestWhatIsKept:
    def test_stale(self, store, clock):
        function = Calls(lambda _: len(function))
        kept = function.kept(store, ttl=10, stale=20)

        async def main():
            assert await kept() == 1
            clock.advance(10)
            function.is_open = False
            refreshing = asyncio.create_task(kept())
            await until(lambda: len(function) == 2)
            assert [await kept(), await kept()] == [1, 1]
            function.is_open = True
            assert await refreshing == 2
            assert [await kept(), len(function)] == [2, 2]
            clock.advance(30)
            assert not kept.cache_contains()

        run(main)

    def test_a_refresh(self, store):
        function = Calls(lambda _: [len(function)])
        kept = function.kept(store)

        async def main():
            assert [await kept.refresh(), await kept(), await kept.refresh(), await kept()] == [[1], [1], [2], [2]]
            function.is_open = False
            first = asyncio.create_task(kept.refresh())
            await until(lambda: len(function) == 3)
            others = [asyncio.create_task(kept.refresh()) for _ in range(5)]
            await asyncio.sleep(0.01)
            function.is_open = True
            assert await first == [3]
            return await asyncio.gather(*others)

        results = run(main)
        # What began after they had asked: once for all of them, but for those who come to it when that is over.
        assert all([4] <= result <= [len(function)] for result in results)
        assert len({id(result) for result in results}) == 5
        assert 4 <= len(function) <= 8

    def test_remembered_errors(self, store, caplog):
        function = Calls(Wrong("a"))
        kept = function.kept(store, exceptions=(Wrong, Unpicklable))

        async def main():
            errors = [await outcome(kept()) for _ in range(3)]
            assert [error.args for error in errors] == [("a",)] * 3
            assert len(function) == 1
            function.result = "result"
            assert [await kept.refresh(), await kept()] == ["result"] * 2
            function.result = Unpicklable()
            assert type(await outcome(kept(1))) is Unpicklable
            assert "cannot be remembered" in caplog.text

        run(main)

    def test_store_if_ttl_and_what_cannot_be_stored(self, store):
        function = Calls(lambda x: x)
        kept = function.kept(store, store_if=lambda result: result != 1, ttl=lambda result: 5 if result else 0)

        async def main():
            for number in (0, 1, 2):
                await kept(number), await kept(number)
            assert [x for x, _ in function.calls] == [0, 0, 1, 1, 2]
            function.result = lambda _: threading.Lock()
            error = await outcome(kept(5))
            assert isinstance(error, EncodeError)
            assert "the result of function cannot be stored" in str(error)

        run(main)

    def test_what_cannot_be_read_is_computed_again(self, store, monkeypatch, caplog):
        function = Calls(Gone())
        kept = function.kept(store)

        async def main():
            await kept()
            function.result = "other"
            with monkeypatch.context() as patch:
                patch.delattr(sys.modules["test_memoize"], "Gone")
                return [await kept(), await kept()]

        assert run(main) == ["other"] * 2
        assert "computed again" in caplog.text

    def test_in_a_transaction_it_is_computed_and_not_kept(self, store):
        function = Calls()
        kept = function.kept(store)

        async def main():
            await kept(1)
            with store.transaction() as txn:
                txn["key"] = 1
                assert [await kept(1), len(function)] == ["result", 1]
                assert [await kept(2), await kept.refresh(1), len(function)] == ["result", "result", 3]
                assert await store.get_or_compute("other", plain_one) == 1
            assert [kept.cache_contains(1), kept.cache_contains(2), "other" in store] == [True, False, False]

        run(main)

    def test_for_reading_it_is_computed_and_not_kept(self, kind, tmp_path):
        open_store(kind, tmp_path / "a.store").close()
        function = Calls()
        with kind(tmp_path / "a.store", "r") as store:
            kept = function.kept(store)

            async def main():
                return [await kept(), await kept(), await store.get_or_compute("key", plain_one)]

            assert run(main) == ["result", "result", 1]
        assert len(function) == 2

    def test_closed(self, store):
        kept = Calls().kept(store)

        async def main():
            await kept()
            store.close()
            for awaitable in (kept(), kept.refresh(), store.get_or_compute("key", plain_one)):
                assert type(await outcome(awaitable)) is StoreClosed

        run(main)


async def plain_one():
    return 1


class TestGetOrCompute:
    def test_what_is_there_is_given_and_what_is_not_is_made(self, store):
        made = []

        async def make():
            made.append(1)
            await asyncio.sleep(0.01)
            return [1]

        async def main():
            store["there"] = 5
            assert await store.get_or_compute("there", make) == 5
            results = await asyncio.gather(*(store.get_or_compute("key", make) for _ in range(10)))
            assert results == [[1]] * 10
            assert len({id(result) for result in results}) == 10
            assert len(made) == 1
            assert store["key"] == [1]
            await store.get_or_compute(
                "tagged", functools.partial(plain, 1), ttl=lambda result: result[0], tags=["tag"]
            )
            assert (store["tagged"], store.ttl("tagged"), list(store.range(tag="tag"))) == ([1, 1], 1, ["tagged"])
            assert await store.get_or_compute("object", functools.partial(Adder(1), 2)) == 3

        run(main)

    def test_none_and_errors(self, store, monkeypatch):
        made = []

        async def nothing():
            made.append(1)

        async def wrong():
            raise KeyError("mine")

        async def main():
            for _ in range(2):
                assert await store.get_or_compute("none", nothing) is None
            error = await outcome(store.get_or_compute("key", wrong))
            assert (error.args, error.__context__) == (("mine",), None)
            assert isinstance(await outcome(store.get_or_compute(object(), nothing)), TypeError)
            store["gone"] = Gone()
            with monkeypatch.context() as patch:
                patch.delattr(sys.modules["test_memoize"], "Gone")
                assert isinstance(await outcome(store.get_or_compute("gone", nothing)), DecodeError)

        run(main)
        assert made == [1]
