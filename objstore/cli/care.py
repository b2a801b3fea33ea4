"""The commands that look after a store: check, backup, compact, salvage, rekey, copy.

The exit code is 1 where not all is well.  Text shortens what is long; with `--json` a program gets all of it.  Who is
interrupted is told what that has left: the old store, or what goes on when the command is given again.
"""

from __future__ import annotations

from typing import Any, NoReturn

import click

import objstore
from objstore import Damage, LostKey
from objstore.cli.arguments import json_option, place_argument, store_argument
from objstore.cli.literals import written
from objstore.cli.opening import open_any, refuse_memory
from objstore.cli.printing import say, say_first, say_json, told
from objstore.cli.working import GOES_ON, progress_of, refusals

_AS_IT_WAS = "the store is as it was"


@click.command()
@store_argument
@click.option("--accept", is_flag=True, help="Let a suspect store be opened again, if nothing else is wrong with it.")
@json_option
def check(store: str, accept: bool, as_json: bool) -> None:
    """Look at every page and every record.  Also for a store that no longer opens.

    A store is suspect when the machine went down while it had unsynced writes.  No check can see that a record
    is older than what was written last; to accept it is your decision.
    """
    with refusals(), progress_of("checking") as progress:
        report = objstore.check(store, accept=accept, progress=progress)
    if as_json:
        _tell(report, report.ok)
    say_first(str, report.problems)
    say_first(_damaged, report.damaged)
    if report.suspect:
        say("suspect: the machine went down while it had unsynced writes; --accept takes it as it is")
    if report.unverified:
        say(f"{report.unverified:,} seals not verified: OBJSTORE_SIGNING_KEY or OBJSTORE_ENCRYPTION_KEY has no key")
    say(f"{report.entries:,} records, {'all is well' if report.ok else 'something is wrong'}")
    raise SystemExit(not report.ok)


@click.command()
@store_argument
@place_argument("target", "TARGET")
@json_option
def backup(store: str, target: str, as_json: bool) -> None:
    """Copy STORE to TARGET, a new directory, while others use it.  The copy is compact and checked."""
    interrupted = f"there is no backup at {target}"
    with refusals(interrupted), progress_of("copying") as progress, open_any(store, "r") as opened:
        opened.backup(target, progress=progress)
    with refusals(), open_any(target, "r") as copied:
        file_bytes = copied.stats().file_bytes
    if as_json:
        say_json({"target": target, "file_bytes": file_bytes})
    else:
        say(f"{file_bytes:,} bytes in {target}, checked")


@click.command()
@store_argument
@json_option
def compact(store: str, as_json: bool) -> None:
    """Give free pages back to the disk.  Nobody else may have the store open."""
    with refusals(_AS_IT_WAS), progress_of("compacting") as progress, open_any(store, "w") as opened:
        before = opened.stats().file_bytes
        opened.compact(progress=progress)
        after = opened.stats().file_bytes
    if as_json:
        say_json({"before": before, "after": after})
    else:
        say(f"{before:,} bytes before, {after:,} after")


@click.command()
@place_argument("source", "STORE")
@place_argument("target", "TARGET")
@json_option
def salvage(source: str, target: str, as_json: bool) -> None:
    """Take everything that can still be read out of a damaged STORE into TARGET, a new one."""
    with refusals(f"{_AS_IT_WAS}, and there is no {target}"), progress_of("salvaging") as progress:
        report = objstore.salvage(source, target, progress=progress)
    if as_json:
        _tell(report, not (report.lost or report.problems))
    say_first(str, report.problems)
    say_first(_damaged, report.lost)
    strays = f", {report.strays:,} of them from outside the damaged tree, maybe old" if report.strays else ""
    say(f"{report.entries:,} records salvaged{strays}; {len(report.lost):,} lost")
    raise SystemExit(bool(report.lost or report.problems))


@click.command()
@store_argument
@json_option
def rekey(store: str, as_json: bool) -> None:
    """Seal every record of STORE with the newest of its keys, while others use it.

    The keys, newest first and with commas between them, are those in the environment variable OBJSTORE_SIGNING_KEY or
    OBJSTORE_ENCRYPTION_KEY.  What was interrupted is begun again where it was.
    """
    with refusals(GOES_ON), progress_of("rekeying") as progress, open_any(store, "w") as opened:
        report = opened.rekey(progress=progress)
        key = opened.stats().key
    if as_json:
        _tell(report, not (report.refused or report.needed), key=key)
    say_first(_damaged, report.refused)
    for needed in report.needed:
        say(f"key {needed} is still needed: somebody writes with it; rekey again when all have the new key first")
    if not (report.needed or report.refused):
        say(f"no key but {key} is needed any more")
    say(f"{report.resealed:,} records sealed anew, {len(report.refused):,} refused")
    raise SystemExit(bool(report.refused or report.needed))


@click.command()
@place_argument("source", "SOURCE")
@place_argument("target", "TARGET")
@click.option("--merge", is_flag=True, help="Into a store that holds other things: replace what both have.")
@click.option("--target-signing-key", metavar="NAME", help="The environment variable with a signing key for TARGET.")
@click.option("--target-encryption-key", metavar="NAME", help="The same, to have TARGET encrypted.")
@json_option
def copy(
    source: str,
    target: str,
    merge: bool,
    target_signing_key: str | None,
    target_encryption_key: str | None,
    as_json: bool,
) -> None:
    """Copy everything in SOURCE to TARGET, on any engine, while others use it, and compare the two.

    TARGET is made if it is missing; it is sealed as SOURCE is, if no other key is named.  What was interrupted goes on
    where it was when it is begun again.
    """
    refuse_memory(source, target)
    with refusals(GOES_ON), progress_of("copying") as progress:
        report = objstore.copy(
            source,
            target,
            target_signing_key=target_signing_key,
            target_encryption_key=target_encryption_key,
            merge=merge,
            progress=progress,
        )
    if as_json:
        _tell(report, report.ok)
    say_first(_damaged, report.lost)
    if report.differing:
        say(f"{report.differing:,} records were written meanwhile once more; copy again with --merge")
    present = f", {report.present:,} were there" if report.present else ""
    removed = f", {report.removed:,} removed" if report.removed else ""
    left = f", {len(report.lost):,} left behind" if report.lost else ""
    say(f"{report.copied:,} records copied{present}{removed}{left}; {report.verified:,} compared and the same")
    raise SystemExit(not report.ok)


def _tell(report: Any, ok: bool, **more: Any) -> NoReturn:
    """Print a report as JSON, with whether all is well, and end with that."""
    fields = {name: _plain(value) for name, value in report._asdict().items()}
    say_json({"ok": ok} | more | fields)
    raise SystemExit(not ok)


def _plain(value: Any) -> Any:
    if isinstance(value, Damage):
        key = None if isinstance(value.key, LostKey) else written(value.key)
        return {"namespace": value.namespace, "literal": key, "reason": value.reason}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _damaged(damage: Damage) -> str:
    return f"damaged: {told(damage)}"
