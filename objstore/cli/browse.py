"""The command `browse`: the browser of a store on this terminal."""

from __future__ import annotations

import sys

import click

from objstore.cli.arguments import namespace_option, store_argument
from objstore.cli.opening import open_any, refuse_memory
from objstore.cli.working import refusals


@click.command()
@store_argument
@namespace_option
def browse(store: str, namespace: str | None) -> None:
    """Look around in STORE: keys as a tree, entries, and what values are made of.  Nothing is written.

    No value is unpickled unless you ask for it, and are asked back.  Inside, ? shows what the keys do.
    """
    refuse_memory(store)
    try:
        from objstore.cli.browsing.app import Browser
    except ModuleNotFoundError as exc:
        if (exc.name or "").split(".")[0] != "textual":
            raise
        raise click.ClickException(
            "browse needs textual: pip install textual (the extra `browse` of objstore)"
        ) from exc
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException("browse draws on a terminal, and here is none; `objstore ls` lists the keys")
    with refusals(), open_any(store, "r") as opened:
        if namespace is not None:
            opened.namespace(namespace)  # refused here and not on the screen
        Browser(opened, namespace).run()
