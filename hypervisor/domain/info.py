"""What the control domain may know of a domain: xen_domctl_getdomaininfo."""

from __future__ import annotations

from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.public.domctl import (
    XEN_DOMINF_blocked,
    XEN_DOMINF_dying,
    XEN_DOMINF_hap,
    XEN_DOMINF_hvm_guest,
    XEN_DOMINF_paused,
    XEN_DOMINF_running,
    XEN_DOMINF_shutdown,
    XEN_DOMINF_shutdownshift,
    xen_domctl_getdomaininfo,
)
from hypervisor.public.vcpu import RunState


def domain_flags(domain: Domain) -> int:
    """XEN_DOMINF_*; a dying domain whose last frames are held by others counts as dying, not shut down."""
    flags = 0
    if domain.life is not Life.ALIVE:
        flags |= XEN_DOMINF_dying
    if domain.is_hvm:
        flags |= XEN_DOMINF_hvm_guest | (0 if domain.is_shadowed else XEN_DOMINF_hap)
    if domain.is_shut_down:
        flags |= XEN_DOMINF_shutdown
    flags |= (domain.shutdown_code or 0) << XEN_DOMINF_shutdownshift
    if domain.paused:
        flags |= XEN_DOMINF_paused
    states = [vcpu.unit.runstate.state for vcpu in domain.vcpus if vcpu.up]
    if RunState.RUNSTATE_running in states:
        flags |= XEN_DOMINF_running
    elif states and all(state is RunState.RUNSTATE_blocked for state in states):
        flags |= XEN_DOMINF_blocked
    return flags


def domain_info(hv: Hypervisor, domain: Domain) -> xen_domctl_getdomaininfo:
    """The record of one domain as it is now; CPU time in ns."""
    now = hv.now()
    running = int(RunState.RUNSTATE_running)
    return xen_domctl_getdomaininfo(
        domain=domain.domid,
        flags=domain_flags(domain),
        tot_pages=domain.mem.tot_pages,
        max_pages=domain.mem.max_pages,
        shared_info_frame=hv.mmu.m2p.get(domain.shared_info) if domain.is_hvm else domain.shared_info,
        cpu_time=sum(vcpu.unit.runstate.times(now)[running] for vcpu in domain.vcpus),
        nr_online_vcpus=sum(vcpu.up for vcpu in domain.vcpus),
        max_vcpu_id=max(len(domain.vcpus) - 1, 0),
        ssidref=domain.ssidref,
        handle=domain.handle,
        cpupool=hv.run.pool_control.pools.of_domain(domain.domid).pool_id,
        gpaddr_bits=36,
        pad2=max(domain.pid, 0).to_bytes(7, "little"),
    )
