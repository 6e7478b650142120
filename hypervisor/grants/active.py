"""The core's own record of a grant that is in use: what the shared entry said when it was first pinned (G3).

The pin word has one 8-bit counter per kind of use, as in Xen's xen/common/grant_table.c:

     31      24 23      16 15       8 7        0
    ┌──────────┬──────────┬──────────┬──────────┐
    │   devr   │   devw   │   hstr   │   hstw   │     dev: device maps, hst: host maps and copies
    └──────────┴──────────┴──────────┴──────────┘     r: read-only

A counter is refused a further increment once its top bit is set, so that none ever carries into its
neighbour (F7, G4).
"""

from dataclasses import dataclass
from typing import Final

from hypervisor.public.grant_table import GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly
from hypervisor.public.types import PAGE_SIZE, DomId, Mfn

GNTPIN_hstw_inc: Final = 1 << 0
GNTPIN_hstr_inc: Final = 1 << 8
GNTPIN_devw_inc: Final = 1 << 16
GNTPIN_devr_inc: Final = 1 << 24
GNTPIN_writers: Final = 0x00FF_00FF
"""The counters of uses that may write."""

_DEVICE_MAP, _HOST_MAP, _READONLY = int(GNTMAP_device_map), int(GNTMAP_host_map), int(GNTMAP_readonly)


@dataclass(slots=True)
class Active:
    """One pinned entry of a granter's table; there is none while `pin` is 0."""

    domid: DomId  # who uses it; one domain at a time
    mfn: Mfn  # the frame, fixed for as long as it is pinned
    pin: int = 0
    start: int = 0  # what of the frame may be used
    length: int = PAGE_SIZE
    sub_page: bool = False  # a part of it, which may be copied and not mapped

    def as_numbers(self) -> list[int]:
        """Its fields in their order, as `Active` takes them."""
        return [self.domid, self.mfn, self.pin, self.start, self.length, self.sub_page]

    @property
    def written(self) -> bool:
        """Whether somebody may write through it."""
        return bool(self.pin & GNTPIN_writers)

    def overflows(self, increment: int) -> bool:
        """Whether one of the counters to be incremented has reached its limit, 128."""
        return bool(self.pin & increment << 7)


def pin_increment(flags: int) -> int:
    """What the parts of a map count for; 0 if `flags` (GNTMAP_*) asks for neither."""
    host, device = (
        (GNTPIN_hstr_inc, GNTPIN_devr_inc) if flags & _READONLY else (GNTPIN_hstw_inc, GNTPIN_devw_inc)
    )
    return (host if flags & _HOST_MAP else 0) + (device if flags & _DEVICE_MAP else 0)
