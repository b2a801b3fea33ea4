"""The command that writes what is in a store to files that others read, or to one that is the store.

Exit codes: 0 everything was exported, 1 something was not, 2 the command line made no sense.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import click

import objstore
from objstore import DEFAULT
from objstore.cli.arguments import key_option, store_argument, tag_option
from objstore.cli.literals import prefix_of
from objstore.cli.opening import open_any
from objstore.cli.printing import printable
from objstore.cli.working import progress_of, refusals

# So many of what is left out are printed.
_MOST_PRINTED = 100

_FORMATS = click.Choice(["pickle", "jsonl", "dump"])


@click.command()
@store_argument
@click.argument("target", metavar="TARGET", type=click.Path())
@click.option("--to", "format_", type=_FORMATS, required=True, help="What to write: see above.")
@click.option("-n", "--namespace", metavar="NAME", help="Only this namespace ('' is the default one).")
@key_option("-p", "--prefix", help="Only keys that begin so, as in `objstore ls`.")
@tag_option("-t", "--tag", help="Only what bears this tag.")
@click.option("--force", is_flag=True, help="Replace TARGET, if it is a file.")
def export(
    store: str, target: str, format_: str, namespace: str | None, prefix: str | None, tag: str | None, force: bool
) -> None:
    """Write what is in STORE to TARGET, while others use it.

    \b
    --to pickle   a new directory, one plain pickle file for each entry
    --to jsonl    one line of JSON for each entry, where JSON can tell the value exactly
    --to dump     one file with everything, from which `objstore import` makes the same store

    TARGET - is standard output (jsonl and dump).  pickle and jsonl unpickle the values, which runs the code of their
    classes; dump unpickles nothing.
    """
    if store.startswith("memory:"):
        raise click.UsageError("A store in memory ends with the command; name a directory or a server.")
    if format_ == "dump" and target == "-" and sys.stdout.isatty():
        raise click.UsageError("A dump is no text for a terminal; name a file, or redirect standard output.")
    # What decodes nothing needs no codec, so not one of somebody's own either.
    decodes = format_ != "dump"
    with (
        refusals(f"there is no half export at {target}"),
        progress_of("exporting") as progress,
        open_any(store, "r") if decodes else nullcontext(store) as source,
    ):
        report = objstore.export(
            source,
            target,
            format_,
            namespace=namespace,
            prefix=DEFAULT if prefix is None else prefix_of(prefix),
            tag=tag,
            force=force,
            progress=progress,
        )
    for damage in report.why[:_MOST_PRINTED]:
        _tell(f"left out: {damage.shown_key}{_place(damage.namespace)}: {damage.reason}")
    if report.skipped > _MOST_PRINTED:
        _tell(f"... and {report.skipped - _MOST_PRINTED:,} more like these")
    left = f", {report.skipped:,} left out" if report.skipped else ""
    _tell(f"{report.exported:,} entries exported{left}")
    raise SystemExit(not report.ok)


def _tell(text: str) -> None:
    """Print a line beside what is exported, which may be on standard output."""
    click.echo(printable(text), err=True)


def _place(namespace: str) -> str:
    return f" in namespace {namespace!r}" if namespace else ""
