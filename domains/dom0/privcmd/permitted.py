"""Which hypercalls Dom0 passes on for its user's programs, as they are, with Dom0's privilege.

A toolstack acts on the machine and on other domains. What would change Dom0's own memory, page tables or event channels is
its kernel's business, and refused: EPERM. What no toolstack calls is not passed on: ENOSYS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypervisor.public.domctl import XEN_DOMCTL_hypercall_init, XEN_DOMCTL_set_virq_handler, xen_domctl
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import (
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_reset,
    EVTCHNOP_status,
    evtchn_alloc_unbound,
    evtchn_reset,
)
from hypervisor.public.grant_table import (
    GNTTABOP_get_version,
    GNTTABOP_query_size,
    GNTTABOP_setup_table,
    gnttab_get_version,
    gnttab_query_size,
    gnttab_setup_table,
)
from hypervisor.public.hvm.hvm_op import HVMOP_get_param, HVMOP_set_param, xen_hvm_param
from hypervisor.public.layout import Struct
from hypervisor.public.memory import (
    XENMEM_claim_pages,
    XENMEM_current_reservation,
    XENMEM_decrease_reservation,
    XENMEM_get_sharing_freed_pages,
    XENMEM_get_sharing_shared_pages,
    XENMEM_increase_reservation,
    XENMEM_machphys_mfn_list,
    XENMEM_maximum_gpfn,
    XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation,
    XENMEM_populate_physmap,
    XENMEM_set_memory_map,
    xen_foreign_memory_map,
    xen_memory_reservation,
)
from hypervisor.public.sched import SCHEDOP_remote_shutdown, sched_remote_shutdown
from hypervisor.public.xen import (
    DOMID_SELF,
    MMU_MACHPHYS_UPDATE,
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L2_TABLE,
    MMUEXT_PIN_L3_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_UNPIN_TABLE,
    Hypercall,
    mmu_update,
    mmuext_op,
)

Load = Callable[[int, int], bytes]
"""Reads (address, size) of the window. XenError(EFAULT)."""
Args = Sequence[int]

OPS_MAX: Final = 1024
"""Operations of an array in one call."""
MEMOP_CMD_MASK: Final = 0x3F
PT_TYPE_MASK: Final = 3
"""Bits of an mmu_update's address that say what it is."""

_OWN_DOMCTLS: Final = frozenset((int(XEN_DOMCTL_hypercall_init), int(XEN_DOMCTL_set_virq_handler)))
"""Write to a frame of the domain, or take an interrupt that Dom0's toolstack has bound: not for Dom0."""
_MEMORY_QUESTIONS: Final = frozenset(
    map(
        int,
        (
            *(XENMEM_maximum_ram_page, XENMEM_current_reservation, XENMEM_maximum_reservation),
            *(XENMEM_maximum_gpfn, XENMEM_machphys_mfn_list),
            *(XENMEM_get_sharing_freed_pages, XENMEM_get_sharing_shared_pages),
        ),
    )
)
_OF_MEMORY: Final[dict[int, type[Struct]]] = {
    int(XENMEM_increase_reservation): xen_memory_reservation,
    int(XENMEM_decrease_reservation): xen_memory_reservation,
    int(XENMEM_populate_physmap): xen_memory_reservation,
    int(XENMEM_claim_pages): xen_memory_reservation,
    int(XENMEM_set_memory_map): xen_foreign_memory_map,
}
"""Operations on a domain's memory, which their argument's `domid` names."""
_OF_GRANTS: Final[dict[int, type[Struct]]] = {
    int(GNTTABOP_setup_table): gnttab_setup_table,
    int(GNTTABOP_query_size): gnttab_query_size,
    int(GNTTABOP_get_version): gnttab_get_version,
}
_OF_TABLES: Final = frozenset(
    map(
        int,
        (
            *(MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE),
            *(MMUEXT_UNPIN_TABLE, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE),
        ),
    )
)
"""What mmuext_op does to frames, and not to the calling vCPU."""


def check(nr: int, args: Args, load: Load) -> None:
    """XenError(ENOSYS, EPERM, EFAULT) for what is not passed on. What `load` gives stays as it is until the call is performed."""
    checker = _CHECKS.get(nr)
    if checker is None:
        raise XenError(Errno.ENOSYS, f"hypercall {nr} is not a toolstack's")
    checker(args, load)


