"""Every spelling of one call has one key, and what was edited has another."""

from __future__ import annotations
import __future__

import functools
import inspect
import json
import linecache
import os
import subprocess
import sys
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

import objstore
from objstore import memokeys, sourcecode
from objstore.functions import key_maker, name_of

ROOT = str(Path(objstore.__file__).parent.parent)

few_or_many = settings(max_examples=strategies.EXAMPLES, deadline=None)


def load(a, b=2, *, c=3):
    return a, b, c


def anything(*args, **kwargs):
    return args, kwargs


def mixed(a, b=2, /, c=3, *rest, d, e=5, **options):
    return a, b, c, rest, d, e, options


def only(a, /, b, *, finish, values=None):
    return a, b, finish, values


def über(größe, /, *, function=1, bound=2, kwargs=3):
    return größe, function, bound, kwargs


FUNCTIONS = [load, anything, mixed, only, über]
PLAIN = st.sampled_from([1, 2, 3, 5, 1.0, True, None, "1", "a", (), (1,), [1], {"a": 1}])


class Tool:
    def __init__(self, size):
        self.size = size

    def use(self, x, y=1):
        return self.size, x, y

    @classmethod
    def make(cls, x, y=1):
        return cls, x, y

    @staticmethod
    def static(x, y=1):
        return x, y

    def __call__(self, x, y=1):
        return self.size, x, y


@dataclass
class Kept:
    size: int

    def use(self, x, y=1):
        return self.size, x, y

    def __call__(self, x, y=1):
        return self.size, x, y


class TestSpellings:
    @few_or_many
    @given(st.sampled_from(FUNCTIONS), st.data())
    def test_two_calls_have_one_key_exactly_when_they_bind_alike(self, function, data):
        maker, (one, other) = key_maker(function), data.draw(st.tuples(calls(function), calls(function)))
        bound = [outcome(function, *call) for call in (one, other)]
        keys = [outcome(maker, *call) for call in (one, other)]
        for result, key in zip(bound, keys, strict=True):
            if isinstance(result, TypeError):
                assert str(key) == str(result)  # in the very words of Python
            else:
                assert (type(key), len(key)) == (bytes, 20)
        if not any(isinstance(result, TypeError) for result in bound):
            assert (keys[0] == keys[1]) == (memokeys.text_of(bound[0]) == memokeys.text_of(bound[1]))

    def test_positions_names_and_defaults(self):
        key = key_maker(load)
        spelled = {key(1), key(1, 2), key(a=1), key(b=2, a=1), key(1, c=3), key(c=3, b=2, a=1)}
        assert len(spelled) == 1
        assert len({*spelled, key(2), key(1, 3), key(1, c=4), key(1.0), key(True), key("1"), key(b"1")}) == 8

    def test_parameters_may_have_any_name(self):
        assert key_maker(only)(1, 2, finish=3) == key_maker(only)(1, finish=3, b=2, values=None)
        assert key_maker(über)(1, function=5) != key_maker(über)(1, bound=5)

    def test_the_order_of_other_keywords_is_nothing_and_that_of_arguments_counts(self):
        key = key_maker(anything)
        assert key(x=1, y=2) == key(y=2, x=1)
        assert len({key(1, 2), key(2, 1), key((1, 2)), key(1, y=2), key(y=2), key()}) == 6

    def test_a_default_counts_by_its_content_at_the_call(self):
        shared = [1]

        def function(x, items=shared):
            return x, items

        key = key_maker(function)
        before = key(1)
        shared.append(2)
        assert key(1) == key(1, [1, 2]) != before
        shared.pop()
        assert key(1) == before

    def test_parameters_that_changed_places_or_names_make_other_keys(self):
        def first(a, b): ...
        def second(b, a): ...
        def third(a, *b): ...
        def fourth(a, b=0, /): ...

        keys = [key_maker(function)(1, 2) for function in (first, second, third, fourth)]
        assert len(set(keys)) == 3
        assert keys[0] == keys[3]

    def test_builtins_without_a_signature(self):
        with pytest.raises(ValueError, match="signature"):
            inspect.signature(max)
        key = key_maker(max)
        assert key(1, 2) == key(1, 2) != key(2, 1)
        assert key([1], default=2, key=len) == key([1], key=len, default=2)
        assert key_maker(pow)(2, 3) == key_maker(pow)(base=2, exp=3, mod=None)

    def test_many_threads_share_nothing(self):
        key = key_maker(load)
        assert key.__closure__ is None
        assert key.__qualname__ == "load"


