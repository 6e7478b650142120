"""What a vCPU may do to a sibling, and where what concerns the whole process goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hypervisor.domain.run_state import Run
from hypervisor.machine.clock import time_info
from hypervisor.public.errno import Errno
from hypervisor.public.event_channel import EventChannelOp, evtchn_bind_ipi, evtchn_send, evtchn_unmask
from hypervisor.public.layout import Struct
from hypervisor.public.sched import SCHEDOP_block, SHUTDOWN_poweroff
from hypervisor.public.types import Mfn
from hypervisor.public.vcpu import (
    VCPUOP_down,
    VCPUOP_get_physid,
    VCPUOP_is_up,
    VCPUOP_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area,
    VCPUOP_up,
    vcpu_register_time_memory_area,
    vcpu_register_time_memory_area_addr,
    vcpu_register_vcpu_info,
)
from hypervisor.public.xen import Hypercall, vcpu_time_info
from hypervisor.wire.messages import Effect, Request
from tests.inprocess import BLOCKED, InProcess, hypervisor_in_process

XEN_SPACE = 0xFFFF_8000_0000_0000


class Pair:
    """A domain with two vCPUs, which run."""

    def __init__(self, machine: InProcess) -> None:
        self.machine = machine
        self.built = machine.build(nr_vcpus=2)
        self.domain = self.built.domain
        self.first, self.second = self.domain.vcpus
        self.second.initialised = True

    def call(self, nr: int, *args: int, record: Struct | None = None) -> int | object:
        """By vCPU 0; `record` is the last argument."""
        if record is not None:
            self.machine.hv.mmu.guest.copy_to_guest(self.first.mem, self.built.scratch, record.pack())
            args = (*args, self.built.scratch)
        return self.machine.hypercall(self.first, nr, *args)

    def vcpu_op(self, cmd: int, vcpu: int, record: Struct | None = None) -> int | object:
        return self.call(Hypercall.vcpu_op, cmd, vcpu, record=record)

    def event_op(self, cmd: EventChannelOp, record: Struct) -> int | object:
        return self.call(Hypercall.event_channel_op, cmd, record=record)

    def effects(self) -> list[Any]:
        """Of vCPU 0's last answer."""
        return self.machine.processes.effects[self.first]

    def bring_up(self) -> None:
        """vCPU 1 runs, and asks for nothing yet."""
        assert self.vcpu_op(VCPUOP_up, 1) == 0
        self.machine.hv.run.request(self.second, 1, -1)

    def ipi(self) -> int:
        """A port bound to vCPU 1."""
        assert self.event_op(EventChannelOp.EVTCHNOP_bind_ipi, evtchn_bind_ipi(vcpu=1)) == 0
        raw = self.machine.hv.mmu.guest.copy_from_guest(self.first.mem, self.built.scratch, 8)
        return evtchn_bind_ipi.unpack(raw).port


@pytest.fixture
def pair() -> Iterator[Pair]:
    with hypervisor_in_process() as machine:
        yield Pair(machine)


def test_the_last_vcpu_that_goes_down_ends_the_domain(pair: Pair) -> None:
    assert pair.vcpu_op(VCPUOP_up, 1) == 0
    assert pair.vcpu_op(VCPUOP_down, 1) == 0
    assert (pair.vcpu_op(VCPUOP_is_up, 0), pair.vcpu_op(VCPUOP_is_up, 1)) == (1, 0)
    assert pair.vcpu_op(VCPUOP_down, 0) is BLOCKED
    assert (pair.domain.is_shut_down, pair.domain.shutdown_code) == (True, SHUTDOWN_poweroff)


def test_a_siblings_vcpu_info_moves_at_once(pair: Pair) -> None:
    """The caller sets words in it before it brings the sibling up, as Linux does: so it goes with the caller's answer."""
    info = vcpu_register_vcpu_info(mfn=int(pair.built.p2m[-1]), offset=128)
    assert pair.vcpu_op(VCPUOP_register_vcpu_info, 1, info) == 0
    assert [Effect.VCPU_INFO, 1, info.mfn, 128] in pair.effects()


