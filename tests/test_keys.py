"""Keys become bytes that sort as the keys do, and come back."""

from __future__ import annotations

import resource
import struct
from collections import namedtuple
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import strategies
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from objstore.keys import ORDERED_BYTES, LostKey, decode, encode, family, prefix_bounds, shorten

few_or_many = settings(max_examples=strategies.EXAMPLES, deadline=None)

Point = namedtuple("Point", "x y")


class Colour(IntEnum):
    RED = 1


class Size(StrEnum):
    SMALL = "small"


class Label(str, Enum):  # noqa: UP042  (its `str` differs from that of StrEnum)
    NEW = "new"


class Loud(str):
    def __str__(self):
        return "LOUD"


class Sum(int):
    def __add__(self, other):
        return 42


def plain(key):
    """The key as it reads back: of the plain type, instants in UTC."""
    if isinstance(key, tuple):
        return tuple(map(plain, key))
    if isinstance(key, datetime) and key.tzinfo is not None:
        return key.astimezone(timezone.utc)
    if isinstance(key, float) and key.is_integer():
        return int(key)
    return int(key) if isinstance(key, bool) else key


def shape(key):
    """The types of a key, all the way down."""
    return tuple(map(shape, key)) if isinstance(key, tuple) else type(key)


class TestRoundTrip:
    @few_or_many
    @given(strategies.keys())
    def test_a_key_comes_back_equal_and_of_the_plain_type(self, key):
        back = decode(encode(key))
        assert back == key
        assert shape(back) == shape(plain(key))

    @few_or_many
    @given(strategies.floats())
    def test_a_float_comes_back_to_the_last_bit(self, key):
        assert struct.pack(">d", decode(encode(key))) == struct.pack(">d", key + 0.0)

    @few_or_many
    @given(strategies.aware_datetimes())
    def test_an_instant_comes_back_in_utc(self, key):
        back = decode(encode(key))
        assert back == key
        assert back.tzinfo is timezone.utc

    @pytest.mark.parametrize(
        ("key", "back"),
        [
            (True, 1),
            (1.0, 1),
            (-0.0, 0),
            (2.0**70, 2**70),
            (Colour.RED, 1),
            (Sum(7), 7),
            (Size.SMALL, "small"),
            (Label.NEW, "new"),
            (Loud("quiet"), "quiet"),
            (Point(1, "y"), (1, "y")),
            ((Point(Colour.RED, 2.0),), ((1, 2),)),
            (np.int64(-3), -3),
            (np.uint8(255), 255),
            (np.float64(2.5), 2.5),
            (np.float64(2), 2),
            (np.str_("text"), "text"),
            (np.bytes_(b"data"), b"data"),
            ((np.int32(4), np.str_("")), (4, "")),
        ],
        ids=repr,
    )
    def test_what_equals_a_plain_key_reads_back_as_that(self, key, back):
        assert encode(key) == encode(back)
        assert decode(encode(key)) == back
        assert shape(decode(encode(key))) == shape(back)

    def test_both_halves_of_an_hour_that_comes_twice_are_instants_of_their_own(self):
        berlin = ZoneInfo("Europe/Berlin")
        summer = datetime(2026, 10, 25, 2, 30, tzinfo=berlin)
        winter = summer.replace(fold=1)
        assert decode(encode(summer)) == datetime(2026, 10, 25, 0, 30, tzinfo=timezone.utc)
        assert decode(encode(winter)) == datetime(2026, 10, 25, 1, 30, tzinfo=timezone.utc)


class TestEquality:
    @few_or_many
    @given(st.lists(strategies.keys(), min_size=2, max_size=6))
    def test_keys_are_equal_exactly_when_their_bytes_are(self, some):
        for a, b in pairwise(some):
            assert (a == b) == (encode(a) == encode(b))

    @few_or_many
    @given(strategies.numbers(), strategies.numbers())
    def test_numbers_are_equal_exactly_when_their_bytes_are(self, a, b):
        assert (a == b) == (encode(a) == encode(b))
        assert ((a, "x") == (b, "x")) == (encode((a, "x")) == encode((b, "x")))

    @few_or_many
    @given(strategies.aware_datetimes(), strategies.zones())
    def test_one_instant_is_one_key_in_all_zones(self, moment, zone):
        try:
            elsewhere = moment.astimezone(zone)
        except OverflowError:
            return
        assert encode(elsewhere) == encode(moment)

    def test_keys_of_unlike_types_never_collide(self):
        unlike = [None, 1, "1", b"1", (1,), ("1",), (b"1",), ((1,),), date(1, 1, 1), datetime(1, 1, 1), UUID(int=1)]
        assert len({encode(key) for key in unlike}) == len(unlike)

    def test_a_date_is_not_the_midnight_it_begins_with(self):
        assert encode(date(2026, 1, 1)) != encode(datetime(2026, 1, 1))
        assert encode(datetime(2026, 1, 1)) != encode(datetime(2026, 1, 1, tzinfo=timezone.utc))


