"""mmuext_op: pins, base pointers, TLB operations, LDT, clear and copy (Xen arch/x86/mm.c, do_mmuext_op)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.mmu_batches import Batch, begin
from hypervisor.hypercalls.vcpu_mask import read_vcpu_mask
from hypervisor.machine.paging import is_canonical
from hypervisor.mm.budget import COST_OF_FLUSH, COST_OF_PAGE, COST_OF_UPDATE, Portion, Restart
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.layout import addr_ok
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId
from hypervisor.public.xen import (
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_FLUSH_CACHE,
    MMUEXT_FLUSH_CACHE_GLOBAL,
    MMUEXT_INVLPG_ALL,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_INVLPG_MULTI,
    MMUEXT_MARK_SUPER,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L2_TABLE,
    MMUEXT_PIN_L3_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_SET_LDT,
    MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI,
    MMUEXT_UNMARK_SUPER,
    MMUEXT_UNPIN_TABLE,
    mmuext_op,
)

Operation = Callable[[Call, mmuext_op, DomainMemory, Portion], None]


def do_mmuext_op(call: Call) -> Result:
    """(ops, count, done, foreigndom): see mmu_batches. XenError: of the first operation refused."""
    batch = begin(call, call.abi.sizeof(mmuext_op))
    if not batch.ended:
        perform_operations(batch)
    return batch.answer()


def perform_operations(batch: Batch) -> None:
    """Operations in order until one is refused, the budget is used up, or all are done. XenError: see `owner_of`."""
    call, portion, progress = batch.call, batch.portion, batch.progress
    pg_owner = owner_of(call, batch.foreigndom)
    try:
        while progress.done < batch.count:
            if portion.vcpu.old_table is not None or (progress.done and portion.budget.exhausted):
                raise Restart
            op = call.read(batch.requests + progress.done * batch.record_size, mmuext_op)
            operation = OPERATIONS.get(op.cmd)
            if operation is None:
                raise XenError(Errno.ENOSYS, f"X7: mmuext_op {op.cmd}")
            portion.budget.spend(COST_OF_UPDATE)
            operation(call, op, pg_owner, portion)
            progress.done += 1
    except Restart:
        progress.restart = True
    except XenError as refusal:
        progress.error = refusal


def owner_of(call: Call, foreigndom: int) -> DomainMemory:
    """The domain whose frames the operations name. XenError: ESRCH (U1), EINVAL (not a guest), EPERM (U2)."""
    caller = call.domain.mem
    domid = call.hv.mmu.update_requests.pg_owner(caller, foreigndom)
    pg_owner = call.hv.mmu.domains.get(DomId(domid))
    if pg_owner is None:
        raise XenError(Errno.EINVAL, f"U1: domain {domid} has no page tables")
    if not caller.controls(domid):
        raise XenError(Errno.EPERM, f"U2: d{caller.domid} does not control d{domid}")
    if pg_owner.p2m is not None:
        raise XenError(Errno.EINVAL, f"X7: d{domid} is translated: its tables are its own matter")
    return pg_owner


def require_self(call: Call, pg_owner: DomainMemory) -> None:
    """XenError(EPERM): this operation is about the calling vCPU alone (X3, X7)."""
    if pg_owner is not call.domain.mem:
        raise XenError(Errno.EPERM, f"X7: d{call.domain.domid} acts on d{pg_owner.domid}'s vCPU")


def pin_table(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Validates a page table of the level in the command and keeps it so until it is unpinned."""
    call.hv.mmu.pins.pin(op.arg1.mfn, op.cmd - MMUEXT_PIN_L1_TABLE + 1, pg_owner, portion)


