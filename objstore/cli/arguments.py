"""The arguments and options that several commands have, and what a shell completes them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from objstore.cli.completing import complete_directories, complete_keys, complete_namespaces, complete_tags

# Of a function, or of what click has made of it.
Decorator = Callable[[Any], Any]


def place_argument(name: str, metavar: str, required: bool = True) -> Decorator:
    """A place for a store: a directory or a URL."""
    return click.argument(name, metavar=metavar, required=required, shell_complete=complete_directories)


def key_argument(name: str, **how: Any) -> Decorator:
    """A key, or several of them."""
    return click.argument(name, shell_complete=complete_keys, **how)


def key_option(*names: str, **how: Any) -> Decorator:
    """An option that takes a key, or its beginning."""
    return click.option(*names, shell_complete=complete_keys, **how)


store_argument = place_argument("store", "STORE")
namespace_option = click.option(
    "-n", "--namespace", metavar="NAME", help="A namespace of the store.", shell_complete=complete_namespaces
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def tag_option(*names: str, **how: Any) -> Decorator:
    """A tag, or several of them."""
    return click.option(*names, metavar="TAG", shell_complete=complete_tags, **how)
