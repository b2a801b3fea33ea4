"""The door to redis-py and valkey-py, which speak the same protocol and have the same names.

Of them this takes connections (sockets, TLS, who one is), the reading of answers, and the errors.  Where a command goes
and what is done about an error stands in `routing`: the clients of these packages repeat what must not be repeated,
and give up in the middle of a failover.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from objstore.engines.redis.location import Address, Location

Command = Sequence[bytes]

# Seconds to wait for a connection, and for the next bytes of an answer: short, so that a server that is frozen is
# noticed before its replica has taken over.
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 2.0

# And for a large command so many more as it takes to do it at this rate.
_BYTES_PER_SECOND = 20 << 20
_LARGE = 1 << 20

_PACKED_AT_ONCE = 1 << 16


class Driver:
    """One of the two packages, and how to connect to the servers of a location."""

    def __init__(self, location: Location) -> None:
        module = _module(location)
        self.errors: Any = module.exceptions
        root = getattr(module.exceptions, "RedisError", None) or module.exceptions.ValkeyError
        self.failures: tuple[type[Exception], ...] = (root, OSError)
        """All that can go wrong on the way to a server and back."""
        self._most_seconds = location.timeout
        self._kind = module.connection.SSLConnection if location.tls else module.connection.Connection
        # The server's time for an answer is within the time of the whole operation.
        self._options: dict[str, Any] = {
            "username": location.user,
            "password": location.password,
            "protocol": 2,
            "socket_connect_timeout": min(CONNECT_SECONDS, location.timeout),
            "socket_timeout": min(ANSWER_SECONDS, location.timeout),
            "socket_keepalive": True,
        }
        if location.tls:
            self._options |= {
                "ssl_ca_certs": location.ca,
                "ssl_cert_reqs": "required" if location.verify else "none",
                "ssl_check_hostname": location.verify,
            }
        self.slot_of = module.crc.key_slot

    def connect(self, address: Address) -> Any:
        """A connection, connected.  Raises what the package raises: then nothing was sent but who one is."""
        connection = self._kind(host=address[0], port=address[1], **self._options)
        connection.connect()
        return connection

    def await_answer(self, connection: Any, size: int) -> None:
        """Wait longer than for other answers where the command was large.  Raises what the package raises."""
        if size >= _LARGE:
            connection.can_read(timeout=min(ANSWER_SECONDS + size / _BYTES_PER_SECOND, self._most_seconds))


def _module(location: Location) -> ModuleType:
    """The package that the scheme names, or the other one."""
    missing: ModuleNotFoundError | None = None
    for load in (_valkey, _redis) if location.scheme.startswith("valkey") else (_redis, _valkey):
        try:
            return load()
        except ModuleNotFoundError as exc:
            missing = missing or exc
    assert missing is not None
    raise ModuleNotFoundError(
        f"{location.scheme}:// needs the package redis or valkey: pip install redis", name=missing.name
    ) from missing


def _redis() -> ModuleType:
    import redis
    import redis.crc

    return redis


def _valkey() -> ModuleType:
    import valkey
    import valkey.crc

    return valkey


def pack(command: Command) -> list[bytes | memoryview]:
    """A command as it goes over the wire: a list of texts with their lengths (RESP, "requests").

    Large ones stand by themselves, so that they are not copied, and in pieces, because each has a time to be sent in.
    """
    parts: list[bytes | memoryview] = []
    text = b"*%d\r\n" % len(command)
    for each in command:
        if len(each) < _PACKED_AT_ONCE:
            text += b"$%d\r\n%b\r\n" % (len(each), each)
        else:
            whole = memoryview(each)
            parts.append(text + b"$%d\r\n" % len(each))
            parts += (whole[at : at + _LARGE] for at in range(0, len(each), _LARGE))
            text = b"\r\n"
    parts.append(text)
    return parts
