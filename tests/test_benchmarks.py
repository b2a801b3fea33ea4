"""The benchmarks run, and print what they promise; what they print is not judged here."""

import subprocess
import sys
from pathlib import Path

from servers import chosen, needed

ROOT = Path(__file__).parent.parent


def test_one_command_prints_the_ratios():
    command = [sys.executable, "-m", "benchmarks.ratios", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for work in ("store[key]", "key in store", "len(store)", "get_many", "items()", "put, full", "update", "list get"):
        assert any(line.startswith(work) for line in printed.splitlines()), work


def test_each_operation_stands_beside_the_hand_written_one():
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-disable", "-q", "-p", "no:cacheprovider"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "passed" in printed


def test_one_command_prints_what_trust_costs():
    command = [sys.executable, "-m", "benchmarks.trust", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for option in ("nothing", "signed", "encrypted", "zstd", "allow-list", "msgpack"):
        assert any(line.startswith(f"| {option} |") for line in printed.splitlines()), option
    assert "30 kB: encryption adds" in printed


def test_one_command_prints_what_the_safeguards_cost():
    command = [sys.executable, "-m", "benchmarks.safeguards", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for operation in ("store[key]", "put, process", "put, full", "snapshot", "open and close"):
        assert any(line.startswith(operation) for line in printed.splitlines()), operation


def test_one_command_prints_what_caching_costs():
    command = [sys.executable, "-m", "benchmarks.caching", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
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
    command = [sys.executable, "-m", "benchmarks.servers", "--quick"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
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
