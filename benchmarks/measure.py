"""How things are measured: in turns, by medians, with the machine named.

Contenders take turns in short rounds of one process, so that what the machine does meanwhile hits all of
them; a ratio is taken within a round, and the medians of rounds are what is quoted.  Memory is that of a
fresh process, whose figures nobody else's past is in.
"""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter

Turn = Callable[[], float]
"""Does its work once and says how many seconds that took."""


def timed(function: Callable[..., object], *arguments: object) -> Turn:
    def turn() -> float:
        began = perf_counter()
        function(*arguments)
        return perf_counter() - began

    return turn


def interleave(
    turns: Mapping[str, Turn],
    rounds: int,
    *,
    least: int = 5,
    seconds: float = float("inf"),
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """What each turn took in each round, after one round to warm up.

    Another one begins each round.  At most so many rounds, and after `least` of them only while less than
    `seconds` have passed.
    """
    names = list(turns)
    taken: dict[str, list[float]] = {name: [] for name in names}
    end = perf_counter() + seconds
    for number in range(rounds + 1):
        if number > least and perf_counter() > end:
            break
        before()
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(turns[name]())
    return {name: times[1:] for name, times in taken.items()}


def ratio(times: list[float], base: list[float]) -> float:
    """How many times as long it took, as the median over the rounds."""
    return median(mine / other for mine, other in zip(times, base, strict=True))


def fitting(run: Callable[[int], float], seconds: float, most: int) -> int:
    """How many operations take about so long, by trying: `run(count)` does so many and says what it took."""
    count = 1
    while (taken := run(count)) < seconds / 4 and count < most:
        count = min(most, count * 4)
    return max(1, min(most, round(count * seconds / max(taken, 1e-9))))


@contextmanager
def no_collection() -> Iterator[None]:
    """Cycles are not collected meanwhile: whoever's turn it is would pay for all."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run_python(program: str, *arguments: str, cache: str | None = None) -> str:
    """What a fresh interpreter prints; compiled modules are kept in the directory `cache`."""
    environment = dict(os.environ)
    if cache is not None:
        environment.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=cache)
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def import_time(modules: str, cache: str) -> float:
    """The seconds that a fresh interpreter takes to import these, compiled before as in an installed package."""
    program = f"from time import perf_counter as now; began = now(); import {modules}; print(now() - began)"
    return float(run_python(program, cache=cache))


def memory(process: str = "self") -> dict[str, int]:
    """Bytes of memory of a process: now, at most so far, and what is its own and not a page of a file.

    From the kernel's table, because `ru_maxrss` of a child begins with what its parent had.
    """
    lines = dict(line.split(":", 1) for line in _lines(f"/proc/{process}/status") if line.startswith(("Vm", "Rss")))
    names = {"now": "VmRSS", "peak": "VmHWM", "private": "RssAnon"}
    return {name: int(lines[field].split()[0]) * 1024 for name, field in names.items() if field in lines}


def size_of(path: str) -> int:
    """Bytes on disk of all files in a directory, holes not counted."""
    return sum(os.lstat(file).st_blocks * 512 for file in Path(path).rglob("*") if not file.is_dir())


def packages(names: list[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(directory: str) -> str:
    """Where this is measured."""
    models = [text.split(":")[1].strip() for text in _lines("/proc/cpuinfo") if text.startswith("model name")]
    mounts = [text.split()[1:3] for text in _lines("/proc/mounts")]
    _, system = max((mount for mount in mounts if directory.startswith(mount[0])), default=("", "unknown"))
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores, {total:.0f} GiB, "
        f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, {system}"
    )


def today() -> str:
    return time.strftime("%Y-%m-%d")


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.exists(path) else []
