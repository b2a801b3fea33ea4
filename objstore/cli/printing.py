"""What is printed: nothing that a terminal would obey, and a line at a time.

Tags, names and messages may hold what somebody else has written into the store, unverified.  For programs it is JSON,
of ASCII alone, one object a line; there no text is shortened, and no list.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click


def printable(text: str) -> str:
    """The text with escapes in the place of all that is no printable character, line ends excepted."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def say(text: str) -> None:
    """Print a line."""
    click.echo(printable(text))


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
