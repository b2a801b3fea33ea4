"""The location of a store on servers: what its URL says.

    redis://[user[:password]@]host[:port][,host[:port]...]/name[?option=value&...]

`rediss` and `valkeys` are the same through TLS; `valkey` and `redis` differ only in which of the two client packages is
taken where both are installed.  The hosts are those one asks first; the others of a cluster are found by asking.
`name` is that of the store: many may share the servers.

A password is a secret: it may stand in the URL that a program opens, and is then never shown, pickled or said in an
error.  `$NAME` in its place is the name of an environment variable that holds it; that is shown and pickled.  Where
there is neither, OBJSTORE_REDIS_PASSWORD is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

_PASSWORD_VARIABLE = "OBJSTORE_REDIS_PASSWORD"  # noqa: S105  (its name)
_HIDDEN = "***"
_PORT = 6379

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::(\d+))?|([^:\[\]/?#@,\s]+)(?::(\d+))?")

Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True)
class Location:
    """Where a store is on servers, and how to get there."""

    text: str
    """The URL without the password."""
    scheme: str
    addresses: tuple[Address, ...]
    name: str
    user: str | None
    password: str | None = field(repr=False)
    timeout: float
    """Seconds that an operation may take in all, with everything that is tried again."""
    buckets: int | None
    """Into how many parts the keys are divided; None is what is recorded, or 256."""
    index: bool | None
    """Whether the keys are kept in order, too; None is what is recorded, or what suits the kind of the store."""
    replicas: int
    """How many must acknowledge a write with durability "replicated"."""
    ca: str | None
    verify: bool

    @property
    def tls(self) -> bool:
        return self.scheme in ("rediss", "valkeys")


def parse(url: str) -> Location:
    """What a URL says.  Raises ValueError for what makes no sense, and never repeats a password."""
    scheme, _, rest = url.partition("://")
    credentials, has_credentials, rest = rest.rpartition("@")  # first: nothing before it may be shown by mistake
    rest, _, query = rest.partition("?")
    hosts, _, path = rest.partition("/")
    user, has_password, password = credentials.partition(":")
    shown = f"{scheme}://{quote(unquote(user))}{':' + _shown(password) if has_password else ''}{has_credentials}{hosts}"
    shown += f"/{path}" + (f"?{query}" if query else "")
    if not _NAME.fullmatch(path):
        raise ValueError(
            f"{shown!r} does not name a store; write {scheme}://host:port/name, a name of up to 100 letters, digits, "
            f"dots, dashes and underscores"
        )
    return Location(
        text=shown,
        scheme=scheme,
        addresses=tuple(_address(host, shown) for host in hosts.split(",")),
        name=path,
        user=unquote(user) or None,
        password=_secret(password, shown),
        **_options(query, shown),
    )


def _shown(password: str) -> str:
    return password if password.startswith("$") else _HIDDEN


def _secret(password: str, shown: str) -> str | None:
    if password.startswith("$"):
        found = os.environ.get(password[1:])
        if found is None:
            raise ValueError(f"{shown!r} takes its password from {password[1:]}, and no such variable is set")
        return found
    if password and password != _HIDDEN:
        return unquote(password)
    found = os.environ.get(_PASSWORD_VARIABLE)
    if password and found is None:
        raise ValueError(
            f"the password of {shown!r} is not kept where the location is shown or pickled; give it again, set "
            f"{_PASSWORD_VARIABLE}, or write $NAME in its place for an environment variable of that name"
        )
    return found


def _address(text: str, shown: str) -> Address:
    found = _HOST.fullmatch(text)
    port = int((found and (found[2] or found[4])) or _PORT)
    if not found or not 0 < port < 1 << 16:
        raise ValueError(f"{text!r} in {shown!r} is no host and port; write host:port, several with commas between")
    return unquote(found[1] or found[3]), port


def _yes(text: str) -> bool:
    return {"yes": True, "no": False}[text]


def _number(least: float, most: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return read


_READ: dict[str, tuple[Callable[[str], Any], Any, str]] = {
    "timeout": (_number(0.1, 3600, float), 30.0, "seconds, from 0.1 to 3600"),
    "buckets": (_number(1, 16384, int), None, "a number from 1 to 16384"),
    "index": (_yes, None, "yes or no"),
    "replicas": (_number(1, 100, int), 1, "a number from 1 to 100"),
    "ca": (str, None, "the path of a file"),
    "verify": (_yes, True, "yes or no"),
}


def _options(query: str, shown: str) -> dict[str, Any]:
    options = {name: default for name, (_, default, _) in _READ.items()}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _READ:
            raise ValueError(f"{shown!r} has an option {name!r}; those that there are: {', '.join(_READ)}")
        read, _, allowed = _READ[name]
        try:
            options[name] = read(text)
        except (ValueError, KeyError):
            raise ValueError(f"{name}={text} in {shown!r} should be {allowed}") from None
    return options
