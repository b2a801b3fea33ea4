"""The types of memoized functions, as mypy --strict sees them.

It takes class methods and static methods for the functions they are, so there they are called as such.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest
from programs import ROOT

pytest.importorskip("mypy", reason="mypy is not installed (it is in the extra 'lint')")

PROGRAM = """
from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from objstore import Cache, Store
from objstore.memoize import CacheInfo

store: Store[str, object] = Store("memory://")
cache: Cache[str, object] = Cache("memory://", ttl=60)

@store.memoize
def plain(x: int, *, y: str = "") -> float:
    return 1.0

@cache.memoize(ttl=5, stale=1, exceptions=ValueError)
def with_options(x: Any) -> list[int]:
    return []

@store.memoize()
async def waits(x: int) -> str:
    return ""

class Thing:
    @store.memoize
    def method(self, x: int) -> str:
        return ""

    @store.memoize(ttl=1)
    async def waits(self, x: int) -> str:
        return ""

    @staticmethod
    @store.memoize
    def static(x: int) -> str:
        return ""

def make() -> int:
    return 1

async def make_async() -> int:
    return 1

async def main() -> None:
    assert_type(plain(1, y=""), float)
    assert_type(plain.refresh(1), float)
    assert_type(plain.cache_info(), CacheInfo)
    assert_type(plain.cache_info().maxsize, int | None)
    assert_type(plain.cache_key(1), bytes)
    assert_type(plain.cache_contains(x=1), bool)
    assert_type(plain.cache_delete(1), bool)
    assert_type(plain.__wrapped__(1), float)
    assert_type(plain.__name__, str)
    assert_type(with_options("anything"), list[int])
    assert_type(await waits(1), str)
    assert_type(await waits.refresh(1), str)
    coroutine: Coroutine[Any, Any, str] = waits(1)
    await coroutine
    function: Callable[[int], float] = plain
    assert_type(function(1), float)
    thing = Thing()
    assert_type(thing.method(1), str)
    assert_type(thing.method.cache_info(), CacheInfo)
    assert_type(thing.method.cache_contains(thing, 1), bool)
    assert_type(Thing.method(thing, 1), str)
    assert_type(Thing.method.cache_contains(thing, 1), bool)
    assert_type(Thing.method.refresh(thing, 1), str)
    assert_type(await thing.waits(1), str)
    assert_type(await Thing.waits.refresh(thing, 1), str)
    assert_type(Thing.static(1), str)
    assert_type(store.get_or_compute("key", make), int)
    assert_type(cache.get_or_compute("key", lambda: 1, ttl=5, tags=["tag"]), int)
    assert_type(await store.get_or_compute("key", make_async), int)

plain("1")  # wrong: arg-type
plain(1, z=2)  # wrong: call-arg
plain.refresh("1")  # wrong: arg-type
plain.cache_key()  # wrong: call-arg
plain.cache_contains("1")  # wrong: arg-type
Thing().method("1")  # wrong: arg-type
Thing().method.cache_delete(1)  # wrong: call-arg, arg-type
Thing.static("1")  # wrong: arg-type
store.memoize(5)  # wrong: call-overload
store.memoize(stale="1")  # wrong: call-overload
store.get_or_compute("key", 5)  # wrong: call-overload
store.get_or_compute(5, make)  # wrong: call-overload
"""


def test_calls_are_checked_as_those_of_the_function(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--hide-error-context", "--no-error-summary", str(program)]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False).stdout
    found = {}
    for line, kind in re.findall(r"program\.py:(\d+): error: .*\[(.*)\]$", printed, re.MULTILINE):
        found.setdefault(int(line), set()).add(kind)
    expected = {
        number: set(kinds.split(", "))
        for number, line in enumerate(PROGRAM.splitlines(), 1)
        for kinds in re.findall(r"# wrong: (.*)", line)
    }
    assert found == expected, textwrap.indent(printed, "    ")
