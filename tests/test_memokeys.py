"""Values have one key exactly when they are of the same types and have the same content, wherever it is computed.

`OBJSTORE_EXAMPLES` is how many examples a property test runs (see `strategies`).
"""

from __future__ import annotations

import datetime as dt
import enum
import functools
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import attrs
import keytable
import msgspec
import numpy as np
import pandas as pd
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

import objstore
from objstore import memoarrays, memokeys
from objstore.memokeys import NotKeyable, digest, register_key, text_of

PACKAGE = str(Path(objstore.__file__).parent)
HERE = str(Path(__file__).parent)
INTERPRETERS = ["python3.11", "python3.12", "python3.13", "python3.14"]

few_or_many = settings(max_examples=strategies.EXAMPLES, deadline=None)


# DO NOT CHANGE: whoever has stored a result finds it by these.
GOLDEN = {
    "none": "8ec5c7cda7bcfc4db1df0a7c28ceb1c1cbaa054b",
    "true": "8ad8cad4c0f4cf224047da114aa3aa3e3f265bc4",
    "one": "cd3c7e5c2e339543cf5feb11d5a1f787f798f547",
    "one, a float": "545ab9b2ff14a4da487482ff4a1a21aac99f418c",
    "one, a text": "da142e833158fe74aa5bc7fa049aceb19e4249e7",
    "one, bytes": "bdf5ba476d221c015f6dfafd4de4b4ac5f084597",
    "minus zero": "d2e7031eaea24bb84aefdc98c2ffb3605ea564bf",
    "inf": "92e8d7b3ead04c1d3d6b8aa58786ce602ecfd002",
    "nan": "f5e0b882bc118d6b11e75fc6147a7d1dbd7c47ff",
    "small": "913197188d66bca3765c07ac70c3c88c44e4b392",
    "third": "f97a3beb4983adaa844ec5d00a8bea7f0d8edad7",
    "long int": "b0b0e80d892ce9d2922611d6148d633b3cefe9b5",
    "longest plain int": "ea455021304c395684a8776ea53eaae6326605c4",
    "complex": "97818d4f4b959a3b823e75ce4746597925a724a3",
    "texts": "171437b3c5e3dc79aa07ef185ece589719486ec4",
    "long text": "0627314191fd090db302d0be5fd7a68f8aca264f",
    "long bytes": "5757bff1aa3b587bb738c1394d24246dc90e9503",
    "bytearray": "5505103f54e3b0061234950ab7c251af051df729",
    "memoryview": "83ac223ce23a98dce79099ca534048888130cb60",
    "tuples": "a9441b126373503eca61c5b9268a5cd2ffa2f47c",
    "lists": "6b07cd1c8f061bafb72e72c6d75fd84ca1f23c82",
    "set": "a1da80e7bc595a6fb7a3fdbfc061c12927e786ca",
    "frozensets": "4409586697a1214a5ce725085eaba8b88d9ca4c3",
    "dict": "63e814717bd51341b08ab7cf82cb46dd967da227",
    "ordered": "00b05fb6520a70a68a4342cef93ec2988b5b1720",
    "default": "abcb0421f49383d10bdbf872d7119e55fb458be9",
    "counter": "8993b8473a0b0673908a1e42e1286fed01416c38",
    "deque": "599d07637b28a79ccc8e74ed7345b42e8c167cff",
    "namedtuple": "8762ea9badf49e12f4ebeddce4f65f5be7f220c1",
    "range and slice": "2765e63e1c5e771aee7671dff9652142a672093a",
    "enums": "d7d401d14c4333585624eb69f3a51883d3664029",
    "dataclass": "a9b675b44579b9a988f572e7da4a86f85e9b4977",
    "paths": "13939047abf4934d77ccde8f4e93259bc51ed8a7",
    "date": "80cbb6dc1759a4f074e85f27b4ba9be268704090",
    "time": "86d9993ec36e9c04faa925404c465549e2bcb376",
    "naive": "2d26f329176212b716f98e447ce7e2804ee0a263",
    "aware": "2df56a9df3425f134f7836b7b9228f227b14ca15",
    "zone": "ee49f6a4a0e379db4f15f8866a9cecc46a440a73",
    "timedelta": "bcd49aab942cd9798586f329fa5942da0978372f",
    "uuid": "7e2866653670c1eefd98052be3d28bce2227f6b3",
    "decimals": "a331f3d995d3b6923fc1d660d4324d620675b279",
    "fraction": "76f3817040cda70338222bbda8f07375d54048fd",
    "patterns": "a526822870906fe256ac96a933c70c0a7368016a",
    "functions": "118fc89a07346b4a81f5c8ccd2de7102716f3d37",
    "methods": "0226753e0768412e86b4d3c311741ad4745b70f3",
    "partial": "f8bc41503389c3032da47f42d4bc99a58bd09a82",
    "call": "27e0eed5c224b8a6151f6f385ec125cefc23efd3",
    "call of a version": "a3b429760179f3d8d3bd4580b981433ffeceb122",
    "call of this source": "13cfe67e35895d009f6e750b9d7f17b4c2ce1489",
    "call but for what is ignored": "2733ff50fbf6645fe315f6c3e00b961a6619c8d3",
    "call by another key": "a9a4186e0705f3cea56a22b5bce658ea1b46cd7b",
}