def _another(domid: int) -> None:
    """It is not Dom0 that this is about."""
    if domid in (0, DOMID_SELF):
        raise XenError(Errno.EPERM, "that is for Dom0's kernel to do")


def _not_passed_on(what: str) -> XenError:
    return XenError(Errno.ENOSYS, f"{what} is not passed on")


def _nothing_of_its_own(_args: Args, _load: Load) -> None:
    """It cannot name anything of Dom0 that matters to its kernel."""


def _domctl(args: Args, load: Load) -> None:
    op = xen_domctl.unpack(load(args[0], xen_domctl.sizeof))
    if op.cmd in _OWN_DOMCTLS:
        _another(op.domain)


def _memory_op(args: Args, load: Load) -> None:
    cmd = args[0] & MEMOP_CMD_MASK
    if cmd in _MEMORY_QUESTIONS:
        return
    if cmd not in _OF_MEMORY:
        raise _not_passed_on(f"memory_op {cmd}")
    kind = _OF_MEMORY[cmd]
    _another(kind.unpack(load(args[1], kind.sizeof)).domid)  # type: ignore[attr-defined]


def _event_channel_op(args: Args, load: Load) -> None:
    if args[0] == EVTCHNOP_alloc_unbound:
        _another(evtchn_alloc_unbound.unpack(load(args[1], evtchn_alloc_unbound.sizeof)).dom)
    elif args[0] == EVTCHNOP_reset:
        _another(evtchn_reset.unpack(load(args[1], evtchn_reset.sizeof)).dom)
    elif args[0] != EVTCHNOP_status:
        raise _not_passed_on(f"event_channel_op {args[0]}")


def _grant_table_op(args: Args, load: Load) -> None:
    kind = _OF_GRANTS.get(args[0])
    if kind is None:
        raise _not_passed_on(f"grant_table_op {args[0]}")
    for at in _array(args[1], args[2], kind.sizeof):
        _another(kind.unpack(load(at, kind.sizeof)).dom)  # type: ignore[attr-defined]


def _mmuext_op(args: Args, load: Load) -> None:
    _another(args[3])
    for at in _array(args[0], args[1], mmuext_op.sizeof):
        cmd = mmuext_op.unpack(load(at, mmuext_op.sizeof)).cmd
        if cmd not in _OF_TABLES:
            raise _not_passed_on(f"mmuext_op {cmd}")


def _mmu_update(args: Args, load: Load) -> None:
    """Entries of the M2P alone: whose page tables an entry is in would be hard to say here."""
    _another(args[3])
    for at in _array(args[0], args[1], mmu_update.sizeof):
        if mmu_update.unpack(load(at, mmu_update.sizeof)).ptr & PT_TYPE_MASK != MMU_MACHPHYS_UPDATE:
            raise _not_passed_on("an update of a page table")


def _hvm_op(args: Args, load: Load) -> None:
    if args[0] not in (HVMOP_get_param, HVMOP_set_param):
        raise _not_passed_on(f"hvm_op {args[0]}")
    _another(xen_hvm_param.unpack(load(args[1], xen_hvm_param.sizeof)).domid)


def _sched_op(args: Args, load: Load) -> None:
    if args[0] != SCHEDOP_remote_shutdown:
        raise _not_passed_on(f"sched_op {args[0]}")
    _another(sched_remote_shutdown.unpack(load(args[1], sched_remote_shutdown.sizeof)).domain_id)


def _array(at: int, count: int, size: int) -> range:
    """Where the records of an array lie. XenError(E2BIG)."""
    if count > OPS_MAX:
        raise XenError(Errno.E2BIG, f"{count} operations in one call")
    return range(at, at + count * size, size)


_CHECKS: Final[dict[int, Callable[[Args, Load], None]]] = {
    int(Hypercall.xen_version): _nothing_of_its_own,
    int(Hypercall.sysctl): _nothing_of_its_own,
    int(Hypercall.platform_op): _nothing_of_its_own,
    int(Hypercall.xsm_op): _nothing_of_its_own,
    int(Hypercall.hypfs_op): _nothing_of_its_own,
    int(Hypercall.domctl): _domctl,
    int(Hypercall.memory_op): _memory_op,
    int(Hypercall.event_channel_op): _event_channel_op,
    int(Hypercall.grant_table_op): _grant_table_op,
    int(Hypercall.mmuext_op): _mmuext_op,
    int(Hypercall.mmu_update): _mmu_update,
    int(Hypercall.hvm_op): _hvm_op,
    int(Hypercall.sched_op): _sched_op,
}
