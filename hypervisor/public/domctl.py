"""Control of one domain by a privileged one: the operations and their common argument.

The structures in the union are in `domctl_domain.py` and `domctl_vcpu.py`, and are to be imported from here.
Operations whose structure is left out have their number only. Source: Xen public/domctl.h.
"""
# ruff: noqa: F403, F405  (the header is too long for one file; this module shows all of it)

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.domctl_domain import *
from hypervisor.public.domctl_vcpu import *
from hypervisor.public.layout import Struct, Union, u16, u32
from hypervisor.public.types import domid_t

XEN_DOMCTL_INTERFACE_VERSION: Final = 0x15  # a caller with another one gets -EACCES


class Domctl(IntEnum):
    """`cmd` of xen_domctl."""

    XEN_DOMCTL_createdomain = 1
    XEN_DOMCTL_destroydomain = 2
    XEN_DOMCTL_pausedomain = 3
    XEN_DOMCTL_unpausedomain = 4
    XEN_DOMCTL_getdomaininfo = 5
    XEN_DOMCTL_setvcpuaffinity = 9
    XEN_DOMCTL_shadow_op = 10
    XEN_DOMCTL_max_mem = 11
    XEN_DOMCTL_setvcpucontext = 12
    XEN_DOMCTL_getvcpucontext = 13
    XEN_DOMCTL_getvcpuinfo = 14
    XEN_DOMCTL_max_vcpus = 15
    XEN_DOMCTL_scheduler_op = 16
    XEN_DOMCTL_setdomainhandle = 17
    XEN_DOMCTL_setdebugging = 18
    XEN_DOMCTL_irq_permission = 19
    XEN_DOMCTL_iomem_permission = 20
    XEN_DOMCTL_ioport_permission = 21
    XEN_DOMCTL_hypercall_init = 22
    XEN_DOMCTL_settimeoffset = 24
    XEN_DOMCTL_getvcpuaffinity = 25
    XEN_DOMCTL_real_mode_area = 26
    XEN_DOMCTL_resumedomain = 27
    XEN_DOMCTL_sendtrigger = 28
    XEN_DOMCTL_subscribe = 29
    XEN_DOMCTL_gethvmcontext = 33
    XEN_DOMCTL_sethvmcontext = 34
    XEN_DOMCTL_set_address_size = 35
    XEN_DOMCTL_get_address_size = 36
    XEN_DOMCTL_assign_device = 37
    XEN_DOMCTL_bind_pt_irq = 38
    XEN_DOMCTL_memory_mapping = 39
    XEN_DOMCTL_ioport_mapping = 40
    XEN_DOMCTL_set_ext_vcpucontext = 42
    XEN_DOMCTL_get_ext_vcpucontext = 43
    XEN_DOMCTL_set_opt_feature = 44
    XEN_DOMCTL_test_assign_device = 45
    XEN_DOMCTL_set_target = 46
    XEN_DOMCTL_deassign_device = 47
    XEN_DOMCTL_unbind_pt_irq = 48
    XEN_DOMCTL_get_device_group = 50
    XEN_DOMCTL_debug_op = 54
    XEN_DOMCTL_gethvmcontext_partial = 55
    XEN_DOMCTL_vm_event_op = 56
    XEN_DOMCTL_mem_sharing_op = 57
    XEN_DOMCTL_gettscinfo = 59
    XEN_DOMCTL_settscinfo = 60
    XEN_DOMCTL_getpageframeinfo3 = 61
    XEN_DOMCTL_setvcpuextstate = 62
    XEN_DOMCTL_getvcpuextstate = 63
    XEN_DOMCTL_set_access_required = 64
    XEN_DOMCTL_audit_p2m = 65
    XEN_DOMCTL_set_virq_handler = 66
    XEN_DOMCTL_set_broken_page_p2m = 67
    XEN_DOMCTL_setnodeaffinity = 68
    XEN_DOMCTL_getnodeaffinity = 69
    XEN_DOMCTL_cacheflush = 71
    XEN_DOMCTL_get_vcpu_msrs = 72
    XEN_DOMCTL_set_vcpu_msrs = 73
    XEN_DOMCTL_setvnumainfo = 74
    XEN_DOMCTL_psr_cmt_op = 75
    XEN_DOMCTL_monitor_op = 77
    XEN_DOMCTL_psr_alloc = 78
    XEN_DOMCTL_soft_reset = 79
    XEN_DOMCTL_vuart_op = 81
    XEN_DOMCTL_get_cpu_policy = 82
    XEN_DOMCTL_set_cpu_policy = 83
    XEN_DOMCTL_get_paging_mempool_size = 85
    XEN_DOMCTL_set_paging_mempool_size = 86
    XEN_DOMCTL_gdbsx_guestmemio = 1000
    XEN_DOMCTL_gdbsx_pausevcpu = 1001
    XEN_DOMCTL_gdbsx_unpausevcpu = 1002
    XEN_DOMCTL_gdbsx_domstatus = 1003


