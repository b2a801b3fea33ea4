"""The names of classes and functions, as a pickle has them: a module and a qualified name.

Somebody who configures a codec gives the thing itself, or a text: "module.name", or "module:qualified.name"
where the name has dots of its own.  What is named is looked up at once, so that a typing error is found when
the codec is made and not when the first record is read.

A few names bring others with them: what NumPy itself puts into the pickle of an array.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence, MutableSet
from importlib import import_module
from types import BuiltinFunctionType, ModuleType
from typing import Any

Name = tuple[str, str]
"""Module and qualified name."""

# Whoever may call one of these may call everything.  A courtesy to those who take one for harmless, and not complete.
OPEN_DOORS = {
    ("builtins", name)
    for name in ("eval", "exec", "compile", "__import__", "getattr", "setattr", "delattr", "globals", "vars", "open")
} | {
    ("importlib", "import_module"),
    ("operator", "attrgetter"),
    ("operator", "methodcaller"),
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("pkgutil", "resolve_name"),
    ("subprocess", "Popen"),
    ("types", "CodeType"),
    ("types", "FunctionType"),
    ("builtins", "code"),
    ("builtins", "function"),
}

# What NumPy's pickles of arrays and numbers name. The package was `numpy.core` before NumPy 2.
_NUMPY = (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))


def show(name: Name) -> str:
    """The text that stands for a name."""
    module, qualified = name
    return f"{module}:{qualified}" if "." in qualified else f"{module}.{qualified}"


def parse(text: str) -> Name:
    """The name that a text stands for; ValueError where it stands for none."""
    module, colon, qualified = text.partition(":")
    if not colon:
        module, _, qualified = text.rpartition(".")
    parts = [*module.split("."), *qualified.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(
            f"{text!r} is not the name of a class or a function; give each by its whole name, such as "
            f"'package.module.Name', or 'package.module:Outer.Inner'"
        )
    return module, qualified


def own_name(thing: Any) -> Name | None:
    """The name under which pickle writes a class or a function, or None where it has none."""
    qualified = getattr(thing, "__qualname__", None) or getattr(thing, "__name__", None)
    return where(thing, qualified) if isinstance(qualified, str) else None


def where(thing: Any, qualified: str) -> Name:
    """The name of a thing, given its name in a module that pickle has to find."""
    return pickle.whichmodule(thing, qualified), qualified  # type: ignore[attr-defined]


def find(name: Name) -> Any:
    """What a name stands for, imported where it must be; ValueError where nothing is there."""
    module, qualified = name
    try:
        return _inside(import_module(module), qualified)
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"there is no {show(name)!r}: {exc}; a name is 'module.Name' or 'module:Outer.Inner'") from exc


def _inside(module: Any, qualified: str) -> Any:
    found = module
    for part in qualified.split("."):
        found = getattr(found, part)
    return found


def named(given: Any) -> tuple[Name, Any]:
    """Name and thing, of the thing or of a text; TypeError and ValueError where it is none."""
    name = parse(given) if isinstance(given, str) else own_name(given) if callable(given) else None
    if name is None:
        raise TypeError(f"a class, a function or the name of one is needed, not {given!r}")
    thing = find(name)
    if not isinstance(given, str) and thing is not given:
        raise ValueError(f"{given!r} is not what {show(name)!r} names, so no pickle can name it")
    return name, thing


def listed(given: Iterable[Any]) -> list[tuple[Name, Any]]:
    """Name and thing of each of a list of what is allowed."""
    if isinstance(given, (str, bytes)) or callable(given):
        raise TypeError(f"allow is a list of classes and functions, such as [Person, 'numpy.ndarray'], not {given!r}")
    names = [named(each) for each in given]
    for name, thing in names:
        _refuse(name, thing)
    return names


def allowed(given: Iterable[tuple[Name, Any]]) -> dict[Name, Any]:
    """What is allowed, under each of its names, and what it brings along."""
    names: dict[Name, Any] = {}
    for name, thing in given:
        names[name] = thing
        own = own_name(thing)  # that which pickle writes, where it was given under another
        if own is not None and own != name and _is_at(own, thing):
            _refuse(own, thing)
            names[own] = thing
        names.update(_brought_along(own or name))
    return names


def _is_at(name: Name, thing: Any) -> bool:
    try:
        return find(name) is thing
    except ValueError:
        return False


def _refuse(name: Name, thing: Any) -> None:
    if isinstance(thing, (ModuleType, MutableMapping, MutableSequence, MutableSet)):
        raise TypeError(f"{show(name)!r} is a {type(thing).__name__}; only classes and functions can be allowed")
    if name in OPEN_DOORS:
        raise ValueError(f"whoever may use {show(name)!r} may run anything: it cannot be allowed")


def _brought_along(name: Name) -> Iterator[tuple[Name, Any]]:
    if name != ("numpy", "ndarray"):
        return
    core = "numpy._core" if int(import_module("numpy").__version__.split(".")[0]) >= 2 else "numpy.core"
    for module, helper in _NUMPY:
        thing = find((f"{core}.{module}", helper))
        for package in ("numpy.core", "numpy._core"):
            yield (f"{package}.{module}", helper), thing
    yield ("numpy", "dtype"), find(("numpy", "dtype"))


def returns_instances(thing: Any) -> bool:
    """Whether what comes from calling an allowed thing is an object of its own: never a class, nor something shared.

    That is so for a class that is made in the ordinary way, and for the helpers of NumPy.  For anything else the
    answer is "perhaps not".
    """
    if isinstance(thing, type):
        if issubclass(thing, type):
            return False
        return type(thing).__call__ is type.__call__ and isinstance(thing.__new__, BuiltinFunctionType)
    name = own_name(thing)
    return name is not None and name[0].startswith("numpy.") and (name[0].rpartition(".")[2], name[1]) in _NUMPY[:1]


# What the opcodes APPEND, APPENDS, ADDITEMS, SETITEM and SETITEMS call by its name.
_CALLED_BY_OPCODES = ("append", "extend", "add", "__setitem__")


def takes_items_itself(thing: Any) -> bool:
    """Whether opcodes that are meant for an instance would do something to a class, or whatever it is, itself."""
    if not isinstance(thing, type):
        return any(hasattr(thing, name) for name in _CALLED_BY_OPCODES)
    if any(hasattr(type(thing), name) for name in _CALLED_BY_OPCODES):
        return True
    found = (vars(base).get(name) for base in thing.__mro__ for name in _CALLED_BY_OPCODES)
    return any(isinstance(each, (classmethod, staticmethod)) for each in found)
