"""Run control in every order: requests, answers, blocks, wake-ups, pauses, stops in time and too late, registers, deaths.

The processes are played by the test, which knows what it has asked and what came back. Invariants: a request gets exactly one
answer, and never while its domain may not run; no wake-up is lost; the guest executes only while its vCPU holds a CPU; a paused
domain executes nothing once it was given the time to stop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from domains.lab.in_process import StandingClock
from hypervisor.domain.domain import Vcpu
from hypervisor.domain.lifecycle import create_domain
from hypervisor.domain.run_control import vcpu_runnable
from hypervisor.domain.run_state import TRANSITIONS, Run, RunEvent
from hypervisor.public.types import Port
from hypervisor.public.vcpu import RunState
from hypervisor.sched.slices import OVERRUN_NS
from hypervisor.sched.timers import TimerKind
from hypervisor.wire.messages import ProtocolError
from tests.inprocess import InProcess, hypervisor_in_process

NR_DOMAINS = 4
NR_CPUS = 2
SCHED_OP = 29


class Played:
    """One vCPU, and what its process and the hypervisor's handlers would know of it."""

    def __init__(self, machine: InProcess) -> None:
        hv = machine.hv
        self.vcpu: Vcpu = create_domain(hv, hv.free_domid(), max_pages=64).vcpus[0]
        self.vcpu.up = True
        hv.run.domain_unpause(self.vcpu.domain)
        self.asked = 0
        self.answered = 0
        self.due: int | None = None


