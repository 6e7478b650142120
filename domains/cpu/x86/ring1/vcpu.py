"""One vCPU of a guest in ring 1: the CPU's registers, and what the monitor keeps beside them."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from domains.cpu.x86.decode import Decoder, Instruction
from domains.cpu.x86.descriptors import DESC_DB
from domains.cpu.x86.emulator.cpu_state import GDTR, HF_CPL, HFLAGS, LDTR, RIP, SEGMENT_FLAGS, CpuState
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import (
    CS,
    EFLAGS_ALL,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_MBS,
    EFLAGS_VM,
    EXC_GP,
    EXC_PF,
    RSP,
    SS,
    U32,
)
from domains.cpu.x86.ring1.board import Board
from domains.cpu.x86.ring1.descriptor_table import PAGES, DescriptorTable
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.paging import Ring1Paging
from domains.cpu.x86.ring1.state import VIRTUAL_FLAGS, Ring1State
from hypervisor.machine.paging import PFEC_USER

KERNEL_RING: Final = 1
"""Where the CPU runs what believes itself in ring 0."""


class Ring1Vcpu:
    """`cpu.q[RAX]` … `cpu.q[RIP]` are its registers. `exits` counts by cause."""

    def __init__(self, cpu: CpuState, paging: Ring1Paging, board: Board) -> None:
        self.cpu = cpu
        self.paging = paging
        self.board = board
        self.decoder = Decoder(cpu, paging)
        self.state = Ring1State()
        paging.tracer.descriptors_changed = self.refresh_descriptors
        window = paging.map_window(2 * PAGES)
        self.gdt = DescriptorTable(cpu, paging, GDTR, window[:PAGES], 0)
        self.ldt = DescriptorTable(cpu, paging, LDTR, window[PAGES:], PAGES)
        self.exits: Counter[str] = Counter()

    @property
    def ring(self) -> int:
        """The guest's ring as it sees it: 0 or 3."""
        return 0 if self.cpu.d[HFLAGS] & HF_CPL == KERNEL_RING else 3

    def refresh_descriptors(self) -> None:
        """What the CPU is shown of GDT and LDT may be stale."""
        self.gdt.refresh()
        self.ldt.refresh()

    def table(self, selector: int) -> DescriptorTable:
        """The table that a selector names."""
        return self.ldt if selector & 4 else self.gdt

    def selector(self, segment: int) -> int:
        """A segment register as the guest is to see it: of CS and SS, the RPL is the ring."""
        selector = self.cpu.selector(segment) & 0xFFFF
        return selector & ~3 if segment in (CS, SS) and self.ring == 0 else selector

    @property
    def flags(self) -> int:
        """EFLAGS as the guest sees it."""
        return self.cpu.rflags & ~VIRTUAL_FLAGS & U32 | self.state.flags

    def set_flags(self, value: int) -> None:
        """EFLAGS with all that ring 0 may change."""
        self.state.flags = value & VIRTUAL_FLAGS
        self.cpu.rflags = value & EFLAGS_ALL & ~(VIRTUAL_FLAGS | EFLAGS_VM) | EFLAGS_IF | EFLAGS_MBS

    def load_flags(self, value: int, size: int, ring: int) -> None:
        """EFLAGS from the stack, as POPF and IRET in this ring load it: IOPL in ring 0 alone, IF as far as IOPL lets it."""
        kept = EFLAGS_VM | (0 if ring == 0 else EFLAGS_IOPL) | (0 if ring <= self.state.iopl else EFLAGS_IF)
        kept |= 0 if size == 4 else ~0xFFFF
        self.set_flags(self.flags & kept | value & ~kept)

    @property
    def at(self) -> int:
        """The linear address of the instruction at rip."""
        return self.cpu.base(CS) + self.cpu.q[RIP] & U32

    def skip(self, length: int) -> None:
        """The instruction at rip is done."""
        self.cpu.q[RIP] = self.cpu.q[RIP] + length & U32

    # --- the guest's stack, with the rights of its ring ---------------------------------------------

    @property
    def stack_mask(self) -> int:
        """ESP or SP."""
        return U32 if self.cpu.d[SEGMENT_FLAGS + 6 * SS] & DESC_DB else 0xFFFF

    def stack(self, offset: int, size: int) -> int:
        """The word `offset` bytes above the stack pointer."""
        at = self.cpu.base(SS) + (self.cpu.q[RSP] + offset & self.stack_mask)
        return int.from_bytes(self.read(at & U32, size), "little")

    def move_stack(self, bytes_: int) -> None:
        """Add to the stack pointer."""
        mask, q = self.stack_mask, self.cpu.q
        q[RSP] = q[RSP] + bytes_ & mask | q[RSP] & ~mask & U32

    def push(self, value: int, size: int) -> None:
        """PUSH of `size` bytes."""
        at = self.cpu.base(SS) + (self.cpu.q[RSP] - size & self.stack_mask)
        self.write(at & U32, (value & (1 << 8 * size) - 1).to_bytes(size, "little"))
        self.move_stack(-size)

    # --- memory, with the rights of the guest's ring ------------------------------------------------

    def read(self, va: int, size: int) -> bytes:
        """Guest memory. Raises GuestException."""
        try:
            return self.paging.read(va, size)
        except (GuestFault, NotMapped) as fault:
            raise self.refused(fault) from None

    def write(self, va: int, data: bytes) -> None:
        """Guest memory. Raises GuestException."""
        try:
            self.paging.write(va, data)
        except (GuestFault, NotMapped) as fault:
            raise self.refused(fault) from None

    def refused(self, fault: GuestFault | NotMapped, *, system: bool = False) -> GuestException:
        """The exception that an access ends in. `system`: made by the CPU itself, to one of its tables."""
        if isinstance(fault, NotMapped):
            return GuestException(EXC_GP, 0)
        user = PFEC_USER if self.ring == 3 and not system else 0
        return GuestException(EXC_PF, fault.error_code | user, fault.va)

    def read_system(self, va: int, size: int) -> bytes:
        """As the CPU reads IDT, GDT and TSS, and writes a frame of an inner ring: as supervisor. Raises GuestException."""
        self.paging.supervisor = True
        try:
            return self.paging.read(va & U32, size)
        except (GuestFault, NotMapped) as fault:
            raise self.refused(fault, system=True) from None
        finally:
            self.paging.supervisor = False

    def write_system(self, va: int, data: bytes) -> None:
        """Likewise."""
        self.paging.supervisor = True
        try:
            self.paging.write(va & U32, data)
        except (GuestFault, NotMapped) as fault:
            raise self.refused(fault, system=True) from None
        finally:
            self.paging.supervisor = False


Handler = Callable[[Ring1Vcpu, Instruction], bool]
"""Does an instruction in the CPU's place; whether rip is where the guest goes on."""
