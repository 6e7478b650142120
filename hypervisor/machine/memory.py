"""Machine memory: one reservation of the machine's address space in each process.

Owns: the address range `[base, base + nr_frames * 4096)` of this process, in which machine frame
number M lies at `base + M * 4096`. What a process may touch is mapped there from the owning
domain's memfd; everything else is a *hole*: anonymous memory that reads as zeros and faults on a write.

    base                                                              base + 64 GiB
     |--- Xen's frames ---|-- dom0 extent --|. . hole . .|-- dom1 extent --|. . .

Invariant: a mapping is only ever replaced by another mapping or by a hole, never removed, so no other
allocation of the process can slip into the range.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, Mfn

MACHINE_FRAMES: Final = 1 << 24
"""Frames of the machine's address space: 64 GiB, of which most are holes."""
PART_SHIFT: Final = 10
"""A domain's memory is shown to processes in parts of 2**10 frames at least."""

_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_HOLE_FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def _mmap(address: int | None, size: int, prot: int, flags: int, fd: int, offset: int) -> int:
    result = _libc.mmap(address, size, prot, flags, fd, offset)
    if result is None or result == ctypes.c_void_p(-1).value:
        error = ctypes.get_errno()
        raise OSError(error, f"mmap of {size} bytes: {os.strerror(error)}")
    return int(result)


class MachineMemory:
    """The machine's frames as this process sees them.

    `frames` has shape (nr_frames, 512), dtype `<u8`; `octets` is the same memory as a flat memoryview of bytes.
    A caller must know from the frame table (core) or from a page walk (CPU) that a frame is mapped: a write to
    a hole is a fault of the process. `parts`: what is no hole, by frame number >> PART_SHIFT.
    """

    def __init__(self, nr_frames: int = MACHINE_FRAMES) -> None:
        self.nr_frames = nr_frames
        self.size = nr_frames << PAGE_SHIFT
        self.base = _mmap(None, self.size, mmap.PROT_READ, _HOLE_FLAGS, -1, 0)
        raw = (ctypes.c_uint8 * self.size).from_address(self.base)
        self.octets = memoryview(raw).cast("B")
        self.frames: NDArray[np.uint64] = np.frombuffer(self.octets, dtype="<u8").reshape(nr_frames, 512)
        self.parts: set[int] = set()

    def map(self, fd: int, mfn: int, nr_frames: int, offset_frames: int, *, writable: bool = True) -> None:
        """Show `nr_frames` of memfd `fd`, from its frame `offset_frames` on, at machine frame `mfn`."""
        self._check(mfn, nr_frames)
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        where = self.base + (mfn << PAGE_SHIFT)
        _mmap(
            where,
            nr_frames << PAGE_SHIFT,
            prot,
            mmap.MAP_SHARED | _MAP_FIXED,
            fd,
            offset_frames << PAGE_SHIFT,
        )
        self.parts.update(range(-(-mfn >> PART_SHIFT), mfn + nr_frames >> PART_SHIFT))

    def unmap(self, mfn: int, nr_frames: int) -> None:
        """Turn `[mfn, mfn + nr_frames)` into a hole again."""
        self._check(mfn, nr_frames)
        where = self.base + (mfn << PAGE_SHIFT)
        self.parts.difference_update(range(mfn >> PART_SHIFT, -(-(mfn + nr_frames) >> PART_SHIFT)))
        _mmap(where, nr_frames << PAGE_SHIFT, mmap.PROT_READ, _HOLE_FLAGS | _MAP_FIXED, -1, 0)

    def page(self, mfn: Mfn | int) -> NDArray[np.uint64]:
        """The live frame as 512 entries of 8 bytes."""
        page: NDArray[np.uint64] = self.frames[mfn]
        return page

    def read(self, maddr: int, size: int) -> bytes:
        """The bytes at a machine address; holes read as zeros."""
        return bytes(self.octets[maddr : maddr + size])

    def write(self, maddr: int, data: bytes | bytearray | memoryview) -> None:
        """Writes bytes at a machine address that is mapped writable."""
        self.octets[maddr : maddr + len(data)] = data

    def view(self, maddr: int, size: int) -> memoryview:
        """A writable view of `size` bytes at machine address `maddr`."""
        return self.octets[maddr : maddr + size]

    def close(self) -> None:
        """Give the reservation back; every array and view of it must be gone (tests and short-lived tools)."""
        _libc.munmap(self.base, self.size)

    def _check(self, mfn: int, nr_frames: int) -> None:
        if nr_frames <= 0 or mfn < 0 or mfn + nr_frames > self.nr_frames:
            raise ValueError(f"frames {mfn:#x}+{nr_frames:#x} lie outside the machine")


def create_growing_memfd(name: str) -> int:
    """An empty memfd that can grow (`grow`), and that nobody can shrink or seal any further.

    Whoever holds it could make it grow, and the host spend memory: a confined process cannot (domains/cpu/confinement.py).
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL)
    return fd


def grow(fd: int, nr_frames: int) -> None:
    """Make a memfd hold at least `nr_frames` frames."""
    if os.fstat(fd).st_size < nr_frames * PAGE_SIZE:
        os.ftruncate(fd, nr_frames * PAGE_SIZE)


def create_memfd(name: str, nr_frames: int, *, seal: bool = True) -> int:
    """A sparse memfd of `nr_frames` frames that nobody can shrink, grow or seal any further (unless `seal` is False)."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nr_frames * PAGE_SIZE)
    if seal:
        seal_size(fd)
    return fd


F_ADD_SEALS: Final = 1033
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10


def seal_size(fd: int) -> None:
    """Makes sure that nobody can ever make this memfd larger or smaller."""
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)


def seal_read_only(fd: int) -> None:
    """After this only mappings that exist already may write: what others map of `fd` is read-only for good."""
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL)


def punch_hole(fd: int, offset_frames: int, nr_frames: int) -> None:
    """Give the frames' memory back to the host; they read as zeros from now on."""
    keep_size_and_punch = 0x01 | 0x02
    if _fallocate(fd, keep_size_and_punch, offset_frames << PAGE_SHIFT, nr_frames << PAGE_SHIFT) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"fallocate: {os.strerror(error)}")


_fallocate = _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
