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

from pickle import UnpicklingError
from typing import Any, ClassVar

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
    kind: ClassVar[type | None] = None
    """The class without `__setstate__` whose instances these stand for, where it is sure that they are that."""
    known: ClassVar[bool] = False
    """Whether these are sure to be objects that the pickle made, and no classes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
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
        "kind": thing if owns_state else None,
        "known": returns_instances(thing),
    }
    return _Part(show(name), (_StandIn,), contents)
