"""Rekeying: what is sealed with an older key of a ring is sealed anew with its newest.

Batch by batch, each in a transaction of its own, while others read and write on.  Nothing is remembered between
batches, because a record says itself which key it has: who is interrupted begins again, and finds done what was done.
Nothing is decoded or expanded.  What no key opens is left as it is, and reported.

When no record needs an older key any more, the identity of the store is sealed with the newest, too, and from then on
the older ones can be forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from objstore import identity, record
from objstore.audit import Damage, key_of, lost_name
from objstore.codecs.keyring import Keys
from objstore.codecs.sealing import sealing_of
from objstore.engines.base import IDENTITY_KEY, Engine, Progress, Reader, put
from objstore.errors import StoreError
from objstore.identity import Identity
from objstore.record import Damaged, Forged, Seal
from objstore.space import ITEMS, Sealing, Space, names_by_prefix, prefix_in

_BATCH_BYTES = 8 << 20
_BATCH_RECORDS = 1000
_PASSES = 3  # the first seals, the next finds nothing to do, unless somebody wrote meanwhile


class RekeyReport(NamedTuple):
    """What was sealed anew, and what was not."""

    resealed: int
    """Records that were sealed with the newest key."""
    refused: tuple[Damage, ...]
    """Records that are damaged, or that none of the keys has sealed: they are as they were."""
    needed: tuple[str, ...]
    """The ids of older keys that somebody still writes with.  Where there are none, and nothing was refused that you
    want back, forget all but the newest."""


def rekey(
    engine: Engine, apply: Callable[..., Any], space: Space, what: Identity, keys: Keys, progress: Progress | None
) -> RekeyReport:
    """Seal every record with the newest key.

    `apply(function, *arguments)` is the engine's `transact`, where one may write, and `space` any namespace.

    Raises StoreError where the store is not sealed, or no keys are given.
    """
    sealing = sealing_of(what.sealing, keys, what.id)
    ring = identity.ring_of(what, keys)
    if sealing is None or ring is None:
        raise StoreError(
            f"the store at {engine.location!r} is {what.sealing or 'not sealed'}; open it with its keys, newest first"
        )
    work = _Rekeying(engine, partial(apply, space.exchange), sealing, ring.newest)
    resealed = 0
    for _ in range(_PASSES):
        resealed += work.go_through(progress)
        if not work.needed:
            apply(put, IDENTITY_KEY, identity.pack(what, keys))
            break
    return RekeyReport(resealed, tuple(work.refused.values()), tuple(sorted(work.needed)))


class _Item(NamedTuple):
    """A record, as it is and as it shall be."""

    tree_key: bytes
    stored: bytes
    resealed: bytes


class _Rekeying:
    """Goes through a store, from the first record to the last."""

    def __init__(self, engine: Engine, exchange: Callable[[list[_Item]], int], sealing: Sealing, newest: bytes) -> None:
        self.refused: dict[bytes, Damage] = {}
        self.needed: set[str] = set()
        self._engine = engine
        self._exchange = exchange
        self._sealing = sealing
        self._newest = newest
        self._names: dict[bytes, str] = {}  # of namespaces, by their prefixes
        self._seals: dict[bytes, Seal] = {}

    def go_through(self, progress: Progress | None) -> int:
        """Seal what needs it, once; how many records that were."""
        resealed = done = 0
        self.needed = set()
        position = ITEMS
        while True:
            reader = self._engine.read()
            batch: list[_Item] = []
            size = seen = 0
            for tree_key, head, length in reader.scan_heads(position):
                position = tree_key + b"\0"
                seen += 1
                item = self._item(reader, tree_key, head, length)
                if item is not None:
                    batch.append(item)
                    size += len(item.stored)
                if size >= _BATCH_BYTES or seen >= _BATCH_RECORDS:
                    break
            if not seen:
                return resealed
            resealed += self._exchange(batch) if batch else 0
            done += seen
            if progress:
                progress(done, max(done, reader.count()))

    def _item(self, reader: Reader, tree_key: bytes, head: bytes, size: int) -> _Item | None:
        """A record that has an older key, or None."""
        prefix = prefix_in(tree_key)
        if prefix is None or tree_key in self.refused:
            return None
        try:
            header = record.header_of(tree_key, head, size, reader.get)
            if record.key_id(header) == self._newest:
                return None
            stored = bytes(reader.get(tree_key) or b"")
            seal = self._seal(reader, prefix)
            header, payload, frames = record.unpack(tree_key, stored, seal=seal)
            resealed = record.repack(tree_key, header, payload, frames, header.expires_at, seal)
        except (Damaged, Forged) as exc:
            found = reader.get(tree_key)
            if found is None:  # deleted meanwhile
                return None
            key = key_of(tree_key[len(prefix) :], found)
            name = self._names.get(prefix, lost_name(prefix))
            self.refused[tree_key] = Damage(name, key, str(exc))
            return None
        self.needed.add(record.key_id(header).hex())
        return _Item(tree_key, stored, bytes(resealed))

    def _seal(self, reader: Reader, prefix: bytes) -> Seal:
        if prefix not in self._names:
            self._names = names_by_prefix(reader)
        if prefix not in self._names:
            raise Damaged("the name of its namespace is lost, and its seal covers that")
        if prefix not in self._seals:
            self._seals[prefix] = self._sealing(self._names[prefix])
        return self._seals[prefix]
