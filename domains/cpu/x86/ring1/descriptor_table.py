"""The GDT or LDT that the CPU uses in the place of the guest's: its descriptors, with DPL 0 turned into 1.

It is filled in when a load of a selector fails, and forgotten with the register that names the guest's table: a TLB of
descriptors. Until then the frames of those that it has are traced (ring1/tracing). A descriptor is present there once the
guest's is marked as accessed, so that the first load is seen, and marked. Gates and system segments are never there, nor is
64-bit code.
"""

from typing import Final

from domains.cpu.x86.descriptors import (
    DESC_ACCESSED,
    DESC_CODE,
    DESC_DPL,
    DESC_L,
    DESC_PRESENT,
    DESC_S,
    Loaded,
    unpack,
)
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.registers import U32
from domains.cpu.x86.ring1.paging import WINDOW_BASE, Ring1Paging
from domains.cpu.x86.ring1.state import TableRegister
from hypervisor.public.types import PAGE_SHIFT

PAGES: Final = 16
"""Of 64 KiB."""
DPL_1: Final = 1 << 13
HIGH: Final = 32
SIZE: Final = 8


class DescriptorTable:
    """One of a vCPU's two."""

    def __init__(
        self, cpu: CpuState, paging: Ring1Paging, register: int, frames: list[int], first_page: int
    ) -> None:
        """`register`: GDTR or LDTR; `frames`: of the window, from its page `first_page` on."""
        self._cpu, self._paging, self._register = cpu, paging, register
        self._frames = frames
        self._at = WINDOW_BASE + (first_page << PAGE_SHIFT)
        self._filled: set[int] = set()
        self._frames_of_guest: set[int] = set()
        self.guest = TableRegister()
        """Where the guest has its own."""

    def load(self, guest: TableRegister, flags: int = 0) -> None:
        """The guest's LGDT or LLDT. `flags`: the high word of an LDT's descriptor."""
        self.guest = guest
        self._cpu.set_segment(self._register, guest.selector, self._at, guest.limit, flags)
        for offset in self._filled:
            self._set(offset, 0)
        self._filled.clear()
        self._paging.tracer.descriptors -= self._frames_of_guest
        self._frames_of_guest.clear()

    def holds(self, selector: int) -> bool:
        """Whether there is a descriptor of this selector, whatever it is."""
        return selector & ~3 != 0 and (selector & ~7) + SIZE - 1 <= self.guest.limit

    def fill(self, selector: int) -> bool:
        """Show the CPU what the guest has; False: it is there already."""
        offset = selector & ~7
        word = self._shadow(offset)
        if not self.holds(selector) or word == self._get(offset):
            return False
        self._filled.add(offset)
        self._set(offset, word)
        self._trace(offset)
        return True

    def refresh(self) -> None:
        """The guest's table, or where it lies in its memory, may have changed: what the CPU was shown of it is right again."""
        for offset in self._filled:
            self._set(offset, self._shadow(offset))
            self._trace(offset)

    def _shadow(self, offset: int) -> int:
        return shadow_of(int.from_bytes(self._paging.peek(self.guest.base + offset, SIZE), "little"))

    def _trace(self, offset: int) -> None:
        """Stores to this descriptor are exits."""
        for octet in (0, SIZE - 1):
            frame = self._paging.frame_of(self.guest.base + offset + octet & U32)
            if frame is not None and frame not in self._frames_of_guest:
                self._frames_of_guest.add(frame)
                self._paging.tracer.descriptors.add(frame)
                self._paging.tracer.trace(frame)

    def _get(self, offset: int) -> int:
        return self._paging.words[self._frames[offset >> PAGE_SHIFT] << 9 | offset >> 3 & 511]

    def _set(self, offset: int, word: int) -> None:
        self._paging.words[self._frames[offset >> PAGE_SHIFT] << 9 | offset >> 3 & 511] = word


def shadow_of(descriptor: int) -> int:
    """What the CPU is shown of a guest's descriptor."""
    high = descriptor >> HIGH
    if not high & DESC_S or (high & DESC_CODE and high & DESC_L):
        return 0
    if not high & DESC_DPL:
        high |= DPL_1
    if not high & DESC_ACCESSED:
        high &= ~DESC_PRESENT
    return descriptor & 0xFFFFFFFF | (high | DESC_ACCESSED) << HIGH


def loaded(descriptor: int) -> Loaded:
    """What a segment register of the CPU's holds of a guest's descriptor that is loaded."""
    return unpack(shadow_of(descriptor | DESC_ACCESSED << HIGH))
