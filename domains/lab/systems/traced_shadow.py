"""Shadow paging for a kernel in ring 0 whose page tables are traced: each store to one is an exit, as with the first monitors
that used hardware assistance (Adams and Agesen 2006).

hvm/shadow_paging, which domains run on, compares tables when the guest flushes instead, and has no such exits.
"""

from __future__ import annotations

import capstone.x86

from domains.cpu.gate import Gate
from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.svm import NOTHING, Exit
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.exits import HANDLERS
from domains.cpu.x86.hvm.kinds import SHADOW, HvmKind
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.hvm.shadow_exits import ShadowExits
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.hvm.vcpu import ExitHandlers, HvmVcpu
from domains.cpu.x86.paging import NotMapped
from domains.cpu.x86.ring1.tracing import Tracer
from domains.cpu.x86.stores import STORES
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PFEC_WRITE
from hypervisor.public.types import PAGE_SIZE


class TracedShadowPaging(ShadowPaging):
    """A `Paging`."""

    def __init__(
        self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary, pool_frames: int
    ) -> None:
        super().__init__(memory, cpu, library, pool_frames)
        self.tracer = Tracer(self.pmap, self._space, library)

    def table_seen(self, at: int, level: int) -> None:
        """A table of the guest's is shadowed. PAE's top one is read at a load of CR3, and need not be traced."""
        if level < 3:
            self.tracer.trace(at & -PAGE_SIZE)

    def invalidate_all(self) -> None:
        """The P2M, or what an entry's bits mean, has changed."""
        super().invalidate_all()
        self.tracer.protect_again()

    def store(self, address: int, gpa: int, data: bytes) -> None:
        """Make a store of the guest's to the traced frame at `address`, and look at what it changed."""
        at = address | gpa % PAGE_SIZE
        self._octets[at : at + len(data)] = data
        self._space.sync_table(address)


class TracedExits(ShadowExits):
    """The exits of such a guest."""

    def __init__(self, paging: TracedShadowPaging) -> None:
        super().__init__(paging)
        self._traced = paging
        self.handlers[Exit.PAGE_FAULT] = ("page fault", self.do_page_fault)

    def do_page_fault(self, v: HvmVcpu) -> int:
        """A page fault of the CPU's: of a store to a traced frame, perhaps."""
        error, va = self._traced.svm.exit_info
        try:
            self._traced.page_fault(va, error)
        except NotMapped as hole:
            address = self._traced.tracer.traced(hole.gpa) if error & PFEC_WRITE else None
            if address is not None:
                return self._do_store(v, address, hole.gpa)
        return super().do_page_fault(v)

    def _do_store(self, v: HvmVcpu, address: int, gpa: int) -> int:
        instruction, tracer = v.decoder.decode(v.mode.linear_rip), self._traced.tracer
        if instruction is None or not is_known(instruction):  # a page is filled, which is no table any more
            tracer.unshadow(address)
            v.exits["trace dropped"] += 1
            return NOTHING
        if tracer.let_go(address):
            v.exits["trace dropped"] += 1  # the store is tried again
            return NOTHING
        v.exits["traced store"] += 1
        size = instruction.operands[0].size
        old = int.from_bytes(v.gate.memory.read(address | gpa % PAGE_SIZE, size), "little")
        store = STORES[instruction.name](v, instruction, size, old)
        if store is not None:
            if store.value is not None:
                self._traced.store(address, gpa, store.value.to_bytes(size, "little"))
            store.finish(v)
        v.mode.skip(instruction.length)
        return NOTHING


def is_known(instruction: Instruction) -> bool:
    """Whether it is an ordinary store."""
    return instruction.name in STORES and instruction.operands[0].type == capstone.x86.X86_OP_MEM


def traced_paging(gate: Gate, cpu: CpuState, library: UnicornLibrary) -> HvmPaging:
    """The CPU walks tables of the monitor's."""
    return TracedShadowPaging(gate.memory, cpu, library, gate.mailbox.shadow_frames)


def traced_exits(paging: HvmPaging) -> ExitHandlers:
    """Faults, stores to page tables, control registers and INVLPG beside those that every guest has."""
    assert isinstance(paging, TracedShadowPaging)
    return HANDLERS | TracedExits(paging).handlers


TRACED_SHADOW = HvmKind(traced_paging, traced_exits, SHADOW.exceptions)
"""A guest of the first hardware-assisted monitors."""