def outcome(function, args, kwargs):
    try:
        return function(*args, **kwargs)
    except TypeError as exc:
        return exc


def calls(function):
    """Positional and keyword arguments for a function; some of them fit."""
    names = [*inspect.signature(function).parameters, "other"]
    return st.tuples(st.lists(PLAIN, max_size=4), st.dictionaries(st.sampled_from(names), PLAIN, max_size=4))


class TestMethodsAndObjects:
    def test_the_object_is_an_argument_like_others(self):
        key = key_maker(Kept.use)
        assert key(Kept(1), 2) == key(Kept(1), y=1, x=2) == key_maker(Kept(1).use)(2)
        assert key(Kept(1), 2) != key(Kept(2), 2)
        with pytest.raises(TypeError, match=r"argument 'self' of Tool.use\(\) .*ignore=\['self'\]"):
            key_maker(Tool.use)(Tool(1), 2)
        assert key_maker(Tool.use, ignore=["self"])(Tool(1), 2) == key_maker(Tool(3).use, ignore=["self"])(2)

    def test_class_methods_and_static_ones(self):
        assert key_maker(Tool.make)(1) == key_maker(Tool.__dict__["make"].__func__)(Tool, 1, y=1)
        assert key_maker(Tool.static)(1) == key_maker(Tool.static)(x=1, y=1)

    def test_an_object_that_is_called_counts(self):
        assert key_maker(Kept(1))(2) == key_maker(Kept(1))(x=2, y=1) != key_maker(Kept(2))(2)

    def test_a_partial_counts_as_the_call_that_it_makes(self):
        whole = key_maker(load)
        assert key_maker(functools.partial(load, 1, c=5))(4) == whole(1, 4, c=5)
        assert key_maker(functools.partial(load, 1, c=5))(4, c=6) == whole(1, 4, c=6)

    def test_methods_in_c_and_classes(self):
        assert key_maker("abc".find)("a") != key_maker("abd".find)("a")
        assert key_maker(str.upper)("a") != key_maker(str.upper)("b")
        assert key_maker(Kept)(1) == key_maker(Kept)(size=1)
        assert key_maker(np.add)(1, 2) != key_maker(np.add)(2, 1)


