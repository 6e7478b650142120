"""The shared ring: nothing is lost, doubled or reordered between honest ends, and a hostile end only breaks
the ring.
"""

import mmap
import struct
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drivers.ring import (
    HEADER_SIZE,
    INDEX_MASK,
    REQ_EVENT,
    REQ_PROD,
    RSP_EVENT,
    RSP_PROD,
    BackRing,
    FrontRing,
)
from drivers.ring import RingBroken as Broken
from hypervisor.public.io.blkif import blkif_request, blkif_request_discard, blkif_response
from hypervisor.public.io.ring import sring
from hypervisor.public.types import PAGE_SIZE

RECORDS = (blkif_request, blkif_response)


def page() -> memoryview:
    return memoryview(mmap.mmap(-1, PAGE_SIZE))


def request(id: int) -> bytes:
    return blkif_request_discard(operation=5, id=id, nr_sectors=id ^ INDEX_MASK).pack()


def response(id: int) -> bytes:
    return blkif_response(id=id, operation=5, status=0).pack()


def set_word(shared: memoryview, word: int, value: int) -> None:
    struct.pack_into("<I", shared, word * 4, value & INDEX_MASK)


def both(shared: memoryview, start: int = 0) -> tuple[FrontRing, BackRing]:
    """Both ends of a ring on `shared`, all of whose indices have already come to `start`."""
    front, back = FrontRing(shared, *RECORDS), BackRing(shared, *RECORDS)
    for word in (REQ_PROD, RSP_PROD):
        set_word(shared, word, start)
    for word in (REQ_EVENT, RSP_EVENT):
        set_word(shared, word, start + 1)
    for end in (front, back):
        end._prod = end._pushed = end._cons = start
    return front, back


def test_the_geometry_is_that_of_xen() -> None:
    front, back = both(page())
    assert front.size == back.size == 32
    assert front.entry_size == blkif_request.sizeof == 112


def test_creating_the_front_initialises_the_page() -> None:
    shared = page()
    shared[:] = b"\xff" * PAGE_SIZE
    FrontRing(shared, *RECORDS)
    header = sring.unpack(shared)
    assert (header.req_prod, header.rsp_prod, header.req_event, header.rsp_event) == (0, 0, 1, 1)
    assert header.pvt + header.pad == bytes(48)


@pytest.mark.parametrize("bad", [memoryview(bytes(PAGE_SIZE)), memoryview(bytearray(100))])
def test_a_ring_needs_one_writable_page(bad: memoryview) -> None:
    with pytest.raises(ValueError):
        BackRing(bad, *RECORDS)


