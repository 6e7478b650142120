"""Copies between the core and a guest's memory, at the guest's virtual addresses (H2).

A range is translated as a whole before a byte is moved: a copy happens completely or not at all.
"""

from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.walk import Walker


class GuestMemory:
    """Guest memory as a vCPU's kernel sees it now."""

    def __init__(self, contents: Contents, walker: Walker) -> None:
        self._contents = contents
        self._walker = walker

    def copy_from_guest(self, v: VcpuMemory, va: int, size: int) -> bytes:
        """`size` bytes at `va`. XenError(EFAULT) if any of them is not mapped or is the hypervisor's."""
        if (va & 4095) + size <= 4096 and size:
            return self._contents.read(self._walker.walk(v, va).maddr, size)
        return b"".join([self._contents.read(maddr, n) for maddr, n in self._parts(v, va, size, write=False)])

    def copy_to_guest(self, v: VcpuMemory, va: int, data: bytes) -> None:
        """XenError(EFAULT) if any byte is not mapped writable; nothing is written then."""
        if (va & 4095) + len(data) <= 4096 and data:
            self._contents.write(self._walker.walk(v, va, write=True).maddr, data)
            return
        done = 0
        view = memoryview(data)
        for maddr, n in self._parts(v, va, len(data), write=True):
            self._contents.write(maddr, view[done : done + n])
            done += n

    def check_writable(self, v: VcpuMemory, va: int, size: int) -> None:
        """XenError(EFAULT) if copy_to_guest of `size` bytes would fail now."""
        self._parts(v, va, size, write=True)

    def _parts(self, v: VcpuMemory, va: int, size: int, *, write: bool) -> list[tuple[int, int]]:
        """(machine address, bytes) of each page's part of the range."""
        parts: list[tuple[int, int]] = []
        end = va + size
        while va < end:
            n = min(end - va, 4096 - (va & 4095))
            parts.append((self._walker.walk(v, va, write=write).maddr, n))
            va += n
        return parts
