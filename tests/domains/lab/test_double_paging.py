"""double-paging: exact counts. Negative control: with a frame for every page that the guest believes in, nobody pages doubly."""

from functools import cache

import pytest

from domains.lab.experiments.double_paging import BELIEVED, CASES, KINDS, Paged, balloon_on_xen, claims, page
from domains.lab.systems import paged

TRANSFERS = {
    "random": (135, 135, 239, 239, 108),
    "first": (135, 135, 241, 241, 122),
    "balloon": (258, 258, 0, 0, 0),
    "small": (258, 258, 0, 0, 0),
}


@cache
def run(name: str) -> Paged:
    return page(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_transfers(name: str) -> None:
    moved = run(name).transfers
    assert tuple(moved[kind] for kind in (*KINDS, "double")) == TRANSFERS[name]


def test_on_xen_each_page_takes_three_hypercalls() -> None:
    """Out of the kernel's tables, out of the TLB, and back."""
    assert balloon_on_xen() == (1024, 992, 96)


def test_without_pressure_nobody_pages_doubly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("domains.lab.experiments.double_paging.FRAMES", BELIEVED)
    enough = page(CASES["random"])
    assert tuple(enough.transfers[kind] for kind in (*KINDS, "double")) == (135, 135, 0, 0, 0)
    found = {name: run(name) for name in CASES} | {"random": enough}
    failing = [claim.text for claim in claims(found, (1024, 992, 96)) if not claim.holds]
    assert failing == ["two pagers page doubly", "two pagers move more"]


def test_a_page_that_is_swapped_out_comes_back_as_it_was() -> None:
    """The program adds up what it wrote, and the kernel ends with an error if anything is missing: see `too_much`."""
    guest = paged.PagedGuest(BELIEVED, 24, lambda pages: pages[-1])
    guest.run(["paging"])
    guest.close()
    assert guest.transfers["hypervisor in"] > 0
