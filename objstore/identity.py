"""The identity of a store: what it is, written once when it is made, and compared at every opening.

It lies in the tree as JSON and a digest.  `format` counts the versions of everything that is on the
disk (keys, records, spaces, this); a store of a format above `FORMAT` is refused, never guessed at.

    {"codec": "pickle", "created": "2026-11-23T15:09:00+00:00", "digest": "xxh3-64", "format": 1,
     "id": "8d4f...", "kind": "Store", "sealing": null}

Durability is recorded beside it, by the engine, which must know it before it opens the files.
"""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from typing import NamedTuple

from objstore.engines.base import IDENTITY_KEY
from objstore.errors import StoreCorrupt, StoreError
from objstore.record import DIGEST_BYTES, digest, key_digest

FORMAT = 1
CODECS = ("pickle",)
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


def new(kind: str, codec: str) -> Identity:
    """The identity of a store that is made now."""
    return Identity(uuid.uuid4().hex, kind, codec, datetime.now(timezone.utc).isoformat(timespec="seconds"))


def pack(identity: Identity) -> bytes:
    """The bytes to keep in the tree under `engines.base.IDENTITY_KEY`."""
    text = json.dumps(identity._asdict(), sort_keys=True).encode()
    return text + digest(text, key_digest(IDENTITY_KEY))


def unpack(stored: bytes | None, location: str) -> Identity:
    """The identity of the store at `location`.

    Raises StoreCorrupt where it is missing or damaged, StoreError where it is of a later format.
    """
    text = (stored or b"")[:-DIGEST_BYTES]
    if not stored or digest(text, key_digest(IDENTITY_KEY)) != stored[-DIGEST_BYTES:]:
        raise StoreCorrupt(f"the identity of the store at {location!r} is missing or damaged; restore a backup")
    fields = json.loads(text)
    if fields["format"] > FORMAT or fields["digest"] != _DIGEST:
        raise StoreError(
            f"the store at {location!r} has format {fields['format']} with {fields['digest']} digests, and this "
            f"objstore reads up to {FORMAT} with {_DIGEST}; upgrade objstore"
        )
    return Identity(**fields)


def check(stored: bytes | None, location: str, *, kind: str, codec: str | None) -> None:
    """Refuse to open a store as what it is not.  Raises what `unpack` raises, and StoreError."""
    identity = unpack(stored, location)
    if identity.kind != kind:
        raise StoreError(f"what is at {location!r} is a {identity.kind}; open it with objstore.{identity.kind}")
    if identity.codec not in CODECS or identity.sealing is not None:
        raise StoreError(
            f"the store at {location!r} has codec {identity.codec!r} and sealing {identity.sealing!r}, which this "
            f"objstore does not know; upgrade objstore"
        )
    if codec not in (None, identity.codec):
        raise StoreError(f"the store at {location!r} has codec {identity.codec!r}, not {codec!r}; leave codec out")
