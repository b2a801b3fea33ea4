"""A contender: something that keeps objects on disk, and the modes in which it can be had.

`ours` and `handwritten` are modules with the attributes and functions of `Contender`; the `peers` are
objects that have them.  Each operation does its work for all the keys or items it is given, so that no
call but its own is charged to a contender.  What a contender cannot do, it has no function for.

A mode names how safe an acknowledged write is.  Contenders are compared within a class of safety and
never across two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

FULL = "full"
KILL = "survives a kill"
UNSAFE = "unsafe"
CLASSES = {
    FULL: "every acknowledged write is on the disk: neither a kill nor a power cut loses it",
    KILL: "kill -9 loses nothing that was acknowledged; a power cut may",
    UNSAFE: "a kill may lose what was acknowledged, or the file is mapped for writing, and a stray write of the "
    "process or a power cut damages it",
}


class Mode(NamedTuple):
    """One way to have a contender."""

    safety: str
    """One of `CLASSES`."""
    how: str
    """What one writes to have it so, for the reader of a table."""


class Contender(Protocol):
    """What is compared."""

    NAME: str
    PACKAGE: str
    """The distribution whose version is named; empty for the standard library."""
    IMPORTS: str
    """The modules that one imports to use it."""
    MODES: Mapping[str, Mode]
    """By name; of those in one class the first is the usual one."""
    THREADS: bool
    """Whether several threads may write through one handle."""
    PROCESSES: str
    """Who else may have the store open: "" nobody, "read" other readers, "write" also writers."""

    def connect(self, path: str, mode: str) -> Any:
        """The store in the directory `path`, which exists; it has a `close`."""

    def put(self, store: Any, items: Mapping[str, Any]) -> object:
        """Store them one by one, each acknowledged before the next."""

    def get(self, store: Any, keys: Iterable[str]) -> object:
        """Read them one by one."""


class Peer:
    """What most peers have in common: they look like a dict, and pickle by themselves."""

    NAME: ClassVar[str]
    PACKAGE: ClassVar[str]
    IMPORTS: ClassVar[str]
    MODES: ClassVar[Mapping[str, Mode]]
    THREADS: ClassVar[bool] = False
    PROCESSES: ClassVar[str] = ""

    def put(self, store: Any, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            store[key] = value

    def get(self, store: Any, keys: Iterable[str]) -> None:
        for key in keys:
            store[key]

    def contains(self, store: Any, keys: Iterable[str]) -> None:
        for key in keys:
            key in store  # noqa: B015

    def update(self, store: Any, items: Mapping[str, Any]) -> None:
        """Store them all at once, the fastest way there is."""
        store.update(items)

    def items(self, store: Any) -> None:
        for _key, _value in store.items():
            pass


AnyContender = Contender | ModuleType


class Entry(NamedTuple):
    """A contender in one of its modes."""

    contender: Any
    mode: str

    @property
    def label(self) -> str:
        """What a table calls it: the mode is named where it is not the usual one of its class."""
        name: str = self.contender.NAME
        usual = next(mode for mode, (safety, _) in self.contender.MODES.items() if safety == self.safety)
        return name if usual == self.mode else f"{name}, {self.mode}"

    @property
    def safety(self) -> str:
        return str(self.contender.MODES[self.mode].safety)

    @property
    def large_only(self) -> bool:
        """Whether it is made for few and large values."""
        return bool(getattr(self.contender, "LARGE_ONLY", False))

    def can(self, operation: str) -> bool:
        return hasattr(self.contender, operation)

    def connect(self, path: str) -> Any:
        return self.contender.connect(path, self.mode)


def in_class(contenders: Iterable[Any], safety: str) -> list[Entry]:
    """Each contender in each of its modes of this class."""
    return [
        Entry(contender, mode)
        for contender in contenders
        for mode, (mode_safety, _) in contender.MODES.items()
        if mode_safety == safety
    ]


def fastest(contenders: Iterable[Any]) -> list[Entry]:
    """Each contender once, where safety does not matter: it survives a kill if it can."""
    chosen = []
    for contender in contenders:
        by_class = {mode.safety: name for name, mode in reversed(contender.MODES.items())}
        chosen.append(Entry(contender, by_class.get(KILL) or by_class.get(UNSAFE) or by_class[FULL]))
    return chosen
