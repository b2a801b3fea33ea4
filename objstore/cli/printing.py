"""What is printed: nothing that a terminal would obey, and a line at a time.

Tags, names and messages may hold what somebody else has written into the store, unverified.  For programs it is JSON,
of ASCII alone, one object a line; there no text is shortened, and no list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from objstore import Damage

T = TypeVar("T")

# So many of what one report lists are printed; with --json, all that it lists are.
_MOST_PRINTED = 100


def printable(text: str) -> str:
    """The text with escapes in the place of all that is no printable character, line ends excepted."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def say(text: str, *, err: bool = False) -> None:
    """Print a line, to standard error if `err`."""
    click.echo(printable(text), err=err)


def say_first(line_of: Callable[[T], str], listed: Sequence[T], count: int | None = None, *, err: bool = False) -> None:
    """Print a line of each of the first that are listed, and how many more there are of `count`, which may be more."""
    for each in listed[:_MOST_PRINTED]:
        say(line_of(each), err=err)
    more = (len(listed) if count is None else count) - _MOST_PRINTED
    if more > 0:
        say(f"... and {more:,} more like these", err=err)


def told(damage: Damage) -> str:
    """Which record it is, and what is wrong with it."""
    where = f" in namespace {damage.namespace!r}" if damage.namespace else ""
    return f"{damage.shown_key}{where}: {damage.reason}"


def say_all(lines: Iterable[str]) -> None:
    """Print any number of lines as they come: at once on a terminal, otherwise when there is a block of them."""
    write = sys.stdout.write
    for line in lines:
        write(printable(line) + "\n")


def say_json(told: Any) -> None:
    """Print an object for a program, in one line."""
    click.echo(in_json(told))


def in_json(told: Any) -> str:
    """An object of JSON's own types in one line, of ASCII alone.  Raises ValueError for NaN and infinity."""
    return json.dumps(told, allow_nan=False)
