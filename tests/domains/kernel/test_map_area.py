"""The address space for foreign mappings: runs never overlap, and what is given back is found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domains.kernel.map_area import MapArea
from hypervisor.public.errno import XenError
from hypervisor.public.types import VAddr

START = VAddr(0xFFFF_C900_0000_0000)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_runs_in_use_never_overlap_and_all_is_free_in_the_end(steps: list[tuple[bool, int]]) -> None:
    area = MapArea(START, 40)
    used: dict[int, int] = {}
    for give_back, pages in steps:
        if give_back and used:
            va = min(used)
            assert area.free(VAddr(va)) == used.pop(va)
            continue
        try:
            va = area.alloc(pages)
        except XenError:
            continue
        mine = set(range(va, va + pages * 4096, 4096))
        for other, size in used.items():
            assert not mine & set(range(other, other + size * 4096, 4096))
        assert START <= va < va + pages * 4096 <= START + 40 * 4096
        used[va] = pages
    for va in used:
        area.free(VAddr(va))
    assert area.alloc(40) == START


def test_only_the_first_address_of_a_run_can_be_given_back() -> None:
    area = MapArea(START, 8)
    va = area.alloc(4)
    with pytest.raises(KeyError):
        area.free(VAddr(va + 4096))
