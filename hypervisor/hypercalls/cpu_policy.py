"""CPU policies and featuresets as a toolstack gets and sets them (Xen arch/x86/sysctl.c, arch/x86/domctl.c, lib/x86/cpuid.c).

There is one model of the emulated CPU for each kind of guest (machine/cpuid.py, machine/hvm_cpuid.py), and no other: the host's
policy and the PV ones are the same. A domain's policy cannot be made another one; to set what it is succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hypervisor.domain.domain import Domain
from hypervisor.hypercalls.call import Call, Result
from hypervisor.machine import hvm_cpuid
from hypervisor.machine.cpuid import LEAVES, NOTHING, OF_64BIT_MODE, Leaf
from hypervisor.public.arch_x86.xen import xen_cpuid_leaf, xen_msr_entry
from hypervisor.public.domctl import xen_domctl, xen_domctl_cpu_policy
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import xen_sysctl, xen_sysctl_cpu_policy
from hypervisor.public.types import U32

Leaves = Mapping[int, Leaf]
XEN_CPUID_NO_SUBLEAF: Final = 0xFFFF_FFFF
MAX_SERIALISED_LEAVES: Final = 120
"""What a toolstack makes room for: as many as a policy of Xen 4.17 can have (CPUID_MAX_SERIALISED_LEAVES)."""
WITH_SUBLEAVES: Final = {0x4: 1, 0x7: 1, 0xB: 1, 0xD: 2}
"""Leaves that have subleaves, and how many of them are told where all are zero: up to the first that has no more behind it."""
MSR_INTEL_PLATFORM_INFO: Final = 0xCE
MSR_ARCH_CAPABILITIES: Final = 0x10A
MSRS: Final = {MSR_INTEL_PLATFORM_INFO: 0, MSR_ARCH_CAPABILITIES: 0}
"""The MSRs of a policy."""
FEATURE_WORDS: Final = (
    *((0x1, 3), (0x1, 2), (0x80000001, 3), (0x80000001, 2)),
    *((None, 0),) * 3,  # of leaves 0xD and 7
    *((0x80000007, 3), (0x80000008, 1)),
    *((None, 0),) * 10,
)
"""Which register of which leaf each word of a featureset is (Xen public/arch-x86/cpufeatureset.h); None: the CPU has no such
leaf.
"""
POLICIES: Final[tuple[Leaves, ...]] = (LEAVES, LEAVES, LEAVES, hvm_cpuid.LEAVES, LEAVES, hvm_cpuid.LEAVES)
"""By XEN_SYSCTL_cpu_policy_…: raw, host, pv_max, hvm_max, pv_default, hvm_default."""
FEATURESETS: Final[tuple[Leaves, ...]] = (LEAVES, LEAVES, LEAVES, hvm_cpuid.LEAVES, LEAVES, hvm_cpuid.LEAVES)
"""By XEN_SYSCTL_cpu_featureset_…: raw, host, pv, hvm, pv_max, hvm_max."""


def featureset(leaves: Leaves) -> list[int]:
    """The words of a policy's features."""
    return [leaves.get(leaf, NOTHING)[at] if leaf is not None else 0 for leaf, at in FEATURE_WORDS]


def policy_of(target: Domain) -> Leaves:
    """What a domain's guest sees; a 32-bit PV guest does not see what is of 64-bit mode."""
    if target.is_hvm:
        return hvm_cpuid.LEAVES
    if target.abi.address_size == 64:
        return LEAVES
    hidden = {
        number: tuple(word & ~mask for word, mask in zip(LEAVES[number], masks, strict=True))
        for number, masks in OF_64BIT_MODE.items()
    }
    return {**LEAVES, **hidden}  # type: ignore[dict-item]


def serialised(leaves: Leaves) -> list[xen_cpuid_leaf]:
    """All leaves of a policy, in the order in which Xen tells them (x86_cpuid_copy_to_buffer)."""
    told = []
    for number in range(leaves[0][0] + 1):
        subleaves = range(WITH_SUBLEAVES[number]) if number in WITH_SUBLEAVES else [XEN_CPUID_NO_SUBLEAF]
        told += [_entry(number, subleaf, leaves.get(number, NOTHING)) for subleaf in subleaves]
    told += [_entry(number, XEN_CPUID_NO_SUBLEAF, NOTHING) for number in (0x4000_0000, 0x4000_0100)]
    extended = range(0x8000_0000, leaves[0x8000_0000][0] + 1)
    return told + [_entry(number, XEN_CPUID_NO_SUBLEAF, leaves.get(number, NOTHING)) for number in extended]


