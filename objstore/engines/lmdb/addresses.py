"""Memory by its address: the few places where LMDB's own memory is looked at or written past py-lmdb.

Whoever calls these knows that the memory is there: under the guard of a map, or in a write transaction of its own.
"""

from __future__ import annotations

import ctypes

from objstore.engines.lmdb.datafile import DIRTY, OVERFLOW, PAGE, PAGE_HEADER_BYTES

bytes_at = ctypes.string_at
"""A copy of so many bytes (the second argument) at an address."""


class _Buffer(ctypes.Structure):
    """`Py_buffer` of the C interface, of which the address matters here."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("owner", ctypes.py_object),
        ("size", ctypes.c_ssize_t),
        ("rest", ctypes.c_byte * (2 * ctypes.sizeof(ctypes.c_int) + 6 * ctypes.sizeof(ctypes.c_void_p))),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_Buffer),)
_release_buffer.restype = None
_view_from_memory = ctypes.pythonapi.PyMemoryView_FromMemory
_view_from_memory.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view_from_memory.restype = ctypes.py_object
_WRITABLE = 0x200  # PyBUF_WRITE


def address_of(view: memoryview) -> int:
    """Where in memory a view begins."""
    buffer = _Buffer()
    reference = ctypes.byref(buffer)
    _get_buffer(view, reference, 0)
    address: int = buffer.address
    _release_buffer(reference)
    return address


def writable(view: memoryview) -> memoryview | None:
    """The memory of a large value that was just put, to be written, or None if it is in the file already.

    The header of its page tells: such memory belongs to the transaction as long as the page is dirty.
    """
    address = address_of(view)
    flags, _, _ = PAGE.unpack(bytes_at(address - PAGE_HEADER_BYTES, PAGE_HEADER_BYTES))
    if flags & (DIRTY | OVERFLOW) != DIRTY | OVERFLOW:
        return None
    place: memoryview = _view_from_memory(address, len(view), _WRITABLE)
    return place
