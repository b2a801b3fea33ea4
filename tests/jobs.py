"""Jobs for `computing`: results are bytes of an engine, and each computation leaves a line in a file.

Programs of their own import this, too, from the directory of the tests.
"""

from __future__ import annotations

import os
import pickle
from time import monotonic as now

from objstore.engines.base import put

STORED = b"\x10stored "
LEFT = b"\x10left "


class Job:
    """Computes `make()` for a name; `stores` is False where what comes of it is not stored."""

    def __init__(self, engine, name, make, stores=True):
        self.name = name.encode()
        self.make = make
        self.stores = stores
        self._engine = engine

    def look(self):
        stored = self._engine.get(STORED + self.name)
        if stored is None:
            raise KeyError(self.name)
        return pickle.loads(stored)

    def keep(self, result):
        if self.stores:
            self._engine.transact(put, STORED + self.name, pickle.dumps(result))
        return self.stores

    def leave(self, result, error):
        self._engine.transact(put, LEFT + self.name, pickle.dumps((now(), result, error)))

    def left(self, since):
        found = self._engine.get(LEFT + self.name)
        moment, *left = pickle.loads(found) if found else (0.0,)
        return tuple(left) if moment >= since and left else None


class Journal:
    """A file to which each process appends lines."""

    def __init__(self, path):
        self._path = str(path)

    def add(self, line):
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    def lines(self):
        try:
            with open(self._path) as file:
                return file.read().split()
        except FileNotFoundError:
            return []
