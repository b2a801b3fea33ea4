"""The benchmarks run, and print what they promise; what they print is not judged here."""

import os
import subprocess
import sys
from pathlib import Path

from servers import chosen, needed

ROOT = Path(__file__).parent.parent


def printed_by(*arguments):
    """What a module prints that is run as a program."""
    command = [sys.executable, "-m", *arguments]
    few = {**os.environ, "OBJSTORE_PEERS": "lmdbm,shelves"}  # the slow ones would take a minute
    done = subprocess.run(command, cwd=ROOT, env=few, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_command_prints_the_ratios():
    printed = printed_by("benchmarks.ratios", "--quick")
    for work in ("store[key]", "key in store", "len(store)", "get_many", "items()", "put, full", "update", "list get"):
        assert any(line.startswith(work) for line in printed.splitlines()), work


def test_each_operation_stands_beside_the_hand_written_one():
    printed = printed_by("pytest", "benchmarks", "--benchmark-disable", "-q", "-p", "no:cacheprovider")
    assert "passed" in printed


def test_one_command_prints_what_trust_costs():
    printed = printed_by("benchmarks.trust", "--quick")
    for option in ("nothing", "signed", "encrypted", "zstd", "allow-list", "msgpack"):
        assert any(line.startswith(f"| {option} |") for line in printed.splitlines()), option
    assert "30 kB: encryption adds" in printed


def test_one_command_prints_what_the_safeguards_cost():
    printed = printed_by("benchmarks.safeguards", "--quick")
    for operation in ("store[key]", "put, process", "put, full", "snapshot", "open and close"):
        assert any(line.startswith(operation) for line in printed.splitlines()), operation


def test_one_command_prints_what_caching_costs():
    printed = printed_by("benchmarks.caching", "--quick")
    lines = printed.splitlines()
    for row in (
        "hit: int, str",
        "miss: int, str",
        "set a new key, evicting",
        "2 | objstore",
        "Zipf | lru",
        "mixed, median 1 kB",
        "Cache.memoize | tasks",
    ):
        assert any(line.startswith(f"| {row} |") for line in lines), row
    assert "until another computes" in printed


def test_one_command_prints_what_servers_cost():
    needed(chosen())
    printed = printed_by("benchmarks.servers", "--quick")
    for row in (
        "get, 100 B",
        "increment",
        "memoize, hit",
        "set, replicated",
        "get_many, 30 kB",
        "items(), per entry",
        "first()",
        "open and close",
        "get_many of 100, per key, Cache",
        "index=yes",
    ):
        assert any(line.startswith(row) for line in printed.splitlines()), row
