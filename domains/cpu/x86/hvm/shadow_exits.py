"""The exits that a guest with shadow paging has beyond those of hvm/exits: page faults, INVLPG, and control_exits.

An exit may come while the CPU delivers an event to the guest, for IDT, TSS and stack are accessed through the shadows as well.
The event is then delivered again once the shadow is filled in; and a fault of the guest's own in its midst is a double fault
where the CPU makes it one (Intel SDM vol. 3A §6.15).
Source: Xen arch/x86/hvm/svm/svm.c (svm_vmexit_handler, svm_vmexit_do_cr_access), arch/x86/hvm/hvm.c (hvm_set_cr0 and others).
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.cpu_state import CR, OLD_EXCEPTION, RIP
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.emulator.svm import NOTHING, Exit, exception
from domains.cpu.x86.hvm.control_exits import ControlExits, or_fault
from domains.cpu.x86.hvm.mmio import access_hole
from domains.cpu.x86.hvm.report import crash
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import NotMapped
from domains.cpu.x86.registers import EXC_PF, EXC_UD
from domains.cpu.x86.segment_limit import limit_fault
from hypervisor.machine.paging import PFEC_FETCH

EVENT_TYPE: Final = 7 << 8
EVENT_SOFTWARE: Final = 4 << 8
FIRST_INTERRUPT: Final = 32


class ShadowExits:
    """One vCPU's; `handlers` are for the table of exits."""

    def __init__(self, paging: ShadowPaging) -> None:
        self._paging = paging
        registers = ControlExits(paging)
        self.handlers: dict[int, tuple[str, Callable[[HvmVcpu], int]]] = {
            Exit.PAGE_FAULT: ("page fault", self.do_page_fault),
            Exit.INVLPG: ("invlpg", self.do_invlpg),
            **registers.handlers,
        }

    def do_page_fault(self, v: HvmVcpu) -> int:
        """A page fault of the CPU's."""
        error, va = self._paging.svm.exit_info
        event = self._paging.svm.take_event()
        try:
            own = self._paging.page_fault(va, error)
        except NotMapped as hole:
            if event:
                crash(v, f"an event cannot be delivered: {hole}")
            return access_hole(v, hole.gpa)
        if own is None:
            v.exits["hidden fault"] += 1
            return _again(v, event)
        v.exits["guest's own fault"] += 1
        _broken_off(v, event)
        instead = None if event or own & PFEC_FETCH else limit_fault(v.cpu, v.decoder, va)
        if instead is not None:
            return exception(instead)
        v.cpu.q[CR + 2] = va
        return exception(EXC_PF, own)

    def do_invlpg(self, v: HvmVcpu) -> int:
        """INVLPG."""
        return or_fault(v, self._invalidate)

    def _invalidate(self, v: HvmVcpu) -> int:
        instruction = v.decoder.decode(v.mode.linear_rip)
        if instruction is None:
            return exception(EXC_UD)
        self._paging.invalidate(v.decoder.linear(instruction.operands[0], instruction.length))
        v.mode.skip(instruction.length)
        return NOTHING


def _again(v: HvmVcpu, event: int) -> int:
    """The event whose delivery the exit broke off is delivered again, or what caused it is done again."""
    if not event:
        return NOTHING
    v.exits["event delivered again"] += 1
    if event & EVENT_TYPE == EVENT_SOFTWARE:
        _rewind(v)
        return NOTHING
    if event & 0xFF >= FIRST_INTERRUPT:  # an upcall: it is still pending
        v.stubs.request()
        return NOTHING
    return exception(event & 0xFF, event >> 32)


def _broken_off(v: HvmVcpu, event: int) -> None:
    """The event's delivery ends in a fault of the guest's own."""
    if event & EVENT_TYPE == EVENT_SOFTWARE:
        _rewind(v)
    elif event and event & 0xFF < FIRST_INTERRUPT:
        v.cpu.d[OLD_EXCEPTION] = event & 0xFF
        v.cpu.q[RIP] -= v.stubs.take_behind()


def _rewind(v: HvmVcpu) -> None:
    """Back to the INT n, INT3 or INTO, behind which rip is: Unicorn puts it there at an exit, too."""
    v.cpu.q[RIP] -= interposed().int_length.value
