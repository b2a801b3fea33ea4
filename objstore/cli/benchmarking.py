"""`objstore bench`: what the store does on this machine, on this disk, in a few seconds.

Each kind of work is done again and again for its share of the time, in a store that is made for it and removed; what is
told is the median, in microseconds.  Shares are small, so the figures say what to expect, not which of two versions is
faster.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from objstore import Store, __version__
from objstore.cli.arguments import json_option, place_argument
from objstore.cli.printing import printable, say_json
from objstore.cli.working import progress_of, refusals

_DURABILITIES = ("full", "relaxed", "process")
_MANY = 1000  # small items, in the works that count each item


class _Work(NamedTuple):
    name: str
    each: Callable[[int], object]
    """Does the work once; how often it was done before is its argument."""
    items: int = 1
    """How many items it does then."""


@click.command()
@place_argument("directory", "[DIRECTORY]", required=False)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=10, show_default=True, help="How long it takes, about."
)
@json_option
def bench(directory: str | None, seconds: float, as_json: bool) -> None:
    """Measure reads and writes in a temporary store in DIRECTORY, at each durability.

    Without DIRECTORY it lies where temporary files do, which may be memory: name a place on the disk that you will
    use.  The store is removed at the end.
    """
    with refusals("the temporary store is removed"), progress_of("measuring") as progress:
        try:
            with tempfile.TemporaryDirectory(dir=directory, prefix="objstore-bench-") as place:
                measured = _measure(place, seconds, progress)
        except OSError as exc:
            raise click.ClickException(printable(f"there can be no store: {exc}; name another directory")) from exc
    if as_json:
        say_json({"objstore": __version__, "python": platform.python_version(), "microseconds": measured})
    else:
        _draw(measured, directory or tempfile.gettempdir())


def _measure(place: str, seconds: float, progress: Callable[[int, int], None]) -> dict[str, dict[str, float]]:
    """The microseconds of each work, by durability."""
    measured: dict[str, dict[str, float]] = {}
    done = itertools.count(1)
    for durability in _DURABILITIES:
        with Store[Any, Any](os.path.join(place, durability), durability=durability) as store:
            works = list(_works(store))
            total = len(works) * len(_DURABILITIES)
            row = measured[durability] = {}
            for work in works:
                row[work.name] = round(_time(work, seconds / total), 3)
                progress(next(done), total)
    return measured


def _time(work: _Work, seconds: float) -> float:
    """The median microseconds of an item, measured for so long, or once if that takes longer."""
    clock, taken = time.perf_counter, []
    end = clock() + seconds
    for turn in itertools.count():  # pragma: no branch
        began = clock()
        work.each(turn)
        ended = clock()
        taken.append(ended - began)
        if ended >= end:
            break
    return median(taken) / work.items * 1e6


def _works(store: Store[Any, Any]) -> Iterator[_Work]:
    """In this order: what is read was written before."""
    small = {("user", number): {"id": number, "name": f"user {number}"} for number in range(_MANY)}
    numbers = list(range(10_000))
    yield _Work("update, each of 1,000 items", lambda _: store.update(small), _MANY)
    yield _Work("put", lambda turn: store.set(("user", turn % _MANY), small["user", turn % _MANY]))
    yield _Work("get", lambda turn: store["user", turn % _MANY])
    yield _Work("get_many, each of 1,000 items", lambda _: store.get_many(small), _MANY)
    yield _Work("items(), each", lambda _: sum(1 for _ in store.range(prefix=("user",)).items()), _MANY)
    yield _Work("list of 10,000 numbers, put", lambda _: store.set("numbers", numbers))
    yield _Work("list of 10,000 numbers, get", lambda _: store["numbers"])
    if importlib.util.find_spec("numpy"):
        import numpy as np

        array = np.linspace(0.0, 1.0, 1_000_000)
        yield _Work("8 MB array, put", lambda _: store.set("array", array))
        yield _Work("8 MB array, get", lambda _: store["array"])
        yield _Work("8 MB array, view", lambda _: store.view("array"))


def _draw(measured: dict[str, dict[str, float]], place: str) -> None:
    table = Table("", title=Text(printable(f"microseconds, in {place}")), title_justify="left")
    for durability in measured:
        table.add_column(durability, justify="right")
    for name in measured[_DURABILITIES[0]]:
        table.add_row(name, *(_three_digits(row[name]) for row in measured.values()))
    Console().print(table)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
