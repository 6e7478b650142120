"""What a guest says of its pages is not believed blindly."""

import numpy as np

from domains.dom0.toolstack.saving.pv_memory import PvMemory, drop_repeated
from domains.dom0.toolstack.stream.page_tables import NONE


def test_a_frame_that_a_guest_names_for_many_pages_is_one_page() -> None:
    p2m = np.array([5, 7, 5, NONE, 7, 5, 9], np.uint64)
    drop_repeated(p2m)
    assert p2m.tolist() == [5, 7, NONE, NONE, NONE, NONE, 9]


def test_frames_have_their_pages_and_others_none() -> None:
    p2m, types = np.array([5, NONE, 3], np.uint64), np.array([0, 15, 9], np.uint64)
    memory = PvMemory(p2m, types, np.array([3], np.uint64))
    assert memory.page_of(np.array([3, 4, 5, 6, NONE], np.uint64)).tolist() == [2, NONE, 0, NONE, NONE]
    assert (memory.p2m_pfns.tolist(), memory.tables.tolist(), memory.ordinary.tolist()) == ([2], [2], [0])
