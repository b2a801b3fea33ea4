"""Salvage: what can still be read of a damaged store, in a new one.

The damaged one is only read.  What its tree still leads to is taken first, then what lies in pages that the tree has
lost.  Every record is believed by its digest, which covers its key, and by nothing else; its bytes are taken as they
are.  Where there are keys, only what is sealed with one of them is believed; where there are none, seals are taken
along as they are.  The counts and indexes of the new store are made anew.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import NamedTuple

from objstore import eviction, identity, record, space
from objstore.audit import Damage, key_of, lost_name
from objstore.codecs.keyring import KeyOption, Keys, keys_of
from objstore.codecs.pickling import Pickle
from objstore.codecs.raw import Bytes
from objstore.codecs.sealing import sealing_of
from objstore.codecs.table import name_of
from objstore.engines import path_of
from objstore.engines.base import DURABILITY_KEY, IDENTITY_KEY, Engine, Progress, Writer, durability_of, put
from objstore.errors import StoreCorrupt
from objstore.eviction import LEDGER_KEY, Bounds, Ledger, MeteredSpace, rebound
from objstore.identity import Identity
from objstore.record import Damaged, Forged, Header
from objstore.space import INITIAL_STATE, Space
from objstore.usage import Usage

_BATCH_BYTES = 64 << 20


class SalvageReport(NamedTuple):
    """What was salvaged, and what was lost."""

    entries: int
    """Records in the new store."""
    strays: int
    """Those of them that were found outside the damaged tree: they may be older than what was lost, or deleted."""
    lost: tuple[Damage, ...]
    """The records that are there and cannot be read."""
    problems: tuple[str, ...]
    """What else is wrong with the damaged store; where its tree has lost pages, nobody knows their keys."""


def salvage(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    signing_key: KeyOption = None,
    encryption_key: KeyOption = None,
    store_id: str | None = None,
    progress: Progress | None = None,
) -> SalvageReport:
    """Take every record that can still be read out of the store at `source` into a new one at `target`.

    The new one is the same store (its `id`, kind and durability), if that can still be read.  `progress(done, total)`
    is called with pages of the damaged one.

    The keys are those of `Store`. With them, a record of a sealed store is taken only if its seal fits; without, by its
    digest, and who reads it verifies its seal. Seals cover the id of the store: where that is lost, give it as
    `store_id` (`stats().id` shows it), with the key.

    Raises BadSignature where the store is not sealed with these keys; StoreNotFound, StoreLocked where somebody has the
    damaged store open, StoreExists where there is something at `target`, StoreCorrupt where nothing can be read.
    """
    from objstore.engines.lmdb import make_store, remaining

    keys = keys_of(signing_key, encryption_key)
    problems: list[str] = []
    with remaining(path_of(source)) as remains:
        before_items = takewhile(lambda item: item[0] < space.EXPIRY, remains.items(_tell_nobody, _tell_nobody))
        library = {tree_key: stored for tree_key, stored in before_items if stored is not None}
        found = _identity(library, os.fspath(source), keys)
        ledger = None if found is not None and found.kind == "Store" else _ledger(library)
        what = found or _new_identity("Store" if ledger is None else "Cache", keys, store_id)
        sealing = sealing_of(what.sealing, keys, what.id) if identity.ring_of(what, keys) else None
        space_of = Space if what.kind == "Store" else partial(MeteredSpace, usage=Usage())
        work = _Salvage(_names(library), what.sealing is not None, partial(space_of, codec=Bytes(), sealing=sealing))

        def fill(engine: Engine) -> None:
            for tree_key, stored in remains.items(problems.append, progress or _tell_nobody):
                work.take(engine, tree_key, stored)
            remains.strays(partial(work.take_stray, engine))
            work.store_batch(engine)
            if ledger is not None:
                engine.transact(rebound, ledger.bounds)  # not before, or some of it would be evicted
            elif what.kind == "Cache":
                problems.append("the bounds of the cache are lost; give them when it is opened")
            if found is None:  # what its codec was, the records have told
                if work.codec is None:
                    problems.append("the name of its codec is lost, which is one of somebody's own: open it with that")
                engine.transact(put, IDENTITY_KEY, identity.pack(what._replace(codec=work.codec or "lost"), keys))

        books = INITIAL_STATE if what.kind == "Store" else eviction.initial(Bounds())
        initial = {IDENTITY_KEY: identity.pack(what, keys), **books}
        make_store(path_of(target), initial, durability_of(library.get(DURABILITY_KEY)) or "full", fill)
    return SalvageReport(work.entries, work.strays, tuple(work.lost.values()), tuple(problems))


class _Item(NamedTuple):
    """A record to be stored."""

    space: Space
    tree_key: bytes
    stored: bytes
    header: Header
    is_stray: bool


class _Salvage:
    """Takes items, and stores those whose digests fit, many at a time."""

    def __init__(
        self, names: dict[bytes, tuple[str, str | None]], is_sealed: bool, space_of: Callable[[str], Space]
    ) -> None:
        self.entries = 0
        self.strays = 0
        self.lost: dict[bytes, Damage] = {}
        self._names = names
        self._space_of = space_of
        self._is_sealed = is_sealed
        self._codecs = Counter[int]()  # of the default namespace
        self._spaces: dict[bytes, Space] = {}
        self._batch: list[_Item] = []
        self._bytes = 0

    def take(self, engine: Engine, tree_key: bytes, stored: bytes | None) -> None:
        """An item of the tree, whose record may be damaged (None: it cannot be read)."""
        prefix = space.prefix_in(tree_key)
        if prefix is None:
            return
        try:
            if stored is None:
                raise Damaged("its pages are lost")
            self._add(engine, prefix, tree_key, stored, is_stray=False)
        except (Damaged, Forged) as exc:
            key = key_of(tree_key[len(prefix) :], stored)
            self.lost[tree_key] = Damage(self._name(prefix), key, str(exc))

    def take_stray(self, engine: Engine, tree_key: bytes, stored: bytes) -> bool:
        """What may be an item; whether it is.  One that is known to be lost was newer than what is found elsewhere."""
        prefix = space.prefix_in(tree_key)
        if prefix is None:
            return False
        try:
            if tree_key in self.lost:
                record.unpack(tree_key, stored, seal=self._space(prefix).seal)
            else:
                self._add(engine, prefix, tree_key, stored, is_stray=True)
        except (Damaged, Forged):
            return False
        return True

    def _add(self, engine: Engine, prefix: bytes, tree_key: bytes, stored: bytes, is_stray: bool) -> None:
        into = self._space(prefix)
        header, payload, frames = space.unpack(tree_key, prefix, stored, into.seal)
        if header.seal and not self._is_sealed:
            raise StoreCorrupt(
                "the store is sealed, and the identity that says how is lost: give its key, and its id as store_id"
            )
        if into.prefix != prefix:  # its name is lost, and the digest covers the prefix
            if header.seal:
                raise Damaged("the name of its namespace is lost, and its seal covers that")
            tree_key = into.prefix + tree_key[len(prefix) :]
            stored = bytes(record.repack(tree_key, header, payload, frames, header.expires_at))
        self._codecs[header.codec] += not prefix
        self._batch.append(_Item(into, tree_key, stored, header, is_stray))
        self._bytes += len(stored)
        if self._bytes >= _BATCH_BYTES:
            self.store_batch(engine)

    def store_batch(self, engine: Engine) -> None:
        """Store what was taken so far."""
        batch, self._batch, self._bytes = self._batch, [], 0
        entries, strays = engine.transact(_store, batch)
        self.entries += entries
        self.strays += strays

    @property
    def codec(self) -> str | None:
        """The codec that most of the records in the default namespace have; None for one of somebody's own."""
        most = self._codecs.most_common(1)
        return name_of(most[0][0]) if most else Pickle.name

    def _space(self, prefix: bytes) -> Space:
        if prefix not in self._spaces:
            name, codec = self._names.get(prefix, (lost_name(prefix), None))
            self._spaces[prefix] = self._space_of(name).recorded_as(codec)
        return self._spaces[prefix]

    def _name(self, prefix: bytes) -> str:
        return self._space(prefix).name


