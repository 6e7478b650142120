"""Parameters that are no weight and no cap: RTDS has them for each vCPU, ARINC 653 has a schedule."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from hypervisor.public.domctl import (
    Domctl,
    Scheduler,
    SchedulerOp,
    xen_domctl_schedparam_vcpu,
    xen_domctl_scheduler_op,
    xen_domctl_scheduler_op_u,
    xen_domctl_scheduler_op_u_v,
)
from hypervisor.public.errno import Errno
from hypervisor.public.sysctl import (
    XEN_SYSCTL_CPUPOOL_PAR_ANY,
    CpuPoolOp,
    Sysctl,
    SysctlSchedulerOp,
    xen_sysctl_arinc653_schedule,
    xen_sysctl_scheduler_op,
    xen_sysctl_scheduler_op_u,
)
from tests.hypervisor.sched.sched_house import MAPS, House, sched_house

ANY = XEN_SYSCTL_CPUPOOL_PAR_ANY


@pytest.fixture
def house() -> Iterator[House]:
    with sched_house() as house:
        yield house


def test_vcpus_have_parameters_under_rtds(house: House) -> None:
    op = CpuPoolOp
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_CREATE, ANY, sched=Scheduler.XEN_SCHEDULER_RTDS) == 0
    pool = house.answer().cpupool_op.cpupool_id
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, cpu=3) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_ADDCPU, pool, cpu=3) == 0
    assert house.pool(op.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, pool, domid=house.two.domid) == 0
    kind = xen_domctl_schedparam_vcpu

    def ask(cmd: int, *entries: tuple[int, int, int, int], count: int | None = None) -> int:
        raw = b"".join(
            struct.pack("<4I", period, budget, flags, vcpu) for vcpu, period, budget, flags in entries
        )
        at = house.dom0.put(raw, MAPS)
        array = xen_domctl_scheduler_op_u_v(vcpus=at, nr_vcpus=len(entries) if count is None else count)
        asked = xen_domctl_scheduler_op(
            sched_id=Scheduler.XEN_SCHEDULER_RTDS, cmd=cmd, u=xen_domctl_scheduler_op_u(v=array)
        )
        return house.domctl(Domctl.XEN_DOMCTL_scheduler_op, house.two.domid, scheduler_op=asked)

    get, put = SchedulerOp.XEN_DOMCTL_SCHEDOP_getvcpuinfo, SchedulerOp.XEN_DOMCTL_SCHEDOP_putvcpuinfo
    assert ask(put, (1, 300, 150, 1), (0, 100, 50, 0)) == 0
    assert ask(get, (0, 0, 0, 0), (1, 0, 0, 0)) == 0
    found = struct.unpack("<8I", house.dom0.get(MAPS, 2 * kind.sizeof))
    assert found == (100, 50, 0, 0, 300, 150, 1, 1)
    assert ask(put, (0, 100, 101, 0)) == -Errno.EINVAL
    assert ask(put, (0, 0, 0, 0)) == -Errno.EINVAL
    assert ask(get, (2, 0, 0, 0)) == -Errno.EINVAL
    assert ask(get, (0, 0, 0, 0), count=0xFFFF_FFFF) in (0, -Errno.EINVAL, -Errno.EFAULT), "it ends"


def test_a_schedule_is_given_to_arinc_653_and_read_back(house: House) -> None:
    kind, arinc = xen_sysctl_arinc653_schedule, int(Scheduler.XEN_SCHEDULER_ARINC653)
    assert house.pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_CREATE, 3, sched=arinc) == 0
    page = house.dom0.scratch + 0x1000  # a schedule is longer than half a page

    def ask(cmd: int, at: int = page) -> int:
        arm = xen_sysctl_scheduler_op_u(sched_arinc653=at)
        asked = xen_sysctl_scheduler_op(cpupool_id=3, sched_id=arinc, cmd=cmd, u=arm)
        return house.sysctl(Sysctl.XEN_SYSCTL_scheduler_op, scheduler_op=asked)

    def schedule(major: int, count: int, *entries: tuple[bytes, int, int]) -> None:
        raw = struct.pack("<QB7x", major, count)
        raw += b"".join(struct.pack("<16sI4xQ", *entry) for entry in entries)
        house.dom0.put(raw.ljust(kind.sizeof, b"\0"), 0x1000)

    put, get = SysctlSchedulerOp.XEN_SYSCTL_SCHEDOP_putinfo, SysctlSchedulerOp.XEN_SYSCTL_SCHEDOP_getinfo
    frames = ((b"a" * 16, 0, 4_000_000), (b"b" * 16, 1, 6_000_000))
    schedule(10_000_000, 2, *frames)
    assert ask(put) == 0
    house.dom0.put(bytes(kind.sizeof), 0x1000)
    assert ask(get) == 0
    told = kind.unpack(house.dom0.get(0x1000, kind.sizeof))
    assert (told.major_frame, told.num_sched_entries) == (10_000_000, 2)
    found = [(bytes(one.dom_handle), one.vcpu_id, one.runtime) for one in told.sched_entries]
    assert found == [*frames, *[(bytes(16), 0, 0)] * 62]
    for major, count, entries in (
        (10_000_000, 65, frames),
        (10_000_000, 0, frames),
        (9_999_999, 2, frames),
        (0, 1, frames),
        (10_000_000, 1, ((b"a" * 16, 0, 0),)),
        ((1 << 64) - 1, 2, ((b"a" * 16, 0, (1 << 64) - 1),) * 2),
    ):
        schedule(major, count, *entries)
        assert ask(put) == -Errno.EINVAL
    assert ask(put, 0xDEAD_0000) == ask(get, 0xDEAD_0000) == -Errno.EFAULT
    assert ask(get) == 0
    assert kind.unpack(house.dom0.get(0x1000, kind.sizeof)) == told, "the first one holds"
