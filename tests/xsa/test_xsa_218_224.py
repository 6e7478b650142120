"""XSA-218, XSA-224, XSA-380 and XSA-394: one mapping, unmapped in pieces or twice.

The flaws. XSA-218: two unmaps of one handle could both succeed, and the flags could tell the granter that
its frame was free while it was still mapped. XSA-224: a map with a host and a device part dropped one
reference too many, or kept one, depending on the order in which the parts went. XSA-394: a mapping counter
was dropped although a part was still there. XSA-380: a domain with very many mappings took very long to die.

The probe. Every kind of map, and every order of unmapping it in up to three steps, each step naming host,
device or both; and a batch that unmaps the same handle several times. After each step the reading and
writing flags are exactly what the parts that are left require, and no count is off by one. Then a domain
with 1500 mappings, half of them half-unmapped, dies: in short portions, and nothing is left.
"""

from collections.abc import Callable
from itertools import product

import pytest

from hypervisor.grants import mapping
from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.mapping import MAPS_PER_PORTION, release_maps
from hypervisor.public.grant_table import (
    GNTST_bad_handle,
    GNTST_okay,
    GrantTableOp,
    GTF_reading,
    GTF_writing,
    gnttab_map_grant_ref,
    gnttab_unmap_grant_ref,
)
from hypervisor.public.types import GrantRef, Mfn
from tests.hypervisor.grants.granting import PERMIT, GrantingDomains, granting_domains

DEVICE, HOST, READONLY = 1, 2, 4
READING, WRITING = int(GTF_reading), int(GTF_writing)
STEPS = [DEVICE, HOST, DEVICE | HOST]


def probe(house: GrantingDomains) -> None:
    """All kinds of maps times all orders of unmapping."""
    page = house.dom1.page(0)
    house.dom1.offer(8, 0, page.mfn)
    before = house.refs(page.mfn)
    for flags, *steps in product([1, 2, 3, 5, 6, 7], STEPS, STEPS, STEPS):
        unmap_in(house, flags, steps, page.mfn)
        assert house.refs(page.mfn) == before, f"after map {flags} and unmaps {steps}"
        assert house.dom1.entry(8).flags == PERMIT
    house.recount()


def unmap_in(house: GrantingDomains, flags: int, steps: list[int], mfn: int) -> None:
    va = house.dom0.page(0).va
    op = house.dom0.map(house.dom1, 8, va, flags)
    assert op.status == GNTST_okay
    left = flags & 3
    for step in [*steps, DEVICE | HOST]:
        status = house.dom0.unmap(
            op.handle, va if step & HOST else 0, op.dev_bus_addr if step & DEVICE else 0
        )
        assert status == (GNTST_okay if left else GNTST_bad_handle)
        left &= ~step
        used = 0 if not left else READING if flags & READONLY else READING | WRITING
        assert house.dom1.entry(8).flags == PERMIT | used, f"map {flags}, unmaps {steps}: flags after {step}"
        if left:
            assert house.machine.hv.frames.refs[mfn] > 2


def test_parts_go_once_each_in_any_order() -> None:
    with granting_domains() as house:
        probe(house)


def test_a_handle_named_four_times_in_one_batch_is_unmapped_once() -> None:
    with granting_domains() as house:
        page = house.dom1.page(0)
        house.dom1.offer(8, 0, page.mfn)
        before = house.refs(page.mfn)
        op = house.dom0.map(house.dom1, 8, house.dom0.page(0).va, 3)
        again = gnttab_unmap_grant_ref(
            handle=op.handle, host_addr=house.dom0.page(0).va, dev_bus_addr=op.dev_bus_addr
        )
        _, done = house.dom0.grant_table_op(GrantTableOp.GNTTABOP_unmap_grant_ref, *[again] * 4)
        assert [record.status for record in done] == [GNTST_okay] + [GNTST_bad_handle] * 3
        assert house.refs(page.mfn) == before


def test_a_domain_with_many_mappings_dies_in_short_portions() -> None:
    with granting_domains() as house:
        count = 0
        for ref in range(8, 20):
            house.dom1.offer(ref, 0, house.dom1.page(ref).mfn)
            op = gnttab_map_grant_ref(flags=5, ref=GrantRef(ref), dom=house.dom1.domid)
            _, done = house.dom0.grant_table_op(GrantTableOp.GNTTABOP_map_grant_ref, *[op] * 125)
            count += sum(record.status == GNTST_okay for record in done)
        assert count == 1500
        grants = house.dom0.grants
        portions = 0
        left = len(grants.maptrack)
        while not release_maps(grants):
            assert left - len(grants.maptrack) <= MAPS_PER_PORTION
            left = len(grants.maptrack)
            portions += 1
            house.recount(frames=portions % 10 == 0)
        assert portions >= 1500 // MAPS_PER_PORTION
        assert not house.dom1.grants.active


# --- negative controls ------------------------------------------------------------------------------------


def drops_both(granter: GrantTable, mfn: Mfn, flags: int) -> None:
    """XSA-224: the device part's end drops the host part's reference too."""
    DROP(granter, mfn, flags | (HOST if flags & DEVICE else 0))


def drops_none(granter: GrantTable, mfn: Mfn, flags: int) -> None:
    """XSA-394 the other way round: a device part's reference stays."""
    DROP(granter, mfn, flags & ~DEVICE)


DROP = mapping.drop_parts


@pytest.mark.parametrize("mutant", [drops_both, drops_none])
def test_negative_control_a_wrong_count_is_noticed(
    mutant: Callable[[GrantTable, Mfn, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "drop_parts", mutant)
    with pytest.raises((AssertionError, OverflowError, ValueError)), granting_domains() as house:
        probe(house)


def test_negative_control_flags_that_go_too_early_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-218: the granter is told that its frame is free with the first part that goes."""
    monkeypatch.setattr(
        GrantTable, "flags_to_clear", staticmethod(lambda pin, *, readonly: READING | WRITING)
    )
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house)
