"""Loads of CS and SS by what is emulated: the checks that the CPU makes, on the guest's own descriptors and its own rings.

Only rings 0 and 3 are virtualized: a descriptor for ring 1 or 2 is refused. Source: Intel SDM vol. 2A INT, IRET, CALL, RET.
"""

from typing import Final

from domains.cpu.x86.descriptors import (
    DESC_ACCESSED,
    DESC_CODE,
    DESC_CONFORMING,
    DESC_PRESENT,
    DESC_S,
    DESC_WRITABLE,
    Loaded,
    load_code_and_stack,
)
from domains.cpu.x86.emulator.cpu_state import SEGMENT_FLAGS, SEGMENT_LIMIT
from domains.cpu.x86.registers import EXC_GP, EXC_NP, EXC_SS, SS
from domains.cpu.x86.ring1.descriptor_table import HIGH, SIZE, loaded, shadow_of
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.vcpu import KERNEL_RING, Ring1Vcpu

RPL: Final = 3
NO_RPL: Final = 0xFFFC
ACCESS_BYTE: Final = 5


def descriptor(v: Ring1Vcpu, selector: int, vector: int = EXC_GP) -> int:
    """The guest's descriptor, eight bytes. Raises GuestException, of this vector if there is none."""
    table = v.table(selector)
    if not table.holds(selector):
        raise GuestException(vector, selector & NO_RPL)
    return int.from_bytes(v.read_system(table.guest.base + (selector & ~7), SIZE), "little")


def high_of(word: int) -> int:
    """A descriptor's high word."""
    return word >> HIGH


def dpl_of(word: int) -> int:
    """A descriptor's DPL."""
    return word >> HIGH + 13 & 3


def mark(v: Ring1Vcpu, selector: int, word: int) -> None:
    """The descriptor is loaded: set its A bit."""
    if not high_of(word) & DESC_ACCESSED:
        at = v.table(selector).guest.base + (selector & ~7) + ACCESS_BYTE
        v.write_system(at, bytes([word >> 8 * ACCESS_BYTE & 0xFF | 1]))


def is_code(word: int) -> bool:
    """Whether it is a code segment that the CPU can be given."""
    return shadow_of(word) != 0 and high_of(word) & DESC_CODE != 0


def code_by_gate(v: Ring1Vcpu, selector: int) -> tuple[int, int]:
    """The code segment that a gate names: descriptor, and the ring in which its code runs. Raises GuestException."""
    word = descriptor(v, selector)
    if not is_code(word) or dpl_of(word) not in (0, 3) or dpl_of(word) > v.ring:
        raise GuestException(EXC_GP, selector & NO_RPL)
    if not high_of(word) & DESC_PRESENT:
        raise GuestException(EXC_NP, selector & NO_RPL)
    return word, v.ring if high_of(word) & DESC_CONFORMING else dpl_of(word)


def code_by_transfer(v: Ring1Vcpu, selector: int, *, back: bool) -> tuple[int, int]:
    """That of a far jump or call within the ring; `back`: of a return, to the ring that the selector says. Likewise."""
    word = descriptor(v, selector)
    ring = selector & RPL if back else v.ring
    conforming = high_of(word) & DESC_CONFORMING
    fits = ring in (0, 3) and ring >= v.ring if back else selector & RPL <= ring
    if not is_code(word) or not fits or (dpl_of(word) > ring if conforming else dpl_of(word) != ring):
        raise GuestException(EXC_GP, selector & NO_RPL)
    if not high_of(word) & DESC_PRESENT:
        raise GuestException(EXC_NP, selector & NO_RPL)
    return word, ring


def stack(v: Ring1Vcpu, selector: int, ring: int, vector: int = EXC_GP) -> Loaded:
    """The stack segment for code in `ring`. Raises GuestException, of this vector if it cannot be one."""
    word = descriptor(v, selector, vector)
    kind = high_of(word) & (DESC_S | DESC_CODE | DESC_WRITABLE)
    if kind != DESC_S | DESC_WRITABLE or selector & RPL != ring or dpl_of(word) != ring:
        raise GuestException(vector, selector & NO_RPL)
    if not high_of(word) & DESC_PRESENT:
        raise GuestException(EXC_SS, selector & NO_RPL)
    mark(v, selector, word)
    return loaded(word)


def stack_in_force(v: Ring1Vcpu) -> Loaded:
    """What SS holds."""
    at = 6 * SS
    return v.cpu.base(SS), v.cpu.d[SEGMENT_LIMIT + at], v.cpu.d[SEGMENT_FLAGS + at]


def put_in_force(v: Ring1Vcpu, ring: int, cs: int, code: int, ss: int, stack_segment: Loaded) -> None:
    """Load CS by its checked descriptor, and SS; the guest is in `ring` now."""
    mark(v, cs, code)
    real = KERNEL_RING if ring == 0 else ring
    load_code_and_stack(v.cpu, cs & ~RPL | real, loaded(code), ss & ~RPL | real, stack_segment)