class TestThePromise:
    def test_keys_are_what_they_always_were(self):
        assert keytable.digests(PACKAGE) == GOLDEN

    def test_they_are_the_same_whatever_the_seed_of_hashes(self):
        with ThreadPoolExecutor(2) as pool:
            for found in pool.map(lambda seed: digests_by(sys.executable, seed), range(8)):
                assert found == GOLDEN

    @pytest.mark.parametrize("name", INTERPRETERS)
    def test_they_are_the_same_on_every_interpreter(self, name):
        found = interpreter(name)
        if found is None:
            pytest.skip(f"{name} is not on this machine")
        assert digests_by(found, "random") == GOLDEN


def digests_by(python, seed):
    code = "import sys, keytable; keytable.main(sys.argv[1])"
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": HERE, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-c", code, PACKAGE]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def interpreter(name):
    """An interpreter of that version: on the path, or one of those that pyenv keeps."""
    version = name.removeprefix("python")
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [*kept.glob(f"{version}.*/bin/{name}"), shutil.which(name), "/usr/bin/python3"]
    for place in filter(None, places):
        if Path(place).exists() and says(place) == version:
            return str(place)
    return None


def says(python):
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return run.stdout.strip()


class Colour(enum.Enum):
    RED = "red"
    ALSO = "also"


class Size(enum.StrEnum):
    RED = "red"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


Point = namedtuple("Point", "x y")
Other = namedtuple("Other", "x y")


@dataclass(frozen=True)
class Config:
    x: object
    y: object = None


@dataclass(frozen=True)
class Setting:
    x: object
    y: object = None


@attrs.frozen
class Attributes:
    x: object
    y: object = None


class Struct(msgspec.Struct, frozen=True):
    x: object
    y: object = None


# Few of each, so that equal values are met, and ones that differ in their type only.
EDGES = [None, True, False, 0, 1, -1, 0.0, -0.0, 1.0, float("nan"), float("inf"), "", "1", "None"]
EDGES += ["(", ")", ", ", "'", '"', "\\", "('',)", "<set>", "é", "\ud800", "x" * 1000, "x" * 1001]
EDGES += [b"", b"1", b"'", b"x" * 1000, b"x" * 1001, (1 << 2000) - 1, 1 << 2000, -(1 << 2000)]


def edge(number):
    return EDGES[number]


PLAIN = st.one_of(
    st.integers(0, len(EDGES) - 1).map(edge),  # sampled_from would write all of them into its messages
    strategies.floats(),
    st.integers(),
    st.text(max_size=3),
)
LEAVES = st.one_of(
    PLAIN,
    st.sampled_from([1j, -1j, complex(-0.0, 1), ..., Colour.RED, Colour.ALSO, Size.RED, Right(0), Right(1), Right(3)]),
    st.sampled_from([Decimal(1), Decimal("1.0"), dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.timedelta(1)]),
    st.sampled_from([Path("x"), range(3), range(0, 3, 1), dt.timezone.utc]),
)


