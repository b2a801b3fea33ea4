"""What is printed: nothing that a terminal would obey, and a line at a time.

Tags, names and messages may hold what somebody else has written into the store, unverified.  For programs it is JSON,
of ASCII alone, one object a line; there no text is shortened, and no list.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from objstore import Damage

T = TypeVar("T")

# So many of what one report lists are printed, and so many of those where the same is wrong; with --json, all are.
_MOST_PRINTED = 100
_MOST_ALIKE = 5


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


def say_first(
    line_of: Callable[[T], str],
    listed: Sequence[T],
    count: int | None = None,
    *,
    alike: Callable[[T], str] | None = None,
    err: bool = False,
) -> None:
    """Print a line of each of the first that are listed, and how many more there are of `count`, which may be more.

    Of those of which `alike` says the same, a few are enough.
    """
    shown = (listed if alike is None else _some_of_each(listed, alike))[:_MOST_PRINTED]
    for each in shown:
        say(line_of(each), err=err)
    more = (len(listed) if count is None else count) - len(shown)
    if more > 0:
        say(f"... and {more:,} more like these", err=err)


def _some_of_each(listed: Sequence[T], alike: Callable[[T], str]) -> Sequence[T]:
    seen: Counter[str] = Counter()
    some = []
    for each in listed:
        seen[alike(each)] += 1
        if seen[alike(each)] <= _MOST_ALIKE:
            some.append(each)
    return some


def told(damage: Damage) -> str:
    """Which record it is, and what is wrong with it."""
    where = f" in namespace {damage.namespace!r}" if damage.namespace else ""
    return f"{damage.shown_key}{where}: {damage.reason}"


def say_all(lines: Iterable[str]) -> int:
    """Print lines as they come: at once on a terminal, otherwise when there is a block of them; how many they were."""
    write, count = sys.stdout.write, 0
    for count, line in enumerate(lines, 1):  # noqa: B007  (it is what is returned)
        write(printable(line) + "\n")
    return count


def say_json(told: Any) -> None:
    """Print an object for a program, in one line."""
    click.echo(in_json(told))


def in_json(told: Any) -> str:
    """An object of JSON's own types in one line, of ASCII alone.  Raises ValueError for NaN and infinity."""
    return json.dumps(told, allow_nan=False)
