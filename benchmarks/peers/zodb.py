"""ZODB: a tree of persistent objects in one file, one transaction and one sync for each put.

Small values lie in the leaves of the tree, as one writes it; a large one is a persistent object of its
own, or each put would write its neighbours too.  A connection keeps objects that it has read and hands
them out again, not copies; `refresh` makes it forget them, so that reads read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from BTrees.OOBTree import OOBTree
from persistent import Persistent
from ZODB import DB
from ZODB.FileStorage import FileStorage

from benchmarks.contender import FULL, Mode, Peer


class Box(Persistent):  # type: ignore[misc]
    """A large value."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Tree:
    """A database, a connection to it, and the tree at its root."""

    def __init__(self, path: str) -> None:
        self.database = DB(FileStorage(f"{path}/tree.fs"), large_record_size=1 << 40)  # no warning
        self.connection = self.database.open()
        root = self.connection.root()
        if "tree" not in root:
            root["tree"] = OOBTree()
            self.commit()
        self.tree = root["tree"]

    def commit(self) -> None:
        self.connection.transaction_manager.commit()

    def close(self) -> None:
        self.connection.transaction_manager.abort()
        self.connection.close()
        self.database.close()


def boxed(value: Any) -> Any:
    return value if isinstance(value, dict) else Box(value)


class Zodb(Peer):
    NAME = "ZODB"
    PACKAGE = "ZODB"
    IMPORTS = "ZODB.FileStorage, BTrees.OOBTree"
    MODES: ClassVar = {"default": Mode(FULL, "FileStorage, one commit for each put")}

    def connect(self, path: str, mode: str) -> Tree:
        return Tree(path)

    def refresh(self, store: Tree) -> None:
        store.connection.cacheMinimize()

    def put(self, store: Tree, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            store.tree[key] = boxed(value)
            store.commit()

    def update(self, store: Tree, items: Mapping[str, Any]) -> None:
        for key, value in items.items():
            store.tree[key] = boxed(value)
        store.commit()

    def get(self, store: Tree, keys: Iterable[str]) -> None:
        for key in keys:
            value = store.tree[key]
            if isinstance(value, Box):
                value.value  # noqa: B018  (here it is read)

    def contains(self, store: Tree, keys: Iterable[str]) -> None:
        super().contains(store.tree, keys)

    def items(self, store: Tree) -> None:
        super().items(store.tree)


PEERS = [Zodb()]
