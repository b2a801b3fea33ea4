"""One computation for many callers, in several processes; and who computes after a computer was killed.

Only the decorated function knows how often it was computed: each time, it leaves a file.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.caches.contenders import memos
from benchmarks.caches.sizes import Size, grid
from benchmarks.caches.team import Team, Worker, together
from benchmarks.tables import shown

KILLS = 5
PATIENCE = 8  # computations that an answer may take


def compute(directory: str, seconds: float) -> float:
    """Note in a file when this began, and take long."""
    began = time.monotonic()  # the same clock in all processes
    Path(directory, f"{began} {os.getpid()} {threading.get_ident()}").touch()
    time.sleep(seconds)
    return seconds


async def compute_later(directory: str, seconds: float) -> float:
    began = time.monotonic()
    Path(directory, f"{began} {os.getpid()} {id(asyncio.current_task())}").touch()
    await asyncio.sleep(seconds)
    return seconds


def computed(directory: str) -> list[float]:
    """When each computation began."""
    return sorted(float(path.name.split()[0]) for path in Path(directory).iterdir())


def once(size: Size, directory: str, team: Team) -> Iterator[str]:
    """The tables."""
    callers = size.team * size.callers
    yield f"### {callers:,} callers, one result"
    yield ""
    yield (
        f"{size.team} processes with {size.callers} callers each ask at one moment for a result that takes "
        f"{size.compute:g} s to compute, without using a core."
    )
    yield ""
    members = team.members(size.team)
    together(members, "benchmarks.caches.once:ready")
    rows = [asked(members, name, kind, size, directory) for name, kind in waiting(directory)]
    yield from grid(["memoized by", "callers", "computed", "until the last answer, s", "times one computation"], rows)
    yield from killed(size, directory, team)


def waiting(directory: str) -> Iterator[tuple[str, str]]:
    """Who waits how.  cachier comes last: it may wait for ever."""
    yield "Cache.memoize", "threads"
    yield "Cache.memoize", "tasks"
    for memo in memos(f"{directory}/names"):
        if memo.name not in ("Cache.memoize", "Store.memoize", "lru_cache"):
            yield memo.name, "threads"
        memo.close()


def ready(worker: int) -> None:
    """The worker is there, and has imported this."""


def asked(members: Sequence[Worker], name: str, kind: str, size: Size, directory: str) -> list[str]:
    """A row.  Who has no answer after all that time is killed."""
    place, notes = fresh(directory, f"{name} {kind}")
    at = time.monotonic() + size.compute / 2  # when all are there
    patience = PATIENCE * size.compute
    function = f"benchmarks.caches.once:{'ask' if kind == 'threads' else 'ask_later'}"
    for number, member in enumerate(members):
        member.tell(function, name, place, notes, size.compute, size.callers, at, number)
    ends = []
    for member in members:
        try:
            ends.append(member.answer(max(0.0, at + patience - time.monotonic())))
        except TimeoutError:
            member.kill()
    times = f"{len(computed(notes)):,} x"
    if len(ends) < len(members):
        return [
            name,
            kind,
            times,
            f"{len(members) - len(ends)} of {len(members)} processes still wait after {patience:g}",
            "-",
        ]
    took = max(ends) - at
    return [name, kind, times, f"{took:.2f}", f"{took / size.compute:.2f}"]


def fresh(directory: str, name: str) -> tuple[str, str]:
    """A directory for the memory, and one for the notes."""
    places = f"{directory}/{name}", f"{directory}/{name} notes"
    for place in places:
        os.makedirs(place)
    return places


def ask(name: str, place: str, notes: str, seconds: float, callers: int, at: float, worker: int) -> float:
    """So many threads ask; when the last had its answer."""
    memo = next(memo for memo in memos(place) if memo.name == name)
    function = memo.decorate(compute)

    def call() -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        assert function(notes, seconds) == seconds

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end = time.monotonic()
    memo.close()
    return end


def ask_later(name: str, place: str, notes: str, seconds: float, callers: int, at: float, worker: int) -> float:
    """The same with tasks of one event loop."""
    memo = next(memo for memo in memos(place) if memo.name == name)
    function = memo.decorate(compute_later)

    async def call() -> None:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        assert await function(notes, seconds) == seconds

    async def all_of_them() -> None:
        await asyncio.gather(*(call() for _ in range(callers)))

    asyncio.run(all_of_them())
    end = time.monotonic()
    memo.close()
    return end


# A computer that dies


def killed(size: Size, directory: str, team: Team) -> Iterator[str]:
    """How long nobody computes after a kill -9 of the one who did."""
    delays = [
        one_killed(size, f"{directory}/killed {number}", *team.members(2))
        for number in range(KILLS if size.rounds > 1 else 1)
    ]
    yield "The process that computes is killed (`kill -9`) while another waits:"
    yield ""
    rows = [[shown(median(delays) * 1e3), shown(max(delays) * 1e3), str(len(delays))]]
    yield from grid(["`Cache.memoize`: ms until another computes, median", "longest", "times"], rows)


def one_killed(size: Size, directory: str, first: Worker, second: Worker) -> float:
    os.makedirs(directory)
    place, notes = fresh(directory, "memory")
    together([first, second], "benchmarks.caches.once:ready")
    first.tell("benchmarks.caches.once:ask", "Cache.memoize", place, notes, 60.0, 1, 0.0, 0)
    until(lambda: len(computed(notes)) == 1)
    second.tell("benchmarks.caches.once:start", "Cache.memoize", place, notes, 60.0)
    second.answer()
    time.sleep(min(0.2, size.compute))  # it waits by now
    at = time.monotonic()
    first.kill()
    until(lambda: len(computed(notes)) == 2)
    second.kill()
    return computed(notes)[1] - at


def start(name: str, place: str, notes: str, seconds: float) -> None:
    """Ask in a thread, and do not wait for it."""
    memo = next(memo for memo in memos(place) if memo.name == name)
    threading.Thread(target=memo.decorate(compute), args=(notes, seconds), daemon=True).start()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("nobody computes")
        time.sleep(0.001)
