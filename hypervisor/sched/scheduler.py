"""What a scheduler decides: which runnable unit gets a CPU next, and for how long. One file per policy beside this one.

A scheduler serves one pool of CPUs (sched/slices.py). It is told who waits and who runs, and never reads a clock: `now` is
system time in ns and never goes back. All that it keeps is data.

    add ──► (asleep) ── insert(woken) ──► waits ── pick ──► runs ── insert ──► waits …
                 ▲                          │                │
                 └──────── remove ──────────┴─── remove ─────┘            forget: from anywhere

`sched/policies.py` has the table of all schedulers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple, Protocol

from hypervisor.sched.params import DEFAULT_WEIGHT, DomainParams, GlobalParams
from hypervisor.sched.runstate import RunStateInfo

__all__ = ["ALL_CPUS", "DEFAULT_WEIGHT", "SchedUnit", "Scheduler", "Turn", "UnitKey"]

ALL_CPUS: Final = -1
"""An affinity with every CPU there is: in a mask, bit n is CPU n, and all bits of -1 are set."""

UnitKey = tuple[int, int]
"""Domain id and vCPU number."""


@dataclass(eq=False)
class SchedUnit:
    """One vCPU as the scheduler sees it. Only Slices writes what is below `hard`."""

    domid: int
    vcpu_id: int
    handle: bytes = bytes(16)
    """Its domain's UUID, by which an ARINC 653 schedule names it."""
    runstate: RunStateInfo = field(default_factory=RunStateInfo)
    hard: int = ALL_CPUS
    """Mask of the CPUs that it may run on (Xen's cpu_hard_affinity). `Slices.set_affinity` changes it."""
    soft: int = ALL_CPUS
    """Mask of the CPUs that it prefers among those (Xen's cpu_soft_affinity)."""
    cpu: int | None = None
    """The emulated CPU it holds."""
    last_cpu: int | None = None
    """The one that it holds or held last (Xen's `processor`)."""
    sibling: SchedUnit | None = None
    """The vCPU of the same domain that has a CPU now, or is frozen: until that one stops, this one may not run."""
    slice_end: int = 0
    """When its slice is over, ns."""
    turn_end: int = 0
    """When a sibling that waits gets the rest of its slice, ns."""
    strict: bool = False
    """Its slice ends though nobody waits: a cap, a budget or a frame is used up."""
    deadline: int = 0
    """By when it must have stopped, ns, if it was asked to (`preempting`)."""
    preempting: bool = False
    frozen: bool = False
    """Its process was stopped wherever it was: until it goes on, no sibling may run."""
    yielding: bool = False
    """It gives way of its own accord; for the scheduler to heed and clear."""
    heir: SchedUnit | None = None
    """The sibling that is to have the rest of its slice (`Slices.yield_to`)."""

    @property
    def key(self) -> UnitKey:
        """What names it in a record."""
        return self.domid, self.vcpu_id

    def may_run(self, cpu: int) -> bool:
        """Whether it could run on this CPU now: its hard affinity allows it, and no sibling runs."""
        return self.sibling is None and bool(self.hard >> cpu & 1)


class Turn(NamedTuple):
    """What `pick` gives: the unit, how long it may run (ns, above 0), and whether that holds though nobody else waits."""

    unit: SchedUnit
    slice_ns: int
    strict: bool = False


class Scheduler(Protocol):
    """One policy, for one pool. All methods are called by Slices alone, but for the parameters and `holds_back`."""

    name: ClassVar[str]
    """What the policy is called on a command line, as on Xen's (`sched=`)."""
    sched_id: ClassVar[int]
    """XEN_SCHEDULER_…, or a number of our own (sched/policies.py)."""
    pins: ClassVar[bool]
    """The policy chooses a unit's CPU: Slices does not try to move units to CPUs that they prefer."""

    rotates: ClassVar[bool]
    """Siblings that wait have their turn after TURN_NS; else the policy alone decides between them too."""

    # --- CPUs ------------------------------------------------------------------------------------

    def cpu_add(self, cpu: int, now: int) -> None:
        """The CPU belongs to this pool, and is free or will be."""

    def cpu_remove(self, cpu: int, now: int) -> None:
        """It does not any more. A unit that runs on it was asked to stop, and comes back by `insert` or `remove`."""

    # --- units -----------------------------------------------------------------------------------

    def add(self, unit: SchedUnit, now: int) -> None:
        """`unit` belongs to this scheduler from now on, and sleeps. Parameters are the default ones. (Xen's insert_unit.)"""

    def forget(self, unit: SchedUnit, now: int) -> None:
        """`unit` will never run again, or belongs to another scheduler; nothing of it is kept. (Xen's remove_unit.)"""

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """`unit` waits for a CPU: it was woken, or it ran and has work left."""

    def remove(self, unit: SchedUnit, now: int) -> None:
        """`unit` is no longer runnable, whether it waited or ran. No-op for one that sleeps."""

    def pick(self, cpu: int, now: int) -> Turn | None:
        """Take a unit that waits and `may_run(cpu)`; None: there is none, or the policy has the CPU idle."""

    def relay(self, unit: SchedUnit, heir: SchedUnit, now: int) -> bool:
        """`unit`, which runs, stops, and `heir`, which waits and is of the same domain, goes on in its place to the end of
        the slice. False: nothing has changed, and `heir` has to wait for a slice of its own.
        """

    def waits_for(self, cpu: int) -> bool:
        """Whether a unit waits for which this CPU would do, were it free."""

    def victim(self, unit: SchedUnit, now: int) -> tuple[SchedUnit, int] | None:
        """Which running unit is to give way to `unit`, which waits and finds no free CPU, and when (ns; at once if not later than
        `now`); None: `unit` waits its turn.
        """

    def holds_back(self, unit: SchedUnit, now: int) -> bool:
        """Whether the policy itself keeps `unit`, which waits, from a free CPU: its cap or budget is used up, it is not its
        frame, it has no CPU of its own.
        """

    def describe(self, unit: SchedUnit, now: int) -> str:
        """What the policy knows of a unit that was added, for a reader; of one that runs, as of when it was last charged."""

    # --- the policy's own time -------------------------------------------------------------------

    def next_event(self) -> int | None:
        """When `tick` is next of use (ns): a budget comes, a frame begins. None: not before something else happens."""

    def tick(self, now: int) -> list[SchedUnit]:
        """Do what is due; the units that may run again by it. Free CPUs are then filled, and those of the units that found
        none may take one by `victim`.
        """

    # --- parameters ------------------------------------------------------------------------------

    def params(self, domid: int) -> DomainParams:
        """A domain's parameters. RTDS, whose parameters are of vCPUs, gives the default ones, as Xen does."""

    def adjust(self, domid: int, params: DomainParams, now: int) -> None:
        """Set them, for all vCPUs of the domain. They hold from `now` on. XenError(EINVAL) for parameters of another policy
        or out of range; EOPNOTSUPP where the policy has none (Xen answers 0 and does nothing).
        """

    def vcpu_params(self, unit: SchedUnit) -> DomainParams:
        """One vCPU's. XenError(EINVAL) but under RTDS."""

    def adjust_vcpu(self, unit: SchedUnit, params: DomainParams, now: int) -> None:
        """Set them. XenError(EINVAL) as `adjust`, and but under RTDS."""

    def global_params(self) -> GlobalParams:
        """The scheduler's own."""

    def adjust_global(self, params: GlobalParams, now: int) -> None:
        """Set them. XenError(EINVAL) for those of another policy; EOPNOTSUPP where there are none."""
