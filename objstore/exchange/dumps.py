"""A store to one file and back: what it is, and every record byte for byte, also what is sealed.

To write a dump is to go through a store as a copy does, each record verified; to restore one is a copy whose origin is
the dump (see `copying`), so it is verified, takes a bounded memory and goes on where it was interrupted.  A store that
is made from a dump has its id: so seals stay good, and nobody needs their keys.  What the file looks like: `dumpfile`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, NamedTuple

from objstore import eviction, identity, space
from objstore.audit import Damage
from objstore.codecs.keyring import KeyOption, Keys, keys_of
from objstore.copying.records import NOTE_PREFIX, StoreOrigin, Walk, bounds_in
from objstore.copying.stores import (
    KINDS,
    Where,
    check_handle,
    check_keys,
    check_same_kind,
    claim,
    keys_in_use,
    look,
    open_target,
)
from objstore.copying.work import Copying, lies_there_too
from objstore.engines import connect, is_on_servers
from objstore.engines.base import DURABILITY_KEY, IDENTITY_KEY, Progress, durability_of
from objstore.errors import BadSignature, StoreCorrupt, StoreError, StoreNotFound
from objstore.eviction import LEDGER_KEY, Bounds
from objstore.exchange.dumpfile import MAGIC, DumpReader, DumpWriter
from objstore.identity import Identity
from objstore.space import INITIAL_STATE
from objstore.store import Store

Path = str | os.PathLike[str]


def is_dump(path: Path) -> bool:
    """Whether a file is a dump, of whatever version; what cannot be read is none."""
    if not os.path.isfile(path):  # nor is what would wait for a writer
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


# Writing


def write_dump(store: Store[Any, Any], file: BinaryIO, progress: Progress | None) -> tuple[int, tuple[Damage, ...]]:
    """Write everything in a store into a file; how many records that are, and which of them stayed behind.

    Where the store has a key, seals are verified.  What has expired is left out.
    """
    origin = StoreOrigin(store)
    walk, state = Walk(origin), origin.state()
    writer = DumpWriter(file, origin.is_ordered)
    writer.put_library(IDENTITY_KEY, state.get(IDENTITY_KEY) or identity.pack(origin.identity, origin.keys))
    for tree_key in (DURABILITY_KEY, LEDGER_KEY):
        stored = store._engine.get(tree_key)
        if stored is not None and (tree_key != DURABILITY_KEY or store._engine.name == "lmdb"):
            writer.put_library(tree_key, stored)
    written = {b"", NOTE_PREFIX}

    def declare(prefix: bytes) -> None:
        if prefix not in written:
            tree_key = space.CATALOG + prefix[1:]
            writer.put_library(tree_key, state.get(tree_key) or b"")
            written.add(prefix)

    for namespace in walk.namespaces(state):
        declare(namespace.prefix)
    total = origin.total(state)
    for _, items in walk.batches(state, space.ITEMS):
        for item in items:
            declare(item.namespace.prefix)
            if item.namespace.prefix != NOTE_PREFIX:
                writer.put(item.tree_key, item.stored)
        if progress:
            progress(walk.met, max(walk.met, total))
    writer.end()
    return writer.records, tuple(walk.lost.values())


# Restoring


class RestoreReport(NamedTuple):
    """What was restored of a dump, and what was not."""

    copied: int
    """Records that were written into the target."""
    present: int
    """Records that were there already, from a restoring that was interrupted."""
    verified: int
    """Records of the dump that were compared at last, and are the same in the target."""
    differing: int
    """Records that somebody else had changed in the target meanwhile, at the last look: they were put back."""
    lost: tuple[Damage, ...]
    """The records that are damaged or refused."""
    problems: tuple[str, ...]
    """What else is wrong with the dump; where a part of it is lost, nobody knows what was there."""

    @property
    def ok(self) -> bool:
        """Whether the dump is whole, and the target holds everything that is in it."""
        return not (self.lost or self.problems or self.differing)


def restore(
    source: Path,
    target: Where,
    *,
    signing_key: KeyOption = None,
    encryption_key: KeyOption = None,
    merge: bool = False,
    progress: Progress | None = None,
) -> RestoreReport:
    """Make a store of a dump, on any engine: with the id of its store, and the records as they were, sealed ones too.

    * `source`: a file that `export` wrote, or "-" for standard input.
    * `target`: a location, or an open `Store` or `Cache`. Where nothing is there, a store is made, as in `copy`; one
      that holds anything but a begun restoring of this dump is refused.
    * `merge`: what both have is replaced, and the rest stays.

    Who is interrupted calls it again, with the same arguments, and it goes on where it was. What has expired is left
    out.

    Nothing is decoded, and no keys are needed, if the target has the same id; with `signing_key` or `encryption_key`,
    each seal is verified first. A store with another id gets what is sealed sealed anew, and needs the keys for that.
    A damaged dump is restored as far as it can be read. A dump is as good as who could write it: it may be checked as
    any store can, and opened with care (see docs/security.md).

    `progress(done, total)` is called with records, restored and compared.

    Raises StoreNotFound, and StoreError for what is no dump; StoreCorrupt where its beginning is damaged; BadSignature
    where the keys are not those of its store, or are needed; and what `copy` raises.
    """
    with ExitStack() as opened:
        dump = _Dump(_open_dump(source, opened), os.fspath(source), keys_of(signing_key, encryption_key))
        new = _target(target, opened, dump)
        opened.callback(claim(new).release)
        report = Copying(dump, new, merge, progress).run()
    kept = report.copied, report.present, report.verified, report.differing, report.lost
    return RestoreReport(*kept, tuple(dump.reader.problems))


class _Dump:
    """A dump as the origin of a copy."""

    keeps_seals = True

    def __init__(self, file: BinaryIO, location: str, keys: Keys) -> None:
        self.reader = DumpReader(file, location)
        self.location = location
        self.name = f"dump {self.reader.salt.hex()}"
        self.is_ordered = self.reader.is_ordered
        self.identity = _identity_in(self.reader, location)
        identity.check_seal(self.identity, location, keys)
        self.keys = keys_in_use(self.identity, keys)
        try:
            self._bounds = bounds_in(self.reader.get(LEDGER_KEY))
        except StoreCorrupt as exc:
            raise StoreCorrupt(f"the bounds of the cache in the dump {location!r} make no sense") from exc

    def state(self) -> DumpReader:
        return self.reader

    def total(self, state: DumpReader) -> int:
        return state.records or 0

    def surplus(self, _state: DumpReader, _tree_keys: Iterator[bytes], _is_ordered: bool) -> Iterator[bytes]:
        """Nothing: a dump stays as it is, so what was copied once is in it."""
        return iter(())

    def now(self) -> int:
        return int(time.time() * 1_000_000)

    def bounds(self) -> Bounds:
        return self._bounds


def _identity_in(reader: DumpReader, location: str) -> Identity:
    """What the store was.  Raises StoreCorrupt, StoreError."""
    if reader.get(IDENTITY_KEY) is None:
        raise StoreCorrupt(f"the beginning of the dump {location!r} is damaged; take another one")
    what = identity.unpack(reader.get(IDENTITY_KEY), location)
    if what.kind not in KINDS or what.sealing not in (None, "signed", "encrypted"):
        raise StoreError(f"in the dump {location!r} is a store of a kind that this objstore does not know; upgrade it")
    return what


def _open_dump(source: Path, opened: ExitStack) -> BinaryIO:
    if os.fspath(source) == "-":
        return _spooled(opened)
    try:
        return opened.enter_context(open(source, "rb"))
    except FileNotFoundError as exc:
        raise StoreNotFound(f"there is no dump at {os.fspath(source)!r}") from exc
    except OSError as exc:
        raise StoreError(f"the dump {os.fspath(source)!r} cannot be read: {exc.strerror}") from exc


def _spooled(opened: ExitStack) -> BinaryIO:
    """Standard input, in a file that goes with the process: what is restored is read twice."""
    spooled: BinaryIO = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  (it is entered)
    shutil.copyfileobj(sys.stdin.buffer, spooled, 1 << 20)
    return spooled


def _target(target: Where, opened: ExitStack, dump: _Dump) -> Store[Any, Any]:
    """The store to restore into, open, and made where it is missing."""
    if isinstance(target, Store):
        check_handle(target)
        check_same_kind(target._identity, target.location, dump.identity)
        new = target
    else:
        if _can_be_the_same(target, dump.identity):
            _make(target, dump)
        else:
            check_keys(dump.identity, dump.keys, dump.location, "")
        new = opened.enter_context(open_target(target, dump.identity, dump.keys))
    if not lies_there_too(dump, new):
        check_keys(dump.identity, dump.keys, dump.location, "")
        if new._identity.sealing is not None and identity.ring_of(new._identity, new._keys) is None:
            raise BadSignature(
                f"the store at {new.location!r} is {new._identity.sealing}; open it with its key, and give it as target"
            )
    return new


def _can_be_the_same(target: Path, what: Identity) -> bool:
    """Whether a store that is made there can have the id of the dump: a cache on servers has that of its name."""
    in_memory = os.fspath(target).startswith("memory:")
    return not in_memory and not (what.kind == "Cache" and is_on_servers(target))


def _make(target: Path, dump: _Dump) -> None:
    """Make the store, empty, where there is none."""
    try:
        look(target)
        return
    except StoreNotFound:
        pass
    stored = dump.reader.get(IDENTITY_KEY)
    assert stored is not None
    durability = durability_of(dump.reader.get(DURABILITY_KEY))
    is_cache = dump.identity.kind == "Cache"
    initial = {
        **(eviction.initial(Bounds()) if is_cache else INITIAL_STATE),
        **({} if durability is None else {DURABILITY_KEY: durability.encode()}),
        IDENTITY_KEY: stored,
    }
    connect(target, "c", initial, None, evictable=is_cache).release()
