"""The CPU that guests see: a documented model, the same on every host, and Xen's own leaves from 0x40000000 on. What HVM guests
see of it is in hvm_cpuid; how an engine answers CPUID, in domains/cpu/x86/pv/cpuid and hvm/cpuid.

The model is a 64-bit Intel CPU without what Unicorn lacks or does not do right: no AVX and so no XSAVE, no FSGSBASE;
and without what PV guests do not get: no MTRR, no APIC. What is advertised here is what the engine's tests exercise.
Source: Intel SDM vol. 2A CPUID; Xen public/arch-x86/cpuid.h.
"""

import struct
from collections.abc import Callable
from typing import Final

Leaf = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

TSC_KHZ: Final = 1_000_000
"""The emulated CPUs' clock: their TSC counts nanoseconds."""
NOTHING: Final[Leaf] = (0, 0, 0, 0)
BRAND: Final = b"Xenoscope virtual CPU".ljust(48, b"\0")
XEN_VERSION: Final = 4 << 16 | 17
XEN_FEATURES_MMU_PT_UPDATE_PRESERVE_AD: Final = 1
MACHINE_ADDRESS_BITS: Final = 36
VIRTUAL_ADDRESS_BITS: Final = 48

FEATURES_EDX: Final = sum(
    1 << bit
    for bit in (0, 4, 5, 6, 8, 11, 15, 17, 19, 23, 24, 25, 26)
)  # fmt: skip
"""fpu tsc msr pae cx8 sep cmov pse36 clflush mmx fxsr sse sse2"""
FEATURES_ECX: Final = sum(1 << bit for bit in (0, 9, 13, 19, 20, 23, 31))
"""sse3 ssse3 cx16 sse4_1 sse4_2 popcnt hypervisor"""
EXTENDED_EDX: Final = 1 << 11 | 1 << 20 | 1 << 29
"""syscall nx lm"""
EXTENDED_ECX: Final = 1 << 0
"""lahf_lm"""


def signature(text: bytes) -> tuple[int, int, int]:
    """Twelve characters as three registers."""
    return struct.unpack("<3I", text)


def vendor_leaf(highest: int) -> Leaf:
    """Leaf 0: the highest leaf and the maker's name."""
    b, d, c = signature(b"GenuineIntel")
    return highest, b, c, d


def brand_leaf(part: int) -> Leaf:
    """16 characters of the CPU's name, part 0 to 2."""
    a, b, c, d = struct.unpack_from("<4I", BRAND, 16 * part)
    return a, b, c, d


LEAVES: Final[dict[int, Leaf]] = {
    0x0000_0000: vendor_leaf(0x0D),
    0x0000_0001: (0x000306A9, 8 << 8, FEATURES_ECX, FEATURES_EDX),
    0x0000_0002: (0x76036301, 0x00F0B5FF, 0, 0x00C10000),
    0x4000_0000: (0x40000005, *signature(b"XenVMMXenVMM")),
    0x4000_0001: (XEN_VERSION, 0, 0, 0),
    0x4000_0002: (0, 0, 0, XEN_FEATURES_MMU_PT_UPDATE_PRESERVE_AD),
    0x4000_0005: (0, MACHINE_ADDRESS_BITS, 0, 0),
    0x8000_0000: vendor_leaf(0x80000008),
    0x8000_0001: (0, 0, EXTENDED_ECX, EXTENDED_EDX),
    0x8000_0002: brand_leaf(0),
    0x8000_0003: brand_leaf(1),
    0x8000_0004: brand_leaf(2),
    0x8000_0008: (VIRTUAL_ADDRESS_BITS << 8 | MACHINE_ADDRESS_BITS, 0, 0, 0),
}


def time_leaf(subleaf: int) -> Leaf:
    """0x40000003: how the guest's TSC relates to system time (here: nanoseconds, not emulated by a trap)."""
    if subleaf == 0:
        return 1 << 2, 0, TSC_KHZ, 0
    if subleaf == 1:
        return 0, 0, 1 << 31, 1
    if subleaf == 2:
        return TSC_KHZ, 0, 0, 0
    return NOTHING


SUBLEAVES: Final[dict[int, Callable[[int], Leaf]]] = {0x4000_0003: time_leaf}


def guest_cpuid(leaf: int, subleaf: int) -> Leaf:
    """The answer to CPUID; zeros for what there is not."""
    if leaf in SUBLEAVES:
        return SUBLEAVES[leaf](subleaf)
    return LEAVES.get(leaf, NOTHING)


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
