"""What the hypervisor reports of itself at a debug key is what its tables hold, and only the control domain may ask."""

from collections.abc import Iterator

import pytest

from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from hypervisor.domain.debug_keys import KEYS
from hypervisor.hypercalls.sysctl import LINES_A_SLICE, MAX_KEYS_A_CALL
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.sysctl import (
    XEN_SYSCTL_INTERFACE_VERSION,
    XEN_SYSCTL_debug_keys,
    xen_sysctl,
    xen_sysctl_debug_keys,
    xen_sysctl_u,
)
from hypervisor.public.types import DomId, VAddr
from hypervisor.sched.policies import make_scheduler
from tests.domains.kernel.one_process import PythonDomain
from tests.inprocess import InProcess, hypervisor_in_process

DOM0 = DomId(0)


@pytest.fixture
def machine() -> Iterator[InProcess]:
    with hypervisor_in_process() as machine:
        yield machine


@pytest.fixture
def dom0(machine: InProcess) -> Kernel:
    return PythonDomain(machine, privileged=True).boot()


@pytest.fixture
def guest(machine: InProcess) -> PythonDomain:
    return PythonDomain(machine)


def report(machine: InProcess, control: Kernel, keys: bytes) -> list[str]:
    """The lines that the log grew by."""
    machine.hv.log.clear()
    XenCtrl(control).debug_keys(keys)
    return machine.hv.log.read().decode().splitlines()


def test_every_port_that_is_not_free_is_reported_and_counted(
    machine: InProcess, dom0: Kernel, guest: PythonDomain
) -> None:
    kernel = guest.boot()
    theirs = kernel.events.alloc_unbound(DOM0)
    ours = dom0.events.bind_interdomain(guest.gate.domid, theirs)
    lines = report(machine, dom0, b"e")
    assert any(
        line.split()[0] == str(ours) and line.endswith(f"d={guest.gate.domid} p={theirs}")
        for line in lines
        if "s=INTERDOMAIN" in line
    )
    for domain in machine.hv.domains.values():
        assert f"  domain {domain.domid}: {domain.events.active} ports, 4095 at most" in lines
    assert sum("]: s=" in line for line in lines) == sum(
        domain.events.active for domain in machine.hv.domains.values()
    )


def test_grants_in_use_are_reported_until_they_are_let_go(
    machine: InProcess, dom0: Kernel, guest: PythonDomain
) -> None:
    kernel, domid = guest.boot(), guest.gate.domid
    page = kernel.memory.alloc_page()
    ref = kernel.grants.grant_access(DOM0, page.mfn)
    mapping = dom0.grants.map(domid, [ref])
    lines = report(machine, dom0, b"g")
    assert any(f"user d0 mfn {page.mfn:#x} pin 0x00000001" in line for line in lines)
    assert f"  domain {domid}: 1 active entries, 0 maps of others' grants" in lines
    assert "  domain 0: 0 active entries, 1 maps of others' grants" in lines
    dom0.grants.unmap(mapping)
    assert not any("pin" in line for line in report(machine, dom0, b"g"))


def test_memory_is_reported_by_type_as_the_frame_table_has_it(machine: InProcess, dom0: Kernel) -> None:
    lines = report(machine, dom0, b"m")
    assert lines[1].endswith(f"{machine.hv.memory_frames} frames of 4 KiB, {machine.hv.free_frames} free")
    counts = [int(line.rpartition(":")[2]) for line in lines[2:]]
    assert sum(counts) == machine.hv.memory_frames - machine.hv.free_frames


def test_every_domain_and_its_vcpus_are_reported(
    machine: InProcess, dom0: Kernel, guest: PythonDomain
) -> None:
    lines = report(machine, dom0, b"q")
    for domid in (0, guest.gate.domid):
        assert f"General information for domain {domid}:" in lines
    assert sum("VCPU0" in line for line in lines) == 2
    assert lines[-1] == "  2 domains"


