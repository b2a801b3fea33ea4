"""From figures to documents: a JSON file, a Markdown file and charts, and the command line that makes them.

A section is a function that measures and yields tables.  Its tables are kept in the JSON file together
with where and when they were measured; the document and the charts are made from that file alone, so
they can be drawn again without measuring, and one section can be measured again without the others.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from benchmarks import charts, tables
from benchmarks.contender import CLASSES
from benchmarks.everyone import contenders
from benchmarks.measure import machine, packages, today
from benchmarks.workload import FULL, QUICK, Effort

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OTHERS = ["lmdb", "xxhash", "numpy", "pandas", "pyarrow"]
"""Packages whose versions matter to all."""

Measure = Callable[[list[Any], Effort, str], Iterator[tuple[str, tables.Table]]]


class Section(NamedTuple):
    title: str
    text: str
    measure: Measure


def main(
    name: str,
    essay: str,
    module: str,
    sections: Mapping[str, Section],
    alone: str = "",
    in_readme: Sequence[tuple[str, str]] = (),
) -> None:
    """The command: measure, write `name`.json, and draw `name`.md and its charts from it.

    `alone` is the only package that is measured, where it is one.  `in_readme` are the tables (section and name)
    that the README shows, too.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}", description=essay.split("\n")[0].strip("# ")
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="where the documents go; docs/ if it is left out")
    parser.add_argument("--quick", action="store_true", help="small and short: that it runs, not what it shows")
    parser.add_argument("--only", metavar="NAME", choices=sections, help=f"one section: {', '.join(sections)}")
    parser.add_argument("--redraw", action="store_true", help="measure nothing; draw what is in the JSON file")
    arguments = parser.parse_args()
    if arguments.quick and arguments.output is None:
        parser.error("--quick writes nothing of use: give it an --output of its own")
    output: Path = arguments.output or DOCS
    output.mkdir(parents=True, exist_ok=True)
    results = tables.load(output / f"{name}.json") or {"sections": {}}
    if not arguments.redraw:
        chosen = [arguments.only] if arguments.only else list(sections)
        for key in chosen:
            results["sections"][key] = measured(key, sections[key], QUICK if arguments.quick else FULL)
            results["contenders"] = described()
            tables.save(output / f"{name}.json", results)
    text = [essay.strip(), f"Made by `python -m benchmarks.{module}` from `{name}.json`; do not edit it."]
    write(name, text + introduction(results, alone), sections, results, output)
    if output == DOCS and in_readme:
        show_in_readme(name, results, in_readme)


def measured(key: str, section: Section, effort: Effort) -> dict[str, Any]:
    """Measure a section, in a directory that is gone afterwards."""
    began = perf_counter()
    print(f"{section.title} ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="objstore-", ignore_cleanup_errors=True) as directory:
        found = dict(section.measure(contenders()[0], effort, f"{directory}/{key}"))
        where = machine(directory)
    print(f"{section.title}: {perf_counter() - began:.0f} s", flush=True)
    return {"machine": where, "python": platform.python_version(), "date": today(), "tables": found}


def described() -> dict[str, Any]:
    """Who took part, in which modes, and who is not installed."""
    found, absent = contenders()
    versions = packages([contender.PACKAGE for contender in found if contender.PACKAGE] + OTHERS)
    return {
        "versions": versions,
        "absent": absent,
        "modes": [
            {"name": contender.NAME, "version": versions.get(contender.PACKAGE, "Python's own"), **mode._asdict()}
            for contender in found
            for mode in contender.MODES.values()
        ],
    }


def write(name: str, text: list[str], sections: Mapping[str, Section], results: dict[str, Any], output: Path) -> None:
    """The Markdown file, which begins with this text, and the charts."""
    drawn = True
    for key, section in sections.items():
        if key not in results["sections"]:
            continue
        found = results["sections"][key]
        text += [f"## {section.title}", section.text, _where(found)]
        for number, content in enumerate(found["tables"].values()):
            text.append(f"### {content['title']}")
            text.append(content["text"])
            chart = f"{name}-{key}-{number + 1}"
            if content["chart"] and content["rows"]:
                drawn = charts.draw(content, chart, output / "charts") and drawn
                if (output / "charts" / f"{chart}.svg").exists():
                    text.append(f"![{content['title']}](charts/{chart}.svg)")
            text.append(tables.markdown(content))
    (output / f"{name}.md").write_text("\n\n".join(part for part in text if part) + "\n")
    if not drawn:
        print("matplotlib is not installed: no charts were drawn", file=sys.stderr)
    print(output / f"{name}.md")


def show_in_readme(name: str, results: dict[str, Any], chosen: Sequence[tuple[str, str]]) -> None:
    """Put these tables and their charts between the two marks in the README."""
    text = []
    for key, table in chosen:
        found = results["sections"][key]
        number = list(found["tables"]).index(table) + 1
        content = found["tables"][table]
        text += [
            f"**{content['title']}.** {content['text']}",
            f"![{content['title']}](docs/charts/{name}-{key}-{number}.svg)",
            tables.markdown(content),
        ]
    versions = ", ".join(f"{package} {version}" for package, version in results["contenders"]["versions"].items())
    text.append(f"{_where(found)} With {versions}.")
    begin, end = f"<!-- {name}: made by a command, do not edit -->", f"<!-- end of {name} -->"
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text("\n\n".join([before + begin, *text, end + after]))


def introduction(results: dict[str, Any], alone: str) -> list[str]:
    """Who takes part, how safe, in which versions."""
    about = results.get("contenders")
    if about is None:
        return []
    others = ", ".join(f"{name} {about['versions'][name]}" for name in OTHERS if name in about["versions"])
    if alone:
        return [f"{alone} {about['versions'].get(alone, '')} with {others}."]
    text = ["## Contenders", "\n".join(f"* **{safety}**: {meaning}." for safety, meaning in CLASSES.items())]
    lines = ["| contender | version | class | how |", "|---|---|---|---|"]
    lines += [f"| {mode['name']} | {mode['version']} | {mode['safety']} | {mode['how']} |" for mode in about["modes"]]
    text.append("\n".join(lines))
    text.append(f"With {others}.")
    if about["absent"]:
        text.append(f"Not installed, so not here: {', '.join(about['absent'])}.")
    return text


def _where(found: dict[str, Any]) -> str:
    return f"Measured on {found['date']}: {found['machine']}, Python {found['python']}."
