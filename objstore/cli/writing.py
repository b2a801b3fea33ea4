"""The commands that write: set, delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, BinaryIO

import click

from objstore import DEFAULT
from objstore.cli.arguments import key_argument, namespace_option, store_argument, tag_option
from objstore.cli.literals import literal, written
from objstore.cli.opening import opened
from objstore.cli.printing import printable, say


def _from_json(data: bytes) -> Any:
    return json.loads(data.decode(), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# How the bytes that are given become a value.
_READ: dict[str, Callable[[bytes], Any]] = {
    "literal": lambda data: literal(data.decode()),
    "json": _from_json,
    "text": bytes.decode,
    "bytes": bytes,
}


# How a value begins that is seldom meant as text: the shell has taken its quotes, mostly.
_OPENING = ("{", "[", "(")


@click.command(name="set")
@store_argument
@key_argument("key")
@click.argument("value", required=False)
@namespace_option
@click.option(
    "--as",
    "form",
    type=click.Choice(list(_READ)),
    help="What VALUE or the file is: a Python literal, or else text (VALUE if this is left out); JSON; text in UTF-8; "
    "bytes (a file if this is left out).",
)
@click.option("-f", "--file", type=click.File("rb"), help="Store what is in a file (- is standard input).")
@click.option("--add", is_flag=True, help="Only if KEY is absent; the exit code is 1 if it is there.")
@click.option("--ttl", type=float, metavar="SECONDS", help="Let it expire.")
@tag_option("--tag", "tags", multiple=True, help="Give it a tag; may be repeated.")
def set_(
    store: str,
    key: str,
    value: str | None,
    namespace: str | None,
    form: str | None,
    file: BinaryIO | None,
    add: bool,
    ttl: float | None,
    tags: tuple[str, ...],
) -> None:
    """Store VALUE under KEY.  The store is made if there is none."""
    stored = _value(value, file, form)
    expiring: Any = DEFAULT if ttl is None else ttl
    with opened(store, "c", namespace) as there:
        if not add:
            there.set(literal(key), stored, ttl=expiring, tags=tags)
        elif not there.add(literal(key), stored, ttl=expiring, tags=tags):
            raise click.ClickException(f"there already: {printable(key)}; without --add it is replaced")


def _value(value: str | None, file: BinaryIO | None, form: str | None) -> Any:
    """What is to be stored, read before the store is opened."""
    try:
        if value is not None and file is None:
            # An argument that is no UTF-8 comes with surrogates for what is not.
            stored = _READ[form or "literal"](value.encode(errors="surrogateescape"))
            if form is None and isinstance(stored, str) and value[:1] in _OPENING:
                say(
                    "stored as text: it is no Python literal; quote it for the shell, or say --as json or --as text",
                    err=True,
                )
            return stored
        if file is not None and value is None:
            return _READ[form or "bytes"](file.read())
    except ValueError as exc:
        raise click.ClickException(f"the value is no {form or 'literal'}: {printable(str(exc))}") from exc
    raise click.UsageError("Give a value, or a file with --file.")


@click.command()
@store_argument
@key_argument("keys", nargs=-1, required=True, metavar="KEY...")
@namespace_option
def delete(store: str, keys: tuple[str, ...], namespace: str | None) -> None:
    """Remove every KEY.  The exit code is 1 if one of them was not there; the others are removed."""
    with opened(store, "w", namespace) as there:
        missing = [written(literal(key)) for key in keys if not there.delete(literal(key))]
    if missing:
        raise click.ClickException(printable(f"not there: {', '.join(missing)}"))