def test_what_concerns_the_process_goes_with_the_first_answer_to_anybody(pair: Pair) -> None:
    pair.call(Hypercall.xen_version, 0)
    mfn = Mfn(int(pair.built.p2m[-1]))
    pair.second.mem.cpu.flush_code(mfn)
    pair.call(Hypercall.xen_version, 0)
    assert pair.effects() == [[Effect.FLUSH_CODE, mfn, 1]]
    assert len(pair.domain.effects) == 0


def test_a_port_of_a_sibling_that_is_unmasked_wakes_it(pair: Pair) -> None:
    port = pair.ipi()
    pair.bring_up()
    pair.machine.hv.run.vcpu_block(pair.second)
    assert pair.event_op(EventChannelOp.EVTCHNOP_unmask, evtchn_unmask(port=port)) == 0
    assert [Effect.EVTCHN_UNMASK, port, 1] in pair.effects()
    assert pair.second.run.state is not Run.BLOCKED


def test_an_ipi_gives_its_vcpu_the_next_turn(pair: Pair) -> None:
    """vCPU 0 is answered only when vCPU 1, which had waited for its turn, asks or is stopped."""
    port = pair.ipi()
    pair.bring_up()
    pair.machine.hv.run.answer(pair.second, 0)
    assert pair.second.run.state is Run.ANSWERED
    assert pair.event_op(EventChannelOp.EVTCHNOP_send, evtchn_send(port=port)) is BLOCKED
    states = pair.first.run.state, pair.second.run.state
    assert states == (Run.ANSWERED, Run.GUEST)
    pair.machine.hv.run.request(pair.second, 2, Hypercall.sched_op)
    pair.machine.dispatcher.hypercall(pair.second, Hypercall.sched_op, (SCHEDOP_block, 0, 0, 0, 0), 1)
    assert pair.first.run.state is Run.GUEST


@pytest.mark.parametrize("crashes", [False, True])
def test_nobody_goes_on_in_the_place_of_one_whose_domain_stops(pair: Pair, crashes: bool) -> None:
    """The process of a domain that crashed expects no answer; a sibling of a paused vCPU has nothing to run for."""
    pair.bring_up()
    pair.machine.hv.run.answer(pair.second, 0)
    assert (pair.first.run.state, pair.second.run.state) == (Run.GUEST, Run.ANSWERED)
    pair.machine.hv.run.request(pair.first, pair.first.run.seq + 1, int(Request.CRASH))
    if crashes:
        pair.machine.hv.crash(pair.domain, "it broke a rule")
    else:
        pair.machine.hv.run.domain_pause(pair.domain)
    pair.machine.hv.run.answer(pair.first, 0)
    assert (pair.first.run.state, pair.second.run.state) == (Run.ANSWERED, Run.ANSWERED)


def test_an_ipi_to_oneself_is_answered_at_once(pair: Pair) -> None:
    assert pair.event_op(EventChannelOp.EVTCHNOP_bind_ipi, evtchn_bind_ipi(vcpu=0)) == 0
    raw = pair.machine.hv.mmu.guest.copy_from_guest(pair.first.mem, pair.built.scratch, 8)
    port = evtchn_bind_ipi.unpack(raw).port
    assert pair.event_op(EventChannelOp.EVTCHNOP_send, evtchn_send(port=port)) == 0


def test_a_time_area_tells_the_time_from_then_on(pair: Pair) -> None:
    def register(address: int) -> int | object:
        area = vcpu_register_time_memory_area(addr=vcpu_register_time_memory_area_addr(v=address))
        return pair.vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, area)

    at = pair.built.scratch + 256
    assert register(at) == 0
    raw = pair.machine.hv.mmu.guest.copy_from_guest(pair.first.mem, at, vcpu_time_info.sizeof)
    assert raw == time_info(pair.domain.mailbox.epoch).pack()
    assert register(0) == 0
    assert register(0x1000) == 0, "nothing is mapped there, and nothing is written"
    assert register(XEN_SPACE) == -Errno.EFAULT
    assert pair.vcpu_op(VCPUOP_get_physid, 0) == -Errno.EINVAL
