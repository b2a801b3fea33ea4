"""The text of a function or a class: what changes when somebody edits it, and never otherwise.

A function is told by its source: the block that `inspect` would show, decorators and comments included,
without the indentation it stands in.  The source is the same on every interpreter.  But what a file or a
notebook's cell says now need not be what the function was made of: it may have been edited since, or another
cell may have taken its name.  So the source is believed only where it compiles to the very code of the
function.  Where it does not, or where there is none, the byte code and the constants stand for it, nested
functions included, without names of files and numbers of lines.  Byte code differs between versions of
Python, so what goes by it is computed again under the next one.  Lambdas go by byte code always: two of them
may share a line.

Here nothing is known of keys, versions or caches: a text goes out, ASCII only in the case of byte code.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import linecache
import textwrap
import warnings
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

_FUTURE = __future__.annotations.compiler_flag  # the one import from the future that still changes code
_LONG_INT_BITS = 2_000  # Python may refuse to write the decimal digits of longer ones
_PLAIN = {type(None), bool, float, complex, str, bytes, type(...)}

_texts: WeakKeyDictionary[FunctionType, tuple[CodeType, str]] = WeakKeyDictionary()

# What a class has of its own without having been written into it, or what only describes it.
_DESCRIPTIONS = {
    "__annotate__",
    "__annotate_func__",
    "__annotations__",
    "__annotations_cache__",
    "__dict__",
    "__doc__",
    "__firstlineno__",
    "__module__",
    "__qualname__",
    "__static_attributes__",
    "__weakref__",
}


def function_text(function: FunctionType) -> str:
    """The source of a Python function where that can be believed, else its byte code and constants."""
    code, text = _texts.get(function, (None, ""))
    if code is not function.__code__:
        code, source = function.__code__, _source(function)
        text = f"code {code_text(code)}" if source is None else f"source {source}"
        _texts[function] = code, text
    return text


def class_text(kind: type) -> str:
    """The names of the bases of a class, the byte code of its functions and the constants written into it."""
    own = [[name, _attribute(kind, value)] for name, value in sorted(vars(kind).items()) if name not in _DESCRIPTIONS]
    return f"class {[[base.__qualname__ for base in kind.__bases__], own]!a}"


def code_text(code: CodeType) -> str:
    """All that a code object does, and nothing of where it was written."""
    return ascii(_parts(code))


def _source(function: FunctionType) -> str | None:
    code = function.__code__
    if code.co_name == "<lambda>":
        return None
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    first = code.co_firstlineno - 1
    if not 0 <= first < len(lines):
        return None
    whole = _compiled("".join(lines), code.co_flags & _FUTURE)
    text = code_text(code)
    if not any(code_text(other) == text for other in _codes(whole) if other.co_firstlineno == code.co_firstlineno):
        return None
    return textwrap.dedent("".join(inspect.getblock(lines[first:])))


@lru_cache(maxsize=8)
def _compiled(text: str, flags: int) -> CodeType | None:
    """The code of a whole file or cell, compiled as it was: with the same imports from the future."""
    with warnings.catch_warnings():  # they were given when it was compiled to run
        warnings.simplefilter("ignore")
        try:
            code: CodeType = compile(text, "", "exec", flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # what compile raises for no Python at all
            return None
    return code


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    """The code objects within another."""
    for constant in code.co_consts if code else ():
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _parts(code: CodeType) -> tuple[Any, ...]:
    return (
        code.co_name,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        code.co_code,
        code.co_exceptiontable,
        [_constant(constant) for constant in code.co_consts],
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
    )


def _constant(value: Any) -> Any:
    """A constant for `ascii`; lists are none, so they mark what stands for something else."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, CodeType):
        return ["code", _parts(value)]
    if type(value) is int:
        return value if value.bit_length() <= _LONG_INT_BITS else ["int", hex(value)]
    if type(value) is tuple:
        return tuple(map(_constant, value))
    if type(value) is frozenset:
        return ["frozenset", *sorted(ascii(_constant(element)) for element in value)]
    if type(value) is slice:
        return ["slice", *map(_constant, (value.start, value.stop, value.step))]
    return ["type", type(value).__qualname__]


def _attribute(kind: type, value: Any) -> Any:
    """What stands for an attribute of a class: its code, its value where that is a constant, else its type."""
    if isinstance(value, (staticmethod, classmethod)):
        return [type(value).__name__, _attribute(kind, value.__func__)]
    if isinstance(value, property):
        return ["property", *(_attribute(kind, part) for part in (value.fget, value.fset, value.fdel))]
    if isinstance(value, FunctionType):
        inner = inspect.unwrap(value)
        return ["function", _constant(getattr(inner, "__code__", None))]
    if isinstance(value, type) and value.__qualname__.startswith(f"{kind.__qualname__}."):
        return ["class", class_text(value)]
    return _constant(value)
