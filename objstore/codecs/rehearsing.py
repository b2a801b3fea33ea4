"""The rehearsal of a pickle: its opcodes run once over stand-ins, to see what they would do to real things.

A pickle is a program that makes objects.  One of its instructions, BUILD, gives an object a state, and nothing
in pickle says that the object must be one that this pickle made: aimed at a class, which any allow-list lets it
name, BUILD sets attributes of the class, for the whole process.  So before a pickle with BUILD in it is loaded
under an allow-list, it is loaded with a stand-in for every class and function: a class whose instances take
everything and do nothing, and which refuses to be built itself.

Opcodes have no branches.  A rehearsal that comes to its end has met the same instructions, over the same stack,
as the performance will.  Where the answer depends on what a real thing would have done (what a function
returned, say) the rehearsal is `Undecided`, as it is where a stand-in was not good enough; then `restricting`
watches the performance itself, which is exact and slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pickle import UnpicklingError
from typing import Any, ClassVar, Self

from objstore.codecs.arrays import is_plain_array_class, refuse_unsound, takes_array_state
from objstore.codecs.names import Name, returns_instances, show

# Attributes that say what an object is, or how it is pickled.  No state has them in it but a forged one.
_NO_STATE = {
    "__class__",
    "__dict__",
    "__getstate__",
    "__setstate__",
    "__reduce__",
    "__reduce_ex__",
    "__getnewargs__",
    "__getnewargs_ex__",
}


_SETATTR: Any = object.__setattr__


class Refused(UnpicklingError):
    """The pickle does something that is not allowed."""


class Undecided(Exception):
    """Only the real things can tell whether this pickle is harmless."""


def refuse_attribute(name: str) -> None:
    """Raise where no state of an object has an attribute of that name."""
    if name in _NO_STATE:
        raise Refused(f"the pickle would set {name!r} of an object, which no state does; it is forged")


def refuse_shared(what: str) -> None:
    """Raise since a pickle is about to change something that is not its own."""
    raise Refused(f"the pickle would change {what}, for the whole process; it is forged")


def _refuse_state(kind: type, state: Any) -> None:
    """Look at a state that is given to an instance of a class without `__setstate__`."""
    plain, slots = state if type(state) is tuple and len(state) == 2 else (state, None)
    for part in (plain, slots):
        if part is not None:
            if type(part) is not dict or any(type(name) is not str for name in part):
                raise Undecided  # it is made of stand-ins
            for name in part:
                refuse_attribute(name)
    if slots and kind.__setattr__ is not _SETATTR:
        raise Undecided  # it may hand on what is set, to a class say


class _Part(type):
    """Stand-ins for classes and functions.  An attribute that changes a class is refused, each in its way."""

    said: str

    def _refuse(cls) -> Any:
        refuse_shared(f"{cls.said} itself")

    __setstate__ = append = extend = add = property(_refuse)

    def __setitem__(cls, key: Any, value: Any) -> None:
        cls._refuse()


class _StandIn(metaclass=_Part):
    """An instance of a stand-in: takes everything."""

    __slots__ = ()
    said: ClassVar[str]
    thing: ClassVar[Any] = None
    kind: ClassVar[type | None] = None
    """The class without `__setstate__` whose instances these stand for, where it is sure that they are that."""
    known: ClassVar[bool] = False
    """Whether these are sure to be objects that the pickle made, and no classes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> _StandIn:
        return _Unknown()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    append = add = extend

    def __setstate__(self, state: Any) -> None:
        if not self.known:
            raise Undecided
        if self.kind is not None:
            _refuse_state(self.kind, state)


class _NumpyPart(_StandIn):
    """An instance of one of NumPy's, which is not made with a dtype that is still to be built."""

    __slots__ = ()

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _refuse_half_made(args)
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        _refuse_half_made(state)
        super().__setstate__(state)


class _Dtype(_StandIn):
    """A dtype of NumPy: a real one, which is built once, looked at, and only then used."""

    __slots__ = ("built", "real")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_dtype_arguments(args)
        self.built = False
        self.real = self.thing(*(getattr(arg, "thing", arg) for arg in args), **kwargs)

    def __setstate__(self, state: Any) -> None:
        if self.built:
            refuse_rebuilding()
        _refuse_half_made(state)
        build_dtype(self.real, _with_real_dtypes(state))
        self.built = True


class _Array(_NumpyPart):
    """An array of NumPy, made without contents and then given them, once."""

    __slots__ = ("built", "plain")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.built = isinstance(self.thing, type)  # only what a helper makes is given contents
        self.plain = bool(args) and getattr(args[0], "said", None) == "numpy.ndarray"

    def __setstate__(self, state: Any) -> None:
        if self.built:
            refuse_rebuilding()
        if not self.plain:
            raise Undecided
        check_array_state(state)
        _refuse_half_made(state[2])
        self.built = True


def check_array_state(state: Any) -> None:
    """Raise where an array would take more objects from a list than are in it."""
    if type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple:
        raise Refused("the pickle gives an array a state that NumPy does not write; it is forged")
    if not all(type(size) is int for size in state[1]):
        raise Refused("the pickle gives an array a shape that NumPy does not write; it is forged")
    if isinstance(state[4], list) and len(state[4]) != math.prod(state[1]):
        raise Refused("the pickle gives an array too few objects, or too many; it is forged")


def check_dtype_arguments(args: Iterable[Any]) -> None:
    """Raise where a dtype is not made as NumPy's pickles make it: of a name or a class, and yes and no."""
    if not all(isinstance(arg, (str, bool, type)) for arg in args):
        raise Refused("the pickle makes a dtype of other things than NumPy does; it is forged")