class TestOrder:
    @pytest.mark.parametrize("name", strategies.families())
    def test_every_family_sorts_as_its_keys_do(self, name):
        @few_or_many
        @given(st.lists(strategies.families()[name], max_size=12))
        def sorts(some):
            assert sorted(some, key=encode) == sorted(some)

        sorts()

    @few_or_many
    @given(st.data())
    def test_tuples_sort_element_by_element(self, data):
        names = data.draw(st.lists(st.sampled_from(sorted(strategies.families())), max_size=3))
        columns = [strategies.families()[name] for name in names]
        flat = st.tuples(*columns)
        nested = st.tuples(flat, *columns)
        rows = data.draw(st.lists(nested, max_size=8))
        assert sorted(rows, key=encode) == sorted(rows)

    @few_or_many
    @given(st.lists(st.lists(strategies.texts(4), max_size=4).map(tuple), max_size=12))
    def test_shorter_tuples_come_first(self, rows):
        assert sorted(rows, key=encode) == sorted(rows)

    @few_or_many
    @given(strategies.numbers(), strategies.numbers(), strategies.scalars(), strategies.scalars())
    def test_the_first_number_decides_whatever_follows(self, a, b, after_a, after_b):
        if a < b:
            assert encode((a,)) < encode((a, after_a)) < encode((b,)) < encode((b, after_b))

    def test_families_stand_in_the_order_of_the_table(self):
        order = [
            *(None, float("-inf"), -(10**1000), -1.5, 0, 10**1000, float("inf"), "", "\U0010ffff", b"", b"\xff"),
            *(date.min, date.max, datetime.min, datetime.max, datetime.min.replace(tzinfo=timezone.utc)),
            *(datetime.max.replace(tzinfo=timezone.utc), UUID(int=0), UUID(int=2**128 - 1), (), (None,)),
        ]
        assert sorted(order, key=encode) == order

    @few_or_many
    @given(strategies.keys())
    def test_a_key_lies_in_its_family(self, key):
        low, high = family(encode(key))
        assert b"\x10" <= low <= encode(key) < high

    @few_or_many
    @given(st.lists(strategies.long_keys(), max_size=6))
    def test_a_shortened_key_keeps_its_place_among_the_first_480_bytes(self, some):
        def in_tree(key):
            encoded = encode(key)
            return encoded if len(encoded) <= ORDERED_BYTES else shorten(encoded)

        for a, b in pairwise(some):
            a_start, b_start = encode(a)[:ORDERED_BYTES], encode(b)[:ORDERED_BYTES]
            if a_start != b_start:
                assert (in_tree(a) < in_tree(b)) == (a_start < b_start)
            assert (in_tree(a) == in_tree(b)) == (a == b)
            assert len(in_tree(a)) <= ORDERED_BYTES + 16


def begins(key, prefix):
    """Whether a key begins with a prefix, said in Python."""
    if isinstance(prefix, tuple):
        return isinstance(key, tuple) and key[: len(prefix)] == prefix
    return isinstance(key, type(prefix)) and key.startswith(prefix)


def selected(keys, prefix):
    start, stop = prefix_bounds(prefix)
    return [key for key in keys if start <= encode(key) < stop]


