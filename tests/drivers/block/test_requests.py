"""Requests of a front that sends anything: the image and the front's memory are as a naive model says, bit
for bit.

The model below reads each request as Xen public/io/blkif.h describes it, one sector at a time. Properties:
every request gets exactly one answer, in order, with the model's status; a refused request changes nothing (one
that is copied: nothing but the granted pages it was to fill);
no frame that was not granted for it changes; afterwards nothing is mapped.
"""

import mmap
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.block.aside import Aside
from drivers.block.copied_pages import CopiedPages
from drivers.block.granted_pages import GrantedPages
from drivers.block.image import Image
from drivers.block.protocol import RECORDS
from drivers.block.requests import Pages, RequestServer
from drivers.mapped_grants import MappedGrants
from drivers.ring import BackRing, FrontRing
from hypervisor.public.abi import COMPAT, NATIVE
from hypervisor.public.io import blkif
from hypervisor.public.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    blkif_request,
    blkif_request_discard,
    blkif_request_indirect,
    blkif_request_segment,
)
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef
from tests.drivers.transport import Machine

SECTORS = 64
GOOD, READ_ONLY, FOREIGN, MISSING = range(4)


@dataclass
class Case:
    """One request in the model's terms: pages by their number, 0-3 good, 4-5 read-only, 6 foreign, 7 no
    grant.
    """

    operation: int
    sector: int
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    claimed: int | None = None  # nr_segments, if it lies
    indirect_op: int | None = None
    list_page: int = 0
    count: int = 0