PAIRS = (Point, Other, Config, Setting, Attributes, Struct)


# As composites they are short in the messages of Hypothesis.
@st.composite
def leaves(draw):
    return draw(LEAVES)


@st.composite
def hashables(draw):
    return draw(HASHABLES)


@st.composite
def values(draw):
    return draw(VALUES)


def pairs_of(inner):
    return [st.tuples(inner, inner).map(lambda pair, kind=kind: kind(*pair)) for kind in PAIRS]


def hashable(inner):
    several = st.lists(inner, max_size=3)
    return st.one_of(several.map(tuple), several.map(frozenset), *pairs_of(inner))


def nested(inner):
    several, items = st.lists(inner, max_size=3), st.lists(st.tuples(hashables(), inner), max_size=3)
    sets = st.lists(hashables(), max_size=3).map(set)
    return st.one_of(several, several.map(tuple), sets, items.map(dict), items.map(OrderedDict), *pairs_of(inner))


HASHABLES = st.recursive(leaves(), hashable, max_leaves=4)
VALUES = st.recursive(leaves(), nested, max_leaves=6)


def typed(value):
    """Types and content of a value, all the way down, in a form that Python compares."""
    kind = type(value)
    if kind in (float, complex):
        parts = [value.real, value.imag]
        return kind, tuple("nan" if part != part else struct.pack(">d", part) for part in parts)
    if kind in (list, tuple, Point, Other):
        return kind, tuple(map(typed, value))
    if kind in (set, frozenset):
        return kind, frozenset(Counter(map(typed, value)).items())
    if kind is dict:
        return kind, frozenset(Counter((typed(key), typed(each)) for key, each in value.items()).items())
    if kind is OrderedDict:
        return kind, tuple((typed(key), typed(each)) for key, each in value.items())
    if kind in (Config, Setting, Attributes, Struct):
        return kind, typed(value.x), typed(value.y)
    return kind, str(value) if kind is Decimal else value


