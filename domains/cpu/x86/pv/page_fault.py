"""#PF: the window's descriptors, stores to read-only page tables, stale translations, and the guest's own faults.

Source: Xen arch/x86/traps.c (fixup_page_fault, handle_gdt_ldt_mapping_fault).
"""

from typing import Final

from domains.cpu.x86.paging import PageFault
from domains.cpu.x86.pv.bounce import inject_hw_exception, inject_page_fault
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.ptwr import emulate_page_table_write
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import EXC_GP, XEC_EXT, XEC_IDT, XEC_TI
from hypervisor.machine.descriptor_window import LDT_OFFSET, VCPU_WINDOW
from hypervisor.machine.paging import PFEC_USER, is_canonical
from hypervisor.public.xen import VMASST_TYPE_writable_pagetables
from hypervisor.wire.messages import EffectRecord

WRITABLE_PAGETABLES: Final = 1 << VMASST_TYPE_writable_pagetables


def handle_page_fault(v: X86Vcpu, va: int, error_code: int) -> None:
    """A fault of the guest at `va`; `error_code` as the CPU gave it, for which both halves are user."""
    if not error_code & PFEC_USER:
        offset = va - v.segments.gdt_base
        if 0 <= offset < VCPU_WINDOW:
            _handle_window_fault(v, offset, error_code)
            return
    writable_tables = bool(v.pv.vm_assist & WRITABLE_PAGETABLES)
    outcome = v.paging.fault(va, error_code, from_kernel=v.mode.in_kernel, writable_tables=writable_tables)
    if outcome is PageFault.emulate and emulate_page_table_write(v, va, error_code):
        v.exits["page-table write"] += 1
    elif outcome is PageFault.handled:
        v.exits["stale translation"] += 1
    elif not is_canonical(va):  # Unicorn's answer to a jump there
        inject_hw_exception(v, EXC_GP)
    else:
        inject_page_fault(v, va, error_code)


def _handle_window_fault(v: X86Vcpu, offset: int, error_code: int) -> None:
    """The CPU missed a descriptor: no GDT page there is #GP[sel]; an LDT page is filled at its first use (X6)."""
    if offset < LDT_OFFSET:
        inject_hw_exception(v, EXC_GP, offset & ~(XEC_EXT | XEC_IDT | XEC_TI))
        return
    offset -= LDT_OFFSET

    def finish(result: int, effects: list[EffectRecord]) -> None:
        apply_effects(v, effects)
        wanted = v.segments.guest_ldt_base + offset
        if result == 0:
            v.exits["LDT page"] += 1
            v.paging.invalidate(v.segments.ldt_base + offset)
        elif is_canonical(wanted):
            inject_page_fault(v, wanted, error_code)
        else:
            inject_hw_exception(v, EXC_GP, offset & ~(XEC_EXT | XEC_IDT) | XEC_TI)

    v.ask(finish, v.gate.map_ldt_page, offset)
