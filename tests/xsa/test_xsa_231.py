"""XSA-231: a NUMA node number from the guest used as an index.

The flaw. The node in the memory flags of a reservation was passed on unchecked, and indexed the allocator's
arrays.

The probe. Every value of the node and of the address width, with and without the flags beside them, for each
list operation and for exchange, from a guest and from the control domain: either it works in full or nothing
happens, and no bug of the hypervisor is counted. Negative control: the flags of a guest that asks for
exactly one node are refused only by that check.
"""

import pytest

from hypervisor.hypercalls import memory_lists
from hypervisor.public.memory import (
    XENMEM_increase_reservation,
    XENMEM_populate_physmap,
    xen_memory_reservation,
)
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.mm.caller import Caller, callers

FLAGS = [
    bits | node << 8 | extra << 16
    for bits in (0, 1, 12, 13, 30, 40, 64, 255)
    for node in (0, 1, 2, 63, 64, 65, 128, 254, 255)
    for extra in (0, 2, 4, 6, 0xFFF8)
]


def ask(caller: Caller, op: int, flags: int) -> int:
    at = caller.numbers([1 << 20], 0x100)
    return caller.memory_op(
        op,
        caller.record(
            xen_memory_reservation(
                extent_start=at, nr_extents=1, mem_flags=flags & 0xFFFF_FFFF, domid=DOMID_SELF
            )
        ),
    )


@pytest.mark.parametrize("who", [0, 1])
def test_all_flags_are_obeyed_or_refused(who: int) -> None:
    with callers() as everybody:
        caller = everybody[who]
        for op in (XENMEM_increase_reservation, XENMEM_populate_physmap):
            for flags in FLAGS:
                before = caller.d.tot_pages
                result = ask(caller, op, flags)
                assert caller.d.tot_pages == before + result
                assert result in (0, 1)
        assert caller.machine.hv.counters["hypervisor bugs"] == 0


def test_without_the_check_the_guests_node_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with callers() as (_, guest):
        exactly_node_254 = 255 << 8 | 2 << 16
        assert ask(guest, XENMEM_increase_reservation, exactly_node_254) == 0
        monkeypatch.setattr(memory_lists, "check_flags", lambda call, flags: None)
        assert ask(guest, XENMEM_increase_reservation, exactly_node_254) == 1
