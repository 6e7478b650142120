"""XEN_SYSCTL_sched_id: toolstacks are told which scheduler runs."""

from hypervisor.public.domctl import XEN_SCHEDULER_CREDIT2
from hypervisor.public.sysctl import XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_sched_id, xen_sysctl
from hypervisor.public.xen import Hypercall
from hypervisor.sched.credit2 import Credit2
from tests.inprocess import hypervisor_in_process


def test_the_scheduler_that_is_named_is_the_one_that_runs() -> None:
    with hypervisor_in_process() as machine:
        dom0 = machine.build(privileged=True)
        op = xen_sysctl(cmd=XEN_SYSCTL_sched_id, interface_version=XEN_SYSCTL_INTERFACE_VERSION)
        mmu, mem = machine.hv.mmu, dom0.vcpu.mem
        mmu.guest.copy_to_guest(mem, dom0.scratch, op.pack())
        assert machine.hypercall(dom0.vcpu, int(Hypercall.sysctl), dom0.scratch) == 0
        told = op.unpack(mmu.guest.copy_from_guest(mem, dom0.scratch, op.sizeof))
        assert told.u.sched_id.sched_id == XEN_SCHEDULER_CREDIT2
        assert isinstance(machine.hv.run.pool_control.pools.first.scheduler, Credit2)
