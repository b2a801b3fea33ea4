"""To stand between LMDB and the system: see each call that it makes of it, or let one fail.

py-lmdb's extension has LMDB inside, and calls the C library through a table of addresses (the global offset table of
its ELF file), which the loader filled in.  Here some of these addresses are exchanged for functions written in
Python, and put back at the end.  Nothing is compiled for this, and nothing but LMDB notices: Python itself has
other tables.  Where objstore calls the system itself, it does so through functions of `os`, which are wrapped.

A hook is called as `hook(name, call, args)` in place of the function, and what it returns is what the caller gets.
`call(*args)` is the real one.  An error is told as the C library does it: `fail(errno)` and a result of -1, or of 0
where the result is a pointer.  A hook must not raise.

    with lmdb_calls(hook, WRITES | SYNCS), os_calls(hook):
        ...

Use both in a forked child: they change the process for all of its threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import pytest

Hook = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]

_int, _size, _signed = ctypes.c_int, ctypes.c_size_t, ctypes.c_ssize_t
_pointer = _size  # as a number; 0 is NULL

# Result and arguments of what LMDB may call, for 64 bits.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "open": (_int, _pointer, _int, _int),
    "write": (_signed, _int, _pointer, _size),
    "writev": (_signed, _int, _pointer, _int),
    "pwrite": (_signed, _int, _pointer, _size, _signed),
    "pwritev": (_signed, _int, _pointer, _int, _signed),
    "pread": (_signed, _int, _pointer, _size, _signed),
    "fsync": (_int, _int),
    "fdatasync": (_int, _int),
    "msync": (_int, _pointer, _size, _int),
    "ftruncate": (_int, _int, _signed),
    "mmap": (_pointer, _pointer, _size, _int, _int, _int, _signed),
    "malloc": (_pointer, _size),
    "calloc": (_pointer, _size, _size),
    "realloc": (_pointer, _pointer, _size),
    "strdup": (_pointer, _pointer),
    "posix_memalign": (_int, _pointer, _size, _size),
}

OPENS = frozenset({"open"})
READS = frozenset({"pread"})
WRITES = frozenset({"write", "writev", "pwrite", "pwritev", "ftruncate"})
SYNCS = frozenset({"fsync", "fdatasync", "msync"})
MAPS = frozenset({"mmap"})
ALLOCATIONS = frozenset({"malloc", "calloc", "realloc", "strdup", "posix_memalign"})

# What objstore calls of `os` to change something on the disk.
OS_FUNCTIONS = (
    *("open", "write", "pwrite", "ftruncate", "truncate", "fsync", "fdatasync"),
    *("mkdir", "rename", "replace", "unlink", "remove", "rmdir"),
)


def require() -> None:
    """Skip a test where the calls of LMDB cannot be reached."""
    if sys.platform != "linux" or struct.calcsize("P") != 8 or platform.machine() not in _RELOCATIONS:
        pytest.skip("the calls of LMDB are seen through its ELF file, which is done for 64-bit Linux only")
    if not {"open", "pwrite", "fdatasync", "malloc"} <= set(_slots()):
        pytest.skip("this build of py-lmdb does not call the C library through a table")


def fail(number: int) -> None:
    """Let the C function fail with this number of an error."""
    ctypes.set_errno(number)


def pieces(vector: int, count: int) -> list[tuple[int, int]]:
    """Address and size of each piece of memory that `writev` writes."""
    return list(struct.iter_unpack("PN", ctypes.string_at(vector, count * 16)))


@contextmanager
def lmdb_calls(hook: Hook, names: frozenset[str]) -> Iterator[None]:
    """Send the calls that LMDB makes of these functions through a hook."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = []  # the system jumps to these: they must live as long as they stand in the table
    ours = {}
    for name, slots in _slots().items():
        if name not in names:
            continue
        result, *arguments = _SIGNATURES[name]
        real = libc[name]
        real.restype, real.argtypes = result, arguments
        kept.append(ctypes.CFUNCTYPE(result, *arguments, use_errno=True)(partial(_through, hook, name, real)))
        ours |= dict.fromkeys(slots, ctypes.cast(kept[-1], ctypes.c_void_p).value or 0)
    before = _exchange(ours)
    try:
        yield
    finally:
        _exchange(before)


