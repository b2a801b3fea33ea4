"""`objstore import`: what other programs have stored, into a store.

Exit codes: 0 all is there, 1 something was left behind or refused, 2 the command line made no sense.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

import objstore
from objstore import ImportReport, Left, UnsealedWarning
from objstore.cli.arguments import json_option, store_argument
from objstore.cli.printing import printable, say, say_json
from objstore.cli.working import progress_of, refusals

_FORMATS = ("auto", "pickle", "shelve", "diskcache", "sqlitedict", "lmdb", "jsonl", "dump")

# So many of each kind are printed; a program gets the first thousand (`objstore.import_into`).
_MOST_PRINTED = 100


class _Rename(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """OLD=NEW."""

    name = "rename"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        old, equals, new = value.partition("=")
        if not (old and equals and new):
            self.fail(f"{value!r} is not OLD.Name=NEW.Name", param, ctx)
        return old, new


_GOES_ON = "give the same command again, and it goes on where it was"


@click.command(name="import")
@store_argument
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--from", "form", type=click.Choice(_FORMATS), default="auto", help="What SOURCE is; auto looks at it.")
@click.option("--allow", metavar="NAME", multiple=True, help="A class that pickles may name; repeatable.")
@click.option("--trust", is_flag=True, help="Load any pickle, which runs whatever its writer chose.")
@click.option("--rename", metavar="OLD=NEW", multiple=True, type=_Rename(), help="A class that has moved; repeatable.")
@click.option("-n", "--namespace", metavar="NAME", help="Into this namespace, where SOURCE names none.")
@click.option("--keys", type=click.Choice(["bytes", "text"]), help="What the keys of LMDB, of a shelf are.")
@click.option("--values", type=click.Choice(["bytes", "text", "json", "pickle"]), help="What the values are.")
@click.option("--key", "key_field", metavar="FIELD", help="The field of each line of JSON that is the key.")
@click.option("--replace", is_flag=True, help="Replace what STORE has under a key with another value.")
@json_option
def import_(
    store: str,
    sources: tuple[str, ...],
    form: str,
    allow: tuple[str, ...],
    trust: bool,
    rename: tuple[tuple[str, str], ...],
    namespace: str | None,
    keys: str | None,
    values: str | None,
    key_field: str | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Import what other programs have stored, and compare it with its sources at the end.

    SOURCE is a pickle file or a directory of them, a shelf, a cache of diskcache, a file of SqliteDict, an LMDB
    environment (lmdbm, zict), a file of JSON Lines, or a dump.  It is only read, and no code that it names is run
    unless that is allowed.  What was interrupted goes on where it was when it is begun again.
    """
    if store.startswith("memory:"):
        raise click.UsageError("A store in memory ends with the command; name a directory or a server.")
    with refusals(_GOES_ON), _told(), progress_of("importing") as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsealedWarning)  # what unpickles says so in its help
        report = objstore.import_into(
            store,
            *sources,
            format=form,
            namespace=namespace,
            allow=allow,
            trust=trust,
            rename=dict(rename),
            keys=keys,
            values=values,
            key_field=key_field,
            replace=replace,
            progress=progress,
        )
    if as_json:
        _tell(report)
    _print("left", report.unread_first, report.unread)
    _print("differs", report.differing_first, report.differing)
    if report.needs:
        say(f"to take over what needs these names: {_flags(report.needs)}")
        say("or --trust, if you trust whoever wrote it: it runs whatever the pickles say")
    say(_summary(report))
    raise SystemExit(not report.ok)


@contextmanager
def _told() -> Iterator[None]:
    """What is no error of a store is a line for the user, too."""
    try:
        yield
    except (TypeError, ModuleNotFoundError) as exc:  # a name that cannot be allowed, a package that is not there
        raise click.ClickException(printable(str(exc))) from exc


def _tell(report: ImportReport) -> NoReturn:
    """Print the report as JSON, and end with whether all is well."""
    listed = {name: [left._asdict() for left in getattr(report, name)] for name in ("unread_first", "differing_first")}
    say_json({"ok": report.ok, "needs": report.needs} | report._asdict() | listed)
    raise SystemExit(not report.ok)


def _print(what: str, entries: tuple[Left, ...], count: int) -> None:
    for left in entries[:_MOST_PRINTED]:
        # In one line: a name in it, of a file or in a pickle, is somebody else's.
        say(f"{what}: {left.key} of {left.source}: {left.reason}".replace("\n", "\\n"))
    if count > _MOST_PRINTED:
        say(f"... and {count - _MOST_PRINTED:,} more that {'were left' if what == 'left' else 'differ'}")


def _flags(needs: tuple[str, ...]) -> str:
    """The options that allow some names; what a script has defined has another name in every other program."""
    return " ".join(
        f"--rename {shlex.quote(f'{name}=MODULE.{name[9:]}')}"
        if name.startswith("__main__.")
        else f"--allow {shlex.quote(name)}"
        for name in needs
        if name.isprintable()  # any other is forged
    )


def _summary(report: ImportReport) -> str:
    parts = [f"{report.imported:,} entries imported"]
    counted = {
        "in the place of another value": report.replaced,
        "were there": report.present,
        "expired": report.expired,
        "evicted": report.evicted,
        "left behind": report.unread,
        "differ": report.differing,
    }
    parts += [f"{count:,} {what}" for what, count in counted.items() if count]
    return f"{', '.join(parts)}; {report.verified:,} compared and the same"