def test_pools_their_cpus_and_their_domains_are_reported(
    machine: InProcess, dom0: Kernel, guest: PythonDomain
) -> None:
    hv, domid = machine.hv, guest.gate.domid
    control = hv.run.pool_control
    other = control.create(make_scheduler("rtds"))
    last = hv.nr_cpus - 1
    control.remove_cpu(last, control.pools.first, hv.now())
    control.add_cpu(last, other, hv.now())
    control.move_domain(domid, other, hv.now())
    control.set_affinity(hv.domains[domid].vcpus[0].unit, hv.now(), soft=0)
    lines = report(machine, dom0, b"r")
    place = next(number for number, line in enumerate(lines) if line.startswith("Cpupool 1: rtds"))
    assert any("    CPU0: d0v0" in line for line in lines[:place])
    assert any(line.startswith("    d0: CreditParams(weight=256") for line in lines[:place])
    assert any(line.startswith(f"    d{domid}: RtdsParams(period_us=10000") for line in lines[place:])
    assert any(f"hard={(1 << hv.nr_cpus) - 1:#x} soft=0x0" in line for line in lines[place:])
    assert any("missed 0" in line for line in lines[place:])
    assert any("credit 10.000 ms" in line for line in lines[:place])
    assert lines[-1] == "  2 CPU pools"


def test_a_long_report_goes_on_after_the_others_had_their_turn(machine: InProcess, dom0: Kernel) -> None:
    """Q4: no report holds the core for more than its slice of lines."""
    for _ in range(2 * LINES_A_SLICE):
        dom0.events.alloc_unbound(DOM0)
    waited: list[int] = []
    go_on = machine.dispatcher.go_on

    def counted() -> None:
        waited.append(len(machine.hv.log.read().splitlines()))
        go_on()

    machine.dispatcher.go_on = counted  # type: ignore[method-assign]
    lines = report(machine, dom0, b"e")
    assert waited == [LINES_A_SLICE, 2 * LINES_A_SLICE]
    assert lines[-1] == f"  domain 0: {machine.hv.domains[DOM0].events.active} ports, 4095 at most"


def test_keys_are_reported_in_their_order_and_those_that_mean_nothing_are_passed_over(
    machine: InProcess, dom0: Kernel
) -> None:
    pressed = [line[1] for line in report(machine, dom0, b"m!\xffh") if " pressed -> " in line]
    assert pressed == ["m", "h"]
    assert len(report(machine, dom0, b"h")) == 1 + len(KEYS)
    assert report(machine, dom0, b"") == []


@pytest.mark.parametrize(
    ("keys", "nr_keys", "errno"),
    [(VAddr(0), 1, Errno.EFAULT), (VAddr(0), MAX_KEYS_A_CALL + 1, Errno.E2BIG)],
)
def test_keys_that_cannot_be_read_are_refused(
    machine: InProcess, dom0: Kernel, keys: VAddr, nr_keys: int, errno: Errno
) -> None:
    with pytest.raises(XenError) as refused:
        dom0.hypercalls.hypercall_sysctl(press_op(keys, nr_keys))
    assert refused.value.errno is errno
    assert b" pressed -> " not in machine.hv.log.read()


def test_a_guest_may_press_no_key(machine: InProcess, guest: PythonDomain) -> None:
    """V1: what the report tells is of all domains."""
    kernel = guest.boot()
    with pytest.raises(XenError) as refused:
        kernel.hypercalls.hypercall_sysctl(press_op(VAddr(0), 0))
    assert refused.value.errno is Errno.EPERM


def press_op(keys: VAddr, nr_keys: int) -> xen_sysctl:
    pressed = xen_sysctl_debug_keys(keys=keys, nr_keys=nr_keys)
    return xen_sysctl(
        cmd=XEN_SYSCTL_debug_keys,
        interface_version=XEN_SYSCTL_INTERFACE_VERSION,
        u=xen_sysctl_u(debug_keys=pressed),
    )
