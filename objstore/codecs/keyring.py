"""Secret keys: what one is, where it comes from, and the rings in which old ones live on.

A key is at least 32 random bytes.  It is given as such, or as the name of an environment variable, where it
stands in hexadecimal digits; so a program can name its key without having it.  A ring holds several, the
newest first: that one seals, and all of them open.

From each key come others, one for each purpose, so that what is learned about one use says nothing of
another; and an id, which stands beside everything that was sealed with it.  A ring shows its ids and never
its keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

from objstore.record import KEY_ID_BYTES

MIN_KEY_BYTES = 32
_SUBKEY_BYTES = 32
_USUAL_NAME = re.compile("(?![0-9A-F]{16})[A-Z_][A-Z0-9_]{0,63}")
_BYTES = (bytes, bytearray, memoryview)
_LEAST_DISTINCT = 8  # which the digits of a random number have, too, and what is repeated has not

KeyOption = bytes | str | Sequence[bytes | str] | Literal[False] | None
"""Keys as a user gives them: bytes, the name of an environment variable, or several of these, newest first.

None is what the environment says of it, and False is none whatever that says.
"""


class KeyRing(Mapping[bytes, bytes]):
    """Keys by their ids, the newest first."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a ring of keys has at least one; False is no key")
        self._keys = {_derive(key, b"objstore id", KEY_ID_BYTES): key for key in map(_checked, keys)}
        self.newest = next(iter(self._keys))
        """The id of the key that seals."""

    def __getitem__(self, key_id: bytes) -> bytes:
        return self._keys[key_id]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyRing {', '.join(key_id.hex() for key_id in self)}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("secret keys are not pickled; name an environment variable that holds them")

    def subkeys(self, purpose: bytes) -> dict[bytes, bytes]:
        """A key for each, of 32 bytes, for one purpose only (named in up to 16 bytes)."""
        return {key_id: _derive(key, purpose, _SUBKEY_BYTES) for key_id, key in self._keys.items()}


class Keys(NamedTuple):
    """The keys that somebody has for a store, of either kind."""

    signing: KeyRing | None = None
    encryption: KeyRing | None = None

    def __bool__(self) -> bool:
        return any(self)


NO_KEYS = Keys()


def keys_of(signing_key: KeyOption, encryption_key: KeyOption) -> Keys:
    """The keys that are meant.  Those of the environment count where neither kind is given.

    Raises TypeError and ValueError for what can be no key, or is too weak, and where both kinds are given.
    """
    if signing_key and encryption_key:
        raise ValueError("give signing_key or encryption_key, not both: what is encrypted cannot be forged either")
    given = bool(signing_key or encryption_key)
    return Keys(
        _ring("signing_key", signing_key, None if given else "OBJSTORE_SIGNING_KEY"),
        _ring("encryption_key", encryption_key, None if given else "OBJSTORE_ENCRYPTION_KEY"),
    )


class _Secret:
    """Stands for keys that a handle was given, where it remembers what it was given: they do not travel with it."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(
            "a store that was given a key cannot be pickled, because its key would be: give the name of an environment "
            "variable that holds the key, here and where it arrives"
        )


def portable(option: KeyOption) -> KeyOption | _Secret:
    """What a user gave, if it may be pickled: names, and no keys."""
    return option if not option or all(isinstance(each, str) for each in _each(option)) else _Secret()


def _each(option: KeyOption) -> Sequence[bytes | str]:
    return [bytes(option)] if isinstance(option, _BYTES) else [option] if isinstance(option, str) else option or ()


def _ring(name: str, option: KeyOption, variable: str | None) -> KeyRing | None:
    if option is False:
        return None
    if option is None:
        return KeyRing(_read(variable)) if variable and variable in os.environ else None
    if not isinstance(option, (*_BYTES, Sequence)):
        raise TypeError(
            f"{name} is bytes, the name of an environment variable, or a list of these, not {type(option).__name__}"
        )
    keys: list[bytes] = []
    for each in _each(option):
        keys += _read(each) if isinstance(each, str) else [each]
    return KeyRing(keys)


def _read(variable: str) -> list[bytes]:
    """The keys in an environment variable: hexadecimal digits, several separated by commas."""
    text = os.environ.get(variable)
    if text is None:
        # What looks like nothing that one calls a variable may be the key itself, and must not get into a message.
        shown = repr(variable) if _USUAL_NAME.fullmatch(variable) else "of the name that was given"
        raise ValueError(f"there is no environment variable {shown}; a key itself is given as bytes")
    try:
        return [_checked(bytes.fromhex(each)) for each in text.split(",")]
    except ValueError:
        # What stands there is a secret, or part of one, and must not get into a message.
        raise ValueError(
            f"the environment variable {variable!r} holds no key: at least {2 * MIN_KEY_BYTES} random hexadecimal "
            f"digits, as secrets.token_hex({MIN_KEY_BYTES}) gives them, or several such, separated by commas"
        ) from None


def _checked(key: bytes) -> bytes:
    if not isinstance(key, _BYTES):
        raise TypeError(f"a key is bytes, or the name of an environment variable, not {type(key).__name__}")
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(
            f"a key has at least {MIN_KEY_BYTES} random bytes, not {len(key)}; secrets.token_bytes({MIN_KEY_BYTES}) "
            f"makes one"
        )
    if len(set(key)) < _LEAST_DISTINCT:
        raise ValueError(f"a key is random bytes, and not these; secrets.token_bytes({MIN_KEY_BYTES}) makes one")
    return bytes(key)


def _derive(key: bytes, purpose: bytes, size: int) -> bytes:
    # The key is uniformly random, so a hash of it is, too (RFC 7693: a person for each use makes it another function).
    return blake2b(key, digest_size=size, person=purpose).digest()
