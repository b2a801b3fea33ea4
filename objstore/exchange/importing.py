"""Importing: what other programs have stored, into a store, once and for all.

What the sources are is found out first, and each is opened, before anything is written; then two passes go through
them (see `passes`).  A dump is no foreign source: it is restored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from objstore.cache import Cache
from objstore.engines.base import Progress
from objstore.errors import WrongKind
from objstore.exchange.consent import Decoding
from objstore.exchange.dumps import RestoreReport, restore
from objstore.exchange.landing import Landing
from objstore.exchange.passes import Importing
from objstore.exchange.recognising import DUMP, Options, open_source, recognise
from objstore.exchange.reports import MOST_LISTED, ImportReport, Left
from objstore.store import Store


def import_into(
    target: str | os.PathLike[str] | Store[Any, Any],
    *sources: str | os.PathLike[str],
    format: str = "auto",  # noqa: A002  (it is what a user writes)
    namespace: str | None = None,
    allow: Iterable[Any] = (),
    trust: bool = False,
    rename: Mapping[str, Any] | None = None,
    keys: str | None = None,
    values: str | None = None,
    key_field: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import what other programs have stored, and compare it with its sources at the end.

    * `target`: an open `Store` or `Cache`, or a location, where a store is made if there is none.
    * `sources`: paths of pickle files or directories of them, of shelves, of caches of diskcache, of files of
      SqliteDict, of LMDB environments (of lmdbm or zict, say), of files of JSON Lines. They are only read, also while
      others write.
    * `format`: "pickle", "shelve", "diskcache", "sqlitedict", "lmdb", "jsonl" or "dump"; "auto" looks at each.
    * `namespace`: where what the source has in no namespace of its own goes.
    * `allow`: classes and functions, or their names ("people.Person"), that pickles in the sources may name, beside
      plain data and arrays of NumPy. `trust`: they may name everything, and so run whatever their writer chose.
    * `rename`: {"old.module.Name": "new.module.Name"} for classes that have moved; they are allowed.
    * `keys`: "bytes" or "text"; `values`: "bytes", "text", "json" or "pickle": what keys and values of LMDB, of a
      shelf or of a SqliteDict are, where it is not what the format says.
    * `key_field`: the field that is the key in lines of JSON that are no export of this library.
    * `replace`: whether what has another value in the target is replaced; otherwise it is left, and reported.

    `progress(done, total)` is called with entries, read and compared.

    Expiry and tags are taken over where the source has them. Who is interrupted calls it again, with the same
    arguments, and it goes on where it was. What cannot be taken over is left behind, and reported.

    Raises SourceError where a source is not there, is damaged, or is nothing that is known; ValueError and TypeError
    for arguments that make no sense; and what opening and writing the target raise.
    """
    if not sources:
        raise ValueError("there is nothing to import; give at least one source")
    options = Options(Decoding(allow, trust, rename, keys, values), key_field)
    paths = [os.fspath(source) for source in sources]
    formats = [recognise(path, format) for path in paths]
    if DUMP in formats:
        if len(paths) > 1 or any((namespace is not None, allow, trust, rename, keys, values, key_field)):
            raise ValueError(
                "a dump is a whole store, and nothing in it is decoded: import it by itself, without a namespace, and "
                "without allow, trust, rename, keys, values and key_field"
            )
        return _restored(restore(paths[0], target, merge=replace, progress=progress), paths[0])
    with ExitStack() as opened:
        each = []
        for path, form in zip(paths, formats, strict=True):
            each.append(open_source(path, form, options))
            opened.callback(each[-1].close)
        landing = Landing(opened.enter_context(_opened(target)), namespace)
        how = [*options.decoding.described(), key_field]
        return Importing(landing, each, how, replace, progress).run()


def _restored(report: RestoreReport, path: str) -> ImportReport:
    """What restoring a dump comes to: nothing is decoded there, and nothing encoded."""
    lost = [Left(path, damage.shown_key, damage.reason) for damage in report.lost]
    lost += [Left(path, "a part of it", problem) for problem in report.problems]
    differing = [Left(path, f"{report.differing:,} records", "they were changed meanwhile; import again")]
    return ImportReport(
        report.copied,
        0,
        report.present,
        report.verified,
        0,
        0,
        len(lost),
        report.differing,
        tuple(lost[:MOST_LISTED]),
        tuple(differing if report.differing else ()),
    )


@contextmanager
def _opened(target: str | os.PathLike[str] | Store[Any, Any]) -> Iterator[Store[Any, Any]]:
    """The target, open; it is closed at the end if it was opened here."""
    if isinstance(target, Store):
        yield target
        return
    if os.fspath(target).startswith("memory:"):
        raise ValueError("a store in memory ends with its last handle: open the target first, and give the handle")
    with _open(target) as store:
        yield store


def _open(location: str | os.PathLike[str]) -> Store[Any, Any]:
    try:
        return Store(location)
    except WrongKind:
        return Cache(location)
