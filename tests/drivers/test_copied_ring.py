"""A ring reached by grant copy: what holds of a mapped one holds of it, and the front may take its page back at any time."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from domains.kernel.grants import GrantError
from drivers.block import requests
from drivers.block.copied_pages import CopiedPages
from drivers.block.image import Image
from drivers.block.requests import RequestServer
from drivers.copied_ring import CopiedBackRing
from drivers.ring import (
    HEADER_SIZE,
    INDEX_MASK,
    REQ_EVENT,
    REQ_PROD,
    RSP_EVENT,
    RSP_PROD,
    FrontRing,
    RingBroken,
)
from hypervisor.public.io.blkif import blkif_request_discard
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef
from tests.drivers.test_ring import RECORDS, WORD, HonestEnds, request, response, set_word
from tests.drivers.transport import Machine


class Shared:
    """A front's page, granted, with both ends on it, all of whose indices have already come to `start`."""

    def __init__(self, start: int = 0) -> None:
        self.machine = Machine(16)
        self.guest, self.driver = self.machine.domain(1), self.machine.domain(9)
        page = self.guest.memory.alloc_page()
        self.page = self.machine.frame(page.mfn)
        self.ref = self.guest.grants.grant_access(self.driver.domid, page.mfn)
        self.front = FrontRing(self.guest.cpu.view(page.va, PAGE_SIZE, True), *RECORDS)
        self.free = len(self.machine.free)
        self.back = CopiedBackRing(self.driver.kernel, self.guest.domid, self.ref, *RECORDS)
        for word in (REQ_PROD, RSP_PROD):
            set_word(self.page, word, start)
        for word in (REQ_EVENT, RSP_EVENT):
            set_word(self.page, word, start + 1)
        for end in (self.front, self.back):
            end._prod = end._pushed = end._cons = start
        set_word(self.back._page, REQ_PROD, start)


class HonestEndsCopied(HonestEnds):
    """The same, but that one `take` may give less than all that waits: what was seen already comes first. And the back may
    find nothing where its last look was before the front's: then the front has rung.
    """

    def ends(self, start: int) -> tuple[FrontRing, CopiedBackRing]:
        shared = Shared(start)
        return shared.front, shared.back

    @rule(limit=st.integers(1, 40))
    def take_requests(self, limit: int) -> None:
        waiting = self.back.waiting
        assert bool(waiting) == bool(self.shown_requests)
        super().take_requests(min(limit, waiting))

    @rule()
    def back_goes_to_sleep(self) -> None:
        work = self.back.final_check()
        assert work == (self.shown_requests > 0) or self.rung
        self.back_sleeps = not (work or self.rung)
        self.rung = False


TestHonestEndsCopied = HonestEndsCopied.TestCase
TestHonestEndsCopied.settings = settings(deadline=None)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((REQ_PROD, RSP_PROD, REQ_EVENT, RSP_EVENT)), WORD, st.integers(0, 3)))
)
def test_a_hostile_front_gets_no_more_than_the_ring_holds(steps: list[tuple[int, int, int]]) -> None:
    shared = Shared()
    back = shared.back
    for word, value, action in steps:
        set_word(shared.page, word, value)
        try:
            if action == 0:
                back.take(INDEX_MASK)
            elif action == 1:
                back.put([response(1)] * back.unanswered)
                back.push()
            elif action == 2:
                back.final_check()
        except RingBroken:
            return
        assert 0 <= back.unanswered <= back.size


def test_what_was_seen_is_not_altered_any_more() -> None:
    shared = Shared()
    shared.front.put(request(7))
    shared.front.push()
    assert shared.back.waiting == 1
    shared.page[HEADER_SIZE:] = b"\xff" * (PAGE_SIZE - HEADER_SIZE)
    assert shared.back.records(shared.back.take(), blkif_request_discard)["id"].tolist() == [7]


def test_nothing_but_answers_and_two_words_is_written_into_the_front_s_page() -> None:
    shared = Shared()
    shared.page[:] = b"\xee" * PAGE_SIZE
    set_word(shared.page, REQ_PROD, 2)
    assert len(shared.back.take()) == 2 * shared.back.entry_size
    shared.back.put([response(1)])
    shared.back.push()
    shared.back.final_check()
    altered = {at for at in range(PAGE_SIZE) if shared.page[at] != 0xEE}
    first_entry = range(HEADER_SIZE, HEADER_SIZE + shared.back.entry_size)
    assert altered <= {*range(12), *first_entry}
    assert {4 * RSP_PROD, 4 * REQ_EVENT, HEADER_SIZE} <= altered


@pytest.mark.parametrize("action", ["take", "final_check", "push"])
def test_a_page_that_was_taken_back_breaks_the_ring(action: str) -> None:
    shared = Shared()
    shared.front.put(request(1))
    shared.front.push()
    shared.back.take()
    shared.back.put([response(1)])
    assert shared.guest.grants.end_access(shared.ref), "nothing holds it between two copies"
    with pytest.raises(RingBroken, match="GNTST_bad_gntref"):
        getattr(shared.back, action)()
    shared.back.release()
    assert len(shared.machine.free) == shared.free


def test_a_page_that_was_not_granted_is_refused_and_costs_nothing() -> None:
    shared = Shared()
    before = len(shared.machine.free)
    with pytest.raises(GrantError):
        CopiedBackRing(shared.driver.kernel, DomId(1), GrantRef(shared.ref + 1), *RECORDS)
    assert len(shared.machine.free) == before


@pytest.mark.parametrize("answers_at_once", [True, False])
@pytest.mark.parametrize("many", [1, 2, 4])
def test_a_front_that_sleeps_hears_of_its_answers(many: int, *, answers_at_once: bool) -> None:
    """Linux waits for ever for an answer that is not shown, or of which no event tells it."""
    shared = Shared()
    bells: list[int] = []
    fd = os.memfd_create("image")
    os.ftruncate(fd, 4096)
    image = Image(f"/proc/self/fd/{fd}", "r")
    os.close(fd)
    pages = CopiedPages(shared.driver.kernel, shared.guest.domid)
    server = RequestServer(shared.back, image, pages, lambda: bells.append(shared.front.waiting))
    for id in range(many):
        shared.front.put(request(id))
    assert shared.front.push()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "ANSWER_BYTES", requests.ANSWER_BYTES if answers_at_once else 0)
        taken = 0
        while taken < many:
            assert not shared.front.final_check(), "the front sleeps"
            bells.clear()
            while server.serve():
                pass
            assert bells, f"{taken} of {many} answers came"
            taken += len(shared.front.take()) // shared.front.entry_size
    image.close()
