"""Control of the machine as a whole by a privileged domain.

Left out is what needs hardware under Xen or concerns its own build: power management, page offlining, cache allocation,
lock profiling, coverage, live patching. Those have their number only. What concerns schedulers and CPUs is in
`sysctl_sched.py`, and is to be imported from here. Source: Xen public/sysctl.h.
"""
# ruff: noqa: F403, F405  (the header is too long for one file; this module shows all of it)

from enum import IntEnum, IntFlag
from typing import Annotated, Final

from hypervisor.public.layout import Struct, Union, i32, u8, u32, u64
from hypervisor.public.sysctl_sched import *
from hypervisor.public.types import XEN_GUEST_HANDLE, domid_t
from hypervisor.public.xen import xenctl_bitmap

XEN_SYSCTL_INTERFACE_VERSION: Final = 0x15  # a caller with another one gets -EACCES


class Sysctl(IntEnum):
    """`cmd` of xen_sysctl."""

    XEN_SYSCTL_readconsole = 1
    XEN_SYSCTL_tbuf_op = 2
    XEN_SYSCTL_physinfo = 3
    XEN_SYSCTL_sched_id = 4
    XEN_SYSCTL_perfc_op = 5
    XEN_SYSCTL_getdomaininfolist = 6
    XEN_SYSCTL_debug_keys = 7
    XEN_SYSCTL_getcpuinfo = 8
    XEN_SYSCTL_availheap = 9
    XEN_SYSCTL_get_pmstat = 10
    XEN_SYSCTL_cpu_hotplug = 11
    XEN_SYSCTL_pm_op = 12
    XEN_SYSCTL_page_offline_op = 14
    XEN_SYSCTL_lockprof_op = 15
    XEN_SYSCTL_cputopoinfo = 16
    XEN_SYSCTL_numainfo = 17
    XEN_SYSCTL_cpupool_op = 18
    XEN_SYSCTL_scheduler_op = 19
    XEN_SYSCTL_coverage_op = 20
    XEN_SYSCTL_psr_cmt_op = 21
    XEN_SYSCTL_pcitopoinfo = 22
    XEN_SYSCTL_psr_alloc = 23
    XEN_SYSCTL_get_cpu_levelling_caps = 25
    XEN_SYSCTL_get_cpu_featureset = 26
    XEN_SYSCTL_livepatch_op = 27
    XEN_SYSCTL_get_cpu_policy = 29


(
    XEN_SYSCTL_readconsole, XEN_SYSCTL_tbuf_op, XEN_SYSCTL_physinfo, XEN_SYSCTL_sched_id,
    XEN_SYSCTL_perfc_op, XEN_SYSCTL_getdomaininfolist, XEN_SYSCTL_debug_keys, XEN_SYSCTL_getcpuinfo,
    XEN_SYSCTL_availheap, XEN_SYSCTL_get_pmstat, XEN_SYSCTL_cpu_hotplug, XEN_SYSCTL_pm_op,
    XEN_SYSCTL_page_offline_op, XEN_SYSCTL_lockprof_op, XEN_SYSCTL_cputopoinfo, XEN_SYSCTL_numainfo,
    XEN_SYSCTL_cpupool_op, XEN_SYSCTL_scheduler_op, XEN_SYSCTL_coverage_op, XEN_SYSCTL_psr_cmt_op,
    XEN_SYSCTL_pcitopoinfo, XEN_SYSCTL_psr_alloc, XEN_SYSCTL_get_cpu_levelling_caps,
    XEN_SYSCTL_get_cpu_featureset, XEN_SYSCTL_livepatch_op, XEN_SYSCTL_get_cpu_policy,
) = Sysctl.__members__.values()  # fmt: skip


class xen_sysctl_readconsole(Struct, size=24):
    """Read Xen's own console ring."""

    clear: u8  # IN: empty it afterwards
    incremental: u8  # IN: begin at `index`, not at the oldest
    pad0: u8
    pad1: u8
    index: u32  # IN and OUT
    buffer: XEN_GUEST_HANDLE  # OUT
    count: u32  # IN: room; OUT: bytes


class TraceBufferOp(IntEnum):
    """`cmd` of xen_sysctl_tbuf_op."""

    XEN_SYSCTL_TBUFOP_get_info = 0
    XEN_SYSCTL_TBUFOP_set_cpu_mask = 1
    XEN_SYSCTL_TBUFOP_set_evt_mask = 2
    XEN_SYSCTL_TBUFOP_set_size = 3
    XEN_SYSCTL_TBUFOP_enable = 4
    XEN_SYSCTL_TBUFOP_disable = 5