class TestTheText:
    @few_or_many
    @given(values(), values())
    def test_two_values_have_one_text_exactly_when_types_and_content_are_the_same(self, one, other):
        assert (text_of(one) == text_of(other)) == (typed(one) == typed(other))

    @few_or_many
    @given(st.lists(values(), min_size=1, max_size=5), st.data())
    def test_a_copy_has_the_same_text_and_a_changed_one_has_not(self, several, data):
        place = data.draw(st.integers(0, len(several) - 1))
        changed = [*several[:place], data.draw(values()), *several[place + 1 :]]
        assert text_of(pickle.loads(pickle.dumps(several))) == text_of(several)
        assert (text_of(changed) == text_of(several)) == (typed(changed) == typed(several))

    @few_or_many
    @given(st.lists(PLAIN, max_size=5).map(tuple))
    def test_the_short_way_writes_what_the_long_one_does(self, values):
        inner = ", ".join(map(text_of, values))
        long_way = f"({inner},)" if len(values) == 1 else f"({inner})"
        assert text_of(values) == long_way
        assert text_of(list(values)) == f"[{inner}]"
        assert digest(values, b"salt") == memokeys.blake2b(b"salt" + long_way.encode(), digest_size=20).digest()

    @few_or_many
    @given(values())
    def test_it_is_ascii(self, value):
        assert text_of(value).isascii()

    @few_or_many
    @given(st.lists(st.tuples(hashables(), values()), max_size=5), st.randoms())
    def test_the_order_of_dicts_and_sets_is_nothing(self, pairs, random):
        pairs = list(dict(pairs).items())
        shuffled = random.sample(pairs, len(pairs))
        assert text_of(dict(pairs)) == text_of(dict(shuffled))
        assert text_of({key for key, _ in pairs}) == text_of({key for key, _ in shuffled})

    def test_ints_do_not_depend_on_how_many_digits_python_may_write(self):
        values = [10**n for n in (600, 602, 603, 640, 4300, 5000)]
        before = sys.get_int_max_str_digits()
        texts = set()
        try:
            for limit in (640, 4300, 0):
                sys.set_int_max_str_digits(limit)
                texts.add(text_of(values))
        finally:
            sys.set_int_max_str_digits(before)
        assert len(texts) == 1

    def test_flags_are_known_by_their_names_and_bits_without_one(self):
        texts = {text_of(Right(bits)) for bits in range(4)}
        assert len(texts) == 4
        assert "['READ', 'WRITE']" in text_of(Right.WRITE | Right.READ)

    def test_instants_are_told_apart_by_wall_time_zone_and_fold(self):
        zone, utc = ZoneInfo("Europe/Berlin"), dt.timezone.utc
        late = dt.datetime(2024, 10, 27, 2, 30, tzinfo=zone)
        moments = [
            late,
            late.replace(fold=1),
            late.astimezone(utc),
            late.replace(tzinfo=None),
            late.replace(tzinfo=utc),
        ]
        assert len({text_of(moment) for moment in moments}) == len(moments)
        assert text_of(late) == text_of(dt.datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo.no_cache("Europe/Berlin")))

    def test_zones_of_pytz(self):
        pytz = pytest.importorskip("pytz")
        zone, late = pytz.timezone("Europe/Berlin"), dt.datetime(2024, 10, 27, 2, 30)
        values = [zone, pytz.utc, pytz.FixedOffset(60), pytz.timezone("Etc/GMT+5")]
        values += [zone.localize(late, is_dst=True), zone.localize(late, is_dst=False)]
        assert len({text_of(value) for value in values}) == len(values)
        assert text_of(pickle.loads(pickle.dumps(values))) == text_of(values)

    def test_what_an_object_was_given_beside_its_fields_counts_and_what_it_remembers_does_not(self):
        @functools.cache
        def fresh():
            return Remembers(3)

        plain = text_of(Remembers(3))
        assert fresh().double == 6
        assert text_of(fresh()) == plain
        fresh().more = 1
        assert text_of(fresh()) != plain

    def test_slots_count(self):
        one, other = Slotted(), Slotted()
        assert text_of(one) == text_of(other)
        one.b = 1
        assert text_of(one) != text_of(other)

    def test_bound_methods_and_partials_go_by_their_parts(self):
        assert text_of(Remembers(1).method) == text_of(Remembers(1).method) != text_of(Remembers(2).method)
        assert text_of(functools.partial(len, 1)) != text_of(functools.partial(len, 2))
        assert text_of(Remembers.named) != text_of(Heir.named)

    def test_buffers_go_by_content_format_and_shape(self):
        view = memoryview(b"abcd")
        assert text_of(view) == text_of(memoryview(bytearray(b"a.b.c.d."))[::2])
        assert len({text_of(view), text_of(view.cast("b")), text_of(view.cast("B", (2, 2))), text_of(b"abcd")}) == 4
        assert text_of(view[:0].cast("b")) == text_of(memoryview(b"").cast("b"))


@dataclass
class Remembers:
    x: int

    @functools.cached_property
    def double(self):
        return 2 * self.x

    def method(self):
        return self.x

    @classmethod
    def named(cls):
        return cls.__name__


class Heir(Remembers):
    pass


class Base:
    __slots__ = ("__a", "b")


@dataclass(init=False)
class Slotted(Base):
    __slots__ = ()


class Stateful(list):
    pass


class Wide(Point):
    pass


@dataclass
class Problem(Exception):
    x: int


class Pixels(np.ndarray):
    pass


class Plain:
    pass


class PlainHeir(Plain):
    pass


def wrapped(x):
    return x


def decorator(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)

    return wrapper


twin = decorator(wrapped)  # has the name of `wrapped`, and is another function


def local_function():
    def inner():
        pass

    return inner