def _store(txn: Writer, batch: list[_Item]) -> tuple[int, int]:
    """Store these; how many, and how many strays of them.  A stray never takes the place of anything."""
    entries = strays = 0
    for item in batch:
        if item.is_stray and txn.contains(item.tree_key):
            continue
        item.space.put(txn, item.tree_key, item.stored, item.header.expires_at, item.header.tags)
        entries += 1
        strays += item.is_stray
    return entries, strays


def _names(library: dict[bytes, bytes]) -> dict[bytes, tuple[str, str | None]]:
    """The names of namespaces and of their own codecs by their prefixes, as far as they are right."""
    names: dict[bytes, tuple[str, str | None]] = {b"": ("", None)}
    for stored in (stored for tree_key, stored in library.items() if tree_key[:1] == space.CATALOG):
        with suppress(struct.error, ValueError):
            _, name, codec = space.read_namespace(stored)
            names[space.prefix_of(name)] = name, codec
    return names


def _identity(library: dict[bytes, bytes], location: str, keys: Keys) -> Identity | None:
    """The identity of the damaged store, if it can be read.  Raises BadSignature."""
    try:
        found = identity.unpack(library.get(IDENTITY_KEY), location)
    except StoreCorrupt:
        return None
    identity.check_seal(found, location, keys)
    return found


def _ledger(library: dict[bytes, bytes]) -> Ledger | None:
    """The ledger, if it was a cache and that can be read."""
    try:
        return Ledger.unpack(library[LEDGER_KEY])
    except (KeyError, StoreCorrupt):
        return None


def _new_identity(kind: str, keys: Keys, store_id: str | None) -> Identity:
    """An identity in the place of one that is lost.  Raises StoreCorrupt where seals need what is lost with it."""
    new = identity.new(kind, Pickle.name, keys)
    if keys and store_id is None:
        raise StoreCorrupt("the id of the store is lost, and its seals cover that; give it as store_id")
    return new if store_id is None else new._replace(id=store_id)


def _tell_nobody(*_arguments: object) -> None:
    """Where nobody wants to know."""
