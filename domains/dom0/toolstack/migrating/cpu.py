"""What a machine's CPU can, in few words: two machines whose digests are equal show their guests the same CPU."""

from __future__ import annotations

import hashlib

from domains.dom0.toolstack.parts import Parts
from hypervisor.public.arch_x86.xen import xen_cpuid_leaf, xen_msr_entry
from hypervisor.public.sysctl import (
    Sysctl,
    XEN_SYSCTL_cpu_policy_pv_default,
    xen_sysctl_cpu_policy,
    xen_sysctl_u,
)


def cpu_digest(parts: Parts) -> str:
    """Of Xen's policy for PV guests: CPUID leaves and MSRs."""
    kernel, index = parts.kernel, int(XEN_SYSCTL_cpu_policy_pv_default)
    asked = xen_sysctl_cpu_policy(index=index)
    sizes = parts.xen.sysctl(Sysctl.XEN_SYSCTL_get_cpu_policy, xen_sysctl_u(cpu_policy=asked)).u.cpu_policy
    with kernel.hypercalls.arguments as area:
        leaves = area.reserve(sizes.nr_leaves * xen_cpuid_leaf.sizeof)
        msrs = area.reserve(sizes.nr_msrs * xen_msr_entry.sizeof)
        asked = xen_sysctl_cpu_policy(
            index=index, nr_leaves=sizes.nr_leaves, nr_msrs=sizes.nr_msrs, leaves=leaves, msrs=msrs
        )
        told = parts.xen.sysctl(Sysctl.XEN_SYSCTL_get_cpu_policy, xen_sysctl_u(cpu_policy=asked)).u.cpu_policy
        policy = kernel.cpu.load(leaves, told.nr_leaves * xen_cpuid_leaf.sizeof) + kernel.cpu.load(
            msrs, told.nr_msrs * xen_msr_entry.sizeof
        )
    return hashlib.sha256(policy).hexdigest()
