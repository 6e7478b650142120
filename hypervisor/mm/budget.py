"""How much work one dispatch of a hypercall may do before others get their turn (Q4).

A budget counts page-table entries looked at. Whoever runs out leaves its state resumable and raises `Restart`;
the hypercall layer turns that into a continuation. `Restart` is never seen by a guest.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from hypervisor.mm.domain_memory import VcpuMemory

DEFAULT_ENTRIES: Final = 8192
"""About a millisecond of validation; a whole L1 table is checked at once and counts 512."""


class Restart(Exception):
    """Out of budget: what was done is recorded, the same call is to be made again. Xen's -ERESTART."""


class Budget:
    """Page-table entries that may still be looked at in this slice."""

    __slots__ = ("left",)

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        self.left = entries

    def spend(self, entries: int = 1) -> None:
        """Account for work already done; never refuses, so that each slice makes progress."""
        self.left -= entries

    @property
    def exhausted(self) -> bool:
        return self.left <= 0

    def check(self) -> None:
        """Raise Restart if nothing is left; called between entries, where state is resumable."""
        if self.left <= 0:
            raise Restart


@dataclass(slots=True)
class Slice:
    """Whose hypercall works on tables, and how much of it may happen now. Unfinished drops park on the vCPU."""

    vcpu: "VcpuMemory"
    budget: Budget
