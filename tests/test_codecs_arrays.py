"""Arrays as description and buffer: every dtype that is bytes, every order, and nothing of it evaluated."""

from __future__ import annotations

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from objstore.codecs import arrays
from objstore.codecs.structured import Json, Msgpack

ALIGNED = np.dtype([("a", "i1"), ("b", "f8")], align=True)
NESTED = np.dtype([("a", "<i4"), ("b", [("c", ">f8", (2, 3)), ("d", "S5")]), (("title", "e"), "?")])

DTYPES = ["?", "<i1", ">i4", "<u8", "<f2", ">f8", "<c16", "S5", "<U3", ">U3", "V7", "M8[ns]", ">M8[D]", "M8[25s]",
          "M8", "m8[us]", ALIGNED, NESTED, np.dtype((">i2", (3,)))]  # fmt: skip


def some(dtype, shape=(3, 4)):
    """An array of that dtype that is filled with whatever bytes."""
    array = np.zeros(shape, dtype)
    if array.dtype.kind in "iufcmM":
        array[...] = np.arange(array.size).reshape(array.shape).astype(array.dtype)
    return array


def round_trips(array):
    """What becomes of an array, by each of the ways that it can go."""
    description, buffer = arrays.describe(array)
    yield arrays.restore(*description, bytearray(buffer))
    for codec in (Msgpack(), Json()):
        payload, frames = codec.encode([array])
        yield codec.decode(memoryview(payload), [bytearray(frame) for frame in frames])[0]


def equal(one, other):
    """Whether two arrays have the same bytes, those between fields apart."""
    if one.dtype.names:
        return all(equal(one[name], other[name]) for name in one.dtype.names)
    return one.tobytes() == other.tobytes()


def check(array):
    for back in round_trips(array):
        assert back.dtype == array.dtype
        assert back.dtype.names == array.dtype.names
        assert back.shape == array.shape
        assert equal(back, array)
        assert back.flags.writeable
        assert type(back) is np.ndarray


class TestRoundTrips:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 4)], ids=str)
    def test_dtypes_and_shapes(self, dtype, shape):
        check(some(dtype, shape))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_orders_and_gaps(self, dtype):
        array = some(dtype, (6, 4))
        for other in (array.T, array[::2], array[::-1], array[:, 1:3], np.asfortranarray(array), array[2:2]):
            check(other)

    def test_the_order_is_kept(self):
        for back in round_trips(np.asfortranarray(np.arange(6.0).reshape(2, 3))):
            assert back.flags.f_contiguous
        for back in round_trips(np.arange(6.0).reshape(2, 3)):
            assert back.flags.c_contiguous

    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(st.data())
    def test_arrays_at_random(self, data):
        dtypes = npst.scalar_dtypes() | npst.array_dtypes(max_size=3)
        dtype = data.draw(dtypes.filter(lambda dtype: dtype.itemsize and not dtype.hasobject))
        check(np.frombuffer(bytes(dtype.itemsize * 6), dtype, 6).reshape(2, 3)[:, ::2])

    def test_what_cannot_be_changed_is_no_obstacle(self):
        array = np.arange(5)
        array.flags.writeable = False
        check(array)

    def test_an_array_in_a_file(self, tmp_path):
        array = np.memmap(tmp_path / "a", dtype="<i4", mode="w+", shape=(3,))
        array[:] = [1, 2, 3]
        check(array)

    def test_names_beyond_ascii(self):
        check(np.zeros(2, [("größe", "<f8"), ("x y", "<i4")]))


class TestRefusals:
    @pytest.mark.parametrize(
        "array",
        [
            np.array([None]),
            np.zeros(1, [("a", "<i4"), ("b", "O")]),
            np.zeros(3).view(np.matrix),
            np.ma.masked_array([1, 2], [True, False]),
            np.zeros(2, [("a", "<i4")]).view(np.recarray),
            np.zeros(2, np.dtype({"names": ["a", "b"], "formats": ["<i4", "<i4"], "offsets": [0, 2]})),
            np.zeros(2, np.dtype([])),
            np.zeros(2, "V0"),
        ],
        ids=["objects", "a field of objects", "matrix", "masked", "records", "overlapping", "no fields", "no size"],
    )
    @pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
    def test_what_would_come_back_as_something_else(self, array):
        with pytest.raises(TypeError, match=r"would come back|holds objects|cannot be written down"):
            arrays.describe(array)

    def test_texts_of_any_length(self):
        if not hasattr(np.dtypes, "StringDType"):
            pytest.skip("NumPy 1 has no StringDType")
        with pytest.raises(TypeError, match=r"objects|cannot be written down"):
            arrays.describe(np.array(["a"], np.dtypes.StringDType()))

    @pytest.mark.parametrize("number", [np.datetime64("2026-01-01", "ns"), np.timedelta64(1, "s"), np.complex64(1j),
                                        np.longdouble(1), np.zeros(1, "i4,i4")[0]])  # fmt: skip
    def test_scalars_that_are_no_plain_numbers(self, number):
        with pytest.raises(TypeError, match="no plain form"):
            arrays.plain_number(number)

    def test_scalars_that_are(self):
        numbers = [np.float32(0.5), np.float64(2), np.int64(-3), np.uint64(2**64 - 1), np.bool_(False)]
        plain = list(map(arrays.plain_number, numbers))
        assert plain == [0.5, 2.0, -3, 2**64 - 1, False]
        assert [type(number) for number in plain] == [float, float, int, int, bool]
        assert arrays.plain_number("a") is None
