"""Memory reservations, the physical-to-machine map, resources: numbers and arguments of memory_op.

Source: Xen public/memory.h.
"""

from enum import IntEnum, IntFlag
from typing import Final

from hypervisor.public.layout import Struct, Union, u16, u32, u64
from hypervisor.public.physdev import physdev_pci_device
from hypervisor.public.types import XEN_GUEST_HANDLE, domid_t, xen_pfn_t, xen_ulong_t


class MemoryOp(IntEnum):
    """First argument of memory_op, bits 0-5; above them, a continued one carries its progress."""

    XENMEM_increase_reservation = 0
    XENMEM_decrease_reservation = 1
    XENMEM_populate_physmap = 6
    XENMEM_exchange = 11
    XENMEM_maximum_ram_page = 2
    XENMEM_current_reservation = 3
    XENMEM_maximum_reservation = 4
    XENMEM_maximum_gpfn = 14
    XENMEM_machphys_mfn_list = 5
    XENMEM_machphys_compat_mfn_list = 25
    XENMEM_machphys_mapping = 12
    XENMEM_add_to_physmap = 7
    XENMEM_add_to_physmap_batch = 23
    XENMEM_remove_from_physmap = 15
    XENMEM_memory_map = 9
    XENMEM_machine_memory_map = 10
    XENMEM_set_memory_map = 13
    XENMEM_set_pod_target = 16
    XENMEM_get_pod_target = 17
    XENMEM_get_sharing_freed_pages = 18
    XENMEM_get_sharing_shared_pages = 19
    XENMEM_paging_op = 20
    XENMEM_access_op = 21
    XENMEM_sharing_op = 22
    XENMEM_claim_pages = 24
    XENMEM_reserved_device_memory_map = 27
    XENMEM_acquire_resource = 28
    XENMEM_get_vnumainfo = 26


(
    XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_populate_physmap,
    XENMEM_exchange, XENMEM_maximum_ram_page, XENMEM_current_reservation,
    XENMEM_maximum_reservation, XENMEM_maximum_gpfn, XENMEM_machphys_mfn_list,
    XENMEM_machphys_compat_mfn_list, XENMEM_machphys_mapping, XENMEM_add_to_physmap,
    XENMEM_add_to_physmap_batch, XENMEM_remove_from_physmap, XENMEM_memory_map,
    XENMEM_machine_memory_map, XENMEM_set_memory_map, XENMEM_set_pod_target, XENMEM_get_pod_target,
    XENMEM_get_sharing_freed_pages, XENMEM_get_sharing_shared_pages, XENMEM_paging_op,
    XENMEM_access_op, XENMEM_sharing_op, XENMEM_claim_pages, XENMEM_reserved_device_memory_map,
    XENMEM_acquire_resource, XENMEM_get_vnumainfo,
) = MemoryOp.__members__.values()  # fmt: skip


class MapSpace(IntEnum):
    """`space` of xen_add_to_physmap: what `idx` is an index into."""

    XENMAPSPACE_shared_info = 0
    XENMAPSPACE_grant_table = 1
    XENMAPSPACE_gmfn = 2
    XENMAPSPACE_gmfn_range = 3
    XENMAPSPACE_gmfn_foreign = 4
    XENMAPSPACE_dev_mmio = 5


(
    XENMAPSPACE_shared_info, XENMAPSPACE_grant_table, XENMAPSPACE_gmfn, XENMAPSPACE_gmfn_range,
    XENMAPSPACE_gmfn_foreign, XENMAPSPACE_dev_mmio,
) = MapSpace.__members__.values()  # fmt: skip


class ReservationFlags(IntFlag):
    """`mem_flags` of xen_memory_reservation; bits 0-7: width of the frames' addresses; 8-15: node + 1."""

    XENMEMF_populate_on_demand = 1 << 16
    XENMEMF_exact_node_request = 1 << 17
    XENMEMF_vnode = 1 << 18


(
    XENMEMF_populate_on_demand, XENMEMF_exact_node_request, XENMEMF_vnode,
) = ReservationFlags.__members__.values()  # fmt: skip


class MemoryResource(IntEnum):
    """`type` of xen_mem_acquire_resource."""

    XENMEM_resource_ioreq_server = 0
    XENMEM_resource_grant_table = 1
    XENMEM_resource_vmtrace_buf = 2


(
    XENMEM_resource_ioreq_server, XENMEM_resource_grant_table, XENMEM_resource_vmtrace_buf,
) = MemoryResource.__members__.values()  # fmt: skip

XENMAPIDX_grant_table_status: Final = 0x80000000
XENMEM_resource_grant_table_id_shared: Final = 0
XENMEM_resource_grant_table_id_status: Final = 1
XENMEM_RDM_ALL: Final = 1


class xen_memory_reservation(Struct, size=32):
    """Frames to take or to give back: increase_, decrease_reservation, populate_physmap."""

    extent_start: XEN_GUEST_HANDLE  # array of frame numbers, IN or OUT by operation
    nr_extents: xen_ulong_t  # IN
    extent_order: u32  # IN: each extent has 1 << order frames
    mem_flags: u32  # IN: XENMEMF_*
    domid: domid_t  # IN


class xen_memory_exchange(Struct, size=72):
    """Give frames back and get others in their place."""

    in_: xen_memory_reservation
    out: xen_memory_reservation
    nr_exchanged: xen_ulong_t  # OUT: frames of `in` that were exchanged


class xen_memory_domain(Struct, size=2):
    """Argument of current_reservation, maximum_reservation, maximum_gpfn."""

    domid: domid_t  # IN