(
    XEN_SYSCTL_TBUFOP_get_info, XEN_SYSCTL_TBUFOP_set_cpu_mask, XEN_SYSCTL_TBUFOP_set_evt_mask,
    XEN_SYSCTL_TBUFOP_set_size, XEN_SYSCTL_TBUFOP_enable, XEN_SYSCTL_TBUFOP_disable,
) = TraceBufferOp.__members__.values()  # fmt: skip


class xen_sysctl_tbuf_op(Struct, size=48):
    """Xen's trace buffers."""

    cmd: u32  # IN: XEN_SYSCTL_TBUFOP_*
    cpu_mask: xenctl_bitmap  # IN
    evt_mask: u32  # IN and OUT
    buffer_mfn: u64  # OUT
    size: u32  # IN and OUT: in pages; OUT of get_info in bytes


class PhysicalCapabilities(IntFlag):
    """`capabilities` of xen_sysctl_physinfo."""

    XEN_SYSCTL_PHYSCAP_hvm = 1 << 0
    XEN_SYSCTL_PHYSCAP_pv = 1 << 1
    XEN_SYSCTL_PHYSCAP_directio = 1 << 2
    XEN_SYSCTL_PHYSCAP_hap = 1 << 3
    XEN_SYSCTL_PHYSCAP_shadow = 1 << 4
    XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share = 1 << 5
    XEN_SYSCTL_PHYSCAP_vmtrace = 1 << 6
    XEN_SYSCTL_PHYSCAP_vpmu = 1 << 7
    XEN_SYSCTL_PHYSCAP_gnttab_v1 = 1 << 8
    XEN_SYSCTL_PHYSCAP_gnttab_v2 = 1 << 9


(
    XEN_SYSCTL_PHYSCAP_hvm, XEN_SYSCTL_PHYSCAP_pv, XEN_SYSCTL_PHYSCAP_directio,
    XEN_SYSCTL_PHYSCAP_hap, XEN_SYSCTL_PHYSCAP_shadow, XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share,
    XEN_SYSCTL_PHYSCAP_vmtrace, XEN_SYSCTL_PHYSCAP_vpmu, XEN_SYSCTL_PHYSCAP_gnttab_v1,
    XEN_SYSCTL_PHYSCAP_gnttab_v2,
) = PhysicalCapabilities.__members__.values()  # fmt: skip


class xen_sysctl_physinfo(Struct, size=112):
    """The machine; all OUT."""

    threads_per_core: u32
    cores_per_socket: u32
    nr_cpus: u32
    max_cpu_id: u32
    nr_nodes: u32
    max_node_id: u32
    cpu_khz: u32
    capabilities: u32  # XEN_SYSCTL_PHYSCAP_*
    arch_capabilities: u32
    pad: u32
    total_pages: u64
    free_pages: u64
    scrub_pages: u64
    outstanding_pages: u64
    max_mfn: u64
    hw_cap: Annotated[tuple[u32, ...], 8]  # CPUID feature words


class xen_sysctl_getdomaininfolist(Struct, size=24):
    """Information on many domains."""

    first_domain: domid_t  # IN: this and those above
    max_domains: u32  # IN
    buffer: XEN_GUEST_HANDLE  # OUT: array of xen_domctl_getdomaininfo
    num_domains: u32  # OUT


XEN_SYSCTL_PERFCOP_reset: Final = 1
XEN_SYSCTL_PERFCOP_query: Final = 2


class xen_sysctl_perfc_desc(Struct, size=84):
    """One performance counter: its name, and how many values it has."""

    name: Annotated[bytes, 80]
    nr_vals: u32


class xen_sysctl_perfc_op(Struct, size=32):
    """The performance counters: how many there are, and with buffers, what they are."""

    cmd: u32  # IN: XEN_SYSCTL_PERFCOP_*
    nr_counters: u32  # OUT
    nr_vals: u32  # OUT
    desc: XEN_GUEST_HANDLE  # IN: xen_sysctl_perfc_desc each, or null
    val: XEN_GUEST_HANDLE  # IN: u32 each, or null


class xen_sysctl_debug_keys(Struct, size=16):
    """Press keys on Xen's console."""

    keys: XEN_GUEST_HANDLE  # IN
    nr_keys: u32  # IN


