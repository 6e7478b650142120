"""RTDS: a vCPU has a budget of CPU time in each period; of those that have some left the one whose period ends first runs.

    period       │←── 10 ms ──→│            budget 4 ms: burned while it runs, kept while it sleeps, lost at the period's end
    budget  4 ms ┤▔╲__▔╲       │▔▔╲         used up: it waits for the next period (depleted), or with extratime
          0      ┤      ╲______│             runs on behind all that have budget (a level lower each time)

Preemptive global EDF over deferrable servers; source: Xen common/sched/rt.c. On one CPU, vCPUs that are always runnable get their
budgets before their deadlines if the sum of budget / period is at most 1. A *missed deadline* is a period at whose end a
vCPU that was runnable all the time has budget left: `misses` counts them, which Xen does not.

Differences from Xen: what a vCPU ran beyond its budget, because it did not stop at once, is taken from the next one. Periods
that nobody had to be woken for are gone over when the vCPU is next looked at.

One limit of this machine shows here: of a domain one vCPU runs at a time, so the budgets of its vCPUs are on one CPU whatever
their number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypervisor.public.domctl_vcpu import XEN_SCHEDULER_RTDS
from hypervisor.sched.params import DomainParams, RtdsParams
from hypervisor.sched.policy import Policy, RunQueue, in_ms
from hypervisor.sched.scheduler import SchedUnit, Turn


@dataclass(slots=True)
class Server:
    """A vCPU's. `left`: of its budget, ns; `deadline`: end of its period, ns; `level`: how often it used up its budget in
    this period and went on; `ready_since`: since when it has been runnable, None while it sleeps.
    """

    params: RtdsParams = field(default_factory=RtdsParams)
    left: int = 0
    deadline: int = 0
    level: int = 0
    ready_since: int | None = None
    misses: int = 0

    @property
    def period_ns(self) -> int:
        """Its period."""
        return self.params.period_us * 1000

    @property
    def budget_ns(self) -> int:
        """Its budget."""
        return self.params.budget_us * 1000

    def begin_period(self, now: int) -> None:
        """If its period is over: the one that `now` is in, with a whole budget less what it overran the last one by. A missed
        deadline is counted.
        """
        if now < self.deadline:
            return
        begun = self.deadline - self.period_ns
        if self.deadline and self.ready_since is not None and self.ready_since <= begun:
            self.misses += self.level == 0 and self.left > 0
        periods = (now - self.deadline) // self.period_ns + 1
        debt = min(0, self.left) if periods == 1 else 0
        self.deadline += periods * self.period_ns
        self.left, self.level = self.budget_ns + debt, 0

    def burn(self, since: int, now: int) -> None:
        """It ran from `since` to `now`; `now` may lie in a later period."""
        if now >= self.deadline:
            self._use(max(0, self.deadline - since))
            self.begin_period(now)
            since = max(since, self.deadline - self.period_ns)
        self._use(now - since)

    def _use(self, ran: int) -> None:
        self.left -= ran
        if self.left <= 0 and self.params.extratime:
            times = -self.left // self.budget_ns + 1
            self.level += times
            self.left += times * self.budget_ns

    @property
    def depleted(self) -> bool:
        """Whether it has to wait for its next period."""
        return self.left <= 0


class Rtds(Policy):
    """One queue for all CPUs of the pool."""

    name = "rtds"
    sched_id = int(XEN_SCHEDULER_RTDS)
    rotates = False

    def __init__(self) -> None:
        super().__init__()
        self._servers: dict[SchedUnit, Server] = {}
        self._queue = RunQueue(self._rank)
        self._depleted: dict[SchedUnit, None] = {}

    def misses(self, unit: SchedUnit) -> int:
        """How many deadlines the vCPU has missed; up to the last period that was looked at."""
        return self._servers[unit].misses

    # --- units -----------------------------------------------------------------------------------

    def add(self, unit: SchedUnit, now: int) -> None:
        """A new vCPU has default parameters."""
        self._servers[unit] = Server()

    def forget(self, unit: SchedUnit, now: int) -> None:
        """The vCPU is gone."""
        self.remove(unit, now)
        self._servers.pop(unit, None)

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """It waits for a CPU or, without budget, for its next period."""
        self._settle_stopped(unit, now)
        unit.yielding = False
        server = self._servers[unit]
        if server.ready_since is None:
            server.ready_since = now
        server.begin_period(now)
        self._enqueue(unit)

    def remove(self, unit: SchedUnit, now: int) -> None:
        """It sleeps, and keeps what is left of its budget until its period ends."""
        self._settle_stopped(unit, now)
        self._queue.remove(unit)
        self._depleted.pop(unit, None)
        server = self._servers.get(unit)
        if server is not None:
            server.begin_period(now)
            server.ready_since = None

    def pick(self, cpu: int, now: int) -> Turn | None:
        """The earliest deadline; until its budget is used up or its period ends."""
        unit = self._queue.first(cpu)
        if unit is None:
            return None
        self._queue.remove(unit)
        self._starts(unit, now)
        server = self._servers[unit]
        slice_ns = min(server.left, max(1, server.deadline - now))
        return Turn(unit, slice_ns, strict=not server.params.extratime)

    def waits_for(self, cpu: int) -> bool:
        """Whether a unit with budget waits that may run on the CPU."""
        return self._queue.first(cpu) is not None

    def victim(self, unit: SchedUnit, now: int) -> tuple[SchedUnit, int] | None:
        """The latest deadline of those that run where `unit` may, if it is later; its sibling, if one runs."""
        rivals = self._rivals(unit) if unit.sibling is None else [unit.sibling]
        rivals = [
            one for one in rivals if one in self.running and one.cpu is not None and unit.hard >> one.cpu & 1
        ]
        for rival in rivals:
            self._settle(rival, now)
        last = max(rivals, key=self._rank, default=None)
        return (last, now) if last is not None and self._rank(last) > self._rank(unit) else None

    def holds_back(self, unit: SchedUnit, now: int) -> bool:
        """Whether its budget is used up."""
        return unit in self._depleted

    def describe(self, unit: SchedUnit, now: int) -> str:
        """Its parameters, what is left of its budget, when its period ends, and how many deadlines it has missed."""
        server = self._servers[unit]
        left = f"{in_ms(server.left)} left until {in_ms(server.deadline)}" + " (depleted)" * (
            unit in self._depleted
        )
        return f"{server.params}, {left}, missed {server.misses}"

    # --- periods ---------------------------------------------------------------------------------

    def next_event(self) -> int | None:
        """The first deadline of those that wait, for a CPU or for a budget; 0, at once, for one that got extratime."""
        if any(not self._servers[unit].depleted for unit in self._depleted):
            return 0
        waiting = (*self._queue, *self._depleted)
        return min((self._servers[unit].deadline for unit in waiting), default=None)

    def tick(self, now: int) -> list[SchedUnit]:
        """New periods begin; those that got a budget by it, and the one that is now first in the queue."""
        for unit in list(self.running):
            self._settle(unit, now)
        ready = []
        for unit in [*self._queue, *self._depleted]:
            server, depleted = self._servers[unit], unit in self._depleted
            if server.deadline <= now or (depleted and not server.depleted):
                if depleted:
                    del self._depleted[unit]
                    ready.append(unit)
                self._queue.remove(unit)
                server.begin_period(now)
                self._queue.add(unit)
        return [*ready, *list(self._queue)[: len(self.running)]]

    def _enqueue(self, unit: SchedUnit) -> None:
        if self._servers[unit].depleted:
            self._depleted[unit] = None
        else:
            self._queue.add(unit)

    def _rank(self, unit: SchedUnit) -> tuple[int, int]:
        server = self._servers[unit]
        return server.level, server.deadline

    def _settle(self, unit: SchedUnit, now: int) -> None:
        since = self.running[unit]
        self._ran(unit, now)
        self._servers[unit].burn(since, now)

    def _settle_stopped(self, unit: SchedUnit, now: int) -> None:
        if unit in self.running:
            self._servers[unit].burn(now - self._stops(unit, now), now)

    # --- parameters ------------------------------------------------------------------------------

    def params(self, domid: int) -> DomainParams:
        """The default ones, as on Xen: what holds is each vCPU's."""
        return RtdsParams()

    def adjust(self, domid: int, params: DomainParams, now: int) -> None:
        """Period and budget of all vCPUs of the domain. As on Xen `extratime` stays as it is."""
        if not isinstance(params, RtdsParams):
            raise self._foreign(params)
        for unit, server in self._servers.items():
            if unit.domid == domid:
                extratime = server.params.extratime
                self.adjust_vcpu(unit, RtdsParams(params.period_us, params.budget_us, extratime), now)

    def vcpu_params(self, unit: SchedUnit) -> DomainParams:
        """Period, budget and extratime."""
        return self._servers[unit].params

    def adjust_vcpu(self, unit: SchedUnit, params: DomainParams, now: int) -> None:
        """Period and budget hold from the vCPU's next period on, as on Xen; extratime at once."""
        if not isinstance(params, RtdsParams):
            raise self._foreign(params)
        server = self._servers[unit]
        if unit in self.running:
            self._settle(unit, now)
            unit.strict = not params.extratime
            unit.slice_end = min(unit.slice_end, now)
        server.params = params
        if params.extratime and server.depleted:
            server.level, server.left = server.level + 1, server.budget_ns
