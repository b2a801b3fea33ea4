"""What a shell completes: directories, and the keys, namespaces and tags of a store that is named already.

Who presses Tab waits: so only so many records are looked at, by a seek to where they begin; nothing is decoded, and no
server is asked.  What cannot be opened completes to nothing, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import click
from click.shell_completion import CompletionItem

from objstore import Store, StoreError
from objstore.cli.literals import literal, written
from objstore.cli.opening import open_any

_MOST = 100  # are offered
_LOOKED_AT = 1000
_QUOTES = ("'", '"')


def complete_directories(_ctx: click.Context, _param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Directories: the shell knows them."""
    return [CompletionItem(begun, type="dir")]


def complete_keys(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Keys that begin so, as they are written on a command line."""

    def keys(store: Store[Any, Any]) -> Iterator[str]:
        prefixes = [begun, _elements(begun)] if begun.startswith("(") else [begun]
        places: list[Iterable[Any]] = [*(store.range(prefix=prefix) for prefix in prefixes), store]
        seen = chain.from_iterable(islice(place, _LOOKED_AT) for place in places)
        return map(written if begun[:1] in _QUOTES else _unquoted, seen)

    return _offered(ctx, begun, keys, ctx.params.get("namespace"))


def complete_namespaces(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Namespaces that begin so."""
    return _offered(ctx, begun, lambda store: store.namespaces())


def complete_tags(ctx: click.Context, _param: click.Parameter, begun: str) -> list[str]:
    """Tags of the first entries; no store keeps a list of all."""

    def tags(store: Store[Any, Any]) -> Iterator[str]:
        return chain.from_iterable(entry.tags for entry in islice(store.entries(), _LOOKED_AT))

    return _offered(ctx, begun, tags, ctx.params.get("namespace"))


def _offered(ctx: click.Context, begun: str, find: Any, namespace: str | None = None) -> list[str]:
    # After an option that still lacks its value, click has read no further, and left the rest as it was.
    location = ctx.params.get("store") or next(iter(ctx.args), "")
    if "://" in location or location.startswith("memory:"):
        return []
    try:
        with open_any(location, "r") as store:
            return _first(find(store if namespace is None else store.namespace(namespace)), begun)
    except (StoreError, TypeError, ValueError):
        return []


def _first(found: Iterable[str], begun: str) -> list[str]:
    """The first that are what is begun and can be typed, each once, in their order."""
    fitting = (text for text in found if text.startswith(begun) and text.isprintable())
    return list(islice(dict.fromkeys(fitting), _MOST))


def _unquoted(key: Any) -> str:
    """A key as one would type it: text is without quotes where nothing else looks so."""
    return key if isinstance(key, str) and literal(key) == key else written(key)


def _elements(begun: str) -> Any:
    """The elements of a tuple that are written out in its beginning; `("user", 4` has one."""
    elements = literal(begun[: begun.rfind(",") + 1] + ")")
    return elements if isinstance(elements, tuple) else ()
