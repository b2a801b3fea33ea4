"""Pickle: one protocol for ever, and large buffers beside the payload."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np
import pytest
import strategies
from hypothesis import given, settings

from objstore.codecs import pickling
from objstore.codecs.pickling import LARGE, Pickle
from objstore.record import PICKLE

codec = Pickle()


def round_trip(value):
    payload, frames = codec.encode(value)
    return codec.decode(memoryview(payload), [bytearray(frame) for frame in frames])


def frame_sizes(value):
    return [len(frame) for frame in codec.encode(value)[1]]


class TestPayload:
    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(strategies.values())
    def test_a_value_comes_back(self, value):
        back = round_trip(value)
        assert back == value
        assert type(back) is type(value)

    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(strategies.values())
    def test_small_values_are_what_pickle_makes_of_them(self, value):
        payload, frames = codec.encode(value)
        assert payload == pickle.dumps(value, 5)
        assert not frames

    def test_the_protocol_is_5_whatever_the_interpreter_likes(self, monkeypatch):
        monkeypatch.setattr(pickle, "HIGHEST_PROTOCOL", 9)
        monkeypatch.setattr(pickle, "DEFAULT_PROTOCOL", 4)
        payload, _ = codec.encode([1, "two"])
        assert payload[:2] == b"\x80\x05"
        assert max(opcode.proto for opcode, _, _ in pickletools.genops(payload)) <= 5

    def test_a_payload_with_frames_begins_as_a_pickle_too(self):
        payload, _ = codec.encode(np.zeros(LARGE, np.uint8))
        assert payload[:2] == b"\x80\x05"

    def test_name_and_number_are_recorded_for_ever(self):
        assert (codec.name, codec.number, PICKLE) == ("pickle", 1, 1)

    def test_what_the_objects_raise_comes_through(self):
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            codec.encode(lambda: None)


class TestFrames:
    @pytest.mark.parametrize(("size", "out"), [(LARGE - 1, []), (LARGE, [LARGE])])
    def test_a_buffer_is_a_frame_from_64_kib(self, size, out):
        array = np.arange(size, dtype=np.uint8)
        assert LARGE == 64 * 1024
        assert frame_sizes(array) == out
        assert np.array_equal(round_trip(array), array)

    def test_frames_are_flat_views_of_bytes_and_no_copies(self):
        array = np.ones((300, 300), np.float64)
        _, (frame,) = codec.encode(array)
        assert (frame.format, frame.ndim, frame.contiguous) == ("B", 1, True)
        array[0, 0] = 5.0
        assert frame[:8] == np.float64(5.0).tobytes()

    def test_arrays_inside_other_things_are_frames(self):
        weights = {"layers": [np.full((200, 100), n, np.float32) for n in range(3)], "bias": np.zeros(10)}
        assert frame_sizes(weights) == [80_000] * 3
        back = round_trip(weights)
        assert all(map(np.array_equal, back["layers"], weights["layers"]))
        assert np.array_equal(back["bias"], weights["bias"])

    def test_one_array_twice_is_one_frame_and_one_array_again(self):
        array = np.zeros(LARGE)
        assert len(frame_sizes([array, array])) == 1
        first, second = round_trip([array, array])
        assert first is second

    def test_arrays_in_the_order_of_fortran_keep_it(self):
        array = np.asfortranarray(np.arange(40_000.0).reshape(200, 200))
        assert len(frame_sizes(array)) == 1
        assert round_trip(array).flags.f_contiguous
        assert np.array_equal(round_trip(array), array)

    def test_arrays_with_gaps_stay_in_the_pickle(self):
        array = np.arange(200_000)[::2]
        assert frame_sizes(array) == []
        assert np.array_equal(round_trip(array), array)

    def test_a_buffer_with_gaps_is_left_to_pickle(self):
        with pytest.raises(pickle.PicklingError, match="contiguous"):
            codec.encode(pickle.PickleBuffer(memoryview(bytes(200_000))[::2]))

    def test_arrays_of_objects_stay_in_the_pickle(self):
        array = np.array([{"n": n} for n in range(10_000)], dtype=object)
        assert frame_sizes(array) == []
        assert np.array_equal(round_trip(array), array)

    def test_what_is_read_can_be_changed(self):
        back = round_trip(np.zeros(LARGE))
        back[0] = 1.0
        assert back.flags.writeable

    def test_a_frame_becomes_the_object_without_a_copy(self):
        payload, frames = codec.encode(np.zeros(LARGE, np.uint8))
        own = bytearray(frames[0])
        array = codec.decode(memoryview(payload), [own])
        own[0] = 7
        assert array[0] == 7

    @pytest.mark.parametrize("size", [0, 10, LARGE, 1_000_000])
    @pytest.mark.parametrize("kind", [bytes, bytearray])
    def test_bytes_and_bytearrays_come_back_as_what_they_were(self, kind, size):
        value = kind(range(256)) * (size // 256 + 1)
        assert round_trip(value) == value
        assert type(round_trip(value)) is kind

    @pytest.mark.parametrize("kind", [bytes, bytearray])
    def test_pickle_buffers_are_frames(self, kind):
        data = kind(LARGE)
        payload, frames = codec.encode([pickle.PickleBuffer(data)])
        assert list(map(bytes, frames)) == [data]
        (back,) = codec.decode(memoryview(payload), [bytearray(frame) for frame in frames])
        assert back == data

    def test_what_is_beyond_the_most_frames_stays_in_the_pickle(self, monkeypatch):
        monkeypatch.setattr(pickling, "MAX_FRAMES", 2)
        arrays = [np.full(LARGE, n, np.uint8) for n in range(4)]
        assert len(frame_sizes(arrays)) == 2
        assert all(map(np.array_equal, round_trip(arrays), arrays))
