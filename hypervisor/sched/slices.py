"""Slices: which units hold the machine's emulated CPUs.

              wake                 pick                expire, victim
    blocked ───────► runnable ───────────────► running ───────────► runnable (after it stopped)
       ▲                ▲                       │  │
       └── sleep ───────┴───────────────────────┘  └─ sleep ─► blocked / offline

Invariants: at most one unit a CPU; a unit that runs is not in the scheduler's queue; no CPU idles while a unit waits. Of one
domain at most one unit runs, for its process is one thread: its units stand in a line, the scheduler knows the first of it, and
they take turns.
A unit whose slice is over is asked to stop (`preempt`) and comes back through `yield_`. One that does not within
OVERRUN_NS, because its process hangs or will not, is its owner's to take off (`overrun`), through `yield_` or `sleep`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from hypervisor.machine.trace import Trace
from hypervisor.public.trace import TRC_SCHED_SWITCH_INFNEXT, TRC_SCHED_SWITCH_INFPREV
from hypervisor.public.vcpu import RunState
from hypervisor.sched.scheduler import Scheduler, SchedUnit

OVERRUN_NS: Final = 20_000_000
"""How long a unit may take to stop after it was asked to."""


class Slices:
    """`resume(unit)`: it holds a CPU from now on. `preempt(unit)`: it is to stop. `overrun(unit)`: it did not in time, and its
    owner is to take it off. All are run control's (domain/run_control.py).
    """

    def __init__(
        self,
        nr_cpus: int,
        scheduler: Scheduler,
        resume: Callable[[SchedUnit], None],
        preempt: Callable[[SchedUnit], None],
        overrun: Callable[[SchedUnit], None],
        trace: Trace | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.cpus: list[SchedUnit | None] = [None] * nr_cpus
        self._resume = resume
        self._preempt = preempt
        self._overrun = overrun
        self._trace = trace or Trace()
        self._lines: dict[int, deque[SchedUnit]] = {}
        """By domain: its units that run or would, the one whose turn it is first."""

    def wake(self, unit: SchedUnit, now: int) -> None:
        """`unit` has something to do. No-op unless it sleeps."""
        if unit.runstate.state in (RunState.RUNSTATE_running, RunState.RUNSTATE_runnable):
            return
        unit.runstate.change(RunState.RUNSTATE_runnable, now)
        line = self._lines.setdefault(unit.domid, deque())
        line.append(unit)
        if line[0] is not unit:
            return
        self.scheduler.insert(unit, now, woken=True)
        self._fill(now)
        if unit.cpu is None and (victim := self.scheduler.victim(unit, now)) is not None:
            self.ask(victim, now)

    def forget(self, unit: SchedUnit) -> None:
        """`unit` will never run again; it sleeps."""
        self.scheduler.forget(unit)

    def sleep(self, unit: SchedUnit, now: int, state: RunState = RunState.RUNSTATE_blocked) -> None:
        """`unit` gives its CPU up, or its place in the queue, until it is woken."""
        self.scheduler.remove(unit)
        unit.runstate.change(state, now)
        line = self._lines.get(unit.domid)
        if line is not None and unit in line:
            had_turn = line[0] is unit
            line.remove(unit)
            if not line:
                del self._lines[unit.domid]
            elif had_turn:
                self.scheduler.insert(line[0], now, woken=False)
        self._release(unit, now)

    def yield_(self, unit: SchedUnit, now: int) -> None:
        """`unit` stopped with work left: the others' turn."""
        if unit.runstate.state is not RunState.RUNSTATE_running:
            return
        unit.runstate.change(RunState.RUNSTATE_runnable, now)
        line = self._lines[unit.domid]
        if len(line) > 1:
            self.scheduler.remove(unit)
            line.rotate(-1)
        self.scheduler.insert(line[0], now, woken=False)
        self._release(unit, now)

    def expire(self, now: int) -> bool:
        """Ask the units whose slice is over to stop, if others wait; those that were asked in vain have overrun it.

        Whether there were any.
        """
        found = False
        for unit in list(self.cpus):
            if unit is None or now < unit.deadline or not self._is_timed(unit):
                continue
            found = True
            if unit.preempting:
                self._overrun(unit)
            else:
                self.ask(unit, now)
        return found

    def ask(self, unit: SchedUnit, now: int) -> None:
        """Ask a running unit to stop."""
        unit.preempting = True
        unit.deadline = now + OVERRUN_NS
        self._preempt(unit)

    def next_deadline(self) -> int | None:
        """When `expire` is next of use, ns; None while nobody waits and nobody was asked to stop."""
        first = None
        for unit in self.cpus:
            if unit is not None and self._is_timed(unit) and (first is None or unit.deadline < first):
                first = unit.deadline
        return first

    def _is_timed(self, unit: SchedUnit) -> bool:
        """Whether its deadline matters: somebody waits for its CPU or for its domain's turn, or it was asked to stop."""
        return unit.preempting or self.scheduler.waiting() or len(self._lines[unit.domid]) > 1

    def _release(self, unit: SchedUnit, now: int) -> None:
        if unit.cpu is not None:
            if self._trace.sink is not None:
                self._trace.record(TRC_SCHED_SWITCH_INFPREV, unit.domid, unit.vcpu_id)
            self.cpus[unit.cpu] = None
            unit.cpu = None
            self._fill(now)

    def _fill(self, now: int) -> None:
        for cpu, occupant in enumerate(self.cpus):
            if occupant is not None:
                continue
            picked = self.scheduler.pick(now)
            if picked is None:
                return
            unit, slice_ns = picked
            self.cpus[cpu] = unit
            unit.cpu, unit.deadline, unit.preempting = cpu, now + slice_ns, False
            unit.runstate.change(RunState.RUNSTATE_running, now)
            if self._trace.sink is not None:
                self._trace.record(TRC_SCHED_SWITCH_INFNEXT, unit.domid, unit.vcpu_id, cpu)
            self._resume(unit)
