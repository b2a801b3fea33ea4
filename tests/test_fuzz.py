"""Bytes that nobody packed: they are refused, or are what they look like, and raise nothing but our own errors.

Each input is a real record or key that was changed: bits flipped, bytes replaced, cut, repeated, inserted, numbers in
it made huge.  A record that was changed must be refused.  With a digest that was made to fit, as by somebody who wants
to do harm, it may be taken for a record, but nothing else than `Damaged` may be raised.

The long form, inputs for each test:

    OBJSTORE_INPUTS=1000000 OBJSTORE_SEED=1 python -m pytest tests/test_fuzz.py -s

OBJSTORE_SEED replays them.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from contextlib import suppress
from datetime import date, datetime, timezone
from uuid import UUID

import pytest

from objstore import keys, record
from objstore.audit import key_of
from objstore.keys import LostKey
from objstore.record import DIGEST_BYTES, Damaged, digest, key_digest

INPUTS = int(os.environ.get("OBJSTORE_INPUTS", "10000"))

KEYS = [
    None,
    True,
    0,
    -1,
    1 << 70,
    -(1 << 900),
    2.5,
    float("-inf"),
    "",
    "text",
    "surrogate \ud800",
    "x" * 700,
    b"",
    b"\x00\xff\x00",
    b"y" * 700,
    date(2026, 11, 24),
    datetime(2026, 11, 24, 12, 30),
    datetime(2026, 11, 24, 12, 30, tzinfo=timezone.utc),
    UUID(int=7),
    (),
    (1, ("two", b"three"), None, 4.5),
]
HUGE = [0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1]


def records():
    """Tree keys and records of every form."""
    for key in KEYS:
        tree_key = keys.tree_key(key)
        long_key = keys.encode(key) if len(keys.encode(key)) > keys.ORDERED_BYTES else None
        yield tree_key, bytes(record.pack(tree_key, b"\x80\x05K\x01.", long_key=long_key))
        yield tree_key, bytes(record.pack(tree_key, b"not a pickle", long_key=long_key))
        yield (
            tree_key,
            bytes(
                record.pack(
                    tree_key,
                    b"\x80\x05payload.",
                    expires_at=1_800_000_000_000_000,
                    tags=("red", "blue", "\ud800"),
                    long_key=long_key,
                    frames=[memoryview(b"f" * size) for size in (0, 1, 300)],
                )
            ),
        )


def changed(rng, data):
    """`data`, changed in a few places."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        how = rng.randrange(7)
        if how == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif how == 2:
            del data[at : at + rng.choice([1, 2, 8, 1000])]
        elif how == 3:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 8, 100]))
        elif how == 4:
            data[at:at] = data[at : at + rng.choice([1, 4, 16])]
        elif how == 5:
            size = rng.choice([1, 2, 4, 8])
            data[at : at + size] = (rng.choice(HUGE) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        else:
            data = data[:at]
    return bytes(data)


def test_a_record_that_was_changed_is_refused(rng):
    packed = list(records())
    seen = Counter()
    for _ in range(INPUTS):
        tree_key, whole = rng.choice(packed)
        data = changed(rng, whole)
        try:
            header, payload, frames = record.unpack(tree_key, data)
        except Damaged:
            seen["refused"] += 1
            continue
        original = record.unpack(tree_key, whole)
        assert (header, bytes(payload)) == (original[0], bytes(original[1]))  # what was changed lies between the frames
        assert list(map(bytes, frames)) == list(map(bytes, original[2]))
        seen["unharmed"] += 1
    assert seen["refused"] > INPUTS / 2
    print(f"{INPUTS:,} inputs: {dict(seen)}")


def test_a_record_whose_digest_was_forged_does_no_harm(rng):
    packed = list(records())
    seen = Counter()
    for _ in range(INPUTS):
        tree_key, whole = rng.choice(packed)
        data = forged(tree_key, changed(rng, whole))
        with suppress(Damaged, IndexError):
            record.read_header(data[: record.HEAD_BYTES], len(data))
        key_of(tree_key, data)
        try:
            _header, payload, frames = record.unpack(tree_key, data)
        except Damaged:
            seen["refused"] += 1
            continue
        assert len(payload) + sum(map(len, frames)) <= len(data)
        seen["taken"] += 1
    assert min(seen["refused"], seen["taken"]) > INPUTS / 100
    print(f"{INPUTS:,} inputs: {dict(seen)}")


def forged(tree_key, data):
    """The digest of header and payload made to fit."""
    if len(data) <= DIGEST_BYTES:
        return data
    head_size = len(data) - DIGEST_BYTES
    if data[0] != record.PLAIN and len(data) >= 8:
        head_size = min(head_size, struct.unpack_from("<I", data, 4)[0])
    made = digest(data[:head_size], key_digest(tree_key))
    return data[:head_size] + made + data[head_size + DIGEST_BYTES :]


@pytest.mark.parametrize("form", ["in the tree", "whole"])
def test_a_key_that_was_changed_is_another_key_or_a_lost_one(rng, form):
    encoded = [keys.tree_key(key) if form == "in the tree" else keys.encode(key) for key in KEYS]
    seen = Counter()
    for _ in range(INPUTS):
        data = changed(rng, rng.choice(encoded))
        if not data:
            continue
        key = keys.decode(data)
        if isinstance(key, LostKey):
            assert key.place == data
            seen["lost"] += 1
        else:
            assert keys.encode(key) == data
            seen["another"] += 1
    assert min(seen["lost"], seen["another"]) > INPUTS / 100
    print(f"{INPUTS:,} inputs: {dict(seen)}")
