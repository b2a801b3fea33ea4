"""Checking a store: its structure, every record, and the books.

An embedded store is checked in a process of its own, which reads the data file without LMDB.  So neither a damaged
file nor a disk that fails can harm the process that asks.  The two talk through a pipe, a line of JSON at a time: what
was found, and how far it is.

This room is both ends of that pipe.  What is looked at is said in `audit` (records and books) and in the engine
(structure).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any, NamedTuple

from objstore import keys
from objstore.audit import Audit, Damage, audit
from objstore.codecs.keyring import NO_KEYS, KeyOption, KeyRing, Keys, keys_of
from objstore.engines import connect, is_on_servers, path_of
from objstore.engines.base import Engine, Inspection, Progress
from objstore.errors import StoreCorrupt, StoreError
from objstore.keys import LostKey


class CheckReport(NamedTuple):
    """What a check has found."""

    entries: int
    """Records, in all namespaces; what is expired and not yet swept is among them."""
    damaged: tuple[Damage, ...]
    """The records that cannot be read any more, in the order of their keys."""
    problems: tuple[str, ...]
    """What else is wrong: with the structure of the file, or with the counts and indexes."""
    suspect: bool = False
    """Whether the machine went down with unsynced writes, and nobody has accepted the store since."""
    unverified: int = 0
    """Sealed records whose seals were not verified, because no key was given: they fit their digests, no more."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with the store, and nothing suspect."""
        return not (self.damaged or self.problems or self.suspect)


def check(
    location: str | os.PathLike[str],
    *,
    accept: bool = False,
    signing_key: KeyOption = None,
    encryption_key: KeyOption = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check the store at a path or on servers, open or not, and whether it can be opened or not.

    With `accept`, a store that is refused with StoreSuspect can be opened again afterwards, if nothing else is wrong
    with it.  No check can tell a record from an older one under the same key, so what was written last before the
    machine went down may be missing in it.

    The keys are those of `Store`: with them, every seal of a sealed store is verified, too.

    `progress(done, total)` is called now and then, with pages.  Raises StoreNotFound, StoreDenied, StoreLocked,
    StoreCorrupt where there is nothing to check; StoreError where no process can be started; ValueError for a location
    that is neither.
    """
    from objstore.engines.lmdb import inspecting

    keys = keys_of(signing_key, encryption_key)
    if is_on_servers(location):
        engine = connect(location, "r", {}, None, evictable=True)  # whatever it is
        try:
            return check_engine(engine, progress, keys)
        finally:
            engine.release()
    with inspecting(path_of(location)) as (inspection, directory):
        report = run(inspection, progress, keys)
        if directory is None or not directory.suspect:
            return report
        if not (accept and report.ok):
            return report._replace(suspect=True)
        directory.accept()
        return report


def check_engine(engine: Engine, progress: Progress | None, keys: Keys) -> CheckReport:
    """Check the last committed state of an open engine."""
    with engine.kept_open():
        inspection = engine.inspection()
        if inspection is None:
            keeps_books = "transaction" in engine.capabilities
            is_ordered = not keeps_books and "ordered" in engine.capabilities
            return _report(audit(engine.location, engine.audited(), keys, keeps_books, is_ordered))
        return run(inspection, progress, keys)


def require_whole(inspection: Inspection, progress: Progress | None) -> None:
    """Raise StoreCorrupt unless a check finds nothing."""
    report = run(inspection, progress)
    if report.ok:
        return
    what = [*report.problems, *(f"the record of {damage.shown_key}: {damage.reason}" for damage in report.damaged)]
    raise StoreCorrupt(
        f"the copy of {inspection.location!r} is not whole ({what[0]}; {len(what)} in all), and was thrown away; "
        f"check that store, and restore a backup of it or salvage what is left"
    )


def _report(found: Audit) -> CheckReport:
    return CheckReport(found.entries, tuple(found.damaged), tuple(found.problems), unverified=found.unverified)


# The two ends of the pipe

# A line that begins so is ours: what a process is loaded with may print, too.
_MARK = "objstore: "
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from objstore.checking import main; main()"


def run(inspection: Inspection, progress: Progress | None, keys: Keys = NO_KEYS) -> CheckReport:
    """Check a state in a process of its own."""
    # Not cheap to load, and seldom needed.  What is executed can be set by those who embed Python.
    import subprocess
    from multiprocessing.spawn import get_executable

    descriptor = inspection.descriptor
    path = [each for each in sys.path if isinstance(each, str)]  # what else is there finds no module
    # Not to load anything from the working directory, which may be a stranger's.
    isolated = "-I" if sys.flags.isolated else "-P"
    arguments = [json.dumps(path), str(descriptor), inspection.state, inspection.location]
    try:
        program = subprocess.Popen(  # noqa: S603  (ourselves)
            [os.fsdecode(get_executable()), isolated, "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # nobody would empty a second pipe
            pass_fds=(descriptor,),
            encoding="utf-8",
            errors="replace",
        )
    except OSError as exc:
        raise StoreError(
            f"no process can be started that checks the store at {inspection.location!r}: {exc.strerror}; lift the "
            f"limit, or end something"
        ) from exc
    found: dict[str, Any] = {}
    complaint = ""
    with program:
        try:
            assert program.stdin is not None
            assert program.stdout is not None
            with suppress(BrokenPipeError), program.stdin:  # not among the arguments, which everybody can see
                program.stdin.write(json.dumps([ring and [key.hex() for key in ring.values()] for ring in keys]))
            for line in program.stdout:
                if not line.startswith(_MARK):
                    complaint = line.strip() or complaint
                    continue
                found = json.loads(line.removeprefix(_MARK))
                if progress and "done" in found:
                    progress(found["done"], found["total"])
            program.wait()
        finally:
            program.kill()  # which does nothing where it has ended
    if "entries" not in found:
        return CheckReport(
            0, (), (f"the process that checked it ended early: {_ending(program.returncode, complaint)}",)
        )
    damaged = (_damage(*each) for each in found["damaged"])
    return CheckReport(found["entries"], tuple(damaged), tuple(found["problems"]), unverified=found["unverified"])


def main() -> None:
    """The process that checks: what it is given stands in its arguments, the keys come from standard input, and what it
    finds goes to standard output.
    """
    from objstore.engines.lmdb import inspect

    descriptor, state, location = sys.argv[2:]
    problems: list[str] = []

    def tell_progress(done: int, total: int) -> None:
        _tell(done=done, total=total)

    keys = Keys(*(ring and KeyRing(list(map(bytes.fromhex, ring))) for ring in json.load(sys.stdin)))
    found = audit(location, inspect(int(descriptor), state, problems.append, tell_progress), keys)
    damaged = [(damage.namespace, *_encoded(damage.key), damage.reason) for damage in found.damaged]
    _tell(entries=found.entries, damaged=damaged, problems=problems + found.problems, unverified=found.unverified)


def _tell(**found: Any) -> None:
    # On a line of its own, whatever others have written.
    print("", _MARK + json.dumps(found), sep="\n", flush=True)


def _encoded(key: Any) -> tuple[str, bool]:
    return (key.place.hex(), True) if isinstance(key, LostKey) else (keys.encode(key).hex(), False)


def _damage(namespace: str, key: str, is_lost: bool, reason: str) -> Damage:
    encoded = bytes.fromhex(key)
    return Damage(namespace, LostKey(encoded) if is_lost else keys.decode(encoded), reason)


def _ending(status: int, complaint: str) -> str:
    what = f"status {status}" if status >= 0 else signal.Signals(-status).name
    return f"{what} {complaint}".rstrip()
