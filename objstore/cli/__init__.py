"""The command line.  It calls public names only, and needs the extra `cli` (click and rich), `browse` its own."""

from __future__ import annotations

import sys


def main() -> None:
    """The entry point `objstore`."""
    try:
        import click as _click  # noqa: F401
        import rich as _rich  # noqa: F401
    except ImportError as exc:
        extra = "browse" if sys.argv[1:2] == ["browse"] else "cli"
        sys.exit(
            f"the command line needs {exc.name}; run `pip install click rich`, or install objstore with its extra "
            f"{extra}: pip install 'objstore[{extra}]'"
        )
    from objstore.cli.commands import objstore

    objstore()
