"""Records are what the format says, byte for byte, and a damaged one is never believed."""

from __future__ import annotations

import pickle
import struct

import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from objstore import record
from objstore.record import (
    ALIGNMENT,
    DIGEST_BYTES,
    EXPIRES,
    FRAMES,
    HEAD_BYTES,
    LONG_KEY,
    PLAIN_HEADER,
    TAGS,
    VALUE_OFFSET,
    Damaged,
    Header,
    packed_size,
    read_header,
    unpack,
)

few_or_many = settings(max_examples=strategies.EXAMPLES, deadline=None)

KEY = b"\x40key"
ONE = b"\x80\x05K\x01."


def pack(key, payload, **said):
    """The bytes of a record.  Where it is a draft, they are the same as what it writes in place."""
    packed = record.pack(key, payload, **said)
    stored = bytes(packed)
    if isinstance(packed, record.Draft):
        assert packed.size == len(stored)
        place = bytearray(packed.size)
        packed.write(memoryview(place))
        assert place == stored
    return stored


def fields():
    """What a header can say, in every combination."""
    return st.fixed_dictionaries(
        {},
        optional={
            "expires_at": st.integers(-(2**63), 2**63 - 1),
            "tags": strategies.tags(),
            "long_key": st.binary(max_size=2000),
            "frames": st.lists(st.binary(max_size=300).map(memoryview), max_size=4),
        },
    )


def payloads():
    return strategies.values().map(lambda value: pickle.dumps(value, 5))


def sealed(head, key=KEY):
    """Bytes with a digest that fits, whatever they say."""
    return head + xxh3_64_digest(head, seed=xxh3_64_intdigest(key))


def read(key, stored):
    """Everything a record says, as plain values."""
    header, payload, frames = unpack(key, stored)
    return (header.codec, header.expires_at, header.tags, header.long_key), bytes(payload), list(map(bytes, frames))


class TestGoldenBytes:
    """The format, written out.  These bytes are on the disks of users: they never change."""

    def test_a_plain_record_is_the_pickle_and_its_digest(self):
        assert pickle.dumps(1, 5) == ONE
        assert pack(KEY, ONE) == b"\x80\x05K\x01." + b"\xd1\x48\xda\xca\xc1\x9d\x7d\x2d"

    def test_a_header_holds_the_fields_in_the_order_of_their_flags(self):
        stored = pack(KEY, ONE, expires_at=1_800_000_000_000_000, tags=("a", "ä"), long_key=b"\x40key and more")
        assert stored == (
            b"\x01\x07\x01\x00\x2f\x00\x00\x00"
            b"\x00\x80\x98\x28\x17\x65\x06\x00"
            b"\x02\x00\x01\x00a\x02\x00\xc3\xa4"
            b"\x0d\x00\x00\x00\x40key and more"
            b"\x80\x05K\x01."
            b"\x71\x2e\x3a\xdf\xcc\x55\xd6\xc2"
        )

    def test_frames_stand_behind_the_digest_where_they_are_aligned(self):
        stored = pack(KEY, ONE, frames=[memoryview(b"frame")])
        assert stored == (
            b"\x01\x08\x01\x00\x1f\x00\x00\x00"
            b"\x01\x00\x05\x00\x00\x00\x00\x00\x00\x00\x05\x80\x33\x71\x51\x38\xac\x89"
            b"\x80\x05K\x01." + stored[31:39] + bytes(9) + b"frame"
        )
        assert stored[31:39] == xxh3_64_digest(stored[:31], seed=xxh3_64_intdigest(KEY))

    def test_the_digest_is_xxh3_of_the_bytes_seeded_with_that_of_the_key(self):
        assert pack(KEY, ONE)[-8:] == xxh3_64_digest(ONE, seed=xxh3_64_intdigest(KEY))

    def test_the_numbers_of_the_format(self):
        assert (record.VERSION, record.PLAIN, record.PICKLE) == (1, 0x80, 1)
        assert (EXPIRES, TAGS, LONG_KEY, FRAMES) == (0x01, 0x02, 0x04, 0x08)
        assert (DIGEST_BYTES, ALIGNMENT, VALUE_OFFSET) == (8, 64, 16)


