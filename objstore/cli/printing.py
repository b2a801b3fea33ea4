"""What is printed: nothing that a terminal would obey.

Tags, names and messages may hold what somebody else has written into the store, unverified.
"""

from __future__ import annotations

import click


def printable(text: str) -> str:
    """The text with escapes in the place of all that is no printable character, line ends excepted."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in text
    )


def say(text: str) -> None:
    """Print a line."""
    click.echo(printable(text))
