"""MessagePack and JSON: what is written comes back as what was said, or is refused; and no bytes do any harm.

OBJSTORE_PAYLOADS says how many forged payloads each format meets (1,000 in a second; a million for a long night).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import types
import typing
import uuid

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from objstore.codecs import structured
from objstore.codecs.structured import ARRAY, Json, Msgpack
from objstore.record import LARGE

PAYLOADS = int(os.environ.get("OBJSTORE_PAYLOADS", "1000"))

FORMATS = pytest.mark.parametrize("kind", [Msgpack, Json])

REFUSED = (ValueError, TypeError, msgspec.MsgspecError)
"""What a payload that makes no sense raises; before msgspec 0.19, its errors were no ValueErrors."""

ran = []


class Canary:
    def __reduce__(self):
        return ran.append, ("boom",)


def round_trip(codec, value):
    payload, frames = codec.encode(value)
    return codec.decode(memoryview(payload), [bytearray(frame) for frame in frames])


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Person:
    name: str
    age: int = 0
    extra: typing.Any = None


@dataclasses.dataclass
class Customer(Person):
    number: int = 5


@attrs.define
class Place:
    name: str
    people: list[Person] = attrs.field(factory=list)


class Struct(msgspec.Struct):
    name: str
    array: np.ndarray | None = None
    data: bytes = b""
    when: datetime.datetime | None = None


class Movie(typing.TypedDict):
    title: str
    year: int


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    name: str
    size: float = pydantic.Field(default=1.0, alias="Size")
    when: datetime.datetime | None = None
    numbers: set[int] = {1}
    data: bytes = b"text"
    array: np.ndarray | None = None
    inner: Model | None = None

    @pydantic.computed_field
    def length(self) -> int:
        return len(self.name)


@dataclasses.dataclass
class HasModels:
    models: dict[str, Model]
    one: Model | None = None


NOON = datetime.datetime(2026, 1, 2, 12, 0, 0, 5)
UTC_NOON = NOON.replace(tzinfo=datetime.timezone.utc)

TYPED = [
    (Person, Person("Ada", 36)),
    (Person, Person("Ada", 36, {"a": [1, 2.5, None]})),
    (list[Person], [Person("Ada"), Person("Bob")]),
    (dict[str, Person | None], {"a": Person("Ada"), "b": None}),
    (Place, Place("here", [Person("Ada")])),
    (Struct, Struct("s", data=b"\xff\x00", when=UTC_NOON)),
    (list[Struct], [Struct("s", when=NOON)]),
    (Movie, {"title": "M", "year": 1931}),
    (Model, Model(name="m", Size=2.5, when=UTC_NOON, inner=Model(name="i"))),
    (list[Model], [Model(name="m")]),
    (dict[str, Model], {"a": Model(name="m", when=NOON)}),
    (HasModels, HasModels({"a": Model(name="m")}, Model(name="n"))),
    (Person | int, 5),
    (Person | int, Person("Ada")),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "2")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, str], {1: "a"}),
    (dict[uuid.UUID, int], {uuid.UUID(int=5): 1}),
    (bytes, b"\xff"),
    (bytearray, bytearray(b"\xff")),
    (datetime.datetime, NOON),
    (datetime.datetime, UTC_NOON),
    (datetime.date, NOON.date()),
    (datetime.time, NOON.time()),
    (datetime.timedelta, datetime.timedelta(1, 2, 3)),
    (decimal.Decimal, decimal.Decimal("1.50")),
    (uuid.UUID, uuid.UUID(int=7)),
    (Color, Color.RED),
    (typing.Literal["a", "b"], "b"),
    (float, 0.1),
    (float | None, None),
    (typing.Annotated[int, msgspec.Meta(ge=0)], 5),
]


def named(type_):
    """How a test of that type is called; values go without."""
    return getattr(type_, "__name__", str(type_)) if type_ is None or isinstance(type_, type) else None


@FORMATS
class TestTypes:
    @pytest.mark.parametrize(("type_", "value"), TYPED, ids=named)
    def test_a_value_of_the_type_comes_back(self, kind, type_, value):
        back = round_trip(kind(type_), value)
        assert back == value
        assert type(back) is type(value)

    @pytest.mark.parametrize(
        ("type_", "value"),
        [
            (Person, Person(5)),
            (Person, {"name": "Ada"}),
            (Person, Customer("Ada")),
            (Person, None),
            (list[Person], (Person("Ada"),)),
            (list[Person], [Person("Ada"), {"nam": "Bob"}]),
            (dict[str, Person], {"a": 1}),
            (Movie, {"title": "M"}),
            (Movie, {"title": "M", "year": "1931"}),
            (Model, Person("Ada")),
            (Model, Model.model_construct(name=5)),
            (tuple[int, str], (1, 2)),
            (set[int], {"a"}),
            (Struct, Struct(5)),
            (int, "5"),
            (int, 5.5),
            (typing.Literal["a"], "b"),
            (typing.Annotated[int, msgspec.Meta(ge=0)], -5),
            (np.ndarray, 5),
            (np.ndarray, [1.0, 2.0]),
        ],
        ids=named,
    )
    def test_another_is_refused_when_it_is_written(self, kind, type_, value):
        with pytest.raises(TypeError, match=r"would come back as|would not come back as"):
            kind(type_).encode(value)

    def test_another_is_refused_when_it_is_read(self, kind):
        payload, _ = kind().encode({"name": "Ada", "age": "old"})
        with pytest.raises(REFUSED, match=r"Expected `int`, got `str` - at `\$\.age`"):
            kind(Person).decode(memoryview(payload), ())

    def test_a_number_that_is_equal_is_as_good(self, kind):
        assert round_trip(kind(float), 1) == 1.0

    def test_a_type_that_cannot_be_is_refused_at_once(self, kind):
        with pytest.raises(TypeError):
            kind(dict[Person, int] | dict[str, int])

    def test_models_are_checked_by_pydantic(self, kind):
        class Strict(pydantic.BaseModel):
            age: typing.Annotated[int, pydantic.Field(gt=3)]

        payload, _ = kind().encode({"age": 2})
        with pytest.raises(REFUSED, match="greater than 3"):
            kind(Strict).decode(memoryview(payload), ())

    def test_without_a_type_classes_become_mappings(self, kind):
        assert round_trip(kind(), Person("Ada")) == {"name": "Ada", "age": 0, "extra": None}
        assert round_trip(kind(), [Model(name="m")])[0]["Size"] == 1.0

    @pytest.mark.parametrize("value", [1j, object(), Canary(), Canary, len, types.SimpleNamespace(), Ellipsis])
    def test_what_the_formats_do_not_know_is_refused(self, kind, value):
        for whole in (value, [value], {"a": value}):
            with pytest.raises(TypeError, match=r"unsupported|nothing that these formats know"):
                kind().encode(whole)
        assert ran == []

    def test_lone_surrogates_are_refused(self, kind):
        with pytest.raises(UnicodeEncodeError):
            kind().encode(["\ud800"])


def plain(keys, numbers):
    """What the format knows, with such keys and numbers."""
    texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=10)
    leaves = st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False) | texts
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys(texts), inner, max_size=4),
        max_leaves=8,
    )


class TestPlainValues:
    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(
        plain(lambda texts: texts | st.integers(-5, 5) | st.binary(max_size=3), st.integers(-(2**63), 2**64 - 1))
        | st.binary(max_size=5)
    )
    def test_msgpack_gives_back_what_it_knows(self, value):
        back = round_trip(Msgpack(), value)
        assert back == value
        assert type(back) is type(value)

    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(plain(lambda texts: texts, st.integers(-(2**200), 2**200)))
    def test_json_gives_back_what_it_knows(self, value):
        back = round_trip(Json(), value)
        assert back == value
        assert type(back) is type(value)
        assert json.loads(Json().encode(value)[0]) == value

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("around", [lambda x: x, lambda x: [None, x], lambda x: {"a": {"b": (x,)}}, Person])
    def test_json_refuses_what_is_not_finite(self, value, around):
        with pytest.raises(ValueError, match="JSON has no"):
            Json().encode(around(value))
        back = round_trip(Msgpack(), {"a": value})["a"]
        assert back == value or (math.isnan(value) and math.isnan(back))

    @pytest.mark.parametrize("type_", [float, float | None, typing.Any, list[typing.Any] | float | None])
    def test_json_with_a_type_refuses_it_too(self, type_):
        with pytest.raises((ValueError, TypeError), match=r"JSON has no|come back as"):
            Json(type_).encode(math.nan)
        with pytest.raises(ValueError, match="JSON has no nan"):
            Json(Person).encode(Person("Ada", 1, [math.nan, None]))

    @pytest.mark.parametrize("key", [1, 1.5, b"a"])
    def test_json_refuses_keys_that_would_become_text(self, key):
        with pytest.raises(TypeError, match="is not text"):
            Json().encode({"a": [{key: 1}]})
        with pytest.raises(TypeError, match="is not text"):
            Json().encode([{key: 1}, np.zeros(1)])

    @pytest.mark.parametrize("value", [b"a", bytearray(b"a"), memoryview(b"a")])
    def test_json_refuses_bytes_that_would_become_text(self, value):
        with pytest.raises(TypeError, match="JSON has no bytes"):
            Json().encode({"a": [value]})

    @pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
    def test_msgpack_refuses_integers_beyond_64_bits(self, value):
        with pytest.raises(OverflowError):
            Msgpack().encode(value)
        assert round_trip(Json(), value) == value

    @pytest.mark.parametrize(
        ("value", "msgpack", "json_"),
        [
            ((1, 2), [1, 2], [1, 2]),
            ({1}, [1], [1]),
            (bytearray(b"a"), b"a", None),
            (Color.RED, "red", "red"),
            (NOON, NOON.isoformat(), NOON.isoformat()),
            (UTC_NOON, UTC_NOON, "2026-01-02T12:00:00.000005Z"),
            (decimal.Decimal("1.50"), "1.50", "1.50"),
            (uuid.UUID(int=0), str(uuid.UUID(int=0)), str(uuid.UUID(int=0))),
            (datetime.timedelta(1), "P1D", "P1D"),
        ],
    )
    def test_what_comes_back_as_something_else_is_what_the_docstrings_say(self, value, msgpack, json_):
        assert round_trip(Msgpack(), value) == msgpack
        if json_ is not None:
            assert round_trip(Json(), value) == json_


LARGE_ARRAY = np.arange(LARGE, dtype=np.uint8)


@FORMATS
class TestArrays:
    def test_they_come_back_anywhere(self, kind):
        value = {"a": [np.arange(3), {"b": LARGE_ARRAY}], "n": np.float64(2.5), "i": np.int8(-3), "t": np.bool_(True)}
        back = round_trip(kind(), value)
        assert np.array_equal(back["a"][0], value["a"][0])
        assert np.array_equal(back["a"][1]["b"], LARGE_ARRAY)
        assert (back["n"], back["i"], back["t"]) == (2.5, -3, True)
        assert [type(back[name]) for name in "nit"] == [float, int, bool]

    @pytest.mark.parametrize("array", [np.arange(3.0), LARGE_ARRAY], ids=["small", "large"])
    def test_with_types(self, kind, array):
        assert np.array_equal(round_trip(kind(np.ndarray), array), array)
        assert np.array_equal(round_trip(kind(list[np.ndarray | None]), [None, array])[1], array)
        assert np.array_equal(round_trip(kind(Person), Person("Ada", 1, array)).extra, array)
        back = round_trip(kind(Struct), Struct("s", array, b"\xff", NOON))
        assert np.array_equal(back.array, array)
        assert (back.data, back.when) == (b"\xff", NOON)
        back = round_trip(kind(HasModels), HasModels({"a": Model(name="m", array=array, data=b"b")}))
        assert np.array_equal(back.models["a"].array, array)
        assert back.models["a"].data == b"b"
        assert np.array_equal(round_trip(kind(np.typing.NDArray[np.uint8]), array), array)

    def test_large_ones_are_frames_and_no_copies(self, kind):
        array = np.zeros(LARGE, np.uint8)
        _, (frame,) = kind().encode([array])
        assert (frame.format, frame.ndim, len(frame)) == ("B", 1, LARGE)
        array[0] = 7
        assert frame[0] == 7

    def test_small_ones_are_frames_where_bytes_have_no_other_place(self, kind):
        assert len(kind().encode([np.zeros(LARGE - 1, np.uint8), np.zeros(0)])[1]) == (2 if kind is Json else 0)

    def test_what_comes_back_can_be_changed_where_the_frame_can(self, kind):
        payload, (frame,) = kind().encode(np.zeros(LARGE, np.uint8))
        own = bytearray(frame)
        array = kind().decode(memoryview(payload), [own])
        array[0] = 9
        assert own[0] == 9
        view = kind().decode(memoryview(payload), [memoryview(bytes(frame))])
        assert not view.flags.writeable
        assert round_trip(kind(), np.zeros(3)).flags.writeable

    def test_the_payload_may_go_away(self, kind):
        codec, value = (kind(memoryview), memoryview(b"abc")) if kind is Msgpack else (kind(msgspec.Raw), None)
        payload = codec.encode(value)[0] if kind is Msgpack else b"[1, 2]"
        memory = bytearray(payload)
        back = codec.decode(memoryview(memory), ())
        memory[:] = bytes(len(memory))
        assert bytes(back) == (b"abc" if kind is Msgpack else b"[1, 2]")

    @pytest.mark.parametrize("array", [np.array([{}], object), np.zeros(2, [("a", object)]), np.ma.zeros(3),
                                       np.datetime64("2026"), np.complex128(1j), np.zeros(1, "V3")[0]])  # fmt: skip
    def test_what_has_no_bytes_of_its_own_is_refused(self, kind, array):
        for value in (array, {"a": array}):
            with pytest.raises(TypeError, match=r"objects|would come back|no plain form"):
                kind().encode(value)

    def test_the_most_frames(self, kind, monkeypatch):
        monkeypatch.setattr(structured, "MAX_FRAMES", 2)
        arrays = [np.full(LARGE, n, np.uint8) for n in range(3)]
        if kind is Json:
            with pytest.raises(ValueError, match="more than 2 arrays"):
                kind().encode(arrays)
        else:
            assert len(kind().encode(arrays)[1]) == 2
            assert all(map(np.array_equal, round_trip(kind(), arrays), arrays))

    def test_deep_inside(self, kind):
        value = np.arange(3)
        for _ in range(300):
            value = [value]
        back = round_trip(kind(), value)
        for _ in range(300):
            (back,) = back
        assert np.array_equal(back, np.arange(3))


class TestNothingElseIsTakenForAnArray:
    def test_the_token_is_new_for_every_record(self):
        array = np.arange(3)
        first, second = (Json().encode([array])[0] for _ in range(2))
        token = first[first.index(b'"') + 1 :][:32]
        assert token not in second
        known = [token.decode() + "0", first.decode(), second.decode(), "\x1e", "\x1e" + token.decode()]
        back = round_trip(Json(), [*known, array])
        assert back[:-1] == known
        assert np.array_equal(back[-1], array)

    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(st.text(st.characters(exclude_categories=("Cs",))), st.booleans())
    def test_texts_stay_texts(self, value, with_array):
        for codec in (Json(), Msgpack()):
            back = round_trip(codec, [value, {value: value}, np.arange(2) if with_array else None])
            assert back[:2] == [value, {value: value}]

    def test_other_extensions_stay_what_they_are(self):
        back = round_trip(Msgpack(), [msgspec.msgpack.Ext(5, b"abc")])
        assert (back[0].code, back[0].data) == (5, b"abc")


def ext(*parts):
    return Msgpack()._format.encode(msgspec.msgpack.Ext(ARRAY, msgspec.msgpack.encode(parts)))


def line(token, descriptions, text):
    return b"\x1e" + json.dumps([token, descriptions]).encode() + b"\n" + text.encode()


TOKEN = "0123456789abcdef" * 2

LIES = [
    ["<f8", [1], "C"],
    ["<f8", [0], "C"],
    ["<f8", [], "C"],
    ["<f8", [3], "C"],
    ["<f8", [2**61, 8], "C"],
    ["<f8", [2**32, 2**32], "C"],
    ["<f8", [-1], "C"],
    ["<f8", [-2, -1], "C"],
    ["<f8", [1] * 65, "C"],
    ["<f8", [0, 2**62, 4], "C"],
    ["<f8", [2**63, 0], "C"],
    ["|S0", [10**9], "C"],
    ["|V0", [10**9, 10**9], "C"],
    ["<U0", [5], "C"],
    ["|O", [2], "C"],
    ["O", [2], "C"],
    ["O8", [2], "C"],
    ["f8", [2], "C"],
    ["float64", [2], "C"],
    ["<f8,<f8", [1], "C"],
    ["(2,)<f8", [1], "C"],
    ["__import__('os').system('true')", [2], "C"],
    ["<U99999999999", [1], "C"],
    ["|S9999999999", [1], "C"],
    ["<f3", [2], "C"],
    ["<M8[parsec]", [2], "C"],
    ["<f8", [2], "K"],
    ["<f8", [2], ""],
    [[["a", "|O"]], [2], "C"],
    [[["a", "<f8", [2**30, 2**30]]], [1], "C"],
    [[["a", "<f8", [-1]]], [1], "C"],
    [[["a", "<f8"], ["a", "<f8"]], [1], "C"],
    [[], [1], "C"],
    [{"names": ["a"], "formats": ["<f8"], "offsets": [-8]}, [2], "C"],
    [5, [2], "C"],
    [None, [2], "C"],
    [[5], [2], "C"],
    [[[1, 2, 3, 4]], [2], "C"],
]
SIXTEEN = bytes(16)


class TestForgedArrays:
    def test_the_frame_would_do(self):
        """What the lies are told about."""
        for truth in (["<f8", [2], "C"], ["<f8", [2, 1], "F"], [[["a", "<i4", [2]], ["b", "<f8"]], [1], "C"]):
            assert Msgpack().decode(memoryview(ext(*truth, 0)), [SIXTEEN]).nbytes == 16
            assert Msgpack().decode(memoryview(ext(*truth, SIXTEEN)), ()).nbytes == 16
            assert Json().decode(memoryview(line(TOKEN, [truth], f'"{TOKEN}0"')), [SIXTEEN]).nbytes == 16

    @pytest.mark.parametrize("lie", LIES, ids=lambda lie: str(lie)[:50])
    def test_a_description_that_lies_is_refused(self, lie):
        with pytest.raises(REFUSED):
            Msgpack().decode(memoryview(ext(*lie, 0)), [SIXTEEN])
        with pytest.raises(REFUSED):
            Msgpack().decode(memoryview(ext(*lie, SIXTEEN)), ())
        with pytest.raises(REFUSED):
            Json().decode(memoryview(line(TOKEN, [lie], f'"{TOKEN}0"')), [SIXTEEN])

    @pytest.mark.parametrize("place", [1, -1, 2**40, "0", None, 0.0, [0], True])
    def test_a_frame_that_is_not_there_is_refused(self, place):
        with pytest.raises(REFUSED, match=r"frame|Expected"):
            Msgpack().decode(memoryview(ext("<f8", [2], "C", place)), [SIXTEEN])
        with pytest.raises(ValueError, match="frame"):
            Msgpack().decode(memoryview(ext("<f8", [2], "C", 0)), ())

    @pytest.mark.parametrize("number", ["", "1", "-1", "00", "99999999999", "0x0", "\u0660", " 0", "0\n"])
    def test_nor_an_array_that_is_not_described(self, number):
        with pytest.raises(ValueError, match="there is no array"):
            if number == "00":
                number = "01"
            Json().decode(memoryview(line(TOKEN, [["<f8", [2], "C"]], json.dumps(TOKEN + number))), [SIXTEEN])

    @pytest.mark.parametrize(
        "payload",
        [
            line("", [["<f8", [2], "C"]], '"0"'),
            line("short", [["<f8", [2], "C"]], '"short0"'),
            line(TOKEN, [], f'"{TOKEN}0"'),
            line(TOKEN, [["<f8", [2], "C"]] * 2, f'"{TOKEN}1"'),
            b"\x1e",
            b"\x1e\n",
            b"\x1e[]\n5",
            b"\x1e5\n5",
            line(TOKEN, [["<f8", [2], "C"]], ""),
        ],
    )
    def test_a_first_line_that_makes_no_sense_is_refused(self, payload):
        with pytest.raises(REFUSED):
            Json().decode(memoryview(payload), [SIXTEEN])

    def test_one_array_that_is_there_many_times_is_one_array(self):
        text = json.dumps([TOKEN + "0"] * 10_000)
        back = Json().decode(memoryview(line(TOKEN, [["<f8", [2], "C"]], text)), [SIXTEEN])
        assert len(set(map(id, back))) == 1


@FORMATS
class TestForgedPayloads:
    def test_deep_nesting_is_an_ordinary_error(self, kind):
        deep = b"\x91" * 500_000 + b"\x01" if kind is Msgpack else b"[" * 500_000
        for type_ in (None, list, typing.Any):
            with pytest.raises(RecursionError):
                kind(type_).decode(memoryview(deep), ())
        value = []
        for _ in range(100_000):
            value = [value]
        with pytest.raises(RecursionError):
            kind().encode(value)

    @pytest.mark.parametrize("type_", [None, Person, list[Person], Model, dict[str, int], np.ndarray], ids=named)
    def test_bytes_by_chance_are_an_ordinary_error_or_a_value(self, kind, type_, rng):
        value = {"name": "Ada", "age": 5, "Size": 1.5, "extra": [1, {"a": None}, np.arange(3)]}
        good, frames = kind().encode(value)
        codec = kind(type_)
        for _ in range(PAYLOADS // 6):
            bad = bytearray(good if rng.random() < 0.8 else rng.randbytes(rng.randrange(40)))
            for _ in range(rng.randrange(1, 4)):
                if bad:
                    bad[rng.randrange(len(bad))] = rng.randrange(256)
            with contextlib.suppress(*REFUSED, RecursionError):
                codec.decode(memoryview(bad), [bytes(frame) for frame in frames])
        assert ran == []

    def test_a_pickle_is_not_loaded(self, kind):
        for type_ in (None, Person, typing.Any):
            with pytest.raises(REFUSED):
                kind(type_).decode(memoryview(pickle.dumps(Canary(), 5)), ())
        assert ran == []


class TestMsgpackPayloads:
    def test_keys_that_cannot_be_are_refused(self):
        with pytest.raises(REFUSED, match="hashable"):
            Msgpack().decode(memoryview(b"\x81\x80\x01"), ())

    def test_the_last_of_two_equal_keys_counts(self):
        assert Msgpack().decode(memoryview(b"\x82\xa1a\x01\xa1a\x02"), ()) == {"a": 2}
        assert Json().decode(memoryview(b'{"a": 1, "a": 2}'), ()) == {"a": 2}

    def test_lengths_that_lie_cost_nothing(self):
        """In another process, which may have no more than 600 MB of addresses beyond those it began with."""
        resource = pytest.importorskip("resource")
        assert hasattr(resource, "RLIMIT_AS")
        child = """
