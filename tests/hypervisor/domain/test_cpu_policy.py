"""What a toolstack is told of the CPU, the clock and the memory nodes, and what of these it may set: no 0 without effect.

Control: with do_set_domain_policy returning 0 at once, a policy that no guest gets is accepted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from domains.cpu.x86.hvm.cpuid import hvm_cpuid
from hypervisor.hypercalls.cpu_policy import FEATURE_WORDS, MAX_SERIALISED_LEAVES
from hypervisor.machine.cpuid import guest_cpuid
from hypervisor.public.arch_x86.xen import xen_cpuid_leaf
from hypervisor.public.domctl import (
    Domctl,
    xen_domctl_cpu_policy,
    xen_domctl_nodeaffinity,
    xen_domctl_tsc_info,
)
from hypervisor.public.errno import Errno
from hypervisor.public.sysctl import (
    CpuPolicy,
    Sysctl,
    xen_sysctl_cpu_featureset,
    xen_sysctl_cpu_policy,
    xen_sysctl_meminfo,
    xen_sysctl_numainfo,
)
from tests.hypervisor.sched.sched_house import House, sched_house

MSRS = 0x800
LEAVES = 0x900
"""Where in the scratch page they are."""
PV, HVM = CpuPolicy.XEN_SYSCTL_cpu_policy_pv_default, CpuPolicy.XEN_SYSCTL_cpu_policy_hvm_default


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """Dom0 and a domain, which are asked only."""
    with sched_house() as house:
        yield house


def system_policy(house: House, index: int) -> list[xen_cpuid_leaf]:
    """The leaves of a policy of the machine."""
    at = house.dom0.put(b"", LEAVES), house.dom0.put(b"", MSRS)
    asked = xen_sysctl_cpu_policy(index=index, nr_leaves=70, nr_msrs=2, leaves=at[0], msrs=at[1])
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_policy, cpu_policy=asked) == 0
    count = house.answer().cpu_policy.nr_leaves
    raw = house.dom0.get(LEAVES, count * xen_cpuid_leaf.sizeof)
    return [xen_cpuid_leaf.unpack(raw, i * xen_cpuid_leaf.sizeof) for i in range(count)]


def test_policies_are_what_guests_see(house: House) -> None:
    for index in CpuPolicy:
        for entry in system_policy(house, index):
            if entry.leaf >> 16 == 0x4000:
                continue
            subleaf = 0 if entry.subleaf == 0xFFFF_FFFF else entry.subleaf
            hvm = index in (HVM, CpuPolicy.XEN_SYSCTL_cpu_policy_hvm_max)
            seen = hvm_cpuid(entry.leaf, subleaf, 0, 1) if hvm else guest_cpuid(entry.leaf, subleaf)
            assert (entry.a, entry.b, entry.c, entry.d) == seen


def test_sizes_are_told_and_kept(house: House) -> None:
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_policy, cpu_policy=xen_sysctl_cpu_policy(index=PV)) == 0
    assert house.answer().cpu_policy.nr_leaves == MAX_SERIALISED_LEAVES
    at = house.dom0.put(b"", LEAVES)
    short = xen_sysctl_cpu_policy(index=PV, nr_leaves=3, leaves=at)
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_policy, cpu_policy=short) == -Errno.ENOBUFS
    beyond = xen_sysctl_cpu_policy(index=len(CpuPolicy))
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_policy, cpu_policy=beyond) == -Errno.EINVAL


def test_a_domains_policy_can_be_set_to_what_it_is_alone(house: House) -> None:
    domid = house.two.domid
    leaves = system_policy(house, PV)
    at = house.dom0.put(b"".join([leaf.pack() for leaf in leaves]), LEAVES)
    given = xen_domctl_cpu_policy(nr_leaves=len(leaves), leaves=at)
    assert house.domctl(Domctl.XEN_DOMCTL_set_cpu_policy, domid, cpu_policy=given) == 0
    leaves[1].c |= 1 << 28  # AVX
    house.dom0.put(b"".join([leaf.pack() for leaf in leaves]), LEAVES)
    assert house.domctl(Domctl.XEN_DOMCTL_set_cpu_policy, domid, cpu_policy=given) == -Errno.EOPNOTSUPP
    assert house.domctl_answer().cpu_policy.err_leaf == 1
    many = xen_domctl_cpu_policy(nr_leaves=1 << 31, leaves=at)
    assert house.domctl(Domctl.XEN_DOMCTL_set_cpu_policy, domid, cpu_policy=many) == -Errno.E2BIG
    assert house.domctl(Domctl.XEN_DOMCTL_set_cpu_policy, 0, cpu_policy=given) == -Errno.EINVAL
    nowhere = xen_domctl_cpu_policy(nr_leaves=1, leaves=0x1000)
    assert house.domctl(Domctl.XEN_DOMCTL_set_cpu_policy, domid, cpu_policy=nowhere) == -Errno.EFAULT


def test_featuresets(house: House) -> None:
    words = len(FEATURE_WORDS)
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_featureset, cpu_featureset=xen_sysctl_cpu_featureset()) == 0
    assert house.answer().cpu_featureset.nr_features == words
    at = house.dom0.put(bytes(4 * words), LEAVES)
    asked = xen_sysctl_cpu_featureset(index=1, nr_features=100, features=at)
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_featureset, cpu_featureset=asked) == 0
    first = guest_cpuid(1, 0)
    assert struct.unpack("<2I", house.dom0.get(LEAVES, 8)) == (first[3], first[2])
    asked = xen_sysctl_cpu_featureset(index=1, nr_features=2, features=at)
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_featureset, cpu_featureset=asked) == -Errno.ENOBUFS
    asked = xen_sysctl_cpu_featureset(index=6, nr_features=2, features=at)
    assert house.sysctl(Sysctl.XEN_SYSCTL_get_cpu_featureset, cpu_featureset=asked) == -Errno.EINVAL


def test_the_machine_is_one_node(house: House) -> None:
    assert house.sysctl(Sysctl.XEN_SYSCTL_numainfo, numainfo=xen_sysctl_numainfo()) == 0
    assert house.answer().numainfo.num_nodes == 1
    at = house.dom0.put(bytes(64), LEAVES)
    asked = xen_sysctl_numainfo(num_nodes=64, meminfo=at, distance=at + 32)
    assert house.sysctl(Sysctl.XEN_SYSCTL_numainfo, numainfo=asked) == 0
    node = xen_sysctl_meminfo.unpack(house.dom0.get(LEAVES, 16))
    assert 0 < node.memfree < node.memsize
    assert house.dom0.get(LEAVES + 32, 8) == struct.pack("<II", 10, 0)
    domid = house.two.domid
    for mask, result in ((1, 0), (3, 0), (2, -Errno.EINVAL), (0, -Errno.EINVAL)):
        asked_nodes = xen_domctl_nodeaffinity(nodemap=house.bitmap(mask))
        assert house.domctl(Domctl.XEN_DOMCTL_setnodeaffinity, domid, nodeaffinity=asked_nodes) == result
    asked_nodes = xen_domctl_nodeaffinity(nodemap=house.bitmap(0xFF))
    assert house.domctl(Domctl.XEN_DOMCTL_getnodeaffinity, domid, nodeaffinity=asked_nodes) == 0
    assert house.maps()[0] == 1


def test_the_mode_of_the_tsc_is_kept_and_its_rate_is_not_to_be_had_otherwise(house: House) -> None:
    domid, set_info = house.two.domid, Domctl.XEN_DOMCTL_settscinfo
    assert house.domctl(set_info, domid, tsc_info=xen_domctl_tsc_info(tsc_mode=1, incarnation=4)) == 0
    assert house.domctl(Domctl.XEN_DOMCTL_gettscinfo, domid) == 0
    info = house.domctl_answer().tsc_info
    assert (info.tsc_mode, info.gtsc_khz, info.incarnation) == (1, 1_000_000, 5)
    assert house.domctl(set_info, domid, tsc_info=xen_domctl_tsc_info(tsc_mode=3)) == -Errno.EINVAL
    faster = xen_domctl_tsc_info(gtsc_khz=2_000_000)
    assert house.domctl(set_info, domid, tsc_info=faster) == -Errno.EOPNOTSUPP
    assert house.domctl(set_info, 0, tsc_info=xen_domctl_tsc_info()) == -Errno.EINVAL
