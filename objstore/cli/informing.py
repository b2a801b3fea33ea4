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
def info(store: str, as_json: bool) -> None:
    """What the store is and holds, and who reads and writes it.  Nothing is unpickled."""
    with opened(store, "r") as there:
        stats, namespaces = there.stats(), _namespaces(there)
        figures = {"location": there.location} | _figures(stats)
    if as_json:
        say_json(figures | _activities(stats) | {"namespaces": namespaces})
        return
    rows = {name: f"{value:,}" if isinstance(value, int) else value or "none" for name, value in figures.items()}
    if stats.writing is not None:
        rows["writing"] = _activity(stats.writing)
    rows |= {f"reading {number}": _activity(activity) for number, activity in enumerate(stats.reading, 1)}
    rows |= {f"in {name!r}": f"{entries:,} entries" for name, entries in namespaces.items()}
    width = max(map(len, rows))
    for name, row in rows.items():
        say(f"{name:<{width}}  {row}")


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
