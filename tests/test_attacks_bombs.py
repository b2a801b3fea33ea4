"""Bombs: a few bytes that want all memory or all time, planted in a store without a seal.

Each ends in an error that names its key, in a child that may take 64 MiB more than it has.  Behind a seal that does not
fit nothing is expanded or decoded at all, see `test_attacks_doors.py`.
"""

from __future__ import annotations

import importlib.util
import struct
import sys
import zlib
from contextlib import suppress
from functools import cache

import children
import pytest
from attacker import (
    NUMBERS,
    PICKLE,
    headed,
    nothing_runs,  # noqa: F401
    plain,
    plant,
    refuses,
    tree_key,
)

from objstore import Compression, CorruptRecord, DecodeError, Pickle, Store, StoreError

VICTIM = "victim"
MIB = 1 << 20
memory_is_limited = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is that of Linux")
BOMB = 100 * MIB
METHODS = {"zlib": (1, "zlib"), "lz4": (2, "lz4.block"), "zstd": (3, "zstandard")}


@cache
def zeros(method, size):
    """That many zeros, compressed."""
    if method == "zlib":
        return zlib.compress(bytes(size), 1)
    if method == "lz4":
        import lz4.block

        return lz4.block.compress(bytes(size), store_size=False)
    import zstandard

    return zstandard.ZstdCompressor().compress(bytes(size))


@memory_is_limited
class TestBombs:
    def limited(self, function, more=64 * MIB):
        """What a function returns in a child that may take so many bytes more than it has."""
        import resource

        def child():
            with open("/proc/self/statm") as file:
                taken = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + more, taken + more))
            return function()

        return children.result(child)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("codec", ["pickle", "msgpack", "json", "bytes"])
    def test_of_a_compression(self, method, codec):
        number, package = METHODS[method]
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            pytest.skip(f"{package} is not installed")
        bomb = zeros(method, BOMB)
        sizes = [1 << 63, 1 << 50, 1 << 40, (1 << 30) + 1, 5 * MIB, 1000, 1, (1 << 64) - 1]

        with Store("memory://", codec=codec) as store:

            def attack():
                place = tree_key(store, VICTIM)
                refusals = []
                for size in sizes:
                    fields = struct.pack("<BHQ", number, 1, size)
                    plant(store, place, headed(place, bomb, codec=NUMBERS[codec], flags=0x10, fields=fields))
                    with pytest.raises((DecodeError, CorruptRecord)) as caught:
                        store[VICTIM]
                    refusals.append(caught.value.key)
                return refusals

            assert self.limited(attack) == [VICTIM] * len(sizes)

    def test_that_tells_the_truth(self):
        """What is larger than the bound is not expanded, be it as large as it says."""
        bomb = zeros("zlib", BOMB)
        with Store("memory://", codec="bytes", compression=Compression("zlib", max_size=MIB)) as store:

            def attack():
                place = tree_key(store, VICTIM)
                fields = struct.pack("<BHQ", 1, 1, BOMB)
                plant(store, place, headed(place, bomb, codec=2, flags=0x10, fields=fields))
                return str(refuses(store, VICTIM, DecodeError))

            assert "max_size" in self.limited(attack)

    @pytest.mark.parametrize("method", ["zlib"])
    def test_one_within_the_bound_and_not_within_the_memory(self, method):
        bomb = zeros(method, BOMB)
        with Store("memory://", codec="bytes") as store:

            def attack():
                place = tree_key(store, VICTIM)
                fields = struct.pack("<BHQ", METHODS[method][0], 1, BOMB)
                plant(store, place, headed(place, bomb, codec=2, flags=0x10, fields=fields))
                with pytest.raises(StoreError):
                    store[VICTIM]
                return True

            assert self.limited(attack)

    @pytest.mark.parametrize(
        "payload",
        {
            "nested": b"\x80\x05" + b"]" * 200_000 + b"a" * 199_999 + b".",
            "nested tuples": b"\x80\x05)" + b"\x85" * 500_000 + b".",
            "a long integer": b"\x80\x05\x8b" + struct.pack("<i", 1 << 30) + b".",
            "long bytes": b"\x80\x05\x8e" + struct.pack("<Q", 1 << 50) + b".",
            "a long text": b"\x80\x05\x8d" + struct.pack("<Q", (1 << 63) - 1) + b".",
            "a large frame": b"\x80\x05\x95" + struct.pack("<Q", (1 << 63) - 1) + b".",
            "a far memo": b"\x80\x05Nr" + struct.pack("<I", (1 << 31) - 2) + b"0.",
            "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b".",
            "a buffer that is not there": b"\x80\x05\x97.",
            "no end": b"\x80\x05K\x01",
            "an empty stack": b"\x80\x05.",
        }.items(),
        ids=lambda each: each[0],
    )
    @pytest.mark.parametrize("codec", [None, Pickle(allow=[])], ids=["plain", "allow-list"])
    def test_of_a_pickle_that_only_wants_memory(self, payload, codec):
        with Store("memory://", codec=codec) as store:

            def attack():
                place = tree_key(store, VICTIM)
                for forged in (plain(place, payload[1]), headed(place, payload[1])):
                    plant(store, place, forged)
                    with suppress(DecodeError):
                        store[VICTIM]
                return True

            assert self.limited(attack)

    @pytest.mark.parametrize("codec", ["msgpack", "json"])
    def test_of_nesting_and_lengths(self, codec):
        deep = [b"[" * 200_000, b'{"a":' * 200_000, b"\x1e" + b"[" * 100_000 + b"\n"]
        payloads = {
            "msgpack": [
                b"\x91" * 200_000,
                *(code + b"\xff\xff\xff\xff" for code in (b"\xdd", b"\xdf", b"\xc6", b"\xc9")),
            ],
            "json": [*deep, b"1" * 100_000, b"\x1e[[[[[[\n", b'"\\ud800'],
        }[codec]
        with Store("memory://", codec=codec) as store:

            def attack():
                place = tree_key(store, VICTIM)
                for payload in payloads:
                    plant(store, place, headed(place, payload, codec=NUMBERS[codec]))
                    refuses(store, VICTIM, DecodeError)
                return True

            assert self.limited(attack)

    def test_of_buffers(self):
        """A table of buffers that claims what is not there."""
        with Store("memory://") as store:

            def attack():
                place = tree_key(store, VICTIM)
                for count, length in ((1, 1 << 62), (1, (1 << 64) - 1), (65535, 0), (65535, 1 << 40), (3, 100)):
                    table = struct.pack("<H", count) + (struct.pack("<Q", length) + bytes(8)) * count
                    for cut in (len(table), 10):
                        plant(store, place, headed(place, PICKLE[:-1], flags=8, fields=table[:cut]))
                        refuses(store, VICTIM, (CorruptRecord, DecodeError))
                return True

            assert self.limited(attack)
