"""Segment registers as 64-bit PV uses them: flat selectors, descriptors of the per-domain window, checks of a return.

The guest's own selector loads run natively: GDTR points at the window in L4 slot 260, whose 14 guest pages and 2 Xen pages
the core fills, LDTR at the LDT's pages behind them. Here is only what Xen's own code loads.

Where these lie: hypervisor/machine/descriptor_window.py.
Source: Xen arch/x86/include/asm/config.h; Intel SDM vol. 3A §3.4.
"""

from typing import Final

from domains.cpu.x86.descriptors import (
    CODE_SIZE_HFLAGS,
    DESC_CODE,
    DESC_DB,
    DESC_L,
    DESC_PRESENT,
    DESC_S,
    DESC_WRITABLE,
    SelectorFault,
    unpack,
)
from domains.cpu.x86.emulator.cpu_state import (
    GDTR,
    HF_ADDSEG,
    HF_CPL,
    HF_CS32,
    HF_CS64,
    HF_SS32,
    LDTR,
    SEGMENT_FLAGS,
    SEGMENT_SELECTOR,
    CpuState,
)
from domains.cpu.x86.registers import CS, DS, ES, SS, U32
from hypervisor.machine.descriptor_window import gdt_virt_start, ldt_virt_start
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PAGE_PRESENT, PTE_MFN_MASK, PV64
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_BYTE
from hypervisor.public.arch_x86.xen_x86_64 import FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_RING3_CS32

GDT_LIMIT: Final = 0xFFFF

FLAT_CODE64: Final = 0x00AFFB00
FLAT_CODE32: Final = 0x00CFFB00
FLAT_DATA: Final = 0x00CFF300
LDT_SYSTEM: Final = 0x8200
SELECTOR_OF_CS, SELECTOR_OF_SS = SEGMENT_SELECTOR + 6 * CS, SEGMENT_SELECTOR + 6 * SS
FLAGS_OF_CS, FLAGS_OF_SS = SEGMENT_FLAGS + 6 * CS, SEGMENT_FLAGS + 6 * SS


class Segments:
    """Loads of segment registers for one vCPU, by selector."""

    def __init__(self, cpu: CpuState, memory: MachineMemory, vcpu_id: int) -> None:
        self._cpu = cpu
        self._words = memory.octets.cast("Q")
        self.gdt_base = gdt_virt_start(vcpu_id)
        self.ldt_base = ldt_virt_start(vcpu_id)
        self.guest_ldt_base = 0
        """Where the guest says its LDT lies; the CPU uses the window."""
        self._ldt_entries = 0

    def load_tables(self) -> None:
        """Point GDTR at the window and LDTR at nothing."""
        self._cpu.set_segment(GDTR, 0, self.gdt_base, GDT_LIMIT, 0)
        self.set_ldt(0, 0)

    def set_ldt(self, guest_base: int, entries: int) -> None:
        """The guest's LDT has `entries` descriptors; none: a null LDTR."""
        self.guest_ldt_base = guest_base
        self._ldt_entries = entries
        if entries:
            self._cpu.set_segment(
                LDTR, FIRST_RESERVED_GDT_BYTE + 0x40, self.ldt_base, entries * 8 - 1, LDT_SYSTEM
            )
        else:
            self._cpu.set_segment(LDTR, 0, 0, 0, 0)

    def flat(self) -> None:
        """CS and SS as the guest's kernel is entered with; mostly they are."""
        cpu, d = self._cpu, self._cpu.d
        selectors = d[SELECTOR_OF_CS] == FLAT_KERNEL_CS and d[SELECTOR_OF_SS] == FLAT_KERNEL_SS
        if selectors and d[FLAGS_OF_CS] == FLAT_CODE64 and d[FLAGS_OF_SS] == FLAT_DATA:
            return
        cpu.set_segment(CS, FLAT_KERNEL_CS, 0, U32, FLAT_CODE64)
        cpu.set_segment(SS, FLAT_KERNEL_SS, 0, U32, FLAT_DATA)
        cpu.set_hflags(CODE_SIZE_HFLAGS, HF_CS64 | HF_CS32 | HF_SS32 | HF_CPL)

    def data(self, segment: int, selector: int, l4: int) -> None:
        """Load DS, ES, FS or GS; a selector that does not work loads null."""
        descriptor = self.descriptor(selector, l4)
        if not selector & ~3 or descriptor is None or not descriptor >> 32 & DESC_PRESENT:
            self._cpu.set_segment(segment, selector & 3, 0, U32, FLAT_DATA)
        else:
            self._cpu.set_segment(segment, selector, *unpack(descriptor))

    def code_and_stack(self, cs: int, ss: int, l4: int) -> None:
        """Load CS and SS as IRET to ring 3 does; both have RPL 3. Raises SelectorFault, with nothing loaded."""
        if cs == FLAT_KERNEL_CS and ss == FLAT_KERNEL_SS:
            self.flat()
            return
        code = self.descriptor(cs, l4)
        high = 0 if code is None else code >> 32
        wanted = DESC_S | DESC_CODE
        if code is None or not cs & ~3 or high & wanted != wanted or high >> 13 & 3 != 3:
            raise SelectorFault(cs & ~3)
        if not high & DESC_PRESENT or high & (DESC_L | DESC_DB) == DESC_L | DESC_DB:
            raise SelectorFault(cs & ~3)
        stack = self._stack(ss, bool(high & DESC_L), l4)
        size = HF_CS64 | HF_CS32 if high & DESC_L else HF_CS32 if high & DESC_DB else 0
        if high & DESC_L or stack[2] & DESC_DB:
            size |= HF_SS32
        cpu = self._cpu
        base, limit, flags = unpack(code)
        cpu.set_segment(CS, cs, 0 if high & DESC_L else base, limit, flags)
        cpu.set_segment(SS, ss, *stack)
        if not high & DESC_L and any(cpu.base(segment) for segment in (DS, ES, SS)):
            size |= HF_ADDSEG
        cpu.set_hflags(CODE_SIZE_HFLAGS, size | HF_CPL)

    def _stack(self, ss: int, long_mode: bool, l4: int) -> tuple[int, int, int]:
        if not ss & ~3:
            if long_mode:
                raise SelectorFault(0)  # a null SS is for rings 0 to 2 alone
            raise SelectorFault(0)
        stack = self.descriptor(ss, l4)
        high = 0 if stack is None else stack >> 32
        wanted = DESC_S | DESC_WRITABLE
        if stack is None or high & (wanted | DESC_CODE) != wanted or high >> 13 & 3 != 3:
            raise SelectorFault(ss & ~3)
        if not high & DESC_PRESENT:
            raise SelectorFault(ss & ~3)
        return unpack(stack)

    def descriptor(self, selector: int, l4: int) -> int | None:
        """The 8 bytes that `selector` names, through the window under the L4 in frame `l4`; None if there are none."""
        offset = selector & ~7
        if selector & 4:
            if offset >= self._ldt_entries * 8:
                return None
            return self._word(self.ldt_base + offset, l4)
        return self._word(self.gdt_base + offset, l4)

    def _word(self, va: int, l4: int) -> int | None:
        """Eight bytes of the window, read with Xen's rights: its upper tables have no user bit."""
        table = l4
        for level in range(PV64.levels, 0, -1):
            entry = self._words[table << PV64.table_shift | PV64.index(va, level)]
            if not entry & PAGE_PRESENT:
                return None
            table = (entry & PTE_MFN_MASK) >> 12
        return self._words[table << 9 | (va & 4095) >> 3]


COMPAT_CS: Final = FLAT_RING3_CS32
