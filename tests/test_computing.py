"""One computes, all others wait: threads and tasks, whoever is cancelled or interrupted.

What processes do with each other is in `test_computing_processes`.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import signal
import threading
import time
import weakref
from contextlib import suppress

import children
import pytest
from contract_engine import writing
from jobs import Job

from objstore import Store
from objstore.computing.flights import here
from objstore.computing.once import BUSY, computations_of

# How long anything may take before it is said to hang.
LONG = 10


@pytest.fixture
def engine(location):
    with Store(location) as store:
        yield store._engine


@pytest.fixture
def computations(engine):
    return computations_of(engine)


@pytest.fixture(autouse=True)
def nobody_looks_out_afterwards():
    yield
    deadline = time.monotonic() + LONG
    while "objstore-lookout" in thread_names() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "objstore-lookout" not in thread_names()


def thread_names():
    return [thread.name for thread in threading.enumerate()]


class Counted:
    """A computation that counts its calls, and goes on when it is let."""

    def __init__(self, result=b"result", error=None):
        self.calls = 0
        self.result = result
        self.error = error
        self.began = threading.Event()
        self.may_end = threading.Event()

    def __call__(self):
        self.calls += 1
        self.began.set()
        assert self.may_end.wait(LONG)
        if self.error is not None:
            raise self.error
        return self.result

    async def as_task(self):
        self.calls += 1
        self.began.set()
        while not self.may_end.is_set():
            await asyncio.sleep(0.001)
        if self.error is not None:
            raise self.error
        return self.result


def outcome(call, *arguments, **options):
    """What a call gives or raises."""
    try:
        return call(*arguments, **options)
    except BaseException as exc:  # noqa: BLE001  (it is compared)
        return exc


class InThreads:
    """Calls in threads of their own; `outcomes()` when all have ended."""

    def __init__(self, *calls):
        self._outcomes = [None] * len(calls)
        self._threads = [
            threading.Thread(target=self._run, args=(place, call), daemon=True) for place, call in enumerate(calls)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, place, call):
        self._outcomes[place] = outcome(call)

    def outcomes(self):
        for thread in self._threads:
            thread.join(LONG)
            assert not thread.is_alive(), "it hangs"
        return self._outcomes


def waiters(computations, name):
    """How many wait for a flight."""
    reference = computations.flights.get(name)
    flight = reference and reference()
    return len(flight.wakes) if flight else 0


def until(condition):
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never comes to that"
        time.sleep(0.001)


def in_time(call):
    """What a call gives or raises, in a thread of its own under a time limit."""
    (result,) = InThreads(call).outcomes()
    if isinstance(result, BaseException):
        raise result
    return result


def within(coroutine):
    """The same of a coroutine, in a loop of its own."""

    async def limited():
        async with asyncio.timeout(LONG):
            return await coroutine

    return in_time(lambda: asyncio.run(limited()))


class TestThreads:
    def test_what_is_stored_is_not_computed(self, engine, computations):
        assert computations.run(Job(engine, "name", lambda: 1)) == 1
        assert computations.run(Job(engine, "name", lambda: 2)) == 1

    def test_a_hundred_threads_get_what_one_computes(self, engine, computations):
        compute = Counted(result=["a"])
        threads = InThreads(*[lambda: computations.run(Job(engine, "name", compute))] * 100)
        until(lambda: waiters(computations, b"name") == 99)
        compute.may_end.set()
        results = threads.outcomes()
        assert results == [["a"]] * 100
        assert compute.calls == 1
        assert len({id(result) for result in results}) == 100  # each has his own copy

    def test_other_names_are_computed_beside_it(self, engine, computations):
        first, second = Counted(1), Counted(2)
        threads = InThreads(
            lambda: computations.run(Job(engine, "first", first)),
            lambda: computations.run(Job(engine, "second", second)),
        )
        assert first.began.wait(LONG)
        assert second.began.wait(LONG)
        second.may_end.set()
        first.may_end.set()
        assert threads.outcomes() == [1, 2]

    def test_what_is_not_stored_reaches_those_who_wait(self, engine, computations):
        compute = Counted(result=["a"])
        threads = InThreads(*[lambda: computations.run(Job(engine, "name", compute, stores=False))] * 10)
        until(lambda: waiters(computations, b"name") == 9)
        compute.may_end.set()
        assert {id(result) for result in threads.outcomes()} == {id(compute.result)}
        assert compute.calls == 1
        assert computations.run(Job(engine, "name", lambda: "again")) == "again"

    def test_what_is_gone_already_reaches_those_who_wait(self, engine, computations):
        class Forgetting(Job):
            def keep(self, result):
                return True

        compute = Counted()
        threads = InThreads(*[lambda: computations.run(Forgetting(engine, "name", compute))] * 10)
        until(lambda: waiters(computations, b"name") == 9)
        compute.may_end.set()
        assert threads.outcomes() == [b"result"] * 10
        assert compute.calls == 1

    def test_an_exception_reaches_those_who_wait_and_nobody_else(self, engine, computations):
        compute = Counted(error=KeyError("wrong"))
        threads = InThreads(*[lambda: computations.run(Job(engine, "name", compute))] * 10)
        until(lambda: waiters(computations, b"name") == 9)
        compute.may_end.set()
        assert threads.outcomes() == [compute.error] * 10
        assert compute.calls == 1
        assert computations.run(Job(engine, "name", lambda: "again")) == "again"

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
    def test_who_is_interrupted_harms_nobody_else(self, engine, computations, error):
        first, second = Counted(error=error()), Counted()
        leader = InThreads(lambda: computations.run(Job(engine, "name", first)))
        assert first.began.wait(LONG)
        others = InThreads(*[lambda: computations.run(Job(engine, "name", second))] * 10)
        until(lambda: waiters(computations, b"name") == 10)
        first.may_end.set()
        second.may_end.set()
        assert type(*leader.outcomes()) is error
        assert others.outcomes() == [b"result"] * 10
        assert second.calls == 1

    def test_a_failing_store_fails_all(self, engine, computations):
        class Full(Job):
            def keep(self, result):
                raise OSError("full")

        compute = Counted()
        threads = InThreads(*[lambda: computations.run(Full(engine, "name", compute))] * 3)
        until(lambda: waiters(computations, b"name") == 2)
        compute.may_end.set()
        assert {type(result) for result in threads.outcomes()} == {OSError}
        assert engine.claim(b"name") is not None

    def test_who_does_not_wait_is_told_that_somebody_computes(self, engine, computations):
        compute = Counted()
        leader = InThreads(lambda: computations.run(Job(engine, "name", compute), wait=False))
        assert compute.began.wait(LONG)
        assert in_time(lambda: computations.run(Job(engine, "name", compute), wait=False)) is BUSY
        assert within(computations.run_async(Job(engine, "name", compute.as_task), wait=False)) is BUSY
        compute.may_end.set()
        assert leader.outcomes() == [b"result"]
        assert computations.run(Job(engine, "name", compute), wait=False) == b"result"
        assert compute.calls == 1

    def test_inside_a_transaction_nobody_waits_or_stores(self, engine, computations):
        """Whoever computes would wait for the end of the transaction, to store."""
        compute = Counted()
        leader = InThreads(lambda: computations.run(Job(engine, "name", compute)))
        assert compute.began.wait(LONG)

        async def mine():
            return "mine"

        def in_transaction():
            with writing(engine):
                compute.may_end.set()
                return [
                    computations.run(Job(engine, "name", lambda: "mine")),
                    computations.run(Job(engine, "other", lambda: "mine")),
                    asyncio.run(computations.run_async(Job(engine, "name", mine))),
                    asyncio.run(computations.run_async(Job(engine, "other", mine))),
                ]

        assert in_time(in_transaction) == ["mine"] * 4
        assert leader.outcomes() == [b"result"]
        assert outcome(Job(engine, "other", None).look).args == (b"other",)  # a KeyError

    def test_who_waits_and_is_interrupted_waits_no_more(self, engine, computations):
        """In the main thread of another process: a signal comes while it waits."""

        def in_child():
            compute = Counted()
            leader = InThreads(lambda: computations.run(Job(engine, "name", compute)))
            assert compute.began.wait(LONG)
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            interrupted = outcome(computations.run, Job(engine, "name", compute))
            left = waiters(computations, b"name")
            compute.may_end.set()
            return type(interrupted), left, leader.outcomes()

        assert children.result(in_child) == (KeyboardInterrupt, 0, [b"result"])

    def test_a_leader_who_vanishes_without_a_word_is_missed(self, engine, computations):
        """As one who is interrupted before he can say anything."""
        compute = Counted()
        leader = type("Leader", (), {})()
        gone = computations._board(b"name", leader, None)
        thread = InThreads(lambda: computations.run(Job(engine, "name", compute)))
        until(lambda: waiters(computations, b"name") == 1)
        assert not gone.is_over()
        del leader
        compute.may_end.set()
        assert thread.outcomes() == [b"result"]


class TestTasks:
    def test_a_hundred_tasks_get_what_one_computes(self, engine, computations):
        calls = []

        async def compute():
            calls.append(None)
            await asyncio.sleep(0.05)
            return ["a"]

        async def main():
            return await asyncio.gather(*(computations.run_async(Job(engine, "name", compute)) for _ in range(100)))

        results = within(main())
        assert results == [["a"]] * 100
        assert len(calls) == 1
        assert len({id(result) for result in results}) == 100

    def test_an_exception_reaches_all(self, engine, computations):
        error = ValueError("wrong")

        async def compute():
            await asyncio.sleep(0.02)
            raise error

        async def main():
            jobs = [computations.run_async(Job(engine, "name", compute)) for _ in range(10)]
            return await asyncio.gather(*jobs, return_exceptions=True)

        assert within(main()) == [error] * 10

    def test_the_loop_is_not_blocked_by_those_who_wait_or_store(self, engine, computations):
        compute, loop_thread = Counted(), []

        class Slow(Job):
            def look(self):
                assert threading.get_ident() != loop_thread[0]
                return super().look()

            keep_thread = None

            def keep(self, result):
                Slow.keep_thread = threading.current_thread().name
                return super().keep(result)

        async def main():
            loop_thread.append(threading.get_ident())
            thread = InThreads(lambda: computations.run(Job(engine, "name", compute)))
            assert compute.began.wait(LONG)
            waiting = [
                asyncio.create_task(computations.run_async(Slow(engine, "name", compute.as_task))) for _ in range(20)
            ]
            while waiters(computations, b"name") < 20:
                await asyncio.sleep(0.001)  # the loop turns
            compute.may_end.set()
            own = await computations.run_async(Slow(engine, "other", compute.as_task))
            return thread.outcomes() + await asyncio.gather(*waiting) + [own]

        assert within(main()) == [b"result"] * 22
        assert compute.calls == 2
        assert Slow.keep_thread.startswith("objstore-helper")

    def test_threads_and_tasks_of_several_loops_share_one_computation(self, engine, computations):
        compute = Counted()

        def in_loop():
            async def main():
                return await asyncio.gather(
                    *(computations.run_async(Job(engine, "name", compute.as_task)) for _ in range(5))
                )

            return within(main())

        def in_thread():
            return [computations.run(Job(engine, "name", compute))]

        threads = InThreads(*[in_loop, in_thread] * 4)
        until(lambda: waiters(computations, b"name") >= 23)  # the leader is one of 24, and waits too if it is a task
        compute.may_end.set()
        assert [result for results in threads.outcomes() for result in results] == [b"result"] * 24
        assert compute.calls == 1

    def test_one_who_is_cancelled_harms_nobody_else(self, engine, computations):
        async def main(victim):
            compute = Counted()
            tasks = [
                asyncio.create_task(computations.run_async(Job(engine, f"{victim}", compute.as_task))) for _ in range(5)
            ]
            while waiters(computations, b"%d" % victim) < 5:
                await asyncio.sleep(0.001)
            tasks[victim].cancel()
            compute.may_end.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert type(results.pop(victim)) is asyncio.CancelledError
            return results, compute.calls

        assert within(main(0)) == ([b"result"] * 4, 1)
        assert within(main(3)) == ([b"result"] * 4, 1)

    @pytest.mark.parametrize("number", [1, 5])
    def test_with_the_last_who_is_cancelled_the_computation_is(self, engine, computations, number):
        seen = []

        async def compute():
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        async def main():
            tasks = [asyncio.create_task(computations.run_async(Job(engine, "name", compute))) for _ in range(number)]
            while waiters(computations, b"name") < number or engine.claim(b"name"):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert engine.claim(b"name") is not None  # at once
            await asyncio.sleep(0.01)
            assert seen == ["cancelled"]

            async def again():
                return "again"

            return await computations.run_async(Job(engine, "name", again))

        assert within(main()) == "again"

    def test_a_thread_that_waits_keeps_a_computation_whose_tasks_are_cancelled(self, engine, computations):
        compute = Counted()

        async def main():
            task = asyncio.create_task(computations.run_async(Job(engine, "name", compute.as_task)))
            while not compute.began.is_set():
                await asyncio.sleep(0.001)
            thread = InThreads(lambda: computations.run(Job(engine, "name", compute)))
            while waiters(computations, b"name") < 2:
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
            compute.may_end.set()
            return await asyncio.to_thread(thread.outcomes)

        assert within(main()) == [b"result"]
        assert compute.calls == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("closes", [True, False])
    def test_a_loop_that_is_closed_or_stopped_while_it_computes_keeps_nobody_waiting(
        self, engine, computations, closes, caplog
    ):
        compute = Counted()
        loop = asyncio.new_event_loop()
        task = loop.create_task(computations.run_async(Job(engine, "name", compute.as_task)))

        async def until_it_computes():
            while not compute.began.is_set():
                await asyncio.sleep(0.001)

        loop.run_until_complete(until_it_computes())
        if closes:
            loop.close()
        assert InThreads(lambda: computations.run(Job(engine, "name", lambda: "another"))).outcomes() == ["another"]
        if closes:
            assert engine.claim(b"name") is not None
        else:
            compute.may_end.set()
            assert loop.run_until_complete(task) == b"result"
            loop.close()
        del task, loop
        gc.collect()

    def test_a_computation_that_cancels_itself_says_so_to_its_own_caller(self, engine, computations):
        async def compute():
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            within(computations.run_async(Job(engine, "name", compute)))

    def test_it_computes_in_the_context_of_its_caller(self, engine, computations):
        variable = contextvars.ContextVar("variable")

        async def compute():
            return variable.get()

        class Job2(Job):
            def keep(self, result):
                assert variable.get() == "mine"
                return super().keep(result)

        async def main():
            variable.set("mine")
            return await computations.run_async(Job2(engine, "name", compute))

        assert within(main()) == "mine"

    def test_a_caller_on_the_thread_of_the_loop_that_computes_does_not_wait_for_it(self, engine, computations):
        compute = Counted()

        async def main():
            task = asyncio.create_task(computations.run_async(Job(engine, "name", compute.as_task)))
            while not compute.began.is_set():
                await asyncio.sleep(0.001)
            result = computations.run(Job(engine, "name", lambda: "mine"))
            compute.may_end.set()
            return result, await task

        assert within(main()) == ("mine", b"result")


class TestCallsInsideOfCalls:
    def test_recursion(self, engine, computations):
        calls = []

        def fib(number):
            def make():
                calls.append(number)
                return number if number < 2 else fib(number - 1) + fib(number - 2)

            return computations.run(Job(engine, f"fib {number}", make))

        assert in_time(lambda: fib(30)) == 832040
        assert sorted(calls) == list(range(31))

    def test_recursion_of_coroutine_functions(self, engine, computations):
        calls = []

        async def fib(number):
            async def make():
                calls.append(number)
                return number if number < 2 else sum(await asyncio.gather(fib(number - 1), fib(number - 2)))

            return await computations.run_async(Job(engine, f"fib {number}", make))

        assert within(fib(20)) == 6765
        assert sorted(calls) == list(range(21))

    def test_a_call_of_the_same_name_computes(self, engine, computations):
        depth = []

        def make():
            depth.append(None)
            return 1 if len(depth) == 3 else call()

        def call():
            return computations.run(Job(engine, "name", make))

        assert in_time(call) == 1
        assert len(depth) == 3
        assert in_time(call) == 1
        assert len(depth) == 3

    def test_two_that_call_each_other_in_two_threads(self, engine, computations):
        both = threading.Barrier(2)

        def call(name, other, is_outer=True):
            def make():
                if not is_outer:
                    return name
                both.wait(LONG)
                return name + call(other, name, is_outer=False)

            return computations.run(Job(engine, name, make))

        assert InThreads(lambda: call("a", "b"), lambda: call("b", "a")).outcomes() in (
            ["ab", "ba"],  # who computed anew had the inner one
            ["aba", "ba"],
            ["ab", "bab"],
        )

    def test_three_that_call_each_other_in_a_circle_of_tasks_and_threads(self, engine, computations):
        began = threading.Barrier(3)

        def call(name, others):
            def make():
                if len(others) == 2:
                    began.wait(LONG)
                return name if not others else name + call(others[0], others[1:])

            return computations.run(Job(engine, name, make))

        async def call_async(name, others):
            async def make():
                if len(others) == 2:
                    await asyncio.to_thread(began.wait, LONG)
                return name if not others else name + await call_async(others[0], others[1:])

            return await computations.run_async(Job(engine, name, make))

        results = InThreads(
            lambda: call("a", "bc"), lambda: call("b", "ca"), lambda: within(call_async("c", "ab"))
        ).outcomes()
        assert [str(result)[0] for result in results] == ["a", "b", "c"]

    def test_two_that_call_each_other_among_tasks_with_gather(self, engine, computations):
        names = "abcd"
        calls = []

        async def call(name, depth):
            async def make():
                calls.append(name)
                await asyncio.sleep(0.01)
                if depth:
                    await asyncio.gather(*(call(other, depth - 1) for other in names if other != name))
                return name

            return await computations.run_async(Job(engine, name, make))

        async def main():
            return await asyncio.gather(*(call(name, 2) for name in names))

        assert within(main()) == list(names)

    def test_inside_a_computation_one_waits_for_another_that_does_not_wait_for_it(self, engine, computations):
        inner = Counted("inner")

        def outer():
            return computations.run(Job(engine, "inner", inner))

        threads = InThreads(
            lambda: computations.run(Job(engine, "inner", inner)), lambda: computations.run(Job(engine, "outer", outer))
        )
        until(lambda: waiters(computations, b"inner") == 1)
        inner.may_end.set()
        assert threads.outcomes() == ["inner", "inner"]
        assert inner.calls == 1

    def test_a_call_in_the_middle_of_a_loop_that_another_waits_for(self, engine, computations):
        """A task computes; the thread of its loop blocks on another thread, which wants what the task computes."""
        compute, other_began = Counted(), threading.Event()

        def other():
            other_began.set()
            until(lambda: waiters(computations, b"other") == 1)
            return computations.run(Job(engine, "name", lambda: "computed there, too"))

        async def main():
            task = asyncio.create_task(computations.run_async(Job(engine, "name", compute.as_task)))
            while not compute.began.is_set():
                await asyncio.sleep(0.001)
            thread = InThreads(lambda: computations.run(Job(engine, "other", other)))
            assert other_began.wait(LONG)
            found = computations.run(Job(engine, "other", other))
            compute.may_end.set()
            return found, thread.outcomes(), await task

        assert within(main()) == ("computed there, too", ["computed there, too"], b"result")

    def test_a_task_that_outlives_its_computation_is_inside_of_the_one_around(self, engine, computations):
        claim = engine.claim(b"inner")  # as if another process had it
        tasks = []

        async def outer():
            await computations.run_async(Job(engine, "middle", middle))
            await asyncio.sleep(0.01)
            gc.collect()
            return await tasks[0]

        async def middle():
            tasks.append(asyncio.create_task(later()))

        async def later():
            await asyncio.sleep(0.02)
            return await computations.run_async(Job(engine, "inner", inner))

        async def inner():
            return "inside"

        assert within(computations.run_async(Job(engine, "outer", outer))) == "inside"
        claim.release()

    def test_a_task_that_outlives_its_computation_is_outside_again(self, engine, computations):
        inner = Counted()
        tasks = []

        async def outer():
            tasks.append(asyncio.create_task(later()))

        async def later():
            await asyncio.sleep(0.02)
            return await computations.run_async(Job(engine, "inner", inner.as_task))

        async def main():
            await computations.run_async(Job(engine, "outer", outer))
            claim = engine.claim(b"inner")  # as if another process had it
            while not waiters(computations, b"inner"):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.03)
            assert not inner.began.is_set()
            inner.may_end.set()
            claim.release()
            return await tasks[0]

        assert within(main()) == b"result"


class TestTheClaim:
    """A claim that is taken beside the computations stands for one of another process."""

    def test_who_gets_it_late_looks_before_he_computes(self, engine, computations):
        claim = engine.claim(b"name")
        compute = Counted()
        compute.may_end.set()
        threads = InThreads(*[lambda: computations.run(Job(engine, "name", compute))] * 10)
        until(lambda: waiters(computations, b"name") == 9)
        Job(engine, "name", None).keep("theirs")
        claim.release()
        assert threads.outcomes() == ["theirs"] * 10
        assert compute.calls == 0

    def test_what_was_left_counts_if_it_was_left_since(self, engine, computations):
        job = Job(engine, "name", lambda: "mine")
        job.leave("older", None)
        assert computations.run(job) == "mine"
        for number, left in enumerate([("left", None), (None, KeyError("left"))]):
            job = Job(engine, f"{number}", lambda: "mine")
            claim = engine.claim(job.name)
            thread = InThreads(lambda job=job: computations.run(job))
            until(lambda: computations_lookout()._awaited)
            job.leave(*left)
            claim.release()
            assert repr(thread.outcomes()) == repr([left[0] or left[1]])

    def test_who_does_not_wait_is_told(self, engine, computations):
        claim = engine.claim(b"name")
        assert in_time(lambda: computations.run(Job(engine, "name", None), wait=False)) is BUSY
        assert within(computations.run_async(Job(engine, "name", None), wait=False)) is BUSY
        claim.release()
        assert computations.run(Job(engine, "name", lambda: 1), wait=False) == 1

    def test_inside_a_computation_nobody_waits_for_it(self, engine, computations):
        claim = engine.claim(b"inner")

        def outer():
            return computations.run(Job(engine, "inner", lambda: "inner"))

        async def outer_async():
            async def inner():
                return "inner"

            return await computations.run_async(Job(engine, "inner 2", inner))

        assert in_time(lambda: computations.run(Job(engine, "outer", outer))) == "inner"
        claim = claim, engine.claim(b"inner 2")
        assert within(computations.run_async(Job(engine, "outer 2", outer_async))) == "inner"

    def test_inside_a_computation_nobody_waits_for_one_who_waits_for_it(self, engine, computations):
        claim = engine.claim(b"inner")
        outside = InThreads(lambda: computations.run(Job(engine, "inner", lambda: "outside")))
        until(lambda: computations_lookout()._awaited)

        def outer():
            return computations.run(Job(engine, "inner", lambda: "inside"), look_first=False)

        async def outer_async():
            async def inner():
                return "inside"

            return await computations.run_async(Job(engine, "inner", inner), look_first=False)

        assert in_time(lambda: computations.run(Job(engine, "outer", outer))) == "inside"
        assert within(computations.run_async(Job(engine, "outer 2", outer_async))) == "inside"
        claim.release()
        assert outside.outcomes() == ["inside"]  # it was stored meanwhile

    def test_inside_a_computation_one_who_waits_already_goes_on_when_the_other_must_wait(
        self, engine, computations, monkeypatch
    ):
        claims, may_claim = threading.Event(), threading.Event()
        claim, plain = engine.claim(b"inner"), type(engine).claim

        def slow(self, name):
            if name == b"inner":
                claims.set()
                assert may_claim.wait(LONG)
            return plain(self, name)

        monkeypatch.setattr(type(engine), "claim", slow)

        def inner():
            return computations.run(Job(engine, "inner", lambda: "inside", stores=False))

        async def inner_async():
            async def make():
                return "inside"

            return await computations.run_async(Job(engine, "inner", make, stores=False))

        outside = InThreads(lambda: computations.run(Job(engine, "inner", lambda: "outside")))
        assert claims.wait(LONG)  # it came first, and the others wait for it
        insides = InThreads(
            lambda: computations.run(Job(engine, "outer", inner)),
            lambda: asyncio.run(computations.run_async(Job(engine, "outer 2", inner_async))),
        )
        until(lambda: waiters(computations, b"inner") == 2)
        may_claim.set()
        until(lambda: waiters(computations, b"inner") == 0)
        claim.release()
        assert outside.outcomes() + insides.outcomes() == ["outside", "inside", "inside"]

    def test_one_thread_looks_out_for_fifty(self, engine, computations):
        claims = [engine.claim(b"%d" % number) for number in range(50)]
        before = threading.active_count()
        threads = InThreads(
            *[lambda number=number: computations.run(Job(engine, f"{number}", lambda: number)) for number in range(50)]
        )
        until(lambda: len(computations_lookout()._awaited) == 50)
        assert threading.active_count() == before + 51
        assert thread_names().count("objstore-lookout") == 1
        del claims
        assert threads.outcomes() == list(range(50))

    def test_who_is_cancelled_while_he_waits_leaves_nothing(self, engine, computations):
        claim = engine.claim(b"name")

        async def main():
            task = asyncio.create_task(computations.run_async(Job(engine, "name", None)))
            while not computations_lookout()._awaited:
                await asyncio.sleep(0.001)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.01)
            assert not computations_lookout()._awaited

        within(main())
        claim.release()
        assert engine.claim(b"name") is not None

    def test_an_error_of_the_engine_reaches_those_who_wait(self, engine, computations, monkeypatch):
        claim = engine.claim(b"name")
        threads = InThreads(*[lambda: computations.run(Job(engine, "name", None))] * 3)
        until(lambda: waiters(computations, b"name") == 2)
        error = OSError("no locks")

        def fail(_waiting):
            raise error

        monkeypatch.setattr(type(engine.await_claim(b"")), "poll", fail)
        assert threads.outcomes() == [error] * 3
        claim.release()


def computations_lookout():
    return here.lookout


class Held(Exception):
    """An error, which knows the frames that it went through, and they what they hold."""


class Missed(KeyError):
    """The same."""


def fail():
    raise Held


def give_error():
    try:
        fail()
    except Held as exc:
        return [exc]


async def fail_later():
    fail()


async def give_error_later():
    return give_error()


class Unstored(Job):
    """What comes of it goes nowhere; an error is remembered where it goes."""

    def __init__(self, engine, make):
        super().__init__(engine, "name", make, stores=False)
        self.missed = []

    def look(self):
        error = Missed()
        self.missed.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error


class TestNothingIsKept:
    """What nobody uses any more goes at once, and does not wait for the garbage collector: it may be large."""

    @pytest.fixture(autouse=True)
    def no_collector(self):
        gc.collect()
        gc.disable()
        yield
        gc.enable()

    @pytest.mark.parametrize("make", [fail, give_error])
    def test_of_a_thread(self, engine, computations, make):
        def error_of_one():
            try:
                return weakref.ref(computations.run(Unstored(engine, make))[0])
            except Held as exc:
                return weakref.ref(exc)

        assert error_of_one()() is None

    @pytest.mark.parametrize("make", [fail_later, give_error_later])
    def test_of_a_task(self, engine, computations, make):
        async def errors_of_one():
            job = Unstored(engine, make)
            try:
                error = weakref.ref((await computations.run_async(job))[0])
            except Held as exc:
                error = weakref.ref(exc)
            return [error, *job.missed]

        async def main():
            errors = await errors_of_one()
            await asyncio.sleep(0.01)  # the helper lets go
            return {error() for error in errors}

        assert asyncio.run(main()) == {None}
