"""Arms of xen_domctl that concern a domain as a whole: its creation, state, memory, permissions.

Import them from `hypervisor.public.domctl`, the header they belong to. Left out, as in `domctl_vcpu.py`, is
what needs hardware under Xen or an HVM guest: device assignment, memory and I/O port mapping, monitor and
vm_event, memory sharing, cache allocation, virtual UART, hardware trace. Source: Xen public/domctl.h.
"""

from enum import IntEnum, IntFlag
from typing import Annotated, Final

from hypervisor.public.arch_x86.xen import xen_arch_domainconfig
from hypervisor.public.layout import Struct, i32, i64, u8, u16, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE, domid_t, xen_domain_handle_t, xen_pfn_t
from hypervisor.public.xen import xenctl_bitmap


class CreateDomainFlags(IntFlag):
    """`flags` of xen_domctl_createdomain."""

    XEN_DOMCTL_CDF_hvm = 1 << 0
    XEN_DOMCTL_CDF_hap = 1 << 1
    XEN_DOMCTL_CDF_s3_integrity = 1 << 2
    XEN_DOMCTL_CDF_oos_off = 1 << 3
    XEN_DOMCTL_CDF_xs_domain = 1 << 4
    XEN_DOMCTL_CDF_iommu = 1 << 5
    XEN_DOMCTL_CDF_nested_virt = 1 << 6
    XEN_DOMCTL_CDF_vpmu = 1 << 7


(
    XEN_DOMCTL_CDF_hvm, XEN_DOMCTL_CDF_hap, XEN_DOMCTL_CDF_s3_integrity, XEN_DOMCTL_CDF_oos_off,
    XEN_DOMCTL_CDF_xs_domain, XEN_DOMCTL_CDF_iommu, XEN_DOMCTL_CDF_nested_virt, XEN_DOMCTL_CDF_vpmu,
) = CreateDomainFlags.__members__.values()  # fmt: skip

XENOSCOPE_CDF_python: Final = 1 << 31
"""A flag of this project, beside Xen's: the domain's process runs the guest that is a Python class, not machine code."""

XEN_DOMCTL_GRANT_version_mask: Final = 15


class xen_domctl_createdomain(Struct, size=64):
    """A domain without vCPUs or memory; its id is `domain` of xen_domctl, IN (taken: Xen chooses) and OUT."""

    ssidref: u32  # IN: security label
    handle: xen_domain_handle_t  # IN: UUID
    flags: u32  # IN: XEN_DOMCTL_CDF_*
    iommu_opts: u32
    max_vcpus: u32  # IN
    max_evtchn_port: u32  # IN: highest port it may use
    max_grant_frames: i32  # IN: negative: default
    max_maptrack_frames: i32  # IN: negative: default
    grant_opts: u32  # IN: highest grant table version
    vmtrace_size: u32  # IN: bytes per vCPU, 0: none
    cpupool_id: u32  # IN
    arch: xen_arch_domainconfig  # IN


class DomainInfoFlags(IntFlag):
    """`flags` of xen_domctl_getdomaininfo, low half."""

    XEN_DOMINF_dying = 1 << 0
    XEN_DOMINF_hvm_guest = 1 << 1
    XEN_DOMINF_shutdown = 1 << 2
    XEN_DOMINF_paused = 1 << 3
    XEN_DOMINF_blocked = 1 << 4
    XEN_DOMINF_running = 1 << 5
    XEN_DOMINF_debugged = 1 << 6
    XEN_DOMINF_xs_domain = 1 << 7
    XEN_DOMINF_hap = 1 << 8


(
    XEN_DOMINF_dying, XEN_DOMINF_hvm_guest, XEN_DOMINF_shutdown, XEN_DOMINF_paused,
    XEN_DOMINF_blocked, XEN_DOMINF_running, XEN_DOMINF_debugged, XEN_DOMINF_xs_domain,
    XEN_DOMINF_hap,
) = DomainInfoFlags.__members__.values()  # fmt: skip

XEN_DOMINF_shutdownmask: Final = 255  # SHUTDOWN_* lies in `flags` at that place
XEN_DOMINF_shutdownshift: Final = 16  # SHUTDOWN_* lies in `flags` at that place
XEN_INVALID_MAX_VCPU_ID: Final = 0xFFFFFFFF