class Bench:
    """A front's pages, a ring, an image in memory, and the model's copies of both."""

    def __init__(
        self,
        persistent: bool,
        writable: bool,
        backend: int = 0,
        protocol: str = XEN_IO_PROTO_ABI_X86_64,
        aside: Aside | None = None,
    ) -> None:
        self.abi = COMPAT if protocol == XEN_IO_PROTO_ABI_X86_32 else NATIVE
        self.records = RECORDS[protocol]
        self.machine = Machine(frames=128)
        self.back, self.front = self.machine.domain(backend), self.machine.domain(1)
        self.machine.domain(2)
        self.before = self.machine.census()
        self.pages = [self.front.memory.alloc_page() for _ in range(8)]
        self.canary = self.front.memory.alloc_page()
        grant = self.front.grants.grant_access
        self.refs = [grant(DomId(backend), page.mfn) for page in self.pages[:4]]
        self.refs += [grant(DomId(backend), page.mfn, readonly=True) for page in self.pages[4:6]]
        self.refs += [grant(DomId(2), self.pages[6].mfn), GrantRef(0xDEAD_BEEF)]
        self.persistent, self.writable, self.backend = persistent, writable, backend
        rng = random.Random(1)
        self.disk = bytearray(rng.randbytes(SECTORS * 512))
        self.memory = [bytearray(rng.randbytes(PAGE_SIZE)) for _ in range(8)]
        for page, data in zip(self.pages, self.memory, strict=True):
            self.machine.frame(page.mfn)[:] = data
        self.fd = os.memfd_create("image")
        os.write(self.fd, self.disk)
        self.image = Image(f"/proc/self/fd/{self.fd}", "w" if writable else "r")
        shared = memoryview(mmap.mmap(-1, PAGE_SIZE))
        self.ring = FrontRing(shared, self.records.request, self.records.response)
        if backend:
            self.granted: Pages = CopiedPages(self.back.kernel, DomId(1))
        else:
            self.granted = GrantedPages(MappedGrants(self.back.kernel), self.back.cpu, DomId(1), persistent)
        back = BackRing(shared, self.records.request, self.records.response)
        self.server = RequestServer(back, self.image, self.granted, lambda: None, self.records, aside)

    def encode(self, case: Case, id: int) -> bytes:
        """The request's bytes, as a front of this width writes them."""
        record = self.record(case, id)
        return self.abi.layout(type(record)).pack(record)

    def record(self, case: Case, id: int) -> Struct:
        """The request; an indirect list is written into its page, and into the model's."""
        segments = [
            blkif_request_segment(gref=self.refs[page], first_sect=first, last_sect=last)
            for page, first, last in case.segments
        ]
        count = len(segments) if case.claimed is None else case.claimed
        if case.operation == BLKIF_OP_DISCARD:
            return blkif_request_discard(
                operation=case.operation, id=id, sector_number=case.sector, nr_sectors=case.count
            )
        if case.operation == BLKIF_OP_INDIRECT:
            raw = b"".join(segment.pack() for segment in segments)
            self.memory[case.list_page][: len(raw)] = raw
            self.machine.frame(self.pages[case.list_page].mfn)[: len(raw)] = raw
            return blkif_request_indirect(
                operation=case.operation,
                indirect_op=case.indirect_op,
                nr_segments=count,
                id=id,
                sector_number=case.sector,
                indirect_grefs=(self.refs[case.list_page], *[0] * 7),
            )
        fill = blkif_request_segment()
        return blkif_request(
            operation=case.operation,
            nr_segments=count,
            id=id,
            sector_number=case.sector,
            seg=(*segments, *[fill] * (11 - len(segments)))[:11],
        )

    def send(self, cases: list[Case]) -> list[tuple[int, int]]:
        """(id, status) of the answers to `cases`, sent together."""
        for id, case in enumerate(cases):
            self.ring.put(self.encode(case, id))
        self.ring.push()
        answers = []
        more = True
        while more:
            more = self.server.serve()
            records = self.ring.records(self.ring.take(), self.records.response)
            answers += [(id, status) for id, _, status in records.tolist()]
        return answers

    def model(self, case: Case) -> int:
        """Perform `case` on the model; its status."""
        if case.operation == BLKIF_OP_FLUSH_DISKCACHE:
            return BLKIF_RSP_OKAY
        if case.operation == BLKIF_OP_DISCARD:
            if not self.writable or case.sector + case.count > SECTORS:
                return BLKIF_RSP_ERROR
            self.disk[case.sector * 512 : (case.sector + case.count) * 512] = bytes(case.count * 512)
            return BLKIF_RSP_OKAY
        if case.operation == BLKIF_OP_WRITE_BARRIER and case.claimed == 0:
            return BLKIF_RSP_OKAY
        if case.operation == BLKIF_OP_INDIRECT:
            if case.indirect_op not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
                return BLKIF_RSP_ERROR
            if not self.usable(case.list_page, written=False):
                return BLKIF_RSP_ERROR
            return self.transfer(case, case.indirect_op == BLKIF_OP_WRITE, most=256)
        if case.operation in (BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER):
            return self.transfer(case, case.operation != BLKIF_OP_READ, most=11)
        return BLKIF_RSP_EOPNOTSUPP

    def usable(self, page: int, written: bool) -> bool:
        return page < 4 or (page < 6 and not written and not self.persistent)

    def transfer(self, case: Case, write: bool, most: int) -> int:
        count = len(case.segments) if case.claimed is None else case.claimed
        if not 0 < count <= most or count > len(case.segments):
            return BLKIF_RSP_ERROR
        segments = case.segments[:count]
        if any(first > last or last > 7 for _, first, last in segments):
            return BLKIF_RSP_ERROR
        refused = not all(self.usable(page, not write) for page, _, _ in segments)
        if refused and (write or not self.backend):
            return BLKIF_RSP_ERROR  # a read that is copied finds out only when it has filled the others
        sectors = [(page, at) for page, first, last in segments for at in range(first, last + 1)]
        if case.sector + len(sectors) > SECTORS or (write and not self.writable):
            return BLKIF_RSP_ERROR
        for disk, (page, at) in enumerate(sectors, case.sector):
            on_disk, in_page = slice(disk * 512, disk * 512 + 512), slice(at * 512, at * 512 + 512)
            if write:
                self.disk[on_disk] = self.memory[page][in_page]
            elif self.usable(page, written=True):
                self.memory[page][in_page] = self.disk[on_disk]
        return BLKIF_RSP_ERROR if refused else BLKIF_RSP_OKAY

    def check(self) -> None:
        assert os.pread(self.fd, len(self.disk) + 1, 0) == self.disk
        for page, data in zip(self.pages, self.memory, strict=True):
            assert self.machine.frame(page.mfn) == data
        assert self.machine.frame(self.canary.mfn) == bytes(PAGE_SIZE)
        assert self.persistent or self.machine.census()["pins"] == 0, "a page stays mapped after its request"

    def close(self) -> None:
        self.granted.close()
        self.image.close()
        os.close(self.fd)
        after = self.machine.census()
        assert (after["pins"], after["mappings"]) == (0, 0)


@pytest.fixture(
    params=[
        (True, True),
        (False, True),
        (True, False),
        (False, True, 9),
        (False, True, 0, XEN_IO_PROTO_ABI_X86_32),
    ],
    ids=["persistent", "passing", "read-only", "copied", "32-bit"],
)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(*request.param)
    yield bench
    bench.check()
    bench.close()


