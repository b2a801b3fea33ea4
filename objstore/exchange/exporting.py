"""Export: what is in a store to files that others read, or to one file that is the store.

Three formats: plain pickle files, which need nothing but Python (`pickledirs`); JSON Lines, which every language reads
(`jsonlines`); and the portable dump, which holds all and loses nothing (`dumps`).  The first two decode the values, as
reading them does, so what a codec or the environment refuses stays behind; the dump decodes nothing.  What cannot be
exported is left out and told, and the rest goes on.  From an engine with snapshots, an export is one state.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any, NamedTuple

from objstore.audit import Damage
from objstore.codecs.keyring import KeyOption
from objstore.copying.stores import Where, check_keys, source_of
from objstore.engines.base import Progress
from objstore.exchange.decoding import SINKS, Exporting
from objstore.exchange.dumps import write_dump
from objstore.exchange.files import target_file
from objstore.exchange.reports import MOST_LISTED
from objstore.mapping import DEFAULT

FORMATS = ("pickle", "jsonl", "dump")


class ExportReport(NamedTuple):
    """What was exported, and what was not."""

    exported: int
    """Entries that were written."""
    skipped: int
    """Entries that could not be written, or read."""
    why: tuple[Damage, ...]
    """The first 1,000 of them, each with its namespace, its key and the reason."""

    @property
    def ok(self) -> bool:
        """Whether everything was exported."""
        return not self.skipped


def export(
    source: Where,
    target: str | os.PathLike[str],
    format: str,  # noqa: A002  (that is what it is to who calls it)
    *,
    namespace: str | None = None,
    prefix: Any = DEFAULT,
    tag: str | None = None,
    signing_key: KeyOption = None,
    encryption_key: KeyOption = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write what is in a store to `target`, while others use it.

    * `source`: a location, or an open `Store` or `Cache`, which keeps the options with which it was opened (an
      allow-list of pickles, say). `signing_key`, `encryption_key`: those of a location, as in `Store`.
    * `target`: a path; "-" is standard output, but for "pickle".
    * `format`: "pickle", a new directory with one plain pickle file for each entry; "jsonl", a file with one line of
      JSON for each, of values that JSON gives back as they are; "dump", one file with everything in the store, from
      which `restore` makes the same store anew.
    * `namespace`: only this one; "" is the default one, and None is all. `prefix`, `tag`: only what `store.range` finds
      with them. A dump is always of everything; the other formats leave out what the library keeps for itself,
      memoized results among it.
    * `force`: replace a file that is there. What is written has its name when it is whole, and is for its owner alone.

    `progress(done, total)` is called with entries; `total` is `done` where nobody knows it.

    "pickle" and "jsonl" decode the values, which runs the code of pickles as reading does; "dump" decodes nothing, and
    needs no keys.

    Raises StoreNotFound, StoreExists where there is something at `target`, StoreFull, StoreDenied; BadSignature where
    a key is missing or is not the one; ValueError and TypeError for arguments that make no sense.
    """
    if format not in FORMATS:
        raise ValueError(f"the format of an export is one of {', '.join(map(repr, FORMATS))}, not {format!r}")
    is_dump = format == "dump"
    if is_dump and not (namespace is None and prefix is DEFAULT and tag is None):
        raise ValueError("a dump is of the whole store; export to pickle or jsonl for a part of it")
    with ExitStack() as opened:
        store = source_of(source, opened, signing_key, encryption_key, decodes=not is_dump)
        if is_dump:
            records, lost = write_dump(store, target_file(target, force, opened), progress)
            return ExportReport(records, len(lost), lost[:MOST_LISTED])
        check_keys(store._identity, store._keys, store.location, "")
        work = Exporting(store, namespace, prefix, tag, progress)
        exported, skipped, why = work.run(SINKS[format](target, force, opened), MOST_LISTED)
        return ExportReport(exported, skipped, tuple(why))