class TestWhatHasNoKey:
    @pytest.mark.parametrize(
        "value",
        [
            object(),
            Plain(),
            (x for x in ()),
            Stateful(),
            Counter.__new__(type("Mine", (Counter,), {})),
            lambda: 0,
            local_function(),
            sys,
            threading.Lock(),
            twin,
            Problem(1),
            np.zeros(1, "i4").view(np.recarray),
            np.frompyfunc(len, 1, 1),
            type("Local", (np.float64,), {})(1),
            pd.DataFrame().groupby(lambda row: row),
            memoryview(np.array([None])),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_it_is_refused(self, value):
        with pytest.raises(NotKeyable, match="has no stable key"):
            text_of([1, {"a": value}])

    def test_a_namedtuple_with_more_than_its_fields(self):
        wide = Wide(1, 2)
        assert "Wide" in text_of(wide)
        wide.more = 3
        with pytest.raises(NotKeyable, match="more than its fields"):
            text_of(wide)

    def test_a_class_that_another_could_be_named_like(self):
        @dataclass
        class Local:
            x: int

        with pytest.raises(NotKeyable, match="inside a function"):
            text_of(Local(1))

    def test_a_zone_without_a_name(self):
        place = next(Path(root) / "Europe/Berlin" for root in zone_roots() if (Path(root) / "Europe/Berlin").exists())
        with open(place, "rb") as file, pytest.raises(NotKeyable, match="no key of its own"):
            text_of(ZoneInfo.from_file(file))

    @pytest.mark.parametrize("deep", [False, True], ids=["cycle", "depth"])
    def test_what_lies_too_deep_or_within_itself(self, deep):
        value = []
        if deep:
            for _ in range(5000):
                value = [value]
        else:
            value.append({"again": (value,)})
        with pytest.raises(NotKeyable, match="levels deep, or within itself"):
            text_of(value)

    def test_a_hundred_levels_are_not_too_deep(self):
        value = 1
        for _ in range(100):
            value = [value]
        assert text_of(value) == "[" * 100 + "1" + "]" * 100

    def test_the_error_can_be_sent_to_another_process(self):
        with pytest.raises(NotKeyable) as caught:
            text_of(Plain())
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.kind) == (str(caught.value), Plain)


def zone_roots():
    import importlib.resources
    import zoneinfo

    return [*zoneinfo.TZPATH, str(importlib.resources.files("tzdata") / "zoneinfo")]


@pytest.fixture
def registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(memokeys, "_known", memokeys._Known({}))


@pytest.mark.usefixtures("registry")
class TestRegistering:
    def test_a_type_is_taught_with_its_subclasses_and_the_nearest_counts(self):
        with pytest.raises(NotKeyable):
            text_of(Plain())
        register_key(Plain, lambda value: ("plain", [1]))
        assert text_of(Plain()) == "<registered 'test_memokeys:Plain' ('plain', [1])>"
        assert text_of(PlainHeir()) == "<registered 'test_memokeys:PlainHeir' ('plain', [1])>"
        register_key(PlainHeir, lambda value: 2)
        assert text_of(PlainHeir()) == "<registered 'test_memokeys:PlainHeir' 2>"
        assert text_of([Plain()]) == "[<registered 'test_memokeys:Plain' ('plain', [1])>]"

    def test_it_holds_before_what_the_library_knows_of_a_class(self):
        register_key(Remembers, lambda value: value.x % 2)
        register_key(np.ndarray, lambda value: value.tolist())
        assert text_of(Remembers(1)) == text_of(Remembers(3))
        assert text_of(np.zeros(1).view(Pixels)) == "<registered 'test_memokeys:Pixels' [0.0]>"

    def test_what_a_registered_function_gives_must_have_a_key(self):
        register_key(Plain, lambda value: value)
        with pytest.raises(NotKeyable, match="within itself"):
            text_of(Plain())

    @pytest.mark.parametrize("kind", [int, str, dict, list, object, enum.Enum, type, "Plain", None, list[int]])
    def test_nonsense_is_refused(self, kind):
        with pytest.raises(TypeError):
            register_key(kind, str)

    def test_a_function_is_needed(self):
        with pytest.raises(TypeError, match="called with a Plain"):
            register_key(Plain, "name")

    def test_many_threads_may_register_at_once(self):
        kinds = [type(f"Kind{number}", (), {}) for number in range(200)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda kind: register_key(kind, lambda value: 1), kinds))
        assert all(text_of(kind()).startswith("<registered") for kind in kinds)


