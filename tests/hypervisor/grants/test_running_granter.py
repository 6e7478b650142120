"""A granter that changes its flags by instructions that are not atomic: an x86 guest (docs/events.md).

While it executes, the core must not touch its flags: it asks the guest to stop and answers GNTST_eagain,
which back ends retry; once the guest is off its CPU the same operation succeeds.
"""

import pytest

from hypervisor.domain.lifecycle import begin_destroy
from hypervisor.domain.run_state import Run
from hypervisor.public.grant_table import (
    GNTST_eagain,
    GNTST_general_error,
    GNTST_okay,
    GTF_reading,
    GTF_writing,
)
from hypervisor.public.sched import SCHEDOP_yield
from hypervisor.public.vcpu import RunState
from hypervisor.public.xen import DOMID_SELF, Hypercall
from tests.hypervisor.grants.granting import HOST, PERMIT, READONLY, GrantingDomains, by_frame, by_ref
from tests.inprocess import BLOCKED
from tests.machines import wait_until

USED = PERMIT | int(GTF_reading | GTF_writing)


class Granter:
    """Domain 1 as such a guest: it runs until its stop byte is seen."""

    def __init__(self, house: GrantingDomains) -> None:
        self.vcpu = house.dom1.built.vcpu
        self.mailbox = house.dom1.built.domain.mailbox
        self.mailbox._octets[0xC08] = 0  # it does not declare itself atomic
        self.run()

    def run(self) -> None:
        self.vcpu.run.state = Run.GUEST
        self.mailbox.set_stop(0, False)

    def stop(self) -> None:
        """What its process does when it sees the stop byte: a STOPPED request is outstanding."""
        assert self.mailbox.stop(0), "nobody asked it to stop"
        self.vcpu.run.state = Run.HYPERCALL


@pytest.fixture
def granter(house: GrantingDomains) -> Granter:
    house.dom1.offer(8, 0, house.dom1.page(0).mfn)
    return Granter(house)


def test_a_map_waits_until_the_granter_stands_still(house: GrantingDomains, granter: Granter) -> None:
    before = house.refs(house.dom1.page(0).mfn)
    va = house.dom0.page(0).va
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_eagain
    assert house.dom1.entry(8).flags == PERMIT
    assert house.refs(house.dom1.page(0).mfn) == before
    granter.stop()
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_okay
    assert house.dom1.entry(8).flags == USED


def test_an_unmap_that_changes_flags_waits_and_one_that_does_not_does_not(
    house: GrantingDomains, granter: Granter
) -> None:
    first, second = house.dom0.page(0), house.dom0.page(1)
    house.dom0.map(house.dom1, 8, first.va)
    granter.stop()
    one = house.dom0.map(house.dom1, 8, first.va).handle
    two = house.dom0.map(house.dom1, 8, second.va).handle
    granter.run()
    assert house.dom0.unmap(two, second.va) == GNTST_okay  # the other map keeps both flags
    assert not granter.mailbox.stop(0)
    assert house.dom0.unmap(one, first.va) == GNTST_eagain
    assert house.dom1.entry(8).flags == USED
    granter.stop()
    assert house.dom0.unmap(one, first.va) == GNTST_okay
    assert house.dom1.entry(8).flags == PERMIT


def test_a_copy_waits_too(house: GrantingDomains, granter: Granter) -> None:
    mine = by_frame(DOMID_SELF, house.dom0.page(5).mfn)
    assert house.dom0.copy(by_ref(1, 8), mine, 16, 1) == GNTST_eagain
    granter.stop()
    assert house.dom0.copy(by_ref(1, 8), mine, 16, 1) == GNTST_okay
    assert house.dom1.entry(8).flags == PERMIT


def test_a_reader_beside_a_reader_needs_no_stop(house: GrantingDomains, granter: Granter) -> None:
    house.dom0.map(house.dom1, 8, house.dom0.page(0).va, HOST | READONLY)
    granter.stop()
    house.dom0.map(house.dom1, 8, house.dom0.page(0).va, HOST | READONLY)
    granter.run()
    assert house.dom0.map(house.dom1, 8, house.dom0.page(1).va, HOST | READONLY).status == GNTST_okay
    assert not granter.mailbox.stop(0)
    assert house.dom0.map(house.dom1, 8, house.dom0.page(2).va).status == GNTST_eagain


def yields(house: GrantingDomains) -> object:
    """The granter's next hypercall; BLOCKED while its answer waits."""
    return house.dom1.hypercall(Hypercall.sched_op, SCHEDOP_yield)


def test_a_granter_that_makes_one_hypercall_after_another_is_held_at_its_next(
    house: GrantingDomains, granter: Granter
) -> None:
    va, answers = house.dom0.page(0).va, house.machine.processes.results
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_eagain
    assert yields(house) is BLOCKED
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_okay
    house.machine.background()
    assert answers[granter.vcpu] == 0, "it is held although nobody waits for it any more"
    assert yields(house) == 0


def test_a_granter_is_not_held_for_long_when_nobody_asks_again(
    house: GrantingDomains, granter: Granter
) -> None:
    assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va).status == GNTST_eagain
    assert yields(house) is BLOCKED

    def goes_on() -> bool:
        house.machine.background()
        return granter.vcpu in house.machine.processes.results

    wait_until(goes_on, 10, "the end of the hold")
    assert yields(house) == 0


def test_a_granter_taken_off_its_cpu_by_force_is_not_at_rest(
    house: GrantingDomains, granter: Granter
) -> None:
    """It may be in the middle of the very instruction that changes the entry."""
    hv, unit = house.machine.hv, granter.vcpu.unit
    hv.run.slices.sleep(unit, hv.now(), RunState.RUNSTATE_offline)
    granter.vcpu.run.state = Run.FROZEN
    va = house.dom0.page(0).va
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_eagain
    assert house.dom1.entry(8).flags == PERMIT
    granter.stop()
    assert house.dom0.map(house.dom1, 8, va).status == GNTST_okay


def test_nobody_is_stopped_by_who_was_offered_nothing(house: GrantingDomains, granter: Granter) -> None:
    mine = by_frame(DOMID_SELF, house.dom2.page(5).mfn)
    assert house.dom2.copy(by_ref(1, 8), mine, 16, 1) == GNTST_general_error
    assert not granter.mailbox.stop(0)


def test_what_is_wrong_anyway_is_refused_at_once(house: GrantingDomains, granter: Granter) -> None:
    granter.run()
    house.dom2.offer(8, 1, house.dom2.page(0).mfn)
    assert house.dom0.map(house.dom2, 8, house.dom0.page(0).va).status == GNTST_general_error


def test_a_mappers_death_waits_for_the_granter_and_then_ends(
    house: GrantingDomains, granter: Granter
) -> None:
    house.dom0.map(house.dom1, 8, house.dom0.page(0).va)
    granter.stop()
    house.dom0.map(house.dom1, 8, house.dom0.page(0).va)
    granter.run()
    machine, domain = house.machine, house.dom0.built.domain
    begin_destroy(machine.hv, domain)
    for _ in range(20):
        machine.background()
    assert house.dom1.entry(8).flags == USED
    assert granter.mailbox.stop(0)
    granter.stop()
    machine.destroy(domain)
    assert house.dom1.entry(8).flags == PERMIT
