"""The adversary of the attacks: somebody who can write the data file, and has no key.

He puts any bytes under any key of the tree, with digests that fit: XXH3 needs no secret.  What he wants is that his
code runs (`Canary` tells that it did), or that a reader takes something for true that is not.
"""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import contextmanager

import lmdb
import pytest

from objstore import BadSignature, CorruptRecord, Store, keys, record
from objstore.record import DIGEST_BYTES, digest, key_digest, read_header

KEY = bytes(range(32))
OTHER = bytes(range(100, 132))
SEALINGS = {"signed": {"signing_key": KEY}, "encrypted": {"encryption_key": KEY}}
WITHOUT_KEY = {"signing_key": False, "encryption_key": False}

NUMBERS = {"pickle": 1, "bytes": 2, "json": 3, "msgpack": 4}
"""Those of the codecs, as records have them."""

REFUSED = (BadSignature, CorruptRecord)

ran: list[object] = []


def sing(*what):
    ran.append(what)


class Canary:
    """Unpickled, it sings."""

    def __reduce__(self):
        return sing, ("it ran",)


class Marker:
    """Unpickled, it makes a directory, which is seen from another process, too."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


PICKLE = pickle.dumps(Canary(), 5)
FORMS = {
    "protocol 0": pickle.dumps(Canary(), 0),
    "protocol 2": pickle.dumps(Canary(), 2),
    "protocol 5": PICKLE,
}


@pytest.fixture(autouse=True)
def nothing_runs():
    """Whatever the adversary does, the canary is silent.  A test that shows it sing takes out what it sang."""
    ran.clear()
    yield
    assert ran == []


# Records


def fitting(tree_key, head, behind=b""):
    """A record of this head with a digest that fits."""
    return bytes(head) + digest(bytes(head), key_digest(tree_key)) + behind


def plain(tree_key, payload=PICKLE):
    return fitting(tree_key, payload)


def headed(tree_key, payload=PICKLE, *, flags=0, codec=1, version=1, zero=0, fields=b""):
    """A record with a header of any content, which says its own size."""
    size = 8 + len(fields) + len(payload)
    return fitting(tree_key, struct.pack("<BBBBI", version, flags, codec, zero, size) + fields + payload)


def head_of(stored):
    """The head of a sealed record: all of it but the digest."""
    return stored[:-DIGEST_BYTES]


def resized(tree_key, head):
    """A record of a head that was made longer or shorter, and says so."""
    return fitting(tree_key, head[:4] + struct.pack("<I", len(head)) + head[8:])


def patched(tree_key, stored, at, new):
    """A record with other bytes at some place of its head."""
    head = head_of(stored)
    return fitting(tree_key, head[:at] + new + head[at + len(new) :])


def rewritten(tree_key, stored, **said):
    """A sealed record whose header says something else, and what is inside it stays."""
    header = read_header(stored, len(stored))
    inside = said.pop("inside", stored[header.payload_at : header.head_size])
    codec = said.pop("codec", header.codec)
    header = header._replace(**said)
    flags, fields = 0, b""
    if header.expires_at is not None:
        flags |= record.EXPIRES
        fields += struct.pack("<q", header.expires_at)
    if header.tags:
        flags |= record.TAGS
        tags = [tag.encode("utf-8", "surrogatepass") for tag in header.tags]
        fields += struct.pack("<H", len(tags)) + b"".join(struct.pack("<H", len(tag)) + tag for tag in tags)
    if header.long_key is not None:
        flags |= record.LONG_KEY
        fields += struct.pack("<I", len(header.long_key)) + header.long_key
    if header.compressed is not None:
        flags |= record.COMPRESSED
        method, sizes = header.compressed
        fields += struct.pack(f"<BH{len(sizes)}Q", method, len(sizes), *sizes)
    if header.seal:
        flags |= record.SEALED
        fields += header.seal
    return headed(tree_key, inside, flags=flags, codec=codec, fields=fields)


def seal_at(stored):
    """Where the field of the seal begins."""
    header = read_header(stored, len(stored))
    return header.payload_at - len(header.seal)


# The tree


def tree_key(store, key):
    return store._space.tree_key(key)


def stolen(store, key):
    """The record of a key, as it lies in the tree."""
    return store._engine.get(tree_key(store, key))


def plant(store, place, stored):
    """Put bytes under a tree key; None takes away what is there."""
    if stored is None:
        store._engine.transact(lambda txn: txn.delete(place))
    else:
        store._engine.transact(lambda txn: txn.put(place, stored))


@contextmanager
def the_file(path):
    """A transaction of LMDB alone, on a store that nobody has open."""
    with lmdb.open(str(path), map_size=1 << 30) as environment, environment.begin(write=True) as txn:
        yield txn


def rewrite(path, changes):
    """Put bytes into the file of a store that nobody has open; None takes away."""
    with the_file(path) as txn:
        for place, stored in changes.items():
            if stored is None:
                txn.delete(place)
            else:
                txn.put(place, stored)


# What must hold afterwards


def refuses(store, key, errors=REFUSED):
    """The record of a key is refused by an error that names the key; the error."""
    with pytest.raises(errors) as caught:
        store[key]
    assert caught.value.key == key
    assert keys.show(key) in str(caught.value)
    assert ran == []
    return caught.value


def assert_contained(store, key, others):
    """A refused record does no harm to others; it can be listed, seen, deleted, and overwritten."""
    refuses(store, key)
    assert {other: store[other] for other in others} == others
    assert key in store
    assert key in list(store)
    assert len(store) == len(others) + 1
    entry = store.entry(key)
    assert entry.key == key
    assert entry.size == len(entry.raw())
    raw = entry.raw()
    assert store.delete(key)
    assert key not in store
    assert len(store) == len(others)
    store[key] = "new"
    assert store[key] == "new"
    plant(store, tree_key(store, key), raw)
    refuses(store, key)
    store[key] = "newer"
    assert store[key] == "newer"


def open_sealed(location, sealing, **options):
    return Store(location, **SEALINGS[sealing], **options)