class TestPrefix:
    @few_or_many
    @given(st.data())
    def test_a_prefix_selects_exactly_what_begins_so(self, data):
        kind = data.draw(st.sampled_from((strategies.texts(6), strategies.byte_strings(), strategies.tuples())))
        some = data.draw(st.lists(kind, min_size=1, max_size=8))
        first = some[0]
        prefix = first[: data.draw(st.integers(0, len(first)))]
        assume(len(encode(prefix)) < ORDERED_BYTES)  # a longer one is refused, see below
        longer = [prefix + first[-1:], prefix + first, first + prefix]
        others = [None, 0, "", b"", (), ("",)]
        everything = [*some, *longer, *others]
        assert selected(everything, prefix) == [key for key in everything if begins(key, prefix)]

    def test_a_number_in_a_tuple_is_that_number_and_no_fraction_above_it(self):
        keys = [("a",), ("a", 1), ("a", 1.0, 5), ("a", 1, (2,)), ("a", 1.5), ("a", 1.0000000000000002), ("a", 2)]
        assert selected(keys, ("a", 1)) == [("a", 1), ("a", 1.0, 5), ("a", 1, (2,))]
        assert selected(keys, ("a", 1.5)) == [("a", 1.5)]

    def test_a_text_in_a_tuple_is_that_text_and_nothing_longer(self):
        keys = [("a",), ("a\x00",), ("a\x00b", 1), ("a", "\x00"), ("ab",)]
        assert selected(keys, ("a",)) == [("a",), ("a", "\x00")]

    def test_the_empty_prefix_selects_its_family(self):
        keys = [None, 1, "", "x", b"", b"\xff", (), (1,)]
        assert selected(keys, "") == ["", "x"]
        assert selected(keys, b"") == [b"", b"\xff"]
        assert selected(keys, ()) == [(), (1,)]

    @pytest.mark.parametrize("prefix", [1, None, 1.5, [], date(2026, 1, 1)], ids=repr)
    def test_other_types_are_no_prefix(self, prefix):
        with pytest.raises(TypeError, match=r"use range\(start, stop\)"):
            prefix_bounds(prefix)

    @pytest.mark.parametrize("prefix", ["x" * 480, b"x" * 480, ("x" * 480,)], ids=["text", "bytes", "tuple"])
    def test_a_prefix_beyond_the_order_is_refused(self, prefix):
        with pytest.raises(ValueError, match="use a shorter prefix"):
            prefix_bounds(prefix)

    @pytest.mark.parametrize("size", range(470, 480))
    @pytest.mark.parametrize("form", [str, str.encode, lambda text: (text,)], ids=["text", "bytes", "tuple"])
    def test_the_longest_prefixes_select_shortened_keys_whatever_their_digest(self, size, form):
        prefix = form("x" * size)
        try:
            start, stop = prefix_bounds(prefix)
        except ValueError:
            return
        for number in range(2000):
            more = form(f"{number}")
            encoded = encode(prefix + more)
            assert start <= (encoded if len(encoded) <= ORDERED_BYTES else shorten(encoded)) < stop


class Precise(datetime):
    """A datetime that knows more than a datetime, as pandas' does."""

    nanosecond = 1

    def __eq__(self, other):
        return isinstance(other, Precise) and super().__eq__(other)

    __hash__ = datetime.__hash__


class NotATime(datetime):
    """A datetime that has no year, as pandas' "not a time"."""

    @property
    def year(self):
        return float("nan")


def nested(depth):
    key = ()
    for _ in range(depth):
        key = (key,)
    return key


