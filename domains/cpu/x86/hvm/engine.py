"""The engine of a domain process of an HVM guest: one vCPU's guest code on Unicorn, from its first slice on.

    emu_start ──exit (SVM)──► Xen, by hvm/exits ──► guest goes on
        │ SIGUSR1 (hvm/stubs): events? or the stop byte:
        ▼
    gate.stopped: the slice is given back, the next one awaited

Interrupts' entries, system calls and stores to page tables never leave the emulated CPU; with nested paging nor do faults and
changes of modes. No hook on memory may ever be set: with one, every store takes Unicorn's slow path.
"""

from collections.abc import Sequence
from typing import NoReturn

import unicorn.x86_const as uc_x86

from domains.cpu.gate import Gate
from domains.cpu.x86.block_meter import BlockMeter
from domains.cpu.x86.emulator.emulation import Emulation, open_cpu
from domains.cpu.x86.emulator.fetched_pages import FetchedPages
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.stop_stub import set_handler, take_requests
from domains.cpu.x86.emulator.svm import EXIT, NOTHING
from domains.cpu.x86.emulator.unicorn_library import (
    CPUID_HOOK,
    EXIT_HOOK,
    HOOK_INSN,
    HOOK_INTERRUPT,
    HOOK_INVALID,
    INVALID_OP_HOOK,
    UnicornLibrary,
)
from domains.cpu.x86.hvm.context import save_context
from domains.cpu.x86.hvm.cpuid import do_cpuid
from domains.cpu.x86.hvm.doubtful_exceptions import instead_of
from domains.cpu.x86.hvm.effects import apply_effects
from domains.cpu.x86.hvm.exits import ask_for_upcall, handle_exit, handle_invalid_op
from domains.cpu.x86.hvm.kinds import HVM_KINDS, HvmKind
from domains.cpu.x86.hvm.msr import NATIVE
from domains.cpu.x86.hvm.report import crash
from domains.cpu.x86.hvm.stubs import HvmStubs
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from hypervisor.wire.messages import EffectRecord

INSTRUCTIONS = {
    uc_x86.UC_X86_INS_SYSCALL: "new_syscall",
    uc_x86.UC_X86_INS_SYSENTER: "undefined",
    uc_x86.UC_X86_INS_RDTSC: "new_rdtsc",
    uc_x86.UC_X86_INS_CPUID: "new_cpuid",
    uc_x86.UC_X86_INS_IN: "new_in",
    uc_x86.UC_X86_INS_OUT: "new_out",
}
"""Instructions that machine code does in the CPU's place."""


class HvmCpu:
    """One vCPU. Raises UnsupportedLibrary at once if this Unicorn is not the one it knows."""

    def __init__(self, gate: Gate, vcpu: int = 0, kind: HvmKind | None = None) -> None:
        """`kind` is what the mailbox says unless it is given."""
        _, self.library, cpu = opened = open_cpu()
        library = self.library
        self.stubs = HvmStubs(library, cpu, gate.mailbox.tsc_offset)
        take_requests(library, self.stubs.address("on_request"))
        opened.check_stops(self.stubs.address("ask"), self.stubs.ask)
        if gate.meter is not None:
            gate.meter = BlockMeter(gate.mailbox, library, vcpu)
            self.stubs.set_clock(gate.meter.blocks.now)
        self._meter = gate.meter
        kind = kind or HVM_KINDS[gate.mailbox.engine]
        paging = kind.paging(gate, cpu, library)
        self._fetched = FetchedPages(library, gate.memory)
        for number in NATIVE:
            paging.svm.let_msr(number)
        self.stubs.set_exits(kind.exceptions)
        self.stubs.set_event(paging.svm.event_address)
        self.vcpu = v = HvmVcpu(
            vcpu, gate, cpu, paging, self.stubs, interposed().float_unit, kind.handlers(paging)
        )
        self.emulation = Emulation(opened, lambda why: crash(v, why))
        self._add_hooks(library)

    def _add_hooks(self, library: UnicornLibrary) -> None:
        stubs = self.stubs
        stubs.call_back("on_exit", EXIT_HOOK(self._on_exit))
        stubs.call_back("on_invalid", INVALID_OP_HOOK(self._on_invalid))
        stubs.call_back("on_cpuid", CPUID_HOOK(self._on_cpuid))
        stubs.call_back("on_doubt", EXIT_HOOK(self._on_doubt))
        library.add_code_hook(HOOK_INTERRUPT, stubs.address("new_interrupt"), 0)
        library.add_code_hook(HOOK_INVALID, stubs.address("new_invalid"), 0)
        self._add_instructions(library)

    def _add_instructions(self, library: UnicornLibrary) -> None:
        for instruction, routine in INSTRUCTIONS.items():
            library.add_code_hook(HOOK_INSN, self.stubs.address(routine), 0, instruction)

    def boot(self, effects: Sequence[EffectRecord]) -> None:
        """Take over the answer to START: the P2M, the shared page, the vCPU's registers."""
        self.apply(effects)

    def apply(self, effects: Sequence[EffectRecord]) -> None:
        """Perform the effects of a reply, in order (docs/contracts.md)."""
        apply_effects(self.vcpu, effects)

    def save_context(self) -> bytes:
        """The vCPU's registers, for the core."""
        return save_context(self.vcpu)

    def run(self) -> NoReturn:
        """Run guest code; the process exits when the domain is over."""
        set_handler(self.stubs.address("ask"))
        while True:
            self.run_slice()

    def run_slice(self) -> None:
        """Run until the core wants something; if the stop byte is set, this slice is given back and another awaited.

        Raises what a hook raised.
        """
        v = self.vcpu
        ask_for_upcall(v)
        self.emulation.run()
        if v.gate.mailbox.stop(v.vcpu_id) or (self._meter and self._meter.is_spent):
            v.exits["slice over"] += 1
            self.apply(v.gate.stopped(v.vcpu_id)[1])

    def _on_exit(self, _uc: int, vector: int, _data: int) -> int:
        """An exit; what the guest gets for it (hvm/exits)."""
        v = self.vcpu
        try:
            v.cpu.take_exception()
            return handle_exit(v, vector - EXIT)
        except BaseException as failure:  # noqa: BLE001
            self.emulation.keep(failure)
            return NOTHING

    def _on_invalid(self, _uc: int, _data: int) -> int:
        try:
            return handle_invalid_op(self.vcpu)
        except BaseException as failure:  # noqa: BLE001
            self.emulation.keep(failure)
            return NOTHING

    def _on_doubt(self, _uc: int, vector: int, _data: int) -> int:
        try:
            return instead_of(self.vcpu, vector)
        except BaseException as failure:  # noqa: BLE001
            self.emulation.keep(failure)
            return vector

    def _on_cpuid(self, _uc: int, _data: int) -> int:
        try:
            do_cpuid(self.vcpu)
        except BaseException as failure:  # noqa: BLE001
            self.emulation.keep(failure)
        return 1
