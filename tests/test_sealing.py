"""Seals are made as the format says, cover all that they must, and open for nobody else."""

from __future__ import annotations

import hmac
import os
import struct
from hashlib import blake2b

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from objstore import record
from objstore.codecs import sealing
from objstore.codecs.keyring import KeyRing, Keys
from objstore.codecs.sealing import LONG_HEAD, MAC_BYTES, TAG_BYTES, Encryption, Locked, Signing, sealing_of
from objstore.record import Damaged, Forged, read_header, unpack

KEY = bytes(range(32))
OLD = bytes(range(100, 132))
ID = "0123456789abcdef0123456789abcdef"
NAME = "users"
TREE_KEY = b"\x04prefix\x40key"
PAYLOAD = b"\x80\x05K\x01."

KINDS = [Signing, Encryption]


def seal_of(kind, *keys, store_id=ID, name=NAME):
    return kind(KeyRing(keys or (KEY,)), store_id, name)


def pack(kind, payload=PAYLOAD, tree_key=TREE_KEY, seal=None, **said):
    return bytes(record.pack(tree_key, payload, seal=seal or seal_of(kind), **said))


def with_digest(head, tree_key=TREE_KEY):
    """A record that fits its digest, as anybody can make one."""
    return bytes(head) + record.digest(bytes(head), record.key_digest(tree_key))


def frames_of(*sizes):
    return [memoryview(bytes([number]) * size) for number, size in enumerate(sizes, 1)]


def opened(stored, kind, tree_key=TREE_KEY, seal=None):
    header, payload, frames = unpack(tree_key, stored, seal=seal or seal_of(kind))
    return header, bytes(payload), list(map(bytes, frames))