class xen_domctl_getdomaininfo(Struct, size=112):
    """State of the first domain whose id is at least `domain` of xen_domctl; all OUT."""

    domain: domid_t
    pad1: u16
    flags: u32  # XEN_DOMINF_*
    tot_pages: u64
    max_pages: u64
    outstanding_pages: u64  # claimed, not yet given
    shr_pages: u64
    paged_pages: u64
    shared_info_frame: u64  # gmfn: Mfn for a PV guest
    cpu_time: u64  # ns
    nr_online_vcpus: u32
    max_vcpu_id: u32  # highest vCPU there is
    ssidref: u32
    handle: xen_domain_handle_t
    cpupool: u32
    gpaddr_bits: u8
    pad2: Annotated[bytes, 7]  # Xen's padding; this project puts the pid of the domain's host process there
    arch_config: xen_arch_domainconfig


class PageFrameInfo(IntFlag):
    """What getpageframeinfo3 puts in place of a frame number: pinned or not, and the type as a number."""

    XEN_DOMCTL_PFINFO_NOTAB = 0
    XEN_DOMCTL_PFINFO_L1TAB = 1 << 28
    XEN_DOMCTL_PFINFO_L2TAB = 1 << 29
    XEN_DOMCTL_PFINFO_L3TAB = 0x30000000
    XEN_DOMCTL_PFINFO_L4TAB = 1 << 30
    XEN_DOMCTL_PFINFO_LTABTYPE_MASK = 0x70000000
    XEN_DOMCTL_PFINFO_LPINTAB = 1 << 31
    XEN_DOMCTL_PFINFO_XTAB = 0xF0000000
    XEN_DOMCTL_PFINFO_XALLOC = 0xE0000000
    XEN_DOMCTL_PFINFO_BROKEN = 0xD0000000
    XEN_DOMCTL_PFINFO_LTAB_MASK = 0xF0000000


(
    XEN_DOMCTL_PFINFO_NOTAB, XEN_DOMCTL_PFINFO_L1TAB, XEN_DOMCTL_PFINFO_L2TAB,
    XEN_DOMCTL_PFINFO_L3TAB, XEN_DOMCTL_PFINFO_L4TAB, XEN_DOMCTL_PFINFO_LTABTYPE_MASK,
    XEN_DOMCTL_PFINFO_LPINTAB, XEN_DOMCTL_PFINFO_XTAB, XEN_DOMCTL_PFINFO_XALLOC,
    XEN_DOMCTL_PFINFO_BROKEN, XEN_DOMCTL_PFINFO_LTAB_MASK,
) = PageFrameInfo.__members__.values()  # fmt: skip

XEN_DOMCTL_PFINFO_LTAB_SHIFT: Final = 28


class xen_domctl_getpageframeinfo3(Struct, size=16):
    """Types of an array of frames, replaced in place."""

    num: u64  # IN
    array: XEN_GUEST_HANDLE  # type: ignore[assignment]  # IN and OUT: array of xen_pfn_t


class ShadowOp(IntEnum):
    """`op` of xen_domctl_shadow_op; for a PV guest, log-dirty mode."""

    XEN_DOMCTL_SHADOW_OP_OFF = 0
    XEN_DOMCTL_SHADOW_OP_ENABLE = 32
    XEN_DOMCTL_SHADOW_OP_CLEAN = 11
    XEN_DOMCTL_SHADOW_OP_PEEK = 12
    XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION = 30
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION = 31
    XEN_DOMCTL_SHADOW_OP_ENABLE_TEST = 1
    XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY = 2


(
    XEN_DOMCTL_SHADOW_OP_OFF, XEN_DOMCTL_SHADOW_OP_ENABLE, XEN_DOMCTL_SHADOW_OP_CLEAN,
    XEN_DOMCTL_SHADOW_OP_PEEK, XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
    XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION, XEN_DOMCTL_SHADOW_OP_ENABLE_TEST,
    XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY,
) = ShadowOp.__members__.values()  # fmt: skip


class xen_domctl_shadow_op_stats(Struct, size=8):
    """How much was dirtied since the last CLEAN."""

    fault_count: u32
    dirty_count: u32


