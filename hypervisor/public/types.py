"""Distinct number types for what Xen numbers, C's typedefs built on them, and the page size.

A `NewType` costs nothing at run time and keeps a guest's frame number from being used as a machine's. The
typedefs, for `Struct` fields, are those of Xen public/xen.h, public/event_channel.h and public/grant_table.h.
"""

from typing import Annotated, Final, NewType

u8 = Annotated[int, "<u1"]
u16 = Annotated[int, "<u2"]
u32 = Annotated[int, "<u4"]
u64 = Annotated[int, "<u8"]
i8 = Annotated[int, "<i1"]
i16 = Annotated[int, "<i2"]
i32 = Annotated[int, "<i4"]
i64 = Annotated[int, "<i8"]
"""C's numbers as the fields of structures: a Python int, and the numpy code of its width (layout.py reads it)."""
WORD: Final = "word"
"""Marks a number that is as wide as the guest's addresses: 32 bits in a 32-bit guest's structures (compat.py)."""

Mfn = NewType("Mfn", int)
"""Machine frame number: which 4 KiB frame of the machine."""
Pfn = NewType("Pfn", int)
"""Pseudo-physical frame number: which frame in the guest's own contiguous numbering."""
VAddr = NewType("VAddr", int)
"""Virtual (linear) address, in bytes."""
MAddr = NewType("MAddr", int)
"""Machine address, in bytes: an Mfn shifted by PAGE_SHIFT, plus an offset."""
DomId = NewType("DomId", int)
"""Domain id, 16 bits; DOMID_FIRST_RESERVED and above have special meanings."""
Port = NewType("Port", int)
"""Event channel of one domain."""
GrantRef = NewType("GrantRef", int)
"""Index into one domain's grant table."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGES_PER_MIB: Final = (1 << 20) >> PAGE_SHIFT
U32: Final = (1 << 32) - 1
"""Mask of the bits of a 32-bit number."""
U64: Final = (1 << 64) - 1
"""Mask of the bits of a 64-bit number."""

domid_t = Annotated[DomId, "<u2"]
evtchn_port_t = Annotated[Port, "<u4"]
grant_ref_t = Annotated[GrantRef, "<u4"]
grant_handle_t = Annotated[int, "<u4"]
unsigned_long = Annotated[int, "<u8", WORD]
xen_ulong_t = unsigned_long
xen_pfn_t = unsigned_long  # a frame number: the field says whether it is a Pfn or an Mfn
long = Annotated[int, "<i8", WORD]
XEN_GUEST_HANDLE = Annotated[VAddr, "<u8", WORD]  # a pointer into the guest's memory
xen_domain_handle_t = Annotated[bytes, 16]  # a UUID
