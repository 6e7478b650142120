"""XSA-295: a guest that changes a shared word faster than the hypervisor can exchange it.

The flaw. Loops that repeated a compare-and-exchange on guest memory until it succeeded had no end: a guest
that kept changing the word kept a CPU of the host for ever.

The probe. An adversary changes the grant entry right before each exchange: the operation ends after 5 tries,
and leaves nothing behind. Then a second process flips the entry at full speed, without any order, while
maps, unmaps and copies go on: each ends, pins and handles agree, and the core's counts are right to the
last.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hypervisor.grants import shared_entries, transfer
from hypervisor.grants.shared_entries import SharedEntries
from hypervisor.public.grant_table import (
    GNTST_general_error,
    GNTST_okay,
    GrantTableOp,
    GTF_accept_transfer,
    gnttab_transfer,
)
from hypervisor.public.types import DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF
from tests.hypervisor.grants.granting import PERMIT, GrantingDomains, by_frame, by_ref, granting_domains

TRIES = 5


@contextmanager
def adversary(patch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Changes an unused bit of the head before each exchange; the list grows with every exchange."""
    tries: list[int] = []
    exchange = SharedEntries.compare_exchange_head

    def disturbed(self: SharedEntries, ref: GrantRef, expected: int, new: int) -> int:
        tries.append(ref)
        change = self.clear_flags if self.head(ref) & 0x8000 else self.set_flags
        change(ref, 0x8000)
        return exchange(self, ref, expected, new)

    patch.setattr(SharedEntries, "compare_exchange_head", disturbed)
    yield tries
    patch.setattr(SharedEntries, "compare_exchange_head", exchange)


def probe(house: GrantingDomains, patch: pytest.MonkeyPatch) -> None:
    page = house.dom1.page(0)
    house.dom1.offer(8, 0, page.mfn)
    house.dom1.offer(9, 0, page.mfn)
    before = house.refs(page.mfn)
    mine = by_frame(DOMID_SELF, house.dom0.page(0).mfn)
    with adversary(patch) as tries:
        assert house.dom0.map(house.dom1, 8, house.dom0.page(0).va).status == GNTST_general_error
        assert len(tries) == TRIES
        assert house.dom0.copy(by_ref(1, 9), mine, 8, 1) == GNTST_general_error
        assert len(tries) == 2 * TRIES
    assert house.refs(page.mfn) == before
    assert house.dom1.entry(8).flags & 0x7FFF == PERMIT


def test_an_exchange_is_tried_five_times(monkeypatch: pytest.MonkeyPatch) -> None:
    with granting_domains() as house:
        probe(house, monkeypatch)


def test_a_transfer_that_cannot_commit_gives_the_frame_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with granting_domains() as house:
        page = house.dom1.page(0)
        house.dom1.update_va_mapping(page.va, 0)
        house.dom2.offer(8, 1, 0, int(GTF_accept_transfer))
        op = gnttab_transfer(mfn=page.mfn, domid=DomId(2), ref=GrantRef(8))
        with adversary(monkeypatch) as tries:
            assert house.dom1.one(GrantTableOp.GNTTABOP_transfer, op).status == GNTST_general_error
            assert 0 < len(tries) <= TRIES
        house.recount()
        assert house.machine.hv.frames.owner[page.mfn] == house.dom1.domid


@contextmanager
def flipping(house: GrantingDomains, ref: int) -> Iterator[None]:
    """A process that writes good and bad entries in turn, as fast as it can."""
    address, memory = house.dom1.entry_address(ref), house.machine.memory
    good = house.dom1.entry(ref).pack()
    pid = os.fork()
    if pid == 0:
        while os.getppid() != 1:
            for _ in range(1000):
                memory.octets[address : address + 4] = good[:4]
                memory.octets[address : address + 2] = b"\x05\x00"
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_every_operation_ends_while_the_entry_is_flipped_at_full_speed() -> None:
    with granting_domains() as house:
        house.honest = {house.dom0.domid, house.dom2.domid}
        house.dom1.offer(8, 0, house.dom1.page(0).mfn)
        mine = by_frame(DOMID_SELF, house.dom0.page(50).mfn)
        done = []
        with flipping(house, 8):
            for round_ in range(300):
                va = house.dom0.page(round_ % 40).va
                op = house.dom0.map(house.dom1, 8, va)
                done.append(op.status)
                done.append(house.dom0.copy(by_ref(1, 8), mine, 64, 1))
                if op.status == GNTST_okay:
                    assert house.dom0.unmap(op.handle, va) == GNTST_okay
        assert set(done) <= {GNTST_okay, GNTST_general_error}
        assert not house.dom1.grants.active


def test_negative_control_more_tries_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (shared_entries, transfer):
        monkeypatch.setattr(module, "MAX_TRIES", 1000)
    with pytest.raises(AssertionError), granting_domains() as house:
        probe(house, monkeypatch)
