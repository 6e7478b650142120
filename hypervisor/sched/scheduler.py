"""What a scheduler decides: which runnable unit is next, and for how long. One file per policy beside this one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from hypervisor.sched.runstate import RunStateInfo


@dataclass(eq=False)
class SchedUnit:
    """One vCPU as the scheduler sees it. `cpu`: the emulated CPU it holds, or None; `deadline`: end of its slice, ns."""

    domid: int
    vcpu_id: int
    runstate: RunStateInfo = field(default_factory=RunStateInfo)
    cpu: int | None = None
    deadline: int = 0
    preempting: bool = False
    frozen: bool = False
    """It overran its slice and was taken off its CPU by force."""


class Scheduler(Protocol):
    """A queue of runnable units. It never sees a unit that runs."""

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """`unit` became runnable: woken up, or preempted with work left."""

    def remove(self, unit: SchedUnit) -> None:
        """`unit` is no longer runnable (a no-op for a unit that is not queued)."""

    def pick(self, now: int) -> tuple[SchedUnit, int] | None:
        """Take the next unit off the queue, with the length of its slice in ns; None when there is none."""

    def waiting(self) -> bool:
        """True when some unit waits for a CPU."""
