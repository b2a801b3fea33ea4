"""The commands: each opens a store, does one thing with it, and prints.

How keys and values are written: `literals`.  Exit codes: 0 done, 1 the key or the store refused, 2 the command line
made no sense.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.pretty import pretty_repr
from rich.text import Text

from objstore import DEFAULT, Activity, Entry, Store, StoreError, StoreNotFound, __version__
from objstore.cli.care import backup, check, compact, copy, rekey, salvage
from objstore.cli.demo import demo
from objstore.cli.exporting import export
from objstore.cli.importing import import_
from objstore.cli.literals import literal, prefix_of
from objstore.cli.opening import open_any
from objstore.cli.printing import printable, say

_store_argument = click.argument("store", metavar="STORE")
_namespace_option = click.option("-n", "--namespace", metavar="NAME", help="A namespace of the store.")


class _Group(click.Group):
    """Commands in the order of their definition."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="objstore")
def objstore() -> None:
    """A dictionary that lives on disk.  STORE is a directory.

    Keys and values are written as in Python (42, ('user', 42)); what is not Python is text (user:1).
    """


objstore.add_command(demo)


@objstore.command()
@_store_argument
@click.argument("key")
@_namespace_option
@click.option("--raw", is_flag=True, help="Write the record as it is stored; nothing is unpickled.")
def get(store: str, key: str, namespace: str | None, raw: bool) -> None:
    """Print the value of KEY.  This unpickles it, which runs the code of its class."""
    with _open(store, "r", namespace) as opened:
        if raw:
            sys.stdout.buffer.write(opened.entry(literal(key)).raw())
        else:
            Console(soft_wrap=True).print(Text(pretty_repr(opened[literal(key)])))


@objstore.command(name="set")
@_store_argument
@click.argument("key")
@click.argument("value", required=False)
@_namespace_option
@click.option("-f", "--file", type=click.File("rb"), help="Store the bytes of a file (- is standard input).")
@click.option("--ttl", type=float, metavar="SECONDS", help="Let it expire.")
@click.option("--tag", "tags", multiple=True, help="Give it a tag; may be repeated.")
def set_(
    store: str, key: str, value: str | None, namespace: str | None, file: Any, ttl: float | None, tags: tuple[str, ...]
) -> None:
    """Store VALUE, a Python literal or text, under KEY."""
    if (value is None) == (file is None):
        raise click.UsageError("Give a value, or a file with --file.")
    stored = file.read() if value is None else literal(value)
    with _open(store, "c", namespace) as opened:
        opened.set(literal(key), stored, ttl=DEFAULT if ttl is None else ttl, tags=tags)


@objstore.command()
@_store_argument
@click.argument("keys", nargs=-1, required=True)
@_namespace_option
def delete(store: str, keys: tuple[str, ...], namespace: str | None) -> None:
    """Remove KEYS.  The exit code is 1 if one of them was not there; the others are removed."""
    with _open(store, "w", namespace) as opened:
        missing = [key for key in keys if not opened.delete(literal(key))]
    if missing:
        raise click.ClickException(f"not there: {', '.join(missing)}")


@objstore.command()
@_store_argument
@_namespace_option
@click.option("-l", "--long", is_flag=True, help="With size, codec, expiry and tags.")
@click.option(
    "-p", "--prefix", help="Only keys that begin so: text (2026-), or the first elements of tuples (\"('user',)\")."
)
@click.option("-t", "--tag", help="Only what bears this tag.")
@click.option("-r", "--reverse", is_flag=True, help="From the last key to the first.")
def ls(store: str, namespace: str | None, long: bool, prefix: str | None, tag: str | None, reverse: bool) -> None:
    """List the keys in order.  Nothing is unpickled."""
    with _open(store, "r", namespace) as opened:
        chosen = opened.range(prefix=DEFAULT if prefix is None else prefix_of(prefix), tag=tag, reverse=reverse)
        if long:
            for entry in chosen.entries():
                say(_long_form(entry))
        else:
            for key in chosen:
                say(repr(key))


@objstore.command()
@_store_argument
def info(store: str) -> None:
    """What the store is and holds, and who reads and writes it.  Nothing is unpickled."""
    with _open(store, "r", None) as opened:
        rows = {"location": opened.location}
        figures = dict(vars(opened.stats()))
        del figures["held"]  # by this process, which is nothing
        reading, writing = figures.pop("reading"), figures.pop("writing")
        rows |= {name: f"{value:,}" if isinstance(value, int) else value or "none" for name, value in figures.items()}
        if writing is not None:
            rows["writing"] = _activity(writing)
        rows |= {f"reading {number}": _activity(activity) for number, activity in enumerate(reading, 1)}
        rows |= {f"in {name!r}": f"{len(opened.namespace(name)):,} entries" for name in opened.namespaces()}
        width = max(map(len, rows))
        for name, value in rows.items():
            say(f"{name:<{width}}  {value}")


for _command in (check, backup, compact, salvage, rekey, copy, import_, export):
    objstore.add_command(_command)


def _activity(activity: Activity) -> str:
    age = "" if activity.age is None else f", for {activity.age:,.1f} s"
    behind = f", {activity.behind:,} commits behind" if activity.behind else ""
    return f"process {activity.process}{age}{behind}"


@contextmanager
def _open(location: str, flag: str, namespace: str | None) -> Iterator[Store[Any, Any]]:
    """The store, or a namespace of it; what it refuses is a line for the user, not a traceback."""
    try:
        if location.startswith("memory:"):
            raise click.UsageError("A store in memory ends with the command; name a directory.")
        with open_any(location, flag) as store:
            yield store if namespace is None else store.namespace(namespace)
    except StoreNotFound as exc:
        raise click.ClickException(printable(str(exc).replace("flag 'c' makes", "`objstore set` makes"))) from exc
    except KeyError as exc:
        raise click.ClickException(f"not there: {exc.args[0]!r}") from exc
    except (StoreError, TypeError, ValueError) as exc:
        raise click.ClickException(printable(str(exc))) from exc


def _long_form(entry: Entry[Any, Any]) -> str:
    expires = "-" if entry.expires_at is None else _local(entry.expires_at)
    return f"{entry.size:>12,}  {entry.codec:<8} {expires:<19}  {entry.key!r}  {' '.join(entry.tags)}".rstrip()


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
