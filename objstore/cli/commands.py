"""The commands: each opens a store, does one thing with it, and prints.

Keys are written as Python literals (`42`, `('user', 42)`, `None`); what is no literal is text as it
stands (`user:1`).  A key that looks like a literal and is meant as text is written with its quotes
(`"'42'"`).  Exit codes: 0 done, 1 the key or the store refused, 2 the command line made no sense.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from objstore import DEFAULT, Entry, Store, StoreError, __version__
from objstore.cli.demo import demo

_store_argument = click.argument("store", metavar="STORE")
_namespace_option = click.option("-n", "--namespace", metavar="NAME", help="A namespace of the store.")


class _Group(click.Group):
    """Commands in the order of their definition; an error of the store is one line and exit code 1."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoreError as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="objstore")
def objstore() -> None:
    """A dictionary that lives on disk.  STORE is a directory, or the URL of a store."""


objstore.add_command(demo)


@objstore.command()
@_store_argument
@click.argument("key")
@_namespace_option
@click.option("--raw", is_flag=True, help="Write the record as it is stored; nothing is unpickled.")
def get(store: str, key: str, namespace: str | None, raw: bool) -> None:
    """Print the value of KEY.  This unpickles it, which runs the code of its class."""
    with _open(store, "r", namespace) as opened, _key_errors():
        if raw:
            sys.stdout.buffer.write(opened.entry(_literal(key)).raw())
        else:
            Console(soft_wrap=True).print(Text(pretty_repr(opened[_literal(key)])))


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
    stored = file.read() if value is None else _literal(value)
    with _open(store, "c", namespace) as opened, _key_errors():
        opened.set(_literal(key), stored, ttl=DEFAULT if ttl is None else ttl, tags=tags)


@objstore.command()
@_store_argument
@click.argument("keys", nargs=-1, required=True)
@_namespace_option
def delete(store: str, keys: tuple[str, ...], namespace: str | None) -> None:
    """Remove KEYS.  The exit code is 1 if one of them was not there; the others are removed."""
    with _open(store, "w", namespace) as opened, _key_errors():
        missing = [key for key in keys if not opened.delete(_literal(key))]
    if missing:
        raise click.ClickException(f"not there: {', '.join(missing)}")


@objstore.command()
@_store_argument
@_namespace_option
@click.option("-l", "--long", is_flag=True, help="With size, codec, expiry and tags.")
@click.option("-p", "--prefix", help="Only keys that begin so: text, or the first elements of tuples.")
@click.option("-t", "--tag", help="Only what bears this tag.")
@click.option("-r", "--reverse", is_flag=True, help="From the last key to the first.")
def ls(store: str, namespace: str | None, long: bool, prefix: str | None, tag: str | None, reverse: bool) -> None:
    """List the keys in order.  Nothing is unpickled."""
    with _open(store, "r", namespace) as opened, _key_errors():
        chosen = opened.range(prefix=DEFAULT if prefix is None else _literal(prefix), tag=tag, reverse=reverse)
        if long:
            for entry in chosen.entries():
                click.echo(_long_form(entry))
        else:
            for key in chosen:
                click.echo(repr(key))


@objstore.command()
@_store_argument
def info(store: str) -> None:
    """What the store is and holds.  Nothing is unpickled."""
    with _open(store, "r", None) as opened:
        table = Table(show_header=False, box=None, pad_edge=False)
        table.add_row("location", opened.location)
        for name, value in opened.stats()._asdict().items():
            table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
        for name in opened.namespaces():
            table.add_row(f"namespace {name!r}", f"{len(opened.namespace(name)):,} entries")
        Console(soft_wrap=True).print(table)


@contextmanager
def _open(location: str, flag: str, namespace: str | None) -> Iterator[Store[Any, Any]]:
    if "://" not in location:
        location = str(Path(location).absolute())
    with Store[Any, Any](location, flag) as store:
        yield store if namespace is None else store.namespace(namespace)


@contextmanager
def _key_errors() -> Iterator[None]:
    """A missing or unusable key is a line for the user, not a traceback."""
    try:
        yield
    except KeyError as exc:
        raise click.ClickException(f"not there: {exc.args[0]!r}") from exc
    except (TypeError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc


def _literal(text: str) -> Any:
    """The Python literal that a text is, or the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _long_form(entry: Entry[Any, Any]) -> str:
    expires = "-" if entry.expires_at is None else _local(entry.expires_at)
    return f"{entry.size:>12,}  {entry.codec:<8} {expires:<19}  {entry.key!r}  {' '.join(entry.tags)}".rstrip()


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
