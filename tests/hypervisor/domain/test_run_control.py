"""Run control in every order: requests, answers, blocks, wake-ups, pauses, stops in time and too late, registers, deaths, vCPUs
that go down, come up and give their turn to a sibling.

The processes are played by the test, which knows what it has asked and what came back. Invariants: a request gets exactly one
answer, and never while its domain may not run; no wake-up is lost; the guest executes only while its vCPU holds a CPU; of a
domain at most one vCPU executes, and none while the process is stopped; a paused domain executes nothing once it was given the
time to stop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from domains.lab.in_process import StandingClock
from hypervisor.domain.domain import Vcpu
from hypervisor.domain.lifecycle import Limits, create_domain
from hypervisor.domain.run_control import vcpu_runnable
from hypervisor.domain.run_state import TRANSITIONS, Run, RunEvent
from hypervisor.public.types import Port
from hypervisor.public.vcpu import RunState
from hypervisor.sched.credit2 import CREDIT_INIT_NS
from hypervisor.sched.slices import OVERRUN_NS
from hypervisor.sched.timers import TimerKind
from hypervisor.wire.messages import ProtocolError
from tests.inprocess import InProcess, hypervisor_in_process

VCPUS = (2, 2, 1)
"""Of each domain."""
NR_CPUS = 2
SCHED_OP = 29


class Played:
    """One vCPU, and what its process and the hypervisor's handlers would know of it."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        self.asked = 0
        self.answered = 0
        self.due: int | None = None


def new_domain(machine: InProcess, nr_vcpus: int) -> list[Played]:
    """The vCPUs of a domain that runs."""
    hv = machine.hv
    domain = create_domain(hv, hv.free_domid(), max_pages=64, limits=Limits(nr_vcpus=nr_vcpus))
    for vcpu in domain.vcpus:
        vcpu.up = True
    hv.run.domain_unpause(domain)
    return [Played(vcpu) for vcpu in domain.vcpus]


class RunControlMachine(RuleBasedStateMachine):
    """Three domains on two CPUs, two of them with two vCPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = StandingClock(0)
        self.machine = InProcess(nr_cpus=NR_CPUS, clock=self.clock)
        self.hv = self.machine.hv
        self.run = self.hv.run
        self.players = [player for nr_vcpus in VCPUS for player in new_domain(self.machine, nr_vcpus)]
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

    who = st.integers(0, sum(VCPUS) - 1)

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
                when = self.clock.time + timeout
                self.hv.timers.set(TimerKind.POLL, vcpu.domain.domid, vcpu.vcpu_id, when)
            self.run.vcpu_block(vcpu)

    @rule(i=who)
    def an_event_comes(self, i: int) -> None:
        player = self.players[i]
        if player.vcpu.run.state is Run.BLOCKED:
            player.due = 0
        self.hv.raise_port(player.vcpu.domain, Port(9), player.vcpu.vcpu_id)
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
        if vcpu.domain.paused and self.hv.saving.save_context(vcpu):
            assert vcpu.run.at_rest

    @rule(i=who)
    def it_sends_its_registers(self, i: int) -> None:
        vcpu = self.players[i].vcpu
        if vcpu.run.saving:
            self.hv.saving.context_saved(vcpu, vcpu.run.seq + 1, vcpu.context)
            assert vcpu.run.saved or not vcpu.run.at_rest
        else:
            with pytest.raises(ProtocolError):
                self.hv.saving.context_saved(vcpu, vcpu.run.seq + 1, vcpu.context)

    @rule(dt=st.sampled_from([1, 10_000_000, OVERRUN_NS]))
    def time_goes_on(self, dt: int) -> None:
        self.clock.time += dt
        for player in self.players:
            vcpu = player.vcpu
            due = self.hv.timers.deadline(TimerKind.POLL, vcpu.domain.domid, vcpu.vcpu_id)
            if due is not None and due <= self.clock.time:
                player.due = 0
        self.machine.background()
        self.run.slices.expire(self.clock.time)

    @rule(i=who)
    def it_dies_and_another_comes(self, i: int) -> None:
        domain = self.players[i].vcpu.domain
        places = [n for n, player in enumerate(self.players) if player.vcpu.domain is domain]
        self.frozen.discard(domain.domid)
        self.machine.destroy(domain)
        assert all(vcpu.run.state is Run.GONE for vcpu in domain.vcpus)
        for place, player in zip(places, new_domain(self.machine, len(places)), strict=True):
            self.players[place] = self.by_vcpu[player.vcpu] = player

    @rule(i=who)
    def it_goes_down(self, i: int) -> None:
        self.run.vcpu_down(self.players[i].vcpu)

    @rule(i=who)
    def it_comes_up(self, i: int) -> None:
        self.run.vcpu_up(self.players[i].vcpu)

    @rule(i=who)
    def it_gives_its_turn_to_a_sibling(self, i: int) -> None:
        vcpu = self.players[i].vcpu
        sibling = vcpu.domain.vcpus[-1 - vcpu.vcpu_id]
        if vcpu.run.state is Run.HYPERCALL and sibling is not vcpu:
            self.run.slices.yield_to(vcpu.unit, sibling.unit, self.clock.time)

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
                assert vcpu.domain.domid not in self.frozen
            states = [sibling.run.state for sibling in vcpu.domain.vcpus]
            assert states.count(Run.GUEST) + states.count(Run.FROZEN) <= 1
            assert (Run.FROZEN in states) == (vcpu.domain.domid in self.frozen)

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
                assert vcpu.domain.mailbox.stop(vcpu.vcpu_id)
                assert vcpu.unit.deadline <= self.clock.time + OVERRUN_NS

    @invariant()
    def no_cpu_idles_while_somebody_waits(self) -> None:
        slices = self.run.slices
        waits_for = slices.pools.first.scheduler.waits_for
        assert not any(waits_for(cpu) for cpu, holder in enumerate(slices.cpus) if holder is None)


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


def test_no_sibling_is_answered_while_the_process_is_stopped() -> None:
    """Negative control: let `Slices._release` free the siblings of a frozen unit, and the second vCPU is answered."""
    clock = StandingClock(0)
    machine = InProcess(nr_cpus=1, clock=clock)
    try:
        first, second = (player.vcpu for player in new_domain(machine, 2))
        other, run = machine.build().vcpu, machine.hv.run
        for vcpu in (first, second, other):
            run.request(vcpu, 1, SCHED_OP)
            run.answer(vcpu, 0)
        assert (state_of(first), state_of(second)) == (Run.GUEST, Run.ANSWERED)
        for passed in (CREDIT_INIT_NS, OVERRUN_NS):
            clock.time += passed
            run.slices.expire(clock.time)
        assert state_of(other) is Run.GUEST
        assert (state_of(first), state_of(second)) == (Run.FROZEN, Run.ANSWERED)
        run.vcpu_down(first)  # it wants no turn any more, but its process is still stopped
        run.request(other, 2, SCHED_OP)
        run.vcpu_block(other)
        assert machine.hv.run.slices.cpus == [None]
        assert state_of(second) is Run.ANSWERED
        run.request(first, 2, SCHED_OP)  # which had been sent before
        assert (state_of(first), state_of(second)) == (Run.HYPERCALL, Run.GUEST)
    finally:
        machine.close()


def test_a_snapshot_is_a_copy_of_its_own(machine: InProcess) -> None:
    run = machine.build().vcpu.run
    record = run.snapshot()
    run.seq, run.state = 7, Run.BLOCKED
    assert (record.seq, record.state) == (0, Run.NEW)
