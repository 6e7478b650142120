"""XSA-280: two uses of one field of the frame table overlapped.

The flaw. To save space one word of the frame table was the TLB stamp of unused frames, the state of partly validated
tables, and a shadow list's link. When two of these uses met, a flush was skipped or a wrong list followed.

The probe. Here each use has a column of its own. After random work each is looked at: validation progress is non-zero
only for a partial table's entries, linear counters only in tables that are in use, stamps never newer than the owner's
clock. Negative control: a stamp written into the linear counter is noticed.
"""

import random

import pytest

from hypervisor.machine.frame_types import PARTIAL
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.mm.mmu import Mmu
from hypervisor.mm.page_types import PageTypes
from tests.hypervisor.mm.test_random_memory import RandomMemory, one_step, run_long


def check_columns(mmu: Mmu) -> None:
    frames = mmu.frames
    for mfn in range(XEN_FRAMES, frames.top):
        table = 1 <= frames.type[mfn] <= 4 and frames.tcount[mfn] > 0
        if frames.flags[mfn] & PARTIAL:
            assert table
            assert frames.nr_validated[mfn] <= 512
            assert frames.nr_validated[mfn] + frames.partial_set[mfn] <= 512
        if not table and frames.owner[mfn] >= 0 and frames.tcount[mfn] == 0:
            owner = mmu.domains.get(frames.owner[mfn])  # type: ignore[call-overload]
            assert owner is None or frames.stamp[mfn] <= owner.flush_clock, frames.describe(mfn)


@pytest.mark.parametrize("seed", [7, 8])
def test_each_field_means_one_thing(seed: int) -> None:
    rng, world = random.Random(seed), RandomMemory()
    for step in range(150):
        one_step(world, rng)
        if step % 10 == 0:
            check_columns(world.machine.mmu)
    world.teardown()


def test_a_stamp_in_the_linear_counter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PageTypes.stamp

    def overlapping(self: PageTypes, mfn: int) -> None:
        original(self, mfn)
        self.frames.linear[mfn] = 1

    monkeypatch.setattr(PageTypes, "stamp", overlapping)
    original_begin = PageTypes._validate

    def keeps_linear(self: PageTypes, mfn: int, pgt: int, s: object, *, resumed: bool) -> None:
        linear = self.frames.linear[mfn]
        original_begin(self, mfn, pgt, s, resumed=resumed)  # type: ignore[arg-type]
        self.frames.linear[mfn] += linear

    monkeypatch.setattr(PageTypes, "_validate", keeps_linear)
    with pytest.raises(AssertionError):
        run_long(1, 400)
