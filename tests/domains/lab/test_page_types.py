"""page-types: exact results and counts. Negative control: a core that grants every type lets a page table be written."""

from collections.abc import Iterator

import pytest

from domains.lab.experiments.page_types import (
    ENTRIES,
    L1_TABLES,
    SWITCHES,
    USES,
    attempt,
    claims,
    story_of_a_frame,
    strangers,
    switch,
)
from domains.lab.in_process import XenInProcess
from domains.lab.played_guest import PlayedGuest, Uses
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import Errno

PAIRS = [(used, wanted) for used in USES for wanted in USES if used is not wanted]
UPPER_ENTRIES = L1_TABLES + 1 + 2
"""Of the L2, the L3 and the L4, which has the kernel's half beside the program's."""


@pytest.fixture(scope="module")
def guests() -> Iterator[tuple[PlayedGuest, PlayedGuest]]:
    xen = XenInProcess()
    yield PlayedGuest(xen), PlayedGuest(xen)
    xen.close()


def test_a_frame_has_one_use(guests: tuple[PlayedGuest, PlayedGuest]) -> None:
    for used, wanted in PAIRS:
        seen = attempt(guests[0], used, wanted)
        refusal = Errno.EBUSY if wanted.name == "writable" else Errno.EINVAL
        assert (seen.result, seen.later) == (-refusal, 0), (used.name, wanted.name)
        assert seen.before == seen.after
        assert seen.before[1:] == (1, 2)


def test_a_frame_and_its_counts(guests: tuple[PlayedGuest, PlayedGuest]) -> None:
    assert [(result, *uses[1:]) for _, result, uses in story_of_a_frame(guests[0])] == [
        (0, 0, 1),
        (0, 1, 2),
        (-Errno.EINVAL, 1, 2),
        (0, 0, 2),
        (0, 1, 3),
        (-Errno.EBUSY, 1, 3),
        (0, 0, 2),
        (0, 1, 2),
        (0, 0, 1),
    ]


def test_what_is_anothers_cannot_be_mapped(guests: tuple[PlayedGuest, PlayedGuest]) -> None:
    results = [result for both in strangers(*guests).values() for result in both]
    assert results == [-Errno.EBUSY] * 8 + [-Errno.EPERM] * 2


@pytest.mark.parametrize(
    ("pins", "expected"),
    [
        (True, (2 * (L1_TABLES * ENTRIES + UPPER_ENTRIES), 0)),
        (False, (0, SWITCHES * (L1_TABLES * ENTRIES + UPPER_ENTRIES))),
    ],
)
def test_pinned_tables_are_validated_once(pins: bool, expected: tuple[int, int]) -> None:
    assert switch(pins=pins) == expected


def test_a_core_that_grants_every_type_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def grant(types: PageTypes, mfn: int, _pgt: int, _portion: object = None) -> None:
        types.frames.tcount[mfn] += 1

    xen = XenInProcess()
    guest = PlayedGuest(xen)
    monkeypatch.setattr(PageTypes, "get_type", grant)
    table, writable = USES[0], USES[-1]
    mfn = guest.spare()
    results = [use.begin(guest, mfn) for use in (table, writable)]
    assert results == [0, 0]
    assert guest.uses(mfn) == Uses("none", 2, 3)
    monkeypatch.undo()
    xen.memory.close()
    unpinned = switch(pins=False)
    failing = {
        claim.text for claim in claims([], {}, {"pinned": unpinned, "unpinned": unpinned}) if not claim.holds
    }
    assert failing == {"a load of CR3 with pinned tables validates nothing"}