class HonestEnds(RuleBasedStateMachine):
    """Both ends driven at random against two queues; whoever sleeps must have been notified when there is
    work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.front, self.back = self.ends(INDEX_MASK - 40)
        self.next_id = 0
        self.requests: deque[int] = deque()  # put, not taken by the back
        self.shown_requests = 0
        self.taken: deque[int] = deque()  # by the back, not answered
        self.responses: deque[int] = deque()  # answered, not taken by the front
        self.shown_responses = 0
        self.front_sleeps = self.back_sleeps = False
        self.rung = False  # an event has come that the back has not answered yet

    def ends(self, start: int) -> tuple[FrontRing, BackRing]:
        return both(page(), start)

    @precondition(lambda self: self.front.free)
    @rule(count=st.integers(1, 32))
    def put_requests(self, count: int) -> None:
        for _ in range(min(count, self.front.free)):
            self.front.put(request(self.next_id))
            self.requests.append(self.next_id)
            self.next_id += 1

    @rule()
    def push_requests(self) -> None:
        fresh = len(self.requests) - self.shown_requests
        notify = self.front.push()
        self.shown_requests = len(self.requests)
        assert notify or not (fresh and self.back_sleeps), "the back sleeps on work it was not told of"
        if notify:
            self.back_sleeps = False
            self.rung = True

    @rule(limit=st.integers(1, 40))
    def take_requests(self, limit: int) -> None:
        records = self.back.records(self.back.take(limit), blkif_request_discard)
        expected = [self.requests.popleft() for _ in range(min(limit, self.shown_requests))]
        self.shown_requests -= len(expected)
        assert records["id"].tolist() == expected
        assert records["nr_sectors"].tolist() == [id ^ INDEX_MASK for id in expected]
        self.taken.extend(expected)

    @rule(count=st.integers(1, 32))
    def put_responses(self, count: int) -> None:
        answered = [self.taken.popleft() for _ in range(min(count, len(self.taken)))]
        self.back.put(response(id) for id in answered)
        self.responses.extend(answered)

    @rule()
    def push_responses(self) -> None:
        fresh = len(self.responses) - self.shown_responses
        notify = self.back.push()
        self.shown_responses = len(self.responses)
        assert notify or not (fresh and self.front_sleeps), "the front sleeps on answers it was not told of"
        if notify:
            self.front_sleeps = False

    @rule()
    def take_responses(self) -> None:
        records = self.front.records(self.front.take(), blkif_response)
        assert records["id"].tolist() == [self.responses.popleft() for _ in range(self.shown_responses)]
        self.shown_responses = 0

    @rule()
    def back_goes_to_sleep(self) -> None:
        work = self.back.final_check()
        assert work == (self.shown_requests > 0)
        self.back_sleeps = not work

    @rule()
    def front_goes_to_sleep(self) -> None:
        work = self.front.final_check()
        assert work == (self.shown_responses > 0)
        self.front_sleeps = not work

    @invariant()
    def counts_agree(self) -> None:
        assert self.front.free == 32 - len(self.requests) - len(self.taken) - len(self.responses)
        assert self.back.unanswered == len(self.taken)


TestHonestEnds = HonestEnds.TestCase
TestHonestEnds.settings = settings(deadline=None)

WORD = st.one_of(st.integers(0, 70), st.integers(INDEX_MASK - 70, INDEX_MASK), st.integers(0, INDEX_MASK))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((REQ_PROD, RSP_PROD, REQ_EVENT, RSP_EVENT)), WORD, st.integers(0, 3)))
)
def test_a_hostile_front_gets_no_more_than_the_ring_holds(steps: list[tuple[int, int, int]]) -> None:
    shared = page()
    _, back = both(shared)
    for word, value, action in steps:
        set_word(shared, word, value)
        try:
            if action == 0:
                back.take(INDEX_MASK)
            elif action == 1:
                back.put([response(1)] * back.unanswered)
                back.push()
            elif action == 2:
                back.final_check()
        except Broken:
            return
        assert 0 <= back.unanswered <= back.size


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((REQ_PROD, RSP_PROD, REQ_EVENT, RSP_EVENT)), WORD, st.integers(0, 3)))
)
def test_a_hostile_back_gives_no_more_answers_than_requests(steps: list[tuple[int, int, int]]) -> None:
    shared = page()
    front, _ = both(shared)
    sent = answered = 0
    for word, value, action in steps:
        set_word(shared, word, value)
        try:
            if action == 0:
                answered += len(front.take()) // front.entry_size
            elif action == 1 and front.free:
                front.put(request(sent))
                front.push()
                sent += 1
            elif action == 2:
                front.final_check()
        except Broken:
            return
        assert answered <= sent
        assert 0 <= front.free <= front.size


@pytest.mark.parametrize("claimed", [33, 64, 1 << 31, INDEX_MASK])
def test_an_impossible_producer_breaks_the_ring_before_anything_is_taken(claimed: int) -> None:
    shared = page()
    _, back = both(shared)
    set_word(shared, REQ_PROD, claimed)
    with pytest.raises(Broken):
        back.take(1)
    assert back.unanswered == 0


def test_a_producer_that_runs_back_breaks_the_ring() -> None:
    shared = page()
    front, back = both(shared)
    front.put(request(0))
    front.push()
    assert back.take()
    set_word(shared, REQ_PROD, 0)
    with pytest.raises(Broken):
        back.final_check()


def test_taken_entries_are_private_copies() -> None:
    shared = page()
    front, back = both(shared)
    front.put(request(7))
    front.push()
    entries = back.take()
    shared[HEADER_SIZE:] = b"\xff" * (PAGE_SIZE - HEADER_SIZE)
    assert back.records(entries, blkif_request_discard)["id"].tolist() == [7]


def test_the_caller_cannot_overfill_or_answer_nothing() -> None:
    front, back = both(page())
    with pytest.raises(ValueError):
        back.put([response(0)])
    for id in range(32):
        front.put(request(id))
    with pytest.raises(ValueError):
        front.put(request(32))
