"""Segment registers of a 32-bit PV guest: rings 1 and 3, descriptors with base and limit of their own.

The guest loads its selectors natively, as a 64-bit one; here is what Xen's own code loads on a way into ring 1 or out of it.
The GDT lies beyond the guest's addresses, in the window. Source: Intel SDM vol. 2A IRET, vol. 3A §5.5-5.8.
"""

from typing import Final

from domains.cpu.x86.descriptors import (
    DESC_CODE,
    DESC_CONFORMING,
    DESC_L,
    DESC_PRESENT,
    DESC_S,
    DESC_WRITABLE,
    Loaded,
    SelectorFault,
    load_code_and_stack,
    unpack,
)
from domains.cpu.x86.emulator.cpu_state import (
    HF_CPL,
)
from domains.cpu.x86.pv.segments import Segments
from domains.cpu.x86.registers import U32
from hypervisor.public.arch_x86.xen_x86_32 import FLAT_KERNEL_CS, FLAT_KERNEL_SS

RING1_CODE: Final = 0x00CFBB00
RING1_DATA: Final = 0x00CFB300
RING3_CODE: Final = 0x00CFFB00
RING3_DATA: Final = 0x00CFF300


class CompatSegments(Segments):
    """Loads of segment registers for one vCPU of a 32-bit guest."""

    def flat(self) -> None:
        """CS and SS as the guest's kernel begins with."""
        self._load(FLAT_KERNEL_CS, (0, U32, RING1_CODE), FLAT_KERNEL_SS, (0, U32, RING1_DATA))

    def code_and_stack(self, cs: int, ss: int, l4: int) -> None:
        """Load CS and SS as IRET does to the ring that `cs` says, 1 to 3. Raises SelectorFault, with nothing loaded."""
        ring = cs & 3
        code = self.descriptor(cs, l4)
        high = 0 if code is None else code >> 32
        wanted = DESC_S | DESC_CODE | DESC_PRESENT
        dpl = high >> 13 & 3
        permitted = dpl <= ring if high & DESC_CONFORMING else dpl == ring
        if (
            code is None
            or not cs & ~3
            or not ring
            or high & wanted != wanted
            or high & DESC_L
            or not permitted
        ):
            raise SelectorFault(cs & ~3)
        self._load(cs, unpack(code), ss, self._stack_of(ring, ss, l4))

    def _stack_of(self, ring: int, ss: int, l4: int) -> Loaded:
        stack = self.descriptor(ss, l4)
        high = 0 if stack is None else stack >> 32
        wanted = DESC_S | DESC_WRITABLE | DESC_PRESENT
        if stack is None or not ss & ~3 or high & (wanted | DESC_CODE) != wanted:
            raise SelectorFault(ss & ~3)
        if ss & 3 != ring or high >> 13 & 3 != ring:
            raise SelectorFault(ss & ~3)
        return unpack(stack)

    def flat_in(self, ring: int, cs: int, ss: int) -> None:
        """The selectors, with flat segments behind them: of a place whose own the CPU refused."""
        code, data = (RING3_CODE, RING3_DATA) if ring > 1 else (RING1_CODE, RING1_DATA)
        self._load(cs, (0, U32, code), ss, (0, U32, data))
        self._cpu.set_hflags(HF_CPL, ring)

    def _load(self, cs: int, code: Loaded, ss: int, stack: Loaded) -> None:
        load_code_and_stack(self._cpu, cs, code, ss, stack)
