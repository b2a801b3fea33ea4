"""Compression: what pays is made smaller, the rest is left alone, and what is read is trusted in nothing.

The frames of zstd that nobody wrote here are put together by hand, as RFC 8878 has them.  What could crash,
hang or take the memory runs in a child.  `OBJSTORE_EXAMPLES=10000` makes it long: as many examples of every
property, and twenty times as many pieces of garbage.
"""

from __future__ import annotations

import importlib.util
import pickle
import resource
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import children
import pytest
import strategies
from hypothesis import example, given, settings
from hypothesis import strategies as st

from objstore.codecs import compression
from objstore.codecs.compression import MAX_SIZE, Compression, TooLarge, Unexpandable, compression_of, expand

KIB, MIB = 1 << 10, 1 << 20

NUMBERS = {"zlib": 1, "lz4": 2, "zstd": 3}
PACKAGES = {"zlib": "zlib", "lz4": "lz4", "zstd": "zstandard"}
LEVELS = {"zlib": [1, 6, 9], "lz4": [0, 1, 9, 12], "zstd": [-7, -1, 0, 1, 3, 19, 22]}

# One text, as each method wrote it when its number was given out.
TEXT = b"never odd or even, " * 40
STORED = {
    "zlib": "7801cb4b2d4b2d52c84f4951c82f5200b2f37414f24685464362b8a70900686906e0",
    "lz4": "ff046e65766572206f6464206f72206576656e2c201300ffffcf5076656e2c20",
    "zstd": "28b52ffd60f801d50000986e65766572206f6464206f72206576656e2c200100c55935c3",
}


def needs(method):
    """A mark for a test of a method whose library may be missing."""
    package = PACKAGES[method]
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


every_method = pytest.mark.parametrize("method", [pytest.param(method, marks=needs(method)) for method in NUMBERS])
zstd_is_there = needs("zstd")
memory_is_limited = pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is that of Linux")


def shrunk(method, payload, frames=(), **options):
    """The parts as they are stored, compressed or not."""
    stored = Compression(method, **options).shrink(payload, [memoryview(frame) for frame in frames])
    if stored is None:
        return payload, list(frames), [0] * (1 + len(frames))
    return stored


def round_trip(method, payload, frames=(), **options):
    stored, rest, sizes = shrunk(method, payload, frames, **options)
    back, back_frames = expand(NUMBERS[method], sizes, stored, rest)
    return bytes(back), list(map(bytes, back_frames))


def expanded(method, data, size):
    """What `expand` makes of one compressed payload."""
    return expand(NUMBERS[method], [size], data, [])[0]


