"""How much work one dispatch of a hypercall may do before others get their turn (Q4).

Work is done in portions. A portion ends when its budget is used up: whoever notices leaves its state resumable and
raises `Restart`, which the hypercall layer turns into a continuation; a guest never sees it. Xen calls this
preemption: hypercall_preempt_check and -ERESTART. (A *slice* is something else: a vCPU's time on a CPU, sched/slices.py.)

A budget counts in the unit of what is cheapest: one entry of an L1 table that is checked as a whole, about half a
microsecond. What is done one by one costs more of them.
"""

from dataclasses import dataclass
from typing import Final

from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.errno import XenError

DEFAULT_ENTRIES: Final = 8192
"""Some milliseconds of work."""
COST_OF_L1: Final = 512
"""A whole L1 table: the one step that cannot be interrupted."""
COST_OF_UPPER_ENTRY: Final = 8
COST_OF_BATCHED_UPDATE: Final = 2
COST_OF_UPDATE: Final = 16
COST_OF_FRAME: Final = 8
"""A frame given, taken or relinquished."""
COST_OF_BATCHED_FRAME: Final = 1


class Restart(Exception):
    """Out of budget: what was done is recorded, the same call is to be made again. Xen's -ERESTART."""


class Budget:
    """The work that may still be done in this portion."""

    __slots__ = ("left",)

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        self.left = entries

    def spend(self, entries: int = 1) -> None:
        """Account for work already done; never refuses, so that each portion makes progress."""
        self.left -= entries

    @property
    def exhausted(self) -> bool:
        """Nothing is left: stop at the next point where the state is resumable."""
        return self.left <= 0

    def check(self) -> None:
        """Raise Restart if nothing is left; called between entries, where state is resumable."""
        if self.left <= 0:
            raise Restart


@dataclass(slots=True)
class Portion:
    """Whose hypercall works on tables, and how much of it may happen now. Unfinished drops park on the vCPU."""

    vcpu: VcpuMemory
    budget: Budget


@dataclass(slots=True)
class Progress:
    """How far a list of requests got in one portion: how many are done, the refusal that ended it, whether to ask again."""

    done: int = 0
    error: XenError | None = None
    restart: bool = False