def plainly(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def with_session(function):
    """Puts an argument before those of the caller, and does not tell `inspect`."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function("session", *args, **kwargs)

    return wrapper


def for_methods(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return function(self, *args, **kwargs)

    return wrapper


class TestWrappers:
    @pytest.mark.parametrize("wrap", [plainly, functools.cache], ids=lambda wrap: wrap.__name__)
    def test_names_and_positions_are_one_spelling(self, wrap):
        key = key_maker(wrap(load))
        assert key(1, 2) == key(1, b=2) == key(b=2, a=1)
        assert key(1, 2) != key(2, 1)

    def test_so_they_are_where_the_wrapper_names_the_first_ones(self):
        key = key_maker(for_methods(Kept.use))
        assert key(Kept(1), 2, 3) == key(Kept(1), 2, y=3) == key(self=Kept(1), x=2, y=3) != key(Kept(2), 2, 3)
        key = key_maker(for_methods(load))  # which calls its first one otherwise, so nothing can be said of the rest
        assert key(1, b=2) == key(self=1, b=2)

    @few_or_many
    @given(st.data())
    def test_calls_that_a_wrapper_turns_into_different_ones_never_share_a_key(self, data):
        wrapped = with_session(mixed)
        key, (one, other) = key_maker(wrapped), data.draw(st.tuples(calls(mixed), calls(mixed)))
        made = [outcome(wrapped, *call) for call in (one, other)]
        if any(isinstance(result, TypeError) for result in made):
            return
        if memokeys.text_of(made[0]) != memokeys.text_of(made[1]):
            assert key(*one[0], **one[1]) != key(*other[0], **other[1])

    def test_defaults_behind_such_a_wrapper(self):
        @with_session
        def function(session, a, b=5, c=0):
            return session, a, b, c

        key = key_maker(function)
        assert function(1, 2) != function(1, 2, 5)
        assert len({key(1), key(1, 2), key(1, 2, 5)}) == 3

    def test_what_a_wrapper_says_of_itself_is_believed(self):
        wrapper = plainly(load)
        wrapper.__signature__ = inspect.signature(lambda q, r=1: None)
        assert key_maker(wrapper)(1) == key_maker(wrapper)(q=1, r=1)


class TestIgnoring:
    def test_names_are_left_out_however_they_are_spelled(self):
        key = key_maker(load, ignore=("b",))
        assert key(1) == key(1, 9) == key(1, b=8) == key(b=7, a=1) != key(2)
        assert key(object, 9) != key(1, 9)
        assert key(1, object()) == key(1)

    def test_parameters_with_stars(self):
        assert key_maker(mixed, ignore=["rest"])(1, 2, 3, 4, d=1) == key_maker(mixed, ignore=["rest"])(1, d=1)
        assert key_maker(mixed, ignore=["options"])(1, d=1, x=4) == key_maker(mixed, ignore=["options"])(1, d=1)

    def test_any_other_keyword_where_there_may_be_one(self):
        key = key_maker(mixed, ignore={"verbose"})
        assert key(1, d=1, verbose=2) == key(1, d=1) == key(1, d=1, verbose=object())
        assert key(1, d=1, other=2) != key(1, d=1)
        assert key_maker(mixed, ignore={"verbose", "options"})(1, d=1, x=1) == key_maker(mixed, ignore=["options"])(
            1, d=1
        )

    def test_a_wrapped_function(self):
        key = key_maker(plainly(load), ignore=["b"])
        assert key(1, 2) == key(1, b=9) == key(1)

    def test_nothing_may_count(self):
        assert key_maker(load, ignore=["a", "b", "c"])(1) == key_maker(load, ignore=["a", "b", "c"])(2)

    @pytest.mark.parametrize("ignore", [["x"], "a", b"a", [1], 3, None])
    def test_what_names_no_parameter_is_refused_at_once(self, ignore):
        with pytest.raises(TypeError, match=r"ignore|iterable"):
            key_maker(load, ignore=ignore)
        if ignore == ["x"]:
            with pytest.raises(TypeError, match=r"load\(\) has no parameter 'x'"):
                key_maker(plainly(load), ignore=ignore)


class TestAKeyOfOnesOwn:
    def test_it_is_called_with_the_same_arguments_and_counts_alone(self):
        key = key_maker(load, key=lambda a, *rest, **others: a % 2)
        assert key(1) == key(3, 5, c=object()) != key(2)

    def test_it_is_not_the_key_of_a_call_with_such_an_argument(self):
        assert key_maker(load, key=lambda *args: args)(1) != key_maker(anything)(1)

    def test_it_must_be_a_function_and_stands_alone(self):
        with pytest.raises(TypeError, match="key must be a function"):
            key_maker(load, key="a")
        with pytest.raises(TypeError, match="ignore="):
            key_maker(load, key=len, ignore=["a"])

    def test_what_it_gives_must_have_a_key(self):
        with pytest.raises(TypeError, match=r"what key= gave for load\(\)"):
            key_maker(load, key=lambda a: object())(1)


class TestMessages:
    def test_the_argument_is_named_with_the_ways_out(self):
        with pytest.raises(TypeError) as caught:
            key_maker(load)(1, {"x": [Tool(1)]})
        message = str(caught.value)
        for part in (
            "argument 'b' of load()",
            "test_functions.Tool",
            "key=",
            "ignore=['b']",
            "register_key(Tool, ...)",
        ):
            assert part in message

    def test_so_are_those_behind_stars(self):
        with pytest.raises(TypeError, match=r"argument 'rest\[1\]' of mixed\(\).*ignore=\['rest'\]"):
            key_maker(mixed)(1, 2, 3, 4, Tool(1), d=1)
        with pytest.raises(TypeError, match="argument 'deep' of"):
            key_maker(mixed)(1, d=1, deep=Tool(1))


class TestNames:
    def test_module_and_qualified_name(self):
        assert name_of(load) == "test_functions.load"
        assert name_of(Tool.use) == name_of(Tool(1).use) == "test_functions.Tool.use"
        assert name_of(Tool) == "test_functions.Tool"
        assert name_of(len) == "builtins.len"
        assert name_of(functools.cache(load)) == "test_functions.load"

    @pytest.mark.parametrize(
        ("function", "error"),
        [
            (lambda: 0, ValueError),
            (plainly(lambda: 0), ValueError),
            (functools.partial(load, 1), TypeError),
            (Kept(1), TypeError),
            (types.FunctionType((lambda: 0).__code__, {}, "f"), TypeError),
        ],
    )
    def test_what_has_no_name_is_asked_for_one(self, function, error):
        with pytest.raises((error, ValueError), match=r"name='\.\.\.'"):
            name_of(function)
        assert name_of(function, "mine") == "mine"

    def test_a_function_inside_a_function(self):
        def inner(): ...

        with pytest.raises(ValueError, match=r"<locals>.inner .*name='...'"):
            name_of(inner)

    def test_given_names(self):
        assert name_of(load, "é" * 200) == "é" * 200
        for name, error in [("", ValueError), ("x" * 201, ValueError), (1, TypeError), (b"x", TypeError)]:
            with pytest.raises(error, match="name must"):
                name_of(load, name)
        with pytest.raises(TypeError, match="a function is needed"):
            name_of(3)


class TestVersions:
    def test_another_version_makes_other_keys(self):
        versions = [None, 1, "1", 1.0, True, b"1", (1, "a"), "source", "None"]
        assert len({key_maker(load, version=version)(1) for version in versions}) == len(versions)
        with pytest.raises(TypeError, match=r"version .* of load\(\) cannot be part of a key"):
            key_maker(load, version=object())

    def test_a_function_in_c_has_no_source(self):
        with pytest.raises(TypeError, match="not written in Python"):
            key_maker(len, version="source")

    def test_the_source_is_found_beneath_wrappers_partials_and_objects(self):
        def text(function):
            return key_maker(function, version="source", key=lambda *args: 0)()

        assert text(plainly(load)) == text(load) == text(functools.partial(load, 1))
        assert text(Kept(1)) == text(Kept.__call__) != text(Kept.use) == text(Kept(1).use)


def run_cell(source, cell="<cell 1>", *, known=True, name="__main__", flags=0):
    """What a cell of a notebook defines; its text is kept for tracebacks, as notebooks do."""
    source = textwrap.dedent(source)
    if known:
        linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    namespace = {"__name__": name, "functools": functools}
    exec(compile(source, cell, "exec", flags, dont_inherit=True), namespace)
    return namespace["f"]


CELL = """
def f(x, y=1):
    # by hand
    return x + 1
"""
EDITS = {
    "a constant": ("x + 1", "x + 2"),
    "its type only": ("x + 1", "x + 1.0"),
    "its type only, in a tuple": ("x + 1", "x in (1, True)"),
    "an operator": ("x + 1", "x - 1"),
    "a name": ("x + 1", "y + 1"),
    "a function inside": ("x + 1", "(lambda: x + 1)()"),
    "a set": ("x + 1", "x in {1, 2}"),
}


@pytest.fixture(autouse=True)
def cells():
    """Forget the cells of a test."""
    before = set(linecache.cache)
    yield
    for name in linecache.cache.keys() - before:
        del linecache.cache[name]


def version_key(function, **options):
    return key_maker(function, **options)(1)


class TestNotebooks:
    @pytest.mark.parametrize("known", [True, False], ids=["with its source", "without"])
    @pytest.mark.parametrize("edit", EDITS)
    def test_an_edited_cell_never_gives_its_former_key(self, edit, known):
        former = version_key(run_cell(CELL, known=known))
        assert version_key(run_cell(CELL.replace(*EDITS[edit]), known=known)) != former
        assert version_key(run_cell(CELL, known=known)) == former

    @pytest.mark.parametrize("edit", EDITS)
    def test_not_even_where_the_text_of_the_former_one_is_still_kept(self, edit):
        former = version_key(run_cell(CELL))
        assert version_key(run_cell(CELL.replace(*EDITS[edit]), known=False)) != former

    def test_nor_where_another_cell_has_taken_its_name(self):
        function = run_cell(CELL)
        run_cell(CELL.replace("+ 1", "+ 2"))
        assert sourcecode.function_text(function).startswith("code ")

    def test_the_same_cell_in_another_place_and_run_has_the_same_key(self):
        former = version_key(run_cell(CELL))
        assert version_key(run_cell("\n\nimport os\n" + CELL, "<cell 7>")) == former
        nested = "if True:\n" + textwrap.indent(CELL, "    ")
        assert version_key(run_cell(nested, "<cell 8>")) == former

    def test_other_functions_of_the_cell_do_not_count(self):
        assert version_key(run_cell(CELL + "\ndef g():\n    return 1\n")) == version_key(run_cell(CELL))

    def test_a_comment_counts_where_there_is_source_and_not_in_byte_code(self):
        other = CELL.replace("by hand", "by a hand")
        assert version_key(run_cell(CELL)) != version_key(run_cell(other))
        unknown = [version_key(run_cell(text, "<other>", known=False)) for text in (CELL, "\n\n" + other)]
        assert unknown[0] == unknown[1]

    def test_decorators_closures_and_future_imports_do_not_hide_the_source(self):
        cell = """
        from __future__ import annotations
        def outer(z):
            @functools.wraps(len)
            def f(x: int) -> str:
                '''It says what it does.'''
                async def inner(): return [x for _ in z]
                try: return inner, {1, 2, 3}, __class__ if 0 else None
                except ValueError: pass
            return f
        f = outer(3).__wrapped__ if 0 else outer(3)
        """
        function = run_cell(cell.replace("@functools.wraps(len)", "@functools.lru_cache"))
        text = sourcecode.function_text(inspect.unwrap(function))
        assert text.startswith("source @functools.lru_cache\ndef f(x: int)")

    def test_a_notebook_goes_on_with_what_one_cell_imported_from_the_future(self):
        function = run_cell(CELL, flags=__future__.annotations.compiler_flag)
        assert sourcecode.function_text(function).startswith("source ")

    def test_names_that_byte_code_looks_up_count(self):
        keys = [version_key(run_cell(CELL.replace("x + 1", part), known=False)) for part in ("abs(x)", "int(x)")]
        assert keys[0] != keys[1]

    def test_lambdas_on_one_line_differ(self):
        pair = run_cell("f = [lambda x: x + 1, lambda x: x + 2]")
        assert version_key(pair[0]) != version_key(pair[1])

    def test_modules_have_no_version_unless_asked(self):
        plain = [run_cell(CELL.replace("+ 1", edit), name="module") for edit in ("+ 1", "+ 2")]
        assert version_key(plain[0]) == version_key(plain[1])
        asked = [
            version_key(run_cell(CELL.replace("+ 1", edit), name="module"), version="source") for edit in ("+ 1", "+ 2")
        ]
        assert asked[0] != asked[1]

    def test_a_given_version_takes_the_place_of_the_source(self):
        given = [version_key(run_cell(CELL.replace("+ 1", edit)), version=1) for edit in ("+ 1", "+ 2")]
        assert given[0] == given[1]

    def test_an_edited_key_function_counts(self):
        function = run_cell(CELL)
        keys = [version_key(function, key=run_cell(f"def f(x): return {part}", "<key>")) for part in ("x", "x * 1")]
        assert keys[0] != keys[1]

    def test_functions_and_classes_of_the_cell_count_by_source_as_arguments(self, monkeypatch):
        cell = "class f:\n    size = {}\n    def use(self): return {}\n"
        texts = set()
        for size, result in [(1, 1), (1, 2), (2, 1), (1.0, 1), (1, 1)]:
            for source in (cell.format(size, result), f"def f(x={size}): return {result}"):
                thing = run_cell(source)
                monkeypatch.setattr(sys.modules["__main__"], "f", thing, raising=False)
                texts.add(memokeys.text_of(thing))
        assert len(texts) == 8


SCRIPT = """
import json, sys
from objstore.functions import key_maker, name_of

def compute(x, y=1):
    return x + 1

class Holder:
    def method(self, x):
        return x

print(json.dumps([name_of(compute), key_maker(compute)(3).hex(), name_of(Holder.method)]))
"""


def run_script(path, source):
    path.write_text(source)
    environment = {**os.environ, "PYTHONPATH": ROOT}
    return json.loads(output([sys.executable, path.name], cwd=path.parent, env=environment))


def output(command, **options):
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)
    assert run.returncode == 0, run.stderr
    return run.stdout


class TestScripts:
    def test_a_script_has_its_path_in_the_name_and_its_source_in_the_version(self, tmp_path):
        one, other = tmp_path / "one.py", tmp_path / "other.py"
        name, key, method = run_script(one, SCRIPT)
        assert (name, method) == (f"{one}:compute", f"{one}:Holder.method")
        assert run_script(one, "# moved\n" + SCRIPT) == [name, key, method]
        assert run_script(one, SCRIPT.replace("x + 1", "x + 2"))[1] != key
        assert run_script(other, SCRIPT) == [f"{other}:compute", key, f"{other}:Holder.method"]

    def test_a_child_that_was_spawned_knows_the_same_names(self, tmp_path):
        script = """
        import json, multiprocessing, sys
        from objstore.functions import key_maker, name_of
        from objstore.memokeys import text_of

        class Box:
            pass

        def compute(x):
            return x + 1

        def tell(_):
            return [name_of(compute), key_maker(compute)(3).hex(), text_of(compute), text_of(Box)]

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(json.dumps([tell(0), pool.map(tell, [0])[0]]))
        """
        parent, child = run_script(tmp_path / "spawning.py", textwrap.dedent(script))
        assert parent == child
        assert parent[0] == f"{tmp_path}/spawning.py:compute"

    def test_without_a_file_the_module_has_its_name(self):
        code = "from objstore.functions import *\ndef f(x): {}\nprint(name_of(f), key_maker(f)(1).hex())"
        same = "return x in {'a', 'b', 'c', 'd', 'e', 'f', 'g'}"
        environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in "123"]
        bodies = zip((same, same, "return 1"), environments, strict=True)
        runs = [output([sys.executable, "-c", code.format(body)], env=env).split() for body, env in bodies]
        (name, key), again, (_, edited) = runs
        assert name == "__main__.f"
        assert again == [name, key]
        assert edited != key
