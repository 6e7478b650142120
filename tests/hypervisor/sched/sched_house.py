"""Dom0, a guest and a paused domain of two vCPUs in this process, and the hypercalls on schedulers with plain arguments."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from hypervisor.domain.domain import Domain
from hypervisor.domain.lifecycle import Limits, create_domain
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    Domctl,
    Scheduler,
    VcpuAffinityFlags,
    xen_domctl,
    xen_domctl_u,
    xen_domctl_vcpuaffinity,
)
from hypervisor.public.layout import Struct
from hypervisor.public.sysctl import (
    XEN_SYSCTL_INTERFACE_VERSION,
    CpuPoolOp,
    Sysctl,
    xen_sysctl,
    xen_sysctl_cpupool_op,
    xen_sysctl_u,
)
from hypervisor.public.xen import Hypercall, xenctl_bitmap
from tests.hypervisor.mm.caller import Caller
from tests.inprocess import hypervisor_in_process

CPUS = 4
MAPS = 0x800
"""Where in the scratch page bitmaps and arrays are."""
HARD, SOFT = int(VcpuAffinityFlags.XEN_VCPUAFFINITY_HARD), int(VcpuAffinityFlags.XEN_VCPUAFFINITY_SOFT)
CREDIT2 = int(Scheduler.XEN_SCHEDULER_CREDIT2)


class House:
    """Dom0, a guest that calls, and a paused domain of two vCPUs."""

    def __init__(self, dom0: Caller, guest: Caller, two: Domain) -> None:
        self.dom0 = dom0
        self.guest = guest
        self.two = two

    def domctl(self, cmd: Domctl, domid: int, who: Caller | None = None, **arm: Struct) -> int:
        who = who or self.dom0
        op = xen_domctl(cmd=cmd, interface_version=XEN_DOMCTL_INTERFACE_VERSION, domain=domid)
        op.u = xen_domctl_u(**arm)
        return who.call(Hypercall.domctl, who.record(op))

    def sysctl(self, cmd: Sysctl, who: Caller | None = None, **arm: Struct) -> int:
        who = who or self.dom0
        op = xen_sysctl(cmd=cmd, interface_version=XEN_SYSCTL_INTERFACE_VERSION, u=xen_sysctl_u(**arm))
        return who.call(Hypercall.sysctl, who.record(op))

    def domctl_answer(self) -> xen_domctl_u:
        answer: xen_domctl_u = xen_domctl.unpack(self.dom0.get(0, xen_domctl.sizeof)).u
        return answer

    def answer(self) -> xen_sysctl_u:
        answer: xen_sysctl_u = xen_sysctl.unpack(self.dom0.get(0, xen_sysctl.sizeof)).u
        return answer

    def bitmap(self, mask: int, bits: int = 64, offset: int = 0) -> xenctl_bitmap:
        at = self.dom0.put(mask.to_bytes(8, "little"), MAPS + offset)
        return xenctl_bitmap(bitmap=at, nr_bits=bits)

    def affinity(self, hard: int = 0, soft: int = 0, *, vcpu: int = 1, flags: int = HARD | SOFT) -> int:
        maps = self.bitmap(hard), self.bitmap(soft, offset=8)
        asked = xen_domctl_vcpuaffinity(vcpu=vcpu, flags=flags, cpumap_hard=maps[0], cpumap_soft=maps[1])
        return self.domctl(Domctl.XEN_DOMCTL_setvcpuaffinity, self.two.domid, vcpuaffinity=asked)

    def affinity_now(self, vcpu: int = 1) -> tuple[int, int]:
        maps = self.bitmap(0), self.bitmap(0, offset=8)
        asked = xen_domctl_vcpuaffinity(
            vcpu=vcpu, flags=HARD | SOFT, cpumap_hard=maps[0], cpumap_soft=maps[1]
        )
        assert self.domctl(Domctl.XEN_DOMCTL_getvcpuaffinity, self.two.domid, vcpuaffinity=asked) == 0
        return self.maps()

    def maps(self) -> tuple[int, int]:
        hard, soft = struct.unpack("<2Q", self.dom0.get(MAPS, 16))
        return hard, soft

    def pool(
        self, op: int, pool: int = 0, *, cpu: int = 0, domid: int = 0, sched: int = CREDIT2, bits: int = 64
    ) -> int:
        asked = xen_sysctl_cpupool_op(op=op, cpupool_id=pool, sched_id=sched, domid=domid, cpu=cpu)
        asked.cpumap = self.bitmap(0, bits)
        return self.sysctl(Sysctl.XEN_SYSCTL_cpupool_op, cpupool_op=asked)

    def pool_info(self, first: int) -> tuple[int, int, int, int]:
        """Id, scheduler, domains and CPUs."""
        assert self.pool(CpuPoolOp.XEN_SYSCTL_CPUPOOL_OP_INFO, first) == 0
        info = self.answer().cpupool_op
        return info.cpupool_id, info.sched_id, info.n_dom, self.maps()[0]


@contextmanager
def sched_house() -> Iterator[House]:
    with hypervisor_in_process(nr_cpus=CPUS) as machine:
        dom0 = Caller(machine, machine.build(privileged=True))
        guest = Caller(machine, machine.build())
        hv = machine.hv
        two = create_domain(hv, hv.free_domid(), max_pages=64, limits=Limits(nr_vcpus=2))
        yield House(dom0, guest, two)