class xen_domctl_shadow_op(Struct, size=40):
    """Log-dirty mode and the shadow pool."""

    op: u32  # IN: XEN_DOMCTL_SHADOW_OP_*
    mode: u32  # IN: flags of ENABLE and CLEAN
    mb: u32  # IN or OUT: allocation in MiB
    dirty_bitmap: XEN_GUEST_HANDLE  # OUT: one bit per Pfn
    pages: u64  # IN: size of the bitmap; OUT: pages
    stats: xen_domctl_shadow_op_stats  # OUT


class xen_domctl_max_mem(Struct, size=8):
    """Limit of a domain's memory."""

    max_memkb: u64  # IN: KiB


class xen_domctl_nodeaffinity(Struct, size=16):
    """Which nodes memory comes from."""

    nodemap: xenctl_bitmap  # IN or OUT


class xen_domctl_setdomainhandle(Struct, size=16):
    """Set a domain's UUID."""

    handle: xen_domain_handle_t  # IN


class xen_domctl_setdebugging(Struct, size=1):
    """Let a debugger have the domain's traps."""

    enable: u8  # IN


class xen_domctl_irq_permission(Struct, size=8):
    """Whether a domain may use an interrupt."""

    pirq: u32  # IN
    allow_access: u8  # IN
    pad: Annotated[bytes, 3]


class xen_domctl_iomem_permission(Struct, size=24):
    """Whether a domain may map a range of I/O memory."""

    first_mfn: u64  # IN
    nr_mfns: u64  # IN
    allow_access: u8  # IN


class xen_domctl_ioport_permission(Struct, size=12):
    """Whether a domain may use a range of I/O ports."""

    first_port: u32  # IN
    nr_ports: u32  # IN
    allow_access: u8  # IN


class xen_domctl_hypercall_init(Struct, size=8):
    """Write the hypercall page."""

    gmfn: u64  # IN: where


class xen_domctl_settimeoffset(Struct, size=8):
    """How far a domain's wall clock is from the machine's."""

    time_offset_seconds: i64  # IN


class xen_domctl_hvmcontext(Struct, size=16):
    """gethvmcontext, sethvmcontext; an error for PV guests."""

    size: u32  # IN and OUT
    buffer: XEN_GUEST_HANDLE  # IN or OUT


class xen_domctl_hvmcontext_partial(Struct, size=24):
    """gethvmcontext_partial: one record's content."""

    type: u32  # IN: HVM_SAVE_CODE_*
    instance: u32  # IN: which vCPU
    bufsz: u64  # IN: bytes of room; OUT: the record's length
    buffer: XEN_GUEST_HANDLE  # OUT; 0 asks for the length alone


class xen_domctl_address_size(Struct, size=4):
    """set_address_size, get_address_size."""

    size: u32  # 32 or 64


class xen_domctl_set_target(Struct, size=2):
    """Which domain a stub domain serves."""

    target: domid_t  # IN


class xen_domctl_subscribe(Struct, size=4):
    """Port that is raised when the domain is suspended."""

    port: u32  # IN: of the caller


class xen_domctl_set_virq_handler(Struct, size=4):
    """Which domain gets a global VIRQ."""

    virq: u32  # IN


class xen_domctl_set_access_required(Struct, size=1):
    """Whether a domain must have a memory listener."""

    access_required: u8  # IN


class xen_domctl_cacheflush(Struct, size=16):
    """Flush caches of a range of frames; for ARM."""

    start_pfn: xen_pfn_t  # IN
    nr_pfns: xen_pfn_t  # IN


class xen_domctl_paging_mempool(Struct, size=8):
    """get_, set_paging_mempool_size."""

    size: u64  # bytes


class xen_domctl_vnuma(Struct, size=48):
    """Set a domain's virtual NUMA topology; all IN."""

    nr_vnodes: u32
    nr_vmemranges: u32
    nr_vcpus: u32
    pad: u32
    vdistance: XEN_GUEST_HANDLE
    vcpu_to_vnode: XEN_GUEST_HANDLE
    vnode_to_pnode: XEN_GUEST_HANDLE
    vmemrange: XEN_GUEST_HANDLE
