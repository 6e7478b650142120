"""events: exact counts. Negative control: were an upcall an entry of its own, two claims would fail."""

from functools import cache

import pytest

from domains.lab import trace
from domains.lab.compare import SYSTEMS, Measured, measure
from domains.lab.experiments.events import KINDS, PROGRAM, arrivals, claims, entries, executed

ENTRIES = {
    "native": (0, 0, 0, 0, 0, 0),
    "nested": (0, 1, 1, 0, 0, 0),
    "vtx": (0, 1, 1, 0, 0, 0),
    "esx": (5, 1, 1, 1, 2, 1),
    "xen": (0, 0, 1, 0, 1, 0),
}
"""By kind, as KINDS has them."""
ENTRIES["workstation"] = ENTRIES["esx"]


@cache
def run(name: str) -> Measured:
    return measure(name, PROGRAM)


@pytest.mark.parametrize("name", SYSTEMS)
def test_entries(name: str) -> None:
    one = run(name)
    assert tuple(entries(one, kind) for kind in KINDS) == ENTRIES[name]
    assert one.part.nr_exits == sum(ENTRIES[name])
    assert one.part.direct == ({"INT n": 1, "upcall": 1} if name == "xen" else {})
    assert (arrivals(one), executed(one, "out")) == (1, 0 if name == "xen" else 1)


def test_the_hypercalls_are_told_by_name() -> None:
    assert run("xen").part.names == {"hypercall sched_op block": 1, "hypercall iret": 1}


def test_were_an_upcall_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "NO_ENTRY", frozenset({"INT n"}))
    runs = {name: run(name) for name in SYSTEMS} | {"xen": measure("xen", PROGRAM)}
    assert [claim.text for claim in claims(runs) if not claim.holds] == [
        "every entry is for something named here",
        "Xen: an upcall on the way out of the hypercall that waits, and no entry for it",
    ]
