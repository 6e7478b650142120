"""The registers that the guest believes to be its CPU's, while the CPU has the monitor's.

CR0, CR2, CR3 and CR4 are with ring1/paging. The CPU's own EFLAGS has IF set and IOPL 0 whenever guest code runs.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from domains.cpu.x86.registers import EFLAGS_IF, EFLAGS_IOPL


class TableRegister(NamedTuple):
    """A register that names a table: linear base, and limit in bytes; of TR and LDTR the selector, too."""

    base: int = 0
    limit: int = 0
    selector: int = 0


NOWHERE: Final = TableRegister()
VIRTUAL_FLAGS: Final = EFLAGS_IF | EFLAGS_IOPL


@dataclass
class Ring1State:
    """One vCPU's. `flags`: IF and IOPL. `inhibited`: after STI or a load of SS, for one instruction."""

    idtr: TableRegister = NOWHERE
    tr: TableRegister = NOWHERE
    flags: int = 0
    dr: list[int] = field(default_factory=lambda: [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400])
    inhibited: bool = False
    stepping: bool = False
    """The CPU's TF is set on the monitor's account."""
    stepped_by_guest: bool = False
    """Then: it is set on the guest's, too."""

    @property
    def interrupts(self) -> bool:
        """IF."""
        return self.flags & EFLAGS_IF != 0

    @property
    def iopl(self) -> int:
        """IOPL, as a ring."""
        return (self.flags & EFLAGS_IOPL) >> 12
