"""`objstore import`: what other programs have stored, into a store.

Exit codes: 0 all is there, 1 something was left behind or refused, 2 the command line made no sense.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import partial
from operator import attrgetter
from typing import NoReturn

import click

import objstore
from objstore import ImportReport, Left, UnsealedWarning
from objstore.cli.arguments import json_option, store_argument
from objstore.cli.opening import refuse_memory
from objstore.cli.printing import printable, say, say_first, say_json
from objstore.cli.working import GOES_ON, progress_of, refusals

_OF_SCRIPTS = "__main__."

_FORMATS = ("auto", "pickle", "shelve", "diskcache", "sqlitedict", "lmdb", "jsonl", "dump")


class _Rename(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """OLD=NEW."""

    name = "rename"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        old, equals, new = value.partition("=")
        if not (old and equals and new):
            self.fail(f"{value!r} is not OLD.Name=NEW.Name", param, ctx)
        return old, new


@click.command(name="import")
@store_argument
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path())
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
    refuse_memory(store)
    if scripts := [name for name in allow if name.startswith(_OF_SCRIPTS)]:
        raise click.UsageError(f"{scripts[0]!r} is not to be had here: {_moved(scripts[0])}")
    # A module that is imported for its classes may print: that is none of the report.
    with refusals(GOES_ON), _told(), progress_of("importing") as progress, warnings.catch_warnings(), _aside():
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
    say_first(partial(_line, "left"), report.unread_first, report.unread, alike=attrgetter("reason"))
    say_first(partial(_line, "differs"), report.differing_first, report.differing, alike=attrgetter("reason"))
    _say_needs(report.needs)
    say(_summary(report))
    raise SystemExit(not report.ok)


@contextmanager
def _told() -> Iterator[None]:
    """What is no error of a store is a line for the user, too."""
    try:
        yield
    except TypeError as exc:  # a name that cannot be allowed
        raise click.ClickException(printable(str(exc))) from exc


def _aside() -> AbstractContextManager[object]:
    return redirect_stdout(sys.stderr)


def _tell(report: ImportReport) -> NoReturn:
    """Print the report as JSON, and end with whether all is well."""
    listed = {name: [left._asdict() for left in getattr(report, name)] for name in ("unread_first", "differing_first")}
    say_json({"ok": report.ok, "needs": report.needs} | report._asdict() | listed)
    raise SystemExit(not report.ok)


def _line(what: str, left: Left) -> str:
    of = "" if left.source.endswith(left.key) else f" of {left.source}"
    # In one line: a name in it, of a file or in a pickle, is somebody else's.
    return f"{what}: {left.key}{of}: {left.reason}".replace("\n", "\\n")


def _say_needs(needs: tuple[str, ...]) -> None:
    """Print the options that allow some names."""
    needs = tuple(name for name in needs if name.isprintable())  # any other is forged
    allowed = [f"--allow {shlex.quote(name)}" for name in needs if not name.startswith(_OF_SCRIPTS)]
    for name in needs:
        if name.startswith(_OF_SCRIPTS):
            say(_moved(name))
    if allowed:
        say(f"to take over what needs these names, if you know them: {' '.join(allowed)}")
        say("or --trust, if you trust whoever wrote it: it runs whatever the pickles say")


def _moved(name: str) -> str:
    """What to do about a name that a script has defined: in every other program it has another one."""
    inner = name.removeprefix(_OF_SCRIPTS)
    option = shlex.quote(f"{name}=MODULE.{inner}")
    return (
        f"{inner} was defined in a script, and nobody else can load it; put its definition, and nothing else, into a "
        f"module, MODULE.py, and give --rename {option}, with PYTHONPATH=. before the command"
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
    into = f"; into the namespaces {', '.join(map(repr, report.namespaces))}" if report.namespaces else ""
    return f"{', '.join(parts)}; {report.verified:,} compared and the same{into}"
