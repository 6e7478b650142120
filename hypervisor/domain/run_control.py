"""Whether a vCPU runs: requests, answers, blocking, waking and pausing, under Xen's names.

Owns every vCPU's `run` (domain/run_state.py) and the CPUs' slices. It knows no sockets: what must reach a process leaves through
`RunPort`. Invariants: a request gets exactly one answer; an answer is sent only to a vCPU that holds a CPU and may run; whoever
may run is queued or holds a CPU. Source: Xen common/sched/core.c, common/domain.c.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from hypervisor.domain.domain import Domain, Pending, Vcpu
from hypervisor.domain.run_state import TRANSITIONS, Run, RunAction, RunEvent
from hypervisor.machine.counters import Counters
from hypervisor.machine.trace import Trace
from hypervisor.public.vcpu import RunState
from hypervisor.sched.pool_control import PoolControl
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.slices import Slices
from hypervisor.sched.timers import TimerKind, Timers
from hypervisor.wire.messages import ProtocolError

RUNNING: Final = RunState.RUNSTATE_running
OFFLINE: Final = RunState.RUNSTATE_offline
GUEST: Final = Run.GUEST  # a name of the module is found in half the time that a member of an enum takes
HYPERCALL: Final = Run.HYPERCALL
ANSWERED: Final = Run.ANSWERED
IDLE: Final = (Run.NEW, Run.BLOCKED, Run.GONE)
"""Where a vCPU has nothing to do on a CPU."""

Ways = dict[Run, tuple[Run, Callable[[Vcpu], None]]]
"""What an event does in each state: the state that follows, and what is done when it is entered."""


class RunPort(Protocol):
    """What run control asks of whoever holds the processes' connections."""

    def interrupt(self, vcpu: Vcpu) -> None:
        """Make a vCPU that runs guest code look at its mailbox."""

    def freeze(self, domain: Domain, *, frozen: bool) -> None:
        """Stop the domain's process wherever it is, or let it go on."""

    def reply(self, vcpu: Vcpu) -> None:
        """Send `vcpu.run.result` and the vCPU's effects, as the answer to request `vcpu.run.seq`."""

    def ask_to_save(self, vcpu: Vcpu) -> None:
        """Have the process of a vCPU that is in the hypervisor send its registers (Request.SAVED)."""


