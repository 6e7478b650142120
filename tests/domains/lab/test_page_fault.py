"""page-fault: exact counts. Negative control: without traces of page tables ESX's third step is missing, and a claim fails."""

from functools import partial

import pytest

from domains.lab import compare
from domains.lab.compare import SYSTEMS, measure
from domains.lab.experiments.page_fault import PROGRAM, claims
from domains.lab.systems.esx import Ring1

# An entry of eight bytes is written by two stores.
EXITS = {
    "native": {},
    "nested": {},
    "vtx": {"guest's own fault": 1, "traced store": 2, "hidden fault": 1},
    "esx": {
        "guest's own fault": 1,
        "trap mov from cr2": 1,
        "traced store": 2,
        "call-out iretd": 1,
        "hidden fault": 1,
    },
    "xen": {"#PF": 1, "hypercall": 1},
}
EXITS["workstation"] = EXITS["esx"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_exits(name: str) -> None:
    assert measure(name, PROGRAM).part.exits == EXITS[name]


def test_without_traces_the_order_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    title, _ = SYSTEMS["esx"]
    monkeypatch.setitem(compare.SYSTEMS, "esx", (title, partial(Ring1, traces_tables=False)))
    runs = {name: measure(name, PROGRAM) for name in SYSTEMS}
    assert [claim.holds for claim in claims(runs)] == [True, False, True, False, True]