def _through(hook: Hook, name: str, real: Callable[..., Any], *args: Any) -> Any:
    return hook(name, real, args)


@contextmanager
def os_calls(hook: Callable[..., Any], names: tuple[str, ...] = OS_FUNCTIONS) -> Iterator[None]:
    """Send calls of these functions of `os` through `hook("os." + name, call, args, **keywords)`, which may raise."""
    before = {name: getattr(os, name) for name in names}
    for name, call in before.items():
        setattr(os, name, partial(hook, f"os.{name}", call))
    try:
        yield
    finally:
        for name, call in before.items():
            setattr(os, name, call)


# The table


class _Region(NamedTuple):
    """A line of /proc/self/maps."""

    start: int
    stop: int
    writable: bool
    path: str


# Of each machine, the kinds of entries that are the address of a function: GLOB_DAT and JUMP_SLOT.
_RELOCATIONS = {"x86_64": (6, 7), "aarch64": (1025, 1026)}

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_JMPREL = 2, 5, 6, 7, 8, 23
_PROT_READ, _PROT_WRITE = 1, 2


def _regions() -> list[_Region]:
    regions = []
    with open("/proc/self/maps") as lines:
        for line in lines:
            addresses, rights, *rest = line.split(maxsplit=5)
            start, stop = (int(number, 16) for number in addresses.split("-"))
            regions.append(_Region(start, stop, "w" in rights, rest[-1].strip() if len(rest) == 4 else ""))
    return regions


@cache
def _slots() -> dict[str, list[int]]:
    """Of each function that LMDB may call, where in memory its address stands."""
    from lmdb import cpython

    path = os.path.realpath(cpython.__file__)
    base = min((region.start for region in _regions() if region.path == path), default=0)
    if not base or ctypes.string_at(base, 5) != b"\x7fELF\x02":
        return {}
    (headers,) = struct.unpack("<Q", ctypes.string_at(base + 32, 8))
    size, count = struct.unpack("<HH", ctypes.string_at(base + 54, 4))
    segments = [struct.unpack("<IIQQ", ctypes.string_at(base + headers + n * size, 24)) for n in range(count)]
    bias = base - min(address for kind, _, _, address in segments if kind == _PT_LOAD) // 4096 * 4096
    (dynamic,) = (address for kind, _, _, address in segments if kind == _PT_DYNAMIC)
    table = _dynamic(bias + dynamic)

    def at(tag: int) -> int:  # glibc has made addresses of these offsets, other loaders leave them
        return table[tag] if table[tag] >= base else table[tag] + bias

    slots: dict[str, list[int]] = {}
    kinds = _RELOCATIONS[platform.machine()]
    for start, length in ((_DT_RELA, _DT_RELASZ), (_DT_JMPREL, _DT_PLTRELSZ)):
        if start not in table:
            continue
        for offset, info, _ in struct.iter_unpack("<QQq", ctypes.string_at(at(start), table[length])):
            if info & 0xFFFFFFFF not in kinds:
                continue
            (name,) = struct.unpack("<I", ctypes.string_at(at(_DT_SYMTAB) + (info >> 32) * 24, 4))
            text = ctypes.string_at(at(_DT_STRTAB) + name).decode().removesuffix("64")
            if text in _SIGNATURES:
                slots.setdefault(text, []).append(bias + offset)
    return slots


def _dynamic(address: int) -> dict[int, int]:
    table: dict[int, int] = {}
    while True:
        tag, value = struct.unpack("<qQ", ctypes.string_at(address, 16))
        if not tag:
            return table
        table[tag] = value
        address += 16


def _exchange(addresses: dict[int, int]) -> dict[int, int]:
    """Write addresses into their slots of the table, which the loader may have made read-only; what stood there."""
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, _size, _int)
    size = os.sysconf("SC_PAGE_SIZE")
    regions = _regions()
    before = {}
    for slot, address in addresses.items():
        (region,) = (each for each in regions if each.start <= slot < each.stop)
        page = slot // size * size
        if not region.writable and protect(page, size, _PROT_READ | _PROT_WRITE):
            raise OSError(ctypes.get_errno(), "the table of py-lmdb cannot be written")
        entry = ctypes.c_size_t.from_address(slot)
        before[slot], entry.value = entry.value, address
        if not region.writable:
            protect(page, size, _PROT_READ)
    return before