class TestArrays:
    def test_content_counts_and_not_how_it_lies(self, monkeypatch, rng):
        monkeypatch.setattr(memoarrays, "_PIECE_BYTES", 64)
        monkeypatch.setattr(memoarrays, "_TILE", 3)
        numbers = np.random.default_rng(rng.randrange(1 << 32))
        for shape in [(), (1,), (40,), (7, 11), (50, 2), (2, 50), (3, 4, 5), (0, 3), (2, 1, 30)]:
            for kind in ("<f8", ">i2", "?", "S3", "<U2", "<M8[ns]", "<c16", [("a", "<i2"), ("b", "<i4")]):
                array = numbers.integers(0, 100, shape).astype("i4")
                array = array.astype("S3").astype(kind) if kind == "<U2" else array.astype(kind)
                wide = np.zeros((*shape, 2), kind)
                wide[..., 0] = array
                ways = [array.copy(order="F"), wide[..., 0], array[..., ::-1][..., ::-1] if shape else array]
                ways += [array.T.copy().T, array[::-1].copy()[::-1] if shape else array]
                assert {text_of(way) for way in ways} == {text_of(array)}, (shape, kind)
                if array.size:
                    other = array.copy()
                    other.reshape(-1).view("u1")[-array.itemsize] ^= 1
                    assert text_of(other) != text_of(array)
                    assert text_of(np.asfortranarray(other)) != text_of(array)

    def test_dtype_and_shape_count(self):
        zeros = [
            np.zeros(shape, kind) for shape in [(4,), (2, 2), (1, 4), (4, 1)] for kind in ("<i4", ">i4", "<f4", "<u4")
        ]
        zeros += [np.zeros(4, kind) for kind in ("<M8[s]", "<M8[ms]", "<m8[s]", "V8", "S8", "<U2", "O", "?", "i1")]
        zeros += [np.int32(0), np.array(0, "i4"), np.float32(0), np.zeros(0), np.zeros((0, 1)), np.zeros(4).dtype]
        assert len({text_of(array) for array in zeros}) == len(zeros)

    def test_padding_counts_as_type_but_not_as_content(self):
        padded = np.dtype([("a", "i1"), ("b", "<f8")], align=True)
        one, other = np.zeros(3, padded), np.frombuffer(b"\xff" * 48, padded).copy()
        other["a"], other["b"] = 0, 0
        assert one.tobytes() != other.tobytes()
        assert text_of(one) == text_of(other)
        assert text_of(one[0]) == text_of(other[0])
        assert text_of(one) != text_of(np.zeros(3, [("a", "i1"), ("b", "<f8")]))
        other["b"][2] = 1
        assert text_of(one) != text_of(other)

    def test_bytes_of_no_field_do_not_count_where_others_have_two(self):
        twice = np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 0], "itemsize": 8})
        one, other = (np.frombuffer(b"\1\0\0\0" + rest, twice) for rest in (b"\0\0\0\0", b"\1\1\1\1"))
        assert text_of(one) == text_of(other)

    def test_padding_of_long_doubles_does_not_count(self):
        values = np.array([1, 2, 3], np.longdouble) / 3
        raw = values.copy()
        if np.finfo(np.longdouble).nmant == 63:
            raw.view("u1").reshape(3, -1)[:, 10:] = 0xFF
        assert text_of(raw) == text_of(values)
        assert text_of(raw[::-1]) != text_of(values)
        kind = np.dtype([("x", np.longdouble)])
        assert text_of(raw.view(kind)) == text_of(values.view(kind)) != text_of(raw[::-1].copy().view(kind))

    def test_objects_count_one_by_one(self):
        array = np.array([["a", None], [1, 1.0]], object)
        assert text_of(array) == text_of(np.asfortranarray(array)) == text_of(pickle.loads(pickle.dumps(array)))
        assert text_of(array) != text_of(array.T)
        with pytest.raises(NotKeyable):
            text_of(np.array([Plain()]))
        mixed = np.array([(1, "a")], [("n", "i4"), ("o", "O")])
        assert text_of(mixed) == text_of(mixed.copy()) != text_of(np.array([(1, "b")], mixed.dtype))

    def test_an_array_within_itself(self):
        array = np.empty(1, object)
        array[0] = array
        with pytest.raises(NotKeyable, match="within itself"):
            text_of(array)

    def test_what_a_mask_hides_does_not_count(self):
        one, other = (np.ma.array([1, hidden, 3], mask=[0, 1, 0]) for hidden in (2, 7))
        assert text_of(one) == text_of(other)
        assert text_of(one) != text_of(np.ma.array([1, 2, 3], mask=[0, 0, 0]))
        assert text_of(np.ma.array([1, 2])) == text_of(np.ma.array([1, 2], mask=[0, 0])) != text_of(np.array([1, 2]))

    def test_a_file_in_memory_is_an_array(self, tmp_path):
        np.save(tmp_path / "a.npy", np.arange(10.0))
        mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
        assert type(mapped) is np.memmap
        assert text_of(mapped) == text_of(np.arange(10.0))

    def test_texts_of_any_length(self):
        kind = getattr(np.dtypes, "StringDType", None)
        if kind is None:
            pytest.skip("this NumPy has no StringDType")
        array = np.array(["a", "b" * 100], kind())
        assert text_of(array) == text_of(array.copy()) != text_of(np.array(["a", "c" * 100], kind()))
        assert text_of(array) != text_of(array.astype(kind(na_object=None)))

    def test_functions_and_types_of_numpy_have_their_names(self):
        things = [np.sin, np.cos, np.mean, np.linalg.norm, np.float32, np.dtype("f4"), np.dtype("f8"), np.ndarray]
        assert len({text_of(thing) for thing in things}) == len(things)

    def test_golden(self):
        array = np.arange(6, dtype="<f8").reshape(2, 3)
        aligned = np.zeros(1, np.dtype([("a", "i1"), ("b", "<f8")], align=True))
        values = [
            array,
            array.T,
            aligned,
            np.float32(1),
            np.array(["é", "x"], "<U2"),
            np.ma.array([1, 2], "<i4", mask=[0, 1]),
        ]
        values += [np.array([1, None], object), np.datetime64("2024-01-01", "D"), np.dtype(">i2"), np.sin]
        assert digest(tuple(values), b"table\n").hex() == "c716682d1c55390f75d03ed736e50cc6e2a02613"


