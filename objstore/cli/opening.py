"""Opening what a command is given, a store or a cache; a cache keeps the bounds that it has.

What the store refuses is a line for the user, not a traceback.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from objstore import Cache, Store, StoreError, StoreNotFound, UnsealedWarning, WrongKind
from objstore.cli.literals import written
from objstore.cli.printing import printable


def open_any(location: str, flag: str) -> Store[Any, Any]:
    """What is at a location; where there is nothing, flag "c" makes a store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsealedWarning)  # what unpickles says so in its help
        try:
            return Store(location, flag)
        except WrongKind:
            return Cache(location, flag)


def refuse_memory(*locations: str) -> None:
    """Raise UsageError where a location is in the memory of this process, which nobody has stored anything in."""
    if any(location.startswith("memory:") for location in locations):
        raise click.UsageError("A store in memory ends with the command; name a directory or a server.")


@contextmanager
def opened(location: str, flag: str, namespace: str | None = None) -> Iterator[Store[Any, Any]]:
    """The store, or a namespace of it, for one short command."""
    try:
        refuse_memory(location)
        with open_any(location, flag) as store:
            yield store if namespace is None else _namespace(store, namespace, flag)
    except StoreNotFound as exc:
        raise click.ClickException(printable(str(exc).replace("flag 'c' makes", "`objstore set` makes"))) from exc
    except KeyError as exc:
        raise click.ClickException(f"not there: {written(exc.args[0])}") from exc
    except (StoreError, TypeError, ValueError) as exc:
        raise click.ClickException(printable(str(exc))) from exc


def _namespace(store: Store[Any, Any], name: str, flag: str) -> Store[Any, Any]:
    """A namespace; where nothing is to be stored, it must be there."""
    found, names = store.namespace(name), store.namespaces()
    if flag != "c" and name not in names and not found:
        there = f"there are {', '.join(map(repr, names))}" if names else "there are none"
        raise click.ClickException(printable(f"no namespace {name!r} in {store.location!r}; {there}"))
    return found
