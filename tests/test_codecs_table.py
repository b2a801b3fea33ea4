"""The table of the codecs, the codec for bytes, and what a codec of somebody's own must be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from objstore.codecs.base import OWN_NUMBERS
from objstore.codecs.pickling import Pickle
from objstore.codecs.raw import Bytes
from objstore.codecs.structured import Json, Msgpack
from objstore.codecs.table import CODECS, codec_of, name_of


class Own:
    name = "own"
    number = 128
    runs_code = False

    def encode(self, value):
        return value, ()

    def decode(self, payload, frames):
        return bytes(payload)


class TestTable:
    def test_names_and_numbers_are_for_ever(self):
        assert {name: (codec.number, codec.runs_code) for name, codec in CODECS.items()} == {
            "pickle": (1, True),
            "bytes": (2, False),
            "json": (3, False),
            "msgpack": (4, False),
        }

    @pytest.mark.parametrize(
        ("name", "kind"), [("pickle", Pickle), ("bytes", Bytes), ("json", Json), ("msgpack", Msgpack)]
    )
    def test_a_name_gives_a_codec(self, name, kind):
        codec = codec_of(name)
        assert type(codec) is kind
        assert name_of(codec.number) == name

    def test_numbers_without_a_codec_have_no_name(self):
        assert [name_of(number) for number in (0, 5, 128, 255)] == [None] * 4

    @pytest.mark.parametrize("codec", [Pickle(), Pickle(allow=[]), Bytes(), Json(), Msgpack(int), Own()])
    def test_a_codec_is_itself(self, codec):
        assert codec_of(codec) is codec

    @pytest.mark.parametrize("name", ["", "Pickle", "yaml", "msgpack "])
    def test_another_name_is_refused_with_those_that_there_are(self, name):
        with pytest.raises(ValueError, match="'pickle', 'bytes', 'json', 'msgpack'"):
            codec_of(name)

    @pytest.mark.parametrize(
        ("changes", "error", "said"),
        [
            ({"name": "pickle"}, ValueError, "that is one of this library"),
            ({"name": ""}, TypeError, "not empty"),
            ({"name": 5}, TypeError, "not 5"),
            ({"number": 1}, ValueError, "128 to 254"),
            ({"number": 255}, ValueError, "128 to 254"),
            ({"number": True}, ValueError, "128 to 254"),
            ({"number": "128"}, ValueError, "128 to 254"),
            ({"runs_code": None}, TypeError, "True or False"),
            ({"encode": None}, TypeError, "must be methods"),
            ({"decode": 5}, TypeError, "must be methods"),
        ],
    )
    def test_one_of_your_own_must_keep_the_contract(self, changes, error, said):
        with pytest.raises(error, match=said):
            codec_of(type("Changed", (Own,), changes)())

    @pytest.mark.parametrize("part", ["name", "number", "runs_code", "encode", "decode"])
    def test_the_error_says_what_is_missing(self, part):
        names = {
            name: getattr(Own, name) for name in ("name", "number", "runs_code", "encode", "decode") if name != part
        }
        with pytest.raises(TypeError, match=f"it has no {part};"):
            codec_of(type("Part", (), names)())

    @pytest.mark.parametrize("thing", [None, 5, b"pickle", object(), Own, Pickle])
    def test_what_is_no_codec_is_refused(self, thing):
        with pytest.raises(TypeError, match="codec"):
            codec_of(thing)

    def test_own_numbers(self):
        assert (OWN_NUMBERS[0], OWN_NUMBERS[-1]) == (128, 254)

    def test_importing_the_table_loads_nothing_that_is_optional(self):
        code = "import objstore.codecs.table, sys; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert "objstore.codecs.structured" in loaded
        assert not {"msgspec", "numpy", "pydantic"} & set(loaded)


class TestBytes:
    @pytest.mark.parametrize(
        "value", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), memoryview(b"abcd").cast("I")]
    )
    def test_bytes_come_back_as_bytes(self, value):
        payload, frames = Bytes().encode(value)
        back = Bytes().decode(memoryview(payload), frames)
        assert type(payload) is type(back) is bytes
        assert back == bytes(value)
        assert not frames

    @pytest.mark.parametrize("value", ["text", None, 5, [1, 2], (1,), memoryview(b"abcd")[::2]])
    def test_anything_else_is_refused(self, value):
        with pytest.raises(TypeError, match="is needed"):
            Bytes().encode(value)

    def test_what_is_stored_does_not_change_with_the_buffer(self):
        memory = bytearray(b"abc")
        payload, _ = Bytes().encode(memory)
        memory[0] = 0
        assert payload == b"abc"
        back = Bytes().decode(memoryview(memory), ())
        memory[1] = 0
        assert back == b"\x00bc"