class TestRefused:
    @pytest.mark.parametrize("key", [float("nan"), np.float64("nan"), (1, float("nan")), ((float("nan"),),)], ids=repr)
    def test_nan_equals_nothing(self, key):
        with pytest.raises(ValueError, match="never be found again"):
            encode(key)

    @pytest.mark.parametrize(
        "key",
        [
            *([], [1], {1}, frozenset(), {}, object(), 1j, Decimal(1), Fraction(1, 2), range(3), bytearray(b"a")),
            *(
                memoryview(b"a"),
                int,
                len,
                timedelta(1),
                datetime(2026, 1, 1).time(),
                np.float32(1),
                np.datetime64(1, "D"),
            ),
            *((1, []), ((None, {}),), Ellipsis),
        ],
        ids=repr,
    )
    def test_other_types_are_refused_and_the_supported_ones_named(self, key):
        with pytest.raises(TypeError, match=r"cannot be a key, only None, bool, int, float, str, bytes.*tuples"):
            encode(key)

    @pytest.mark.parametrize("key", [np.array([1]), np.array([1, 2]), np.array([]), np.zeros((1, 1), int)], ids=repr)
    def test_arrays_are_refused(self, key):
        with pytest.raises(TypeError, match="an array cannot be a key, only"):
            encode(key)

    def test_a_refusal_names_the_type_that_was_given(self):
        with pytest.raises(TypeError, match="list cannot be a key"):
            encode([1])

    def test_a_subclass_that_would_lose_something_is_refused(self):
        with pytest.raises(TypeError, match="would lose something; convert it, or add what is lost"):
            encode(Precise(2026, 1, 1))
        with pytest.raises(TypeError, match="would lose something"):
            encode(("nested", Precise(2026, 1, 1)))

    def test_a_not_a_time_is_refused(self):
        with pytest.raises(TypeError, match="it has no plain datetime value"):
            encode(NotATime(2026, 1, 1))

    @pytest.mark.parametrize(
        "key",
        [
            datetime.min.replace(tzinfo=timezone(timedelta(microseconds=1))),
            datetime.max.replace(tzinfo=timezone(timedelta(microseconds=-1))),
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23))),
            datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-23))),
        ],
        ids=str,
    )
    def test_an_instant_that_utc_cannot_show_is_refused(self, key):
        with pytest.raises(ValueError, match="outside the years 1 to 9999"):
            encode(key)

    @pytest.mark.parametrize("wrap", [tuple, lambda key: Point(key, 1)], ids=["tuple", "namedtuple"])
    def test_a_tuple_too_deep_is_refused(self, wrap):
        with pytest.raises(ValueError, match="flatten the tuple"):
            encode(wrap(nested(100_000)))

    def test_a_tuple_of_some_depth_is_taken(self):
        assert decode(encode(nested(100))) == nested(100)


@pytest.fixture
def half_a_gigabyte():
    """Not more memory than that, so that a length that is believed unseen fails at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("half_a_gigabyte")
class TestDecodingOfGarbage:
    """`decode` is given what is in the tree; what is damaged there gives a `LostKey` and raises nothing.

    Whatever it gives leads back to the same place in the tree, so that it can be looked at and deleted.
    """

    @pytest.mark.parametrize("code", [0x2F, 0x31, 0x30, 0x40, 0x48, 0x50, 0x54, 0x58, 0x60, 0x80], ids=hex)
    @pytest.mark.parametrize("rest", [b"", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff\x01", b"\x80" * 9], ids=repr)
    def test_a_length_that_makes_no_sense_takes_no_memory(self, code, rest):
        for encoded in (bytes((code,)) + rest, b"\x80" + bytes((code,)) + rest):
            decode(encoded)

    @few_or_many
    @given(st.binary(min_size=1, max_size=64))
    def test_any_bytes_give_a_key_that_leads_back_to_them(self, garbage):
        assert encode(decode(garbage)) == garbage

    @few_or_many
    @given(strategies.keys(), st.data())
    def test_a_damaged_encoding_gives_a_key_that_leads_back_to_it(self, key, data):
        encoded = bytearray(encode(key))
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] ^= data.draw(st.integers(1, 255))
        damaged = bytes(encoded[: data.draw(st.integers(1, len(encoded)))])
        assert encode(decode(damaged)) == damaged

    @pytest.mark.parametrize(
        "garbage",
        [
            b"\x01",
            b"\x10more",
            b"\x30\x01",
            b"\x30" + bytes(9),
            b"\x30" + bytes(8) + b"\xff",
            b"\x30" + bytes(8) + b"\xff\x80",
            b"\x30" + bytes(8) + b"\xff\x80\x00\xff\x00",
            b"\x31\x00\x00\x00\x01\x05",
            b"\x40\xff",
            b"\x50\x00\x00\x00\x00",
            b"\x54" + b"\xff" * 8,
            b"\x58",
            b"\x60short",
            b"\x80",
            b"\x80\x40no end",
            b"\x80\x40\xff\x00\x00",
            b"\x80\x00behind the end",
            b"\x80" * 400,
        ],
        ids=bytes.hex,
    )
    def test_what_is_no_encoding_gives_a_lost_key(self, garbage):
        assert decode(garbage) == LostKey(garbage)
        assert encode(LostKey(garbage)) == garbage

    def test_lost_keys_are_equal_where_their_places_are(self):
        assert LostKey(b"\x01") == LostKey(b"\x01") != LostKey(b"\x02")
        assert len({LostKey(b"\x01"), LostKey(b"\x01")}) == 1
        assert repr(LostKey(b"\x01")) == "<LostKey b'\\x01'...>"
