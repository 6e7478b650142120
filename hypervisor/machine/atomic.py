"""Atomic operations on words that two processes share: compare-exchange, and, or.

Python has none, and a memory view's store is not one. On x86-64 the three instructions themselves are put
into a page of memory that is then made executable and called (as the x86 engine does with what it
translates); elsewhere, or where executable memory is forbidden, GCC's libatomic is asked. Where neither
works nothing can be granted: no machine starts.

    compare_exchange_32(address, expected, new) -> what was there; written only if that is `expected`
    and_16(address, mask), or_16(address, bits)

Addresses are the host's, naturally aligned, in memory that is mapped writable. Intel SDM vol. 3A §9.1: a
locked instruction on naturally aligned memory is atomic towards every other processor, whatever process runs
there.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_CODE: Final = {
    "cmpxchg": b"\x89\xf0" + b"\xf0\x0f\xb1\x17" + b"\xc3",  # mov eax, esi; lock cmpxchg [rdi], edx; ret
    "and": b"\x66\xf0\x21\x37" + b"\xc3",  # lock and word [rdi], si; ret
    "or": b"\x66\xf0\x09\x37" + b"\xc3",  # lock or word [rdi], si; ret
}
_SLOT: Final = 16


class Atomics(NamedTuple):
    """The three operations, and where they come from: `source` in words, `code` what must live as long."""

    source: str
    code: object
    compare_exchange_32: Callable[[int, int, int], int]
    and_16: Callable[[int, int], Any]
    or_16: Callable[[int, int], Any]


def machine_code() -> Atomics | None:
    """The instructions in a page of their own: written first, executable and read-only afterwards."""
    if platform.machine() not in ("x86_64", "AMD64") or ctypes.sizeof(ctypes.c_void_p) != 8:
        return None
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return None
    page.write(b"".join(code.ljust(_SLOT, b"\xcc") for code in _CODE.values()))
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        return None
    exchange = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)(address)
    binary = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint16)
    return Atomics("machine code", page, exchange, binary(address + _SLOT), binary(address + 2 * _SLOT))


def libatomic() -> Atomics | None:
    """GCC's run-time library, if the host has it."""
    try:
        library = ctypes.CDLL("libatomic.so.1")
    except OSError:
        return None
    sequential = 5  # __ATOMIC_SEQ_CST
    exchange = library["__atomic_compare_exchange_4"]
    exchange.restype = ctypes.c_bool
    exchange.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_int]
    fetch_and, fetch_or = library["__atomic_fetch_and_2"], library["__atomic_fetch_or_2"]
    for operation in (fetch_and, fetch_or):
        operation.restype = ctypes.c_uint16
        operation.argtypes = [ctypes.c_void_p, ctypes.c_uint16, ctypes.c_int]

    def compare_exchange_32(address: int, expected: int, new: int) -> int:
        seen = ctypes.c_uint32(expected)
        exchange(address, ctypes.byref(seen), new, sequential, sequential)
        return seen.value

    return Atomics(
        "libatomic",
        library,
        compare_exchange_32,
        lambda address, mask: fetch_and(address, mask, sequential),
        lambda address, bits: fetch_or(address, bits, sequential),
    )


def find_atomics() -> Atomics:
    """The first way that works on this host. OSError if none does."""
    found = machine_code() or libatomic()
    if found is None:
        raise OSError("this host lets no process have executable memory, and has no libatomic.so.1")
    return found
