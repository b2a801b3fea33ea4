"""Seals: who has not the key can neither forge a record nor move one, and with encryption not read one.

A seal covers the id of the store, the namespace, the key, every byte of the header and what is inside, each
with its length, so that no part of one can be taken for a part of another:

    context   "objstore" and the kind, id of the store, namespace; each with its length before it (8 bytes)
    lengths   of the tree key (4) and of the head as far as it is covered (8)
    tree key
    head      header and what is inside

*Signed* is what stands there and 32 bytes behind it: BLAKE2b with a key (RFC 7693) where the head has less
than `LONG_HEAD` bytes, HMAC-SHA256 (RFC 2104) where it has more and that is faster.  The limit is part of
the format.

*Encrypted* is AES-256-GCM, in pieces of up to `PIECE_BYTES`, each with its number as the nonce, and with all
of the above except what is inside as associated data.  A nonce may be used once with a key, and random nonces
of 96 bits last for 2**32 records only.  So each record has a key of its own, derived by BLAKE2b from 24 random
bytes in its header (as in XAES-256-GCM): two of 2**80 records meet with a chance of 2**-33, and nothing need
be counted.

Whoever has the key can do all of this, of course.  And none of it can see that a record is missing, or is an
older one of the same key: what was sealed once stays valid for its place.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from hmac import compare_digest
from hmac import new as new_hmac
from typing import Any

from objstore.codecs.keyring import KeyRing, Keys
from objstore.record import ENCRYPTED, KEY_ID_BYTES, LARGE, SALT_BYTES, SIGNED, Bytes, Forged, Seal

MAC_BYTES = 32
LONG_HEAD = 1024

TAG_BYTES = 16
PIECE_BYTES = 1 << 30
_NONCE_BYTES = 12

_lengths = struct.Struct("<IQ")
_length = struct.Struct("<Q")

_FORGED = "its seal does not fit: it was changed, or belongs to another key, namespace or store"


class _Sealing:
    """What both kinds share: whose keys these are, and which of them a record names."""

    kind: int

    def __init__(self, ring: KeyRing, store_id: str, namespace: str) -> None:
        parts = (b"objstore", bytes((self.kind,)), store_id.encode(), namespace.encode("utf-8", "surrogatepass"))
        self._context = b"".join(_length.pack(len(part)) + part for part in parts)
        self._kind = bytes((self.kind,))
        self._field = self._kind + ring.newest

    def miss(self) -> Forged:
        return Forged("it is not sealed, and this store takes sealed records only")

    def _stranger(self, named: bytes) -> Forged:
        """What is wrong with a record whose kind and key, in the field of its seal, are none of these."""
        if named[:1] != self._kind:
            return Forged("it is sealed in another way than this store has it")
        return Forged(f"it is sealed with key {named[1:].hex()}, which is none of those given")


class Signing(_Sealing):
    """Signs the records of one namespace, which stay readable for everybody."""

    kind = SIGNED

    def __init__(self, ring: KeyRing, store_id: str, namespace: str) -> None:
        super().__init__(ring, store_id, namespace)
        short, long = ring.subkeys(b"objstore sign"), ring.subkeys(b"objstore sign 2")
        # By kind and id, as a record names them: the states of both codes after the context, to go on from.
        self._codes: dict[bytes, tuple[Any, Any]] = {
            self._kind + key_id: (
                blake2b(self._context, key=short[key_id], digest_size=MAC_BYTES),
                new_hmac(long[key_id], self._context, "sha256"),
            )
            for key_id in ring
        }

    def draw(self) -> bytes:
        return self._field

    def overhead(self, _size: int) -> int:
        return MAC_BYTES

    def close(self, tree_key: bytes, header: bytes, inside: bytes) -> Sequence[bytes]:
        size = len(header) + len(inside)
        code = self._codes[self._field][size >= LONG_HEAD].copy()
        code.update(_lengths.pack(len(tree_key), size) + tree_key + header)
        code.update(inside)
        return inside, code.digest()

    def open(self, tree_key: bytes, head: bytes | memoryview, inside_at: int) -> Bytes:
        named = bytes(head[inside_at - 1 - KEY_ID_BYTES : inside_at])
        codes = self._codes.get(named)
        if codes is None:
            raise self._stranger(named)
        signed = head[:-MAC_BYTES]
        size = len(signed)
        code = codes[size >= LONG_HEAD].copy()
        code.update(_lengths.pack(len(tree_key), size) + tree_key)
        code.update(signed)
        if not compare_digest(code.digest(), head[-MAC_BYTES:]):
            raise Forged(_FORGED)
        return signed[inside_at:]


class Encryption(_Sealing):
    """Encrypts the values of one namespace.  Keys, tags, expiry and sizes stay readable."""

    kind = ENCRYPTED

    def __init__(self, ring: KeyRing, store_id: str, namespace: str) -> None:
        super().__init__(ring, store_id, namespace)
        self._cipher, self._invalid_tag = _aes_gcm()
        subkeys = ring.subkeys(b"objstore encrypt")
        self._derivations = {self._kind + key_id: blake2b(key=subkeys[key_id], digest_size=32) for key_id in ring}

    def draw(self) -> bytes:
        return self._field + os.urandom(SALT_BYTES)

    def overhead(self, size: int) -> int:
        return TAG_BYTES * max(1, -(-size // PIECE_BYTES))

    def close(self, tree_key: bytes, header: bytes, inside: bytes) -> Sequence[bytes]:
        cipher = self._cipher_of(self._derivations[self._field], header[-SALT_BYTES:])
        covered = self._covered(tree_key, header)
        if len(inside) <= PIECE_BYTES:
            return (cipher.encrypt(_nonce(0), inside, covered),)
        pieces = _pieces(memoryview(inside), PIECE_BYTES)
        return [cipher.encrypt(_nonce(number), piece, covered) for number, piece in enumerate(pieces)]

    def open(self, tree_key: bytes, head: bytes | memoryview, inside_at: int) -> Bytes:
        salt_at = inside_at - SALT_BYTES
        named = bytes(head[max(salt_at - 1 - KEY_ID_BYTES, 0) : max(salt_at, 0)])
        derivation = self._derivations.get(named)
        if derivation is None:
            raise self._stranger(named)
        cipher = self._cipher_of(derivation, head[salt_at:inside_at])
        covered = self._covered(tree_key, head[:inside_at])
        sealed = head[inside_at:]
        try:
            if len(sealed) < LARGE:
                return cipher.decrypt(_nonce(0), sealed, covered)  # type: ignore[no-any-return]
            return self._open_large(cipher, memoryview(sealed), covered)
        except self._invalid_tag:
            raise Forged(_FORGED) from None

    def _open_large(self, cipher: Any, sealed: memoryview, covered: bytes) -> bytearray:
        """What was sealed in one piece or several, in memory that can be written to, so that buffers may stay in it."""
        step = PIECE_BYTES + TAG_BYTES
        whole, rest = divmod(len(sealed), step)
        if 0 < rest <= TAG_BYTES or not sealed:  # a piece without anything in it was not written here
            raise Forged(_FORGED)
        inside = bytearray(len(sealed) - TAG_BYTES * (whole + bool(rest)))
        pieces = zip(_pieces(sealed, step), _pieces(memoryview(inside), PIECE_BYTES), strict=True)
        for number, (piece, place) in enumerate(pieces):
            cipher.decrypt_into(_nonce(number), piece, covered, place)
        return inside

    def _cipher_of(self, derivation: Any, salt: Bytes) -> Any:
        derivation = derivation.copy()
        derivation.update(salt)
        return self._cipher(derivation.digest())

    def _covered(self, tree_key: bytes, header: Bytes) -> bytes:
        return b"".join((self._context, _lengths.pack(len(tree_key), len(header)), tree_key, header))


def _pieces(whole: memoryview, size: int) -> Iterator[memoryview]:
    return (whole[start : start + size] for start in range(0, len(whole), size))


def _nonce(number: int) -> bytes:
    return number.to_bytes(_NONCE_BYTES, "little")


def _aes_gcm() -> tuple[Any, type[Exception]]:
    """The cipher, and what it raises where a tag does not fit."""
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "encryption needs the package cryptography: pip install cryptography", name=exc.name
        ) from exc
    return AESGCM, InvalidTag


def sealing_of(kind: str | None, keys: Keys, store_id: str) -> Callable[[str], Seal] | None:
    """What gives the seal of each namespace, by its name; None for a store whose records are not sealed."""
    if kind is None:
        return None
    signs = kind == "signed"
    ring = keys.signing if signs else keys.encryption
    if ring is None:
        option = "signing_key" if signs else "encryption_key"
        return partial(_lock, f"this store is {kind}, and no {option} was given; open it with that")
    return partial(Signing if signs else Encryption, ring, store_id)


def forbidding() -> Locked | None:
    """The lock on unsealed records whose codec runs code, in a process whose environment forbids these."""
    said = os.environ.get("OBJSTORE_PICKLE", "")
    if said not in ("", "allow", "forbid"):
        raise ValueError(f"OBJSTORE_PICKLE is 'forbid' or 'allow', not {said!r}; mend the environment")
    if said != "forbid":
        return None
    return Locked(
        "OBJSTORE_PICKLE=forbid keeps this process from pickles that are not sealed; use a codec that runs no code, or "
        "a store with signing_key"
    )


def _lock(why: str, _namespace: str) -> Locked:
    return Locked(why)


class Locked:
    """Stands where a seal is needed and nobody may open one: records are there, and nothing in them can be read."""

    def __init__(self, why: str) -> None:
        self._why = why

    def draw(self) -> bytes:
        raise self.miss()

    def overhead(self, _size: int) -> int:
        raise self.miss()

    def close(self, _tree_key: bytes, _header: bytes, _inside: bytes) -> Sequence[bytes]:
        raise self.miss()

    def open(self, _tree_key: bytes, _head: bytes | memoryview, _inside_at: int) -> Bytes:
        raise self.miss()

    def miss(self) -> Forged:
        return Forged(self._why)
