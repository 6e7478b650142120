"""Which segment descriptors a guest may have in a GDT or LDT (D2).

    63      56 55  52 51  48 47 46 45 44 43  40 39     32 31             16 15        0
    +---------+------+------+--+-----+--+------+---------+-----------------+-----------+
    | base    |G D L |limit |P | DPL |S | type | base    | base / selector | limit/off |
    +---------+------+------+--+-----+--+------+---------+-----------------+-----------+

Code and data segments pass, with the DPL forced to the guest's ring; a call gate passes if it leads to a selector
the guest may load, with DPL 0 so that using it faults and is emulated; every other system descriptor is refused.
What is not present can only fault and is left alone. Source: Xen arch/x86/pv/descriptor-tables.c; Intel SDM 3A §3.4.5.
"""

from typing import Final

import numpy as np

from hypervisor.machine.descriptor_window import COMPAT_KERNEL_RPL
from hypervisor.mm.contents import Entries
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_ENTRY
from hypervisor.public.arch_x86.xen_x86_32 import FLAT_RING1_CS
from hypervisor.public.arch_x86.xen_x86_32 import HYPERVISOR_VIRT_START as HYPERVISOR_COMPAT_VIRT_START
from hypervisor.public.arch_x86.xen_x86_64 import FLAT_KERNEL_CS
from hypervisor.public.errno import Errno, XenError

_P: Final = 1 << 47
_S: Final = 1 << 44
_DPL: Final = 3 << 45
_TYPE: Final = 0xF << 40
_CALL_GATE: Final = 0xC << 40
_GATE_RESERVED: Final = 0xFF << 32
_GATE_SELECTOR: Final = 0xFFFF << 16

_COMPAT_GATE_RESERVED: Final = 0xE0 << 32
_L: Final = 1 << 53
_G: Final = 1 << 55
_LIMIT: Final = 0xF << 48 | 0xFFFF

GUEST_KERNEL_RPL: Final = 3


def checked(descriptor: int) -> int:
    """The descriptor as it may be loaded. XenError(EINVAL)."""
    if not descriptor & _P:
        return descriptor
    dpl = max(descriptor >> 45 & 3, GUEST_KERNEL_RPL)
    if descriptor & _S:
        return descriptor & ~_DPL | dpl << 45
    if not descriptor & _TYPE:
        return descriptor
    if descriptor & _TYPE != _CALL_GATE:
        raise XenError(Errno.EINVAL, f"D2: system descriptor {descriptor:#018x}")
    selector = descriptor >> 16 & 0xFFFF
    if not gate_selector_okay(selector) or descriptor & _GATE_RESERVED:
        raise XenError(Errno.EINVAL, f"D2: call gate {descriptor:#018x}")
    selector = selector & ~3 | dpl
    return descriptor & ~(_DPL | _GATE_SELECTOR) | selector << 16


def gate_selector_okay(selector: int) -> bool:
    """A gate may lead to a segment of the guest's GDT or LDT, or to Xen's flat kernel code segment."""
    return selector >> 3 < FIRST_RESERVED_GDT_ENTRY or selector == FLAT_KERNEL_CS or bool(selector & 4)


def checked_page(descriptors: Entries) -> Entries:
    """All 512 descriptors of a page, checked, in the same array. XenError(EINVAL): the first that is refused."""
    present = (descriptors & _present) != 0
    segments = present & ((descriptors & _segment) != 0)
    gates = present & ~segments & ((descriptors & _type) != 0)
    descriptors[segments] |= _dpl
    if gates.any():
        descriptors[gates] = checked_gates(descriptors[gates])
    return descriptors


def checked_gates(gates: Entries) -> Entries:
    """`checked` for present system descriptors of a type other than 0, in a new array. XenError(EINVAL)."""
    selectors = gates >> np.uint64(16) & np.uint64(0xFFFF)
    permitted = (selectors >> np.uint64(3) < np.uint64(FIRST_RESERVED_GDT_ENTRY)) | (
        selectors & np.uint64(4) != 0
    )
    permitted |= selectors == np.uint64(FLAT_KERNEL_CS)
    permitted &= (gates & (_type | _gate_reserved)) == np.uint64(_CALL_GATE)
    if not permitted.all():
        checked(int(gates[int(permitted.argmin())]))
    ring = np.uint64(GUEST_KERNEL_RPL << 16)
    rewritten: Entries = gates & ~(_dpl | np.uint64(3 << 16)) | ring
    return rewritten


def checked_of_32bit(descriptor: int) -> int:
    """As `checked`, for a guest whose kernel is in ring 1: no 64-bit code; a gate gets DPL 0, its own becomes the selector's RPL.

    A segment from 0 that reaches into the hypervisor's addresses is extended to their end, for the M2P table there is larger than
    old guests know. XenError(EINVAL).
    """
    if not descriptor & _P:
        return descriptor
    dpl = descriptor >> 45 & 3 or COMPAT_KERNEL_RPL
    descriptor = descriptor & ~_DPL | dpl << 45
    if descriptor & _S:
        if descriptor & _L:
            raise XenError(Errno.EINVAL, f"D2: a 64-bit segment {descriptor:#018x} of a 32-bit guest")
        return _extended(descriptor)
    if not descriptor & _TYPE:
        return descriptor
    selector = descriptor >> 16 & 0xFFFF
    if (
        descriptor & _TYPE != _CALL_GATE
        or descriptor & _COMPAT_GATE_RESERVED
        or not (selector >> 3 < FIRST_RESERVED_GDT_ENTRY or selector == FLAT_RING1_CS or selector & 4)
    ):
        raise XenError(Errno.EINVAL, f"D2: system descriptor {descriptor:#018x}")
    return descriptor & ~(_DPL | _GATE_SELECTOR) | (selector & ~3 | dpl) << 16


def _extended(segment: int) -> int:
    base = segment >> 16 & 0xFFFFFF | segment >> 32 & 0xFF000000
    limit = (segment & 0xFFFF | segment >> 32 & 0xF0000) + 1
    if segment & _G:
        limit <<= 12
    return segment | _LIMIT if not base and limit > HYPERVISOR_COMPAT_VIRT_START else segment


def checked_page_of_32bit(descriptors: Entries) -> Entries:
    """`checked_of_32bit` for all 512 descriptors of a page, in the same array. XenError(EINVAL): the first that is refused."""
    for i in np.flatnonzero(descriptors & _present).tolist():
        descriptors[i] = checked_of_32bit(int(descriptors[i]))
    return descriptors


_present, _segment, _type = np.uint64(_P), np.uint64(_S), np.uint64(_TYPE)
_dpl, _gate_reserved = np.uint64(_DPL), np.uint64(_GATE_RESERVED)
