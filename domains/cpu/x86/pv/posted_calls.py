"""Hypercalls about page tables that need not wait for the core, when their outcome is certain (posting.py).

    mmu_update            of a few entries, in one's own tables or in what is to become one
    update_va_mapping     with or without a flush
    mmuext_op             of a 64-bit guest: another L4 for the kernel, for user mode, or both: a change of address spaces; and a
                          vCPU's own translations dropped, of which the core need not even be told
    vcpu_op               the vCPU's own single-shot timer, at whatever time
    event_channel_op      an event, on a port on which one was sent before

All other forms, and what is not certain, are asked for as ever. Each function gives the hypercall's result, or None.
Source: Xen arch/x86/mm.c.
"""

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.posting import Posting
from domains.cpu.x86.pv.vcpu import X86Vcpu
from hypervisor.machine.paging import PAGE_ACCESSED, PAGE_DIRTY, is_canonical
from hypervisor.public.abi import NATIVE
from hypervisor.public.arch_x86 import xen_x86_32
from hypervisor.public.arch_x86.xen_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from hypervisor.public.event_channel import EVTCHNOP_send, evtchn_send
from hypervisor.public.types import U64
from hypervisor.public.vcpu import VCPUOP_set_singleshot_timer, vcpu_set_singleshot_timer
from hypervisor.public.xen import (
    DOMID_SELF,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_PRESERVE_AD,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_TLB_FLUSH_LOCAL,
    UVMF_ALL,
    UVMF_FLUSHTYPE_MASK,
    UVMF_INVLPG,
    UVMF_TLB_FLUSH,
    Hypercall,
    VMASST_TYPE_m2p_strict,
)
from hypervisor.wire.messages import Post

_REQUEST: Final = struct.Struct("<QQ")
"""struct mmu_update: ptr, val."""
_OPERATION: Final = struct.Struct("<I4xQQ")
"""struct mmuext_op of a 64-bit guest: cmd, arg1, arg2."""
_TIMER: Final = struct.Struct("<QI")
"""struct vcpu_set_singleshot_timer: timeout_abs_ns, flags; a 64-bit guest's ends with 4 bytes that must be there, too."""
PRESERVED: Final = PAGE_ACCESSED | PAGE_DIRTY
FLUSH: Final = int(UVMF_FLUSHTYPE_MASK)
LOCAL: Final = frozenset({MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_INVLPG_LOCAL})
"""Operations that change nothing but this vCPU's own translations."""
M2P_STRICT: Final = 1 << VMASST_TYPE_m2p_strict
MAX_OPERATIONS: Final = 16
"""Of a list; longer ones are the core's."""


def do_mmu_update(v: X86Vcpu, posting: Posting, args: tuple[int, ...]) -> int | None:
    """(requests, count, done, foreigndom)."""
    requests, count, done, foreigndom = args[:4]
    if not 0 < count <= MAX_OPERATIONS or foreigndom != DOMID_SELF:
        return None
    certain: dict[int, tuple[int, int]] = {}
    plain: dict[int, int] = {}
    for ptr, value in _REQUEST.iter_unpack(_read(v, requests, count * _REQUEST.size)):
        command = ptr & 7
        if command not in (MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_PRESERVE_AD):
            return None
        maddr = ptr - command
        written = posting.certain_entry(maddr, value)
        if written is not None:
            certain[maddr] = written, PRESERVED if command else 0
        elif posting.is_plain(maddr):
            plain[maddr] = value
        else:
            return None
    if len(certain) + len(plain) != count:
        return None  # one that is written twice may be certain for what stands there now alone
    for maddr, (written, kept) in certain.items():
        posting.write(maddr, written, kept)
    for maddr, value in plain.items():
        posting.put(maddr, value)
    _tell(v, done, count)
    return 0


def do_update_va_mapping(v: X86Vcpu, posting: Posting, args: tuple[int, ...]) -> int | None:
    """(va, value, flags); a 32-bit guest's value takes two arguments."""
    if v.entry.abi is NATIVE:
        va, value, flags = args[:3]
    else:
        va, value, flags = args[0], args[1] | args[2] << 32, args[3]
    flush, where = flags & FLUSH, flags & ~FLUSH
    if where not in (0, UVMF_ALL) or not is_canonical(va):
        return None
    at = v.paging.l1_entry(va)
    if at < 0 or not posting.entry(at, value):
        return None
    if flush == UVMF_TLB_FLUSH:
        v.paging.invalidate_all()
    elif flush == UVMF_INVLPG:
        v.paging.invalidate(va)
    return 0