SERIES = {
    "ints": lambda: pd.Series([1, 2, 3]),
    "floats": lambda: pd.Series([1.0, 2.0, 3.0]),
    "masked": lambda: pd.Series([1, 2, None], dtype="Int64"),
    "masked floats": lambda: pd.Series([1, 2, None], dtype="Float64"),
    "booleans": lambda: pd.Series([True, None], dtype="boolean"),
    "objects": lambda: pd.Series([1, "a", None], dtype=object),
    "texts": lambda: pd.Series(["a", "b", None]),
    "strings": lambda: pd.Series(["a", "b", None], dtype="string"),
    "categories": lambda: pd.Series(["a", "b", None], dtype="category"),
    "ordered": lambda: pd.Series(pd.Categorical(["a", "b", None], ordered=True)),
    "times": lambda: pd.Series(pd.date_range("2024", periods=3)),
    "zoned": lambda: pd.Series(pd.date_range("2024", periods=3, tz="Europe/Berlin")),
    "durations": lambda: pd.Series(pd.to_timedelta([1, 2, 3], unit="s")),
    "periods": lambda: pd.Series(pd.period_range("2024", periods=3, freq="M")),
    "intervals": lambda: pd.Series(pd.interval_range(0, 3)),
    "sparse": lambda: pd.Series([0, 0, 1], dtype="Sparse[int64]"),
    "arrow": lambda: pd.Series([1, 2, None], dtype="int64[pyarrow]"),
    "empty": lambda: pd.Series([], dtype="f8"),
}