class xen_sysctl_availheap(Struct, size=24):
    """Free memory."""

    min_bitwidth: u32  # IN: address bits, 0: any
    max_bitwidth: u32  # IN
    node: i32  # IN: -1: any
    avail_bytes: u64  # OUT


XEN_INVALID_MEM_SZ: Final = 0xFFFFFFFF
XEN_INVALID_NODE_DIST: Final = 0xFFFFFFFF


class xen_sysctl_meminfo(Struct, size=16):
    """One node's memory."""

    memsize: u64  # bytes
    memfree: u64  # bytes


class xen_sysctl_numainfo(Struct, size=24):
    """Memory nodes."""

    num_nodes: u32  # IN: entries; OUT: nodes (with NULL arrays: how many)
    meminfo: XEN_GUEST_HANDLE  # OUT: array of xen_sysctl_meminfo
    distance: XEN_GUEST_HANDLE  # OUT: num_nodes x num_nodes array of u32


class xen_sysctl_pcitopoinfo(Struct, size=24):
    """Node of each PCI device."""

    num_devs: u32  # IN and OUT
    devs: XEN_GUEST_HANDLE  # IN: array of physdev_pci_device
    nodes: XEN_GUEST_HANDLE  # OUT: array of u32


class xen_sysctl_cpu_levelling_caps(Struct, size=4):
    """Which CPUID leaves the machine can mask."""

    caps: u32  # OUT


class xen_sysctl_cpu_featureset(Struct, size=16):
    """CPU features as bit words."""

    index: u32  # IN: raw, host, pv, hvm, pv_max, hvm_max
    nr_features: u32  # IN and OUT: words
    features: XEN_GUEST_HANDLE  # OUT: array of u32


class CpuPolicy(IntEnum):
    """`index` of xen_sysctl_cpu_policy."""

    XEN_SYSCTL_cpu_policy_raw = 0
    XEN_SYSCTL_cpu_policy_host = 1
    XEN_SYSCTL_cpu_policy_pv_max = 2
    XEN_SYSCTL_cpu_policy_hvm_max = 3
    XEN_SYSCTL_cpu_policy_pv_default = 4
    XEN_SYSCTL_cpu_policy_hvm_default = 5


(
    XEN_SYSCTL_cpu_policy_raw, XEN_SYSCTL_cpu_policy_host, XEN_SYSCTL_cpu_policy_pv_max,
    XEN_SYSCTL_cpu_policy_hvm_max, XEN_SYSCTL_cpu_policy_pv_default,
    XEN_SYSCTL_cpu_policy_hvm_default,
) = CpuPolicy.__members__.values()  # fmt: skip


class xen_sysctl_cpu_policy(Struct, size=32):
    """The CPUID leaves and MSRs that Xen may show."""

    index: u32  # IN: XEN_SYSCTL_cpu_policy_*
    nr_leaves: u32  # IN and OUT
    nr_msrs: u32  # IN and OUT
    _rsvd: u32
    leaves: XEN_GUEST_HANDLE  # OUT: array of xen_cpuid_leaf
    msrs: XEN_GUEST_HANDLE  # OUT: array of xen_msr_entry


class xen_sysctl_u(Union, size=128):
    """`u` of xen_sysctl."""

    readconsole: xen_sysctl_readconsole
    tbuf_op: xen_sysctl_tbuf_op
    physinfo: xen_sysctl_physinfo
    cputopoinfo: xen_sysctl_cputopoinfo
    pcitopoinfo: xen_sysctl_pcitopoinfo
    numainfo: xen_sysctl_numainfo
    sched_id: xen_sysctl_sched_id
    getdomaininfolist: xen_sysctl_getdomaininfolist
    debug_keys: xen_sysctl_debug_keys
    perfc_op: xen_sysctl_perfc_op
    getcpuinfo: xen_sysctl_getcpuinfo
    cpu_hotplug: xen_sysctl_cpu_hotplug
    availheap: xen_sysctl_availheap
    cpupool_op: xen_sysctl_cpupool_op
    scheduler_op: xen_sysctl_scheduler_op
    cpu_levelling_caps: xen_sysctl_cpu_levelling_caps
    cpu_featureset: xen_sysctl_cpu_featureset
    cpu_policy: xen_sysctl_cpu_policy
    pad: Annotated[bytes, 128]


class xen_sysctl(Struct, size=136):
    """Argument of sysctl."""

    cmd: u32  # XEN_SYSCTL_*
    interface_version: u32  # XEN_SYSCTL_INTERFACE_VERSION
    u: xen_sysctl_u
