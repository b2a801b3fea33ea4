"""The identity of a store: what it is, written once when it is made, and compared at every opening.

It lies in the tree as JSON and a digest.  `format` counts the versions of everything that is on the
disk (keys, records, spaces, this); a store of a format above `FORMAT` is refused, never guessed at.

    {"codec": "pickle", "created": "2026-11-23T15:09:00+00:00", "digest": "xxh3-64", "format": 1,
     "id": "8d4f...", "kind": "Store", "sealing": null}

`sealing` is null, "signed" or "encrypted"; what is sealed has two fields more: `key`, the id of the newest key
when that was written, and `mac`, keyed BLAKE2b with a key derived from that one, over the other fields.  So who
has a key sees whether the identity is the one that was written with it.

Durability is recorded beside it, by the engine, which must know it before it opens the files.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from objstore.codecs.base import Codec
from objstore.codecs.keyring import NO_KEYS, KeyRing, Keys
from objstore.codecs.table import CODECS
from objstore.engines.base import IDENTITY_KEY
from objstore.errors import BadSignature, StoreCorrupt, StoreError, WrongKind
from objstore.record import DIGEST_BYTES, digest, key_digest

FORMAT = 1
_DIGEST = "xxh3-64"


class Identity(NamedTuple):
    """What a store is."""

    id: str
    kind: str
    codec: str
    created: str  # ISO 8601, UTC
    format: int = FORMAT
    digest: str = _DIGEST
    sealing: str | None = None
    key: str | None = None
    mac: str | None = None


def new(kind: str, codec: str, keys: Keys, name: str | None = None) -> Identity:
    """The identity of a store that is made now.

    With a `name` it has the id of all that are called so: servers may drop what a cache is, and what is left of it
    must be good for the one that is made in its place.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    sealing = "encrypted" if keys.encryption else "signed" if keys.signing else None
    own = uuid.uuid4().hex if name is None else blake2b(name.encode(), digest_size=16).hexdigest()
    return Identity(own, kind, codec, created, sealing=sealing)


def ring_of(identity: Identity, keys: Keys) -> KeyRing | None:
    """Those of the keys that this store is sealed with, if any were given."""
    return keys.encryption if identity.sealing == "encrypted" else keys.signing


def seal_name(identity: Identity, keys: Keys) -> str:
    """What tells the seal of a store that is made with these keys from others; "-" is none."""
    ring = ring_of(identity, keys)
    return "-" if identity.sealing is None or ring is None else f"{identity.sealing}-{ring.newest.hex()}"


def _mac(identity: Identity, ring: KeyRing, key_id: bytes) -> bytes:
    text = _text(identity._replace(mac=None))
    return blake2b(text, digest_size=32, key=ring.subkeys(b"objstore store")[key_id]).hexdigest().encode()


def _text(identity: Identity) -> bytes:
    fields = identity._asdict()
    said = {name: value for name, value in fields.items() if value is not None or name == "sealing"}
    return json.dumps(said, sort_keys=True).encode()


def pack(identity: Identity, keys: Keys = NO_KEYS) -> bytes:
    """The bytes to keep in the tree under `engines.base.IDENTITY_KEY`, with a seal of the newest key where it has one.

    Without the keys, the seal stays as it is.
    """
    ring = ring_of(identity, keys)
    if identity.sealing is not None and ring is not None:
        identity = identity._replace(key=ring.newest.hex())
        identity = identity._replace(mac=_mac(identity, ring, ring.newest).decode())
    text = _text(identity)
    return text + digest(text, key_digest(IDENTITY_KEY))


def unpack(stored: bytes | None, location: str) -> Identity:
    """The identity of the store at `location`.

    Raises StoreCorrupt where it is missing or damaged, StoreError where it is of a later format.
    """
    text = (stored or b"")[:-DIGEST_BYTES]
    if not stored or digest(text, key_digest(IDENTITY_KEY)) != stored[-DIGEST_BYTES:]:
        raise StoreCorrupt(f"the identity of the store at {location!r} is missing or damaged; restore a backup")
    try:
        fields = json.loads(text)
        found = Identity(**{name: value for name, value in fields.items() if name in Identity._fields})
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise StoreCorrupt(f"the identity of the store at {location!r} makes no sense; restore a backup") from exc
    if found.format != FORMAT or found.digest != _DIGEST or fields.keys() - set(Identity._fields):
        raise StoreError(
            f"the store at {location!r} has format {found.format} with {found.digest} digests, and this objstore reads "
            f"up to {FORMAT} with {_DIGEST}; upgrade objstore"
        )
    optional = {name for name in ("sealing", "key", "mac") if getattr(found, name) is None}
    if not all(isinstance(getattr(found, name), str) for name in set(found._fields) - optional - {"format"}):
        raise StoreCorrupt(f"the identity of the store at {location!r} makes no sense; restore a backup")
    return found


def check(stored: bytes | None, location: str, *, kind: str, codec: Codec | None, keys: Keys) -> Identity:
    """The identity of a store, if that is what it is taken for, and sealed with one of the keys.

    Raises what `unpack` raises, StoreError, and BadSignature.
    """
    identity = unpack(stored, location)
    if identity.kind != kind:
        raise WrongKind(f"what is at {location!r} is a {identity.kind}; open it with objstore.{identity.kind}")
    if identity.sealing not in (None, "signed", "encrypted"):
        raise StoreError(
            f"the store at {location!r} has sealing {identity.sealing!r}, which this objstore does not know; upgrade "
            f"objstore"
        )
    check_seal(identity, location, keys)
    if codec is not None and codec.name != identity.codec:
        raise StoreError(f"the store at {location!r} has codec {identity.codec!r}, not {codec.name!r}; leave codec out")
    if codec is None and identity.codec not in CODECS:
        raise StoreError(
            f"the store at {location!r} has codec {identity.codec!r}, which this objstore does not know; give it as "
            f"codec if it is your own, or else upgrade objstore"
        )
    return identity


def check_seal(identity: Identity, location: str, keys: Keys) -> None:
    """Raise BadSignature where keys were given, and this is no identity that was written with one of them."""
    if not keys:
        return
    if identity.sealing is None:
        raise BadSignature(
            f"the store at {location!r} is not sealed, and a key was given: copy it into a new store that is (with a "
            f"target_signing_key), or open it with signing_key=False, encryption_key=False if you trust who could "
            f"write it"
        )
    ring = ring_of(identity, keys)
    if ring is None:
        given = "encryption_key" if keys.encryption else "signing_key"
        needed = "encryption_key" if identity.sealing == "encrypted" else "signing_key"
        raise BadSignature(f"the store at {location!r} is {identity.sealing}; give {needed} and not {given}")
    key_id = next((each for each in ring if each.hex() == identity.key), None)
    if key_id is None:
        raise BadSignature(
            f"the store at {location!r} is {identity.sealing} with key {identity.key}, which is none of those given "
            f"({', '.join(each.hex() for each in ring)}); give that one, too"
        )
    if not compare_digest(_mac(identity, ring, key_id), (identity.mac or "").encode("utf-8", "surrogatepass")):
        raise BadSignature(
            f"the identity of the store at {location!r} was changed by somebody who has not its key; restore a backup"
        )