def do_mmuext_op(v: X86Vcpu, posting: Posting, args: tuple[int, ...]) -> int | None:
    """(operations, count, done, foreigndom)."""
    operations, count, done, foreigndom = args[:4]
    if not 0 < count <= MAX_OPERATIONS or foreigndom != DOMID_SELF or v.entry.abi is not NATIVE:
        return None
    raw = _read(v, operations, count * _OPERATION.size)
    wanted = list(_OPERATION.iter_unpack(raw))
    if not all(cmd in LOCAL or _may_load(v, posting, cmd, mfn) for cmd, mfn, _ in wanted):
        return None
    for cmd, argument, _ in wanted:
        if cmd == MMUEXT_NEW_BASEPTR:
            v.mode.load_kernel_table(argument)
            posting.loaded(Post.NEW_BASEPTR, argument)
        elif cmd == MMUEXT_NEW_USER_BASEPTR:
            v.mode.load_user_table(argument)
            posting.loaded(Post.NEW_USER_BASEPTR, argument)
        elif cmd == MMUEXT_TLB_FLUSH_LOCAL:
            v.paging.invalidate_all()
        elif is_canonical(argument):
            v.paging.invalidate(argument)
    _tell(v, done, count)
    return 0


def _may_load(v: X86Vcpu, posting: Posting, cmd: int, mfn: int) -> bool:
    """Whether this operation loads a table, and is certain."""
    if v.pv.vm_assist & M2P_STRICT or v.pv.ldt_entries:
        return False
    if cmd == MMUEXT_NEW_BASEPTR:
        return posting.may_load(mfn, v.pv64.kernel_l4) and posting.shows_m2p(mfn)
    return cmd == MMUEXT_NEW_USER_BASEPTR and posting.may_load(mfn, v.pv64.user_l4)


def do_vcpu_op(v: X86Vcpu, posting: Posting, args: tuple[int, ...]) -> int | None:
    """(command, vCPU, argument)."""
    if args[0] != VCPUOP_set_singleshot_timer or args[1] != v.vcpu_id:
        return None
    timeout, flags = _TIMER.unpack_from(_read(v, args[2], v.entry.abi.sizeof(vcpu_set_singleshot_timer)))
    return 0 if not flags and posting.timer(timeout) else None


def do_event_channel_op(v: X86Vcpu, _posting: Posting, args: tuple[int, ...]) -> int | None:
    """(command, argument)."""
    if args[0] != EVTCHNOP_send:
        return None
    port = int.from_bytes(_read(v, args[1], evtchn_send.sizeof), "little")
    return 0 if v.gate.post_event(v.vcpu_id, port) else None


def _read(v: X86Vcpu, va: int, size: int) -> bytes:
    """Arguments. GuestFault: they are not all there, or lie in Xen's range, which the guest may read but not name (H2): there
    lie the M2P's words, which it can choose.
    """
    last = va + size - 1
    if v.entry.abi is NATIVE:
        is_guests = last < HYPERVISOR_VIRT_START or (va >= HYPERVISOR_VIRT_END and last <= U64)
    else:
        is_guests = last < xen_x86_32.HYPERVISOR_VIRT_START
    if not is_guests:
        raise GuestFault(va, 0)
    return v.paging.read(va, size)


def _tell(v: X86Vcpu, done_at: int, done: int) -> None:
    """How many were done, if the guest wants it; as on Xen it does not matter if that fails."""
    if done_at:
        with suppress(GuestFault):
            v.paging.write(done_at, done.to_bytes(4, "little"))


def post(v: X86Vcpu, nr: int, args: tuple[int, ...]) -> int | None:
    """Perform hypercall `nr` here, if its outcome is certain: its result; None: the core must be asked."""
    call = POSTED_CALLS.get(nr)
    if call is None or v.posting is None:
        return None
    try:
        return call(v, v.posting, args)
    except GuestFault:
        return None


POSTED_CALLS: Final[dict[int, Callable[[X86Vcpu, Posting, tuple[int, ...]], int | None]]] = {
    Hypercall.mmu_update: do_mmu_update,
    Hypercall.update_va_mapping: do_update_va_mapping,
    Hypercall.mmuext_op: do_mmuext_op,
    Hypercall.vcpu_op: do_vcpu_op,
    Hypercall.event_channel_op: do_event_channel_op,
}
