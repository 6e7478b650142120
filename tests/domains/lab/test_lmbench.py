"""lmbench: exact counts. Negative control: were Xen's fast handler an entry, its first claim would fail."""

from functools import cache

import pytest

from domains.lab import trace
from domains.lab.compare import Measured, measure
from domains.lab.costs import load_costs
from domains.lab.experiments.lmbench import OPERATIONS, SYSTEMS, claims
from domains.lab.model import items

ENTRIES = {
    "null call": (0, 0, 2),
    "fork and exit": (0, 18, 54),
    "context switch": (0, 2, 6),
    "mmap": (0, 3, 133),
    "protection fault": (0, 1, 3),
    "page fault": (0, 2, 6),
}


@cache
def runs() -> dict[str, dict[str, Measured]]:
    return {
        one.name: {system: measure(system, one.program, *one.others) for system in SYSTEMS}
        for one in OPERATIONS
    }


@pytest.mark.parametrize("name", ENTRIES)
def test_entries(name: str) -> None:
    assert tuple(runs()[name][system].part.nr_exits for system in SYSTEMS) == ENTRIES[name]


def test_a_page_fault_is_modelled_from_what_was_counted() -> None:
    def made_of(system: str) -> dict[str, int]:
        found = {item.cost: item.often for item in items(runs()["page fault"][system], load_costs())}
        assert found.pop("instruction") > 100  # how many is the compiler's affair
        return found

    assert made_of("xen") == {"xen_fault": 1, "hypercall": 1}
    assert made_of("native") == {"page_fault": 1}


def test_without_the_fast_handler_a_null_call_enters_xen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "NO_ENTRY", frozenset())
    changed = dict(runs())
    changed["null call"] = {system: measure(system, "null_call") for system in SYSTEMS}
    assert [claim.text for claim in claims(changed, load_costs()) if not claim.holds] == [
        "a null system call does not enter Xen",
        "null call: Xen is as fast as bare hardware",
    ]
