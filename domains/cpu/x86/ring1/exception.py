"""An exception of the guest's own, on its way to the guest (Intel SDM vol. 3A §6.15)."""

from typing import Final

from domains.cpu.x86.registers import (
    EXC_DE,
    EXC_DF,
    EXC_GP,
    EXC_NP,
    EXC_PF,
    EXC_SS,
    EXC_TS,
)

CONTRIBUTORY: Final = frozenset({EXC_DE, EXC_TS, EXC_NP, EXC_SS, EXC_GP})


class GuestException(Exception):
    """What is emulated ends in this exception. `va`: of a page fault, for CR2."""

    def __init__(self, vector: int, error_code: int | None = None, va: int | None = None) -> None:
        super().__init__(f"exception {vector}, error code {error_code}")
        self.vector, self.error_code, self.va = vector, error_code, va

    def followed_by(self, second: "GuestException") -> "GuestException":
        """What the guest gets when the delivery of this one ends in `second`."""
        both = self.vector in CONTRIBUTORY and second.vector in CONTRIBUTORY
        in_page_fault = self.vector == EXC_PF and second.vector in CONTRIBUTORY | {EXC_PF}
        return GuestException(EXC_DF, 0) if both or in_page_fault else second
