"""Store: the mapping on disk.

What a store can do is in `mapping`.  This room is about the handle: opening and closing, flags and
options, pickling, namespaces, and beginning snapshots and transactions.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Self, TypeVar
from warnings import warn

from objstore import identity
from objstore.checking import CheckReport, check_engine, require_whole
from objstore.codecs.base import Codec
from objstore.codecs.compression import Compression, compression_of
from objstore.codecs.keyring import KeyOption, keys_of, portable
from objstore.codecs.pickling import Pickle
from objstore.codecs.sealing import sealing_of
from objstore.codecs.table import codec_of
from objstore.engines import connect, name_on_servers, path_of
from objstore.engines.base import IDENTITY_KEY, Activity, Disposable, Engine, Held, Progress, Reader, Stored, Writer
from objstore.errors import ReadOnlyStore, StoreClosed, UnsealedWarning, UnsupportedOperation
from objstore.mapping import DEFAULT, TTL, pairs
from objstore.memoize import Computing
from objstore.record import LARGE, PLAIN
from objstore.rekeying import RekeyReport, rekey
from objstore.sharding import ShardedSpace
from objstore.space import (
    INITIAL_STATE,
    NO_BOOKS,
    STATE_KEY,
    Space,
    check_name,
    check_tags,
    namespace_names,
)
from objstore.transaction import Snapshot, Transaction, Unit

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


@dataclass(frozen=True)
class Stats:
    """Figures of a store."""

    entries: int
    """Items of this namespace."""
    namespaces: int
    """Namespaces in use, the default one not counted."""
    file_bytes: int
    """Bytes on disk, free pages among them."""
    free_bytes: int
    """Bytes in free pages: the next writes use them, and `compact` gives them back."""
    map_bytes: int
    """Bytes of address space that are reserved."""
    readers: int
    """Reader slots taken, in all processes."""
    reading: tuple[Activity, ...]
    """Who reads, in all processes, the oldest state first: `process`, `age` (seconds, if known), `behind` (commits)."""
    writing: Activity | None
    """Who has the write transaction, where somebody has and the system can tell."""
    held: tuple[Held, ...]
    """The states that this process holds, oldest first, with `age` (seconds) and `bytes` (shown without a copy)."""
    durability: str
    """What a write waits for: "full", "relaxed", "process", or on servers "replicated"."""
    id: str
    """What names this store and no other."""
    codec: str
    """The name of its codec; a namespace may have another."""
    sealing: str | None
    """"signed", "encrypted", or None."""
    key: str | None
    """The id of the key with which it is sealed: of the newest one when it was made, or last rekeyed."""
    created: str
    """When it was made, ISO 8601, UTC."""
    format: int
    """The version of the format on disk."""


class Store(Computing[K, V]):
    """A dictionary on disk: ordered, transactional, safe between threads and processes.

    * `location`: a path, or a URL: `lmdb:///absolute/path`, `memory://` (new each time), `memory://name`, or on servers
      `redis://host:port/name`, also `rediss`, `valkey` and `valkeys` (see docs/servers.md, which says what differs).
    * `flag`: "r" read, "w" must exist, "c" create if missing, "n" always new and empty.
    * `codec`: how values become bytes: "pickle", which runs code that is stored; "msgpack", "json" and "bytes", which
      do not; one of these with options (`Pickle`, `Msgpack`, `Json`), or your own (see `Codec`). None for what is
      recorded, which is "pickle" in a new store. Name a codec that runs no code where others could write the store.
    * `compression`: "zstd", "lz4", "zlib" or a `Compression`, for what this handle writes, where it makes it smaller.
    * `signing_key`, `encryption_key`: at least 32 secret random bytes, the name of an environment variable that holds
      them in hexadecimal digits, or a list of such, newest first. A store that was made with one takes only records
      that were sealed with it, for their key, namespace and store. None is what OBJSTORE_SIGNING_KEY and
      OBJSTORE_ENCRYPTION_KEY say; False is none. Without its key, a sealed store can be listed, checked and backed up,
      and no value read or written.
    * `durability`: "full", "relaxed" or "process", for all who have the store open; None for what is recorded, which is
      "full" in a new store. On servers "process" or "replicated", of this handle; a new store there is "process".
    * `map_size`: bytes the store may grow to; None reserves what the file system could ever hold.
    * `max_readers`: transactions that may read at the same time, in all processes.
    * `permissions`: "private" makes files for the owner alone and refuses a directory or files that others own or can
      write; "umask" leaves both to the user.
    * `immutable`: read without a lock file, from media that nobody writes to.
    * `network`: True allows a file system of a network or a cluster (told on Linux alone), which is refused because
      LMDB's locks and maps end at the host: only one host may ever have the store open.
    * `readahead`: False where the data is much larger than memory and read at random.
    * `clock`: a function that gives seconds since 1970; expiry goes by it.

    Raises StoreNotFound, StoreExists, StoreDenied, StoreCorrupt, StoreSuspect, StoreLocked; WrongKind where there is a
    `Cache`; StoreError where the store has another codec or a later format; BadSignature where it is not sealed with a
    key that was given; EngineUnavailable where no server answers; ValueError and TypeError for arguments that make no
    sense; ModuleNotFoundError for an option whose package is not installed.
    """

    _kind: ClassVar[str] = "Store"

    def __init__(
        self,
        location: str | os.PathLike[str],
        flag: str = "c",
        *,
        codec: Codec | str | None = None,
        compression: Compression | str | None = None,
        signing_key: KeyOption = None,
        encryption_key: KeyOption = None,
        durability: str | None = None,
        map_size: int | None = None,
        max_readers: int = 1024,
        permissions: str = "private",
        immutable: bool = False,
        network: bool = False,
        readahead: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        given = None if codec is None else codec_of(codec)
        smaller = compression_of(compression)
        keys = keys_of(signing_key, encryption_key)
        if permissions not in ("private", "umask"):
            raise ValueError(f"permissions is 'private' or 'umask', not {permissions!r}")
        if map_size is not None and not (isinstance(map_size, int) and 1 << 16 <= map_size <= 1 << 46):
            raise ValueError(f"map_size is a number of bytes from 64 KiB to 64 TiB, not {map_size!r}")
        if not (isinstance(max_readers, int) and 1 <= max_readers <= 1 << 20):
            raise ValueError(f"max_readers is a number from 1 to a million, not {max_readers!r}")
        its_name = name_on_servers(location) if self._evictable else None
        new = identity.new(self._kind, "pickle" if given is None else given.name, keys, its_name)
        options: dict[str, Any] = {
            "map_size": map_size,
            "max_readers": max_readers,
            "private": permissions == "private",
            "immutable": immutable,
            "network": network,
            "readahead": readahead,
            "disposable": self._disposable and self._disposable._replace(seal=identity.seal_name(new, keys)),
        }
        # What makes no sense, or is not installed, is found before anything is made.
        Space("", given or codec_of(new.codec), sealing=sealing_of(new.sealing, keys, new.id))
        self._check = partial(identity.check, kind=self._kind, codec=given, keys=keys)
        initial = {IDENTITY_KEY: identity.pack(new, keys), **self._initial()}
        engine = connect(location, flag, initial, durability, self._check, self, self._evictable, **options)
        # Once more, for what is believed from now on: somebody may have changed it since it was looked at.
        self._identity = self._check(engine.get(IDENTITY_KEY), engine.location)
        self._keys = keys
        space = self._kind_of_space(engine)(
            "",
            given or codec_of(self._identity.codec),
            clock,
            compression=smaller,
            sealing=sealing_of(self._identity.sealing, keys, self._identity.id),
        )
        # For pickles: what is of the handle.  Durability is of the store, and may have changed on the way.
        self._arguments: dict[str, Any] = {
            "codec": given,
            "compression": smaller,
            "signing_key": portable(signing_key),
            "encryption_key": portable(encryption_key),
            "map_size": map_size,
            "max_readers": max_readers,
            "permissions": permissions,
            "immutable": immutable,
            "network": network,
            "readahead": readahead,
            "clock": clock,
        }
        self._attach(engine, space, read_only=flag == "r")
        if engine.is_shared and space.seal is None and _trusts_everybody(space.codec):
            _warn_of_pickles(engine.location, 3 + self._evictable)  # a Cache is one call further from its caller

    _evictable: ClassVar[bool] = False  # whether servers may drop what is in it
    _disposable: Disposable | None = None  # whether it may begin empty where it is suspect

    def _kind_of_space(self, engine: Engine) -> type[Space]:
        return Space if "transaction" in engine.capabilities else ShardedSpace

    def _initial(self) -> dict[bytes, bytes]:
        """What a new store begins with, but for its identity."""
        return INITIAL_STATE

    def _attach(self, engine: Engine, space: Space, read_only: bool) -> None:
        """Become a handle of an engine, which was retained for it."""
        self._engine = engine
        self._space = space
        self._read_only = read_only or engine.read_only
        self._children: list[weakref.ref[Store[Any, Any]]] = []
        # The hot path, without a stop on the way.
        self._find_by(engine.get)
        self._record = engine.get  # type: ignore[method-assign,assignment]
        self._there = engine.contains  # type: ignore[method-assign,assignment]
        self._keeps_no_books = not space.prefix and self._default_ttl is None
        if isinstance(space, ShardedSpace):
            self._there = partial(_is_there, engine, space)  # type: ignore[method-assign]
            self._keeps_no_books = False  # the engine does, which is told of all that is to be kept
        refuse: Any = partial(_refuse, engine.location)
        self._write: Callable[[], Writer] = refuse if self._read_only else engine.write
        self._apply_by(refuse if self._read_only else engine.transact)
        self._put_beside: Callable[..., bool] = refuse if self._read_only else engine.put_beside
        self._compact: Callable[..., None] = refuse if self._read_only else engine.compact

    def _apply_by(self, transact: Callable[..., Any]) -> None:
        self._apply = transact  # type: ignore[method-assign]

    def _find_by(self, get: Callable[[bytes], Stored | None]) -> None:
        self._find = get  # type: ignore[method-assign,assignment]

    # The handle

    @property
    def location(self) -> str:
        """Where the store is: an absolute path, or the URL of a store in memory."""
        return self._engine.location

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return isinstance(self._engine, _Closed)

    def close(self) -> None:
        """Close this handle and those of its namespaces; again does no harm.

        The files are closed with the last handle of the process, and not before a check, a backup or a compaction of
        another thread has ended.
        """
        if self.closed:
            return
        for child in self._children:
            if (store := child()) is not None:
                store.close()
        engine: Engine = self._engine
        closed: Any = _Closed(self.location)
        self._engine = closed
        self._find = self._record = self._there = closed.refuse  # type: ignore[method-assign]
        self._apply_by(closed.refuse)
        self._write = self._put_beside = self._compact = closed.refuse
        engine.release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        name = f", namespace {self._space.name!r}" if self._space.name else ""
        state = "closed" if self.closed else f"{len(self)} items"
        return f"<{self._kind} {self.location!r}{name}, {state}>"

    def __reduce__(self) -> Any:
        if self.closed:
            raise StoreClosed(f"{self!r} cannot be pickled; open it again, or pickle its path")
        if self._engine.name == "memory":
            raise TypeError(f"{self!r} cannot be pickled: it lives in this process; use a path to share a store")
        flag = "r" if self._read_only else "w"
        codec = self._space.codec if self._space.name else None
        return _reopen, (type(self), self.location, flag, self._arguments, self._space.name, codec)

    def supports(self, operation: str) -> bool:
        """Whether the engine can do this: "ordered", "batches", "transaction", "snapshot", "view"."""
        return operation in self._engine.capabilities

    def _require_order(self) -> None:
        self._require("ordered", "its keys have no index, as those of a Cache have not; make it with ?index=yes")

    def _require(self, operation: str, hint: str) -> None:
        if not self.supports(operation):
            raise UnsupportedOperation(operation, self._engine.name, hint)

    def _reader(self, views: bool = False) -> Reader:
        reader = self._engine.read(views)
        reader.keeper = self  # an iteration keeps the store open that nobody else remembers
        return reader

    def _unusual(self, key: K, tree_key: bytes, found: Stored | None) -> Any:
        if (
            isinstance(found, bytes)
            and len(found) >= LARGE
            and found[0] != PLAIN
            and self._space.seal is None
            and self.supports("view")
        ):
            # Large buffers: the next record is likely to have some, too.
            self._find_by(partial(_find_large, weakref.ref(self), self._engine))
        return self._space.unusual_value(key, tree_key, found)

    def __setitem__(self, key: K, value: V) -> None:
        if not self._keeps_no_books:
            super().__setitem__(key, value)
            return
        tree_key, packed = self._space.pack(key, value)
        # What `Space.put` comes to while nothing in the store has an expiry or tags, in one call of the engine.
        if not self._put_beside(tree_key, packed, STATE_KEY, NO_BOOKS):
            self._keeps_no_books = False  # and never again
            self._apply(self._space.put, tree_key, packed)

    # Consistent states and units of work

    def snapshot(self, *, verify: bool = False) -> Snapshot[K, V]:
        """The store at this point in time, for reading: `with store.snapshot() as snap:`.

        Large buffers in its values (NumPy arrays and the like, 64 KiB and more) are read-only views, found without
        a copy; with `verify` their digests are verified, too, which reads them once.

        Raises UnsupportedOperation where the engine has no snapshots.
        """
        self._require("snapshot", "read the keys one by one")
        reader = self._engine.snapshot()
        reader.keeper = self  # a snapshot keeps the store open that nobody else remembers
        space = self._space.viewing(verify)
        space.freeze()
        return Snapshot(space, reader)

    def view(self, key: K, *, verify: bool = False) -> V:
        """The value of `key`, where large buffers (NumPy arrays and the like, 64 KiB and more) are not copied.

        They are read-only views of the store as it is now, found at a cost that does not depend on their size, and
        valid for as long as they are referenced, whatever is written or closed. So long the store keeps the whole
        state they belong to, and grows (see `stats`), and the process keeps the store open. Everything else in the
        value is a verified copy; with `verify` the views are verified, too, which reads them once.

        Where the process has too few addresses to map the whole file, or no file descriptor left (a state that is
        viewed takes one), the buffers are verified copies, read-only as well.

        Raises KeyError, CorruptRecord, DecodeError; UnsupportedOperation where the engine has no memory to show.
        """
        self._require("view", "use store[key], which gives a copy")
        tree_key = self._space.tree_key(key)
        return self._space.viewing(verify).value(key, tree_key, self._engine.view(tree_key))  # type: ignore[no-any-return]

    def transaction(self) -> Transaction[K, V]:
        """A unit of work, applied as a whole or not at all: `with store.transaction() as txn:`.

        To enter it raises TransactionError where this thread has one open, and ReadOnlyStore. Raises
        UnsupportedOperation where the engine has no transactions.
        """
        self._require("transaction", "use compare_and_set, modify or edit on single keys")
        # The function remembers the store, which nobody else may do before the transaction is entered.
        return Transaction(self._space, Unit(lambda: self._write(), self._engine), self._default_ttl)

    @contextmanager
    def edit(self, key: K, *, default: Any = DEFAULT, default_factory: Callable[[], V] | None = None) -> Iterator[V]:
        """The value of `key`, to be changed in place: written back when the `with` block ends.

        Other writers wait meanwhile.  Nothing is written if the block raises.  An absent key is taken for
        `default` or what `default_factory()` gives; without them it raises KeyError.  Expiry and tags stay.

        Raises TypeError for a value that cannot change in place.
        """
        if not self.supports("transaction"):
            with super().edit(key, default=default, default_factory=default_factory) as value:
                yield value
            return
        with self.transaction() as txn, txn.edit(key, default=default, default_factory=default_factory) as value:
            yield value

    # Much at once

    def load(
        self,
        items: Any,
        *,
        batch_bytes: int = 64 << 20,
        ttl: TTL = DEFAULT,
        tags: Iterable[str] = (),
        progress: Callable[[int, int | None], object] | None = None,
    ) -> int:
        """Store any number of items (a mapping, or an iterable of pairs) in bounded memory; how many.

        Records are gathered up to `batch_bytes` (64 MiB) and each batch is one transaction: what was stored before
        an error stays.  `ttl` and `tags` are for all of them, as in `set`.  `progress(done, total)` is called after
        each batch with the items done and, where the source has a length, their number, else None.

        Raises EncodeError for a value that cannot be encoded, and what the iterable raises.
        """
        total = len(items) if hasattr(items, "__len__") else None
        expires, labels = self._expires_at(ttl), check_tags(tags)
        done = size = 0
        batch: list[tuple[bytes, bytes]] = []
        each = chain.from_iterable(self._space.pack_many((item,), expires, labels) for item in pairs(items))
        for packed in chain(each, (None,)):
            if packed is not None:
                batch.append(packed)
                size += len(packed[0]) + len(packed[1])
            if batch and (packed is None or size >= batch_bytes):
                self._apply(self._space.put_many, batch, expires, labels)
                done += len(batch)
                batch, size = [], 0
                if progress:
                    progress(done, total)
        return done

    # Namespaces

    def namespace(self, name: str, *, codec: Codec | str | None = None) -> Store[Any, Any]:
        """A mapping of its own in the same store, with its own keys; it comes into being with its first item.

        `codec` is how its values become bytes; None for what is recorded of it, or else the codec of the store. One
        that is another than the store's is recorded at once.

        Raises ValueError for a name that is empty, too long, or reserved; StoreError where its codec is another one, or
        one that is not taken on trust: it runs code, and the store's does not, or it is somebody's own.
        """
        space = self._space.sibling(name, self._reader(), codec)
        if space.has_own_codec and not self._read_only:
            self._apply(space.declare)
        return self._handle_of(space)

    def _handle_of(self, space: Space) -> Self:
        """A handle of another namespace, which is closed with this one."""
        store = object.__new__(type(self))
        store._of_handle(self)
        self._engine.retain(store)
        store._attach(self._engine, space, self._read_only)
        self._children = [child for child in self._children if child() is not None]
        self._children.append(weakref.ref(store))
        return store

    def _belonging(self, what: str) -> Self:
        return self._handle_of(self._space.belonging(what))

    def _of_handle(self, other: Store[Any, Any]) -> None:
        """Take over what another handle of the same store was given."""
        self._identity, self._keys, self._check = other._identity, other._keys, other._check
        self._arguments = other._arguments

    def namespaces(self) -> list[str]:
        """The names of the namespaces that were written to and not dropped since."""
        return namespace_names(self._reader())

    def drop_namespace(self, name: str) -> None:
        """Empty a namespace and forget it, for every process.  What writes to it later makes it anew.

        Raises ValueError for what cannot be the name of one; one that is not there does no harm.
        """
        self._apply(self._space.sibling(check_name(name)).drop, self._space.now())

    # Care

    def check(self, *, progress: Progress | None = None) -> CheckReport:
        """Check the last committed state: the structure of the file, every record, and the counts and indexes.

        A process of its own does that, while everybody reads and writes on.  Nothing is decoded; where the store is
        sealed, and this handle has a key, every seal is verified.  `progress(done, total)` is called with pages.  For
        stores that cannot be opened there is `objstore.check`.

        Raises StoreError where no process can be started.
        """
        return check_engine(self._engine, progress, self._keys)

    def backup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
        """Write the last committed state into a new directory, while everybody reads and writes on.

        The backup is a store of its own, without free pages, checked, and on the disk when this returns.
        `progress(done, total)` is called with pages, written and checked.

        Raises StoreExists where something is at `path`, StoreCorrupt where this store is damaged, StoreFull,
        StoreLocked where another process makes a store there, StoreError where no process can be started: then
        nothing is left there. Raises UnsupportedOperation where the engine has no files.
        """
        self._require("backup", "copy it into a store with a path: objstore.copy(store, path)")
        self._engine.backup(path_of(path), require_whole, progress)

    def compact(self, *, progress: Progress | None = None) -> None:
        """Give free pages back to the disk, in place.  It needs room for a copy, which is checked first.

        Others in this process wait.  `progress(done, total)` is called with pages, written and checked.

        Raises StoreLocked where another process has the store open, or this one has snapshots or iterations;
        TransactionError where it has a transaction; StoreCorrupt where the store is damaged, StoreFull: then nothing
        has changed. Raises UnsupportedOperation where the engine has no files.
        """
        self._require("compact", "memory is given back by itself")
        self._compact(require_whole, progress)

    def rekey(self, *, progress: Progress | None = None) -> RekeyReport:
        """Seal every record of a sealed store with the newest of its keys, in all namespaces, while others go on.

        Open the store with the new key first and the older ones behind it, here and in every other process; then
        rekey; then forget the older ones, if the report says that none is `needed`. It works in batches, and what was
        interrupted is begun again where it was. `progress(done, total)` is called with records.

        Raises StoreError where the store is not sealed, or this handle has no key.
        """
        return rekey(self._engine, self._apply, self._space, self._identity, self._keys, progress)

    def sync(self) -> None:
        """Force to the disk what was committed: of use where durability is not "full"."""
        self._engine.sync()

    def stats(self) -> Stats:
        """Figures of this store."""
        figures = self._engine.stats()
        stored = self._engine.get(IDENTITY_KEY)
        is_evicted = stored is None and self._evictable and self._engine.is_shared
        what = self._identity if is_evicted else self._check(stored, self.location)
        return Stats(
            entries=len(self),
            namespaces=len(self.namespaces()),
            file_bytes=figures.get("file_bytes", 0),
            free_bytes=figures.get("free_bytes", 0),
            map_bytes=figures.get("map_bytes", 0),
            readers=figures.get("readers", 0),
            reading=self._engine.reading(),
            writing=self._engine.writing(),
            held=self._engine.held(),
            durability=self._engine.durability,
            id=what.id,
            codec=what.codec,
            sealing=what.sealing,
            key=what.key,
            created=what.created,
            format=what.format,
        )


def _find_large(handle: weakref.ref[Store[Any, Any]], engine: Engine, tree_key: bytes) -> Stored | None:
    """What the engine's `get` finds, but large buffers are not copied: so their value takes one copy, not two.

    It takes the place of `get` in a handle after a record with such was found, and gives it back when one has none.
    """
    found = engine.view(tree_key)
    store = handle()
    if store is not None and (found is None or isinstance(found, bytes) or found[0] == PLAIN):
        store._find_by(store._engine.get)
    return found


def _is_there(engine: Engine, space: ShardedSpace, tree_key: bytes, _beside: bytes) -> tuple[bool, bytes]:
    """Whether there is a record that is not expired; and a state that says that nobody need look for that."""
    return space.contains(engine.read(), tree_key), bytes((NO_BOOKS,))


def _trusts_everybody(codec: Codec) -> bool:
    return codec.runs_code and not (isinstance(codec, Pickle) and codec.is_restricted)


_warned: set[str] = set()


def _warn_of_pickles(location: str, level: int) -> None:
    if location not in _warned:
        _warned.add(location)
        warn(
            f"the store at {location!r} loads pickles from servers: whoever can write there can run code here. Give a "
            f"signing_key or an encryption_key, or a codec that runs no code (see docs/security.md)",
            UnsealedWarning,
            stacklevel=level,
        )


def _refuse(location: str, *_arguments: object) -> Any:
    raise ReadOnlyStore(f"the store at {location!r} is open for reading; write through flag 'w' or 'c'")


class _Closed:
    """Stands where the engine of a closed handle was."""

    name = "closed"

    def __init__(self, location: str) -> None:
        self.location = location

    def refuse(self, *_arguments: object) -> Any:
        raise StoreClosed(f"the store at {self.location!r} is closed; open it again")

    def __getattr__(self, _name: str) -> Any:
        self.refuse()


def _reopen(
    kind: type[Store[Any, Any]], location: str, flag: str, arguments: dict[str, Any], name: str, codec: Codec | None
) -> Store[Any, Any]:
    store = kind(location, flag, **arguments)
    return store.namespace(name, codec=codec) if name else store
