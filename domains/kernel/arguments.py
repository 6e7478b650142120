"""Where hypercall arguments lie: a few pages of guest memory, used as a stack.

A stub pushes what the hypercall shall read, enters Xen, reads results back, and pops. An upcall that comes
in between may issue hypercalls of its own: it pushes above and has popped before it returns.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final

from domains.cpu.python_cpu import PythonCpu
from hypervisor.public.types import VAddr

ALIGNMENT: Final = 16


class ArgumentArea:
    """`size` bytes from `va` on. `with area:` gives back what its block pushed."""

    def __init__(self, cpu: PythonCpu, va: VAddr, size: int) -> None:
        self._store = cpu.store
        self._end = va + size
        self._top = int(va)
        self._marks: list[int] = []

    def __enter__(self) -> ArgumentArea:
        self._marks.append(self._top)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._top = self._marks.pop()

    def push(self, data: bytes) -> VAddr:
        """Copy `data` into guest memory; its address, 16-byte aligned. MemoryError when the area is full."""
        va = self.reserve(len(data))
        self._store(va, data)
        return va

    def reserve(self, size: int) -> VAddr:
        """Room for `size` bytes that Xen shall write; the content is left as it is. MemoryError when full."""
        va = self._top
        if va + size > self._end:
            raise MemoryError(f"{size} bytes of hypercall arguments do not fit")
        self._top = va + size + ALIGNMENT - 1 & -ALIGNMENT
        return VAddr(va)