class RunControl:
    """`resuming(vcpu)`: it got a CPU, and goes on now."""

    def __init__(
        self,
        nr_cpus: int,
        scheduler: Scheduler,
        port: RunPort,
        timers: Timers,
        now: Callable[[], int],
        counters: Counters,
        trace: Trace,
        resuming: Callable[[Vcpu], None],
    ) -> None:
        self.slices = Slices(nr_cpus, scheduler, self._resume, self._preempt, self._overrun, trace)
        self.pool_control = PoolControl(self.slices)
        self.continuations: deque[Pending] = deque()
        """Hypercalls that used up their portion's budget and go on after the others' requests."""
        self._port = port
        self._timers = timers
        self._now = now
        self._counters = counters
        self._resuming = resuming
        self._vcpus: dict[SchedUnit, Vcpu] = {}
        ways = _ways_of_events(
            {
                RunAction.NOTHING: self._nothing,
                RunAction.SLEEP: self._sleep,
                RunAction.GO_ON: self.go_on,
                RunAction.REPLY: self._reply,
                RunAction.STOP_PROCESS: self._stop_process,
                RunAction.CONTINUE_PROCESS: self._continue_process,
            }
        )
        self._on_request, self._on_answer = ways[RunEvent.REQUEST], ways[RunEvent.ANSWER]
        self._on_block, self._on_rest = ways[RunEvent.BLOCK], ways[RunEvent.REST]
        self._on_send, self._on_end = ways[RunEvent.SEND], ways[RunEvent.END]
        self._on_freeze, self._on_thaw = ways[RunEvent.FREEZE], ways[RunEvent.THAW]

    def add(self, vcpu: Vcpu) -> None:
        """A new vCPU, which is down."""
        self._vcpus[vcpu.unit] = vcpu
        self.slices.add(vcpu.unit, self._now())

    def forget(self, vcpu: Vcpu) -> None:
        """The vCPU's domain is gone."""
        self.slices.forget(vcpu.unit, self._now())
        del self._vcpus[vcpu.unit]

    # --- the state machine -----------------------------------------------------------------------

    def _enter(self, vcpu: Vcpu, ways: Ways) -> None:
        run = vcpu.run
        run.state, act = ways[run.state]
        act(vcpu)

    def _nothing(self, vcpu: Vcpu) -> None: ...

    def _sleep(self, vcpu: Vcpu) -> None:
        self.slices.sleep(vcpu.unit, self._now())

    def _reply(self, vcpu: Vcpu) -> None:
        vcpu.run.saved = False
        vcpu.domain.mailbox.set_stop(vcpu.vcpu_id, False)
        self._port.reply(vcpu)

    def _stop_process(self, vcpu: Vcpu) -> None:
        vcpu.unit.frozen = True
        self._port.freeze(vcpu.domain, frozen=True)

    def _continue_process(self, vcpu: Vcpu) -> None:
        self._port.freeze(vcpu.domain, frozen=False)
        self.slices.thawed(vcpu.unit, self._now())

    def request(self, vcpu: Vcpu, seq: int, nr: int) -> None:
        """The vCPU's process asks. Raises ProtocolError for what no honest process sends."""
        run = vcpu.run
        if seq != run.seq + 1:
            raise ProtocolError(f"request {seq} after {run.seq}")
        if run.state not in self._on_request:
            raise ProtocolError("a second request before the first was answered")
        run.seq, run.nr, run.cancelled = seq, nr, None
        self._enter(vcpu, self._on_request)

    def answer(self, vcpu: Vcpu, result: int) -> None:
        """The outstanding request has its result. No-op when the vCPU's domain died meanwhile."""
        if vcpu.run.state is HYPERCALL:
            vcpu.run.result = result
            self._enter(vcpu, self._on_answer)

    def go_on(self, vcpu: Vcpu) -> None:
        """Send the answer that is there, if the vCPU holds a CPU; else queue for a CPU."""
        unit = vcpu.unit
        if unit.runstate.state is not RUNNING:
            self.vcpu_wake(vcpu)
        elif not vcpu_runnable(vcpu):
            self.slices.sleep(unit, self._now(), OFFLINE)
        elif vcpu.run.state is ANSWERED:
            if unit.preempting:
                self.slices.yield_(unit, self._now())
            else:
                self._enter(vcpu, self._on_send)

    # --- the CPUs --------------------------------------------------------------------------------

    def _resume(self, unit: SchedUnit) -> None:
        vcpu = self._vcpus[unit]
        state = vcpu.run.state
        if state is ANSWERED:
            self._resuming(vcpu)
            self._enter(vcpu, self._on_send)
        elif state is Run.FROZEN:
            self._enter(vcpu, self._on_thaw)
            if not vcpu_runnable(vcpu):  # it is only to get to the end of its instruction
                self.slices.ask(unit, self._now())

    def _preempt(self, unit: SchedUnit) -> None:
        self.ask_to_stop(self._vcpus[unit])

    def _overrun(self, unit: SchedUnit) -> None:
        """It was asked to stop, and has not in time: its process hangs, or will not, or the host is busy."""
        vcpu = self._vcpus[unit]
        if vcpu.run.state is GUEST:
            self._counters.add("slices overrun")
            self._enter(vcpu, self._on_freeze)
        if vcpu_runnable(vcpu):
            self.slices.yield_(unit, self._now())
        else:
            self.slices.sleep(unit, self._now(), OFFLINE)

    def ask_to_stop(self, vcpu: Vcpu) -> None:
        """Have the vCPU enter the hypervisor as soon as it looks."""
        vcpu.domain.mailbox.set_stop(vcpu.vcpu_id, True)
        self.interrupt_guest(vcpu)

    # --- blocking and waking ---------------------------------------------------------------------

    def vcpu_block(self, vcpu: Vcpu, ports: tuple[int, ...] = ()) -> None:
        """SCHEDOP_block and SCHEDOP_poll: sleep until something comes."""
        vcpu.run.ports, vcpu.run.result = ports, 0
        self._enter(vcpu, self._on_block)

    def vcpu_unblock(self, vcpu: Vcpu) -> None:
        """Something came: a block or poll is answered 0, or the multicall it was in goes on. No-op for other vCPUs."""
        run = vcpu.run
        if run.state is not Run.BLOCKED:
            return
        self._timers.stop(TimerKind.POLL, vcpu.domain.domid, vcpu.vcpu_id)
        vcpu.domain.events.unpoll(vcpu.vcpu_id)
        run.ports, run.result = (), 0
        if vcpu.rest is None:
            self._enter(vcpu, self._on_answer)
        else:
            self.continuations.append(vcpu.rest)
            vcpu.rest = None
            self._enter(vcpu, self._on_rest)

    def vcpu_kick(self, vcpu: Vcpu) -> None:
        """There is something for the vCPU to look at: end its sleep, or interrupt its guest."""
        if vcpu.run.state is Run.BLOCKED:
            self.vcpu_unblock(vcpu)
        else:
            self.interrupt_guest(vcpu)

    def interrupt_guest(self, vcpu: Vcpu) -> None:
        """Make the vCPU look at its mailbox, if it executes guest code; no other is disturbed."""
        if not vcpu.run.at_rest:
            self._port.interrupt(vcpu)

    def vcpu_wake(self, vcpu: Vcpu) -> None:
        """Queue the vCPU for a CPU, if nothing keeps it from running."""
        if vcpu_runnable(vcpu):
            self.slices.wake(vcpu.unit, self._now())

    def vcpu_sleep(self, vcpu: Vcpu) -> None:
        """It may not run any more: take it off its CPU, at once when it is at rest, else as soon as it looks or by force."""
        unit = vcpu.unit
        if vcpu.run.state is GUEST:
            if not unit.preempting:
                self.slices.ask(unit, self._now())
        elif unit.runstate.state is not RunState.RUNSTATE_blocked:
            self.slices.sleep(unit, self._now(), OFFLINE)

    # --- pausing, going down, ending -------------------------------------------------------------

    def domain_sleep(self, domain: Domain) -> None:
        """None of its vCPUs may run any more. The one that has a CPU comes last: else a sibling would go on in its place."""
        for vcpu in sorted(domain.vcpus, key=lambda vcpu: vcpu.unit.cpu is not None):
            self.vcpu_sleep(vcpu)

    def domain_pause(self, domain: Domain) -> None:
        """Its vCPUs do not run until `domain_unpause` was called as often."""
        domain.pause_count += 1
        self.domain_sleep(domain)

    def domain_unpause(self, domain: Domain) -> None:
        """The counterpart of `domain_pause`."""
        domain.pause_count -= 1
        for vcpu in domain.vcpus:
            self.vcpu_wake(vcpu)

    def domain_resume(self, domain: Domain) -> None:
        """A domain that shut down runs on; the vCPU whose suspend is cancelled learns it by the answer 1."""
        domain.is_shut_down, domain.shutdown_code = False, None
        for vcpu in domain.vcpus:
            run = vcpu.run
            if run.state is ANSWERED and run.cancelled is not None:
                run.result = run.cancelled
            self.vcpu_wake(vcpu)

    def vcpu_up(self, vcpu: Vcpu) -> None:
        """VCPUOP_up."""
        vcpu.up = True
        self.vcpu_wake(vcpu)

    def vcpu_down(self, vcpu: Vcpu) -> None:
        """VCPUOP_down."""
        vcpu.up = False
        self.vcpu_sleep(vcpu)

    def end(self, vcpu: Vcpu) -> None:
        """Its domain dies: it never runs again, and no answer is sent."""
        vcpu.up, vcpu.rest, vcpu.run.saving = False, None, False
        self._enter(vcpu, self._on_end)
        self.slices.sleep(vcpu.unit, self._now(), OFFLINE)


def _ways_of_events(actions: dict[RunAction, Callable[[Vcpu], None]]) -> dict[RunEvent, Ways]:
    """The columns of the table of transitions: looked up once, and not at every request."""
    ways: dict[RunEvent, Ways] = {event: {} for event in RunEvent}
    for (state, event), (after, action) in TRANSITIONS.items():
        ways[event][state] = after, actions[action]
    return ways


def vcpu_runnable(vcpu: Vcpu) -> bool:
    """Whether the vCPU may hold a CPU now: it has something to do, is up, and its domain may run."""
    run = vcpu.run
    return vcpu.up and run.state not in IDLE and not run.saving and vcpu.domain.runnable()
