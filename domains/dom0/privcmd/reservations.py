"""Long lists of memory_op in pieces: libxenguest populates a whole domain by one call, and Dom0 has others to serve meanwhile.

A call with the number of extents done in its command goes on there (Xen's MEMOP_EXTENT_SHIFT), so each piece is a call for a list
that ends earlier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from domains.dom0.privcmd.window import Window
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.memory import (
    XENMEM_decrease_reservation,
    XENMEM_increase_reservation,
    XENMEM_populate_physmap,
    xen_memory_reservation,
)
from hypervisor.public.xen import Hypercall

FRAMES_A_PIECE: Final = 2048
START_SHIFT: Final = 6
"""Where in the command the number of extents done is."""
COMMAND: Final = (1 << START_SHIFT) - 1
LISTS: Final = frozenset(
    map(int, (XENMEM_increase_reservation, XENMEM_decrease_reservation, XENMEM_populate_physmap))
)


def is_list(nr: int, args: Sequence[int]) -> bool:
    """Whether that is a call to be made in pieces."""
    return nr == Hypercall.memory_op and args[0] & COMMAND in LISTS


def in_pieces(window: Window, args: Sequence[int]) -> Task[int]:
    """How many extents are done when all are, or one cannot be; what comes before the first: as Xen answers it."""
    command, where = args[0] & COMMAND, args[1]
    asked = xen_memory_reservation.unpack(window.get(where, xen_memory_reservation.sizeof))
    total, done, result = asked.nr_extents, args[0] >> START_SHIFT, 0
    size = max(1, FRAMES_A_PIECE >> min(asked.extent_order, 63))
    while True:
        asked.nr_extents = min(done + size, total)
        window.put(where, memoryview(asked.pack()))
        result = window.hypercall(Hypercall.memory_op, command | done << START_SHIFT, where)
        if result != asked.nr_extents or result == total:
            break
        done = result
        yield NEXT_TURN
    asked.nr_extents = total
    window.put(where, memoryview(asked.pack()))
    return result
