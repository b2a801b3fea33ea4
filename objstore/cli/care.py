"""The commands that look after a store: check, backup, compact, salvage, rekey, copy.

Exit codes: 0 all is well, 1 something is not, 2 the command line made no sense.  How far they are is drawn on standard
error where that is a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

import objstore
from objstore import Damage
from objstore.cli.opening import open_any
from objstore.cli.printing import say
from objstore.cli.working import progress_of, refusals

# So many of each kind are printed; a program gets all of them (`objstore.check`).
_MOST_PRINTED = 100


@click.command()
@click.argument("store", metavar="STORE")
@click.option("--accept", is_flag=True, help="Let a suspect store be opened again, if nothing else is wrong with it.")
def check(store: str, accept: bool) -> None:
    """Look at every page and every record.  Also for a store that no longer opens.

    A store is suspect when the machine went down while it had unsynced writes.  No check can see that a record
    is older than what was written last; to accept it is your decision.
    """
    with refusals(), progress_of("checking") as progress:
        report = objstore.check(store, accept=accept, progress=progress)
    _print(report.problems)
    _print(map(_damaged, report.damaged))
    if report.suspect:
        say("suspect: the machine went down while it had unsynced writes; --accept takes it as it is")
    if report.unverified:
        say(f"{report.unverified:,} seals not verified: OBJSTORE_SIGNING_KEY or OBJSTORE_ENCRYPTION_KEY has no key")
    say(f"{report.entries:,} records, {'all is well' if report.ok else 'something is wrong'}")
    raise SystemExit(not report.ok)


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("target", metavar="TARGET")
def backup(store: str, target: str) -> None:
    """Copy STORE to TARGET, a new directory, while others use it.  The copy is compact and checked."""
    with refusals(), progress_of("copying") as progress, open_any(store, "r") as opened:
        opened.backup(target, progress=progress)


@click.command()
@click.argument("store", metavar="STORE")
def compact(store: str) -> None:
    """Give free pages back to the disk.  Nobody else may have the store open."""
    with refusals(), progress_of("compacting") as progress, open_any(store, "w") as opened:
        before = opened.stats().file_bytes
        opened.compact(progress=progress)
        after = opened.stats().file_bytes
    say(f"{before:,} bytes before, {after:,} after")


@click.command()
@click.argument("source", metavar="STORE")
@click.argument("target", metavar="TARGET")
def salvage(source: str, target: str) -> None:
    """Take everything that can still be read out of a damaged STORE into TARGET, a new one."""
    with refusals(), progress_of("salvaging") as progress:
        report = objstore.salvage(source, target, progress=progress)
    _print(report.problems)
    _print(map(_damaged, report.lost))
    strays = f", {report.strays:,} of them from outside the damaged tree, maybe old" if report.strays else ""
    say(f"{report.entries:,} records salvaged{strays}; {len(report.lost):,} lost")
    raise SystemExit(bool(report.lost or report.problems))


@click.command()
@click.argument("store", metavar="STORE")
def rekey(store: str) -> None:
    """Seal every record of STORE with the newest of its keys, while others use it.

    The keys, newest first and with commas between them, are those in the environment variable OBJSTORE_SIGNING_KEY or
    OBJSTORE_ENCRYPTION_KEY.  What was interrupted is begun again where it was.
    """
    with refusals(), progress_of("rekeying") as progress, open_any(store, "w") as opened:
        report = opened.rekey(progress=progress)
        key = opened.stats().key
    _print(map(_damaged, report.refused))
    for needed in report.needed:
        say(f"key {needed} is still needed: somebody writes with it; rekey again when all have the new key first")
    if not (report.needed or report.refused):
        say(f"no key but {key} is needed any more")
    say(f"{report.resealed:,} records sealed anew, {len(report.refused):,} refused")
    raise SystemExit(bool(report.refused or report.needed))


@click.command()
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--merge", is_flag=True, help="Into a store that holds other things: replace what both have.")
@click.option("--target-signing-key", metavar="NAME", help="The environment variable with a signing key for TARGET.")
@click.option("--target-encryption-key", metavar="NAME", help="The same, to have TARGET encrypted.")
def copy(
    source: str, target: str, merge: bool, target_signing_key: str | None, target_encryption_key: str | None
) -> None:
    """Copy everything in SOURCE to TARGET, on any engine, while others use it, and compare the two.

    TARGET is made if it is missing; it is sealed as SOURCE is, if no other key is named.  What was interrupted goes on
    where it was when it is begun again.
    """
    if source.startswith("memory:") or target.startswith("memory:"):
        raise click.UsageError("A store in memory ends with the command; name a directory or a server.")
    with refusals(), progress_of("copying") as progress:
        report = objstore.copy(
            source,
            target,
            target_signing_key=target_signing_key,
            target_encryption_key=target_encryption_key,
            merge=merge,
            progress=progress,
        )
    _print(map(_damaged, report.lost))
    if report.differing:
        say(f"{report.differing:,} records were written meanwhile once more; copy again with --merge")
    present = f", {report.present:,} were there" if report.present else ""
    removed = f", {report.removed:,} removed" if report.removed else ""
    left = f", {len(report.lost):,} left behind" if report.lost else ""
    say(f"{report.copied:,} records copied{present}{removed}{left}; {report.verified:,} compared and the same")
    raise SystemExit(not report.ok)


def _print(lines: Iterable[str]) -> None:
    every = list(lines)
    for line in every[:_MOST_PRINTED]:
        say(line)
    if len(every) > _MOST_PRINTED:
        say(f"... and {len(every) - _MOST_PRINTED:,} more like these")


def _damaged(damage: Damage) -> str:
    where = f" in namespace {damage.namespace!r}" if damage.namespace else ""
    return f"damaged: {damage.shown_key}{where}: {damage.reason}"
