"""The commands that read: get, ls.  Only `get` decodes, and runs what code a value needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import Any

import click

from objstore import DEFAULT, Entry, LostKey
from objstore.cli.arguments import json_option, key_argument, key_option, namespace_option, store_argument, tag_option
from objstore.cli.literals import literal, prefix_of, written
from objstore.cli.opening import opened
from objstore.cli.printing import in_json, printable, say, say_all
from objstore.exchange.jsonlines import Inexact, key_to_json, text_of

# What is one line, and needs nobody to lay it out.
_SIMPLE = (str, int, bool, bytes, type(None))


@click.command()
@store_argument
@key_argument("key")
@namespace_option
@click.option("--raw", is_flag=True, help="Write the record as it is stored; nothing is unpickled.")
@json_option
def get(store: str, key: str, namespace: str | None, raw: bool, as_json: bool) -> None:
    """Print the value of KEY.  In a store of pickles this unpickles it, which runs code that the value names.

    With --json, a value that JSON would not give back as it is (a tuple, bytes, an object) is refused.
    """
    if raw and as_json:
        raise click.UsageError("Give --raw or --json, not both.")
    with opened(store, "r", namespace) as there:
        if raw:
            sys.stdout.buffer.write(there.entry(literal(key)).raw())
        elif as_json:
            _say_exactly(there[literal(key)])
        else:
            say(_laid_out(there[literal(key)]))


@click.command()
@store_argument
@namespace_option
@click.option("-l", "--long", is_flag=True, help="With size, codec, expiry and tags.")
@json_option
@key_option(
    "-p", "--prefix", help="Only keys that begin so: text (2026-), or the first elements of tuples (\"('user',)\")."
)
@key_option("--start", metavar="KEY", help="From this key on.")
@key_option("--stop", metavar="KEY", help="Up to this key, which is not listed.")
@tag_option("-t", "--tag", help="Only what bears this tag.")
@click.option("-r", "--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the first N.")
def ls(
    store: str,
    namespace: str | None,
    long: bool,
    as_json: bool,
    prefix: str | None,
    start: str | None,
    stop: str | None,
    tag: str | None,
    reverse: bool,
    limit: int | None,
) -> None:
    """List the keys in order.  Nothing is unpickled, and each is printed as it is reached."""
    if prefix is not None and not (start is stop is None):
        raise click.UsageError("Give --prefix, or --start and --stop, not both.")
    with opened(store, "r", namespace) as there:
        chosen = there.range(
            _given(start, literal), _given(stop, literal), prefix=_given(prefix, prefix_of), tag=tag, reverse=reverse
        )
        lines: Iterable[str]
        if as_json:
            lines = (in_json(_fields(entry)) for entry in islice(chosen.entries(), limit))
        elif long:
            lines = map(_long_form, islice(chosen.entries(), limit))
        else:
            lines = map(written, islice(chosen, limit))
        if not say_all(lines) and namespace is None and not there and (names := there.namespaces()):
            say(f"nothing outside of namespaces; with -n NAME: {', '.join(map(repr, names))}", err=True)


def _given(text: str | None, read: Any) -> Any:
    return DEFAULT if text is None else read(text)


def _say_exactly(value: Any) -> None:
    try:
        say(text_of(value))
    except Inexact as exc:
        raise click.ClickException(printable(f"JSON would not give this value back: {exc}")) from exc


def _laid_out(value: Any) -> str:
    if type(value) in _SIMPLE:
        return written(value)
    from rich.pretty import pretty_repr

    return pretty_repr(value)


def _long_form(entry: Entry[Any, Any]) -> str:
    expires = "-" if entry.expires_at is None else _local(entry.expires_at)
    return f"{entry.size:>12,}  {entry.codec:<8} {expires:<19}  {written(entry.key)}  {' '.join(entry.tags)}".rstrip()


def _fields(entry: Entry[Any, Any]) -> dict[str, Any]:
    is_lost = isinstance(entry.key, LostKey)
    return {
        "key": None if is_lost else key_to_json(entry.key),
        "literal": None if is_lost else written(entry.key),
        "size": entry.size,
        "codec": entry.codec,
        "expires_at": None if entry.expires_at is None else entry.expires_at.isoformat(),
        "tags": list(entry.tags),
    }


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
