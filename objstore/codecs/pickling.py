"""Pickle, protocol 5, with large buffers out-of-band.

The protocol is fixed, not the newest of the running interpreter, so that every Python from 3.8 on
reads what any other wrote.  A buffer (of a NumPy array, say) of at least `LARGE` bytes becomes a
frame and is copied once, into the record; smaller ones stay in the pickle, where they cost less.

With options, a pickle names only what is allowed, or finds classes under names of today; see `restricting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pickle import PickleBuffer, dumps, loads
from typing import Any

from objstore.codecs.names import allowed, listed, named, parse, show
from objstore.codecs.restricting import PROTOCOL, Allowed, Moved
from objstore.record import LARGE, MAX_FRAMES, PICKLE


class _LargeBuffer(Exception):
    """There is a buffer for a frame."""


def _refuse_large(buffer: PickleBuffer) -> bool:
    """As a `buffer_callback`: keep small buffers in the pickle, and stop at the first large one."""
    if _large(buffer) is not None:
        raise _LargeBuffer
    return True


def _large(buffer: PickleBuffer) -> memoryview | None:
    """The bytes of a buffer that is to be a frame."""
    try:
        view = buffer.raw()
    except BufferError:  # not contiguous
        return None
    return view if view.nbytes >= LARGE else None


class Pickle:
    """The standard library's pickle.

    * `allow`: the classes and functions that a pickle may name, each itself or as "module.Name" or
      "module:Outer.Inner"; every other name is refused when a value is encoded and when it is decoded. The names are
      exact: no subclasses, no modules, no wildcards. "numpy.ndarray" brings along what arrays and numbers of NumPy
      need; of pandas, say, each name is to be given, and the errors say which.
    * `rename`: {"old.module.Name": "new.module.Name"}, or the class itself, for classes that have moved. With `allow`,
      it is the new name that must be allowed.

    Raises ValueError and TypeError where a name is none, and nothing is to be found under it.

    An allow-list stops a pickle from running what it likes, and from changing classes and functions. It does not
    stop one from setting any attribute of an instance of an allowed class, from calling what is allowed with any
    arguments, without `__init__` too, nor from taking all memory or time; and while the dtypes of arrays are
    checked, other compiled classes believe what a pickle says. For bytes from somebody you do not trust there are
    `Msgpack` and `Json`. A pickle with attributes is run twice, and slowly where a function made what they belong
    to.
    """

    name = "pickle"
    number = PICKLE
    runs_code = True
    is_restricted = False
    """Whether it takes only what is on an exact list."""

    def __new__(cls, allow: Iterable[Any] | None = None, rename: Mapping[str, Any] | None = None) -> Pickle:
        return object.__new__(cls if allow is None and rename is None else _PickleWithOptions)

    def __init__(self, allow: Iterable[Any] | None = None, rename: Mapping[str, Any] | None = None) -> None:
        pass

    def __repr__(self) -> str:
        return "Pickle()"

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        try:
            return dumps(value, PROTOCOL, buffer_callback=_refuse_large), ()
        except _LargeBuffer:
            return _encode_with_frames(value, dumps)

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> Any:
        return loads(payload, buffers=frames)  # noqa: S301  (what it is here for; verified before)


def _encode_with_frames(value: Any, dumps: Callable[..., bytes]) -> tuple[bytes, Sequence[memoryview]]:
    frames: list[memoryview] = []

    def keep(buffer: PickleBuffer) -> bool:
        view = _large(buffer)
        if view is None or len(frames) == MAX_FRAMES:
            return True
        frames.append(view)
        return False

    return dumps(value, PROTOCOL, buffer_callback=keep), frames


class _PickleWithOptions(Pickle):
    """A pickle that names what it may, see `Pickle`; apart from it so that the common one asks nothing."""

    def __init__(self, allow: Iterable[Any] | None = None, rename: Mapping[str, Any] | None = None) -> None:
        given = None if allow is None else listed(allow)
        self.is_restricted = given is not None
        self._allow = None if given is None else [show(name) for name, _ in given]
        self._rename = {parse(old): named(new) for old, new in (rename or {}).items()}
        if given is None:
            self._dumps: Callable[..., bytes] = dumps
            self._loads: Callable[..., Any] = Moved(self._rename).loads
        else:
            restricted = Allowed(allowed(given), self._rename)
            self._dumps = restricted.dumps
            self._loads = restricted.loads

    def __reduce__(self) -> tuple[type, tuple[list[str] | None, dict[str, str]]]:
        return Pickle, (self._allow, {show(old): show(new) for old, (new, _) in self._rename.items()})

    def __repr__(self) -> str:
        options = [] if self._allow is None else [f"allow={_few(self._allow)}"]
        options += [f"rename={_few(map(show, self._rename))}"] if self._rename else []
        return f"Pickle({', '.join(options)})"

    def encode(self, value: Any) -> tuple[bytes, Sequence[memoryview]]:
        try:
            return self._dumps(value, PROTOCOL, buffer_callback=_refuse_large), ()
        except _LargeBuffer:
            return _encode_with_frames(value, self._dumps)

    def decode(self, payload: memoryview, frames: Sequence[bytearray | memoryview]) -> Any:
        return self._loads(payload, buffers=frames)


def _few(names: Iterable[str]) -> str:
    texts = list(names)
    return f"[{', '.join(texts[:3])}{', ...' if len(texts) > 3 else ''}]"