import resource, sys, typing
from objstore.codecs.structured import Msgpack
codecs = [Msgpack(type) for type in (None, list, tuple, set, dict, list[int], tuple[int, ...], bytes, str)]
resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for mark in b"\\xdd\\xdf\\xdb\\xc6\\xc9":
    for size in (b"\\xff\\xff\\xff\\xff", b"\\x10\\0\\0\\0", b"\\x05\\0\\0\\0"):
        for end in (b"", b"\\x01\\x01", (bytes([mark]) + size) * 900):
            for codec in codecs:
                try:
                    codec.decode(memoryview(bytes([mark]) + size + end), ())
                except MemoryError:
                    sys.exit("memory")
                except Exception:
                    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
        done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 50  # MiB on Linux


@FORMATS
class TestTheCodecItself:
    def test_name_and_number_are_for_ever(self, kind):
        assert (kind.name, kind.number) == (("msgpack", 4) if kind is Msgpack else ("json", 3))
        assert kind.runs_code is False

    @pytest.mark.parametrize("type_", [None, Person, list[Person], dict[str, Model | None], Person | int, np.ndarray])
    def test_it_can_be_pickled(self, kind, type_):
        codec = pickle.loads(pickle.dumps(kind(type_)))
        assert repr(codec) == repr(kind(type_))
        if type_ is Person:
            assert round_trip(codec, Person("Ada")) == Person("Ada")

    def test_its_repr_names_the_type(self, kind):
        name = kind.__name__
        assert repr(kind()) == f"{name}()"
        assert repr(kind(Person)) == f"{name}(Person)"
        assert "Person" in repr(kind(list[Person]))

    def test_threads_may_share_it(self, kind):
        codec, wrong = kind(Person), []

        def work(number):
            array = np.full(LARGE, number, np.uint8)
            for _ in range(50):
                back = round_trip(codec, Person(str(number), number, array))
                if (back.name, back.age, back.extra[-1]) != (str(number), number, number):
                    wrong.append(back)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_a_model_may_use_the_codec_while_it_is_used(self, kind):
        codec = kind(list[Nosy])
        Nosy.codec = kind(np.ndarray)
        first, second = round_trip(codec, [Nosy(array=np.zeros(LARGE, np.uint8)), Nosy(array=np.ones(LARGE, np.uint8))])
        assert (first.array[0], second.array[0]) == (0, 1)


class Nosy(pydantic.BaseModel):
    """Uses a codec of its own while it is checked."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    codec: typing.ClassVar[typing.Any]
    array: np.ndarray

    @pydantic.model_validator(mode="after")
    def look(self):
        assert round_trip(self.codec, np.full(LARGE, 5, np.uint8))[0] == 5
        return self


@FORMATS
def test_without_msgspec_the_error_says_what_to_install(kind, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "msgspec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ModuleNotFoundError, match="pip install msgspec"):
        kind()


@FORMATS
def test_without_numpy_and_pydantic_they_work(kind):
    code = f"""
import sys
sys.modules["numpy"] = sys.modules["pydantic"] = None
from objstore.codecs.structured import {kind.__name__} as kind
codec = kind(dict)
assert codec.decode(memoryview(codec.encode({{"a": [1, None]}})[0]), ()) == {{"a": [1, None]}}
try:
    kind().encode(1j)
except TypeError:
    print("refused")
"""
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "refused\n"
    )
