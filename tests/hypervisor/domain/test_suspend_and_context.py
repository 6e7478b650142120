"""Shutdown codes, cancelled suspends, and a stopped vCPU's registers as the control domain sees them.

Source: Xen common/domain.c (domain_shutdown, domain_resume), common/sched/core.c (SCHEDOP_shutdown_code), arch/x86/domctl.c
(arch_get_info_guest), arch/x86/domain.c (arch_set_info_guest).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hypervisor.core import Core
from hypervisor.domain import timer_actions
from hypervisor.domain.context import check_context_64
from hypervisor.domain.run_state import Run
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_destroydomain,
    XEN_DOMCTL_getvcpucontext,
    XEN_DOMCTL_pausedomain,
    XEN_DOMCTL_resumedomain,
    xen_domctl,
    xen_domctl_u,
)
from hypervisor.public.domctl_vcpu import xen_domctl_vcpucontext
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.layout import Struct
from hypervisor.public.sched import (
    SCHEDOP_block,
    SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown,
    SCHEDOP_shutdown_code,
    SHUTDOWN_poweroff,
    SHUTDOWN_suspend,
    sched_remote_shutdown,
    sched_shutdown,
)
from hypervisor.public.types import VAddr
from hypervisor.public.vcpu import VCPUOP_register_runstate_memory_area, vcpu_register_runstate_memory_area
from hypervisor.public.xen import (
    Hypercall,
    VMASST_CMD_enable,
    VMASST_TYPE_writable_pagetables,
)
from hypervisor.sched.timers import TimerKind
from hypervisor.wire.messages import Effect, Request
from tests.inprocess import BLOCKED, Built, InProcess, hypervisor_in_process

IOPL = 3 << 12


class House:
    """Dom0 and a guest; the guest's process is played here."""

    def __init__(self, machine: InProcess) -> None:
        self.machine = machine
        self.hv = machine.hv
        self.dom0 = machine.build(privileged=True)
        self.guest = machine.build()

    def call(self, caller: Built, nr: int, cmd: int, record: Struct) -> int | object:
        self.hv.mmu.guest.copy_to_guest(caller.vcpu.mem, caller.scratch, record.pack())
        return self.machine.hypercall(caller.vcpu, nr, cmd, caller.scratch)

    def sched_op(self, caller: Built, cmd: int, record: Struct) -> int | object:
        return self.call(caller, Hypercall.sched_op, cmd, record)

    def domctl(self, cmd: int, arguments: xen_domctl_u | None = None) -> int | object:
        op = xen_domctl(
            cmd=int(cmd),
            interface_version=XEN_DOMCTL_INTERFACE_VERSION,
            domain=self.guest.domain.domid,
            u=arguments or xen_domctl_u(),
        )
        at = self.dom0.scratch
        self.hv.mmu.guest.copy_to_guest(self.dom0.vcpu.mem, at, op.pack())
        return self.machine.hypercall(self.dom0.vcpu, Hypercall.domctl, at)

    def saves_its_registers(self, **changed: int) -> None:
        """The guest's process answers SAVE_CONTEXT."""
        vcpu = self.guest.vcpu
        context = vcpu_guest_context.unpack(vcpu.context)
        regs = context.user_regs
        for name, value in changed.items():
            setattr(regs, name, value)
        context.user_regs = regs
        self.hv.saving.context_saved(vcpu, vcpu.run.seq + 1, context.pack())

    def context(self) -> vcpu_guest_context:
        """What XEN_DOMCTL_getvcpucontext shows; the process, asked for registers, has the hypercall's number in rax."""
        processes, at = self.machine.processes, self.dom0.scratch + 4096
        processes.ask_to_save = lambda vcpu: self.saves_its_registers(rax=29)  # type: ignore[method-assign]
        arguments = xen_domctl_u(vcpucontext=xen_domctl_vcpucontext(vcpu=0, ctxt=at))
        assert self.domctl(XEN_DOMCTL_getvcpucontext, arguments) == 0
        raw = self.hv.mmu.guest.copy_from_guest(self.dom0.vcpu.mem, at, vcpu_guest_context.sizeof)
        return vcpu_guest_context.unpack(raw)


