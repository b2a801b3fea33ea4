"""How a command ends, and what its exit code is.

Done is 0; a refusal of the key or the store, and a report that not all is well, are 1; a command line that makes no
sense is 2.  Who is ended by a signal ends with 128 and its number, as in a shell: 130 is Ctrl-C, 143 is SIGTERM, 129 a
terminal that was closed, and 141 is what `objstore ls | head` gives, where nobody reads on.

A signal is an exception here (KeyboardInterrupt, or `Ended`, which is one): so everything that is open is closed, and
what was half done is undone or removed, by the same code that does it after an error.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from objstore.cli.printing import printable


class Ended(KeyboardInterrupt):
    """A signal that asks the command to end; `number` is which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def heed_signals() -> None:
    """Let SIGTERM and SIGHUP end the command as Ctrl-C does, where they would have killed it (`nohup` says no)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise Ended(number)


@contextmanager
def endings() -> Iterator[None]:
    """What a signal, or a reader who has gone, means for the exit code; neither is a traceback."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt as exc:
        number = exc.number if isinstance(exc, Ended) else signal.SIGINT
        click.echo("Interrupted.", err=True)
        raise click.exceptions.Exit(128 + number) from None
    except ModuleNotFoundError as exc:  # a package of an extra; the message says which
        raise click.ClickException(printable(str(exc))) from exc
    except BrokenPipeError:
        _print_no_more()
        raise click.exceptions.Exit(128 + signal.SIGPIPE) from None


def _print_no_more() -> None:
    """What is still in the buffer goes nowhere: at its end the interpreter would try once more, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
