"""The command line.  It calls public names only, and needs the extra `cli` (click and rich), `browse` its own."""

from __future__ import annotations

import os
import sys

# Set by the script of a shell that asks what could come next.
COMPLETE_VARIABLE = "_OBJSTORE_COMPLETE"


def main() -> None:
    """The entry point `objstore`, which `python -m objstore` is, too."""
    try:
        import click as _click  # noqa: F401
        import rich as _rich  # noqa: F401
    except ImportError as exc:
        packages = "click rich textual" if sys.argv[1:2] == ["browse"] else "click rich"
        sys.exit(f"the command line needs {exc.name}: pip install {packages} (the extra `cli` of objstore)")
    from objstore.cli.commands import objstore
    from objstore.cli.ending import heed_signals

    if COMPLETE_VARIABLE in os.environ:
        from objstore.cli.completion import prepare

        prepare()
    heed_signals()
    objstore(prog_name="objstore", complete_var=COMPLETE_VARIABLE)
