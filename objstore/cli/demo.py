"""`objstore demo`: the main job, on real input, from one process to another.

The first process stores a list of 10,000 elements, an instance of a class, every kind of object that
pickles, a NumPy array where NumPy is installed, and every top-level class and function of the standard
library as a parsed syntax tree: a few thousand real, deeply nested objects.  It closes the store and
starts a second process, which opens it, makes the same objects again from their sources, reads each one
lazily and compares.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click
from rich.console import Console
from rich.progress import track

from objstore import Store
from objstore.cli.arguments import place_argument

T = TypeVar("T")

_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"}


@dataclass
class Person:
    """A class of the user's: any class that can be imported will do."""

    name: str
    born: date
    friends: list[Person] = field(default_factory=list)


def _greet(name: str) -> str:
    return f"hello, {name}"


def _people() -> Person:
    ada = Person("Ada", date(1815, 12, 10))
    ada.friends.append(Person("Charles", date(1791, 12, 26), [ada]))
    return ada


def _kinds() -> dict[str, Any]:
    """One of each kind of object that pickles."""
    return {
        "None": None,
        "bools": [True, False],
        "integers": [0, -1, 2**64, 10**1000],
        "floats": [0.1, -0.0, 5e-324, float("inf")],
        "complex": 3 + 4j,
        "decimal": Decimal("3.14159265358979323846"),
        "fraction": Fraction(355, 113),
        "text": "grüße, 世界, \N{PILE OF POO}",
        "bytes": bytes(range(256)),
        "bytearray": bytearray(b"changeable"),
        "tuple": (1, ("nested", (None,))),
        "list": [1, [2, [3]]],
        "dict": {"a": {"b": [1, 2, 3]}, (1, 2): "tuple key"},
        "set": {1, "two", 3.0},
        "frozenset": frozenset({1, 2}),
        "range": range(0, 100, 7),
        "slice of time": [date(2026, 11, 23), datetime(2026, 11, 23, tzinfo=timezone.utc), timedelta(days=1)],
        "uuid": UUID(int=2**127),
        "path": Path("some/where"),
        "builtin function": len,
        "function": _greet,
        "class": Person,
        "exception": ValueError,
        "ellipsis": Ellipsis,
    }


def _samples() -> Iterator[tuple[Any, Any]]:
    """Everything but the syntax trees."""
    yield "numbers", list(range(10_000))
    yield "person", _people()
    for name, value in _kinds().items():
        yield ("kind", name), value
    if importlib.util.find_spec("numpy"):
        import numpy as np

        yield "array", np.linspace(0.0, 1.0, 1_000_000)


def _syntax_trees() -> Iterator[tuple[tuple[str, str, int], ast.AST]]:
    """(module, name, line) and syntax tree of each top-level class and function of the standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in root.rglob("*.py") if not _SKIPPED & set(path.relative_to(root).parts))
    for path in paths:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield (module, node.name, node.lineno), node


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, ast.AST):  # which compare by identity
        return ast.dump(one, include_attributes=True) == ast.dump(other, include_attributes=True)
    if isinstance(one, Person):  # whose friends lead back to itself
        return (one.name, one.born, [friend.name for friend in one.friends]) == (
            other.name,
            other.born,
            [friend.name for friend in other.friends],
        ) and other.friends[0].friends[0] is other
    if type(one).__module__ == "numpy":
        return bool((one == other).all()) and one.dtype == other.dtype
    return bool(one == other) and type(one) is type(other)


def _is_shared(value: Any) -> bool:
    """Whether a pickle holds a reference by name, so that there is only one of it in any process."""
    return value is None or value is Ellipsis or callable(value)


@click.command()
@place_argument("store", "[STORE]", required=False)
@click.option("--read", is_flag=True, hidden=True)
def demo(store: str | None, read: bool) -> None:
    """Store thousands of real objects, and read and compare them in a new process.

    STORE is a new directory to make and keep; without one, a temporary directory is used.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if store is not None and not read and Path(store).exists():
        raise click.ClickException(
            f"{store} is there already, and the demo begins with a new store; name another place"
        )
    if read:
        assert store is not None
        _read(store, console)
        return
    directory = tempfile.mkdtemp(prefix="objstore-demo-") if store is None else None
    location = store or f"{directory}/demo.store"
    try:
        _write(location, console)
        # A process of its own: nothing can come from memory.
        command = [sys.executable, "-m", "objstore", "demo", "--read", location]
        code = subprocess.run(command, check=False).returncode  # noqa: S603  (this very program)
        if code:
            raise click.ClickException("the second process did not find what the first one stored")
    finally:
        if directory is not None:
            shutil.rmtree(directory)


def _tracked(items: Iterable[T], what: str, console: Console, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar where somebody sees it."""
    quiet = not console.is_terminal
    return track(items, what, console=console, transient=True, total=total, disable=quiet)


def _write(location: str, console: Console) -> None:
    trees = list(_tracked(_syntax_trees(), "parsing the standard library", console))
    with Store[Any, Any](location, "n") as store:
        start = time.perf_counter()
        count = store.load(itertools.chain(_samples(), trees))
        seconds = time.perf_counter() - start
        bytes_on_disk = store.stats().file_bytes
    console.print(f"stored   {count:,} objects in {seconds:.2f} s: {count / seconds:,.0f} items per second")
    console.print(f"on disk  {bytes_on_disk:,} bytes in {location}")


def _read(location: str, console: Console) -> None:
    with Store[Any, Any](location, "r") as store:
        stored = sum(entry.size for entry in store.entries())  # a look at every record: nothing is unpickled
        console.print(f"reopened {len(store):,} records of {stored:,} bytes in a new process; none decoded yet")

        start = time.perf_counter()
        for _key, _value in store.items():
            pass
        seconds = time.perf_counter() - start
        rate = len(store) / seconds
        console.print(f"read     {len(store):,} objects in {seconds:.2f} s: {rate:,.0f} items per second")

        checked = 0
        originals = itertools.chain(_samples(), _syntax_trees())
        for key, original in _tracked(originals, "comparing", console, len(store)):
            copy = store[key]  # decoded here and now, for this key alone
            if not _equal(original, copy):
                raise click.ClickException(f"the value of {key!r} came back different")
            if not _is_shared(original) and (copy is original or copy is store[key]):
                raise click.ClickException(f"the value of {key!r} is not a copy")
            checked += 1
        if checked != len(store):
            raise click.ClickException(f"{len(store)} objects are stored, and {checked} were compared")
        numbers = store["numbers"]
        console.print(
            f"compared {checked:,} objects with their originals: all equal, and every copy an object of its own"
        )
        console.print("         (except None, Ellipsis, functions and classes: a process has one of each)")
        console.print(
            f'so       store["numbers"] == list(range(10_000)) is {numbers == list(range(10_000))}, '
            f'and store["numbers"] is store["numbers"] is {store["numbers"] is store["numbers"]}'
        )