class xen_machphys_mfn_list(Struct, size=24):
    """Where the machine-to-physical table lies: Mfn of each 2 MiB of it."""

    max_extents: u32  # IN
    extent_start: XEN_GUEST_HANDLE  # OUT: array
    nr_extents: u32  # OUT


class xen_machphys_mapping(Struct, size=24):
    """Where Xen maps the machine-to-physical table for the guest."""

    v_start: xen_ulong_t  # OUT
    v_end: xen_ulong_t  # OUT
    max_mfn: xen_ulong_t  # OUT


class xen_add_to_physmap(Struct, size=24):
    """Put a frame of Xen's into a translated guest's map."""

    domid: domid_t  # IN
    size: u16  # IN: for gmfn_range
    space: u32  # IN: XENMAPSPACE_*
    idx: xen_ulong_t  # IN
    gpfn: xen_pfn_t  # IN: where it shall appear


class xen_add_to_physmap_batch_extra(Union, size=2):
    """`u` of xen_add_to_physmap_batch."""

    foreign_domid: domid_t
    res0: u16


class xen_add_to_physmap_batch(Struct, size=32):
    """The same for many."""

    domid: domid_t  # IN
    space: u16  # IN
    size: u16  # IN
    u: xen_add_to_physmap_batch_extra  # IN
    idxs: XEN_GUEST_HANDLE  # IN: array
    gpfns: XEN_GUEST_HANDLE  # IN: array
    errs: XEN_GUEST_HANDLE  # OUT: array of error numbers


class xen_remove_from_physmap(Struct, size=16):
    """Take one frame out of a translated guest's map."""

    domid: domid_t  # IN
    gpfn: xen_pfn_t  # IN


class E820Type(IntEnum):
    """`type` of e820entry."""

    E820_RAM = 1
    E820_RESERVED = 2
    E820_ACPI = 3
    E820_NVS = 4
    E820_UNUSABLE = 5


E820_RAM, E820_RESERVED, E820_ACPI, E820_NVS, E820_UNUSABLE = E820Type.__members__.values()


class e820entry(Struct, size=20, pack=1):
    """One range of a memory map, as the BIOS tells it; Xen's headers only refer to it, xenctrl.h has it."""

    addr: u64
    size: u64
    type: u32  # E820_*


class xen_memory_map(Struct, size=16):
    """The caller's memory map, or the machine's: memory_map, machine_memory_map."""

    nr_entries: u32  # IN: room; OUT: entries
    buffer: XEN_GUEST_HANDLE  # OUT: array of e820entry


class xen_foreign_memory_map(Struct, size=24):
    """The memory map that another domain shall be told."""

    domid: domid_t  # IN
    map: xen_memory_map  # IN


class xen_pod_target(Struct, size=40):
    """Populate-on-demand: how many frames a domain may have."""

    target_pages: u64  # IN
    tot_pages: u64  # OUT
    pod_cache_pages: u64  # OUT
    pod_entries: u64  # OUT
    domid: domid_t  # IN


class xen_reserved_device_memory(Struct, size=16):
    """A range that must stay as it is, for a device."""

    start_pfn: xen_pfn_t
    nr_pages: xen_ulong_t


class xen_reserved_device_memory_map_dev(Union, size=4):
    """`dev` of xen_reserved_device_memory_map."""

    pci: physdev_pci_device


class xen_reserved_device_memory_map(Struct, size=24):
    """Which ranges are reserved for devices."""

    flags: u32  # IN: XENMEM_RDM_ALL
    nr_entries: u32  # IN: room; OUT: entries
    buffer: XEN_GUEST_HANDLE  # OUT
    dev: xen_reserved_device_memory_map_dev


class xen_mem_acquire_resource(Struct, size=32):
    """Map frames that are not in any guest's map, such as a grant table, into the tools."""

    domid: domid_t  # IN
    type: u16  # IN: XENMEM_resource_*
    id: u32  # IN
    nr_frames: u32  # IN; OUT if 0 was given: how many there are
    pad: u32
    frame: u64  # IN: first of them
    frame_list: XEN_GUEST_HANDLE  # OUT (Mfn) for a PV caller, IN for a translated one


class xen_vmemrange(Struct, size=24):
    """One virtual NUMA node's memory."""

    start: u64
    end: u64
    flags: u32
    nid: u32


class xen_vnuma_topology_info_vdistance(Union, size=8):
    """`vdistance` of xen_vnuma_topology_info."""

    h: XEN_GUEST_HANDLE
    pad: u64


class xen_vnuma_topology_info_vcpu_to_vnode(Union, size=8):
    """`vcpu_to_vnode` of xen_vnuma_topology_info."""

    h: XEN_GUEST_HANDLE
    pad: u64


class xen_vnuma_topology_info_vmemrange(Union, size=8):
    """`vmemrange` of xen_vnuma_topology_info."""

    h: XEN_GUEST_HANDLE
    pad: u64


class xen_vnuma_topology_info(Struct, size=40):
    """A guest's virtual NUMA topology."""

    domid: domid_t  # IN
    pad: u16
    nr_vnodes: u32  # IN: room; OUT
    nr_vcpus: u32  # IN: room; OUT
    nr_vmemranges: u32  # IN: room; OUT
    vdistance: xen_vnuma_topology_info_vdistance
    vcpu_to_vnode: xen_vnuma_topology_info_vcpu_to_vnode
    vmemrange: xen_vnuma_topology_info_vmemrange
