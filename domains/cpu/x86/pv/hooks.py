"""Where guest code meets Xen's entry code: Unicorn's callbacks, none of which needs to stop emulation."""

from collections.abc import Callable

import unicorn.x86_const as uc_x86

from domains.cpu.x86.emulator.cpu_state import HFLAGS, RIP
from domains.cpu.x86.emulator.emulation import Emulation
from domains.cpu.x86.emulator.float_code import HF_TF
from domains.cpu.x86.emulator.unicorn_library import (
    CPUID_HOOK,
    HOOK_INSN,
    HOOK_INTERRUPT,
    HOOK_INVALID,
    INTERRUPT_HOOK,
    INVALID_HOOK,
    SYSCALL_HOOK,
    UnicornLibrary,
)
from domains.cpu.x86.pv.cpuid import do_cpuid
from domains.cpu.x86.pv.exceptions import handle_exception
from domains.cpu.x86.pv.invalid_op import handle_invalid_op
from domains.cpu.x86.pv.syscall import LENGTH
from domains.cpu.x86.pv.turns import Turns
from domains.cpu.x86.pv.upcall import deliver_events
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import RAX, RDX, U32, U64


class Hooks:
    """One emulated CPU's, for the vCPU whose turn it is. `stop` ends emulation before the next instruction."""

    def __init__(
        self, library: UnicornLibrary, turns: Turns, emulation: Emulation, stop: Callable[[], None]
    ) -> None:
        self._turns = turns
        self._stop = stop
        self._keep = emulation.keep
        library.add_hook(HOOK_INTERRUPT, INTERRUPT_HOOK(self._on_interrupt))
        library.add_hook(HOOK_INVALID, INVALID_HOOK(self._on_invalid))
        library.add_hook(HOOK_INSN, SYSCALL_HOOK(self._on_syscall), uc_x86.UC_X86_INS_SYSCALL)
        library.add_hook(HOOK_INSN, CPUID_HOOK(self._on_cpuid), uc_x86.UC_X86_INS_CPUID)
        library.add_hook(HOOK_INSN, CPUID_HOOK(self._on_rdtsc), uc_x86.UC_X86_INS_RDTSC)

    def _on_interrupt(self, _uc: int, vector: int, _data: int) -> None:
        v = self._turns.current
        try:
            if v.cpu.take_exception():
                v.entry.software_interrupt(v, vector)
            else:
                handle_exception(v, vector, v.cpu.error_code)
            self._leave()
        except BaseException as failure:  # noqa: BLE001 - it cannot cross Unicorn's frames
            self._keep(failure)

    def _on_invalid(self, _uc: int, _data: int) -> bool:
        v = self._turns.current
        try:
            v.cpu.take_exception()
            handle_invalid_op(v)
            self._leave()
        except BaseException as failure:  # noqa: BLE001
            self._keep(failure)
        return True

    def _on_syscall(self, _uc: int, _data: int) -> None:
        """Unicorn adds the instruction's length to rip afterwards."""
        v = self._turns.current
        q = v.cpu.q
        try:
            q[RIP] = q[RIP] + LENGTH & U64
            v.entry.syscall(v)
            self._leave()
            q[RIP] = q[RIP] - LENGTH & U64
        except BaseException as failure:  # noqa: BLE001
            self._keep(failure)

    def _on_cpuid(self, _uc: int, _data: int) -> int:
        return self._instead(do_cpuid)

    def _on_rdtsc(self, _uc: int, _data: int) -> int:
        return self._instead(do_rdtsc)

    def _instead(self, instruction: Callable[[X86Vcpu], None]) -> int:
        """Do an instruction in its place; Unicorn skips its own."""
        try:
            instruction(self._turns.current)
        except BaseException as failure:  # noqa: BLE001
            self._keep(failure)
        return 1

    def _leave(self) -> None:
        """On the way back to the guest, unless it is another vCPU's turn."""
        v = self._turns.current
        if v.rest is not None:
            self._stop()
            return
        if v.breakpoints.watching:
            v.breakpoints.forget()
            v.breakpoints.refresh()
        deliver_events(v)
        if v.cpu.d[HFLAGS] & HF_TF:
            v.float_unit.keep(v.cpu.env)


def do_rdtsc(v: X86Vcpu) -> None:
    """RDTSC: nanoseconds, in EDX:EAX."""
    now = v.clock.tsc()
    v.cpu.q[RAX], v.cpu.q[RDX] = now & U32, now >> 32
