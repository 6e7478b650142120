"""What a guest says of its pages is not believed blindly."""

import numpy as np
import numpy.typing as npt
import pytest

from domains.dom0.toolstack.saving import pv_memory
from domains.dom0.toolstack.saving.pv_memory import PvMemory, pages_of_frames
from domains.dom0.toolstack.stream.page_tables import NONE
from domains.kernel.tasks import Pause


def in_turns(p2m: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint32], int]:
    """What pages_of_frames says, and in how many turns."""
    task = pages_of_frames(p2m)
    turns = 0
    while True:
        try:
            assert isinstance(next(task), Pause)
        except StopIteration as over:
            return over.value, turns
        turns += 1


@pytest.fixture(params=[1, 2, 1 << 16])
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many pages are looked at in one turn."""
    monkeypatch.setattr(pv_memory, "PAGES_AT_ONCE", request.param)
    return int(request.param)


def test_a_frame_that_a_guest_names_for_many_pages_is_one_page(at_once: int) -> None:
    p2m = np.array([5, 7, 5, NONE, 7, 5, 9, 9], np.uint64)
    _, turns = in_turns(p2m)
    assert p2m.tolist() == [5, 7, NONE, NONE, NONE, NONE, 9, NONE]
    assert turns == -(-8 // at_once)


def test_frames_have_their_pages_and_others_none(at_once: int) -> None:
    p2m, types = np.array([5, NONE, 3], np.uint64), np.array([0, 15, 9], np.uint64)
    memory = PvMemory(p2m, types, np.array([3], np.uint64), in_turns(p2m)[0])
    assert memory.page_of(np.array([3, 4, 5, 6, NONE], np.uint64)).tolist() == [2, NONE, 0, NONE, NONE]
    assert (memory.p2m_pfns.tolist(), memory.tables.tolist(), memory.ordinary.tolist()) == ([2], [2], [0])
