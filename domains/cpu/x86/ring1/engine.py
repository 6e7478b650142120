"""The engine of a guest in ring 1: its CPU on Unicorn, and the monitor around it.

emu_start ──exception or INT n──► exits ──► guest goes on
    │ SIGUSR1 (stop_stub), or the board ends it
    ▼
run_slice returns; an interrupt that came meanwhile is given to the guest with the next slice
"""

from collections.abc import Collection
from typing import Final

import unicorn.x86_const as uc_x86

from domains.cpu.x86.descriptors import load_code_and_stack
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.emulator.emulation import Emulation, open_cpu
from domains.cpu.x86.emulator.fpu_image import INITIAL, load_fpu
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.stop_stub import StopStub
from domains.cpu.x86.emulator.translation import check_translation, translation_hook
from domains.cpu.x86.emulator.unicorn_library import (
    HOOK_INTERRUPT,
    HOOK_INVALID,
    INTERRUPT_HOOK,
    INVALID_HOOK,
)
from domains.cpu.x86.registers import (
    CR0_ET,
    CR0_PE,
    CR4_PAE,
    DS,
    EFER_LMA,
    EFER_LME,
    EFLAGS_MBS,
    ES,
    FS,
    GS,
    MSR_EFER,
    U32,
)
from domains.cpu.x86.ring1.board import Board
from domains.cpu.x86.ring1.delivery import report
from domains.cpu.x86.ring1.exits import (
    handle_exception,
    handle_invalid_op,
    handle_software_interrupt,
    leave,
)
from domains.cpu.x86.ring1.paging import CR0_OF_CPU, Ring1Paging
from domains.cpu.x86.ring1.state import Ring1State, TableRegister
from domains.cpu.x86.ring1.translator import Ring1Translator
from domains.cpu.x86.ring1.vcpu import KERNEL_RING, Ring1Vcpu

CODE: Final = (0, U32, 0x00CFBB00)
DATA: Final = (0, U32, 0x00CFB300)
"""Flat segments of ring 1."""


class Ring1Cpu:
    """One vCPU. Raises UnsupportedLibrary at once if this Unicorn is not the one it knows."""

    def __init__(
        self,
        board: Board,
        p2m: int,
        shadow_frames: int,
        *,
        traces_tables: bool = True,
        untranslated: Collection[str] = (),
    ) -> None:
        """`p2m`: the machine frame of the P2M's top table; `shadow_frames`: how many the shadow tables may take; `traces_tables`:
        stores to page tables are exits, as with VMware's ESX; else the tables are compared when the guest flushes.
        `untranslated`: mnemonics of sensitive instructions that are left to the CPU: the guest sees what ring 1 does to them.
        """
        self._uc, self.library, cpu = opened = open_cpu()
        library = self.library
        check_translation(self._uc, library)
        cpu.take_exception()
        self.stop_stub = StopStub(library)
        opened.check_stops(self.stop_stub.handler, self.stop_stub.ask)
        paging = Ring1Paging(board.memory, cpu, library, shadow_frames, traces_tables=traces_tables)
        paging.enable(p2m)
        self._set_up()
        self.vcpu = v = Ring1Vcpu(cpu, paging, board)
        self.translator = Ring1Translator(board.memory, paging, frozenset(untranslated))
        translation_hook().add(library, self.translator)
        self.emulation = Emulation(opened, lambda why: board.crash(report(v, why)))
        library.add_hook(HOOK_INTERRUPT, INTERRUPT_HOOK(self._on_interrupt))
        library.add_hook(HOOK_INVALID, INVALID_HOOK(self._on_invalid))

    def _set_up(self) -> None:
        """Long mode with paging on: what never changes again."""
        self._uc.msr_write(MSR_EFER, EFER_LME | EFER_LMA)
        self._uc.reg_write(uc_x86.UC_X86_REG_CR4, CR4_PAE)
        self._uc.reg_write(uc_x86.UC_X86_REG_CR0, CR0_OF_CPU)

    def start(self, entry: int) -> None:
        """The guest begins at `entry` in 32-bit protected mode, flat, without paging, with interrupts off."""
        v = self.vcpu
        cpu = v.cpu
        for register in range(16):
            cpu.q[register] = 0
        load_fpu(cpu, interposed().float_unit, INITIAL)
        for segment in (ES, DS, FS, GS):
            cpu.set_segment(segment, 0, *DATA)
        load_code_and_stack(cpu, KERNEL_RING, CODE, KERNEL_RING, DATA)
        v.state = Ring1State()
        v.gdt.load(TableRegister())
        v.ldt.load(TableRegister())
        v.set_flags(EFLAGS_MBS)
        cpu.q[RIP] = entry
        v.paging.load_controls(CR0_PE | CR0_ET, 0, 0, 0)

    def run_slice(self) -> None:
        """Run until a stop is asked for, or the board ends it. Raises what the board raised."""
        leave(self.vcpu)
        self.emulation.run()

    def _on_interrupt(self, _uc: int, vector: int, _data: int) -> None:
        v = self.vcpu
        try:
            self.translator.after()
            if v.cpu.take_exception():
                handle_software_interrupt(v, vector)
            else:
                handle_exception(v, vector, v.cpu.error_code)
        except BaseException as failure:  # noqa: BLE001 - it cannot cross Unicorn's frames
            self.emulation.keep(failure)

    def _on_invalid(self, _uc: int, _data: int) -> bool:
        try:
            self.vcpu.cpu.take_exception()
            handle_invalid_op(self.vcpu)
        except BaseException as failure:  # noqa: BLE001
            self.emulation.keep(failure)
        return True
