"""What long work on a store looks like: how far it is, and what is said when it is refused or interrupted.

How far it is is drawn on standard error, where that is a terminal: done of all, how many a second, the time left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from objstore import StoreError
from objstore.cli.printing import printable

GOES_ON = "give the same command again, and it goes on where it was"
"""What is said of an interruption of work that is resumed."""


@contextmanager
def refusals(interrupted: str | None = None) -> Iterator[None]:
    """What the store refuses is a line for the user, not a traceback; so is what an interruption has left."""
    try:
        yield
    except (StoreError, ValueError) as exc:
        raise click.ClickException(printable(str(exc).replace("; flag 'c' makes one", ""))) from exc
    except KeyboardInterrupt:
        if interrupted is not None:
            click.echo(interrupted, err=True)
        raise


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that is called with done and total, and draws them."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as drawn:
        task = drawn.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            drawn.update(task, completed=done, total=total)

        yield advance


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")
