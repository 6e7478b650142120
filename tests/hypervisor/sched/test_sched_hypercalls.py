"""domctl and sysctl on schedulers, affinity and CPU pools, through the real dispatcher; every refusal with Xen's number.

Only the control domain may ask. Negative control: without `require_control` in do_sysctl the guest's call succeeds
(test_a_guest_is_refused_whatever_it_asks notices it).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest

from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    Domctl,
    SchedulerOp,
    xen_domctl,
    xen_domctl_createdomain,
    xen_domctl_getvcpuinfo,
    xen_domctl_max_vcpus,
    xen_domctl_sched_credit2,
    xen_domctl_scheduler_op,
    xen_domctl_scheduler_op_u,
    xen_domctl_scheduler_op_u_v,
    xen_domctl_u,
    xen_domctl_vcpuaffinity,
)
from hypervisor.public.errno import Errno
from hypervisor.public.sysctl import (
    XEN_SYSCTL_CPUPOOL_PAR_ANY,
    XEN_SYSCTL_INTERFACE_VERSION,
    CpuHotplug,
    CpuPoolOp,
    Sysctl,
    SysctlSchedulerOp,
    xen_sysctl,
    xen_sysctl_cpu_hotplug,
    xen_sysctl_cpupool_op,
    xen_sysctl_cputopoinfo,
    xen_sysctl_credit2_schedule,
    xen_sysctl_getcpuinfo,
    xen_sysctl_scheduler_op,
    xen_sysctl_scheduler_op_u,
    xen_sysctl_u,
)
from hypervisor.public.xen import DOMID_SELF, Hypercall, xenctl_bitmap
from hypervisor.public.xenoscope_sched import SCHEDULER_NAMES
from hypervisor.sched.policies import SCHED_IDS
from tests.hypervisor.sched.sched_house import CPUS, CREDIT2, HARD, MAPS, SOFT, House, sched_house

ANY = XEN_SYSCTL_CPUPOOL_PAR_ANY
RR = SCHEDULER_NAMES["round-robin"]


@pytest.fixture
def house() -> Iterator[House]:
    with sched_house() as house:
        yield house


def test_names_and_numbers_of_schedulers_are_those_that_the_policies_have() -> None:
    assert SCHEDULER_NAMES == SCHED_IDS


def test_affinity_is_read_back_and_what_the_pool_has_of_it_is_told(house: House) -> None:
    assert house.affinity_now() == (0b1111, 0b1111)
    assert house.affinity(0b0110, 0b1100) == 0
    assert house.maps() == (0b0110, 0b0100), "the effective masks"
    assert house.affinity_now() == (0b0110, 0b1100), "what was asked for"
    assert house.affinity_now(0) == (0b1111, 0b1111)
    assert house.affinity(0b10001, flags=HARD) == 0, "CPUs that there are not are left out"
    assert house.affinity_now() == (0b0001, 0b1100)
    assert house.affinity(soft=0, flags=SOFT) == 0, "a soft affinity may be empty"
    assert house.affinity_now() == (0b0001, 0)


@pytest.mark.parametrize(
    ("hard", "vcpu", "flags"),
    [(0, 1, HARD), (1 << 10, 1, HARD), (0b11, 2, HARD), (0b11, 1, 0), (0, 1, HARD | SOFT)],
)
def test_an_affinity_that_cannot_be_changes_nothing(house: House, hard: int, vcpu: int, flags: int) -> None:
    assert house.affinity(0b0110, 0b0001) == 0
    assert house.affinity(hard, 0b1111, vcpu=vcpu, flags=flags) == -Errno.EINVAL
    assert house.affinity_now() == (0b0110, 0b0001)


def test_maps_that_are_not_there_are_refused(house: House) -> None:
    asked = xen_domctl_vcpuaffinity(vcpu=0, flags=HARD)
    assert (
        house.domctl(Domctl.XEN_DOMCTL_getvcpuaffinity, house.two.domid, vcpuaffinity=asked) == -Errno.EINVAL
    )
    asked.cpumap_hard = xenctl_bitmap(bitmap=0xDEAD_0000, nr_bits=64)
    for cmd in (Domctl.XEN_DOMCTL_getvcpuaffinity, Domctl.XEN_DOMCTL_setvcpuaffinity):
        assert house.domctl(cmd, house.two.domid, vcpuaffinity=asked) == -Errno.EFAULT
    huge = xenctl_bitmap(bitmap=house.dom0.scratch + MAPS, nr_bits=0xFFFF_FFFF)
    asked.cpumap_hard = huge
    cmd = Domctl.XEN_DOMCTL_getvcpuaffinity
    assert house.domctl(cmd, house.two.domid, vcpuaffinity=asked) == -Errno.E2BIG
    short = xenctl_bitmap(bitmap=house.dom0.put(b"\xff\xff", MAPS), nr_bits=3)
    asked.cpumap_hard = short
    assert house.domctl(cmd, house.two.domid, vcpuaffinity=asked) == 0
    assert house.dom0.get(MAPS, 2) == b"\x0f\xff", "one byte, as Xen writes whole bytes"


def test_vcpus_are_told_of_and_only_those_that_there_are(house: House) -> None:
    cmd, domid = Domctl.XEN_DOMCTL_getvcpuinfo, house.two.domid
    assert house.domctl(cmd, domid, getvcpuinfo=xen_domctl_getvcpuinfo(vcpu=1)) == 0
    info = house.domctl_answer().getvcpuinfo
    assert (info.online, info.blocked, info.running, info.cpu_time) == (0, 0, 0, 0)
    assert house.domctl(cmd, 0, getvcpuinfo=xen_domctl_getvcpuinfo(vcpu=0)) == 0
    info = house.domctl_answer().getvcpuinfo
    assert (info.online, info.running) == (1, 1)
    assert house.domctl(cmd, domid, getvcpuinfo=xen_domctl_getvcpuinfo(vcpu=2)) == -Errno.EINVAL
    assert house.domctl(cmd, 900, getvcpuinfo=xen_domctl_getvcpuinfo()) == -Errno.ESRCH
    cmd = Domctl.XEN_DOMCTL_max_vcpus
    assert house.domctl(cmd, domid, max_vcpus=xen_domctl_max_vcpus(max=2)) == 0
    assert house.domctl(cmd, domid, max_vcpus=xen_domctl_max_vcpus(max=3)) == -Errno.EINVAL
    assert house.domctl(cmd, DOMID_SELF, max_vcpus=xen_domctl_max_vcpus(max=1)) == -Errno.EINVAL


def weigh(house: House, cmd: int, *, sched: int = CREDIT2, weight: int = 0, cap: int = 0) -> int:
    arm = xen_domctl_scheduler_op_u(credit2=xen_domctl_sched_credit2(weight=weight, cap=cap))
    asked = xen_domctl_scheduler_op(sched_id=sched, cmd=cmd, u=arm)
    return house.domctl(Domctl.XEN_DOMCTL_scheduler_op, house.two.domid, scheduler_op=asked)


def weight_and_cap(house: House) -> tuple[int, int]:
    assert weigh(house, SchedulerOp.XEN_DOMCTL_SCHEDOP_getinfo) == 0
    arm = house.domctl_answer().scheduler_op.u.credit2
    return arm.weight, arm.cap


def test_weight_and_cap_are_set_and_a_weight_of_0_is_as_it_is(house: House) -> None:
    put = SchedulerOp.XEN_DOMCTL_SCHEDOP_putinfo
    assert weight_and_cap(house) == (256, 0)
    assert weigh(house, put, weight=512, cap=150) == 0
    assert weight_and_cap(house) == (512, 150)
    assert weigh(house, put, weight=0, cap=200) == 0
    assert weight_and_cap(house) == (512, 200)
    assert weigh(house, put, weight=1, cap=201) == -Errno.EINVAL, "more than its two vCPUs can use"
    assert weigh(house, put, sched=RR, weight=1) == -Errno.EINVAL
    assert weigh(house, 9, weight=1) == -Errno.EINVAL
    assert weight_and_cap(house) == (512, 200)


def test_vcpus_have_no_parameters_under_credit2(house: House) -> None:
    array = xen_domctl_scheduler_op_u_v(vcpus=house.dom0.scratch + MAPS, nr_vcpus=1)
    for cmd in (SchedulerOp.XEN_DOMCTL_SCHEDOP_getvcpuinfo, SchedulerOp.XEN_DOMCTL_SCHEDOP_putvcpuinfo):
        asked = xen_domctl_scheduler_op(sched_id=CREDIT2, cmd=cmd, u=xen_domctl_scheduler_op_u(v=array))
        domctl = Domctl.XEN_DOMCTL_scheduler_op
        assert house.domctl(domctl, house.two.domid, scheduler_op=asked) == -Errno.EINVAL


def test_a_pool_has_parameters_of_its_scheduler(house: House) -> None:
    def ask(cmd: int, *, pool: int = 0, sched: int = CREDIT2, ratelimit: int = 0) -> int:
        arm = xen_sysctl_scheduler_op_u(sched_credit2=xen_sysctl_credit2_schedule(ratelimit_us=ratelimit))
        asked = xen_sysctl_scheduler_op(cpupool_id=pool, sched_id=sched, cmd=cmd, u=arm)
        return house.sysctl(Sysctl.XEN_SYSCTL_scheduler_op, scheduler_op=asked)

    put, get = SysctlSchedulerOp.XEN_SYSCTL_SCHEDOP_putinfo, SysctlSchedulerOp.XEN_SYSCTL_SCHEDOP_getinfo
    assert ask(put, ratelimit=1000) == 0
    assert ask(get) == 0
    assert house.answer().scheduler_op.u.sched_credit2.ratelimit_us == 1000
    assert ask(put, ratelimit=99) == -Errno.EINVAL
    assert ask(put, ratelimit=500_001) == -Errno.EINVAL
    assert ask(get, sched=RR) == -Errno.EINVAL
    assert ask(get, pool=7) == -Errno.ESRCH
    assert ask(5) == -Errno.EINVAL


def test_pools_are_made_get_cpus_and_domains_and_go(house: House) -> None:
    op, two = CpuPoolOp, house.two.domid
    assert house.pool_info(0) == (0, CREDIT2, 3, 0b1111)
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_CREATE, 5, sched=RR) == 0
    assert house.pool_info(1) == (5, RR, 0, 0)
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 5, domid=two) == -Errno.ENOENT, "it has no CPU"
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, cpu=2) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_FREEINFO) == 0
    assert house.maps()[0] == 0b0100
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 5, cpu=ANY) == 0
    assert house.affinity(0b0011, 0b0011) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 5, domid=two) == 0
    assert house.affinity_now() == (0b1111, 0b1111), "a new pool, a new affinity"
    assert house.affinity(0b0011, flags=HARD) == -Errno.EINVAL, "they are the other pool's"
    assert house.pool_info(5) == (5, RR, 1, 0b0100)
    assert house.domctl(Domctl.XEN_DOMCTL_getdomaininfo, two) == 0
    assert house.domctl_answer().getdomaininfo.cpupool == 5
    for refused, errno in (
        ((op.XEN_SYSCTL_CPUPOOL_OP_CREATE, 5), Errno.EEXIST),
        ((op.XEN_SYSCTL_CPUPOOL_OP_DESTROY, 5), Errno.EBUSY),
        ((op.XEN_SYSCTL_CPUPOOL_OP_DESTROY, 0), Errno.EBUSY),
        ((op.XEN_SYSCTL_CPUPOOL_OP_DESTROY, 9), Errno.ENOENT),
        ((op.XEN_SYSCTL_CPUPOOL_OP_INFO, 6), Errno.ENOENT),
        ((99, 0), Errno.ENOSYS),
    ):
        assert house.pool(*refused) == -errno
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_CREATE, ANY, sched=77) == -Errno.ENOENT
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 5, domid=0) == -Errno.EPERM
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 5, domid=900) == -Errno.ESRCH
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 0, domid=two) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_RMCPU, 5, cpu=ANY) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_RMCPU, 5, cpu=ANY) == -Errno.EINVAL
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_DESTROY, 5) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_INFO, 5) == -Errno.ENOENT


def test_cpus_that_cannot_come_or_go(house: House) -> None:
    op = CpuPoolOp
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_CREATE, 5, sched=RR) == 0
    add, remove = op.XEN_SYSCTL_CPUPOOL_OP_ADDCPU, op.XEN_SYSCTL_CPUPOOL_OP_RMCPU
    for asked, pool, cpu, errno in (
        (add, 5, 1, Errno.ENODEV),
        (add, 5, ANY, Errno.ENODEV),
        (add, 5, 64, Errno.EINVAL),
        (add, 9, 1, Errno.ENOENT),
        (remove, 0, 0, Errno.EINVAL),
        (remove, 0, 64, Errno.EINVAL),
        (remove, 5, 1, Errno.EADDRNOTAVAIL),
        (remove, 9, 1, Errno.ENOENT),
    ):
        assert house.pool(asked, pool, cpu=cpu) == -errno, (asked, pool, cpu)
    assert house.pool(remove, 0, cpu=3) == 0
    assert house.pool(add, 5, cpu=3) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 5, domid=house.two.domid) == 0
    assert house.pool(remove, 5, cpu=3) == -Errno.EBUSY, "its domain would have none"


def test_pools_are_bounded(house: House) -> None:
    results = [house.pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_CREATE, ANY) for _ in range(100)]
    assert results[0] == 0
    assert results[-1] == -Errno.ENOSPC


def test_a_domain_is_made_in_a_pool_that_has_cpus(house: House) -> None:
    def create(pool: int) -> int:
        config = xen_domctl_createdomain(
            max_vcpus=1, max_grant_frames=-1, max_maptrack_frames=-1, grant_opts=2, cpupool_id=pool
        )
        return house.domctl(Domctl.XEN_DOMCTL_createdomain, 0x7FF4, createdomain=config)

    op = CpuPoolOp
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_CREATE, 5, sched=RR) == 0
    assert create(6) == -Errno.ESRCH
    assert create(5) == -Errno.ENODEV
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, cpu=3) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 5, cpu=3) == 0
    before = house.pool_info(0)[2]
    assert create(5) == 0
    assert house.pool_info(0)[2] == before
    assert house.pool_info(5)[2] == 1


def test_cpus_are_told_of_and_stay_up(house: House) -> None:
    at = house.dom0.scratch + MAPS
    cmd = Sysctl.XEN_SYSCTL_getcpuinfo
    assert house.sysctl(cmd, getcpuinfo=xen_sysctl_getcpuinfo(max_cpus=2, info=at)) == 0
    assert house.answer().getcpuinfo.nr_cpus == 2
    assert house.sysctl(cmd, getcpuinfo=xen_sysctl_getcpuinfo(max_cpus=0xFFFF_FFFF, info=at)) == 0
    assert house.answer().getcpuinfo.nr_cpus == CPUS
    idle = struct.unpack("<4Q", house.dom0.get(MAPS, 32))
    assert max(idle) > min(idle), "Dom0's CPU is busy"
    assert house.sysctl(cmd, getcpuinfo=xen_sysctl_getcpuinfo(max_cpus=4, info=0xDEAD_0000)) == -Errno.EFAULT
    topology = Sysctl.XEN_SYSCTL_cputopoinfo
    for room, told in ((0, 0), (2, 2), (100, CPUS)):
        asked = xen_sysctl_cputopoinfo(num_cpus=room, cputopo=at)
        assert house.sysctl(topology, cputopoinfo=asked) == 0
        assert house.answer().cputopoinfo.num_cpus == told
    assert house.sysctl(topology, cputopoinfo=xen_sysctl_cputopoinfo()) == 0
    assert house.answer().cputopoinfo.num_cpus == CPUS
    up, down = CpuHotplug.XEN_SYSCTL_CPU_HOTPLUG_ONLINE, CpuHotplug.XEN_SYSCTL_CPU_HOTPLUG_OFFLINE
    for op, cpu, errno in (
        (up, 1, Errno.EEXIST),
        (up, 64, Errno.EINVAL),
        (down, 0, Errno.EINVAL),
        (down, 64, Errno.EINVAL),
        (down, 1, Errno.EOPNOTSUPP),
        (CpuHotplug.XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE, 0, Errno.EOPNOTSUPP),
        (77, 0, Errno.EOPNOTSUPP),
    ):
        asked_of = xen_sysctl_cpu_hotplug(cpu=cpu, op=op)
        assert house.sysctl(Sysctl.XEN_SYSCTL_cpu_hotplug, cpu_hotplug=asked_of) == -errno


def test_a_guest_is_refused_whatever_it_asks(house: House) -> None:
    for op in CpuPoolOp:
        asked = xen_sysctl_cpupool_op(op=op)
        assert house.sysctl(Sysctl.XEN_SYSCTL_cpupool_op, house.guest, cpupool_op=asked) == -Errno.EPERM
    for cmd in (Sysctl.XEN_SYSCTL_scheduler_op, Sysctl.XEN_SYSCTL_getcpuinfo, Sysctl.XEN_SYSCTL_cpu_hotplug):
        assert house.sysctl(cmd, house.guest) == -Errno.EPERM
    for op_ in (Domctl.XEN_DOMCTL_setvcpuaffinity, Domctl.XEN_DOMCTL_scheduler_op):
        assert house.domctl(op_, DOMID_SELF, house.guest) == -Errno.EPERM


def test_random_nonsense_is_answered_and_harms_nobody(house: House, steps: int | None) -> None:
    """Dom0 itself asks, with random words and pointers that are there or not."""
    chance, hv = random.Random(7), house.dom0.machine.hv
    interesting = [0, 1, 2, 3, 5, 6, 63, 64, 0xFFFF, ANY, house.dom0.scratch + MAPS, 0xDEAD_0000]
    domctls = (
        Domctl.XEN_DOMCTL_setvcpuaffinity,
        Domctl.XEN_DOMCTL_getvcpuaffinity,
        Domctl.XEN_DOMCTL_scheduler_op,
        Domctl.XEN_DOMCTL_getvcpuinfo,
    )
    sysctls = (
        Sysctl.XEN_SYSCTL_cpupool_op,
        Sysctl.XEN_SYSCTL_scheduler_op,
        Sysctl.XEN_SYSCTL_getcpuinfo,
        Sysctl.XEN_SYSCTL_cputopoinfo,
        Sysctl.XEN_SYSCTL_cpu_hotplug,
    )
    ids = [*SCHED_IDS.values(), 0, 7]
    dom0 = house.dom0
    for _ in range(steps or 1500):
        words = [chance.choice(interesting) & 0xFFFF_FFFF for _ in range(10)]
        if chance.random() < 0.5:
            words[chance.randrange(3)] = chance.choice(ids)
        raw = struct.pack("<10I", *words)
        if chance.random() < 0.5:
            op = xen_domctl(
                cmd=chance.choice(domctls),
                interface_version=XEN_DOMCTL_INTERFACE_VERSION,
                domain=house.two.domid,
            )
            op.u = xen_domctl_u.unpack(raw.ljust(128, b"\0"))
            result = dom0.machine.hypercall(dom0.built.vcpu, int(Hypercall.domctl), dom0.record(op))
        else:
            ask = xen_sysctl(cmd=chance.choice(sysctls), interface_version=XEN_SYSCTL_INTERFACE_VERSION)
            ask.u = xen_sysctl_u.unpack(raw.ljust(128, b"\0"))
            result = dom0.machine.hypercall(dom0.built.vcpu, int(Hypercall.sysctl), dom0.record(ask))
        assert isinstance(result, int), "Dom0 has a CPU all the time"
        pools = hv.run.pool_control.pools
        assert pools.first.cpus & 1
        assert sum(pool.cpus for pool in pools.by_id.values()) + pools.free_cpus() == (1 << CPUS) - 1
    assert hv.counters["hypervisor bugs"] == 0, hv.log.read().decode()[-3000:]