sector = st.one_of(
    st.integers(0, SECTORS), st.sampled_from([SECTORS - 1, 1 << 31, (1 << 64) - 1, (1 << 55) - 1])
)
page = st.sampled_from([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7])
edge = st.sampled_from([0, 0, 0, 1, 3, 6])
last = st.sampled_from([7, 7, 7, 6, 3, 1, 0, 8, 255])
segment = st.tuples(page, edge, last)
direct = st.builds(
    Case,
    operation=st.sampled_from([BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER]),
    sector=sector,
    segments=st.lists(segment, min_size=1, max_size=11),
    claimed=st.sampled_from([None, None, None, None, None, 0, 12, 255]),
)
indirect = st.builds(
    Case,
    operation=st.just(int(BLKIF_OP_INDIRECT)),
    sector=sector,
    segments=st.lists(segment, min_size=1, max_size=20),
    claimed=st.sampled_from([None, None, None, None, None, 0, 257, 513, 0xFFFF]),
    indirect_op=st.sampled_from([0, 1, 0, 1, 2, 3, 6, 255]),
    list_page=page,
)
discard = st.builds(
    Case,
    operation=st.just(int(BLKIF_OP_DISCARD)),
    sector=sector,
    count=st.one_of(st.integers(0, SECTORS), st.just((1 << 64) - 1)),
)
other = st.builds(Case, operation=st.sampled_from([3, 4, 7, 99, 255]), sector=sector)


@settings(max_examples=150, deadline=None)
@given(
    batches=st.lists(st.lists(direct | indirect | discard | other, min_size=1, max_size=6), max_size=4),
    kept=st.sampled_from([(True, 0), (False, 0), (False, 9)]),
    writable=st.sampled_from([True, True, False]),
    protocol=st.sampled_from([XEN_IO_PROTO_ABI_X86_64, XEN_IO_PROTO_ABI_X86_32]),
)
def test_any_requests_do_what_the_model_says(
    batches: list[list[Case]], kept: tuple[bool, int], writable: bool, protocol: str
) -> None:
    persistent, backend = kept
    bench = Bench(persistent, writable, backend, protocol)
    for batch in batches:
        for case in batch:  # one by one: the model's list pages change with each
            assert bench.send([case]) == [(0, bench.model(case))]
            bench.check()
        plain = [case for case in batch if case.operation != BLKIF_OP_INDIRECT]
        assert bench.send(plain) == [(id, bench.model(case)) for id, case in enumerate(plain)]
        bench.check()
    bench.close()


def test_a_list_changed_after_it_was_read_changes_nothing(bench: Bench) -> None:
    """A double fetch would use the second content: the list page is itself the target of the read."""
    case = Case(BLKIF_OP_INDIRECT, 0, [(0, 0, 7), (1, 0, 7)], indirect_op=BLKIF_OP_READ, list_page=0)
    assert bench.send([case]) == [(0, bench.model(case))]


def test_a_bad_segment_late_in_a_list_is_an_error_and_alters_no_page_that_is_not_named(bench: Bench) -> None:
    case = Case(BLKIF_OP_READ, 0, [(0, 0, 7), (1, 0, 7), (7, 0, 7)])
    assert bench.send([case]) == [(0, BLKIF_RSP_ERROR)] == [(0, bench.model(case))]


def test_the_answer_to_an_indirect_request_names_the_operation_inside(bench: Bench) -> None:
    """Linux's front compares it with what it asked for."""
    case = Case(BLKIF_OP_INDIRECT, 0, [(0, 0, 7)], indirect_op=BLKIF_OP_READ, list_page=1)
    bench.ring.put(bench.encode(case, 5))
    bench.ring.push()
    bench.server.serve()
    bench.model(case)
    answers = bench.ring.records(bench.ring.take(), bench.records.response)
    assert answers.tolist() == [(5, BLKIF_OP_READ, BLKIF_RSP_OKAY)]


def test_an_image_cut_short_is_an_error_and_is_not_grown(bench: Bench) -> None:
    os.ftruncate(bench.fd, 8 * 512)
    del bench.disk[8 * 512 :]
    cases = [Case(BLKIF_OP_READ, 8, [(0, 0, 7)]), Case(BLKIF_OP_WRITE, 4, [(0, 0, 7)])]
    assert bench.send(cases) == [(0, BLKIF_RSP_ERROR), (1, BLKIF_RSP_ERROR)]


def test_every_operation_number_gets_an_answer(bench: Bench) -> None:
    known = {int(operation) for operation in blkif.BlockOperation} - {blkif.BLKIF_OP_RESERVED_1}
    for operation in set(range(256)) - known:
        assert bench.send([Case(operation, 0)]) == [(0, BLKIF_RSP_EOPNOTSUPP)]