class TestRoundTrip:
    @few_or_many
    @given(payloads())
    def test_a_plain_record_says_nothing_but_its_payload(self, payload):
        stored = pack(KEY, payload)
        assert stored[:-DIGEST_BYTES] == payload
        assert read(KEY, stored) == ((1, None, (), None), payload, [])
        assert read_header(stored[:HEAD_BYTES], len(stored)) is PLAIN_HEADER

    @few_or_many
    @given(st.binary(min_size=1, max_size=40), payloads(), fields())
    def test_every_combination_of_fields_comes_back(self, key, payload, said):
        stored = pack(key, payload, **said)
        header = (1, said.get("expires_at"), said.get("tags", ()), said.get("long_key"))
        assert read(key, stored) == (header, payload, list(map(bytes, said.get("frames", ()))))

    @few_or_many
    @given(payloads(), fields())
    def test_the_header_says_the_same_without_the_digests(self, payload, said):
        stored = pack(KEY, payload, **said)
        assert read_header(stored, len(stored)) == unpack(KEY, stored)[0]

    @pytest.mark.parametrize("payload", [b"", b"\x00", b"\x01", b"not a pickle", b"\x7f" * 100], ids=repr)
    def test_a_payload_that_is_no_pickle_gets_a_header(self, payload):
        stored = pack(KEY, payload)
        assert stored[0] == record.VERSION
        assert read(KEY, stored) == ((1, None, (), None), payload, [])

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_a_record_is_read_from_any_buffer(self, kind):
        stored = pack(KEY, ONE, tags=("t",), frames=[memoryview(b"f")])
        assert read(KEY, kind(stored)) == ((1, None, ("t",), None), ONE, [b"f"])

    def test_payload_and_frames_are_views_of_the_record(self):
        stored = pack(KEY, ONE, frames=[memoryview(b"f" * 100)])
        _, payload, (frame,) = unpack(KEY, stored)
        assert payload.obj is stored
        assert frame.obj is stored

    def test_a_draft_says_what_its_buffers_hold_when_it_is_written(self):
        buffer = bytearray(b"before")
        draft = record.pack(KEY, ONE, frames=[memoryview(buffer)])
        buffer[:] = b"behind"
        place = bytearray(draft.size)
        draft.write(memoryview(place))
        _, _, (frame,) = unpack(KEY, place)
        assert frame == b"behind"

    @pytest.mark.parametrize("payload_bytes", range(130))
    def test_frames_are_aligned_where_a_large_value_begins_16_bytes_into_a_page(self, payload_bytes):
        frames = [memoryview(bytes((number,)) * 70) for number in (1, 2, 3)]
        stored = bytes(VALUE_OFFSET) + pack(KEY, b"\x80" + bytes(payload_bytes), frames=frames)
        starts = [stored.index(bytes(frame)) for frame in frames]
        assert [start % ALIGNMENT for start in starts] == [0, 0, 0]
        assert starts[1] - starts[0] == starts[2] - starts[1] == 2 * ALIGNMENT
        assert len(stored) == starts[-1] + 70

    @few_or_many
    @given(
        payloads(),
        st.lists(st.binary(max_size=300).map(memoryview), max_size=5),
        st.none() | st.just(1),
        st.lists(st.text(min_size=1, max_size=20), max_size=5),
        st.none() | st.binary(min_size=481, max_size=500),
    )
    def test_packed_size_is_an_upper_bound(self, payload, frames, expires_at, tags, long_key):
        size = len(pack(KEY, payload, frames=frames, expires_at=expires_at, tags=tags, long_key=long_key))
        assert size <= packed_size(payload, frames, tags, long_key)


