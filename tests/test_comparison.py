"""The comparison runs with whoever is installed, writes tables that are tables, and reads what was written."""

import json
import subprocess
import sys
from itertools import chain, pairwise
from pathlib import Path

import pytest

from benchmarks.contender import CLASSES, in_class
from benchmarks.everyone import contenders

ROOT = Path(__file__).parent.parent
ENTRIES = list(chain.from_iterable(in_class(contenders()[0], safety) for safety in CLASSES))
SEEN = []


class Noted:
    """Tells when it is unpickled: a benchmark gives away nothing of what it reads."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return note, (self.number,)


def note(number):
    SEEN.append(number)
    return Noted(number)


@pytest.mark.parametrize("entry", ENTRIES, ids=[f"{entry.contender.NAME} {entry.mode}" for entry in ENTRIES])
def test_a_contender_reads_what_it_wrote_last(entry, tmp_path):
    store = entry.connect(str(tmp_path))
    for number in (1, 2):
        entry.contender.put(store, {"a": Noted(number), "b": Noted(number + 10)})
    if entry.can("update"):
        entry.contender.update(store, {"c": Noted(3)})
        entry.contender.contains(store, ["a", "nothing"])
        entry.contender.items(store)
    store.close()

    store = entry.connect(str(tmp_path))
    SEEN.clear()
    entry.contender.get(store, ["a", "b", *(["c"] if entry.can("update") else [])])
    assert SEEN[:2] == [2, 12]
    assert SEEN[2:] == [3] * entry.can("update")
    store.close()


@pytest.mark.parametrize(("module", "name"), [("compare", "comparison"), ("growth", "growth")])
def test_one_command_writes_the_document(module, name, tmp_path, monkeypatch):
    monkeypatch.setenv("OBJSTORE_PEERS", "lmdbm,shelves")  # the slow ones would take a minute
    command = [sys.executable, "-m", f"benchmarks.{module}", "--output", str(tmp_path)]
    done = subprocess.run([*command, "--quick"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / f"{name}.md").read_text()
    figures = json.loads((tmp_path / f"{name}.json").read_text())["sections"]
    for section in figures.values():
        for table in section["tables"].values():
            assert f"### {table['title']}\n" in text
            assert any("objstore" in row["values"] or not table["compared"] for row in table["rows"]) or (
                "unsafe" in table["title"] or "readahead" in table["columns"]
            )
    lines = text.splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|")

    subprocess.run([*command, "--redraw"], cwd=ROOT, capture_output=True, check=True)
    assert (tmp_path / f"{name}.md").read_text() == text


def test_a_quick_run_never_writes_over_the_documents():
    command = [sys.executable, "-m", "benchmarks.compare", "--quick"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--output" in refused.stderr
