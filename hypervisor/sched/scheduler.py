"""What a scheduler decides: which runnable unit is next, and for how long. One file per policy beside this one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from hypervisor.sched.runstate import RunStateInfo

DEFAULT_WEIGHT: Final = 256


@dataclass(eq=False)
class SchedUnit:
    """One vCPU as the scheduler sees it. `cpu`: the emulated CPU it holds, or None; `deadline`: end of its slice, ns;
    `weight`: its share, relative to the others'.
    """

    domid: int
    vcpu_id: int
    weight: int = DEFAULT_WEIGHT
    runstate: RunStateInfo = field(default_factory=RunStateInfo)
    cpu: int | None = None
    deadline: int = 0
    preempting: bool = False
    yielding: bool = False
    """It gives way of its own accord; for the scheduler to heed and clear."""


class Scheduler(Protocol):
    """A queue of runnable units. Those that run are not in it."""

    def insert(self, unit: SchedUnit, now: int, *, woken: bool) -> None:
        """`unit` became runnable: woken up, or preempted with work left."""

    def remove(self, unit: SchedUnit) -> None:
        """`unit` is no longer runnable, whether it was queued or ran."""

    def pick(self, now: int) -> tuple[SchedUnit, int] | None:
        """Take the next unit off the queue, with the length of its slice in ns; None when there is none."""

    def waiting(self) -> bool:
        """True when some unit waits for a CPU."""

    def victim(self, unit: SchedUnit, now: int) -> SchedUnit | None:
        """Which of those that run is to give way to `unit`, which was woken and waits; None: it waits its turn."""

    def forget(self, unit: SchedUnit) -> None:
        """`unit` will never run again."""
