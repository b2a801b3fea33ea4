"""All contenders: objstore first, then what one writes by hand, then the peers that are installed."""

from __future__ import annotations

from typing import Any

from benchmarks import handwritten, ours, peers


def contenders() -> tuple[list[Any], dict[str, str]]:
    """The contenders, and of those that are not installed why."""
    found, absent = peers.installed()
    return [ours, handwritten, *found], absent


def named(name: str) -> Any:
    """One of them by its name, without importing the others: how a process of its own is told whom to use."""
    for contender in (ours, handwritten):
        if name == contender.NAME:
            return contender
    return peers.named(name)