def unpin_table(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Ends a pin."""
    call.hv.mmu.pins.unpin(op.arg1.mfn, pg_owner, portion)


def new_baseptr(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Switches to another L4 for kernel mode."""
    require_self(call, pg_owner)
    call.hv.mmu.bases.new_baseptr(portion.vcpu, op.arg1.mfn, portion)


def new_user_baseptr(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Switches to another L4 for user mode; 0: none."""
    require_self(call, pg_owner)
    call.hv.mmu.bases.new_user_baseptr(portion.vcpu, op.arg1.mfn, portion)


def tlb_flush_local(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """The calling vCPU forgets all its translations."""
    require_self(call, pg_owner)
    portion.vcpu.cpu.flush_tlb()


def invlpg_local(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """The calling vCPU forgets one address."""
    require_self(call, pg_owner)
    if is_canonical(op.arg1.linear_addr):
        portion.vcpu.cpu.invlpg(op.arg1.linear_addr)


def on_masked_vcpus(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """The vCPUs in a bitmap forget one address, or everything. EINVAL: the bitmap cannot be read."""
    require_self(call, pg_owner)
    try:
        vcpus = read_vcpu_mask(call, op.arg2.vcpumask)
    except XenError as fault:
        raise XenError(Errno.EINVAL, f"T4: {fault.reason}") from None
    portion.budget.spend(COST_OF_FLUSH * len(vcpus))
    for v in vcpus:
        if op.cmd == MMUEXT_TLB_FLUSH_MULTI:
            v.cpu.flush_tlb()
        elif addr_ok(op.arg1.linear_addr):
            v.cpu.invlpg(op.arg1.linear_addr)


def tlb_flush_all(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """All vCPUs of the domain forget all their translations."""
    require_self(call, pg_owner)
    portion.budget.spend(COST_OF_FLUSH * len(pg_owner.vcpus))
    call.hv.mmu.types.flush(pg_owner)


def invlpg_all(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """All vCPUs of the domain forget one address."""
    require_self(call, pg_owner)
    portion.budget.spend(COST_OF_FLUSH * len(pg_owner.vcpus))
    if addr_ok(op.arg1.linear_addr):
        for v in pg_owner.vcpus:
            v.cpu.invlpg(op.arg1.linear_addr)


def flush_cache(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Caches here are coherent; what counts is who may (X7): those with device memory, that is the control domain."""
    require_self(call, pg_owner)
    if not pg_owner.privileged:
        raise XenError(Errno.EACCES, f"X7: d{pg_owner.domid} may not flush caches")


def set_ldt(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Sets the LDT: its address and its number of entries."""
    require_self(call, pg_owner)
    call.hv.mmu.descriptors.set_ldt(portion.vcpu, op.arg1.linear_addr, op.arg2.nr_ents)


def clear_page(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Fills a frame that is no page table with zeros."""
    portion.budget.spend(COST_OF_PAGE)
    call.hv.mmu.pins.clear_page(op.arg1.mfn, pg_owner.domid)


def copy_page(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """Copies a frame to one that is no page table."""
    portion.budget.spend(COST_OF_PAGE)
    call.hv.mmu.pins.copy_page(op.arg1.mfn, op.arg2.src_mfn, pg_owner.domid)


def refuse_superpage(call: Call, op: mmuext_op, pg_owner: DomainMemory, portion: Portion) -> None:
    """EOPNOTSUPP: there are no superpages."""
    raise XenError(Errno.EOPNOTSUPP, "X7: superpages are not supported")


OPERATIONS: Final[dict[int, Operation]] = {
    MMUEXT_PIN_L1_TABLE: pin_table,
    MMUEXT_PIN_L2_TABLE: pin_table,
    MMUEXT_PIN_L3_TABLE: pin_table,
    MMUEXT_PIN_L4_TABLE: pin_table,
    MMUEXT_UNPIN_TABLE: unpin_table,
    MMUEXT_NEW_BASEPTR: new_baseptr,
    MMUEXT_TLB_FLUSH_LOCAL: tlb_flush_local,
    MMUEXT_INVLPG_LOCAL: invlpg_local,
    MMUEXT_TLB_FLUSH_MULTI: on_masked_vcpus,
    MMUEXT_INVLPG_MULTI: on_masked_vcpus,
    MMUEXT_TLB_FLUSH_ALL: tlb_flush_all,
    MMUEXT_INVLPG_ALL: invlpg_all,
    MMUEXT_FLUSH_CACHE: flush_cache,
    MMUEXT_FLUSH_CACHE_GLOBAL: flush_cache,
    MMUEXT_SET_LDT: set_ldt,
    MMUEXT_NEW_USER_BASEPTR: new_user_baseptr,
    MMUEXT_CLEAR_PAGE: clear_page,
    MMUEXT_COPY_PAGE: copy_page,
    MMUEXT_MARK_SUPER: refuse_superpage,
    MMUEXT_UNMARK_SUPER: refuse_superpage,
}
