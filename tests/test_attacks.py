"""Attacks on sealed stores: records that somebody without the key made, or changed.

The adversary can write the data file, with digests that fit.  Every record of his must be refused by an error that
names its key, without a byte of it decoded, and do no harm to anything else.  The attacks on other subjects are in
`test_attacks_*.py`, the adversary himself in `attacker.py`.
"""

from __future__ import annotations

import struct
from itertools import permutations, product

import attacker
import pytest
import strategies
from attacker import (
    FORMS,
    KEY,
    PICKLE,
    REFUSED,
    SEALINGS,
    assert_contained,
    fitting,
    head_of,
    headed,
    nothing_runs,  # noqa: F401
    open_sealed,
    patched,
    plain,
    plant,
    refuses,
    resized,
    rewrite,
    rewritten,
    seal_at,
    stolen,
    tree_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore import BadSignature, Store, record
from objstore.codecs import sealing
from objstore.codecs.keyring import KeyRing
from objstore.codecs.sealing import MAC_BYTES
from objstore.record import ENCRYPTED, SIGNED, read_header

pytestmark = pytest.mark.usefixtures("forked_checks")

OTHERS = {"a": 1, ("b", 2): "two", 3: [3]}
VICTIM = "victim"


sealed_either_way = pytest.mark.parametrize("sealing", SEALINGS)


@pytest.fixture(params=SEALINGS)
def sealed(request, location):
    """A sealed store with a few items, on each engine."""
    with open_sealed(location, request.param, compression="zlib") as store:
        store.update(OTHERS)
        store[VICTIM] = {"money": 5}
        yield store


def records(store):
    """Genuine records of every form under one key, by name."""
    forms = {
        "usual": dict,
        "with fields": lambda: store.set(VICTIM, {"money": 5}, ttl=1e6, tags=("red", "blue")),
        "compressed": lambda: store.set(VICTIM, "money " * 500),
        "long head": lambda: store.set(VICTIM, bytes(range(256)) * 6),
    }
    found = {}
    for name, make in forms.items():
        make()
        found[name] = stolen(store, VICTIM)
    return found


def test_the_attack_is_real(location):
    with Store(location) as store:
        for form, payload in FORMS.items():
            store[form] = None
            place = tree_key(store, form)
            plant(store, place, plain(place, payload) if form != "protocol 0" else headed(place, payload))
            store[form]
            assert attacker.ran == [("it ran",)]
            attacker.ran.clear()


def test_so_it_is_in_the_file_of_a_closed_store(tmp_path):
    path = tmp_path / "a.store"
    with Store(path) as store:
        store[VICTIM] = 1
        place = tree_key(store, VICTIM)
    rewrite(path, {place: plain(place)})
    with Store(path) as store:
        store[VICTIM]
    assert attacker.ran.pop() == ("it ran",)


@sealed_either_way
def test_what_is_planted_in_the_file_of_a_closed_store_is_refused(tmp_path, sealing):
    path = tmp_path / "a.store"
    with open_sealed(path, sealing) as store:
        store.update(OTHERS)
        place = tree_key(store, VICTIM)
        count = tree_key(store, "new")
    rewrite(path, {place: plain(place), count: headed(count)})
    with open_sealed(path, sealing) as store:
        refuses(store, "new", BadSignature)
        assert store.delete("new")
        assert_contained(store, VICTIM, OTHERS)


def other_kind(place, stored):
    """The same head, sealed by the other kind as it says."""
    header = read_header(stored, len(stored))
    field = header.seal[1:9]
    new = bytes([ENCRYPTED]) + field + bytes(24) if header.seal[0] == SIGNED else bytes([SIGNED]) + field
    return rewritten(place, stored, seal=new)


def with_seal(**said):
    """A forgery that changes bytes of the seal's field: where, from its begin, and to what."""
    return lambda place, stored: patched(place, stored, seal_at(stored) + said["at"], said["new"])


# By name: what a record under a tree key becomes, given the genuine one.
FORGERIES = {
    **{
        f"unsealed pickle, {form}": lambda place, _, payload=payload: plain(place, payload)
        for form, payload in FORMS.items()
        if form != "protocol 0"
    },
    **{
        f"header and no seal, {form}": lambda place, _, payload=payload: headed(place, payload)
        for form, payload in FORMS.items()
    },
    "flag of the seal cleared": lambda place, stored: patched(place, stored, 1, bytes([stored[1] & ~record.SEALED])),
    "seal cut out": lambda place, stored: rewritten(place, stored, seal=b""),
    "seal cut out, and another payload": lambda place, stored: rewritten(place, stored, seal=b"", inside=PICKLE),
    "another payload": lambda place, stored: rewritten(place, stored, inside=b"\0\0" + PICKLE + bytes(MAC_BYTES)),
    "other kind": other_kind,
    "kind 0": with_seal(at=0, new=b"\0"),
    "kind 3": with_seal(at=0, new=b"\3"),
    "other kind, and no more": lambda place, stored: patched(
        place, stored, seal_at(stored), bytes([SIGNED + ENCRYPTED - stored[seal_at(stored)]])
    ),
    "another key": with_seal(at=1, new=b"otherkey"),
    "key zero": with_seal(at=1, new=bytes(8)),
    **{
        f"codec {number}": lambda place, stored, number=number: patched(place, stored, 2, bytes([number]))
        for number in (0, 2, 3, 4, 5, 128, 254, 255)
    },
    **{
        f"version {number}": lambda place, stored, number=number: patched(place, stored, 0, bytes([number]))
        for number in (0, 2, 127, 128, 255)
    },
    "reserved byte": lambda place, stored: patched(place, stored, 3, b"\1"),
    "later": lambda place, stored: rewritten(place, stored, expires_at=1 << 54),
    "earlier": lambda place, stored: rewritten(place, stored, expires_at=1 << 53),
    "never": lambda place, stored: rewritten(place, stored, expires_at=None, tags=("new",)),
    "a tag more": lambda place, stored: rewritten(place, stored, tags=("red", "blue", "green")),
    "a tag less": lambda place, stored: rewritten(place, stored, tags=("red",)),
    "tags swapped": lambda place, stored: rewritten(place, stored, tags=("blue", "red")),
    "expanded": lambda place, stored: rewritten(place, stored, compressed=(1, (3001,))),
    "expanded to nothing": lambda place, stored: rewritten(place, stored, compressed=(1, (0,))),
    "expanded by lz4": lambda place, stored: rewritten(place, stored, compressed=(2, (3000,))),
    "a long key": lambda place, stored: rewritten(place, stored, long_key=place),
    "no buffers": lambda place, stored: resized(
        place,
        bytes([1, stored[1] | record.FRAMES, *stored[2 : seal_at(stored)], 0, 0]) + head_of(stored)[seal_at(stored) :],
    ),
    "a buffer": lambda place, stored: resized(
        place,
        bytes([1, stored[1] | record.FRAMES, *stored[2 : seal_at(stored)], 1, 0])
        + bytes(16)
        + head_of(stored)[seal_at(stored) :],
    ),
}


class TestForgedRecords:
    @pytest.mark.parametrize("form", ["usual", "with fields", "compressed", "long head"])
    @pytest.mark.parametrize("forgery", FORGERIES)
    def test_each_is_refused(self, sealed, form, forgery):
        place = tree_key(sealed, VICTIM)
        genuine = records(sealed)[form]
        forged = FORGERIES[forgery](place, genuine)
        assert forged != genuine
        plant(sealed, place, forged)
        refuses(sealed, VICTIM)
        plant(sealed, place, genuine)
        assert sealed[VICTIM]

    @pytest.mark.parametrize("forgery", ["unsealed pickle, protocol 5", "header and no seal, protocol 0", "a tag less"])
    def test_it_does_no_harm_to_others(self, sealed, forgery):
        place = tree_key(sealed, VICTIM)
        plant(sealed, place, FORGERIES[forgery](place, records(sealed)["with fields"]))
        assert_contained(sealed, VICTIM, OTHERS)

    def test_what_was_not_sealed_is_said_to_be_a_bad_signature(self, sealed):
        place = tree_key(sealed, VICTIM)
        genuine = stolen(sealed, VICTIM)
        for forgery in ("unsealed pickle, protocol 5", "another payload", "another key", "seal cut out", "other kind"):
            plant(sealed, place, FORGERIES[forgery](place, genuine))
            assert "nothing of it was decoded" in str(refuses(sealed, VICTIM, BadSignature))

    def test_the_same_key_given_for_the_other_kind_seals_nothing_here(self, sealed):
        kind = "encrypted" if sealed.stats().sealing == "signed" else "signed"
        place = tree_key(sealed, VICTIM)
        with open_sealed("memory://", kind) as other:
            other[VICTIM] = "of another kind"
            plant(sealed, place, stolen(other, VICTIM))
        refuses(sealed, VICTIM, BadSignature)

    def test_nor_does_one_with_the_id_of_this_store(self, sealed):
        """An adversary who has the same key for something else, and makes a store of the other kind with this id."""
        kind = sealing.Encryption if sealed.stats().sealing == "signed" else sealing.Signing
        place = tree_key(sealed, VICTIM)
        seal = kind(KeyRing([KEY]), sealed.stats().id, "")
        plant(sealed, place, record.pack(place, PICKLE, seal=seal))
        refuses(sealed, VICTIM, BadSignature)

    def test_without_a_seal_of_the_store_no_seal_is_taken_either(self, location):
        with Store(location) as store, open_sealed("memory://", "signed") as other:
            store.update(OTHERS)
            store[VICTIM] = 1
            other[VICTIM] = "sealed elsewhere"
            plant(store, tree_key(store, VICTIM), stolen(other, VICTIM))
            refuses(store, VICTIM, BadSignature)
            assert_contained(store, VICTIM, OTHERS)


class TestBytes:
    """Every bit, every length."""

    @pytest.fixture(params=SEALINGS)
    def sealed(self, request):
        with open_sealed("memory://", request.param, compression="zlib") as store:
            store[VICTIM] = {"money": 5}
            yield store

    def test_every_combination_of_flags_codec_version_and_kind_is_refused(self, sealed):
        place = tree_key(sealed, VICTIM)
        genuine = stolen(sealed, VICTIM)
        seal = genuine[9:17]
        inside = head_of(genuine)[read_header(genuine, len(genuine)).payload_at :]
        said = product((1, 2), range(256), (1, 2, 4, 128), (0, 1, 2, 3), (PICKLE, b"\0\0" + PICKLE, inside))
        for version, flags, codec, kind, payload in said:
            fields = bytes([kind]) + seal + bytes(24) * (kind == ENCRYPTED) if flags & record.SEALED else b""
            forged = headed(place, payload, flags=flags, codec=codec, version=version, fields=fields)
            if forged == genuine:
                continue
            plant(sealed, place, forged)
            with pytest.raises(REFUSED):
                sealed[VICTIM]

    @pytest.mark.parametrize("form", ["usual", "with fields", "compressed"])
    def test_every_flipped_bit(self, sealed, form):
        place = tree_key(sealed, VICTIM)
        genuine = records(sealed)[form]
        plant(sealed, place, genuine)
        value = sealed[VICTIM]
        for bit in range(8 * len(genuine)):
            flipped = bytearray(genuine)
            flipped[bit // 8] ^= 1 << bit % 8
            plant(sealed, place, bytes(flipped))
            if bit // 8 < len(genuine) - 8:
                refuses(sealed, VICTIM)
                plant(sealed, place, fitting(place, head_of(bytes(flipped))))
                refuses(sealed, VICTIM)
            else:  # its seal was verified, and the digest says no more
                assert sealed[VICTIM] == value
                assert [each.key for each in sealed.check().damaged] == [VICTIM]

    @pytest.mark.parametrize("form", ["usual", "with fields", "compressed"])
    def test_every_truncation(self, sealed, form):
        place = tree_key(sealed, VICTIM)
        genuine = records(sealed)[form]
        head = head_of(genuine)
        for size in range(len(genuine)):
            plant(sealed, place, genuine[:size])
            refuses(sealed, VICTIM)
        for size in range(len(head)):
            plant(sealed, place, fitting(place, head[:size]))
            refuses(sealed, VICTIM)
            if size >= 8:
                plant(sealed, place, resized(place, head[:size]))
                refuses(sealed, VICTIM)

    @pytest.mark.parametrize("form", ["usual", "with fields", "compressed"])
    def test_every_byte_cut_out_or_doubled(self, sealed, form):
        place = tree_key(sealed, VICTIM)
        head = head_of(records(sealed)[form])
        for at in range(8, len(head)):
            for changed in (head[:at] + head[at + 1 :], head[:at] + head[at:at] + b"\0" + head[at:]):
                plant(sealed, place, resized(place, changed))
                refuses(sealed, VICTIM)

    def test_what_is_appended(self, sealed):
        place = tree_key(sealed, VICTIM)
        genuine = stolen(sealed, VICTIM)
        for more in (b"\0", b"\0" * 8, genuine, genuine[-8:], PICKLE, bytes(100)):
            for forged in (
                genuine + more,
                fitting(place, head_of(genuine), more),
                resized(place, head_of(genuine) + more),
            ):
                plant(sealed, place, forged)
                refuses(sealed, VICTIM)

    @pytest.mark.parametrize(
        "end", [b"", bytes(1), bytes(15), bytes(16), bytes(31), bytes(32), b"\xff" * 32, bytes(64)]
    )
    @pytest.mark.parametrize("inside", [b"", b"\0\0", b"\0\0" + PICKLE, PICKLE, b"\1\0" + bytes(8) + PICKLE])
    def test_codes_that_anybody_can_write(self, sealed, inside, end):
        place = tree_key(sealed, VICTIM)
        plant(sealed, place, rewritten(place, stolen(sealed, VICTIM), inside=inside + end))
        refuses(sealed, VICTIM, BadSignature)

    @pytest.mark.parametrize("sizes", [(0,), (1,), (1 << 63,), ((1 << 64) - 1,), (1,) * 500, ()])
    def test_compressed_nothing(self, sealed, sizes):
        place = tree_key(sealed, VICTIM)
        plant(sealed, place, rewritten(place, stolen(sealed, VICTIM), compressed=(3, sizes), inside=b""))
        refuses(sealed, VICTIM, BadSignature)

    def test_every_length_of_anything(self, sealed, rng):
        place = tree_key(sealed, VICTIM)
        for size in range(61):
            for first in (b"", b"\1", b"\x80", struct.pack("<BBBBI", 1, record.SEALED, 1, 0, max(size, 8))):
                content = (first + rng.randbytes(size))[:size]
                for forged in (content, fitting(place, content)):
                    plant(sealed, place, forged)
                    refuses(sealed, VICTIM)

    @pytest.mark.parametrize("sealing", SEALINGS)
    def test_garbage_that_fits_its_digest(self, sealing):
        with open_sealed("memory://", sealing) as store:
            store[VICTIM] = 1
            place = tree_key(store, VICTIM)
            field = stolen(store, VICTIM)[8:17]

            @settings(max_examples=strategies.EXAMPLES, deadline=None)
            @given(st.binary(max_size=120), st.integers(0, 63), st.sampled_from([1, 2, 3, 4]), st.booleans())
            def attack(garbage, flags, codec, says_seal):
                fields = field if says_seal else b""
                for forged in (
                    headed(place, garbage, flags=flags, codec=codec, fields=fields),
                    fitting(place, garbage),
                ):
                    plant(store, place, forged)
                    refuses(store, VICTIM)
                    assert VICTIM in list(store)
                    assert store.entry(VICTIM).key == VICTIM

            attack()


class TestPieces:
    """What is encrypted in several pieces is one whole."""

    def test_no_piece_is_left_out_repeated_or_moved(self, monkeypatch):
        monkeypatch.setattr(sealing, "PIECE_BYTES", 64)
        monkeypatch.setattr(sealing, "LARGE", 0)
        with open_sealed("memory://", "encrypted") as store:
            value = bytes(range(200))
            store[VICTIM] = value
            place = tree_key(store, VICTIM)
            genuine = stolen(store, VICTIM)
            at = read_header(genuine, len(genuine)).payload_at
            header, inside = genuine[:at], head_of(genuine)[at:]
            pieces = [inside[start : start + 80] for start in range(0, len(inside), 80)]
            assert len(pieces) == 4
            assert store[VICTIM] == value
            orders = {order for size in range(6) for order in permutations([0, 1, 2, 3, 0, 1], size)} - {(0, 1, 2, 3)}
            for order in orders:
                plant(store, place, resized(place, header + b"".join(pieces[number] for number in order)))
                refuses(store, VICTIM, BadSignature)


class TestFoundByReadingTheCode:
    """What an attacker finds who reads the library, each as a test of its own."""

    @pytest.mark.parametrize("sizes", [None, (1,)])
    def test_a_seal_of_the_other_kind_that_is_shorter_than_this_one(self, sizes):
        with open_sealed("memory://", "encrypted") as store:
            store[VICTIM] = 1
            place = tree_key(store, VICTIM)
            fields = (
                struct.pack("<q", 1 << 60) if sizes is None else struct.pack(f"<BH{len(sizes)}Q", 1, len(sizes), *sizes)
            )
            flags = record.SEALED | (record.EXPIRES if sizes is None else record.COMPRESSED)
            plant(store, place, headed(place, bytes(40), flags=flags, fields=fields + b"\1" + bytes(8)))
            refuses(store, VICTIM, BadSignature)
            assert [each.key for each in store.check().damaged] == [VICTIM]
            assert [each.key for each in store.rekey().refused] == [VICTIM]
