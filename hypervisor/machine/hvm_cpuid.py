"""The CPU that HVM guests see: cpuid's model with another maker's name, and with what such guests have beyond PV.

An AMD processor, for the hypercall instruction is VMMCALL then, which exits without being decoded, and for Linux does without
page-table isolation. SYSENTER, which Unicorn leaves out, is not advertised. Source: Xen public/arch-x86/cpuid.h.
"""

from typing import Final

from hypervisor.machine.cpuid import (
    EXTENDED_ECX,
    EXTENDED_EDX,
    FEATURES_ECX,
    FEATURES_EDX,
    NOTHING,
    Leaf,
    signature,
)
from hypervisor.machine.cpuid import LEAVES as PV_LEAVES

FAMILY: Final = 0x20FF2
"""Family 0xF, model 0x2F, stepping 2: before the erratum for which Linux looks at each idle CPU (E400)."""
SEP: Final = 1 << 11
HVM_EDX: Final = FEATURES_EDX & ~SEP | sum(1 << bit for bit in (2, 3, 9, 13, 16))
"""What PV guests have, and de pse apic pge pat."""
MIRRORED: Final = 0x0183F3FF
"""Bits of leaf 1's EDX that leaf 0x80000001 has as well."""
INVARIANT_TSC: Final = 1 << 8


def vendor_leaf(highest: int) -> Leaf:
    """The highest leaf and the maker's name."""
    b, d, c = signature(b"AuthenticAMD")
    return highest, b, c, d


def features_leaf(vcpu: int) -> Leaf:
    """Leaf 1 of a vCPU, whose APIC has twice its number."""
    return FAMILY, 2 * vcpu << 24 | 1 << 16 | 8 << 8, FEATURES_ECX, HVM_EDX


LEAVES: Final[dict[int, Leaf]] = PV_LEAVES | {
    0x0000_0000: vendor_leaf(0x0D),
    0x0000_0001: features_leaf(0),
    0x0000_0002: NOTHING,
    0x4000_0000: (0x40000004, *signature(b"XenVMMXenVMM")),
    0x4000_0005: NOTHING,
    0x8000_0000: vendor_leaf(0x80000008),
    0x8000_0001: (FAMILY, 0, EXTENDED_ECX, EXTENDED_EDX | HVM_EDX & MIRRORED),
    0x8000_0007: (0, 0, 0, INVARIANT_TSC),
}
"""Leaf 1 is vCPU 0's."""
