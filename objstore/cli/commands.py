"""The commands, and where each is found.  The file of a command is loaded when that command is called, so that those
that print a value do not wait for those that draw.

How keys and values are written: `literals`.  Exit codes: `ending`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from objstore import __version__
from objstore.cli.ending import endings

# In the order in which the help lists them: a file here, and a name in it.
_COMMANDS = {
    "demo": "demo:demo",
    "get": "reading:get",
    "set": "writing:set_",
    "delete": "writing:delete",
    "ls": "reading:ls",
    "info": "informing:info",
    "check": "care:check",
    "backup": "care:backup",
    "compact": "care:compact",
    "salvage": "care:salvage",
    "rekey": "care:rekey",
    "copy": "care:copy",
    "import": "importing:import_",
    "export": "exporting:export",
    "browse": "browse:browse",
    "bench": "benchmarking:bench",
    "completion": "completion:completion",
}

_EPILOG = """\b
Exit codes:
    0  done
    1  the key or the store refused, or not all is well
    2  the command line made no sense
  130  interrupted with Ctrl-C (143 SIGTERM, 129 SIGHUP); what was half done is undone
  141  who read the output has gone, as in `objstore ls STORE | head`
"""


class _Group(click.Group):
    """Commands in the order of the table, each loaded when it is wanted."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *self.commands]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return super().get_command(ctx, name)
        module, _, attribute = _COMMANDS[name].partition(":")
        command: click.Command = getattr(import_module(f"objstore.cli.{module}"), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        with endings():
            return super().invoke(ctx)


@click.group(cls=_Group, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="objstore")
def objstore() -> None:
    """A dictionary that lives on disk.  STORE is a directory, or on servers a URL (redis://host/name).

    Keys and values are written as in Python (42, ('user', 42)); what is not Python is text (user:1).
    """
