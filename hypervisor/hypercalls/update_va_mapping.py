"""update_va_mapping: change one L1 entry by virtual address, and flush (U7, U8; Xen arch/x86/mm.c).

flags:  bits 0-1 UVMF_TLB_FLUSH, UVMF_INVLPG or nothing
        the rest: 0 this vCPU, UVMF_ALL all vCPUs, else the address of a bitmap of vCPUs
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.vcpu_mask import read_vcpu_mask
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_TLB_FLUSH

_TYPE: Final = int(UVMF_FLUSHTYPE_MASK)


def do_update_va_mapping(call: Call) -> Result:
    """(va, value, flags), on the caller's own frames."""
    va, value, flags = call.args[:3]
    return update(call, va, value, flags, call.domain.domid)


def do_update_va_mapping_otherdomain(call: Call) -> Result:
    """(va, value, flags, domid): the frame is that domain's, which the caller must control (U8)."""
    va, value, flags, domid = call.args[:4]
    pg_owner = call.hv.mmu.update_requests.pg_owner(call.domain.mem, domid & 0xFFFF)
    if not call.domain.mem.controls(pg_owner):
        raise XenError(Errno.EPERM, f"U8: d{call.domain.domid} does not control d{pg_owner}")
    return update(call, va, value, flags, pg_owner)


def update(call: Call, va: int, value: int, flags: int, pg_owner: int) -> Result:
    """The entry, then the flush; after a refusal there is none (T4)."""
    call.hv.mmu.va_mapping.update(call.vcpu.mem, va, value, pg_owner)
    what = flags & _TYPE
    if what == UVMF_TLB_FLUSH and flags & ~_TYPE == UVMF_ALL:
        call.hv.mmu.types.flush(call.domain.mem)
    elif what in (UVMF_TLB_FLUSH, UVMF_INVLPG):
        for v in flushed_vcpus(call, flags & ~_TYPE):
            if what == UVMF_TLB_FLUSH:
                v.cpu.flush_tlb()
            else:
                v.cpu.invlpg(va)
    return 0


def flushed_vcpus(call: Call, where: int) -> list[VcpuMemory]:
    """The vCPUs that must forget: the caller, all of the domain, or those in the bitmap at `where`."""
    if not where:
        return [call.vcpu.mem]
    if where == UVMF_ALL:
        return call.domain.mem.vcpus
    return read_vcpu_mask(call, where)