(
    XEN_DOMCTL_createdomain, XEN_DOMCTL_destroydomain, XEN_DOMCTL_pausedomain,
    XEN_DOMCTL_unpausedomain, XEN_DOMCTL_getdomaininfo, XEN_DOMCTL_setvcpuaffinity,
    XEN_DOMCTL_shadow_op, XEN_DOMCTL_max_mem, XEN_DOMCTL_setvcpucontext, XEN_DOMCTL_getvcpucontext,
    XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_max_vcpus, XEN_DOMCTL_scheduler_op,
    XEN_DOMCTL_setdomainhandle, XEN_DOMCTL_setdebugging, XEN_DOMCTL_irq_permission,
    XEN_DOMCTL_iomem_permission, XEN_DOMCTL_ioport_permission, XEN_DOMCTL_hypercall_init,
    XEN_DOMCTL_settimeoffset, XEN_DOMCTL_getvcpuaffinity, XEN_DOMCTL_real_mode_area,
    XEN_DOMCTL_resumedomain, XEN_DOMCTL_sendtrigger, XEN_DOMCTL_subscribe, XEN_DOMCTL_gethvmcontext,
    XEN_DOMCTL_sethvmcontext, XEN_DOMCTL_set_address_size, XEN_DOMCTL_get_address_size,
    XEN_DOMCTL_assign_device, XEN_DOMCTL_bind_pt_irq, XEN_DOMCTL_memory_mapping,
    XEN_DOMCTL_ioport_mapping, XEN_DOMCTL_set_ext_vcpucontext, XEN_DOMCTL_get_ext_vcpucontext,
    XEN_DOMCTL_set_opt_feature, XEN_DOMCTL_test_assign_device, XEN_DOMCTL_set_target,
    XEN_DOMCTL_deassign_device, XEN_DOMCTL_unbind_pt_irq, XEN_DOMCTL_get_device_group,
    XEN_DOMCTL_debug_op, XEN_DOMCTL_gethvmcontext_partial, XEN_DOMCTL_vm_event_op,
    XEN_DOMCTL_mem_sharing_op, XEN_DOMCTL_gettscinfo, XEN_DOMCTL_settscinfo,
    XEN_DOMCTL_getpageframeinfo3, XEN_DOMCTL_setvcpuextstate, XEN_DOMCTL_getvcpuextstate,
    XEN_DOMCTL_set_access_required, XEN_DOMCTL_audit_p2m, XEN_DOMCTL_set_virq_handler,
    XEN_DOMCTL_set_broken_page_p2m, XEN_DOMCTL_setnodeaffinity, XEN_DOMCTL_getnodeaffinity,
    XEN_DOMCTL_cacheflush, XEN_DOMCTL_get_vcpu_msrs, XEN_DOMCTL_set_vcpu_msrs,
    XEN_DOMCTL_setvnumainfo, XEN_DOMCTL_psr_cmt_op, XEN_DOMCTL_monitor_op, XEN_DOMCTL_psr_alloc,
    XEN_DOMCTL_soft_reset, XEN_DOMCTL_vuart_op, XEN_DOMCTL_get_cpu_policy,
    XEN_DOMCTL_set_cpu_policy, XEN_DOMCTL_get_paging_mempool_size,
    XEN_DOMCTL_set_paging_mempool_size, XEN_DOMCTL_gdbsx_guestmemio, XEN_DOMCTL_gdbsx_pausevcpu,
    XEN_DOMCTL_gdbsx_unpausevcpu, XEN_DOMCTL_gdbsx_domstatus,
) = Domctl.__members__.values()  # fmt: skip


class xen_domctl_u(Union, size=128):
    """`u` of xen_domctl."""

    createdomain: xen_domctl_createdomain
    getdomaininfo: xen_domctl_getdomaininfo
    getpageframeinfo3: xen_domctl_getpageframeinfo3
    nodeaffinity: xen_domctl_nodeaffinity
    vcpuaffinity: xen_domctl_vcpuaffinity
    shadow_op: xen_domctl_shadow_op
    max_mem: xen_domctl_max_mem
    vcpucontext: xen_domctl_vcpucontext
    getvcpuinfo: xen_domctl_getvcpuinfo
    max_vcpus: xen_domctl_max_vcpus
    scheduler_op: xen_domctl_scheduler_op
    setdomainhandle: xen_domctl_setdomainhandle
    setdebugging: xen_domctl_setdebugging
    irq_permission: xen_domctl_irq_permission
    iomem_permission: xen_domctl_iomem_permission
    ioport_permission: xen_domctl_ioport_permission
    hypercall_init: xen_domctl_hypercall_init
    settimeoffset: xen_domctl_settimeoffset
    tsc_info: xen_domctl_tsc_info
    hvmcontext: xen_domctl_hvmcontext
    hvmcontext_partial: xen_domctl_hvmcontext_partial
    address_size: xen_domctl_address_size
    sendtrigger: xen_domctl_sendtrigger
    ext_vcpucontext: xen_domctl_ext_vcpucontext
    set_target: xen_domctl_set_target
    subscribe: xen_domctl_subscribe
    debug_op: xen_domctl_debug_op
    cpu_policy: xen_domctl_cpu_policy
    vcpuextstate: xen_domctl_vcpuextstate
    vcpu_msrs: xen_domctl_vcpu_msrs
    access_required: xen_domctl_set_access_required
    set_virq_handler: xen_domctl_set_virq_handler
    gdbsx_guest_memio: xen_domctl_gdbsx_memio
    cacheflush: xen_domctl_cacheflush
    gdbsx_pauseunp_vcpu: xen_domctl_gdbsx_pauseunp_vcpu
    gdbsx_domstatus: xen_domctl_gdbsx_domstatus
    vnuma: xen_domctl_vnuma
    paging_mempool: xen_domctl_paging_mempool
    pad: Annotated[bytes, 128]


class xen_domctl(Struct, size=144):
    """Argument of domctl."""

    cmd: u32  # XEN_DOMCTL_*
    interface_version: u32  # XEN_DOMCTL_INTERFACE_VERSION
    domain: domid_t  # which one; OUT for createdomain and getdomaininfo
    _pad: Annotated[tuple[u16, ...], 3]
    u: xen_domctl_u
