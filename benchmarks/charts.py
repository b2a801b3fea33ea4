"""Charts of tables, as SVG and PNG: `draw` makes one from what is in the JSON.

Dots on a logarithmic axis, because figures lie decades apart and the length of a bar would then mean
nothing.  Each contender has its colour and its shape in all charts; objstore is the large one.  Drawing
the same figures again gives the same SVG.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.tables import Table, shown

# Okabe and Ito's palette, which colour-blind readers can tell apart; shapes do it for more than eight.
VERMILLION, BLUE, GREEN, ORANGE = "#D55E00", "#0072B2", "#009E73", "#E69F00"
PURPLE, SKY, YELLOW, BLACK, GREY = "#CC79A7", "#56B4E9", "#B8A800", "#000000", "#767676"
STYLES = {
    "objstore": (VERMILLION, "D"),
    "objstore, relaxed": (VERMILLION, "d"),
    "by hand": (BLACK, "o"),
    "by hand, relaxed": (BLACK, "."),
    "rocksdict": (BLUE, "s"),
    "diskcache": (GREEN, "^"),
    "sqlitedict": (ORANGE, "v"),
    "lmdbm": (PURPLE, "P"),
    "zict": (SKY, "X"),
    "semidbm": (YELLOW, "<"),
    "ZODB": (GREY, "*"),
    "joblib.Memory": (GREY, ">"),
    "shelve (sqlite3)": (BLUE, "p"),
    "shelve (gnu)": (GREEN, "p"),
    "shelve (ndbm)": (ORANGE, "p"),
    "shelve (dumb)": (PURPLE, "p"),
}
FIRST_PEER = 4
SETTINGS = {
    "svg.hashsalt": "objstore",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(content: Table, name: str, directory: Path) -> bool:
    """Draw the table into two files of this name; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(SETTINGS):
        lines = content["chart"] == "lines"
        height = 4.2 if lines else max(2.8, 1.2 + 0.42 * len(content["rows"]))
        figure, axes = pyplot.subplots(figsize=(8.5, height), layout="constrained")
        (_lines if lines else _dots)(axes, content)
        axes.set_title(content["title"], loc="left", fontweight="bold")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        axes.grid(True, axis="both" if lines else "x", which="major", color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        figure.savefig(directory / f"{name}.png", dpi=130, metadata={"Software": None})
        pyplot.close(figure)
    return True


def _style(label: str, place: int) -> dict[str, Any]:
    """How a column is drawn: the contenders as in every chart, others by their place."""
    colour, shape = STYLES.get(label) or list(STYLES.values())[FIRST_PEER + place]
    size, height = (6, 3) if _foreign(label) else (9, 4)
    return {"color": colour, "marker": shape, "markersize": size, "zorder": height, "alpha": 0.9}


def _dots(axes: Any, content: Table) -> None:
    """A line of dots for each row; the first row on top."""
    kind = "ratios" if content["chart"] == "ratio" else "values"
    rows = [
        row
        for row in content["rows"]
        if kind == "values" or any(_foreign(label) for label, times in row["ratios"].items() if times)
    ]
    for column, label in enumerate(content["columns"]):
        below = 0.6 * (column / max(1, len(content["columns"]) - 1) - 0.5)  # apart, or one would hide another
        places = [(row[kind][label], -number - below) for number, row in enumerate(rows) if label in row[kind]]  # type: ignore[literal-required]
        if places:
            axes.plot(*zip(*places, strict=True), linestyle="none", label=label, **_style(label, column))
    for number in range(0, len(rows), 2):
        axes.axhspan(-number - 0.5, -number + 0.5, color="#F4F4F4", zorder=0)
    axes.set_yticks([-number for number in range(len(rows))], [row["name"].replace("`", "") for row in rows])
    axes.set_ylim(-len(rows) + 0.5, 0.5)
    _logarithmic(axes.xaxis)
    if kind == "ratios":
        base = content["columns"][0]
        axes.axvline(1, color=STYLES[base][0], linewidth=1, zorder=1)
        axes.set_xlabel(f"times what {base} takes; left of the line is less (logarithmic)")
    else:
        better = "right" if content["higher_is_better"] else "left"
        axes.set_xlabel(f"{content['unit']}; better to the {better} (logarithmic)")


def _foreign(label: str) -> bool:
    return not label.startswith("objstore")


def _lines(axes: Any, content: Table) -> None:
    """Each row is a number on the horizontal axis."""
    for column, label in enumerate(content["columns"]):
        places = [
            (float(row["name"].replace(",", "")), row["values"][label])
            for row in content["rows"]
            if label in row["values"]
        ]
        if places:
            axes.plot(*zip(*places, strict=True), linewidth=1.2, label=label, **_style(label, column))
    _logarithmic(axes.xaxis)
    _logarithmic(axes.yaxis)
    axes.set_xlabel(f"{content['axis']} (logarithmic)")
    axes.set_ylabel(f"{content['unit']} (logarithmic)")


def _logarithmic(axis: Any) -> None:
    """Decades, written as numbers; between them too where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    low, high = axis.get_view_interval()
    subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: _tick(value)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    for unit, letter in ((1e9, " G"), (1e6, " M")):
        if value >= unit:
            return f"{value / unit:,.0f}{letter}"
    return f"{value:,.0f}" if value >= 1 else shown(value).rstrip("0").rstrip(".")
