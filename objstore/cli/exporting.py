"""The command that writes what is in a store to files that others read, or to one that is the store.

Exit codes: 0 everything was exported, 1 something was not, 2 the command line made no sense.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from operator import attrgetter

import click

import objstore
from objstore import DEFAULT, Damage
from objstore.cli.arguments import key_option, store_argument, tag_option
from objstore.cli.literals import prefix_of
from objstore.cli.opening import open_any, refuse_memory
from objstore.cli.printing import say, say_first, told
from objstore.cli.working import progress_of, refusals

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
    refuse_memory(store)
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
    # Beside what is exported, which may be on standard output.
    say_first(_left_out, report.why, report.skipped, alike=attrgetter("reason"), err=True)
    left = f", {report.skipped:,} left out" if report.skipped else ""
    say(f"{report.exported:,} entries exported{left}", err=True)
    raise SystemExit(not report.ok)


def _left_out(damage: Damage) -> str:
    return f"left out: {told(damage)}"
