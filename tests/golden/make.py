"""Writes the golden stores of the format that is current: `python tests/golden/make.py DIRECTORY`.

A golden store is made once, when its format is new, and kept for ever: `test_golden` reads it with every
later version.  What is in them stands here, as literals; once a store is made, nothing here that ends with
its format may change.
"""

from __future__ import annotations

import os
import pickle
import sys
from datetime import date, datetime, timezone
from functools import partial
from typing import NamedTuple
from uuid import UUID

NOW = 1_800_000_000.0  # the clock of the one who writes: January 2027
TTL = 900_000_000  # seconds: until July 2055
EXPIRES_AT = 2_700_000_000_000_000


class Large:
    """What pickles its bytes as a buffer of their own, and comes back as a plain bytearray."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce_ex__(self, protocol):
        return bytearray, (pickle.PickleBuffer(self.content),)


class Item(NamedTuple):
    value: object
    ttl: float | None = None
    tags: tuple[str, ...] = ()
    back: object = None  # what the value reads back as, where it is another


_BUFFER = bytes(range(256)) * 256  # 64 KiB

FORMAT_1 = {
    None: Item("none"),
    float("-inf"): Item("below all"),
    -(10**30): Item("a large number below zero"),
    -(2**63): Item(-(2**63)),
    -1.5: Item(-1.5),
    -5e-324: Item("the least below zero"),
    0: Item(0),
    5e-324: Item("the least above zero"),
    1: Item(True),
    1.5: Item([1, 2.5, "three", None]),
    2**63 - 1: Item(2**63 - 1),
    2**63: Item(2**63),
    10**30: Item({"large": 10**30}),
    float("inf"): Item("above all"),
    "": Item(""),
    "expires": Item("in 2055", ttl=TTL),
    "expires and is tagged": Item({"a": 1}, ttl=TTL, tags=("red", "grün")),
    "framed": Item(Large(_BUFFER), back=bytearray(_BUFFER)),
    "tagged": Item("tagged", tags=("red",)),
    "text": Item("text"),
    "text\x00with zero": Item(b"bytes"),
    "ünïcödé 💾": Item("ünïcödé 💾"),
    "\ud800 alone": Item("a lone surrogate in its key"),
    "x" * 479: Item("the longest key that stands whole"),
    "x" * 480: Item("the shortest key that is shortened"),
    "x" * 2000: Item("a long key"),
    "y" * 2000: Item("a long key, a time and a tag", ttl=TTL, tags=("red",)),
    b"": Item(b""),
    b"\x00\xff": Item(bytes(range(256))),
    date(2026, 11, 23): Item("a date"),
    datetime(2026, 11, 23, 16, 1, 2, 345678): Item("a datetime"),
    datetime(2026, 11, 23, 15, 1, 2, 345678, tzinfo=timezone.utc): Item("an instant"),
    UUID("12345678-1234-5678-1234-567812345678"): Item("a UUID"),
    (): Item(()),
    ("user", 1): Item(("tuple", (1, (2,)))),
    ("user", 1, "mail"): Item("mail"),
    ("user", 1.5): Item("a fraction"),
    ("user\x00", (None, b"\x00", (date(1, 1, 1),))): Item("nested"),
}

NAMESPACES_1 = {
    "users": {
        "ada": Item({"born": 1815}),
        "grace": Item({"born": 1906}, ttl=TTL, tags=("navy",)),
        ("z" * 1000, 1): Item("a long key"),
    },
    "ünïcödé": {1: Item("one")},
}


def write(path: str) -> None:
    """A store of format 1 with everything above, in two commits so that it stays small."""
    from objstore import Store

    with Store(path, "n", clock=lambda: NOW) as store, store.transaction() as txn:
        for key, item in FORMAT_1.items():
            txn.set(key, item.value, ttl=item.ttl, tags=item.tags)
        for name, items in NAMESPACES_1.items():
            namespace = txn.namespace(name)
            for key, item in items.items():
                namespace.set(key, item.value, ttl=item.ttl, tags=item.tags)
    os.unlink(os.path.join(path, "lock.mdb"))


# What came later in the same format: seals, codecs, compression.

KEY = bytes(range(32))
OLD_KEY = bytes(range(100, 132))
SEALINGS_1 = {"signed": {"signing_key": KEY}, "encrypted": {"encryption_key": KEY}}

SEALED_1 = {
    "small": Item({"a": 1}),
    "list": Item(list(range(2000))),
    "expires and is tagged": Item("text", ttl=TTL, tags=("red", "grün")),
    "framed": Item(Large(_BUFFER), back=bytearray(_BUFFER)),
    "y" * 2000: Item("a long key", ttl=TTL, tags=("red",)),
    ("user", 1): Item(None),
}

_STRUCTURED = {
    "person": Item({"name": "Ada", "born": 1815, "tags": ["one", "two"], "none": None}),
    "number": Item(-1.5),
    "text": Item("ünïcödé 💾"),
}

CODECS_1 = {
    "msgpack": _STRUCTURED | {"raw": Item(b"\x00\xff")},
    "json": _STRUCTURED,
    "bytes": {"a": Item(b"\x80\x05K\x01."), "empty": Item(b"")},
    "pickle": {"set": Item({1, 2})},
}

WORDS_1 = "words and words and " * 100
METHODS_1 = ("zlib", "lz4", "zstd")


def array_1():
    """An array for the codecs that run no code: with its bytes in the payload, or beside it."""
    import numpy as np

    return np.arange(12, dtype=">i4").reshape(3, 4)


def write_sealed(path: str, options: dict) -> None:
    """A sealed store of format 1; one of its records has an older key."""
    from objstore import Store

    option, key = next(iter(options.items()))
    with Store(path, "n", clock=lambda: NOW, **{option: OLD_KEY}) as store:
        store["old"] = "sealed with an older key"
    with Store(path, clock=lambda: NOW, **{option: [key, OLD_KEY]}) as store:
        for key, item in SEALED_1.items():
            store.set(key, item.value, ttl=item.ttl, tags=item.tags)
        store.namespace("users")["ada"] = 1815
    os.unlink(os.path.join(path, "lock.mdb"))


def write_codecs(path: str) -> None:
    """A store of format 1 with a namespace for each codec, and for each method of compression."""
    from objstore import Store

    with Store(path, "n", codec="msgpack", clock=lambda: NOW) as store:
        for codec, items in CODECS_1.items():
            namespace = store.namespace(codec, codec=codec)
            namespace.update({key: item.value for key, item in items.items()})
            if codec in ("msgpack", "json"):
                namespace["array"] = array_1()
    for method in METHODS_1:
        with Store(path, compression=method, clock=lambda: NOW) as store:
            store.namespace(method)["words"] = WORDS_1
    os.unlink(os.path.join(path, "lock.mdb"))


POLICIES_1 = ("lru", "lfu", "fifo")

CACHED_1 = {
    "a": Item(1),
    "expires and is tagged": Item("text", ttl=TTL, tags=("red",)),
    "framed": Item(Large(_BUFFER), back=bytearray(_BUFFER)),
    "y" * 2000: Item("a long key"),
}


def write_cache(path: str, policy: str) -> None:
    """A cache of format 1 that has evicted: it holds what is above, and one record in a namespace."""
    from objstore import Cache

    with Cache(path, "n", max_entries=5, max_size=1 << 20, policy=policy, clock=lambda: NOW) as cache:
        for number in range(5):
            cache[number] = number
        cache.namespace("users")["ada"] = 1815
        for key, item in CACHED_1.items():
            cache.set(key, item.value, ttl=item.ttl, tags=item.tags)
        for key in ("a", "a", "none"):
            cache.get(key)
    os.unlink(os.path.join(path, "lock.mdb"))


DUMPS_1 = ("format-1", "format-1-encrypted", "format-1-cache-lfu")


def write_dump(path: str, store: str) -> None:
    """A dump of version 1 of a golden store, which nobody has the keys of."""
    import shutil
    import tempfile

    from objstore import export

    with tempfile.TemporaryDirectory() as directory:
        copy = os.path.join(directory, "a.store")  # the original may not be readable by its owner alone
        shutil.copytree(store, copy)
        os.chmod(copy, 0o700)
        export(copy, path, "dump", signing_key=False, encryption_key=False)


def main(directory: str) -> None:
    """Write all of them that are not there."""
    todo = {"format-1": write, "format-1-codecs": write_codecs}
    for name, options in SEALINGS_1.items():
        todo[f"format-1-{name}"] = partial(write_sealed, options=options)
    for policy in POLICIES_1:
        todo[f"format-1-cache-{policy}"] = partial(write_cache, policy=policy)
    for name in DUMPS_1:
        todo[f"{name}.dump"] = partial(write_dump, store=os.path.join(directory, name))
    for name, make in todo.items():
        path = os.path.join(directory, name)
        if not os.path.exists(path):
            make(path)


if __name__ == "__main__":
    main(sys.argv[1])