@pytest.mark.parametrize("kind", KINDS)
class TestBothKinds:
    @pytest.mark.parametrize("size", [0, 1, 900, 1000, 1100, 70_000])
    @pytest.mark.parametrize("frames", [(), (0,), (1, 70_000, 3)])
    def test_what_is_inside_comes_back(self, kind, size, frames):
        payload = os.urandom(size)
        _, back, back_frames = opened(pack(kind, payload, frames=frames_of(*frames)), kind)
        assert back == payload
        assert back_frames == list(map(bytes, frames_of(*frames)))

    def test_what_is_said_is_said_in_the_clear(self, kind):
        said = {"expires_at": 1_800_000_000_000_000, "tags": ("red", "grün"), "long_key": b"\x40" + b"k" * 600}
        stored = pack(kind, codec=4, compressed=(3, (7, 0)), frames=frames_of(5), **said)
        header = opened(stored, kind)[0]
        assert {name: getattr(header, name) for name in said} == said
        assert (header.codec, header.compressed, header.frames, header.frames_inside) == (4, (3, (7, 0)), (), True)
        assert read_header(stored, len(stored)) == header

    def test_without_the_key_it_is_a_record_that_fits_its_digest(self, kind):
        header, payload, frames = unpack(TREE_KEY, pack(kind))
        assert header.seal[1:9] == KeyRing([KEY]).newest
        assert frames == []
        assert (PAYLOAD in bytes(payload)) == (kind is Signing)

    @pytest.mark.parametrize(
        "other",
        [
            {"store_id": ID[::-1]},
            {"name": ""},
            {"name": "user"},
            {"store_id": ID + "users", "name": ""},
        ],
    )
    def test_it_opens_only_in_its_place(self, kind, other):
        with pytest.raises(Forged, match="belongs to another key, namespace or store"):
            opened(pack(kind), kind, seal=seal_of(kind, **other))

    def test_it_opens_only_under_its_key(self, kind):
        stored = pack(kind)
        other = b"\x04prefix\x40kez"
        with pytest.raises(Damaged, match="digest"):
            opened(stored, kind, other)
        with pytest.raises(Forged, match="belongs to another key"):
            opened(with_digest(stored[:-8], other), kind, other)

    def test_it_opens_only_with_its_key(self, kind):
        with pytest.raises(Forged, match=f"key {KeyRing([KEY]).newest.hex()}, which is none of those given"):
            opened(pack(kind), kind, seal=seal_of(kind, OLD))

    def test_a_ring_opens_what_older_keys_sealed_and_seals_with_the_newest(self, kind):
        ring = seal_of(kind, KEY, OLD)
        old = pack(kind, seal=seal_of(kind, OLD))
        assert opened(old, kind, seal=ring)[1] == PAYLOAD
        assert opened(pack(kind, seal=ring), kind, seal=seal_of(kind, KEY))[1] == PAYLOAD
        assert record.key_id(unpack(TREE_KEY, old)[0]) == KeyRing([OLD]).newest

    @pytest.mark.parametrize("size", [5, 2000])
    def test_no_bit_of_it_can_be_changed(self, kind, size):
        head = pack(kind, b"\x80" * size, tags=("red",))[:-8]
        places = range(len(head)) if size < 100 else range(0, len(head), 7)
        for place in places:
            for bit in (1, 0x80):
                forged = bytearray(head)
                forged[place] ^= bit
                with pytest.raises((Damaged, Forged)):
                    opened(with_digest(forged), kind)

    def test_nothing_can_be_cut_off_or_added(self, kind):
        head = pack(kind)[:-8]
        for size in range(len(head)):
            cut = bytearray(head[:size])
            cut[4:8] = struct.pack("<I", size)
            with pytest.raises((Damaged, Forged)):
                opened(with_digest(cut[:size]), kind)
        longer = bytearray(head + bytes(32))
        longer[4:8] = struct.pack("<I", len(longer))
        with pytest.raises(Forged):
            opened(with_digest(longer), kind)
        with pytest.raises(Forged, match="behind its end"):
            opened(with_digest(head) + b"\0", kind)

    def test_a_record_without_a_seal_is_refused(self, kind):
        for stored in (record.pack(TREE_KEY, PAYLOAD), record.pack(TREE_KEY, PAYLOAD, tags=("red",))):
            with pytest.raises(Forged, match="not sealed"):
                opened(stored, kind)

    def test_a_record_of_the_other_kind_is_refused(self, kind):
        (other,) = (each for each in KINDS if each is not kind)
        with pytest.raises(Forged, match="in another way"):
            opened(pack(other), kind)

    def test_the_usual_record_is_opened_faster_and_as_safely(self, kind):
        stored, seal = pack(kind), seal_of(kind)
        assert bytes(record.unpack_usual(TREE_KEY, stored, record.PICKLE, seal)) == PAYLOAD
        assert record.unpack_usual(TREE_KEY, stored, 4, seal) is None
        assert record.unpack_usual(TREE_KEY + b"x", stored, record.PICKLE, seal) is None
        for unusual in ({"tags": ("red",)}, {"frames": frames_of(3)}, {"compressed": (1, (9,))}):
            assert record.unpack_usual(TREE_KEY, pack(kind, **unusual), record.PICKLE, seal) is None
        for size in range(len(stored)):
            assert record.unpack_usual(TREE_KEY, stored[:size], record.PICKLE, seal) is None
        for place in range(len(stored) - 8):
            forged = bytearray(stored)
            forged[place] ^= 1
            assert record.unpack_usual(TREE_KEY, bytes(forged), record.PICKLE, seal) is None

    @given(garbage=st.binary(max_size=200))
    def test_garbage_that_fits_its_digest_is_refused(self, kind, garbage):
        seal = seal_of(kind)
        for head in (garbage, b"\x01\x20\x01\0" + struct.pack("<I", 8 + len(garbage)) + garbage):
            with pytest.raises((Damaged, Forged)):
                opened(with_digest(head), kind, seal=seal)
            assert record.unpack_usual(TREE_KEY, with_digest(head), record.PICKLE, seal) is None

    @pytest.mark.parametrize("size", [0, 1, 1000, 60_000])
    def test_the_usual_record_is_packed_as_any_other(self, kind, size):
        payload = b"\x80" * size
        usual = pack(kind, payload)
        other = bytes(record._pack_sealed(TREE_KEY, 0, record.PICKLE, [], payload, (), seal_of(kind)))
        assert opened(usual, kind)[1:] == opened(other, kind)[1:] == (payload, [])
        assert len(usual) == len(other)
        assert (usual == other) == (kind is Signing)

    def test_another_moment_to_expire_is_another_seal(self, kind):
        seal = seal_of(kind)
        header, payload, frames = unpack(TREE_KEY, pack(kind, frames=frames_of(9), tags=("t",)), seal=seal)
        stored = bytes(record.repack(TREE_KEY, header, payload, frames, 17, seal))
        header, payload, frames = opened(stored, kind)
        assert (header.expires_at, header.tags, payload, frames) == (17, ("t",), PAYLOAD, [b"\1" * 9])


def context(kind):
    parts = (b"objstore", bytes([kind]), ID.encode(), NAME.encode())
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)


def derived(key, purpose, size=32):
    return blake2b(key, digest_size=size, person=purpose).digest()


