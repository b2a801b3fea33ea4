"""Compression: a stage between codec and record that makes the parts of a record smaller where that pays.

The *parts* are the payload and the frames.  Each is compressed by itself, and kept as it was where that
saves less than an eighth of it, so a large buffer of noise is still read without a copy.  The record
says by which method, and how large each compressed part was; a part with size 0 was left alone.

The numbers of the methods are stored on disk: DO NOT CHANGE THEM.

    1  zlib   as in RFC 1950
    2  lz4    one block, without a frame around it
    3  zstd   as in RFC 8878: one frame that says how large its content is, without a dictionary

Who expands does not trust what he is given.  A few bytes can claim to be a gigabyte, so the sizes are
held against the bound and against what the method can make of so few bytes before anything is done;
then nothing is made beyond a size, and memory is filled only as the data make it true.  A window larger
than the content, a second frame, or bytes behind the end were not written here, and are refused.  Whether
the bytes are the ones that were written is for the digest of the record to say, before this is asked.

The default levels are the fastest ones: this is for a store.  Of a part of half a megabyte and more, four
small pieces are tried first: noise costs ten to a hundred times less then.

lz4 and zstandard are optional and imported when they are first used.  This module knows bytes only.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from objstore.record import Bytes

MAX_SIZE = 1 << 30
"""How large the parts of a record may be together, if nothing else is said: bytes."""

_LEAST_SAVING = 8  # an eighth
_PROBED = 512 * 1024  # from this size on, a part is tried in pieces first
_PIECES = 4
_PIECE_BYTES = 16 * 1024

# Below, a thread keeps its compressor: to make one takes longer than 1 kB takes.  Above, nothing is gained by
# that, and one may hold hundreds of megabytes.
_SMALL = 256 * 1024

_STEP_BYTES = 256 * 1024  # of expanded data
_FEED_BYTES = 64 * 1024  # of compressed data

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class Unexpandable(Exception):
    """Compressed data that nobody wrote here: damaged, or made to do harm."""


class TooLarge(Unexpandable):
    """A record that is larger than `max_size` when it is expanded.  It may be sound."""


class Shrunk(NamedTuple):
    """The parts of a record, some of them compressed: `sizes` says how large these were, and 0 for the others."""

    payload: bytes
    frames: list[memoryview]
    sizes: list[int]  # of the payload, then of each frame


class Compression:
    """How a store compresses what is written to it.  What is read says itself how it was compressed.

    `method` is "zstd" (the default), "lz4" (the fastest) or "zlib" (always there); the first two need the extra
    `compression`.  `level` is the method's own (zlib 1 to 9, lz4 0 to 12, zstd -100 to 22); None is the fastest
    that compresses well.  Parts below `threshold` bytes are left alone, as are the parts of a value of more than
    `max_size` bytes (1 GiB); a record that would be larger is not expanded.

    Raises ValueError and TypeError for what is none of these, ModuleNotFoundError where the library is missing.
    """

    def __init__(
        self, method: str = "zstd", *, level: int | None = None, threshold: int = 512, max_size: int = MAX_SIZE
    ) -> None:
        how = _METHODS.get(method) if isinstance(method, str) else None
        if how is None:
            raise ValueError(f"a method of compression is one of {_NAMES}, not {method!r}")
        if level is not None and _integer("level", level) not in how.levels:
            low, high = how.levels[0], how.levels[-1]
            raise ValueError(f"a level of {method} is a number from {low} to {high}, not {level!r}")
        if _integer("threshold", threshold) < 0:
            raise ValueError(f"threshold is a number of bytes, 0 or more, not {threshold}")
        if _integer("max_size", max_size) < 1:
            raise ValueError(f"max_size is a number of bytes, 1 or more, not {max_size}")
        how.library()
        self.method = method
        self.level = level
        self.threshold = threshold
        self.max_size = max_size

    def __repr__(self) -> str:
        usual = {"level": None, "threshold": 512, "max_size": MAX_SIZE}
        said = (f", {name}={getattr(self, name)}" for name in usual if getattr(self, name) != usual[name])
        return f"Compression({self.method!r}{''.join(said)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compression) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    @property
    def number(self) -> int:
        """The number of the method, for the record."""
        return _METHODS[self.method].number

    def shrink(self, payload: bytes, frames: Sequence[memoryview]) -> Shrunk | None:
        """The parts as they are to be stored, or None where none got smaller.

        What was left alone is given back itself, not a copy.
        """
        if len(payload) < self.threshold and not frames:
            return None
        if len(payload) + sum(map(len, frames)) > self.max_size:
            return None
        parts: tuple[Bytes, ...] = (payload, *frames)
        smaller = [self._smaller(part) for part in parts]
        if not any(smaller):
            return None
        return Shrunk(
            smaller[0] or payload,
            [memoryview(less) if less else frame for frame, less in zip(frames, smaller[1:], strict=True)],
            [len(part) if less else 0 for part, less in zip(parts, smaller, strict=True)],
        )

    def _smaller(self, part: Bytes) -> bytes | None:
        """The part compressed, or None where that does not pay."""
        how = _METHODS[self.method]
        if not self.threshold <= len(part) <= how.longest:
            return None
        level = how.level if self.level is None else self.level
        if len(part) >= _PROBED and not any(_pays(piece, how.shrink(piece, level)) for piece in _pieces(part)):
            return None
        shrunk = how.shrink(part, level)
        return shrunk if _pays(part, shrunk) else None


def compression_of(option: str | Compression | None) -> Compression | None:
    """What an option of a store says: the name of a method, a Compression, or None for no compression."""
    if option is None or isinstance(option, Compression):
        return option
    if not isinstance(option, str):
        raise TypeError(f"compression is one of {_NAMES}, or a Compression, not {type(option).__name__}")
    return Compression(option)


def expand(
    method: int, sizes: Sequence[int], payload: Bytes, frames: Sequence[memoryview], max_size: int = MAX_SIZE
) -> tuple[memoryview, list[bytearray | memoryview]]:
    """Payload and frames as they were: what was compressed in private memory, what was left alone as it is given.

    `sizes` are 0 or more.  Raises Unexpandable, and TooLarge where they are more than `max_size` together;
    ModuleNotFoundError where the library of the method is missing.
    """
    how = _numbered(method)
    parts = (memoryview(payload), *frames)
    if len(sizes) != len(parts):
        raise Unexpandable(f"it has {len(parts)} parts, and sizes for {len(sizes)}")
    if sum(sizes) > max_size:
        raise TooLarge(
            f"it says that it takes {sum(sizes)} bytes, and more than max_size={max_size} are not expanded; if that "
            f"can be right, open the store with a Compression whose max_size is larger"
        )
    for size, part in zip(sizes, parts, strict=True):
        if size > min(how.reach * len(part), how.longest):
            raise Unexpandable(f"{len(part)} bytes of {how.name} never were {size}, as it says")
    first, *rest = (how.expand(part, size) if size else part for size, part in zip(sizes, parts, strict=True))
    return memoryview(first), rest


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is a whole number, not {type(value).__name__}")
    return value


def _pays(part: Bytes, shrunk: bytes) -> bool:
    return _LEAST_SAVING * (len(part) - len(shrunk)) >= len(part)


def _pieces(part: Bytes) -> list[memoryview]:
    """A few pieces of a part, from its beginning to its end."""
    view = memoryview(part)
    starts = [(len(view) - _PIECE_BYTES) * i // (_PIECES - 1) for i in range(_PIECES)]
    return [view[start : start + _PIECE_BYTES] for start in starts]


def _exactly(name: str, out: bytearray, size: int, ended: bool) -> bytearray:
    """What was expanded, if it is all of it and nothing else."""
    if len(out) != size:
        compared = "more" if len(out) > size else "less"
        raise Unexpandable(f"its {name} data give {compared} than the {size} bytes it says")
    if not ended:
        raise Unexpandable(f"its {name} data do not end where they should")
    return out


# zlib


def _shrink_zlib(part: Bytes, level: int) -> bytes:
    return zlib.compress(part, level)


def _expand_zlib(part: memoryview, size: int) -> bytearray:
    """Fed in pieces, because what zlib has not yet looked at it copies with every step."""
    out = bytearray()
    stream = zlib.decompressobj()
    for start in range(0, len(part), _FEED_BYTES):
        if stream.eof or len(out) > size:
            return _exactly("zlib", out, size, ended=False)
        try:
            out += stream.decompress(part[start : start + _FEED_BYTES], size + 1 - len(out))
        except zlib.error as exc:
            raise Unexpandable(f"its zlib data are wrong ({exc})") from exc
    return _exactly("zlib", out, size, stream.eof and not stream.unused_data)


# lz4


@cache
def _lz4() -> ModuleType:
    try:
        import lz4.block as block  # type: ignore[import-untyped]
    except ModuleNotFoundError as exc:
        raise _missing("lz4", "lz4") from exc
    module: ModuleType = block
    return module


def _shrink_lz4(part: Bytes, level: int) -> bytes:
    if level == 0:
        shrunk: bytes = _lz4().compress(part, store_size=False)
    else:
        shrunk = _lz4().compress(part, mode="high_compression", compression=level, store_size=False)
    return shrunk


def _expand_lz4(part: memoryview, size: int) -> bytearray:
    """lz4 makes room for the whole size at once, but touches no more of it than the data fill."""
    block = _lz4()
    try:
        out: bytearray = block.decompress(part, uncompressed_size=size, return_bytearray=True)
    except block.LZ4BlockError as exc:
        raise Unexpandable(f"its lz4 data are wrong, or more than the {size} bytes it says") from exc
    return _exactly("lz4", out, size, ended=True)


# zstd


@cache
def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ModuleNotFoundError as exc:
        raise _missing("zstd", "zstandard") from exc
    return zstandard


class _Own(threading.local):
    """What a thread keeps for small parts, because neither may be used by two threads.

    Each is used in one call of C, which no signal handler comes between; so a forked child finds it idle, too.
    """

    def __init__(self) -> None:
        self.compressors: dict[int, Any] = {}
        self.decompressor: Any = None


_own = _Own()


def _compressor(level: int, size: int) -> Any:
    if size > _SMALL:
        return _zstandard().ZstdCompressor(level=level)
    if level not in _own.compressors:
        _own.compressors[level] = _zstandard().ZstdCompressor(level=level)
    return _own.compressors[level]


def _shrink_zstd(part: Bytes, level: int) -> bytes:
    try:
        shrunk: bytes = _compressor(level, len(part)).compress(part)
    except _zstandard().ZstdError as exc:  # there is nothing else that it could lack
        raise MemoryError(f"zstd cannot compress {len(part)} bytes at level {level}: {exc}") from exc
    return shrunk


def _expand_zstd(part: memoryview, size: int) -> bytearray:
    zstandard = _zstandard()
    try:
        _check_zstd_header(part, size)
        return _expand_zstd_small(part) if size <= _SMALL else _expand_zstd_in_steps(part, size)
    except zstandard.ZstdError as exc:
        if "not enough memory" in str(exc):
            raise MemoryError(f"zstd cannot expand {size} bytes: {exc}") from exc
        raise Unexpandable(f"its zstd data are wrong ({exc})") from exc


def _check_zstd_header(part: memoryview, size: int) -> None:
    """Refuse what is no plain frame of that size: the decompressor would obey the frame, and not us."""
    if part[: len(_ZSTD_MAGIC)] != _ZSTD_MAGIC:
        raise Unexpandable("its zstd data do not begin with a frame")
    frame = _zstandard().get_frame_parameters(part)
    if frame.content_size != size:
        raise Unexpandable(f"its zstd frame is not of the {size} bytes it says")
    if frame.window_size > max(size, 1024):
        raise Unexpandable(f"its zstd frame wants a window of {frame.window_size} bytes for a content of {size}")
    if frame.dict_id:
        raise Unexpandable("its zstd frame needs a dictionary, and there are none here")


def _expand_zstd_small(part: memoryview) -> bytearray:
    if _own.decompressor is None:
        _own.decompressor = _zstandard().ZstdDecompressor()
    return bytearray(_own.decompressor.decompress(part, allow_extra_data=False))


def _expand_zstd_in_steps(part: memoryview, size: int) -> bytearray:
    """A lie about the size costs nothing so.

    A step always asks for one byte more than is left, so it ends because the frame does.
    """
    source = _LastByteApart(part)
    stream = _zstandard().ZstdDecompressor().stream_reader(source, read_across_frames=False)
    out = bytearray()
    while len(out) < size:
        piece = stream.read(min(_STEP_BYTES, size + 1 - len(out)))
        if not piece:
            break
        out += piece
    return _exactly("zstd", out, size, source.is_spent)


class _LastByteApart:
    """A source of bytes that tells whether the last one was asked for.

    A stream of zstandard stops where its frame ends and does not tell where that was.
    """

    def __init__(self, data: memoryview) -> None:
        self._pieces = [data[-1:], data[:-1]]

    @property
    def is_spent(self) -> bool:
        return not self._pieces

    def read(self, _size: int) -> Bytes:
        return self._pieces.pop() if self._pieces else b""


# The methods


class _Method(NamedTuple):
    name: str
    number: int
    levels: range
    level: int  # where none is said
    reach: int  # how many times larger than its data the content can be
    longest: int  # of a part, in bytes
    shrink: Callable[[Bytes, int], bytes]
    expand: Callable[[memoryview, int], bytearray]
    library: Callable[[], object]


_NO_END = (1 << 63) - 1

_METHODS = {
    how.name: how
    for how in (
        # A match of 258 bytes takes 2 bits at least.
        _Method("zlib", 1, range(1, 10), 1, 1032, _NO_END, _shrink_zlib, _expand_zlib, lambda: zlib),
        # A byte makes a match longer by 255; what is longer than the last number is refused by the library.
        _Method("lz4", 2, range(13), 0, 255, 0x7E000000, _shrink_lz4, _expand_lz4, _lz4),
        # A block of up to 128 KiB takes 4 bytes at least.
        _Method("zstd", 3, range(-100, 23), 1, 32 * 1024, _NO_END, _shrink_zstd, _expand_zstd, _zstandard),
    )
}

_NAMES = ", ".join(map(repr, sorted(_METHODS, reverse=True)))


def _numbered(number: int) -> _Method:
    for how in _METHODS.values():
        if how.number == number:
            return how
    raise Unexpandable(f"its method of compression, {number}, is unknown here: it was written by a newer objstore")


def _missing(method: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"compression with {method} needs the package {package}; run `pip install {package}`",
        name=package,
    )
