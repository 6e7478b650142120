"""XSA-226, XSA-318 and XSA-500: copies whose grant changes under them.

The flaws. XSA-226: a transitive grant dropped the table's lock half-way, and what it had checked was no
longer true. XSA-318: a copy that had to be restarted reported success for an operation it had not done.
XSA-500: a copy through an already pinned reference looked at the shared entry again, which the granter had
changed since.

The probe. A reference is mapped, so it is pinned; between copies through it the granter flips every field of
its shared entry. Each copy still reads the frame that was pinned. A transitive entry is refused by a version
1 table in every operation. In a batch that is cut after every operation each status is written once and
belongs to its own structure.
"""

from collections.abc import Callable

import pytest

from hypervisor.grants.active import Active
from hypervisor.grants.grant_table import GrantTable
from hypervisor.hypercalls.call import Call, Continue
from hypervisor.hypercalls.dispatch import perform
from hypervisor.hypercalls.grant_table_op import do_grant_table_op
from hypervisor.mm.budget import Budget
from hypervisor.public.grant_table import (
    GNTST_bad_gntref,
    GNTST_general_error,
    GNTST_okay,
    GrantTableOp,
    GTF_transitive,
    gnttab_copy,
    grant_entry_v1,
)
from hypervisor.public.types import GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import (
    HOST,
    PERMIT,
    READONLY,
    GrantingDomains,
    by_frame,
    by_ref,
    granting_domains,
)


def probe(house: GrantingDomains) -> None:
    """Copies through a pinned reference, with the entry different each time."""
    house.honest = {house.dom0.domid}
    granted, other, dest = (house.dom1.page(i) for i in range(3))
    house.dom1.poke(granted.va, b"the pinned frame")
    house.dom1.poke(other.va, b"some other frame")
    house.dom1.offer(8, 1, granted.mfn)
    house.dom1.map(house.dom1, 8, house.dom1.page(9).va, HOST | READONLY)
    for flags in (0, 1, 2, 3, 5, 0x19, 0x101, 0xFFFF):
        for frame in (other.mfn, 0, 2**32 - 1):
            house.dom1.write_entry(8, grant_entry_v1(flags=flags, domid=house.dom2.domid, frame=frame))
            status = house.dom1.copy(by_ref(1, 8), by_frame(DOMID_SELF, dest.mfn), 16, 1)
            assert (status, house.dom1.loads(dest.va)) == (GNTST_okay, b"the pinned frame")


def test_a_copy_reads_the_frame_that_is_pinned() -> None:
    with granting_domains() as house:
        probe(house)


def test_a_transitive_entry_is_refused_everywhere() -> None:
    with granting_domains() as house:
        house.dom1.offer(8, 0, house.dom1.page(0).mfn, int(GTF_transitive))
        mine = by_frame(DOMID_SELF, house.dom0.page(0).mfn)
        assert house.dom0.copy(by_ref(1, 8), mine, 16, 1) == GNTST_general_error
        assert house.dom0.copy(mine, by_ref(1, 8), 16, 2) == GNTST_general_error
        assert house.dom0.map(house.dom1, 8, house.dom0.page(1).va).status == GNTST_general_error
        assert house.dom1.entry(8).flags == GTF_transitive


def test_every_status_of_a_cut_batch_belongs_to_its_own_copy() -> None:
    with granting_domains() as house:
        guest, count = house.dom2, 9
        house.dom1.offer(8, 2, house.dom1.page(0).mfn)
        dest = by_frame(DOMID_SELF, guest.page(1).mfn)
        ops = [
            gnttab_copy(source=by_ref(1, 8 if i % 3 else 600), dest=dest, len=8, flags=1, status=99)
            for i in range(9)
        ]
        va = guest.page(0).va
        guest.poke(va, b"".join(op.pack() for op in ops))
        args: tuple[int, int, int, int, int] = (int(GrantTableOp.GNTTABOP_copy), va, count, 0, 0)
        hv, portions = house.machine.hv, 0
        while True:
            call = Call(hv, guest.built.domain, guest.built.vcpu, 20, args, perform, budget=Budget(1))
            result = do_grant_table_op(call)
            portions += 1
            house.recount()
            if result == 0:
                break
            assert isinstance(result, Continue)
            args = result.args
        assert portions == count
        statuses = [guest.peek(va + i * gnttab_copy.sizeof, gnttab_copy).status for i in range(count)]
        assert statuses == [GNTST_okay if i % 3 else GNTST_bad_gntref for i in range(count)]


def test_negative_control_believing_the_entry_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-500: the frame of a pinned reference is read from the shared entry."""
    acquire: Callable[..., Active] = GrantTable.acquire

    def believes(self: GrantTable, ref: GrantRef, *arguments: int, **named: bool) -> Active:
        if ref in self.active:
            self.active[ref].mfn = self.shared.frame(ref)
        return acquire(self, ref, *arguments, **named)

    monkeypatch.setattr(GrantTable, "acquire", believes)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house)


def test_the_entry_was_worth_flipping() -> None:
    """A copy through the same reference, not pinned, does see the other frame."""
    with granting_domains() as house:
        other, dest = house.dom1.page(1), house.dom1.page(2)
        house.dom1.poke(other.va, b"some other frame")
        house.dom1.offer(8, 1, other.mfn, PERMIT)
        assert house.dom1.copy(by_ref(1, 8), by_frame(DOMID_SELF, dest.mfn), 16, 1) == GNTST_okay
        assert house.dom1.loads(dest.va) == b"some other frame"
