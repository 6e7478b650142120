"""How much work one dispatch of a hypercall may do before others get their turn (Q4).

Work is done in portions. A portion ends when its budget is used up: whoever notices leaves its state resumable and
raises `Restart`, which the hypercall layer turns into a continuation; a guest never sees it. Xen calls this
preemption: hypercall_preempt_check and -ERESTART. (A *slice* is something else: a vCPU's time on a CPU, sched/slices.py.)

A budget counts in the unit of what is cheapest: one entry of an L1 table that is checked as a whole, about half a
microsecond. The costs below are what each operation takes in that unit, at its slowest; `scripts/bench budget_units`
measures what a unit of each is worth, and so shows a cost that is set too low. Whatever a guest can make the core do
again and again in one call has a cost, multicall's entries included.
"""

from dataclasses import dataclass
from typing import Final

from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.errno import XenError

DEFAULT_ENTRIES: Final = 4096
"""A portion: about two milliseconds."""

# Page tables
COST_OF_L1: Final = 512
"""A whole L1 table: the one step that cannot be interrupted."""
COST_OF_UPPER_ENTRY: Final = 8
COST_OF_BATCHED_UPDATE: Final = 2
COST_OF_UPDATE: Final = 24
COST_OF_FLUSH: Final = 8
"""Telling one vCPU to drop translations."""
COST_OF_DESCRIPTOR_PAGE: Final = 256
"""A page of a GDT."""
COST_OF_DESCRIPTOR: Final = 128
"""update_descriptor."""

# Frames
COST_OF_FRAME: Final = 24
"""A frame given, taken or relinquished."""
COST_OF_EXTENT: Final = 40
"""An extent of a list in guest memory, beside its frames."""
COST_OF_CHUNK: Final = 256
"""A chunk of an exchange, beside its frames."""
COST_OF_BATCHED_FRAME: Final = 4
COST_OF_RUN: Final = 256
"""A run of frames, or of updates, that array operations perform at once, beside what is in it."""
COST_OF_PAGE: Final = 48
"""A page cleared or copied."""
COST_OF_EXTENT_SCAN: Final = 32
"""Looking for what is left to do in the frames of one extent of a dying domain."""

# Grants
COST_OF_GRANT_COPY: Final = 400
COST_OF_GRANT_MAP: Final = 400
COST_OF_GRANT_UNMAP: Final = 256
COST_OF_GRANT_TRANSFER: Final = 320
COST_OF_GRANT_SWAP: Final = 64
COST_OF_CACHE_FLUSH: Final = 192
ACTIVE_GRANTS_PER_UNIT: Final = 8
"""Grants in use among which one is looked for."""

# Calls
COST_OF_CALL: Final = 128
"""An entry of a multicall, beside what it spends itself."""
COST_OF_TRAP: Final = 32
"""An entry of a trap table."""


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
