"""XSA-296: an assertion that a guest reaches by having VCPUOP_initialise restarted.

The flaw. Initialising a vCPU takes references on page tables, which can be preempted; the restarted call ran into an
assertion that the vCPU was still untouched. Any guest could stop the host.

The probe. A vCPU's first page tables are installed in portions of one entry, good ones and bad ones, kernel and user,
with the domain dying at any stop: the result is what it is in one portion, and the counts hold. And each memory
hypercall is forced to stop wherever it can: no bug of the hypervisor is counted. Negative control: an operation that
insists on an untouched vCPU fails under the same probe.
"""

import pytest

from hypervisor.machine.paging import pte
from hypervisor.mm.base_pointers import BasePointers
from hypervisor.mm.budget import Budget, Restart
from hypervisor.public.errno import XenError
from hypervisor.public.memory import XENMEM_increase_reservation, xen_memory_reservation
from hypervisor.public.xen import DOMID_SELF, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE
from tests.hypervisor.mm.caller import callers, tiny_portions
from tests.hypervisor.mm.small_machine import RW, Guest, SmallMachine, small_machine
from tests.hypervisor.mm.test_mmuext_op import l4_like_mine, op


def tables(guest: Guest, *, good: bool = True) -> int:
    l1s = [guest.l1(guest.take(1)) for _ in range(3)]
    l4, _, l2 = guest.tower(l1s)
    if not good:
        guest.write(l2, 3, pte(l4, RW))
    return l4


def install(guest: Guest, l4: int, user: int, *, stop_after: int = 10_000) -> int:
    """The portions it took, or `stop_after`. XenError."""
    for n in range(stop_after):
        try:
            guest.mmu.bases.set_base_pointers(guest.v, l4, user, Budget(1))
        except Restart:
            guest.machine.recount()
        else:
            guest.machine.recount()
            return n + 1
    return stop_after


def end(guest: Guest) -> None:
    while not guest.mmu.relinquish(guest.d, Budget(1)):
        guest.machine.recount()
    assert guest.d.tot_pages == 0


def test_restarted_initialisation_ends_as_the_one_in_one_go() -> None:
    with small_machine() as machine:
        guest = machine.domain(64)
        l4, user = tables(guest), tables(guest)
        assert install(guest, l4, user) > 3
        assert (guest.v.cr3, guest.v.user_cr3) == (l4, user)


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_death_between_two_portions_of_it_leaves_nothing(stop: int) -> None:
    with small_machine() as machine:
        guest = machine.domain(64)
        install(guest, tables(guest), tables(guest), stop_after=stop)
        end(guest)


@pytest.mark.parametrize(("kernel_good", "user_good"), [(False, True), (True, False), (False, False)])
def test_a_bad_table_is_refused_after_any_number_of_portions(kernel_good: bool, user_good: bool) -> None:
    with small_machine() as machine:
        guest = machine.domain(64)
        with pytest.raises(XenError):
            install(guest, tables(guest, good=kernel_good), tables(guest, good=user_good))
        machine.recount()
        end(guest)


@pytest.mark.parametrize("entries", [1, 2, 3, 7])
def test_every_memory_hypercall_stops_wherever_it_can(entries: int) -> None:
    with callers() as (_, guest), tiny_portions(guest.machine, entries):
        new = l4_like_mine(guest)
        for _ in range(3):
            assert guest.mmuext_op(op(MMUEXT_PIN_L4_TABLE, new), op(MMUEXT_UNPIN_TABLE, new)) == (0, 2)
        wanted = xen_memory_reservation(extent_start=guest.scratch + 0x100, nr_extents=5, domid=DOMID_SELF)
        assert guest.memory_op(XENMEM_increase_reservation, guest.record(wanted)) == 5
        assert guest.machine.hv.counters["hypervisor bugs"] == 0


def test_insisting_on_an_untouched_vcpu_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = BasePointers.new_baseptr

    def insisting(self: BasePointers, v, mfn: int, s) -> None:  # type: ignore[no-untyped-def]
        assert v.cr3 is None
        original(self, v, mfn, s)

    monkeypatch.setattr(BasePointers, "new_baseptr", insisting)
    machine = SmallMachine()
    guest = machine.domain(64)
    with pytest.raises(AssertionError):
        install(guest, tables(guest), tables(guest))
    machine.close()
