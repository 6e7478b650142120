"""Domains that end, or never come to be, leave nothing in any of the hypervisor's tables (K5)."""

from collections.abc import Iterator

import pytest

from hypervisor.domain.lifecycle import create_domain
from hypervisor.public.errno import Errno, XenError
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
                machine.step()
        assert hv.mmu.allocator.used_frames == before
        assert list(hv.memories) == known
        assert list(hv.domains) == known
        recount(hv.mmu, [])
    assert refusals == {Errno.ENOMEM}
