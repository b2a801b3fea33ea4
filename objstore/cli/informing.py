"""`objstore info`: what a store is and holds, and who is at work there."""

from __future__ import annotations

from typing import Any

import click

from objstore import Activity, Stats, Store
from objstore.cli.arguments import json_option, store_argument
from objstore.cli.opening import opened
from objstore.cli.printing import say, say_json


@click.command()
@store_argument
@json_option
@click.option("--plot", is_flag=True, help="Draw which groups of keys take how many bytes; this looks at every record.")
@click.option(
    "--depth", type=click.IntRange(1, 20), default=1, help="How many elements or segments of keys make a group (1)."
)
def info(store: str, as_json: bool, plot: bool, depth: int) -> None:
    """What the store is and holds, and who reads and writes it.  Nothing is unpickled."""
    with opened(store, "r") as there:
        stats, namespaces = there.stats(), _namespaces(there)
        figures = {"location": there.location} | _figures(stats)
        groups = _groups(there, depth) if plot else None
    if as_json:
        weighed = {} if groups is None else {"groups": [vars(group) for group in groups]}
        say_json(figures | _activities(stats) | {"namespaces": namespaces} | weighed)
        return
    rows = {name: f"{value:,}" if isinstance(value, int) else value or "none" for name, value in figures.items()}
    if stats.writing is not None:
        rows["writing"] = _activity(stats.writing)
    rows |= {f"reading {number}": _activity(activity) for number, activity in enumerate(stats.reading, 1)}
    rows |= {f"in {name!r}": f"{entries:,} entries" for name, entries in namespaces.items()}
    width = max(map(len, rows))
    for name, row in rows.items():
        say(f"{name:<{width}}  {row}")
    if groups is not None:
        from rich.console import Console

        from objstore.cli.plotting import draw

        say("")
        draw(groups, Console(highlight=False))


def _groups(store: Store[Any, Any], depth: int) -> list[Any]:
    from objstore.cli.plotting import weigh
    from objstore.cli.working import progress_of

    with progress_of("weighing") as progress:
        return weigh(store, depth, progress=progress)


def _namespaces(store: Store[Any, Any]) -> dict[str, int]:
    """How many entries each has."""
    return {name: len(store.namespace(name)) for name in store.namespaces()}


def _figures(stats: Stats) -> dict[str, Any]:
    """What is a number or text.  What is held is held by this process, which is nothing."""
    return {name: value for name, value in vars(stats).items() if name not in ("held", "reading", "writing")}


def _activities(stats: Stats) -> dict[str, Any]:
    writing = None if stats.writing is None else stats.writing._asdict()
    return {"reading": [activity._asdict() for activity in stats.reading], "writing": writing}


def _activity(activity: Activity) -> str:
    age = "" if activity.age is None else f", for {activity.age:,.1f} s"
    behind = f", {activity.behind:,} commits behind" if activity.behind else ""
    return f"process {activity.process}{age}{behind}"
