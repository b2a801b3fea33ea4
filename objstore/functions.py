"""What a function is to a cache: its name, its version, and the arguments that a call gives it.

A name tells one function from all others, in every process: module and qualified name.  In `__main__` each
script has functions of its own, so there the file stands for the module; and what is called <lambda> or
defined inside another function has no name of its own, so it must be given one.

A key tells one call from all others of the same function.  All spellings of one call have one key: the call
is bound to the parameters as Python itself would do it, by a function with the same parameter list, which is
compiled for this once (so that it costs what a call costs) and called in the place of the other one.  It
refuses a wrong call with the same words, too.

Names of parameters and the version are in the salt of the key: results of another version, or of a function
whose parameters have changed places, are not found.  The name is not; whoever stores results keeps those
of each function apart.

What the values are written as is the matter of `memokeys`; nothing here knows of stores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from inspect import Parameter, Signature, isroutine, signature, unwrap
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from objstore.memoarrays import NotKeyable, content_digest
from objstore.memokeys import FORMAT, digest, module_of, text_of
from objstore.sourcecode import class_text, function_text

LONGEST_NAME = 200  # characters of a name that is given

KeyMaker = Callable[..., bytes]
"""Called with the arguments of the function; gives the key of that call, 20 bytes."""

_STARS: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}


class LeftOut:
    """Stands for an argument that was left out where its default is not known for certain; keyed by its name."""


def name_of(function: Callable[..., Any], name: str | None = None) -> str:
    """The name under which results of a function are kept: `name` where it is given, else its own.

    Its own is "module.qualified.name", and "/path/of/the/script.py:qualified.name" in `__main__`, where there
    is a file.

    Raises TypeError for what has no name of its own (partials, objects that can be called) and for what cannot
    be called, ValueError for a name that is no name of its own (lambdas, functions defined inside functions),
    and for a given one that is empty or longer than 200 characters.
    """
    if not callable(function):
        raise TypeError(f"a function is needed, not {function!r}")
    if name is not None:
        return _given(name)
    if isinstance(function, MethodType):
        function = function.__func__
    if not _has_name(function):
        raise TypeError(f"{function!r} has no name of its own: say under which to keep its results, name='...'")
    qualified = function.__qualname__
    if "<" in qualified:
        raise ValueError(
            f"{qualified} has no name of its own, since others may be called the same: say under which "
            f"to keep its results, name='...'"
        )
    module = module_of(function)
    if module != "__main__":
        return f"{module}.{qualified}"
    script = getattr(sys.modules["__main__"], "__file__", None)
    return f"{os.path.abspath(script)}:{qualified}" if script else f"__main__.{qualified}"


def _given(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a text, not {name!r}")
    if not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"name must have 1 to {LONGEST_NAME} characters, not {len(name)}")
    return str(name)


def _has_name(function: Any) -> bool:
    """Whether a callable is a thing of its own, as functions and classes are, and no object of some state."""
    names = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return all(isinstance(name, str) for name in names)


def key_maker(
    function: Callable[..., Any],
    *,
    version: Any = None,
    key: Callable[..., Any] | None = None,
    ignore: Iterable[str] = (),
) -> KeyMaker:
    """A callable that takes the arguments of `function` and gives the key of that call: 20 bytes.

    `version` is anything that has a key (other versions, other keys), or "source": a digest of the source of
    the function, beneath its decorators' wrappers; of its byte code where its source is not to be found.
    None is "source" for functions of `__main__`, and no version for others.  What a function calls or finds
    around it does not count; the source of `key` does.

    `key` is a function that is called with the same arguments; its result is keyed in their place.

    `ignore` names parameters that do not count, those with stars included, without the stars.  Where
    the function takes any keyword (`**options`), any other name may be given, and is left out there.

    The object of a bound method counts as its first argument, the object that is called as well, and what
    a partial brings.  A default counts by its content at the time of the call.

    A decorator's wrapper that takes anything and hands it on (`*args, **kwargs`) is bound as what it wraps;
    but what its caller left out is not filled in, and a call that does not fit is keyed as it is
    spelled, because nobody knows whether the wrapper puts arguments of its own before them.  One that takes
    some away has to say so in its `__signature__`, which is believed.

    Raises TypeError for a `key` that cannot be called or stands beside `ignore`, a name in `ignore` that is
    no parameter, a version that has no key, and "source" for a function that has no code in Python.  The
    callable raises TypeError for a call that the function would not take, and for an argument that has no key.
    """
    ignored = _ignored(ignore)
    if key is not None and not callable(key):
        raise TypeError(f"key must be a function that takes the arguments of the call, not {key!r}")
    if key is not None and ignored:
        raise TypeError("key= says what counts, so ignore= cannot be given beside it")
    salt = f"objstore key {FORMAT} {_version_text(function, version, key)}"
    return _bound(function, ignored, salt) if key is None else _keyed(function, key, salt)


def _ignored(ignore: Any) -> frozenset[str]:
    names = None if isinstance(ignore, (str, bytes)) else tuple(ignore)
    if names is None or not all(isinstance(name, str) for name in names):
        raise TypeError(f"ignore is a list of names of parameters, such as ['verbose'], not {ignore!r}")
    return frozenset(names)


def _keyed(function: Callable[..., Any], key: Callable[..., Any], salt: str) -> KeyMaker:
    salted = f"{salt} key\n".encode("ascii")

    def made(*args: Any, **kwargs: Any) -> bytes:
        result = key(*args, **kwargs)
        try:
            return digest((result,), salted)
        except NotKeyable as exc:
            raise TypeError(f"what key= gave for {_shown(function)}() cannot be a key: {exc}") from exc

    return made


# The version.


def _version_text(function: Any, version: Any, key: Any) -> str:
    """What stands for the version in the salt."""
    sought = _without_objects(function)
    if version is None and module_of(sought) == "__main__":
        return _sources(sought, key) or "None"
    if isinstance(version, str) and version == "source":
        sources = _sources(sought, key)
        if sources is None:
            raise TypeError(f"{_shown(function)} is not written in Python: give a version='1' instead of 'source'")
        return sources
    try:
        return text_of(version)
    except NotKeyable as exc:
        raise TypeError(f"version {version!r} of {_shown(function)}() cannot be part of a key: {exc}") from exc


def _sources(sought: Any, key: Any) -> str | None:
    """A digest of what a function is made of, and of what makes its keys."""
    texts = [_source(sought), "" if key is None else _source(_without_objects(key)) or ""]
    if texts[0] is None:
        return None
    return f"<source {content_digest(ascii(texts).encode('ascii'))}>"


def _source(sought: Any) -> str | None:
    inner = unwrap(sought)
    if isinstance(inner, FunctionType):
        return function_text(inner)
    return class_text(inner) if isinstance(inner, type) else None


def _without_objects(function: Any) -> Any:
    """The function within partials, methods and objects that are called."""
    while isinstance(function, (partial, MethodType)):
        function = function.func if isinstance(function, partial) else function.__func__
    return function if _has_name(function) or isroutine(function) else type(function).__call__


# The call.


def _bound(function: Any, ignored: frozenset[str], salt: str) -> KeyMaker:
    """The maker of keys by bound arguments; what an object brings comes before them."""
    if isinstance(function, partial):
        return partial(_bound(function.func, ignored, salt), *function.args, **function.keywords)
    if isinstance(function, MethodType):
        return partial(_bound(function.__func__, ignored, salt), function.__self__)
    if not _has_name(function) and not isroutine(function):
        return partial(_bound(type(function).__call__, ignored, salt), function)
    owner = getattr(function, "__self__", None)
    if isinstance(function, BuiltinFunctionType) and not isinstance(owner, ModuleType | None):
        return partial(_binding(function, _ANYTHING, ignored, salt), owner)
    own = _signature(function) or _ANYTHING
    inner = _signature(unwrap(function)) if hasattr(function, "__wrapped__") else None
    if inner is None or not _hands_on(own, inner):
        return _binding(function, own, ignored, salt)
    return _guessed_binding(function, own, inner, ignored, salt)


def _signature(function: Any) -> Signature | None:
    try:
        return signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # some functions in C have none
        return None


def _hands_on(own: Signature, inner: Signature) -> bool:
    """Whether a wrapper takes anything, or anything after the first parameters of what it wraps."""
    kinds = {parameter.kind for parameter in own.parameters.values()}
    first = [name for name, parameter in own.parameters.items() if parameter.kind not in _STARS]
    return kinds >= _STARS.keys() and first == list(inner.parameters)[: len(first)]


def _guessed_binding(function: Any, own: Signature, inner: Signature, ignored: frozenset[str], salt: str) -> KeyMaker:
    """Bind a wrapper's call as what it wraps.

    A wrapper may put an argument before the others.  Then each stands for the parameter after the one that
    it is taken for here, and two calls that differ are still taken for different ones; but only as long as no
    default is filled in.
    """
    parameters = [
        parameter if parameter.default is Parameter.empty else parameter.replace(default=LeftOut)
        for parameter in inner.parameters.values()
    ]
    unknown = ignored - inner.parameters.keys() if not _takes_any_keyword(inner) else set()
    if unknown:
        raise _unknown(function, unknown)
    key = _binding(function, Signature(parameters), ignored, salt)
    bind = _compiled(function, parameters, [parameter.name for parameter in parameters], lambda values: values)
    as_spelled = _binding(function, own, ignored, salt)

    def made(*args: Any, **kwargs: Any) -> bytes:
        try:
            bind(*args, **kwargs)
        except TypeError:
            return as_spelled(*args, **kwargs)
        return key(*args, **kwargs)

    return made


def _binding(function: Any, own: Signature, ignored: frozenset[str], salt: str) -> KeyMaker:
    """A maker of keys with the parameters of a signature."""
    parameters = list(own.parameters.values())
    counted = [parameter for parameter in parameters if parameter.name not in ignored]
    elsewhere = ignored - own.parameters.keys()
    if elsewhere and not _takes_any_keyword(own):
        raise _unknown(function, elsewhere)
    names = tuple(_STARS.get(parameter.kind, "") + parameter.name for parameter in counted)
    salted = f"{salt} {text_of(names)}\n".encode("ascii")
    last_is_any = bool(counted) and counted[-1].kind is Parameter.VAR_KEYWORD

    def key(values: tuple[Any, ...]) -> bytes:
        try:
            return digest(values, salted)
        except NotKeyable as exc:
            raise _explained(exc, function, counted, values) from exc

    def key_without(values: tuple[Any, ...]) -> bytes:
        return key((*values[:-1], {name: value for name, value in values[-1].items() if name not in elsewhere}))

    finish = key_without if elsewhere and last_is_any else key
    return _compiled(function, parameters, [parameter.name for parameter in counted], finish)


def _takes_any_keyword(own: Signature) -> bool:
    return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in own.parameters.values())


def _unknown(function: Any, names: Iterable[str]) -> TypeError:
    listed = ", ".join(repr(name) for name in sorted(names))
    return TypeError(f"{_shown(function)}() has no parameter {listed}, which ignore= names")


def _compiled(
    function: Any, parameters: list[Parameter], counted: list[str], finish: Callable[[tuple[Any, ...]], Any]
) -> Callable[..., Any]:
    """A function with these parameters, which hands the tuple of those that count to `finish`."""
    finisher = "finish"
    while finisher in {parameter.name for parameter in parameters}:
        finisher += "_"
    values = "".join(f"{name}, " for name in counted)
    source = f"def bound({_written(parameters)}): return {finisher}(({values}))"
    namespace: dict[str, Any] = {finisher: finish}
    exec(source, namespace)  # noqa: S102  (made of names that are identifiers already; nothing else is as fast)
    bound = namespace["bound"]
    defaults = [parameter for parameter in parameters if parameter.default is not Parameter.empty]
    bound.__defaults__ = tuple(each.default for each in defaults if each.kind is not Parameter.KEYWORD_ONLY)
    bound.__kwdefaults__ = {each.name: each.default for each in defaults if each.kind is Parameter.KEYWORD_ONLY}
    bound.__name__ = str(getattr(function, "__name__", "function"))
    bound.__qualname__ = _shown(function)  # which Python writes where a call is wrong
    return bound  # type: ignore[no-any-return]


def _written(parameters: list[Parameter]) -> str:
    """A parameter list, with None for each default."""
    parts: list[str] = []
    kinds = [parameter.kind for parameter in parameters]
    for number, parameter in enumerate(parameters):
        if parameter.kind is Parameter.KEYWORD_ONLY and "*" not in "".join(parts):
            parts.append("*")
        default = "" if parameter.default is Parameter.empty else "=None"
        parts.append(f"{_STARS.get(parameter.kind, '')}{parameter.name}{default}")
        if parameter.kind is Parameter.POSITIONAL_ONLY and Parameter.POSITIONAL_ONLY not in kinds[number + 1 :]:
            parts.append("/")
    return ", ".join(parts)


# Messages.


def _explained(exc: NotKeyable, function: Any, parameters: list[Parameter], values: tuple[Any, ...]) -> TypeError:
    """The error for an argument that has no key, with its name and the ways out."""
    for parameter, value in zip(parameters, values, strict=True):
        for name, part in _parts(parameter, value):
            try:
                text_of(part)
            except NotKeyable as its_own:
                return TypeError(
                    f"argument {name!r} of {_shown(function)}() cannot be keyed stably: {its_own}; say what counts "
                    f"with key=..., leave it out with ignore=[{parameter.name!r}], or teach its type with "
                    f"register_key({its_own.kind.__qualname__}, ...)"
                )
    return exc  # it has a key now: another thread has registered the type


def _parts(parameter: Parameter, value: Any) -> Iterable[tuple[str, Any]]:
    """The arguments that a parameter took, by the names that their caller knows."""
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return [(f"{parameter.name}[{number}]", part) for number, part in enumerate(value)]
    return value.items() if parameter.kind is Parameter.VAR_KEYWORD else [(parameter.name, value)]


def _shown(function: Any) -> str:
    name = getattr(_without_objects(function), "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def _anything(*args: Any, **kwargs: Any) -> None:
    """Has the parameters of a function that does not tell its own."""


_ANYTHING = signature(_anything)
