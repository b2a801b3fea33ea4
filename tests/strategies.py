"""What Hypothesis draws from: keys of every kind, values that pickle takes, tags and times to live.

`EXAMPLES` is how many examples a property test runs; the environment variable `OBJSTORE_EXAMPLES` raises it
for a long night.
"""

from __future__ import annotations

import os
from datetime import date, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("OBJSTORE_EXAMPLES", "70"))

_INT64_EDGE = 1 << 63
_ODD_FLOATS = (5e-324, -5e-324, 2.2e-308, 1e300, -1e300, 2.0**63, -(2.0**63), 2.0**53 + 2, 0.1, -0.1, 0.5, -0.0)
_ODD_TEXTS = ("", "\x00", "a\x00", "a\x00b", "\x00\xff", "\ud800", "\udfff\x00", "\U0010ffff", "\uffff", "ä", "a")
_ODD_BYTES = (b"", b"\x00", b"\x00\xff", b"\xff", b"\xff\xff", b"a\x00", b"a\x00\xff", b"a")
_LONG = 10_000


def integers():
    """Integers of any size, most of them near a border of the encoding."""
    borders = st.sampled_from((0, 2**8, 2**53, _INT64_EDGE, 2**64, 2**72, 10**1000))
    near = st.builds(
        lambda border, sign, off: sign * border + off, borders, st.sampled_from((1, -1)), st.integers(-3, 3)
    )
    huge = st.integers(-(10**1000), 10**1000)
    return st.integers() | near | huge


def floats():
    """Every float that can be a key: all but NaN."""
    return st.floats(allow_nan=False) | st.sampled_from((*_ODD_FLOATS, float("inf"), float("-inf")))


def numbers():
    """Integers and floats, some of them equal."""
    return integers() | floats() | st.integers(-9, 9).map(float) | st.booleans()


def texts(max_size=30):
    """Text of all code points, lone surrogates and NULs among them."""
    return st.text(st.characters(), max_size=max_size) | st.sampled_from(_ODD_TEXTS) | st.text("\x00a\xff", max_size=6)


def byte_strings():
    """Bytes, many of them with the bytes that the encoding treats apart."""
    few = st.lists(st.sampled_from((0, 1, 0x61, 0xFE, 0xFF)), max_size=6).map(bytes)
    return st.binary(max_size=30) | st.sampled_from(_ODD_BYTES) | few


def zones():
    """Fixed offsets from UTC, odd to the microsecond."""
    day = timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999)
    return st.timedeltas(min_value=-day, max_value=day).map(timezone) | st.just(timezone.utc)


def naive_datetimes():
    return st.datetimes() | st.sampled_from((datetime.min, datetime.max))


def aware_datetimes():
    """Instants that are within the years 1 to 9999 in UTC, too."""
    inside = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30, 23, 59, 59))
    edges = st.sampled_from((datetime.min, datetime.max)).map(lambda moment: moment.replace(tzinfo=timezone.utc))
    return st.builds(lambda moment, zone: moment.replace(tzinfo=zone), inside, zones()) | edges


def dates():
    return st.dates() | st.sampled_from((date.min, date.max))


def uuids():
    return st.uuids() | st.sampled_from((UUID(int=0), UUID(int=2**128 - 1)))


def families():
    """One strategy for each kind of key that sorts among its own, tuples left out."""
    return {
        "number": numbers(),
        "text": texts(),
        "bytes": byte_strings(),
        "date": dates(),
        "naive datetime": naive_datetimes(),
        "aware datetime": aware_datetimes(),
        "UUID": uuids(),
    }


def scalars():
    """Keys that are no tuples."""
    return st.none() | st.booleans() | st.one_of(list(families().values()))


def tuples():
    """Tuples of keys, nested."""
    return st.recursive(
        st.lists(scalars(), max_size=3).map(tuple),
        lambda inner: st.lists(inner | scalars(), max_size=3).map(tuple),
        max_leaves=6,
    )


def long_keys():
    """Keys whose encodings are around the longest that stay as they are, and up to 10 kB."""
    sizes = st.integers(470, 490) | st.integers(0, _LONG)
    text = st.builds(lambda size, end: "k" * size + end, sizes, texts(3))
    data = st.builds(lambda size, end: b"\xff" * size + end, sizes, st.binary(max_size=3))
    number = st.builds(lambda size, sign, end: sign * (256**size + end), sizes, st.sampled_from((1, -1)), integers())
    nested = st.builds(lambda content, end: ("long", content, end), text | data, scalars())
    return text | data | number | nested


def keys():
    """Every kind of key."""
    return scalars() | tuples() | long_keys()


def values():
    """Picklable values that equal what pickle makes of them."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=20)
        | st.binary(max_size=20)
        | st.binary(max_size=20).map(bytearray)
        | st.complex_numbers(allow_nan=False)
        | st.datetimes()
        | st.frozensets(st.integers(), max_size=3)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
        ),
        max_leaves=8,
    )


def tags():
    """The tags of one record, each once."""
    tag = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
    return st.lists(tag, unique=True, max_size=4).map(tuple)


def ttls():
    """Seconds that a record may live, or None for ever."""
    seconds = st.floats(min_value=1e-6, max_value=9e8)
    return st.none() | seconds | st.integers(1, 10**8) | seconds.map(lambda ttl: timedelta(seconds=max(ttl, 1e-6)))
