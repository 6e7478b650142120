"""memory_op: reservations, exchange, maps and limits (Xen common/memory.c, arch/x86/mm.c).

    cmd:  bits 0-5 XENMEM_*      bits 6… extents done before, in a continuation of a list operation

What is not here is ENOSYS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.hypercalls import memory_exchange, memory_lists, memory_maps, memory_physmap
from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.memory_lists import MEMOP_EXTENT_SHIFT
from hypervisor.hypercalls.memory_subject import subject
from hypervisor.mm.layout import NR_FRAMES
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.memory import (
    XENMEM_add_to_physmap,
    XENMEM_add_to_physmap_batch,
    XENMEM_current_reservation,
    XENMEM_decrease_reservation,
    XENMEM_exchange,
    XENMEM_get_pod_target,
    XENMEM_get_sharing_freed_pages,
    XENMEM_get_sharing_shared_pages,
    XENMEM_get_vnumainfo,
    XENMEM_increase_reservation,
    XENMEM_machine_memory_map,
    XENMEM_machphys_mapping,
    XENMEM_machphys_mfn_list,
    XENMEM_maximum_gpfn,
    XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation,
    XENMEM_memory_map,
    XENMEM_populate_physmap,
    XENMEM_remove_from_physmap,
    XENMEM_set_memory_map,
    XENMEM_set_pod_target,
    xen_memory_domain,
    xen_pod_target,
    xen_vnuma_topology_info,
)
from hypervisor.public.xen import shared_info

_CMD_MASK: Final = (1 << MEMOP_EXTENT_SHIFT) - 1


def do_memory_op(call: Call) -> Result:
    """(cmd, argument)."""
    cmd, arg = call.args[:2]
    start = cmd >> MEMOP_EXTENT_SHIFT
    operation = OPERATIONS.get(cmd & _CMD_MASK)
    if operation is None or (call.domain.is_hvm and operation is memory_maps.machphys_mapping):
        raise XenError(Errno.ENOSYS, f"memory_op {cmd & _CMD_MASK}")
    if start and operation not in _CONTINUABLE:
        raise XenError(Errno.EINVAL, "memory_op continued where nothing can be")
    return operation(call, arg, start)


def maximum_ram_page(call: Call, arg: int, start: int) -> Result:
    """The number of frames in the machine's address space."""
    return NR_FRAMES


def current_reservation(call: Call, arg: int, start: int) -> Result:
    """How many frames a domain has."""
    return subject(call, call.read(arg, xen_memory_domain).domid).mem.tot_pages


def maximum_reservation(call: Call, arg: int, start: int) -> Result:
    """How many frames a domain may have."""
    return subject(call, call.read(arg, xen_memory_domain).domid).mem.max_pages


def maximum_gpfn(call: Call, arg: int, start: int) -> Result:
    """The largest PFN: of a translated domain as its P2M says, else as the guest itself says in its shared_info."""
    domain = subject(call, call.read(arg, xen_memory_domain).domid)
    if domain.mem.p2m is not None:
        return domain.mem.p2m.max_gfn
    at = (domain.shared_info << 12) + domain.abi.layout(shared_info).offsetof("arch.max_pfn")
    return max(int.from_bytes(call.hv.memory.read(at, domain.abi.word), "little"), 1) - 1


def pod_target(call: Call, arg: int, start: int) -> Result:
    """EINVAL: no domain is populated on demand."""
    domain = subject(call, call.read(arg, xen_pod_target).domid)
    raise XenError(Errno.EINVAL, f"d{domain.domid} is not populated on demand")


def sharing_pages(call: Call, arg: int, start: int) -> Result:
    """Frames that sharing saved, or shares: none."""
    return 0


def get_vnumainfo(call: Call, arg: int, start: int) -> Result:
    """EOPNOTSUPP: no domain has a virtual NUMA topology."""
    request = call.read(arg, xen_vnuma_topology_info)
    if request.pad:
        raise XenError(Errno.EINVAL, "padding is not zero")
    raise XenError(Errno.EOPNOTSUPP, f"d{subject(call, request.domid).domid} has no virtual NUMA topology")


Operation = Callable[[Call, int, int], Result]

OPERATIONS: Final[dict[int, Operation]] = {
    XENMEM_increase_reservation: memory_lists.increase_reservation,
    XENMEM_decrease_reservation: memory_lists.decrease_reservation,
    XENMEM_populate_physmap: memory_lists.populate_physmap,
    XENMEM_exchange: memory_exchange.exchange,
    XENMEM_maximum_ram_page: maximum_ram_page,
    XENMEM_current_reservation: current_reservation,
    XENMEM_maximum_reservation: maximum_reservation,
    XENMEM_maximum_gpfn: maximum_gpfn,
    XENMEM_machphys_mfn_list: memory_maps.machphys_mfn_list,
    XENMEM_machphys_mapping: memory_maps.machphys_mapping,
    XENMEM_memory_map: memory_maps.memory_map,
    XENMEM_set_memory_map: memory_maps.set_memory_map,
    XENMEM_machine_memory_map: memory_maps.machine_memory_map,
    XENMEM_add_to_physmap: memory_physmap.add_to_physmap,
    XENMEM_add_to_physmap_batch: memory_physmap.add_to_physmap_batch,
    XENMEM_remove_from_physmap: memory_physmap.remove_from_physmap,
    XENMEM_set_pod_target: pod_target,
    XENMEM_get_pod_target: pod_target,
    XENMEM_get_sharing_freed_pages: sharing_pages,
    XENMEM_get_sharing_shared_pages: sharing_pages,
    XENMEM_get_vnumainfo: get_vnumainfo,
}
_CONTINUABLE: Final = (
    memory_lists.increase_reservation,
    memory_lists.decrease_reservation,
    memory_lists.populate_physmap,
    memory_physmap.add_to_physmap,
    memory_physmap.add_to_physmap_batch,
)
