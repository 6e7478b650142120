"""Native paging: the guest's tables are nobody's business. Guest-physical addresses are machine ones, and there is no Xen below.

No domain runs so: it is the laboratory's and the benchmarks' yardstick for what the emulated CPU itself costs.
"""

from domains.cpu.x86.hvm.nested_paging import NestedPaging
from domains.cpu.x86.paging import NotMapped


class NativePaging(NestedPaging):
    """A `Paging` of a guest that is alone on the CPU."""

    def enable(self, p2m: int) -> None:
        """There is no P2M to put in force."""

    def machine(self, gpa: int, *, write: bool = False) -> int:
        """The same address. Raises NotMapped beyond the machine's memory."""
        if gpa >= self.memory.size:
            raise NotMapped(gpa)
        return gpa
