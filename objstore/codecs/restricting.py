"""Pickle that names what it was told it may name, and classes that have moved.

`Moved` follows renamed classes when it loads.  `Allowed` writes and loads what its list allows and refuses the
rest: a name that is not on the list is neither imported nor called.  Both have what `Pickle` needs of `dumps`
and `loads`, and nothing is imported here that the list does not name.

What gets past `find_class` is stopped elsewhere:

* Extension codes (`copyreg.add_extension`) are looked up once for the whole process, so a pickle could use
  whatever some other one has loaded.  They are refused.
* BUILD can be aimed at a class or a function, see `rehearsing`. It can also make a dtype of NumPy that reads
  beyond its array; a dtype must be what NumPy would make of its parts.
* The bytes may lie where others can write, so they are copied before they are looked at.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable, Iterable
from enum import Enum, Flag
from io import BytesIO
from pickle import PickleBuffer, PicklingError, UnpicklingError
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any, ClassVar, get_origin

from objstore.codecs.arrays import is_plain_array_class, takes_array_state
from objstore.codecs.names import OPEN_DOORS, Name, own_name, show, takes_items_itself, where
from objstore.codecs.rehearsing import (
    Refused,
    all_within,
    build_dtype,
    check_array_state,
    check_dtype_arguments,
    is_array_maker,
    is_dtype_class,
    is_of_numpy,
    refuse_attribute,
    refuse_half_made,
    refuse_rebuilding,
    refuse_shared,
    stand_in,
)

PROTOCOL = 5

Renames = dict[Name, tuple[Name, Any]]
"""From the name that a pickle has, to the name of today and what that stands for."""

_BUILD = b"b"
_EXTENSIONS = (b"\x82", b"\x83", b"\x84")
_BY_NAME = (type, FunctionType, BuiltinFunctionType)
_TYPES_OF_ONE = (type(None), type(...), type(NotImplemented))
_REDUCE: Any = object.__reduce__
_REDUCE_EX: Any = object.__reduce_ex__
_OF_ENUM: Any = (Enum.__reduce_ex__, Flag.__reduce_ex__)
_NOT_TO_BE_BUILT = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, Enum)


class Moved:
    """Loads pickles in which some names are not those of today."""

    def __init__(self, renames: Renames) -> None:
        class Unpickler(pickle.Unpickler):
            def find_class(self, module: str, qualified: str) -> Any:
                moved = renames.get((module, qualified))
                return super().find_class(module, qualified) if moved is None else moved[1]

        self._unpickler = Unpickler

    def loads(self, data: memoryview, *, buffers: Iterable[Any]) -> Any:
        return self._unpickler(BytesIO(data), buffers=buffers).load()


class Allowed:
    """Writes and loads pickles that name what is allowed."""

    def __init__(self, allowed: dict[Name, Any], renames: Renames) -> None:
        things = dict(allowed)
        for old, (new, thing) in renames.items():
            if not any(thing is each for each in allowed.values()):
                raise ValueError(f"{show(old)!r} is renamed to {show(new)!r}, which is not allowed; add it to allow")
            things[old] = thing
        self._pickler = _pickler(allowed)
        self._unpickler, self._exact = _unpickler(things), _exact_unpickler(things)
        self._always_rehearses = any(map(takes_items_itself, things.values()))
        self._stand_ins = {name: stand_in(name, thing) for name, thing in things.items()}

    def dumps(self, value: Any, protocol: int, *, buffer_callback: Callable[[PickleBuffer], Any]) -> bytes:
        out = BytesIO()
        self._pickler(out, protocol, buffer_callback=buffer_callback).dump(value)
        return out.getvalue()

    def loads(self, data: memoryview, *, buffers: Iterable[Any]) -> Any:
        own, frames = bytes(data), list(buffers)
        if _may_have_extensions(own):
            return self._exact(BytesIO(own), buffers=frames).load()
        if self._always_rehearses or _BUILD in own:
            try:
                named_nothing, value = self._rehearse(own, frames)
            except Refused:
                raise
            except Exception:  # noqa: BLE001  (a stand-in was not good enough; whatever it is, the exact one meets it again)
                return self._exact(BytesIO(own), buffers=frames).load()
            if named_nothing:
                return value
        return self._unpickler(BytesIO(own), buffers=frames).load()

    def _rehearse(self, data: bytes, frames: list[Any]) -> tuple[bool, Any]:
        rehearsal = _Rehearsal(BytesIO(data), buffers=frames)
        rehearsal.stand_ins = self._stand_ins
        value = rehearsal.load()
        return not rehearsal.named, value


class _Rehearsal(pickle.Unpickler):
    stand_ins: dict[Name, type]
    named = False

    def find_class(self, module: str, qualified: str) -> Any:
        self.named = True
        return _look_up(self.stand_ins, (module, qualified))


def _unpickler(things: dict[Name, Any]) -> type[pickle.Unpickler]:
    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, qualified: str) -> Any:
            return _look_up(things, (module, qualified))

    return Unpickler


def _look_up(things: dict[Name, Any], name: Name) -> Any:
    try:
        return things[name]
    except KeyError:
        raise Refused(f"the pickle names {_not_allowed(name)}") from None


def _may_have_extensions(data: bytes) -> bool:
    return bool(_registry()) and any(code in data for code in _EXTENSIONS)


def _registry() -> dict[Name, int]:
    registry: dict[Name, int] = copyreg._extension_registry  # type: ignore[attr-defined]
    return registry


def _exact_unpickler(things: dict[Name, Any]) -> type[Any]:
    """The one in Python, slow, that looks at each object before it is built."""
    shared = {id(thing) for thing in things.values()}

    base: Any = pickle._Unpickler

    class Unpickler(base):  # type: ignore[misc]
        dispatch: ClassVar = dict(base.dispatch)

        def __init__(self, file: Any, *, buffers: Iterable[Any]) -> None:
            super().__init__(file, buffers=buffers)
            self.half_made = _HalfMade()

        def find_class(self, module: str, qualified: str) -> Any:
            return _look_up(things, (module, qualified))

        def get_extension(self, code: int) -> None:
            raise Refused(f"the pickle uses the extension code {code}, which no allow-list can check")

        def load_build(self) -> None:
            state = self.stack.pop()
            instance = self.stack[-1]
            if not self.half_made.build(instance, state):
                _build(instance, state, shared)

        def load_reduce(self) -> None:
            function, args = self.stack[-2:]
            if is_of_numpy(function):
                self.half_made.refuse_in(args)
            if is_dtype_class(function):
                check_dtype_arguments(args)
            super().load_reduce()
            if is_dtype_class(function) or is_array_maker(function):
                self.half_made.made(self.stack[-1])

        def load_newobj(self) -> None:
            if is_dtype_class(self.stack[-2]):
                check_dtype_arguments([None])
            if is_of_numpy(self.stack[-2]):
                self.half_made.refuse_in(self.stack[-1])
            super().load_newobj()

        dispatch[pickle.BUILD[0]] = load_build
        dispatch[pickle.REDUCE[0]] = load_reduce
        dispatch[pickle.NEWOBJ[0]] = load_newobj

    return Unpickler


class _HalfMade:
    """The dtypes and arrays of NumPy that one pickle makes: each is built once, and only then used."""

    def __init__(self) -> None:
        self._half_made: dict[int, Any] = {}
        self._built: dict[int, Any] = {}  # kept, so that no other has its id

    def made(self, thing: Any) -> None:
        self._half_made[id(thing)] = thing

    def build(self, instance: Any, state: Any) -> bool:
        """Build it, if it is one; whether it is."""
        is_dtype = any(map(is_dtype_class, type(instance).__mro__))
        if id(instance) not in self._half_made and (
            is_dtype or is_plain_array_class(type(instance)) or id(instance) in self._built
        ):
            refuse_rebuilding()
        self._half_made.pop(id(instance), None)
        if is_dtype:
            self.refuse_in(state)
            build_dtype(instance, state)
        elif takes_array_state(type(instance)):
            check_array_state(state)
            self.refuse_in(state[2])
        if is_of_numpy(type(instance)) or takes_array_state(type(instance)):
            self._built[id(instance)] = instance
        return is_dtype

    def refuse_in(self, value: Any) -> None:
        if self._half_made and any(id(each) in self._half_made for each in all_within(value)):
            refuse_half_made()


def _build(instance: Any, state: Any, shared: set[int]) -> None:
    """What BUILD does, to what may be built."""
    if isinstance(instance, _NOT_TO_BE_BUILT) or get_origin(instance) is not None or id(instance) in shared:
        refuse_shared(repr(instance))
    own = getattr(instance, "__setstate__", None)
    if own is not None:
        own(state)
        return
    plain, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if plain is not None:
        vars(instance).update(_attributes(plain))
    for name, value in _attributes(slots):
        setattr(instance, name, value)


def _attributes(part: Any) -> list[tuple[str, Any]]:
    if part is None:
        return []
    if not isinstance(part, dict):
        raise UnpicklingError("state is not a dictionary")
    attributes = [(str.__str__(name), value) for name, value in dict.items(part)]
    for name, _ in attributes:
        refuse_attribute(name)
    return attributes


def _pickler(allowed: dict[Name, Any]) -> type[pickle.Pickler]:
    """One that refuses to write what could not be read."""
    fine = {id(thing) for name, thing in allowed.items() if name == own_name(thing)}

    def check(name: Name) -> None:
        if name not in allowed:
            raise PicklingError(_advice(name))
        if name in _registry():
            raise PicklingError(f"{show(name)!r} has an extension code (copyreg), which no allow-list can check")

    class Pickler(pickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            kind = type(thing)
            if isinstance(thing, _BY_NAME) and kind not in copyreg.dispatch_table:
                if id(thing) not in fine or _registry():
                    _check_name(thing, check)
                return NotImplemented
            if kind.__reduce_ex__ is _REDUCE_EX and kind.__reduce__ is _REDUCE and kind not in copyreg.dispatch_table:
                return NotImplemented
            reduced = _reduced(thing, kind)
            if isinstance(reduced, str):  # it is pickled as a name, too
                check(where(thing, reduced))
            return reduced

    return Pickler


def _check_name(thing: Any, check: Callable[[Name], None]) -> None:
    """Check the name of a class or a function that is to be pickled, as far as pickle itself would find it."""
    name = own_name(thing)
    if isinstance(thing, BuiltinFunctionType) and not isinstance(thing.__self__, (ModuleType, NoneType)):
        return  # a method: it becomes a call of getattr, whose name is checked
    if thing in _TYPES_OF_ONE:
        name = ("builtins", "type")  # of the one instance
    if name is not None and "<" not in name[1]:
        check(name)


def _reduced(thing: Any, kind: type) -> Any:
    reduce = copyreg.dispatch_table.get(kind)
    if reduce is None and isinstance(thing, Enum) and kind.__reduce_ex__ in _OF_ENUM:
        return kind, (thing._value_,)  # as from Python 3.11.4 on; before, it is a call of getattr
    return thing.__reduce_ex__(PROTOCOL) if reduce is None else reduce(thing)


def _advice(name: Name) -> str:
    if name in OPEN_DOORS:
        return f"the value is pickled as a call of {show(name)!r}, which cannot be allowed: it may run anything"
    return f"the value needs {_not_allowed(name)}"


def _not_allowed(name: Name) -> str:
    return f"{show(name)!r}, which is not allowed; if it is harmless, allow it with Pickle(allow=[..., {show(name)!r}])"