def build_dtype(dtype: Any, state: Any) -> None:
    """Give a dtype its state; raise where it is no dtype then."""
    if not _is_dtype_state(state, type(dtype).__mro__):
        raise Refused("the pickle gives a dtype a state that NumPy does not write; it is forged")
    dtype.__setstate__(state)
    try:
        refuse_unsound(dtype)
    except ValueError as exc:
        raise Refused(f"the pickle is forged: {exc}") from exc


def _is_dtype_state(state: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a state has the form that NumPy writes, which believes it: another ends the process."""
    if type(state) is not tuple or len(state) not in (8, 9) or state[0] not in (3, 4):
        return False
    order, within, names, fields, *numbers = state[1:8]
    if order not in ("<", ">", "|", "=") or not all(
        type(number) is int and abs(number) < 1 << 31 for number in numbers
    ):
        return False
    if (names is None) is not (fields is None) or (len(state) == 9 and not _is_dtype_metadata(state[8])):
        return False
    return (within is None or _is_subarray(within, kinds)) and (names is None or _are_fields(names, fields, kinds))


def _is_dtype_metadata(told: Any) -> bool:
    """What NumPy keeps beside: of somebody's own, and the unit of a time."""
    if type(told) is not tuple or len(told) != 2 or not (told[0] is None or type(told[0]) is dict):
        return told is None or type(told) is dict
    unit = told[1]
    if type(unit) is tuple and unit and isinstance(unit[0], _StandIn):
        raise Undecided  # what a function made, as in pickles of old protocols
    return (
        type(unit) is tuple
        and len(unit) == 4
        and isinstance(unit[0], (bytes, str))
        and all(type(number) is int and 0 < number < 1 << 31 for number in unit[1:])
    )


def _is_subarray(within: Any, kinds: tuple[type, ...]) -> bool:
    if type(within) is not tuple or len(within) != 2 or not _is_dtype(within[0], kinds):
        return False
    return type(within[1]) is tuple and all(type(size) is int for size in within[1])


def _are_fields(names: Any, fields: Any, kinds: tuple[type, ...]) -> bool:
    if type(names) is not tuple or type(fields) is not dict or not all(type(name) is str for name in (*names, *fields)):
        return False
    return set(names) <= fields.keys() and all(_is_field(field, kinds) for field in fields.values())


def _is_field(field: Any, kinds: tuple[type, ...]) -> bool:
    if type(field) is not tuple or len(field) not in (2, 3) or not _is_dtype(field[0], kinds):
        return False
    return type(field[1]) is int and all(type(title) is str for title in field[2:])


def _is_dtype(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether it is a dtype; what is one is told by those of another."""
    return any(is_dtype_class(kind) and isinstance(value, kind) for kind in kinds)


def refuse_rebuilding() -> None:
    """Raise since a dtype or an array that is in use already, perhaps, is about to be changed."""
    raise Refused("the pickle would change a dtype or an array after it was made; it is forged")


def refuse_half_made() -> None:
    """Raise since a dtype or an array is about to be used that can still be changed."""
    raise Refused("the pickle uses a dtype or an array before it is made; it is forged")


def _refuse_half_made(value: Any) -> None:
    if any(isinstance(each, (_Dtype, _Array)) and not each.built for each in all_within(value)):
        refuse_half_made()


def all_within(value: Any) -> Iterator[Any]:
    """The value, or what is in the tuples, lists and mappings that it is, each of them once."""
    todo, seen = [value], set()
    while todo:
        each = todo.pop()
        if not isinstance(each, (tuple, list, dict)):
            yield each
        elif id(each) not in seen:
            seen.add(id(each))
            todo += each.values() if isinstance(each, dict) else each


def _with_real_dtypes(state: Any) -> Any:
    if isinstance(state, _Dtype):
        return state.real
    if isinstance(state, tuple):
        return tuple(map(_with_real_dtypes, state))
    if isinstance(state, dict):
        return {key: _with_real_dtypes(value) for key, value in state.items()}
    return state


class _Unknown(_StandIn):
    """What calling an instance returns."""

    __slots__ = ()
    said = "what a call returned"


def stand_in(name: Name, thing: Any) -> type:
    """The stand-in for an allowed class or function."""
    owns_state = isinstance(thing, type) and not any("__setstate__" in vars(base) for base in thing.__mro__)
    contents = {
        "__slots__": (),
        "said": show(name),
        "thing": thing,
        "kind": thing if owns_state else None,
        "known": returns_instances(thing) and not takes_array_state(thing),
    }
    return _Part(show(name), (_base(thing),), contents)


def _base(thing: Any) -> type[_StandIn]:
    if is_dtype_class(thing):
        return _Dtype
    if is_array_maker(thing) or is_plain_array_class(thing):
        return _Array
    return _NumpyPart if is_of_numpy(thing) else _StandIn


def is_dtype_class(thing: Any) -> bool:
    return isinstance(thing, type) and (thing.__module__, thing.__qualname__) == ("numpy", "dtype")


def is_array_maker(thing: Any) -> bool:
    """Whether it is the helper that makes arrays without contents."""
    return is_of_numpy(thing) and getattr(thing, "__name__", None) == "_reconstruct"


def is_of_numpy(thing: Any) -> bool:
    """Whether a class or a function is one of NumPy's."""
    module = getattr(thing, "__module__", None)
    return isinstance(module, str) and module.split(".")[0] == "numpy"
