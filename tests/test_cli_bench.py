"""`objstore bench`: it measures everything at each durability, and leaves nothing behind."""

import json
import os

from click.testing import CliRunner

from objstore import __version__
from objstore.cli.commands import objstore


def bench(*arguments):
    return CliRunner().invoke(objstore, ["bench", "--seconds", "0.2", *map(str, arguments)], env={"COLUMNS": "100"})


def test_a_program_is_told_the_median_of_everything(tmp_path):
    done = bench(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["objstore"] == __version__
    full, relaxed, process = (told["microseconds"][each] for each in ("full", "relaxed", "process"))
    assert list(full) == list(relaxed) == list(process)
    assert {"put", "get", "items(), each", "list of 10,000 numbers, get", "8 MB array, view"} <= set(full)
    assert min(full.values()) > 0
    assert os.listdir(tmp_path) == []


def test_a_user_is_shown_a_table(tmp_path):
    done = bench(tmp_path)
    assert done.exit_code == 0, done.output
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows][:3] == ["update, each of 1,000 items", "put", "get"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[1:])
    assert str(tmp_path) in done.stdout.replace("\n", "")
    assert os.listdir(tmp_path) == []


def test_where_there_can_be_no_store_is_said(tmp_path):
    done = bench(tmp_path / "no")
    assert done.exit_code == 1
    assert "there can be no store" in done.stderr