class TestAsTheFormatSays:
    """Made once more by hand, from the texts of `record` and `sealing`: what is stored today is read for ever."""

    @pytest.mark.parametrize("size", [0, LONG_HEAD - 18, LONG_HEAD - 17, 5000])
    def test_signed(self, size):
        payload = b"\x80" * size
        head_size = 17 + size + MAC_BYTES
        header = struct.pack("<BBBBI", 1, 0x20, 1, 0, head_size) + b"\x01" + derived(KEY, b"objstore id", 8)
        signed = header + payload
        covered = context(1) + struct.pack("<IQ", len(TREE_KEY), len(signed)) + TREE_KEY + signed
        if len(signed) < 1024:
            mac = blake2b(covered, digest_size=32, key=derived(KEY, b"objstore sign")).digest()
        else:
            mac = hmac.digest(derived(KEY, b"objstore sign 2"), covered, "sha256")
        assert pack(Signing, payload) == with_digest(signed + mac)

    def test_encrypted(self):
        stored = pack(Encryption, frames=frames_of(3))
        inside = struct.pack("<HQ", 1, 3) + PAYLOAD + b"\1\1\1"
        head_size = 41 + len(inside) + TAG_BYTES
        header = struct.pack("<BBBBI", 1, 0x28, 1, 0, head_size) + b"\x02" + derived(KEY, b"objstore id", 8)
        assert stored[:17] == header
        salt = stored[17:41]
        of_record = blake2b(salt, digest_size=32, key=derived(KEY, b"objstore encrypt")).digest()
        covered = context(2) + struct.pack("<IQ", len(TREE_KEY), 41) + TREE_KEY + header + salt
        assert AESGCM(of_record).encrypt(bytes(12), inside, covered) == stored[41:-8]


class TestEncryption:
    def test_two_encryptions_have_nothing_in_common(self):
        one, other = pack(Encryption), pack(Encryption)
        assert one[:17] == other[:17]
        assert one[17:41] != other[17:41]
        assert one[41:-8] != other[41:-8]

    def test_no_key_of_a_record_comes_twice(self, monkeypatch):
        keys = set()
        cipher = sealing._aes_gcm()

        def watched(key):
            assert key not in keys
            keys.add(key)
            return cipher[0](key)

        monkeypatch.setattr(sealing, "_aes_gcm", lambda: (watched, cipher[1]))
        seal = seal_of(Encryption)
        for _ in range(2000):
            pack(Encryption, seal=seal)
        assert len(keys) == 2000

    def test_large_values_go_in_pieces_that_keep_their_order(self, monkeypatch):
        monkeypatch.setattr(sealing, "PIECE_BYTES", 100)
        monkeypatch.setattr(sealing, "LARGE", 0)
        payload = os.urandom(452)
        head = pack(Encryption, payload)[:-8]
        assert len(head) == 41 + 452 + 5 * TAG_BYTES
        assert opened(with_digest(head), Encryption)[1] == payload
        pieces = [head[at : at + 116] for at in range(41, len(head), 116)]
        for order in ([1, 0, 2, 3, 4], [0, 0, 2, 3, 4], [0, 1, 2, 4, 3]):
            with pytest.raises(Forged):
                opened(with_digest(head[:41] + b"".join(pieces[place] for place in order)), Encryption)
        for count in range(5):
            cut = bytearray(head[:41] + b"".join(pieces[:count]))
            cut[4:8] = struct.pack("<I", len(cut))
            with pytest.raises(Forged):
                opened(with_digest(cut), Encryption)

    def test_what_must_not_be_read_is_nowhere_in_the_record(self):
        secret = b"a secret that is long enough"
        assert secret not in pack(Encryption, secret, frames=[memoryview(secret)])


class TestTheSealOfAStore:
    def test_there_is_none_where_none_was_asked_for(self):
        assert sealing_of(None, Keys(KeyRing([KEY])), ID) is None

    @pytest.mark.parametrize(("kind", "option"), [("signed", "signing_key"), ("encrypted", "encryption_key")])
    def test_without_the_key_it_is_locked(self, kind, option):
        seal = sealing_of(kind, Keys(), ID)(NAME)
        assert isinstance(seal, Locked)
        with pytest.raises(Forged, match=f"store is {kind}, and no {option} was given"):
            opened(pack(Signing), Signing, seal=seal)
        with pytest.raises(Forged, match=option):
            pack(Signing, seal=seal)

    def test_with_it_each_namespace_has_its_own(self):
        keys = Keys(KeyRing([KEY]), KeyRing([OLD]))
        assert isinstance(sealing_of("signed", keys, ID)(NAME), Signing)
        of = sealing_of("encrypted", keys, ID)
        assert opened(pack(Encryption, seal=of("a")), Encryption, seal=of("a"))[1] == PAYLOAD
        with pytest.raises(Forged):
            opened(pack(Encryption, seal=of("a")), Encryption, seal=of("b"))