class RunControlMachine(RuleBasedStateMachine):
    """Four domains on two CPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = StandingClock(0)
        self.machine = InProcess(nr_cpus=NR_CPUS, clock=self.clock)
        self.hv = self.machine.hv
        self.run = self.hv.run
        self.players = [Played(self.machine) for _ in range(NR_DOMAINS)]
        self.by_vcpu = {player.vcpu: player for player in self.players}
        self.frozen: set[int] = set()
        processes = self.machine.processes
        processes.reply = self.reply  # type: ignore[method-assign]
        processes.freeze = self.freeze  # type: ignore[method-assign]

    def teardown(self) -> None:
        self.machine.close()

    # --- the processes' side ---------------------------------------------------------------------

    def reply(self, vcpu: Vcpu) -> None:
        player = self.by_vcpu[vcpu]
        assert player.asked == player.answered + 1, "an answer that nobody waits for"
        assert player.due == vcpu.run.result
        assert vcpu.up
        assert vcpu.domain.runnable()
        assert vcpu.unit.runstate.state is RunState.RUNSTATE_running
        assert vcpu.domain.domid not in self.frozen
        player.answered += 1
        player.due = None
        vcpu.effects.clear()

    def freeze(self, domain: object, *, frozen: bool) -> None:
        domid = domain.domid  # type: ignore[attr-defined]
        assert frozen != (domid in self.frozen)
        (self.frozen.add if frozen else self.frozen.discard)(domid)

    # --- what happens ----------------------------------------------------------------------------

    who = st.integers(0, NR_DOMAINS - 1)

    @rule(i=who)
    def the_process_asks(self, i: int) -> None:
        player = self.players[i]
        state = player.vcpu.run.state
        if state not in (Run.NEW, Run.GUEST, Run.FROZEN):
            with pytest.raises(ProtocolError):
                self.run.request(player.vcpu, player.vcpu.run.seq + 1, SCHED_OP)
            return
        self.run.request(player.vcpu, player.vcpu.run.seq + 1, SCHED_OP)
        player.asked += 1

    @rule(i=who, result=st.integers(-40, 40))
    def it_is_answered(self, i: int, result: int) -> None:
        player = self.players[i]
        if player.vcpu.run.state is Run.HYPERCALL:
            player.due = result
            self.run.answer(player.vcpu, result)

    @rule(i=who, timeout=st.sampled_from([None, 5]))
    def it_blocks(self, i: int, timeout: int | None) -> None:
        vcpu = self.players[i].vcpu
        if vcpu.run.state is Run.HYPERCALL:
            if timeout is not None:
                self.hv.timers.set(TimerKind.POLL, vcpu.domain.domid, 0, self.clock.time + timeout)
            self.run.vcpu_block(vcpu)

    @rule(i=who)
    def an_event_comes(self, i: int) -> None:
        player = self.players[i]
        if player.vcpu.run.state is Run.BLOCKED:
            player.due = 0
        self.hv.raise_port(player.vcpu.domain, Port(9), 0)
        assert player.vcpu.run.state is not Run.BLOCKED

    @rule(i=who)
    def it_is_paused(self, i: int) -> None:
        self.run.domain_pause(self.players[i].vcpu.domain)

    @rule(i=who)
    def it_is_unpaused(self, i: int) -> None:
        domain = self.players[i].vcpu.domain
        if domain.pause_count:
            self.run.domain_unpause(domain)

    @rule(i=who)
    def it_shuts_down(self, i: int) -> None:
        self.hv.shutdown(self.players[i].vcpu.domain, 2)

    @rule(i=who)
    def it_is_resumed(self, i: int) -> None:
        domain = self.players[i].vcpu.domain
        if domain.is_shut_down:
            self.run.domain_resume(domain)

    @rule(i=who)
    def its_registers_are_wanted(self, i: int) -> None:
        vcpu = self.players[i].vcpu
        if vcpu.domain.paused and self.run.save_context(vcpu):
            assert vcpu.run.at_rest

    @rule(i=who)
    def it_sends_its_registers(self, i: int) -> None:
        vcpu = self.players[i].vcpu
        if vcpu.run.saving:
            self.run.context_saved(vcpu, vcpu.run.seq + 1, vcpu.context)
            assert vcpu.run.saved or not vcpu.run.at_rest
        else:
            with pytest.raises(ProtocolError):
                self.run.context_saved(vcpu, vcpu.run.seq + 1, vcpu.context)

    @rule(dt=st.sampled_from([1, 10_000_000, OVERRUN_NS]))
    def time_goes_on(self, dt: int) -> None:
        self.clock.time += dt
        for player in self.players:
            due = self.hv.timers.deadline(TimerKind.POLL, player.vcpu.domain.domid, 0)
            if due is not None and due <= self.clock.time:
                player.due = 0
        self.machine.background()
        self.run.slices.expire(self.clock.time)

    @rule(i=who)
    def it_dies_and_another_comes(self, i: int) -> None:
        old = self.players[i]
        self.frozen.discard(old.vcpu.domain.domid)
        self.machine.destroy(old.vcpu.domain)
        assert old.vcpu.run.state is Run.GONE
        self.players[i] = Played(self.machine)
        self.by_vcpu[self.players[i].vcpu] = self.players[i]

    # --- what holds ------------------------------------------------------------------------------

    @invariant()
    def a_request_has_one_answer(self) -> None:
        for player in self.players:
            outstanding = player.vcpu.run.state in (Run.HYPERCALL, Run.BLOCKED, Run.ANSWERED)
            assert player.asked - player.answered == outstanding

    @invariant()
    def the_guest_executes_only_on_a_cpu(self) -> None:
        for player in self.players:
            vcpu = player.vcpu
            if vcpu.run.state is Run.GUEST:
                assert vcpu.unit.cpu is not None
            assert (vcpu.run.state is Run.FROZEN) == (vcpu.domain.domid in self.frozen)

    @invariant()
    def who_may_run_is_queued_or_runs(self) -> None:
        awake = (RunState.RUNSTATE_running, RunState.RUNSTATE_runnable)
        for player in self.players:
            if vcpu_runnable(player.vcpu):
                assert player.vcpu.unit.runstate.state in awake

    @invariant()
    def who_may_not_run_was_asked_to_stop(self) -> None:
        for player in self.players:
            vcpu = player.vcpu
            if vcpu.run.state is Run.GUEST and not vcpu_runnable(vcpu):
                assert vcpu.domain.mailbox.stop(0)
                assert vcpu.unit.deadline <= self.clock.time + OVERRUN_NS

    @invariant()
    def no_cpu_idles_while_somebody_waits(self) -> None:
        assert not self.run.slices.scheduler.waiting() or None not in self.run.slices.cpus


TestRunControl = RunControlMachine.TestCase
TestRunControl.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@pytest.fixture
def machine() -> Iterator[InProcess]:
    with hypervisor_in_process() as machine:
        yield machine


def test_a_state_that_executes_the_guest_is_entered_by_an_answer_or_a_thaw_alone() -> None:
    ways = {event for (_, event), (state, _) in TRANSITIONS.items() if state is Run.GUEST}
    assert ways == {RunEvent.SEND, RunEvent.THAW}


def test_every_state_ends(machine: InProcess) -> None:
    for state in Run:
        vcpu = machine.build().vcpu
        vcpu.run.state = state
        if state is not Run.GONE:
            machine.hv.run.end(vcpu)
        assert vcpu.run.state is Run.GONE


def state_of(vcpu: Vcpu) -> Run:
    """Asked by a call, since a type checker takes an attribute for unchanged."""
    return vcpu.run.state


def test_a_paused_guest_that_will_not_stop_stays_frozen_though_others_wait() -> None:
    """It was once queued for the next slice when its time was over, and then went on although it was paused."""
    clock = StandingClock(0)
    machine = InProcess(nr_cpus=1, clock=clock)
    try:
        hog, other = machine.build(), machine.build()
        run = machine.hv.run
        run.request(hog.vcpu, 1, SCHED_OP)
        run.answer(hog.vcpu, 0)
        run.request(other.vcpu, 1, SCHED_OP)
        run.answer(other.vcpu, 0)
        assert state_of(hog.vcpu) is Run.GUEST
        run.domain_pause(hog.domain)
        clock.time += OVERRUN_NS
        run.slices.expire(clock.time)
        assert state_of(hog.vcpu) is Run.FROZEN
        assert state_of(other.vcpu) is Run.GUEST
        run.vcpu_down(other.vcpu)
        clock.time += OVERRUN_NS
        run.slices.expire(clock.time)
        assert state_of(hog.vcpu) is Run.FROZEN
    finally:
        machine.close()


def test_a_snapshot_is_a_copy_of_its_own(machine: InProcess) -> None:
    run = machine.build().vcpu.run
    record = run.snapshot()
    run.seq, run.state = 7, Run.BLOCKED
    assert (record.seq, record.state) == (0, Run.NEW)
