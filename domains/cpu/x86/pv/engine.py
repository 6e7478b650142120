"""The x86-64 engine of a domain process: its vCPUs' guest code on Unicorn, from the first slice to the domain's end.

    emu_start ──exit (hook)──► Xen's entry code ──► guest goes on
        │ SIGUSR1 (stop_stub): events? or the stop byte, or with a seed the end of a budget (block_count):
        ▼
    gate.stopped: the slice is given back, the next one awaited, which may be another vCPU's (turns)

Unicorn sees the whole machine reservation as one region at 0, so machine address = physical address; what is not mapped in this
process reads as zeros.
"""

from collections.abc import Sequence
from typing import Final, NoReturn

import unicorn.x86_const as uc_x86

from domains.cpu.event_words import EventWords
from domains.cpu.gate import Gate
from domains.cpu.x86.block_meter import BlockMeter
from domains.cpu.x86.decode import Decoder
from domains.cpu.x86.emulator.cpu_state import CR, HFLAGS, CpuState
from domains.cpu.x86.emulator.emulation import Emulation, open_cpu
from domains.cpu.x86.emulator.fetched_pages import FetchedPages
from domains.cpu.x86.emulator.float_code import HF_TF
from domains.cpu.x86.emulator.fpu_image import INITIAL, load_fpu
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.stop_stub import StopStub
from domains.cpu.x86.pv.breakpoints import Breakpoints
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.hooks import Hooks
from domains.cpu.x86.pv.io_ports import PortStub
from domains.cpu.x86.pv.kinds import GuestKind
from domains.cpu.x86.pv.pv64_mode import Pv64Mode
from domains.cpu.x86.pv.segments import FLAT_DATA
from domains.cpu.x86.pv.turns import Turns
from domains.cpu.x86.pv.upcall import deliver_events
from domains.cpu.x86.pv.vcpu import CR0_OF_XEN, X86Vcpu
from domains.cpu.x86.registers import (
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    CR4_PGE,
    DS,
    EFER_SCE_LME_LMA_NX,
    ES,
    FS,
    GS,
    MSR_EFER,
    U32,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.wire.messages import EffectRecord

CR4_OF_CPU: Final = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT
"""The real CR4. FSGSBASE and OSXSAVE, which Unicorn starts with, are not advertised to guests."""


class X86Cpu:
    """One emulated CPU for all vCPUs of a domain. Raises UnsupportedLibrary at once if this Unicorn is not the one it knows."""

    def __init__(self, gate: Gate, kind: GuestKind) -> None:
        self._uc, self.library, cpu = opened = open_cpu()
        library = self.library
        self.stop_stub = StopStub(library)
        opened.check_stops(self.stop_stub.handler, self.stop_stub.ask)
        library.map_memory(gate.memory.base, gate.memory.size)
        self._fetched = FetchedPages(library, gate.memory)
        if gate.meter is not None:
            gate.meter = BlockMeter(gate.mailbox, library, 0)
        self._meter = gate.meter
        vcpus = [self._new_vcpu(gate, kind, n, cpu) for n in range(gate.mailbox.vcpus)]
        for v in vcpus:
            v.siblings = vcpus
        self.turns = Turns(gate, vcpus, library)
        self._set_up_registers()
        self._port_stub = PortStub(library, cpu)
        self.emulation = Emulation(opened, lambda why: crash(self.vcpu, why))
        self._hooks = Hooks(library, self.turns, self.emulation, self.stop_stub.ask)

    def _new_vcpu(self, gate: Gate, kind: GuestKind, number: int, cpu: CpuState) -> X86Vcpu:
        paging = kind.paging(gate.memory, cpu, self.library)
        if self._fetched.in_force:
            paging.twin = interposed().twin_tlb
        mode = kind.mode(cpu, paging)
        segments = kind.segments(cpu, gate.memory, number)
        v = X86Vcpu(number, gate, cpu, paging, mode, segments, Decoder(cpu, paging), kind.entry)
        if isinstance(mode, Pv64Mode):
            v.pv64 = mode
        v.breakpoints = Breakpoints(self.library, cpu, v.pv, paging, self.stop_stub)
        return v

    @property
    def vcpu(self) -> X86Vcpu:
        """The vCPU whose turn it is."""
        return self.turns.current

    def _set_up_registers(self) -> None:
        """Long mode with paging on, ring 3, flat segments: what never changes again."""
        uc, first = self._uc, self.vcpu
        uc.msr_write(MSR_EFER, EFER_SCE_LME_LMA_NX)
        first.cpu.q[CR + 4] = 0
        uc.reg_write(uc_x86.UC_X86_REG_CR4, CR4_OF_CPU)
        uc.reg_write(uc_x86.UC_X86_REG_CR0, CR0_OF_XEN)
        load_fpu(first.cpu, first.float_unit, INITIAL)
        self.turns.copy_to_all()
        for v in reversed(first.siblings):
            self.turns.switch_to(v)
            v.segments.load_tables()
            v.segments.flat()
            for segment in (ES, DS, FS, GS):
                v.cpu.set_segment(segment, 0, 0, U32, FLAT_DATA)

    def boot(self, effects: Sequence[EffectRecord]) -> None:
        """Take over the answer to START: the vCPU's registers, and where the shared page lies."""
        v = self.vcpu
        self.apply(effects)
        self.share(v.shared_info << PAGE_SHIFT)
        for other in v.siblings[1:]:
            other.rest = lambda _result, first_effects: self.apply(first_effects)
            v.gate.announce(other.vcpu_id)

    def share(self, shared_info_maddr: int) -> None:
        """The shared page lies at this machine address."""
        for v in self.vcpu.siblings:
            v.events = EventWords(v.gate.memory.view(shared_info_maddr, PAGE_SIZE), v.vcpu_id, v.entry.abi)
            v.events.set_clock(v.clock.tsc_at_start)

    def save_context(self, vcpu_id: int) -> bytes:
        """A vCPU's registers, for the core. Of another vCPU than the current one only outside emulation."""
        v = self.turns.vcpus[vcpu_id]
        self.turns.switch_to(v)
        return v.entry.save_context(v)

    def apply(self, effects: Sequence[EffectRecord]) -> None:
        """Perform the effects of a reply, in order (docs/contracts.md)."""
        apply_effects(self.vcpu, effects)

    def run(self) -> NoReturn:
        """Run guest code; the process exits when the domain is over."""
        self.stop_stub.install()
        while True:
            self.run_slice()

    def run_slice(self) -> None:
        """Run until the core wants something. Events are delivered at the start of the next slice; if the stop byte is set,
        this one is given back and another awaited. Raises what a hook raised.
        """
        if self.vcpu.rest is not None:
            self.turns.wait()
        v = self.vcpu
        if v.posting is not None:
            v.posting.send()
        if v.breakpoints.stale:
            v.breakpoints.settle()
        deliver_events(v)
        if v.cpu.d[HFLAGS] & HF_TF:
            v.float_unit.keep(v.cpu.env)
        self.emulation.run()
        if v.rest is None and (v.gate.mailbox.stop(v.vcpu_id) or (self._meter and self._meter.is_spent)):
            v.exits["slice over"] += 1
            v.ask(lambda _result, effects: apply_effects(v, effects), v.gate.stopped)
