"""set_gdt and update_descriptor (D1, D3; Xen arch/x86/pv/descriptor-tables.c). set_ldt is an mmuext_op."""

from __future__ import annotations

from hypervisor.hypercalls.call import Call, Result
from hypervisor.mm.budget import COST_OF_DESCRIPTOR, COST_OF_DESCRIPTOR_PAGE
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_ENTRY
from hypervisor.public.errno import Errno, XenError


def do_set_gdt(call: Call) -> Result:
    """(frame list, entries): the list has one frame number for each 512 entries."""
    frame_list, entries = call.args[0], call.args[1] & 0xFFFF_FFFF
    if entries > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(Errno.EINVAL, f"D1: a GDT of {entries} entries")
    frames = call.read_words(frame_list, -(-entries // 512))
    call.budget.spend(COST_OF_DESCRIPTOR_PAGE * len(frames))
    call.hv.mmu.descriptors.set_gdt(call.vcpu.mem, frames, entries)
    call.vcpu.mem.cpu.flush_tlb()
    return 0


def do_update_descriptor(call: Call) -> Result:
    """(machine address, descriptor)."""
    maddr, descriptor = call.args[:2]
    call.budget.spend(COST_OF_DESCRIPTOR)
    call.hv.mmu.descriptors.update_descriptor(call.vcpu.mem, maddr, descriptor)
    return 0
