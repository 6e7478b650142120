"""What a hostile PVH guest does: the steps of hostile_guests.py as a translated domain makes them, and one of its own.

    (who, "mode", cr3, paging, code32)      its process says how its page tables are to be walked, and how wide its code is

It plays with its P2M: pages in two places, over each other, where a grant is mapped, where devices would be, of other domains;
pages given back that a grant names or that are mapped. Its frames are guest frames, its addresses physical ones.
"""

from collections.abc import Callable

from hypervisor.public import memory
from hypervisor.public.grant_table import gnttab_map_grant_ref, gnttab_unmap_grant_ref, grant_entry_v1
from hypervisor.public.hvm.hvm_op import (
    HVMOP_get_mem_type,
    HVMOP_get_param,
    HVMOP_set_evtchn_upcall_vector,
    HVMOP_set_param,
    xen_hvm_evtchn_upcall_vector,
    xen_hvm_get_mem_type,
    xen_hvm_param,
)
from hypervisor.public.layout import Struct
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.hostile_guests import (
    ARGUMENTS,
    EXTREMES,
    MAPPED,
    NESTED,
    Call,
    Chooser,
    Step,
    event_call,
    grant_call,
    multicall,
    plain_call,
    sched_call,
    vcpu_call,
    with_struct,
)

MEMORY_OPS: dict[int, type[Struct]] = {
    0: memory.xen_memory_reservation,
    1: memory.xen_memory_reservation,
    6: memory.xen_memory_reservation,
    7: memory.xen_add_to_physmap,
    9: memory.xen_memory_map,
    11: memory.xen_memory_exchange,
    14: memory.xen_memory_domain,
    15: memory.xen_remove_from_physmap,
    23: memory.xen_add_to_physmap_batch,
}
P2M_GAMES = (1, 1, 6, 6, 6, 7, 7, 7, 7, 15, 23, 23)
"""decrease_reservation, populate_physmap, add_to_physmap, remove_from_physmap, add_to_physmap_batch."""
HVM_OPS: dict[int, type[Struct]] = {
    HVMOP_set_param: xen_hvm_param,
    HVMOP_get_param: xen_hvm_param,
    HVMOP_get_mem_type: xen_hvm_get_mem_type,
    HVMOP_set_evtchn_upcall_vector: xen_hvm_evtchn_upcall_vector,
}
PLACES = [0xFC000, 0xFE700, 0xFEE00, 0xFEFFF, 0x500]
"""Guest frames outside RAM: special pages, the local APIC, holes."""


class TranslatedChooser(Chooser):
    """Draws the steps of a PVH guest."""

    def mfn(self) -> int:
        kind = self.chance.random()
        if kind < 0.55:
            return self.chance.randrange(34)
        if kind < 0.85:
            return self.chance.choice(PLACES)
        if kind < 0.95:
            return self.chance.choice(
                [(1 << 24) - 1, 1 << 24, 1 << 40, self.frame_of(self.chance.choice(self.others))]
            )
        return self.chance.choice(EXTREMES)

    def table(self) -> int:
        return self.mfn()

    def domid(self) -> int:
        """Often itself: it maps no grants but its own."""
        return int(self.domain.domid) if self.chance.random() < 0.6 else super().domid()

    def va(self) -> int:
        if self.chance.random() < 0.9:
            page: int = self.chance.choice([*MAPPED, 0, 31, 32, *PLACES])
            return (page << 12) + self.chance.choice([0, 0, 0, 0, 8, 64, 2048, 4088, 4095])
        return self.chance.choice(EXTREMES)

    def number(self, name: str) -> int:
        if name in ("idxs", "gpfns", "errs"):
            return self.chance.choice([NESTED, NESTED + 512, self.va()])
        if name == "idx" or name.endswith("pfn"):
            return self.mfn()
        if name == "space":
            return self.chance.choice([0, 1, 2, 2, 2, 3, 4, 5, 6])
        if name == "size":
            return self.chance.choice([0, 1, 1, 2, 5, 40, 0xFFFF])
        if name == "domid" and self.chance.random() < 0.8:
            return int(DOMID_SELF)
        if name == "host_addr":
            return self.mfn() << 12 & 2**64 - 1
        return super().number(name)

    def step(self) -> Step:
        lost = not self.can_write_arguments()
        if self.chance.random() < (0.5 if lost else 0.02):
            sane = lost or self.chance.random() < 0.5
            cr3 = 0 if sane else self.chance.choice([self.mfn() << 12 & 2**64 - 1, *EXTREMES])
            paging = 0 if sane else self.chance.choice([0, 2, 3, 4, 255])
            return (self.who, "mode", cr3, paging, self.chance.random() < 0.3)
        if self.chance.random() < 0.15:
            entry = grant_entry_v1(flags=1, domid=self.domain.domid, frame=self.chance.randrange(32))
            return (self.who, "entry", self.chance.randrange(8), entry.pack())
        return super().step()

    def calls(self) -> list[Callable[[Chooser], Call]]:
        return CALLS


def memory_call(c: Chooser) -> Call:
    op = c.chance.choice(P2M_GAMES) if c.chance.random() < 0.8 else c.chance.choice(list(MEMORY_OPS))
    return with_struct(c, Hypercall.memory_op, (op | c.chance.choice([0, 0, 0, 0, 64]),), MEMORY_OPS[op])


def hvm_call(c: Chooser) -> Call:
    op = c.chance.choice(list(HVM_OPS))
    return with_struct(c, Hypercall.hvm_op, (op,), HVM_OPS[op])


def own_grant_call(c: Chooser) -> Call:
    """A map or unmap of a plausible grant of its own, or anything else of grants."""
    if c.chance.random() < 0.3:
        return grant_call(c)
    host_addr, ref, handle = c.number("host_addr"), c.chance.randrange(8), c.chance.randrange(4)
    if c.chance.random() < 0.5:
        unmap = gnttab_unmap_grant_ref(host_addr=host_addr, handle=handle)
        return Hypercall.grant_table_op, (1, ARGUMENTS, 1), ((ARGUMENTS, unmap.pack()),)
    flags = c.chance.choice([2, 2, 2, 6, 3, 18])
    request = gnttab_map_grant_ref(host_addr=host_addr, flags=flags, ref=ref, dom=c.domain.domid)
    return Hypercall.grant_table_op, (0, ARGUMENTS, 1), ((ARGUMENTS, request.pack()),)


CALLS: list[Callable[[Chooser], Call]] = [
    *(memory_call,) * 8,
    *(own_grant_call,) * 5,
    event_call,
    hvm_call,
    multicall,
    plain_call,
    sched_call,
    vcpu_call,
]
