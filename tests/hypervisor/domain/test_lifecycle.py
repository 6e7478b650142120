"""Domains that end, or never come to be, leave nothing in any of the hypervisor's tables (K5)."""

import os
from collections.abc import Iterator

import pytest

from hypervisor.domain.lifecycle import create_domain
from hypervisor.mm.allocator import RUN_SLACK
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SIZE
from tests.inprocess import InProcess, hypervisor_in_process
from tests.recount import recount


@pytest.fixture
def machine() -> Iterator[InProcess]:
    with hypervisor_in_process() as machine:
        yield machine


def test_a_dead_domain_is_unknown_to_memory_management(machine: InProcess) -> None:
    hv = machine.hv
    guest = machine.build()
    dead = machine.build()
    machine.destroy(dead.domain)
    assert list(hv.memories) == [guest.domain.domid]
    with pytest.raises(XenError) as refused:
        hv.mmu.update_requests.owners(guest.domain.mem, int(dead.domain.domid))
    assert refused.value.errno is Errno.ESRCH


def test_a_domain_that_does_not_fit_leaves_no_frame_and_no_entry(machine: InProcess) -> None:
    """The quota ends at each of the frames that a domain needs before it has any of its own."""
    hv = machine.hv
    machine.build()
    before, known = hv.mmu.allocator.used_frames, list(hv.memories)
    refusals = set()
    for frames in range(40):
        hv.mmu.allocator.quota_frames = before + frames
        try:
            machine.destroy(create_domain(hv, hv.free_domid(), max_pages=64))
        except XenError as refusal:
            refusals.add(refusal.errno)
            while hv.work:
                machine.background()
        assert hv.mmu.allocator.used_frames == before
        assert list(hv.memories) == known
        assert list(hv.domains) == known
        recount(hv.mmu, [])
    assert refusals == {Errno.ENOMEM}


def test_a_domains_memfd_is_no_larger_than_its_memory(machine: InProcess) -> None:
    """Its process may touch every page of it: what the memfd holds is what the host can be made to spend.

    Negative control: with the machine's size, which it had, a domain of 4 MiB could take all of the machine.
    """
    guest = machine.build(pages=1024, max_pages=2048)
    extents = guest.domain.mem.extents
    assert os.fstat(guest.domain.memfd).st_size == extents.nr_frames * PAGE_SIZE
    assert extents.nr_frames <= 1024 + 2 * EXTENT_FRAMES


def test_a_domain_that_keeps_one_frame_of_each_run_gets_no_more_extents(machine: InProcess) -> None:
    """Each extent has one frame in use, so that no whole extent is free: runs would need new extents without end."""
    allocator, d = machine.hv.mmu.allocator, machine.build(pages=1024, max_pages=4096).domain.mem

    def keep_one_of_each_run() -> None:
        for _ in range(64):
            first = allocator.alloc_pages(d, 10)
            for mfn in range(first + 1, first + EXTENT_FRAMES):
                machine.hv.frames.put_page(mfn)

    with pytest.raises(XenError) as refused:
        keep_one_of_each_run()
    assert refused.value.errno is Errno.ENOMEM
    assert d.extents.nr_frames <= d.max_pages + RUN_SLACK + EXTENT_FRAMES
