"""Page tables between frames and pages: what is translated there and back is the same, and Xen's own entries are left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from domains.dom0.toolstack.stream.page_tables import NONE, BadEntry, localise, normalise

Words = npt.NDArray[np.uint64]
FRAMES = np.arange(1000, 1512, dtype=np.uint64)
"""By page: the frame that it is in."""
PRESENT, PSE, NX = np.uint64(1), np.uint64(1 << 7), np.uint64(1 << 63)


def page_of(frames: Words) -> Words:
    inside = (frames >= FRAMES[0]) & (frames <= FRAMES[-1])
    return np.where(inside, frames - FRAMES[0], NONE)


def frame_of(pages: Words) -> Words:
    return np.where(pages < len(FRAMES), pages + FRAMES[0], NONE)


def table(*frames: int) -> Words:
    """One table whose first entries map these frames; one more entry is not present, and names what there is not."""
    entries = np.zeros((1, 512), np.uint64)
    entries[0, : len(frames)] = np.array(frames, np.uint64) << np.uint64(12) | PRESENT | NX
    entries[0, 100] = 77 << 12
    return entries


def types(kind: int) -> Words:
    return np.array([kind], np.uint64)


@pytest.mark.parametrize("kind", [1, 2, 3, 0xC])
def test_what_is_normalised_is_localised_again(kind: int) -> None:
    tables = table(1000, 1511, 1234)
    normalise(tables, types(kind), 8, page_of)
    assert (tables[0, :3] >> np.uint64(12) & np.uint64(0xFFFFF)).tolist() == [0, 511, 234]
    localise(tables, frame_of)
    np.testing.assert_array_equal(tables, table(1000, 1511, 1234))


def test_xens_slots_of_an_l4_are_left_out() -> None:
    tables = table()
    tables[0, 255:273] = 5 << 12 | 1
    tables[0, [255, 272]] = 1000 << 12 | 1
    normalise(tables, types(4), 8, page_of)
    assert np.flatnonzero(tables[0]).tolist() == [100, 255, 272]


def test_xens_entries_of_a_32_bit_guest_are_left_out() -> None:
    l3 = table(1000, 1001, 1002, 1003, 7)
    normalise(l3, types(0xB), 4, page_of)
    assert np.flatnonzero(l3[0]).tolist() == [0, 1, 2, 3]
    xens, own = table(1000), table(1000)
    xens[0, 428:] = 5 << 12 | 1
    own[0, 428] = 1001 << 12 | 1
    for tables, left in ((xens, [0, 100]), (own, [0, 100, 428])):
        normalise(tables, types(2), 4, page_of)
        assert np.flatnonzero(tables[0]).tolist() == left


def test_entries_that_cannot_be_translated_are_named() -> None:
    foreign = np.concatenate([table(1000), table(1001, 999)])
    with pytest.raises(BadEntry, match="by a grant") as caught:
        normalise(foreign, np.array([1, 1], np.uint64), 8, page_of)
    assert (caught.value.table, caught.value.entry) == (1, 1)
    large = table(1000)
    large[0, 9] = np.uint64(1000 << 12) | PRESENT | PSE
    with pytest.raises(BadEntry, match="more than 4 KiB") as caught:
        normalise(large, types(2), 8, page_of)
    assert caught.value.entry == 9
    with pytest.raises(BadEntry, match="not there") as caught:
        localise(table(3, 512), frame_of)
    assert caught.value.entry == 1
