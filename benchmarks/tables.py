"""A table of figures: kept as JSON, and drawn from that alone.

The contenders are its columns and what was measured its rows; the ratio of a figure is to the first
contender of the table, objstore wherever it is there.  A figure is never typed: it is in the JSON or it
is in no table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from benchmarks.measure import ratio


class Row(TypedDict):
    name: str
    values: dict[str, float]
    """By contender; who is missing cannot do it or was not asked."""
    ratios: dict[str, float]
    notes: dict[str, str]
    """Why somebody is missing."""


class Table(TypedDict):
    title: str
    text: str
    unit: str
    columns: list[str]
    rows: list[Row]
    higher_is_better: bool
    compared: bool
    """Whether the columns are contenders, of which one is the best, and not works of one of them."""
    chart: str
    """"ratio" to the first contender, "value", "lines" (rows are numbers, see `axis`), or nothing."""
    axis: str


def table(
    title: str,
    text: str,
    unit: str,
    columns: Sequence[str],
    *,
    chart: str = "ratio",
    axis: str = "",
    higher_is_better: bool = False,
    compared: bool = True,
) -> Table:
    """An empty one."""
    return {
        "title": title,
        "text": text,
        "unit": unit,
        "columns": list(columns),
        "rows": [],
        "higher_is_better": higher_is_better,
        "compared": compared,
        "chart": chart,
        "axis": axis,
    }


def add(
    to: Table, name: str, measured: Mapping[str, list[float] | float], notes: Mapping[str, str] | None = None
) -> None:
    """Another row: the medians of what was measured in rounds, or single figures."""
    times = {label: list(value) if isinstance(value, list) else [value] for label, value in measured.items()}
    base = times.get(to["columns"][0])
    comparable = to["compared"] and base is not None and all(base)
    to["rows"].append(
        {
            "name": name,
            "values": {label: significant(median(taken)) for label, taken in times.items()},
            "ratios": {
                label: significant(ratio(taken, base or []))
                for label, taken in times.items()
                if comparable and len(taken) == len(base or [])
            },
            "notes": dict(notes or {}),
        }
    )


def significant(value: float) -> float:
    """Four digits: more is noise, and makes two runs differ where nothing does."""
    return float(f"{value:.4g}")


def shown(value: float) -> str:
    """Three digits, in a form that reads well."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.{places}f}"


def markdown(content: Table) -> str:
    """The table: the best of each row is bold, and the longer side goes down."""
    if not content["rows"]:
        return ""
    columns = [label for label in content["columns"] if any(label in row["values"] for row in content["rows"])]
    cells = [[_cell(content, row, label) for label in columns] for row in content["rows"]]
    names = [row["name"] for row in content["rows"]]
    head, lines = content["unit"], list(zip(names, cells, strict=True))
    if len(columns) > len(names) and content["compared"]:
        lines = [(label, [row[number] for row in cells]) for number, label in enumerate(columns)]
        columns = names
    text = [f"| {head} | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    text += [f"| {name} | {' | '.join(row)} |" for name, row in lines]
    notes = [f"* {row['name']}: {label} {note}" for row in content["rows"] for label, note in row["notes"].items()]
    return "\n".join([*text, *([""] if notes else []), *notes])


def _cell(content: Table, row: Row, label: str) -> str:
    if label not in row["values"]:
        return "-"
    value = row["values"][label]
    best = (max if content["higher_is_better"] else min)(row["values"].values())
    bold = content["compared"] and value == best and len(row["values"]) > 1
    text = f"**{shown(value)}**" if bold else shown(value)
    if label in row["ratios"] and label != content["columns"][0]:
        text += f" ({shown(row['ratios'][label])})"
    return text


def load(path: Path) -> dict[str, Any]:
    """What earlier runs measured."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def save(path: Path, results: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