@pytest.fixture
def house() -> Iterator[House]:
    with hypervisor_in_process() as machine:
        yield House(machine)


def test_the_shutdown_code_that_was_set_first_stays(house: House) -> None:
    code = sched_shutdown(reason=int(SHUTDOWN_suspend))
    domain = house.guest.domain
    assert house.sched_op(house.guest, SCHEDOP_shutdown_code, code) == 0
    remote = sched_remote_shutdown(domain_id=domain.domid, reason=int(SHUTDOWN_poweroff))
    assert house.sched_op(house.dom0, SCHEDOP_remote_shutdown, remote) == 0
    assert domain.is_shut_down
    assert domain.shutdown_code == SHUTDOWN_suspend


def test_a_cancelled_suspend_is_answered_one(house: House) -> None:
    vcpu = house.guest.vcpu
    assert (
        house.sched_op(house.guest, SCHEDOP_shutdown, sched_shutdown(reason=int(SHUTDOWN_suspend))) is BLOCKED
    )
    assert house.domctl(XEN_DOMCTL_resumedomain) == 0
    assert house.machine.processes.results[vcpu] == 1
    assert house.guest.domain.shutdown_code is None
    assert house.machine.hypercall(vcpu, Hypercall.set_timer_op, 0) == 0


def test_a_domain_that_others_shut_down_keeps_its_answer_when_it_is_resumed(house: House) -> None:
    domain = house.guest.domain
    house.hv.run.domain_pause(domain)
    assert house.machine.hypercall(house.guest.vcpu, Hypercall.set_timer_op, 0) is BLOCKED
    house.hv.shutdown(domain, int(SHUTDOWN_suspend))
    house.hv.run.domain_unpause(domain)
    assert house.domctl(XEN_DOMCTL_resumedomain) == 0
    assert house.machine.processes.results[house.guest.vcpu] == 0


def test_the_result_of_a_hypercall_is_in_rax(house: House) -> None:
    """The process has the hypercall's number there until it has the answer."""
    vcpu = house.guest.vcpu
    assert house.machine.hypercall(vcpu, Hypercall.set_timer_op, 0) == 0
    assert house.domctl(XEN_DOMCTL_pausedomain) == 0
    house.hv.run.request(vcpu, vcpu.run.seq + 1, int(Hypercall.sched_op))
    house.hv.run.answer(vcpu, -int(Errno.EINVAL))
    assert house.context().user_regs.rax == (1 << 64) - int(Errno.EINVAL)


def test_a_vcpu_that_blocks_shows_the_zero_that_it_will_get(house: House) -> None:
    vcpu = house.guest.vcpu
    assert house.machine.hypercall(vcpu, Hypercall.sched_op, int(SCHEDOP_block)) is BLOCKED
    assert house.domctl(XEN_DOMCTL_pausedomain) == 0
    assert house.context().user_regs.rax == 0
    assert vcpu.run.state is Run.BLOCKED


def test_a_vcpu_that_never_ran_shows_the_registers_it_was_given(house: House) -> None:
    """It was once asked to stop, without end: there is nobody who could."""
    vcpu = house.guest.vcpu
    assert vcpu.run.state is Run.NEW
    assert house.domctl(XEN_DOMCTL_pausedomain) == 0
    given = vcpu_guest_context.unpack(vcpu.context)
    assert house.context().user_regs.rip == given.user_regs.rip


def test_vm_assist_is_the_domains(house: House) -> None:
    kind = int(VMASST_TYPE_writable_pagetables)
    vcpu = house.guest.vcpu
    assert house.machine.hypercall(vcpu, Hypercall.vm_assist, int(VMASST_CMD_enable), kind) == 0
    assert [Effect.VM_ASSIST, house.guest.domain.vm_assist] in house.machine.processes.effects[vcpu]
    assert house.domctl(XEN_DOMCTL_pausedomain) == 0
    house.hv.run.request(vcpu, vcpu.run.seq + 1, int(Request.STOPPED))
    house.hv.run.answer(vcpu, 0)
    assert house.context().vm_assist >> kind & 1


