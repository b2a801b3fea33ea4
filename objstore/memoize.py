"""Memoize: results of functions, kept in a store.

A call becomes a key (see `calls`), and its result an item in a namespace that belongs to the store and to
this function alone.  A hit is a key and a look.  On a miss one computes, and all others wait for it (`computing`).

This room is about what is kept, for how long, and what is served:

* A result is *fresh* until its ttl ends.  With `stale` it is kept so much longer, and served meanwhile to all but the
  one who refreshes it.
* An error that is to be remembered is an item beside, under the key with a "!" behind it; a result ends it.
* What cannot be read any more (its class is gone, its bytes are damaged) is computed again, and the log says so.  What
  somebody has forged is refused.
* What was not stored, or the error, is left for those who wait in other processes, in a namespace of the library's own,
  for a minute.

`Computing` is what a store gets from here: `memoize` and `get_or_compute`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial, update_wrapper
from inspect import isasyncgenfunction, iscoroutine, iscoroutinefunction, isgeneratorfunction
from itertools import count
from typing import (
    Any,
    Concatenate,
    Generic,
    NamedTuple,
    ParamSpec,
    Protocol,
    Self,
    TypeVar,
    cast,
    overload,
)

from objstore.calls.functions import KeyMaker, key_maker, name_of
from objstore.computing.once import BUSY, computations_of, off_loop
from objstore.engines.base import Engine
from objstore.errors import CorruptRecord, DecodeError, EncodeError, StoreFull
from objstore.mapping import DEFAULT, TTL, Writable
from objstore.space import check_tags, expires_at

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
P = ParamSpec("P")
Q = ParamSpec("Q")

_ERROR = b"!"  # behind the key of a call: an error that is remembered
_LEFT = "left"
_LEFT_SECONDS = 60.0
_LARGEST_LEFT = 64 * 1024  # bytes; what is not to be kept is not to take much room
_LONGEST = 1e9  # seconds, as of `expires_at`


class CacheInfo(NamedTuple):
    """How a memoized function does, in the terms of `functools.lru_cache`."""

    hits: int
    """Calls of this process that were served from the store."""
    misses: int
    """Calls of this process that had to be computed, or waited for somebody who did."""
    maxsize: int | None
    """How many entries its cache may hold, of all functions; None is no such bound."""
    currsize: int
    """Results that are kept, of all processes; remembered errors and former versions are among them."""


class Memoized(Protocol[P, R]):
    """A memoized function: called as before, with these beside."""

    __wrapped__: Callable[P, R]
    """The function as it was, which computes each time."""
    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of the call: as it is kept, or else computed and kept."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self: Memoized[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> MemoizedMethod[Q, R, Concatenate[S, Q]]: ...

    def cache_info(self) -> CacheInfo:
        """Hits and misses of this process, and how much is kept."""

    def cache_clear(self) -> None:
        """Forget all results of this function, of all versions, and count anew."""

    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """What this call is kept under: 20 bytes."""

    def cache_contains(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether this call would be served without a computation, a stale result or a remembered error too."""

    def cache_delete(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Forget the result of this call; whether there was one."""

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute this call now, and keep that in the place of what was kept."""


class MemoizedMethod(Protocol[Q, R_co, P]):
    """A memoized function as a method of an object: called without it, where what stands beside takes it first."""

    def __call__(self, *args: Q.args, **kwargs: Q.kwargs) -> R_co: ...
    def cache_info(self) -> CacheInfo: ...
    def cache_clear(self) -> None: ...
    def cache_key(self, *args: P.args, **kwargs: P.kwargs) -> bytes: ...
    def cache_contains(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...
    def cache_delete(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...
    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class Rules(NamedTuple):
    """What is kept of a function, and for how long."""

    what: str
    """The name of what is computed, for messages."""
    ttl: Any = DEFAULT
    tags: tuple[str, ...] = ()
    stale: float = 0.0  # seconds
    exceptions: tuple[type[Exception], ...] = ()
    store_if: Callable[[Any], object] | None = None

    is_item: bool = False
    """Whether it is an item of the user's: one that cannot be read is not computed over."""

    def seconds_of(self, result: Any, default: TTL, is_error: bool) -> float | None:
        """For how long a result is fresh: None is for ever, and zero or less that it is not to be kept.

        An error has the default where the ttl is a function of the result.
        """
        ttl = self.ttl
        if callable(ttl):
            ttl = DEFAULT if is_error else ttl(result)
        ttl = default if ttl is DEFAULT else ttl
        seconds = _in_seconds(ttl)
        if not _is_number(seconds) or not seconds <= 0:
            expires_at(seconds, 0)  # what is no time is said here
        return cast("float | None", seconds)


class _Raised(NamedTuple):
    """Stands for a result where an error is remembered."""

    error: Exception


class _Job(Generic[T]):
    """One call: how its result is found, computed and stored (see `computing.once`)."""

    def __init__(
        self,
        owner: Computing[Any, Any],
        results: Computing[Any, Any],
        key: Any,
        rules: Rules,
        function: Callable[[], T],
    ) -> None:
        self.name = results._space.tree_key(key)
        self.key = key
        self.is_made = False
        self.is_private = False  # whether nobody else has what came of it
        self._owner = owner
        self._results = results
        self._rules = rules
        self._function = function

    def make(self) -> T | _Raised:
        self.is_made = self.is_private = True
        try:
            return self._function()
        except self._rules.exceptions as exc:
            return _Raised(exc)

    def look(self) -> T | _Raised:
        found, is_fresh = self._results._recall(self.key, self._rules, self._results._peek)  # the call is noted already
        if not is_fresh:
            raise KeyError(self.key)
        self.is_private = True
        return cast("T | _Raised", found)

    def keep(self, result: T | _Raised) -> bool:
        return self._results._keep(self.key, result, self._rules)

    def leave(self, result: T | _Raised | None, error: Exception | None) -> None:
        place, left = self._owner._belonging(_LEFT), (self._owner._engine.moment(), result, error)
        if len(bytes(place._space.pack(self.name, left)[1])) <= _LARGEST_LEFT:
            place.set(self.name, left, ttl=_LEFT_SECONDS)

    def left(self, since: float) -> tuple[T | _Raised | None, Exception | None] | None:
        try:
            moment, result, error = self._owner._belonging(_LEFT)._peek(self.name)
        except (KeyError, DecodeError, CorruptRecord):  # as of an error that cannot be built of what is pickled
            return None
        self.is_private = True
        return (result, error) if moment >= since else None


class _AsyncJob(_Job[T]):
    """The same of a coroutine function."""

    async def make(self) -> T | _Raised:  # type: ignore[override]
        self.is_made = self.is_private = True
        try:
            return cast("T", await cast("Awaitable[Any]", self._function()))
        except self._rules.exceptions as exc:
            return _Raised(exc)


class _Anew(_Job[T]):
    """A call that is to be computed, whatever is kept."""

    def look(self) -> T | _Raised:
        raise KeyError(self.key)


class _AnewAsync(_AsyncJob[T], _Anew[T]):
    """The same of a coroutine function."""


class Computing(Writable[K, V]):
    """What can keep results of computations: one computes, and all others have its result."""

    _engine: Engine
    _read_only: bool

    # For users

    @overload
    def get_or_compute(
        self, key: K, function: Callable[[], Coroutine[Any, Any, T]], *, ttl: Any = DEFAULT, tags: Iterable[str] = ()
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def get_or_compute(
        self, key: K, function: Callable[[], T], *, ttl: Any = DEFAULT, tags: Iterable[str] = ()
    ) -> T: ...
    def get_or_compute(
        self, key: K, function: Callable[[], Any], *, ttl: Any = DEFAULT, tags: Iterable[str] = ()
    ) -> Any:
        """The value of `key`, after storing what `function()` gives there if it was absent.

        Of all who ask for it at the same time, in all threads, tasks and processes, one computes, and the others wait
        for the result, or get the error. One who is killed meanwhile is replaced by another. A coroutine function is
        awaited: `await store.get_or_compute(key, function)`.

        `ttl` is that of `set`, or a function of the result that gives it (zero or less: it is not stored). In a
        transaction of the same thread, of whatever store, and where this one is open for reading, it is computed and
        not stored.

        Raises what the function raises, EncodeError, DecodeError, CorruptRecord; StoreFull where the result takes more
        than the bound of a cache, or there is no room on the disk.
        """
        rules = _rules(f"key {key!r}", ttl, tags)._replace(is_item=True)
        if _is(iscoroutinefunction, function):
            return self._get_or_await(key, function, rules)
        with suppress(KeyError):
            return self[key]
        return self._compute(_Job(self, self, key, rules, function))

    @overload
    def memoize(self, function: Callable[P, T], /) -> Memoized[P, T]: ...
    @overload
    def memoize(
        self,
        /,
        *,
        ttl: Any = DEFAULT,
        name: str | None = None,
        version: Any = None,
        key: Callable[..., Any] | None = None,
        ignore: Iterable[str] = (),
        tags: Iterable[str] = (),
        stale: float | timedelta | None = None,
        exceptions: Iterable[type[Exception]] | type[Exception] = (),
        store_if: Callable[[Any], object] | None = None,
    ) -> _Decorator: ...
    def memoize(
        self,
        function: Any = None,
        /,
        *,
        ttl: Any = DEFAULT,
        name: str | None = None,
        version: Any = None,
        key: Callable[..., Any] | None = None,
        ignore: Iterable[str] = (),
        tags: Iterable[str] = (),
        stale: float | timedelta | None = None,
        exceptions: Iterable[type[Exception]] | type[Exception] = (),
        store_if: Callable[[Any], object] | None = None,
    ) -> Any:
        """Keep the results of a function: `@store.memoize`, or `@store.memoize(ttl=3600)`.

        For functions, coroutine functions, methods, class methods and static methods. Every spelling of a call has one
        result, found by the values of its arguments, in all processes and later ones too; of all who make a call at the
        same time one computes, and the others wait for the result or the error. Each gets a copy of its own.

        * `ttl`: seconds or a timedelta, None for ever; or a function of the result that gives it (zero or less: it is
          not kept). Left out, the default of the store.
        * `name`: what the results are kept under; functions with a name of their own need none.
        * `version`: anything; another one finds no results of former ones. "source" is a digest of the source of the
          function, and the default in `__main__`.
        * `key`: a function that is called with the same arguments, whose result stands for the call.
        * `ignore`: names of parameters that do not count.
        * `tags`: as in `set`; `delete_tag` of this store forgets the results, too.
        * `stale`: seconds, or a timedelta: for so long after its ttl a result is served on, while one caller computes
          it anew.
        * `exceptions`: types of errors that are remembered like results, where they can be pickled and built again; for
          the default ttl of the store, where `ttl` is a function.
        * `store_if`: a function of the result: whether it is kept.

        What the function returns must be what the store can hold, else EncodeError is raised, or StoreFull where it
        takes more than the bound of a cache, or there is no room on the disk. In a transaction of the same thread, of
        whatever store, and where this one is open for reading, a miss is computed and not kept. Beside the function
        stand those of `Memoized`.

        Raises TypeError for what is no such function, and for options that make no sense; ValueError for a function
        without a name of its own.
        """
        decorate = partial(
            self._memoize,
            name=name,
            keys_of=partial(key_maker, version=version, key=key, ignore=ignore),
            rules=_rules("", ttl, tags, stale, exceptions, store_if, self._default_ttl),
        )
        return decorate if function is None else decorate(function)

    # How

    def _memoize(self, function: Any, *, name: str | None, keys_of: Callable[[Any], KeyMaker], rules: Rules) -> Any:
        if isinstance(function, (classmethod, staticmethod)):
            inner = self._memoize(function.__func__, name=name, keys_of=keys_of, rules=rules)
            return type(function)(inner)
        if _is(isgeneratorfunction, function) or _is(isasyncgenfunction, function):
            raise TypeError(f"{function!r} is a generator, of which nothing can be kept; return a list")
        rules = rules._replace(what=name_of(function, name))
        results = self._belonging(f"memo {rules.what}")
        kept = _Kept(function, keys_of(function), rules, self, results)
        return kept.decorate(_awaited(kept) if kept.is_async else _called(kept))

    def _belonging(self, what: str) -> Self:
        """The handle of something that belongs to this."""
        raise NotImplementedError

    @property
    def _most_entries(self) -> int | None:
        """How many items it may hold, with all that belongs to it."""
        return None

    async def _get_or_await(self, key: K, function: Callable[[], Any], rules: Rules) -> Any:
        with suppress(KeyError):
            return await off_loop(self.__getitem__, key)
        return await self._await(_AsyncJob(self, self, key, rules, function))

    def _compute(self, job: _Job[Any], *, wait: bool = True) -> Any:
        """The result of a job that was not found; BUSY where somebody computes it, and it is not to wait."""
        if self._read_only:
            return _given(job.make())
        return self._given(job, computations_of(self._engine).run(job, wait=wait, look_first=False))

    async def _await(self, job: _AsyncJob[Any], *, wait: bool = True) -> Any:
        """The same of a coroutine function."""
        if self._read_only:
            return _given(await job.make())
        return self._given(job, await computations_of(self._engine).run_async(job, wait=wait, look_first=False))

    def _given(self, job: _Job[Any], result: Any) -> Any:
        """A result as the caller gets it: his own, where it can be copied."""
        if not (job.is_private or result is BUSY or type(result) is _Raised):
            with suppress(EncodeError):  # then he shares it with the one who computed it
                tree_key, packed = self._space.pack(job.key, result)
                return self._space.value(job.key, tree_key, bytes(packed))
        try:
            return _given(result)
        finally:
            del result  # which may know an error, which knows this frame

    def _recall(self, key: Any, rules: Rules, read: Callable[[Any], Any] | None = None) -> tuple[Any, bool]:
        """What is kept under a key, and whether it is fresh.  Raises KeyError.

        `read` is how it is read, where that is not to count.
        """
        read = read or self.__getitem__
        try:
            found = self._readable(rules, read, key)
            return found, not rules.stale or self._is_fresh(key, rules.stale)
        except KeyError:
            if not rules.exceptions:
                raise
        return _Raised(self._readable(rules, read, key + _ERROR)), True

    def _readable(self, rules: Rules, read: Callable[[Any], T], key: Any) -> T:
        try:
            return read(key)
        except (DecodeError, CorruptRecord) as exc:
            if rules.is_item:
                raise
            _warn("the result of %s cannot be read, and is computed again: %s", rules.what, exc)
            raise KeyError(key) from exc

    def _peek(self, key: Any) -> Any:
        """The value of a key, which does not count as read.  Raises KeyError."""
        tree_key = self._space.tree_key(key)
        return self._space.value(key, tree_key, self._record(tree_key))

    def _is_fresh(self, key: Any, stale: float) -> bool:
        """Whether what is kept is not only served because nothing newer is there."""
        moment = self._space.now()
        _, header = self._present(key, moment)
        if header is None:  # it has ended since
            return False
        return header.expires_at is None or moment < header.expires_at - stale * 1_000_000

    def _keep(self, key: Any, result: Any, rules: Rules) -> bool:
        """Store a result, if it is to be stored; whether it was."""
        is_error = type(result) is _Raised
        what = result.error if is_error else result
        if not is_error and rules.store_if is not None and not rules.store_if(what):
            return False
        seconds = rules.seconds_of(what, self._default_ttl, is_error)
        if seconds is not None and seconds <= 0:
            return False
        if seconds is not None and not is_error:
            seconds += rules.stale
        place, other = (key + _ERROR, key) if is_error else (key, key + _ERROR if rules.exceptions else None)
        try:
            self.set(place, what, ttl=seconds, tags=rules.tags)
        except EncodeError as exc:
            if is_error:
                _warn("an error of %s cannot be remembered: %s", rules.what, exc)
                return False
            if iscoroutine(what):
                what.close()
                hint = "it gave a coroutine; give the coroutine function itself"
            else:
                hint = f"{exc.__cause__}; return what the store can hold, or leave such results out with store_if"
            raise EncodeError(f"the result of {rules.what} cannot be stored: {hint}", key) from exc
        except StoreFull as exc:
            exc.add_note(f"It is the result of {rules.what}; leave such results out with store_if.")
            raise
        if is_error and not self._comes_back(place, rules):
            return False
        if other is not None:
            self.delete(other)
        return True

    def _comes_back(self, place: Any, rules: Rules) -> bool:
        """Whether an error that was stored can be built again; else it is not kept."""
        try:
            self._peek(place)
        except DecodeError as exc:
            _warn("an error of %s cannot be remembered: %s", rules.what, exc)
            self.delete(place)
            return False
        except KeyError:  # it has ended already, or made room
            return True
        return True


class _Decorator(Protocol):
    """What makes a memoized function of a function."""

    def __call__(self, function: Callable[P, T], /) -> Memoized[P, T]: ...


def _warn(message: str, *arguments: object) -> None:
    from logging import getLogger  # here: not cheap to load, and seldom needed

    getLogger("objstore").warning(message, *arguments)


def _given(result: Any) -> Any:
    """A result, or its error."""
    try:
        if type(result) is _Raised:
            raise result.error
        return result
    finally:
        del result  # which knows the error, which knows this frame


class _Tally:
    """A number that any thread may count up by one, with `add()`; no lock, which a fork could find held."""

    def __init__(self) -> None:
        self._count = count()
        self.add = self._count.__next__
        self._zero = 0

    def clear(self) -> None:
        """Begin at zero again."""
        self._zero += int(self)

    def __int__(self) -> int:
        return int(repr(self._count)[len("count(") : -1]) - self._zero  # nothing else tells it without counting


class _Kept(Generic[T]):
    """A function whose results are kept."""

    def __init__(
        self,
        function: Callable[..., T],
        keys: KeyMaker,
        rules: Rules,
        owner: Computing[Any, Any],
        results: Computing[Any, Any],
    ) -> None:
        self.function = function
        self.is_async = _is(iscoroutinefunction, function)
        self.keys = keys
        self.rules = rules
        self.owner = owner
        self.results = results
        self.hits = _Tally()
        self.misses = _Tally()

    @property
    def is_plain(self) -> bool:
        """Whether what is found is always fresh, and what is not found is to be computed."""
        return not (self.rules.stale or self.rules.exceptions)

    def job(self, kind: type[_Job[Any]], key: bytes, args: Any, kwargs: Any) -> _Job[Any]:
        """One call."""
        return kind(self.owner, self.results, key, self.rules, partial(self.function, *args, **kwargs))

    def decorate(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with all that stands beside a memoized function."""
        update_wrapper(call, self.function)
        beside: dict[str, Any] = {
            "cache_info": self.info,
            "cache_clear": self.clear,
            "cache_key": self.keys,
            "cache_contains": self.contains,
            "cache_delete": self.delete,
            "refresh": self.refresh_async if self.is_async else self.refresh,
        }
        vars(call).update(beside)
        return call

    def info(self) -> CacheInfo:
        return CacheInfo(int(self.hits), int(self.misses), self.results._most_entries, len(self.results))

    def clear(self) -> None:
        self.results.clear()
        self.hits.clear()
        self.misses.clear()

    def contains(self, *args: Any, **kwargs: Any) -> bool:
        try:
            self.results._recall(self.keys(*args, **kwargs), self.rules)
        except KeyError:
            return False
        return True

    def delete(self, *args: Any, **kwargs: Any) -> bool:
        key = self.keys(*args, **kwargs)
        return self.results.delete_many([key, key + _ERROR]) > 0

    # Who refreshes must not be given what somebody began to compute before he asked.  So he has it computed once more
    # where that is what he got; what he gets then began after he had asked.

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        job = self.job(_Anew, self.keys(*args, **kwargs), args, kwargs)
        with _suppress_unless_made(job):
            result = self.results._compute(job)
            if job.is_made:
                return result
        return self.results._compute(job)

    async def refresh_async(self, *args: Any, **kwargs: Any) -> Any:
        job = cast("_AnewAsync[Any]", self.job(_AnewAsync, self.keys(*args, **kwargs), args, kwargs))
        with _suppress_unless_made(job):
            result = await self.results._await(job)
            if job.is_made:
                return result
        return await self.results._await(job)


@contextmanager
def _suppress_unless_made(job: _Job[Any]) -> Iterator[None]:
    """Drop an error, except where this job itself has raised it."""
    try:
        yield
    except Exception:
        if job.is_made:
            raise


def _called(kept: _Kept[T]) -> Callable[..., T]:
    """The calls of a function."""
    keys, results, rules = kept.keys, kept.results, kept.rules
    hit, miss = kept.hits.add, kept.misses.add

    def compute(key: bytes, args: Any, kwargs: Any) -> Any:
        miss()
        return results._compute(kept.job(_Job, key, args, kwargs))

    def answer(key: bytes, args: Any, kwargs: Any) -> Any:
        try:
            found, is_fresh = results._recall(key, rules)
        except KeyError:
            found = BUSY
        if found is BUSY:  # not where the KeyError is, which would be seen in what the function raises
            return compute(key, args, kwargs)
        if not is_fresh:
            result = results._compute(kept.job(_Job, key, args, kwargs), wait=False)
            if result is not BUSY:
                miss()
                return result
        hit()
        try:
            return _given(found)
        finally:
            del found  # which may know an error, which knows this frame

    def call(*args: Any, **kwargs: Any) -> Any:
        return answer(keys(*args, **kwargs), args, kwargs)

    def plain_call(*args: Any, **kwargs: Any) -> Any:
        key = keys(*args, **kwargs)
        try:
            value = results[key]
        except (KeyError, DecodeError, CorruptRecord) as exc:
            answers = compute if isinstance(exc, KeyError) else answer
        else:
            hit()
            return value
        return answers(key, args, kwargs)

    return plain_call if kept.is_plain else call


def _awaited(kept: _Kept[T]) -> Callable[..., Any]:
    """The calls of a coroutine function."""
    keys, results, rules = kept.keys, kept.results, kept.rules
    hit, miss = kept.hits.add, kept.misses.add

    async def call(*args: Any, **kwargs: Any) -> Any:
        key = keys(*args, **kwargs)
        job = cast("_AsyncJob[Any]", kept.job(_AsyncJob, key, args, kwargs))
        try:
            found, is_fresh = await off_loop(results._recall, key, rules)
        except KeyError:
            found = BUSY
        if found is BUSY:  # as above
            miss()
            return await results._await(job)
        if not is_fresh:
            result = await results._await(job, wait=False)
            if result is not BUSY:
                miss()
                return result
        hit()
        try:
            return _given(found)
        finally:
            del found  # which may know an error, which knows this frame

    return call


def _rules(
    what: str,
    ttl: Any,
    tags: Iterable[str],
    stale: float | timedelta | None = None,
    exceptions: Iterable[type[Exception]] | type[Exception] = (),
    store_if: Callable[[Any], object] | None = None,
    default_ttl: TTL = None,
) -> Rules:
    """The rules, if they make sense."""
    if not (ttl is DEFAULT or callable(ttl)):
        expires_at(ttl, 0)
    seconds = 0.0 if stale is None else _seconds(stale)
    if seconds and (ttl is None or (ttl is DEFAULT and default_ttl is None)):
        raise ValueError("what is kept for ever never becomes stale; give a ttl beside stale")
    if isinstance(ttl, (int, float, timedelta)) and seconds + _in_seconds(ttl) >= _LONGEST:
        raise ValueError(f"ttl and stale are less than a thousand million seconds together, not {ttl!r} and {stale!r}")
    several = isinstance(exceptions, Iterable) and not isinstance(exceptions, type)
    kinds = tuple(cast("Iterable[type[Exception]]", exceptions if several else (exceptions,)))
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"exceptions are types of Exception that are remembered, not {kind!r}")
    if store_if is not None and not callable(store_if):
        raise TypeError(f"store_if is a function of the result, not {store_if!r}")
    for option, function in (("ttl", ttl), ("store_if", store_if)):
        if _is(iscoroutinefunction, function):
            raise TypeError(f"{option} is a function that nobody awaits, so not {function!r}")
    return Rules(what, ttl, check_tags(tags), seconds, kinds, store_if)


def _seconds(stale: Any) -> float:
    seconds = _in_seconds(stale)
    if not _is_number(seconds):
        raise TypeError(f"stale is seconds or a timedelta, not {type(stale).__name__}")
    if not 0 < seconds < _LONGEST:
        raise ValueError(f"stale is a number of seconds between 0 and a thousand million, not {stale!r}")
    return float(seconds)


def _in_seconds(duration: Any) -> Any:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _is_number(seconds: Any) -> bool:
    return isinstance(seconds, (int, float)) and not isinstance(seconds, bool)


def _is(test: Callable[[Any], bool], function: Any) -> bool:
    """Whether a function, or the object that is called, or what is within a partial, is of some kind."""
    while isinstance(function, partial):
        function = function.func
    return test(function) or test(type(function).__call__)