def _entry(number: int, subleaf: int, leaf: Leaf) -> xen_cpuid_leaf:
    a, b, c, d = leaf
    return xen_cpuid_leaf(leaf=number, subleaf=subleaf, a=a, b=b, c=c, d=d)


def do_get_cpu_featureset(call: Call, op: xen_sysctl) -> Result:
    """The features of a policy as bit words; without a buffer, how many words. EINVAL: there is no such policy; ENOBUFS: there
    are more words than were asked for, which are written.
    """
    asked, words = op.u.cpu_featureset, len(FEATURE_WORDS)
    if not asked.features:
        asked.nr_features = words
    else:
        if asked.index >= len(FEATURESETS):
            raise XenError(Errno.EINVAL, f"featureset {asked.index}")
        asked.nr_features = min(asked.nr_features, words)
        told = featureset(FEATURESETS[asked.index])[: asked.nr_features]
        if told:
            call.copy_to_guest(asked.features, b"".join([word.to_bytes(4, "little") for word in told]))
    op.u.cpu_featureset = asked
    call.write(call.args[0], op)
    return -Errno.ENOBUFS if asked.nr_features < words else 0


def do_get_system_policy(call: Call, op: xen_sysctl) -> Result:
    """The policies of the machine. EINVAL: there is no such policy; ENOBUFS."""
    asked = op.u.cpu_policy
    if asked._rsvd or asked.index >= len(POLICIES):
        raise XenError(Errno.EINVAL, f"CPU policy {asked.index}")
    _tell(call, asked, POLICIES[asked.index])
    op.u.cpu_policy = asked
    call.write(call.args[0], op)
    return 0


def do_get_domain_policy(call: Call, op: xen_domctl, target: Domain) -> Result:
    """A domain's policy. ENOBUFS."""
    asked = op.u.cpu_policy
    _tell(call, asked, policy_of(target))
    op.u.cpu_policy = asked
    call.write(call.args[0], op)
    return 0


def _tell(call: Call, asked: xen_sysctl_cpu_policy | xen_domctl_cpu_policy, leaves: Leaves) -> None:
    """Write what there are buffers for; the others' sizes are told. ENOBUFS: a buffer is too small."""
    told = serialised(leaves)
    msrs = [xen_msr_entry(idx=number, val=value) for number, value in MSRS.items()]
    if (asked.leaves and len(told) > asked.nr_leaves) or (asked.msrs and len(msrs) > asked.nr_msrs):
        raise XenError(Errno.ENOBUFS, f"{len(told)} leaves, {len(msrs)} MSRs")
    if asked.leaves:
        call.copy_to_guest(asked.leaves, b"".join([entry.pack() for entry in told]))
    if asked.msrs:
        call.copy_to_guest(asked.msrs, b"".join([entry.pack() for entry in msrs]))
    asked.nr_leaves = len(told) if asked.leaves else MAX_SERIALISED_LEAVES
    asked.nr_msrs = len(msrs) if asked.msrs else len(MSRS)


def do_set_domain_policy(call: Call, op: xen_domctl, target: Domain) -> Result:
    """Checks that what is given is what the domain has. EINVAL: the caller itself; E2BIG; EOPNOTSUPP: it is another policy, of
    which the first leaf or MSR that differs is told.
    """
    if target is call.domain:
        raise XenError(Errno.EINVAL, "a domain cannot set its own CPU policy")
    asked = op.u.cpu_policy
    if asked.nr_leaves > MAX_SERIALISED_LEAVES or asked.nr_msrs > len(MSRS):
        raise XenError(Errno.E2BIG, f"{asked.nr_leaves} leaves, {asked.nr_msrs} MSRs")
    has = {(entry.leaf, entry.subleaf): entry for entry in serialised(policy_of(target))}
    asked.err_leaf = asked.err_subleaf = asked.err_msr = U32
    different = False
    for i in range(asked.nr_leaves):
        given = call.read(asked.leaves + i * xen_cpuid_leaf.sizeof, xen_cpuid_leaf)
        own = has.get((given.leaf, given.subleaf))
        if own is None or own.pack() != given.pack():
            asked.err_leaf, asked.err_subleaf, different = given.leaf, given.subleaf, True
            break
    for i in range(asked.nr_msrs):
        entry = call.read(asked.msrs + i * xen_msr_entry.sizeof, xen_msr_entry)
        if MSRS.get(entry.idx) != entry.val or entry.flags:
            asked.err_msr, different = entry.idx, True
            break
    if not different:
        return 0
    op.u.cpu_policy = asked
    call.write(call.args[0], op)
    raise XenError(Errno.EOPNOTSUPP, f"d{target.domid}: leaf {asked.err_leaf:#x} is not the emulated CPU's")