SMALL = {
    "plain": pack(KEY, pickle.dumps({"a": [1, 2.5, "three"]}, 5)),
    "expires": pack(KEY, ONE, expires_at=1_800_000_000_000_000),
    "tags": pack(KEY, ONE, tags=("red", "blue")),
    "long key": pack(KEY, ONE, long_key=b"\x40" + b"k" * 40),
    "frames": pack(KEY, ONE, frames=[memoryview(b"frame one"), memoryview(b"frame two")]),
    "all": pack(KEY, ONE, expires_at=1, tags=("t",), long_key=b"\x40kk", frames=[memoryview(b"frame")]),
}


def silent_wrong_answers(damaged_records, right):
    """Which of the damaged records are believed and say something else than the right one."""
    wrong = []
    for name, damaged in damaged_records:
        try:
            if read(KEY, damaged) != right:
                wrong.append(name)
        except Damaged:
            pass
    return wrong


@pytest.mark.parametrize("name", SMALL)
class TestDamage:
    def test_every_flipped_bit_is_found_or_harmless(self, name):
        stored = SMALL[name]

        def flipped():
            for bit in range(8 * len(stored)):
                damaged = bytearray(stored)
                damaged[bit // 8] ^= 1 << bit % 8
                yield bit, bytes(damaged)

        assert silent_wrong_answers(flipped(), read(KEY, stored)) == []

    def test_only_the_gaps_between_frames_are_not_covered(self, name):
        stored = SMALL[name]
        header, _, frames = unpack(KEY, stored)
        gaps = len(stored) - header.head_size - DIGEST_BYTES - sum(map(len, frames)) if frames else 0
        unnoticed = 0
        for place in range(len(stored)):
            damaged = bytearray(stored)
            damaged[place] ^= 0xFF
            try:
                unpack(KEY, damaged)
                unnoticed += 1
            except Damaged:
                pass
        assert unnoticed == gaps

    def test_every_byte_set_to_every_value_is_found_or_harmless(self, name):
        stored = SMALL[name]
        places = range(min(len(stored), 16))
        changed = ((at, stored[:at] + bytes((value,)) + stored[at + 1 :]) for at in places for value in range(256))
        assert silent_wrong_answers(changed, read(KEY, stored)) == []

    def test_a_record_is_cut_short_nowhere(self, name):
        stored = SMALL[name]
        for size in range(len(stored)):
            with pytest.raises(Damaged):
                unpack(KEY, stored[:size])

    def test_a_record_belongs_to_its_key(self, name):
        for bit in range(8 * len(KEY)):
            other = bytearray(KEY)
            other[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Damaged, match="do not fit their digest"):
                unpack(bytes(other), SMALL[name])

    def test_what_hangs_behind_a_record_does_not_change_what_it_says(self, name):
        stored = SMALL[name]
        longer = ((size, stored + bytes(size)) for size in (1, 8, 64, 100))
        assert silent_wrong_answers(longer, read(KEY, stored)) == []


def header_bytes(version=1, flags=0, codec=1, zero=0, head_size=8, rest=b""):
    return struct.pack("<BBBBI", version, flags, codec, zero, head_size) + rest


class TestRefused:
    @pytest.mark.parametrize(
        "head",
        [
            *(header_bytes(version=version) for version in (0, 2, 3, 0x7F, 0x81, 0xFF)),
            *(header_bytes(flags=1 << bit) for bit in (6, 7)),
            *(header_bytes(codec=codec) for codec in (0, 255)),
            header_bytes(zero=1),
        ],
        ids=bytes.hex,
    )
    def test_what_is_of_a_later_format_is_refused_though_its_digest_fits(self, head):
        with pytest.raises(Damaged, match="is unknown here: it is damaged, or was written by a newer objstore"):
            unpack(KEY, sealed(head))
        with pytest.raises(Damaged, match="is unknown here"):
            read_header(head + bytes(8), 16)

    @pytest.mark.parametrize(
        "head",
        [
            header_bytes(flags=EXPIRES, head_size=15, rest=bytes(7)),
            header_bytes(flags=TAGS, head_size=10, rest=b"\x01\x00"),
            header_bytes(flags=TAGS, head_size=12, rest=b"\x01\x00\xff\xff"),
            header_bytes(flags=TAGS, head_size=13, rest=b"\x01\x00\x01\x00\xff"),
            header_bytes(flags=LONG_KEY, head_size=12, rest=b"\xff\xff\xff\xff"),
            header_bytes(flags=FRAMES, head_size=10, rest=b"\xff\xff"),
            header_bytes(flags=FRAMES, head_size=26, rest=b"\x01\x00" + b"\xff" * 16),
            header_bytes(flags=FRAMES, head_size=26, rest=b"\x01\x00" + b"\x01" + bytes(15)),
        ],
        ids=bytes.hex,
    )
    def test_a_header_that_makes_no_sense_is_refused_though_its_digest_fits(self, head):
        with pytest.raises(Damaged):
            unpack(KEY, sealed(head))

    def test_nothing_is_no_record(self):
        with pytest.raises(Damaged, match="empty"):
            read_header(b"", 0)
        with pytest.raises(Damaged, match="cut short"):
            unpack(KEY, b"")


class TestHeads:
    """The first bytes of a record, seen without the rest."""

    @pytest.mark.parametrize("said", [{"tags": ("t" * 50,) * 30}, {"long_key": b"k" * 2000}], ids=["tags", "long key"])
    def test_a_header_longer_than_its_head_raises_index_error(self, said):
        stored = pack(KEY, ONE, **said)
        with pytest.raises(IndexError):
            read_header(stored[:HEAD_BYTES], len(stored))

    @few_or_many
    @given(payloads(), fields(), st.data())
    def test_a_head_says_the_truth_or_that_it_is_too_short(self, payload, said, data):
        stored = pack(KEY, payload, **said)
        size = data.draw(st.integers(8, len(stored)))
        try:
            header = read_header(stored[:size], len(stored))
        except IndexError:
            assert size < len(stored)
        else:
            assert header == unpack(KEY, stored)[0]

    def test_a_common_header_fits_the_head(self):
        frames = [memoryview(bytes(70_000))] * 20
        stored = pack(KEY, ONE, expires_at=1, tags=("tag",) * 20, long_key=b"k" * 500, frames=frames)
        assert len(read_header(stored[:HEAD_BYTES], len(stored)).frames) == 20


class TestFuzz:
    """Whatever lies in the tree, the decoder answers `Damaged` and nothing else."""

    @few_or_many
    @given(st.binary(max_size=200))
    def test_random_bytes_are_damaged(self, garbage):
        with pytest.raises(Damaged):
            unpack(KEY, garbage)

    @few_or_many
    @given(st.binary(max_size=200), st.integers(0, 255), st.integers(0, 20))
    def test_random_fields_behind_a_digest_that_fits_are_damaged_or_read(self, rest, flags, less):
        head = header_bytes(flags=flags & 0x1F, head_size=max(8 + len(rest) - less, 0), rest=rest)
        for stored in (sealed(head), sealed(head[: 8 + len(rest) - less] or b"\x01") + rest):
            try:
                header, _, _ = unpack(KEY, stored)
            except Damaged:
                continue
            assert isinstance(header, Header)

    @few_or_many
    @given(st.binary(min_size=1, max_size=200), st.integers(0, 300))
    def test_a_random_head_is_damaged_or_read_or_too_short(self, head, more):
        try:
            read_header(head, len(head) + more)
        except Damaged:
            pass
        except IndexError:
            assert more

    @few_or_many
    @given(payloads(), fields(), st.data())
    def test_random_changes_give_no_silent_wrong_answer(self, payload, said, data):
        stored = pack(KEY, payload, **said)
        damaged = bytearray(stored)
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(stored) - 1))] = data.draw(st.integers(0, 255))
        assert silent_wrong_answers([("changed", bytes(damaged))], read(KEY, stored)) == []
