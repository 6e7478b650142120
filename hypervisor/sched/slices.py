"""Slices: which units hold the machine's emulated CPUs.

              wake                 pick                expire, victim
    blocked ───────► runnable ───────────────► running ───────────► runnable (after it stopped)
       ▲                ▲                       │  │
       └── sleep ───────┴───────────────────────┘  └─ sleep ─► blocked / offline

Invariants: at most one unit a CPU; a unit that runs does not wait in its scheduler; no CPU idles while a unit of its pool
waits that `may_run` on it, unless the policy `holds_back` that unit (a cap, a budget, a frame). Of one domain at most one
unit runs, for its process is one thread.

The units of a domain that are runnable stand in a line (sched/siblings.py). After TURN_NS one stops for the next in the
line, which has the rest of the slice (`Scheduler.relay`): to the policy the domain ran on. `yield_to` says which sibling is next.

A unit whose slice is over is asked to stop (`preempt`) and comes back through `yield_`. One that does not within OVERRUN_NS,
because its process hangs or will not, is its owner's to take off (`overrun`), through `yield_` or `sleep`.

Each CPU and each domain belongs to a pool (sched/pools.py), and each pool has its scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hypervisor.machine.trace import Trace
from hypervisor.public.trace import TRC_SCHED_SWITCH_INFNEXT, TRC_SCHED_SWITCH_INFPREV
from hypervisor.public.vcpu import RunState
from hypervisor.sched.busy_times import BusyTimes
from hypervisor.sched.placement import attracted, displaced, preferred
from hypervisor.sched.pools import Pools
from hypervisor.sched.scheduler import Scheduler, SchedUnit
from hypervisor.sched.siblings import Siblings, can_inherit

OVERRUN_NS: Final = 20_000_000
"""How long a unit may take to stop after it was asked to."""
TURN_NS: Final = 4_000_000
"""How long a unit runs before a sibling that waits has its turn. A change of turns costs some 0.2 ms; a unit that waits for a
sibling says so by an IPI, a yield or a poll."""
RUNNING: Final = RunState.RUNSTATE_running
RUNNABLE: Final = RunState.RUNSTATE_runnable


class Slices:
    """`resume(unit)`: it holds a CPU from now on. `preempt(unit)`: it is to stop. `overrun(unit)`: it did not in time, and its
    owner is to take it off. All are run control's (domain/run_control.py). `scheduler`: that of pool 0, which has all CPUs
    at first.
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
        self.pools = Pools(nr_cpus, scheduler)
        self.cpus: list[SchedUnit | None] = [None] * nr_cpus
        self._resume = resume
        self._preempt = preempt
        self._overrun = overrun
        self._trace = trace or Trace()
        self.siblings = Siblings()
        self.drawn: Callable[[int], int] = lambda ns: ns
        """On a machine that repeats itself: how much of a slice or turn of so many ns is given, by the seed's choice."""
        self.busy = BusyTimes(nr_cpus)
        for cpu in range(nr_cpus):
            self.pools.assign(cpu, self.pools.first)
            scheduler.cpu_add(cpu, 0)

    def scheduler_of(self, domid: int) -> Scheduler:
        """The scheduler of the domain's pool, which has the domain's parameters (`params`, `adjust`)."""
        return self.pools.of_domain(domid).scheduler

    # --- units come and go -----------------------------------------------------------------------

    def add(self, unit: SchedUnit, now: int) -> None:
        """A unit that sleeps is known from now on. No-op for one that is."""
        if self.siblings.add(unit):
            self.scheduler_of(unit.domid).add(unit, now)

    def forget(self, unit: SchedUnit, now: int) -> None:
        """`unit` will never run again; it sleeps."""
        self.scheduler_of(unit.domid).forget(unit, now)
        if self.siblings.forget(unit):
            self.pools.forget_domain(unit.domid)
        self.fill(now)

    # --- running and waiting ---------------------------------------------------------------------

    def wake(self, unit: SchedUnit, now: int) -> None:
        """`unit` has something to do. No-op unless it sleeps."""
        if unit.runstate.state in (RUNNING, RUNNABLE):
            return
        self.add(unit, now)
        unit.runstate.change(RUNNABLE, now)
        self.siblings.join(unit)
        self.scheduler_of(unit.domid).insert(unit, now, woken=True)
        self.place(unit, now)

    def sleep(self, unit: SchedUnit, now: int, state: RunState = RunState.RUNSTATE_blocked) -> None:
        """`unit` gives its CPU up, or its place in the queue, until it is woken."""
        self.scheduler_of(unit.domid).remove(unit, now)
        unit.runstate.change(state, now)
        self.siblings.leave(unit)
        if unit.cpu is not None:
            cpu = unit.cpu
            self._release(unit)
            self._offer(cpu, now)
            if self.siblings.are_runnable(unit.domid):
                self.fill(now)  # one of them may have any

    def yield_(self, unit: SchedUnit, now: int) -> None:
        """`unit` stopped with work left: a sibling has the rest of its slice, or the others' turn has come."""
        cpu = unit.cpu
        if unit.runstate.state is not RUNNING or cpu is None:
            return
        scheduler = self.scheduler_of(unit.domid)
        self.siblings.had_its_turn(unit)
        unit.runstate.change(RUNNABLE, now)
        goes_on = now < unit.slice_end and not unit.frozen and self._at_home(unit)
        heir = self.siblings.heir(unit, cpu) if goes_on else None
        unit.heir = None
        if heir is not None and scheduler.relay(unit, heir, now):
            self._release(unit)
            unit.yielding = False
            self._run(heir, cpu, unit.slice_end - now, now, strict=unit.strict)
            return
        contended = scheduler.waits_for(cpu)
        scheduler.insert(unit, now, woken=False)
        self._release(unit)
        order = preferred(self.cpus, unit, self.pools.of_domain(unit.domid))
        if contended and cpu in order:  # nobody but this unit wants the free ones
            order.remove(cpu)
            order.append(cpu)
        self.fill(now, order)

    def yield_to(self, unit: SchedUnit, sibling: SchedUnit, now: int) -> bool:
        """Have `unit`, which runs, stop for a sibling that waits, which gets the rest of its slice (a vCPU sent another one
        an IPI).

        False, and nothing happens: the sibling does not wait, may not run on that CPU, or `unit` does not run or stops already.
        """
        cpu = unit.cpu
        if cpu is None or unit.preempting or not can_inherit(sibling, unit, cpu):
            return False
        unit.heir = sibling
        self._stop(unit, now)
        return True

    def thawed(self, unit: SchedUnit, now: int) -> None:
        """The process of `unit`, which was frozen, goes on; if the unit has no CPU, its siblings may have one."""
        unit.frozen = False
        if unit.cpu is None:
            self.siblings.stopped(unit)
            self.fill(now)

    def ask(self, unit: SchedUnit, now: int) -> None:
        """Ask a running unit to stop; its slice is over."""
        unit.slice_end = min(unit.slice_end, now)
        self._stop(unit, now)

    # --- time ------------------------------------------------------------------------------------

    def expire(self, now: int) -> bool:
        """Ask the units to stop whose slice is over, if others wait, or whose turn is; those that were asked in vain have
        overrun it. Let the schedulers do what is due. Whether there was anything to do.
        """
        found = self._tick(now)
        for unit in list(self.cpus):
            end = self._end(unit) if unit is not None else None
            if unit is None or end is None or now < end:
                continue
            found = True
            if unit.preempting:
                self._overrun(unit)
            else:
                self._stop(unit, now)
        return found

    def next_deadline(self) -> int | None:
        """When `expire` is next of use, ns; None while nobody waits or was asked to stop, and no scheduler plans anything."""
        first = self.pools.next_event()
        for unit in self.cpus:
            end = self._end(unit) if unit is not None else None
            if end is not None and (first is None or end < first):
                first = end
        return first

    def _end(self, unit: SchedUnit) -> int | None:
        """When a running unit is to be asked to stop, or has overrun; None: not while things are as they are."""
        if unit.preempting:
            return unit.deadline
        scheduler, cpu = self.scheduler_of(unit.domid), unit.cpu
        end = None
        if unit.strict or (cpu is not None and scheduler.waits_for(cpu)):
            end = unit.slice_end
        if scheduler.rotates and self.siblings.wait_for(unit) and (end is None or unit.turn_end < end):
            end = unit.turn_end
        return end

    def _tick(self, now: int) -> bool:
        found = False
        for pool in self.pools.by_id.values():
            event = pool.scheduler.next_event()
            if event is not None and event <= now:
                found = True
                ready = pool.scheduler.tick(now)
                self.fill(now)
                for unit in ready:
                    self._make_room(unit, now)
        return found

    def _stop(self, unit: SchedUnit, now: int) -> None:
        unit.preempting = True
        unit.deadline = now + OVERRUN_NS
        self._preempt(unit)

    def _at_home(self, unit: SchedUnit) -> bool:
        """Whether the CPU that the unit has is its pool's."""
        return unit.cpu is not None and self.pools.of_cpu(unit.cpu) is self.pools.of_domain(unit.domid)

    # --- the CPUs --------------------------------------------------------------------------------

    def _run(self, unit: SchedUnit, cpu: int, slice_ns: int, now: int, *, strict: bool) -> None:
        self.cpus[cpu] = unit
        unit.cpu = unit.last_cpu = cpu
        unit.slice_end, unit.turn_end, unit.strict = now + slice_ns, now + self.drawn(TURN_NS), strict
        unit.preempting = False
        self.siblings.runs(unit)
        unit.runstate.change(RUNNING, now)
        self.busy.takes(unit, cpu)
        if self._trace.sink is not None:
            self._trace.record(TRC_SCHED_SWITCH_INFNEXT, unit.domid, unit.vcpu_id, cpu)
        self._resume(unit)

    def _release(self, unit: SchedUnit) -> None:
        if unit.cpu is not None:
            if self._trace.sink is not None:
                self._trace.record(TRC_SCHED_SWITCH_INFPREV, unit.domid, unit.vcpu_id)
            self.busy.leaves(unit.cpu)
            self.cpus[unit.cpu] = None
            unit.cpu = None
            if not unit.frozen:
                self.siblings.stopped(unit)

    def fill(self, now: int, first: Sequence[int] = ()) -> None:
        """Give all free CPUs away that somebody may have, these `first`."""
        for cpu in first:
            self._offer(cpu, now)
        if None in self.cpus:
            for cpu in range(len(self.cpus)):
                self._offer(cpu, now)

    def _offer(self, cpu: int, now: int) -> None:
        """If the CPU is free: whoever is next has it; if nobody waits for it, a unit that prefers it to its own is asked to
        come.
        """
        pool = self.pools.of_cpu(cpu)
        if self.cpus[cpu] is not None or pool is None:
            return
        turn = pool.scheduler.pick(cpu, now)
        if turn is not None:
            slice_ns = turn.slice_ns if turn.strict else self.drawn(turn.slice_ns)
            self._run(turn.unit, cpu, slice_ns, now, strict=turn.strict)
        elif (unit := attracted(self.cpus, cpu, pool)) is not None:
            self.ask(unit, now)

    def place(self, unit: SchedUnit, now: int) -> None:
        """A unit that began to wait gets a free CPU, for which nobody else waits, or perhaps another one's."""
        for cpu in preferred(self.cpus, unit, self.pools.of_domain(unit.domid)):
            self._offer(cpu, now)
            if unit.cpu is not None:
                return
        self._make_room(unit, now)

    def _make_room(self, unit: SchedUnit, now: int) -> None:
        """If the unit waits still: a unit that could run on a free CPU goes there, or the policy's victim gives way."""
        scheduler = self.scheduler_of(unit.domid)
        if unit.runstate.state is not RUNNABLE or scheduler.holds_back(unit, now):
            return
        mover = displaced(self.cpus, unit, self.pools.of_domain(unit.domid))
        victim, when = (mover, now) if mover is not None else scheduler.victim(unit, now) or (None, now)
        if victim is not None and not victim.preempting:
            victim.slice_end = min(victim.slice_end, when)
            if when <= now:
                self.ask(victim, now)
