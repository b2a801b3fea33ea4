"""Opening and making embedded stores: what becomes of a path, a flag and options."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import lmdb

from objstore.engines.base import DURABILITY_KEY, IDENTITY_KEY
from objstore.engines.lmdb import registry
from objstore.engines.lmdb.datafile import check_whole
from objstore.engines.lmdb.directory import Directory, check_readable
from objstore.engines.lmdb.engine import LEAST_MAP, LmdbEngine, Options
from objstore.engines.lmdb.errors import translated, translated_os
from objstore.errors import ReadOnlyStore, StoreLocked


def open_lmdb(
    path: str,
    flag: str,
    initial: Mapping[bytes, bytes],
    durability: str | None,
    check: Callable[[bytes | None, str], object],
    options: Options,
    user: object = None,
) -> LmdbEngine:
    """The engine of the directory at `path`, made if `flag` allows it, retained for `user`.

    `check(identity, location)` refuses a store that is not what the caller takes it for.
    """
    location = os.path.abspath(path)
    with registry.opening(), translated_os(location):
        registry.close_unused()
        directory_id = registry.directory_id(location)
        if directory_id in registry.claims:
            raise StoreLocked(
                f"this process checks, salvages or makes the store at {location!r}; open it when that is done"
            )
        engine: LmdbEngine | None = registry.engines.get(directory_id)
        if engine is None:
            return _open_first(location, flag, initial, durability, check, options, user)
        engine.retain(user)
        try:
            _check_same(engine, flag, durability, options)
            engine.check_not_replaced()
            check(engine.get(IDENTITY_KEY), location)
        except BaseException:
            engine.release(user)
            raise
        return engine


@contextmanager
def take(path: str) -> Iterator[Directory]:
    """The directory of a store that nobody has open, while nobody can.

    Raises StoreNotFound, StoreDenied, StoreLocked; ReadOnlyStore where this process cannot lock it.
    """
    location = os.path.abspath(path)
    directory = Directory(location, private=True, max_readers=0)
    with registry.claimed(location):
        try:
            with translated_os(location):
                directory.take()
            yield directory
        finally:
            directory.close()


def _open_first(
    location: str,
    flag: str,
    initial: Mapping[bytes, bytes],
    durability: str | None,
    check: Callable[[bytes | None, str], object],
    options: Options,
    user: object,
) -> LmdbEngine:
    """Open it, and enter it among the engines of this process.

    What is opened belongs at once to something that exists already, so that whoever is interrupted can close it.
    """
    directory = None
    if not options.immutable:
        directory = Directory(location, options.private, options.max_readers, options.disposable)
    engine = LmdbEngine(location, directory, options, check)

    wanted = {} if durability is None else {DURABILITY_KEY: durability.encode()}

    def make(path: str) -> None:
        _make_environment(path, {DURABILITY_KEY: b"full", **initial, **wanted}, options)

    try:
        if directory is not None:
            directory.open(flag, make, _is_store, network=options.network)
        elif flag != "r":
            raise ValueError("immutable=True is for reading; open with flag 'r'")
        else:
            check_readable(location, options.private)
        engine.open(durability, flag)
        engine.was_emptied = directory is not None and directory.was_emptied
        engine.retain(user)
        engine.directory_id = registry.directory_id(location)
        registry.engines[engine.directory_id] = engine
    except BaseException:
        engine.abandon()
        raise
    return engine


def _check_same(engine: LmdbEngine, flag: str, durability: str | None, options: Options) -> None:
    """All handles of a process share one environment, so they must agree on how it is opened."""
    where = f"the store at {engine.location!r} is open in this process"
    if flag == "n":
        raise StoreLocked(f"{where}, and flag 'n' would replace it; close it first")
    if durability not in (None, engine.durability):
        raise StoreLocked(f"{where} with durability {engine.durability!r}; close it first, or leave durability out")
    for name in ("map_size", "max_readers", "immutable", "readahead"):
        mine, theirs = getattr(options, name), getattr(engine.options, name)
        left_out = name != "immutable" and mine == Options._field_defaults[name]
        if mine != theirs and not left_out:
            raise StoreLocked(f"{where} with {name}={theirs!r}; close it first, or leave {name} out")
    if flag != "r" and engine.read_only:
        raise ReadOnlyStore(f"{where}, which can only read it; open it with flag 'r', or close it and mend permissions")


def _make_environment(path: str, initial: Mapping[bytes, bytes], options: Options) -> None:
    mode = 0o600 if options.private else 0o666
    with translated(os.path.dirname(path), path):
        # Without a lock file: nobody else is here, and the directory makes one that a full disk cannot harm.
        environment = lmdb.open(os.fsencode(path), map_size=LEAST_MAP, mode=mode, lock=False, lib_version=0)
        try:
            with environment.begin(write=True) as txn:
                for key, record in initial.items():
                    txn.put(key, record)
        finally:
            environment.close()


def _is_store(path: str) -> bool:
    """Whether an environment that nobody vouches for is one of ours.  Leaves no trace in the directory."""
    check_whole(path)
    with translated(path):
        environment = lmdb.open(os.fsencode(path), readonly=True, lock=False, create=False, lib_version=0)
        try:
            return environment.begin().get(DURABILITY_KEY) is not None
        finally:
            environment.close()
