"""The x86-64 engine of a domain process: one vCPU's guest code on Unicorn, from its first slice to the domain's end.

    emu_start ──exit (hook)──► Xen's entry code ──► guest goes on
        │ SIGUSR1 (stop_stub): events? or the stop byte:
        ▼
    gate.stopped: the slice is given back, the next one awaited

Unicorn sees the whole machine reservation as one region at 0, so machine address = physical address; what is not mapped in this
process reads as zeros.
"""

from collections.abc import Sequence
from typing import Final, NoReturn

import unicorn.x86_const as uc_x86

from domains.cpu.event_words import EventWords
from domains.cpu.gate import Gate
from domains.cpu.x86.decode import Decoder
from domains.cpu.x86.emulator.cpu_state import CR, HFLAGS
from domains.cpu.x86.emulator.emulation import Emulation, open_cpu
from domains.cpu.x86.emulator.float_code import HF_TF
from domains.cpu.x86.emulator.fpu_image import INITIAL, load_fpu
from domains.cpu.x86.emulator.stop_stub import StopStub
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.breakpoints import Breakpoints
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.hooks import Hooks
from domains.cpu.x86.pv.io_ports import PortStub
from domains.cpu.x86.pv.kinds import GuestKind
from domains.cpu.x86.pv.pv64_mode import Pv64Mode
from domains.cpu.x86.pv.segments import FLAT_DATA
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
    RSI,
    U32,
)
from hypervisor.public.types import PAGE_SIZE
from hypervisor.public.xen import start_info
from hypervisor.wire.messages import EffectRecord

CR4_OF_CPU: Final = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT
"""The real CR4. FSGSBASE and OSXSAVE, which Unicorn starts with, are not advertised to guests."""


class X86Cpu:
    """One vCPU. Raises UnsupportedLibrary at once if this Unicorn is not the one it knows."""

    def __init__(self, gate: Gate, kind: GuestKind, vcpu: int = 0) -> None:
        self._uc, self.library, cpu = opened = open_cpu()
        library = self.library
        self.stop_stub = StopStub(library)
        opened.check_stops(self.stop_stub.handler, self.stop_stub.ask)
        paging = kind.paging(gate.memory, cpu, library)
        mode = kind.mode(cpu, paging)
        segments = kind.segments(cpu, gate.memory, vcpu)
        self.vcpu = X86Vcpu(vcpu, gate, cpu, paging, mode, segments, Decoder(cpu, paging), kind.entry)
        if isinstance(mode, Pv64Mode):
            self.vcpu.pv64 = mode
        self._set_up_registers()
        self._port_stub = PortStub(library, cpu)
        v = self.vcpu
        v.breakpoints = Breakpoints(library, v.cpu, v.pv, v.paging, self.stop_stub)
        self.emulation = Emulation(opened, lambda why: crash(v, why))
        self._hooks = Hooks(library, v, self.emulation)

    def _set_up_registers(self) -> None:
        """Long mode with paging on, ring 3, flat segments: what never changes again."""
        uc, v = self._uc, self.vcpu
        uc.msr_write(MSR_EFER, EFER_SCE_LME_LMA_NX)
        v.cpu.q[CR + 4] = 0
        uc.reg_write(uc_x86.UC_X86_REG_CR4, CR4_OF_CPU)
        uc.reg_write(uc_x86.UC_X86_REG_CR0, CR0_OF_XEN)
        load_fpu(v.cpu, v.float_unit, INITIAL)
        v.segments.load_tables()
        v.segments.flat()
        for segment in (ES, DS, FS, GS):
            v.cpu.set_segment(segment, 0, 0, U32, FLAT_DATA)

    def boot(self, effects: Sequence[EffectRecord]) -> None:
        """Take over the answer to START: the vCPU's registers. RSI points at start_info, which names the shared page."""
        v = self.vcpu
        self.apply(effects)
        abi = v.entry.abi
        at = v.cpu.q[RSI] + abi.layout(start_info).offsetof("shared_info")
        try:
            info = v.paging.read(at, abi.word)
        except GuestFault as fault:
            crash(v, f"no start_info lies where RSI points: {fault}", walk=fault.va)
        self.share(int.from_bytes(info, "little"))

    def share(self, shared_info_maddr: int) -> None:
        """The shared page lies at this machine address."""
        v = self.vcpu
        v.events = EventWords(v.gate.memory.view(shared_info_maddr, PAGE_SIZE), v.vcpu_id, v.entry.abi)
        v.events.set_clock(v.clock.tsc_at_start)

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
        v = self.vcpu
        if v.breakpoints.stale:
            v.breakpoints.settle()
        deliver_events(v)
        if v.cpu.d[HFLAGS] & HF_TF:
            v.float_unit.keep(v.cpu.env)
        self.emulation.run()
        if v.gate.mailbox.stop(v.vcpu_id):
            v.exits["slice over"] += 1
            self.apply(v.gate.stopped(v.vcpu_id))