class TestPandas:
    def test_the_series_differ(self):
        assert len({text_of(make()) for make in SERIES.values()}) == len(SERIES)

    @pytest.mark.parametrize("name", SERIES)
    def test_a_series_goes_by_dtype_content_index_and_name(self, name):
        series = SERIES[name]()
        again = pickle.loads(pickle.dumps(series))
        doubled = pd.concat([series, series])[len(series) :] if len(series) else series
        backwards = series[::-1]
        assert text_of(again) == text_of(series)
        assert text_of(backwards[::-1].reset_index(drop=True)) == text_of(series)
        assert text_of(doubled.reset_index(drop=True)) == text_of(series)
        assert text_of(series.rename("other")) != text_of(series)
        if len(series):
            assert text_of(backwards.reset_index(drop=True)) != text_of(series)
            assert text_of(series.set_axis(range(5, 5 + len(series)))) != text_of(series)
        assert text_of(series.array) == text_of(again.array)
        assert text_of(series.dtype) == text_of(again.dtype)
        assert text_of(pd.Index(series, name="x")) != text_of(pd.Index(series, name="y"))
        assert text_of(series.tolist()) == text_of(again.tolist())

    @pytest.mark.parametrize("kind", ["Int64", "Float64", "boolean"])
    def test_what_is_missing_is_not_zero(self, kind):
        assert text_of(pd.Series([1, None], dtype=kind)) != text_of(pd.Series([1, 0], dtype=kind))
        hidden = pd.Series([1, 0], dtype=kind)
        hidden[1] = None
        assert text_of(hidden) == text_of(pd.Series([1, None], dtype=kind))

    def test_a_frame_goes_by_its_columns_and_index(self):
        def make(**changes):
            columns = {name: make().head(2).reset_index(drop=True) for name, make in SERIES.items() if name != "empty"}
            return pd.DataFrame({**columns, **changes})

        frame = make()
        assert text_of(frame) == text_of(make()) == text_of(frame.copy()[::-1][::-1].reset_index(drop=True))
        assert text_of(frame) == text_of(pd.concat([frame[frame.columns[:5]], frame[frame.columns[5:]]], axis=1))
        others = [
            make(ints=[1, 9]),
            make(texts=["a", "c"]),
            frame[frame.columns[::-1]],
            frame.rename(columns={"ints": "i"}),
        ]
        others += [frame.set_index("ints"), frame.astype({"ints": "i4"}), frame.iloc[:1], frame.rename_axis("rows")]
        others += [frame.rename_axis("columns", axis=1), frame.set_axis(["x", "y"])]
        assert len({text_of(other) for other in [frame, *others]}) == len(others) + 1

    def test_columns_may_have_one_name_and_blocks_do_not_count(self):
        frame = pd.DataFrame(np.arange(6).reshape(3, 2), columns=["a", "a"])
        split = pd.concat([frame.iloc[:, :1], frame.iloc[:, 1:]], axis=1)
        assert text_of(frame) == text_of(split) != text_of(frame.iloc[:, ::-1])

    def test_levels_that_are_not_used_do_not_count(self):
        index = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", "y"])
        part = index[:2]
        assert text_of(part) == text_of(part.remove_unused_levels()) != text_of(index)
        assert text_of(index) != text_of(index.rename(["x", "z"])) != text_of(index.swaplevel())

    def test_single_values_differ(self):
        time = pd.Timestamp("2024-01-01")
        values = [time, time.tz_localize("UTC"), time.tz_localize("Europe/Berlin"), time.to_pydatetime(), pd.NaT, pd.NA]
        values += [pd.Timedelta(1, "s"), pd.Timedelta(2, "s"), pd.Period("2024", "M"), pd.Period("2024", "D")]
        values += [pd.Interval(0, 1), pd.Interval(0, 1, "left"), time.to_datetime64(), dt.timedelta(seconds=1), None]
        assert len({text_of(value) for value in values}) == len(values)
        assert text_of(pickle.loads(pickle.dumps(values))) == text_of(values)

    def test_a_subclass_is_refused(self):
        with pytest.raises(NotKeyable, match="more than the DataFrame"):
            text_of(type("Mine", (pd.DataFrame,), {})())


def test_no_library_is_imported_for_keys():
    code = "import objstore.functions, sys; print({'numpy', 'pandas', 'attrs', 'msgspec', 'pytz'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
