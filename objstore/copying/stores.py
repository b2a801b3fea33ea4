"""The two stores of a copy: opening the one, and opening or making the other."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NoReturn

from objstore import identity
from objstore.cache import Cache
from objstore.codecs.base import OWN_NUMBERS, Codec
from objstore.codecs.keyring import KeyOption, Keys, keys_of
from objstore.codecs.table import CODECS
from objstore.copying.records import StoreOrigin
from objstore.copying.work import Copying, CopyReport, begun_in
from objstore.engines import connect
from objstore.engines.base import IDENTITY_KEY, Claim, Progress
from objstore.errors import BadSignature, StoreError, StoreLocked, StoreNotFound, WrongKind
from objstore.identity import Identity
from objstore.store import Store

_CLAIM = b"copying"
_SECONDS_AFTER_DEATH = 10.0  # for which servers may take one for alive who was killed

KINDS: dict[str, type[Store[Any, Any]]] = {"Store": Store, "Cache": Cache}

Where = str | os.PathLike[str] | Store[Any, Any]


class _Named:
    """Stands for a codec of which only the name is known: nothing is encoded or decoded with it."""

    number = OWN_NUMBERS.start
    runs_code = False

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, value: Any) -> NoReturn:
        raise NotImplementedError(self.name)

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> NoReturn:
        raise NotImplementedError(self.name)


def source_of(
    source: Where, opened: ExitStack, signing_key: KeyOption, encryption_key: KeyOption, decodes: bool = False
) -> Store[Any, Any]:
    """The store that is copied, open, with a codec that `decodes` if that is needed."""
    if isinstance(source, Store):
        check_handle(source, signing_key, encryption_key)
        old = source
    else:
        what = look(source)
        kind, codec = KINDS[what.kind], None if decodes else codec_of(what)
        old = opened.enter_context(
            kind(source, "r", codec=codec, signing_key=signing_key, encryption_key=encryption_key)
        )
    if begun_in(old) is not None:
        raise StoreError(f"the store at {old.location!r} is itself a copy that is not whole; finish that first")
    return old


def _target(
    target: Where, opened: ExitStack, old: Store[Any, Any], signing_key: KeyOption, encryption_key: KeyOption
) -> Store[Any, Any]:
    """The store to copy into, open, and made where it is missing."""
    what = old._identity
    if isinstance(target, Store):
        check_handle(target, signing_key, encryption_key)
        check_same_kind(target._identity, target.location, what)
        new = target
    else:
        new = opened.enter_context(open_target(target, what, _target_keys(old, signing_key, encryption_key)))
    check_keys(new._identity, new._keys, new.location, "target_")
    if new._engine is old._engine or (new.location == old.location and new._identity.id == what.id):
        raise ValueError(f"the store at {old.location!r} cannot be copied into itself; name another place")
    return new


def open_target(target: str | os.PathLike[str], what: Identity, keys: Keys) -> Store[Any, Any]:
    """The store at a location, made where it is missing, to take the records of one that is `what`."""
    flag = "c"
    try:
        found = look(target)
        check_same_kind(found, os.fspath(target), what)
        flag = "w"
    except StoreNotFound:
        if os.fspath(target).startswith("memory:"):
            raise ValueError(
                "a store in memory ends with its last handle: open the target first, and give the handle"
            ) from None
    options: dict[str, Any] = {
        "codec": codec_of(what),
        "signing_key": list(keys.signing.values()) if keys.signing else False,
        "encryption_key": list(keys.encryption.values()) if keys.encryption else False,
    }
    if what.kind == "Cache":
        options["ttl"] = 1  # for nothing: so a new one has no bound, and evicts nothing before all is there
    return KINDS[what.kind](target, flag, **options)


def _target_keys(old: Store[Any, Any], signing_key: KeyOption, encryption_key: KeyOption) -> Keys:
    """The keys for a target: those that are given, or those with which the source is sealed."""
    if signing_key is not None or encryption_key is not None:
        return keys_of(False if signing_key is None else signing_key, encryption_key or False)
    return keys_in_use(old._identity, old._keys)


def keys_in_use(what: Identity, keys: Keys) -> Keys:
    """Those of the keys with which a store is sealed."""
    signing = keys.signing if what.sealing == "signed" else None
    return Keys(signing, keys.encryption if what.sealing == "encrypted" else None)


def look(location: str | os.PathLike[str]) -> Identity:
    """What the store at a location is.  Raises what opening one raises."""
    engine = connect(location, "r", {}, None, evictable=True)  # if it is a cache
    try:
        return identity.unpack(engine.get(IDENTITY_KEY), engine.location)
    finally:
        engine.release()


def codec_of(what: Identity) -> Codec | str:
    """What to open a store with whose values nobody will read, whether its codec is known or not."""
    return what.codec if what.codec in CODECS else _Named(what.codec)


def check_handle(store: Store[Any, Any], *keys: KeyOption) -> None:
    """Raise ValueError for a handle of a namespace, and where keys were given beside an open store."""
    if store._space.name:
        raise ValueError("a store is copied with all its namespaces; give the store, and not a namespace of it")
    if any(key is not None for key in keys):
        raise ValueError(f"{store!r} is open, with its keys; give keys with a location")


def check_keys(what: Identity, keys: Keys, location: str, prefix: str) -> None:
    """Raise BadSignature where a store is sealed, and there is no key to open and seal its records with."""
    if what.sealing is not None and identity.ring_of(what, keys) is None:
        option = "encryption_key" if what.sealing == "encrypted" else "signing_key"
        raise BadSignature(f"the store at {location!r} is {what.sealing}; give {prefix}{option}")


def check_same_kind(what: Identity, location: str, source: Identity) -> None:
    """Raise WrongKind or StoreError where a store cannot take the records of another one."""
    if what.kind != source.kind:
        raise WrongKind(f"what is at {location!r} is a {what.kind}, and the source a {source.kind}; copy elsewhere")
    if what.codec != source.codec:
        raise StoreError(
            f"the store at {location!r} has codec {what.codec!r}, and the source {source.codec!r}; copy elsewhere"
        )


def claim(new: Store[Any, Any]) -> Claim:
    """What only one has who copies into a store.  Raises StoreLocked."""
    claim = new._engine.claim(_CLAIM)
    if claim is not None:
        return claim
    waiting = new._engine.await_claim(_CLAIM)
    given_up = time.monotonic() + (_SECONDS_AFTER_DEATH if new._engine.is_shared else 0)
    try:
        while time.monotonic() < given_up:
            time.sleep(waiting.longest_pause)
            if (claim := waiting.poll()) is not None:
                return claim
    finally:
        waiting.close()
    raise StoreLocked(f"somebody copies into the store at {new.location!r} now; wait for the end of that")


def copy(
    source: str | os.PathLike[str] | Store[Any, Any],
    target: str | os.PathLike[str] | Store[Any, Any],
    *,
    signing_key: KeyOption = None,
    encryption_key: KeyOption = None,
    target_signing_key: KeyOption = None,
    target_encryption_key: KeyOption = None,
    merge: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy every record of a store to another place, on the same engine or another one, while others use it.

    Either is a location, or an open `Store` or `Cache`, which keeps the options with which it was opened. The target is
    made where it is missing: of the same kind, with the same codec, the same bounds if it is a cache that has none yet,
    and sealed with the same keys. All namespaces and memoized results are copied, with expiry and tags; nothing is
    decoded. What has expired is left out. How a cache was used is not copied; servers keep no bound, and remember it
    for the way back.

    Who is interrupted calls it again, with the same arguments, and it goes on where it was. A target that holds
    anything but a begun copy of this source is refused; with `merge`, what both have is replaced, and the rest stays.
    Until a copy without `merge` is whole, nobody else should write into its target: it becomes what the source is.

    * `signing_key`, `encryption_key`: those of the source, as in `Store`. `target_signing_key`,
      `target_encryption_key`: those of the target, where they are others: to seal what was not sealed, or with False
      for both, to have a copy that is not sealed.

    `progress(done, total)` is called with records, copied and compared.

    Raises StoreNotFound; StoreExists where the target holds other things; WrongKind and StoreError where it is another
    kind of store, or has another codec, or where the source is itself a begun copy; StoreLocked where somebody else
    copies into the target; BadSignature where a key is missing or is not the one; ValueError where both are the same
    store; and what reading and writing raise.
    """
    with ExitStack() as opened:
        old = source_of(source, opened, signing_key, encryption_key)
        check_keys(old._identity, old._keys, old.location, "")
        new = _target(target, opened, old, target_signing_key, target_encryption_key)
        opened.callback(claim(new).release)
        return Copying(StoreOrigin(old), new, merge, progress).run()
