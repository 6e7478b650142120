"""syscall: exact counts. Negative control: were Xen's fast handler an entry, three claims would fail."""

from functools import cache

import pytest

from domains.lab import trace
from domains.lab.compare import SYSTEMS, Measured, measure
from domains.lab.costs import load_costs
from domains.lab.experiments.syscall import PROGRAM, arrivals, claims, times

EXITS = {
    "native": {},
    "nested": {},
    "vtx": {},
    "esx": {"software interrupt": 1, "call-out iretd": 1},
    "xen": {},
}
EXITS["workstation"] = EXITS["esx"]


@cache
def run(name: str) -> Measured:
    return measure(name, PROGRAM)


@pytest.mark.parametrize("name", SYSTEMS)
def test_exits(name: str) -> None:
    part = run(name).part
    kernel = 1 if name in ("esx", "workstation", "xen") else 0
    assert part.exits == EXITS[name]
    assert part.instructions.keys() == {3, kernel}  # how many are the compiler's affair
    assert part.instructions[3] == 1
    assert arrivals(run(name)) == 1
    assert part.direct == ({"INT n": 1} if name == "xen" else {})


def test_modelled_beside_published() -> None:
    rows = dict(times([run(name) for name in SYSTEMS], load_costs()).rows)
    assert [str(cell) for cell in rows["published 2003"]] == ["0.45 µs", "–", "–", "–", "0.73 µs", "0.46 µs"]
    assert [str(cell) for cell in rows["modelled, more than bare hardware"]] == [
        *["0 cycles"] * 3,
        *["2,078 cycles"] * 2,
        "0 cycles",
    ]


def test_without_the_fast_handler_a_call_enters_xen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "NO_ENTRY", frozenset())
    runs = {name: run(name) for name in SYSTEMS} | {"xen": measure("xen", PROGRAM)}
    assert runs["xen"].part.exits == {"INT n": 1}
    assert [claim.text for claim in claims(runs, load_costs()) if not claim.holds] == [
        "Xen: no entry into a hypervisor",
        "modelled: Xen is as fast as bare hardware",
        "modelled: ESX is slower than both",
    ]