def words(rng, size):
    """Text that gets smaller, but not to nothing."""
    some = b" ".join(rng.choice((b"alpha", b"beta", b"gamma")) + b"%d" % rng.randrange(99) for _ in range(size // 5))
    return some[:size]


def raw_zstd(part):
    import zstandard

    return zstandard.ZstdCompressor().compress(part)


def raw_lz4(part):
    import lz4.block

    return lz4.block.compress(part, store_size=False)


RAW = {"zlib": zlib.compress, "lz4": raw_lz4, "zstd": raw_zstd}


@pytest.fixture(params=["at once", "in steps"])
def way(request, monkeypatch):
    """Both ways to expand zstd, whatever the size."""
    if request.param == "in steps":
        monkeypatch.setattr(compression, "_SMALL", 0)


def parts():
    """Bytes of all kinds, around the sizes where something changes."""
    repeated = st.builds(
        lambda unit, times, tail: (unit * times)[:70_000] + tail,
        st.binary(min_size=1, max_size=40),
        st.integers(0, 5_000),
        st.binary(max_size=40),
    )
    edges = st.sampled_from((0, 1, 511, 512, 513, 65_536, 262_144, 262_145, 524_288, 600_000)).map(bytes)
    noise = st.builds(lambda rng, size: rng.randbytes(size), st.randoms(use_true_random=False), st.integers(0, 3_000))
    return st.binary(max_size=2_000) | repeated | edges | noise


class TestRoundTrips:
    @every_method
    @settings(max_examples=strategies.EXAMPLES, deadline=None)
    @given(payload=parts(), frames=st.lists(parts(), max_size=3), threshold=st.sampled_from((0, 1, 512)))
    @example(payload=b"", frames=[], threshold=0)
    def test_parts_come_back(self, method, payload, frames, threshold):
        assert round_trip(method, payload, frames, threshold=threshold) == (payload, frames)

    @every_method
    def test_on_every_level(self, method, rng):
        payload, frame = words(rng, 3_000), words(rng, 700_000)
        for level in [None, *LEVELS[method]]:
            assert shrunk(method, payload, [frame], level=level).sizes == [len(payload), len(frame)]
            assert round_trip(method, payload, [frame], level=level) == (payload, [frame])

    @every_method
    @pytest.mark.usefixtures("way")
    def test_in_many_pieces_and_steps(self, method, rng):
        for part in (words(rng, 3 * MIB), bytes(3 * MIB + 1), rng.randbytes(MIB) + bytes(MIB)):
            stored = shrunk(method, part)
            assert stored.sizes == [len(part)]
            assert expanded(method, stored.payload, len(part)) == part

    @every_method
    def test_what_was_stored_once_can_be_read_for_ever(self, method):
        assert expanded(method, bytes.fromhex(STORED[method]), len(TEXT)) == TEXT
        assert Compression(method).number == NUMBERS[method]

    @every_method
    def test_expanded_frames_are_private_memory(self, method):
        frames = [bytes(100_000), bytes(900_000)]
        stored = shrunk(method, b"", frames)
        back = expand(NUMBERS[method], stored.sizes, stored.payload, stored.frames)[1]
        assert list(map(type, back)) == [bytearray, bytearray]
        back[0] += b"it can be resized, so nobody else holds it"

    @every_method
    def test_what_the_codec_gives_may_be_any_view(self, method):
        part = memoryview(bytearray(b"abc" * 50_000))
        stored = Compression(method).shrink(b"", [part])
        assert expand(NUMBERS[method], stored.sizes, memoryview(b""), stored.frames)[1] == [part]


class TestWhatIsLeftAlone:
    @every_method
    def test_what_is_shorter_than_the_threshold(self, method):
        assert Compression(method).shrink(bytes(511), []) is None
        assert Compression(method).shrink(bytes(512), []).sizes == [512]
        assert Compression(method, threshold=90).shrink(bytes(89), [memoryview(bytes(90))]).sizes == [0, 90]

    @pytest.mark.parametrize(("length", "sizes"), [(699, [800]), (700, [800]), (701, None)])
    def test_what_would_save_less_than_an_eighth(self, monkeypatch, length, sizes):
        how = compression._METHODS["zlib"]._replace(shrink=lambda part, level: bytes(length))
        monkeypatch.setitem(compression._METHODS, "zlib", how)
        stored = Compression("zlib").shrink(bytes(800), [])
        assert (stored and stored.sizes) == sizes

    @every_method
    def test_a_part_by_itself_and_not_a_copy_of_it(self, method, rng):
        noise = memoryview(rng.randbytes(100_000))
        stored = Compression(method).shrink(b"short", [noise, memoryview(bytes(70_000)), noise])
        assert stored.sizes == [0, 0, 70_000, 0]
        assert stored.payload == b"short"
        assert [frame is noise for frame in stored.frames] == [True, False, True]
        back = expand(NUMBERS[method], stored.sizes, stored.payload, stored.frames)[1]
        assert [frame is noise for frame in back] == [True, False, True]

    @every_method
    def test_noise(self, method, rng):
        assert Compression(method).shrink(rng.randbytes(5_000), [memoryview(rng.randbytes(600_000))]) is None

    @every_method
    def test_what_is_more_than_max_size_together(self, method):
        frames = [memoryview(bytes(6_000)), memoryview(bytes(3_000))]
        stored = Compression(method, max_size=10_000).shrink(bytes(1_000), frames)
        back = expand(NUMBERS[method], stored.sizes, stored.payload, stored.frames, max_size=10_000)
        assert back == (bytes(1_000), frames)
        assert Compression(method, max_size=9_999).shrink(bytes(1_000), frames) is None

    def test_what_is_longer_than_lz4_takes(self, monkeypatch):
        how = compression._METHODS["lz4"]
        assert how.longest == 0x7E000000
        how = how._replace(shrink=compression._shrink_zlib, library=lambda: None, longest=5_000, level=1)
        monkeypatch.setitem(compression._METHODS, "lz4", how)
        assert Compression("lz4").shrink(bytes(5_000), [memoryview(bytes(5_001))]).sizes == [5_000, 0]

    def test_of_large_noise_only_pieces_are_tried(self, monkeypatch, rng):
        tried = []

        def shrink(part, level):
            tried.append(len(part))
            return zlib.compress(part, level)

        how = compression._METHODS["zlib"]._replace(shrink=shrink)
        monkeypatch.setitem(compression._METHODS, "zlib", how)
        noise = rng.randbytes(512 * KIB)
        assert Compression("zlib").shrink(noise, []) is None
        assert tried == [16 * KIB] * 4
        tried.clear()
        assert Compression("zlib").shrink(noise[:-1], []) is None
        assert tried == [512 * KIB - 1]

    @every_method
    @pytest.mark.parametrize("at", [0, 1, 2, 3])
    def test_one_piece_that_gets_smaller_is_enough(self, method, at, rng):
        part = bytearray(rng.randbytes(4 * MIB))
        middle = at * len(part) // 3
        start, stop = max(0, middle - MIB), min(len(part), middle + MIB)
        part[start:stop] = bytes(stop - start)
        assert shrunk(method, bytes(part)).sizes == [4 * MIB]


class TestSizesAreNotBelieved:
    """What is refused before anything is done: the data are not even looked at."""

    @every_method
    def test_more_than_max_size_together(self, method):
        with pytest.raises(TooLarge, match="max_size=10000"):
            expand(NUMBERS[method], [6_000, 4_001], b"no data", [memoryview(b"nor here")], max_size=10_000)
        with pytest.raises(TooLarge, match=f"max_size={MAX_SIZE}"):
            expanded(method, bytes(10 * MIB), MAX_SIZE + 1)

    @every_method
    def test_what_the_method_cannot_make_of_so_few_bytes(self, method):
        for size in (MIB, MAX_SIZE):
            with pytest.raises(Unexpandable, match=f"10 bytes of {method} never were {size}"):
                expanded(method, bytes(10), size)

    @every_method
    def test_but_what_it_can_make_is_expanded(self, method):
        zeros = bytes(64 * MIB)
        stored = shrunk(method, zeros)
        assert len(zeros) / len(stored.payload) > {"zlib": 200, "lz4": 250, "zstd": 10_000}[method]
        assert expanded(method, stored.payload, len(zeros)) == zeros

    @every_method
    def test_one_for_each_part(self, method):
        for sizes in ([], [0], [0, 0, 0]):
            with pytest.raises(Unexpandable, match=f"2 parts, and sizes for {len(sizes)}"):
                expand(NUMBERS[method], sizes, b"", [memoryview(b"")])

    def test_and_the_method_is_one_that_is_known(self):
        for number in (0, 4, 255):
            with pytest.raises(Unexpandable, match=f"{number}, is unknown here"):
                expand(number, [0], b"", [])

    def test_a_size_that_lz4_cannot_count(self, monkeypatch):
        monkeypatch.setitem(compression._METHODS, "lz4", compression._METHODS["lz4"]._replace(reach=1 << 40))
        with pytest.raises(Unexpandable, match="never were"):
            expand(NUMBERS["lz4"], [0x7E000001], bytes(100), [], max_size=1 << 40)


def rlimited(room, function):
    """Run `function` in a child that gets no more than `room` bytes of new memory; what it returns."""

    def limited():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
        return function()

    return children.result(limited)


def outcome(function):
    """What a function raises, or else how much it returns."""
    try:
        return len(function())
    except (Unexpandable, MemoryError) as exc:
        return f"{type(exc).__name__}: {exc}"


@memory_is_limited
class TestBombs:
    @every_method
    @pytest.mark.usefixtures("way")
    def test_data_that_give_more_than_they_say_are_not_followed(self, method):
        bomb = RAW[method](bytes(200 * MIB))
        result = rlimited(16 * MIB, lambda: outcome(lambda: expanded(method, bomb, 1_000)))
        assert result.startswith(f"Unexpandable: its {method} ")

    @zstd_is_there
    @pytest.mark.usefixtures("way")
    def test_nor_are_those_of_zstd_that_say_so_in_the_frame_only(self):
        bomb = zstd_frame(10_000, [(RUN_BLOCK, 8 * KIB, b"\0")] * 25_000, window_log=13)
        result = rlimited(16 * MIB, lambda: outcome(lambda: expanded("zstd", bomb, 10_000)))
        assert result.startswith("Unexpandable: its zstd data ")

    @every_method
    def test_data_that_give_less_than_they_say_fill_no_memory(self, method, rng):
        size = 512 * MIB
        data = LIES[method](size, rng)
        compression._METHODS[method].library()

        def grown():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            message = outcome(lambda: expanded(method, data, size))
            return message, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KIB

        message, memory = children.result(grown)
        assert message.startswith("Unexpandable")
        assert memory < 48 * MIB

    @pytest.mark.parametrize("method", ["zlib", pytest.param("zstd", marks=zstd_is_there)])
    def test_nor_do_they_ask_for_it(self, method, rng):
        size = 512 * MIB
        data = LIES[method](size, rng)
        compression._METHODS[method].library()
        result = rlimited(32 * MIB, lambda: outcome(lambda: expanded(method, data, size)))
        assert result.startswith("Unexpandable")

    @zstd_is_there
    def test_where_memory_is_short_zstd_is_not_called_damaged(self):
        whole = bytes(64 * MIB)
        strongest = Compression("zstd", level=22)
        assert rlimited(100 * MIB, lambda: outcome(lambda: strongest.shrink(whole, []))).startswith("MemoryError: zstd")
        data = zstd_frame(64 * MIB, [RUN] * 512, window_log=26)
        assert len(expanded("zstd", data, 64 * MIB)) == 64 * MIB
        result = rlimited(32 * MIB, lambda: outcome(lambda: expanded("zstd", data, 64 * MIB)))
        assert result.startswith("MemoryError: zstd")


RAW_BLOCK, RUN_BLOCK = 0, 1
RUN = (RUN_BLOCK, 128 * KIB, b"\0")  # of 4 bytes, 128 KiB


def zstd_frame(size, blocks, window_log=20, dictionary=0):
    """A frame that says it has `size` bytes, of blocks (kind, length, bytes)."""
    descriptor = (0 if size is None else 3 << 6) | (3 if dictionary else 0)
    head = b"\x28\xb5\x2f\xfd" + bytes((descriptor, (window_log - 10) << 3))
    head += dictionary.to_bytes(4, "little") if dictionary else b""
    head += b"" if size is None else size.to_bytes(8, "little")
    body = b""
    for number, (kind, length, data) in enumerate(blocks):
        is_last = number == len(blocks) - 1
        body += (length << 3 | kind << 1 | is_last).to_bytes(3, "little") + data
    return head + body


def lie_of_zlib(size, rng):
    """Data that could be so large, and are noise that zlib stores as it is."""
    return zlib.compress(rng.randbytes(size // 1032 + 1))


def lie_of_lz4(size, rng):
    return raw_lz4(rng.randbytes(size // 255 + 1))


def lie_of_zstd(size, rng):
    """A frame that says what the record says, and has not more than a tenth of a megabyte."""
    return zstd_frame(size, [(RAW_BLOCK, 100_000, rng.randbytes(100_000))])


LIES = {"zlib": lie_of_zlib, "lz4": lie_of_lz4, "zstd": lie_of_zstd}

EMPTY_FRAME = zstd_frame(0, [(RAW_BLOCK, 0, b"")])
SKIPPED_FRAME = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"aside"


@zstd_is_there
@pytest.mark.usefixtures("way")
class TestFramesOfZstdThatNobodyWroteHere:
    size = 10_000
    whole = ((RAW_BLOCK, 4_000, b"a" * 4_000), (RUN_BLOCK, 6_000, b"b"))

    def refusal(self, data, size=size):
        with pytest.raises(Unexpandable) as caught:
            expanded("zstd", data, size)
        return str(caught.value)

    def test_those_of_this_test_are_right_but_for_one_thing(self):
        assert expanded("zstd", zstd_frame(self.size, self.whole, 13), self.size) == b"a" * 4_000 + b"b" * 6_000

    def test_one_that_does_not_say_its_size(self):
        assert "not of the 10000 bytes" in self.refusal(zstd_frame(None, self.whole, 13))

    @pytest.mark.parametrize("says", [0, 9_999, 10_001, 1 << 40, (1 << 64) - 1, (1 << 64) - 2])
    def test_one_that_says_another_size(self, says):
        assert "not of the 10000 bytes" in self.refusal(zstd_frame(says, self.whole, 13))

    @pytest.mark.parametrize("window_log", [14, 20, 27, 31])
    def test_one_with_a_window_larger_than_its_content(self, window_log):
        assert "window" in self.refusal(zstd_frame(self.size, self.whole, window_log))

    def test_one_that_needs_a_dictionary(self):
        assert "dictionary" in self.refusal(zstd_frame(self.size, self.whole, 13, dictionary=7))

    @pytest.mark.parametrize(
        "blocks",
        [whole[:1], whole[1:], (*whole, (RUN_BLOCK, 1, b"c")), whole * 2, (whole[0], (RUN_BLOCK, 6_001, b"b"))],
    )
    def test_one_whose_blocks_have_another_size(self, blocks):
        self.refusal(zstd_frame(self.size, blocks, 13))

    def test_one_that_has_more_and_does_not_end(self):
        data = bytearray(zstd_frame(MIB - 1, [RUN] * 8, window_log=17))
        data[-4] &= ~1  # the mark of the last block
        self.refusal(bytes(data), MIB - 1)

    def test_two_frames(self):
        first, second = zstd_frame(4_000, self.whole[:1], 10), zstd_frame(6_000, self.whole[1:], 10)
        for says in (4_000, 6_000, 10_000):
            self.refusal(first + second, says)

    @pytest.mark.parametrize("behind", [b"\0", b"more", EMPTY_FRAME, SKIPPED_FRAME], ids=["0", "more", "empty", "skip"])
    def test_something_behind_the_frame(self, behind):
        self.refusal(zstd_frame(self.size, self.whole, 13) + behind)

    @pytest.mark.parametrize("before", [b"\0", EMPTY_FRAME, SKIPPED_FRAME], ids=["0", "empty", "skip"])
    def test_something_before_it(self, before):
        self.refusal(before + zstd_frame(self.size, self.whole, 13))

    def test_one_that_is_skipped_and_says_the_size_of_the_next(self):
        self.refusal(SKIPPED_FRAME, 5)
        self.refusal(SKIPPED_FRAME + zstd_frame(5, [(RUN_BLOCK, 5, b"a")], window_log=27), 5)


class TestStreamsOfZlibThatNobodyWroteHere:
    @pytest.mark.parametrize("bits", [-15, 31], ids=["bare", "gzip"])
    def test_another_format(self, bits):
        stream = zlib.compressobj(wbits=bits)
        with pytest.raises(Unexpandable, match="wrong"):
            expanded("zlib", stream.compress(TEXT) + stream.flush(), len(TEXT))

    def test_one_that_needs_a_dictionary(self):
        stream = zlib.compressobj(zdict=b"never odd")
        with pytest.raises(Unexpandable, match="wrong"):
            expanded("zlib", stream.compress(TEXT) + stream.flush(), len(TEXT))

    def test_zlib_is_never_asked_without_a_bound(self, monkeypatch):
        asked = []

        class Asked:
            def __init__(self):
                self.stream = zlib.decompressobj()

            def decompress(self, data, bound):
                asked.append(bound)
                return self.stream.decompress(data, bound)

            eof = property(lambda self: self.stream.eof)
            unused_data = property(lambda self: self.stream.unused_data)

        monkeypatch.setattr(compression, "zlib", SimpleNamespace(decompressobj=Asked, error=zlib.error))
        with pytest.raises(Unexpandable, match="give more than the 1000 bytes"):
            expanded("zlib", zlib.compress(bytes(200 * MIB)), 1_000)
        assert asked == [1_001]  # 0 were without a bound

    @pytest.mark.parametrize("size", [1_000, 200_000], ids=["one piece", "several"])
    def test_something_behind_the_end(self, size, rng):
        part = rng.randbytes(size)
        data = zlib.compress(part)
        assert expanded("zlib", data, size) == part
        for behind in (b"\0", data, bytes(100_000)):
            with pytest.raises(Unexpandable, match="do not end where they should"):
                expanded("zlib", data + behind, size)


def refusals(method, tries):
    """How many of these (data, size) are refused, in a child; the others give as many bytes as they say."""

    def count():
        refused = 0
        for data, size in tries:
            try:
                back = expanded(method, data, size)
            except Unexpandable:
                refused += 1
            else:
                assert len(back) == size
        return refused

    return children.result(count)


@pytest.mark.usefixtures("way")
class TestDamage:
    """Every damage to a small part gives the one exception, or as many bytes as there were.

    Which bytes these are is for the digest of the record to say; neither lz4 nor zstd has one of its own here.
    """

    @every_method
    def test_a_part_cut_short_is_refused(self, method, rng):
        part = words(rng, 900)
        data = shrunk(method, part).payload
        assert refusals(method, [(data[:end], 900) for end in range(len(data))]) == len(data)

    @every_method
    def test_a_part_that_goes_on_is_refused(self, method, rng):
        data = shrunk(method, words(rng, 900)).payload
        more = (b"\0", b"\xff", data[-1:], data, rng.randbytes(20))
        assert refusals(method, [(data + tail, 900) for tail in more]) == len(more)

    @every_method
    def test_a_size_that_is_off_by_one_is_refused(self, method, rng):
        data = shrunk(method, words(rng, 900)).payload
        assert refusals(method, [(data, 899), (data, 900), (data, 901)]) == 2

    @every_method
    def test_a_flipped_bit_gives_the_exception_or_as_many_bytes(self, method, rng):
        data = shrunk(method, words(rng, 900)).payload
        flipped = []
        for bit in range(8 * len(data)):
            copy = bytearray(data)
            copy[bit >> 3] ^= 1 << (bit & 7)
            flipped.append((bytes(copy), 900))
        assert len(data) < refusals(method, flipped) <= len(flipped)  # the sum of zlib finds all, or nearly

    @every_method
    def test_garbage_gives_nothing_else(self, method, rng):
        garbage = []
        for _ in range(20 * strategies.EXAMPLES):
            size = rng.choice((rng.randrange(1, 50), rng.randrange(1, 300_000)))
            # For zstd behind a header that is right, so that the garbage is looked at.
            head = zstd_frame(size, [], window_log=10) if method == "zstd" else b""
            garbage.append((head + rng.randbytes(rng.randrange(300)), size))
        assert refusals(method, garbage) > 10 * strategies.EXAMPLES


class TestOption:
    @every_method
    def test_it_is_the_name_of_a_method_or_more(self, method):
        assert compression_of(method) == Compression(method)
        strong = Compression(method, level=9, threshold=100)
        assert compression_of(strong) is strong

    def test_it_may_be_nothing(self):
        assert compression_of(None) is None

    @zstd_is_there
    def test_it_is_zstd_if_nothing_is_said(self):
        assert Compression() == Compression("zstd", level=None, threshold=512, max_size=1 << 30)

    @pytest.mark.parametrize("name", ["", "ZSTD", "gzip", "brotli"])
    def test_another_name_is_refused(self, name):
        with pytest.raises(ValueError, match=f"one of 'zstd', 'zlib', 'lz4', not {name!r}"):
            compression_of(name)

    @pytest.mark.parametrize("option", [True, 3, b"zstd", ["zstd"]], ids=repr)
    def test_another_type_is_refused(self, option):
        with pytest.raises(TypeError, match="or a Compression, not"):
            compression_of(option)
        with pytest.raises(ValueError, match="one of"):
            Compression(option)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"level": 0}, "from 1 to 9, not 0"),
            ({"level": 10}, "from 1 to 9, not 10"),
            ({"threshold": -1}, "threshold is a number of bytes"),
            ({"max_size": 0}, "max_size is a number of bytes"),
        ],
    )
    def test_a_number_out_of_range_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            Compression("zlib", **options)

    @every_method
    def test_the_levels_are_those_of_the_library(self, method):
        how = compression._METHODS[method]
        assert how.level in how.levels
        for level in (how.levels[0], how.levels[-1]):
            assert round_trip(method, TEXT, level=level) == (TEXT, [])
        with pytest.raises(ValueError, match="level"):
            Compression(method, level=how.levels[-1] + 1)

    @pytest.mark.parametrize("name", ["level", "threshold", "max_size"])
    @pytest.mark.parametrize("value", [True, 1.0, "1"], ids=repr)
    def test_what_is_no_number_is_refused(self, name, value):
        with pytest.raises(TypeError, match=f"{name} is a whole number"):
            Compression("zlib", **{name: value})

    def test_it_shows_what_is_not_usual(self):
        assert repr(Compression("zlib")) == "Compression('zlib')"
        assert repr(Compression("zlib", level=9, threshold=0)) == "Compression('zlib', level=9, threshold=0)"

    @every_method
    def test_it_travels_also_when_it_was_used(self, method):
        option = Compression(method, level=5, max_size=10_000)
        stored = option.shrink(TEXT, [])
        back = pickle.loads(pickle.dumps(option))
        assert (back, repr(back)) == (option, repr(option))
        assert back.shrink(TEXT, []) == stored


class TestLibraries:
    @pytest.fixture(params=["lz4", "zstd"])
    def missing(self, request, monkeypatch):
        """A method whose library is not there."""
        for name in ("lz4", "lz4.block", "zstandard"):
            monkeypatch.setitem(sys.modules, name, None)
        compression._lz4.cache_clear()
        compression._zstandard.cache_clear()
        yield request.param
        compression._lz4.cache_clear()
        compression._zstandard.cache_clear()

    def test_who_chooses_a_method_without_its_library_is_told_what_to_install(self, missing):
        with pytest.raises(ModuleNotFoundError, match=r"pip install (lz4|zstandard)") as caught:
            Compression(missing)
        assert caught.value.name == PACKAGES[missing]

    def test_who_reads_what_needs_it_is_told_so_too(self, missing):
        with pytest.raises(ModuleNotFoundError, match=f"{missing} needs .*pip install"):
            expanded(missing, bytes.fromhex(STORED[missing]), len(TEXT))

    @pytest.mark.usefixtures("missing")
    def test_zlib_is_always_there(self):
        assert round_trip("zlib", TEXT) == (TEXT, [])

    def test_none_is_loaded_before_it_is_needed(self):
        code = (
            "import sys\n"
            "from objstore.codecs.compression import Compression\n"
            "assert Compression('zlib').shrink(bytes(1000), [])\n"
            "print(*sys.modules)"
        )
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert not {"lz4", "zstandard"} & set(loaded.split())


class TestThreadsAndProcesses:
    @every_method
    def test_threads_share_one_option(self, method, rng):
        option = Compression(method)
        values = [words(rng, rng.choice((600, 5_000, 90_000, 400_000))) for _ in range(8)]

        def work(thread):
            for turn in range(24):
                value = values[(thread + turn) % len(values)]
                stored = option.shrink(value, [memoryview(value)])
                payload, frames = expand(option.number, stored.sizes, stored.payload, stored.frames)
                assert payload == value
                assert frames == [value]
            return True

        def work_together():
            with ThreadPoolExecutor(4) as pool:
                return list(pool.map(work, range(4)))

        assert children.result(work_together) == [True] * 4

    @every_method
    def test_children_use_it_while_the_threads_of_the_parent_do(self, method, rng):
        values = [words(rng, 2_000), words(rng, 300_000)]
        ended = threading.Event()

        def work():
            while not ended.is_set():
                for value in values:
                    round_trip(method, value)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(8):
                for value in values:
                    assert children.result(lambda value=value: round_trip(method, value)) == (value, [])
        finally:
            ended.set()
            thread.join()
