"""Exercise: may a guest make this entry of an L1 table? Write the answer, and have it checked:

    xenctl exercise validate-l1 THIS-FILE

A guest's page tables are the CPU's own, so Xen looks at each entry before it is in force. For an entry of an L1 table, which maps
one page, it takes a reference on the frame that the entry names; for one that may be written, the frame must have, or get, the
type *writable*. A frame has one type at a time, so nothing is at once a page table and writable: that is the whole of the safety.

`entry`: 64 bits: 0 PRESENT, 1 RW, 2 USER, 12 to 51 the frame's number; of the others none is set here.
`frames`: what Xen knows of each frame; `frames.get(number)` is None where there is no memory.
    .owner      the domain that owns it: "guest" for the one that asks, "other", or "xen"
    .type       "none", "writable", "l1" to "l4", "gdt"; what it is used as now
    .type_uses  how many uses the type has; at 0 it may become another
Return "nothing", "read" or "write": which reference the entry takes. Raise Refused(why) if the guest may not make it.
"""

from typing import Any


class Refused(Exception):
    """The guest may not make the entry."""


def validate_l1e(entry: int, frames: dict[int, Any]) -> str:
    """Your code."""
    return "write"
