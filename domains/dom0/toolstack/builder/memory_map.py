"""What a domain is told of its memory, which need not be there yet: libxenctrl's xc_domain_set_memory_map."""

from __future__ import annotations

from collections.abc import Iterable

from domains.kernel.hypercalls import Hypercalls
from hypervisor.public.memory import (
    XENMEM_set_memory_map,
    e820entry,
    xen_foreign_memory_map,
    xen_memory_map,
)
from hypervisor.public.types import DomId


def set_memory_map(hypercalls: Hypercalls, domid: DomId, regions: Iterable[e820entry]) -> None:
    """What the domain is answered that asks for its memory map. XenError."""
    packed = [region.pack() for region in regions]
    with hypercalls.arguments as area:
        where = xen_memory_map(nr_entries=len(packed), buffer=area.push(b"".join(packed)))
        request = xen_foreign_memory_map(domid=domid, map=where)
        hypercalls.hypercall_memory_op(XENMEM_set_memory_map, request)