def test_the_io_privilege_level_reaches_the_process() -> None:
    context = vcpu_guest_context()
    regs = context.user_regs
    regs.rflags = IOPL
    context.user_regs = regs
    assert check_context_64(context.pack()).user_regs.rflags & IOPL == IOPL


@pytest.mark.parametrize(
    ("number", "value"), [(0, 0xFFFF_8000_0000_0000), (3, 1 << 63), (6, 1 << 32), (7, 1 << 32)]
)
def test_debug_registers_that_no_guest_can_have_are_refused(number: int, value: int) -> None:
    context = vcpu_guest_context()
    context.debugreg = tuple(value if number == n else 0 for n in range(8))
    with pytest.raises(XenError, match="D4"):
        check_context_64(context.pack())


def test_destroying_a_domain_ends_well_when_it_is_gone_between_two_portions(house: House) -> None:
    domain, dispatcher = house.guest.domain, house.machine.dispatcher
    op = xen_domctl(
        cmd=int(XEN_DOMCTL_destroydomain), interface_version=XEN_DOMCTL_INTERFACE_VERSION, domain=domain.domid
    )
    caller = house.dom0.vcpu
    house.hv.mmu.guest.copy_to_guest(caller.mem, house.dom0.scratch, op.pack())
    house.hv.run.request(caller, caller.run.seq + 1, int(Hypercall.domctl))
    dispatcher.hypercall(caller, Hypercall.domctl, (house.dom0.scratch, 0, 0, 0, 0), 0)
    assert house.hv.run.continuations, "it was taken apart at once: nothing is tested here"
    house.machine.destroy(domain)
    assert domain.domid not in house.hv.domains
    dispatcher.go_on()
    assert house.machine.processes.results[caller] == 0


@pytest.mark.parametrize(("area", "result"), [(0x7000_0000_0000, 0), (0xFFFF_8000_0000_0000, -Errno.EFAULT)])
def test_a_runstate_area_that_is_not_mapped_is_remembered(house: House, area: int, result: int) -> None:
    """Xen refuses only what lies in its own range: the guest may map the page later."""
    vcpu = house.guest.vcpu
    record = vcpu_register_runstate_memory_area()
    address = record.addr
    address.v = VAddr(area)
    record.addr = address
    house.hv.mmu.guest.copy_to_guest(vcpu.mem, house.guest.scratch, record.pack())
    answer = house.machine.hypercall(
        vcpu, Hypercall.vcpu_op, int(VCPUOP_register_runstate_memory_area), 0, house.guest.scratch
    )
    assert answer == result
    assert vcpu.runstate_area == (0 if result else area)


def test_a_bug_in_a_timers_action_ends_its_domain_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The core's loop once had no guard: any exception there ended the machine."""

    def fails(*_: object) -> None:
        raise OverflowError("timeout is too large")

    monkeypatch.setitem(timer_actions.TIMER_ACTIONS, TimerKind.SINGLESHOT, fails)
    core = Core.__new__(Core)
    core.hv = house.hv
    assert house.machine.hypercall(house.guest.vcpu, Hypercall.set_timer_op, 1) == 0
    assert core._run_timers()
    assert house.guest.domain.is_shut_down
    assert not house.dom0.domain.is_shut_down
    assert b"hypervisor bug in a timer SINGLESHOT" in house.hv.log.read()


def test_what_the_ends_of_slices_take_is_not_told_of_the_next_request(house: House) -> None:
    """Under a schedule whose frames begin while nobody asks, they added up to a request of 60 ms."""
    core = Core.__new__(Core)
    core.hv = house.hv
    house.hv.busiest.reset()
    sum(range(400_000))
    core._run_timers()
    house.hv.busiest.lap("the next request")
    assert house.hv.busiest.what == "the end of a slice"
