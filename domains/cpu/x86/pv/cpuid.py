"""CPUID for PV guests: the common model, of which 32-bit guests see less."""

from typing import Final

from domains.cpu.x86.cpuid import NOTHING, Leaf, guest_cpuid
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import RAX, RBX, RCX, RDX, U32

OF_64BIT_MODE: Final[dict[int, Leaf]] = {
    0x0000_0001: (0, 0, 1 << 13, 0),  # cx16
    0x8000_0001: (0, 0, 1 << 0, 1 << 11 | 1 << 29),  # lahf_lm; syscall, lm
}
"""Features that a 32-bit PV guest of an Intel CPU does not have."""


def compat_cpuid(leaf: int, subleaf: int) -> Leaf:
    """The answer to CPUID of a 32-bit guest."""
    a, b, c, d = guest_cpuid(leaf, subleaf)
    hidden = OF_64BIT_MODE.get(leaf, NOTHING)
    return a & ~hidden[0], b & ~hidden[1], c & ~hidden[2], d & ~hidden[3]


def do_cpuid(v: X86Vcpu) -> None:
    """CPUID with the guest's registers; rip is left alone."""
    q = v.cpu.q
    v.exits["cpuid"] += 1
    q[RAX], q[RBX], q[RCX], q[RDX] = v.entry.cpuid(q[RAX] & U32, q[RCX] & U32)
