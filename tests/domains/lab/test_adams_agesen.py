"""adams-agesen: exact counts. Negative control: without traces hardware assistance does not see a store to a page table."""

from functools import cache

import pytest

from domains.cpu.x86.hvm.kinds import SHADOW
from domains.lab.compare import measure
from domains.lab.experiments.adams_agesen import BENCHMARKS, COMPARED
from domains.lab.systems import ring0

EXITS = {
    "system call": (0, 2, 0, 0),
    "in": (0, 3, 1, 1),
    "call and return": (0, 0, 0, 0),
    "page fault": (0, 6, 4, 0),
    "divide error": (0, 2, 0, 0),
    "PTE modify": (0, 4, 2, 0),
}


@cache
def exits(program: str) -> tuple[int, ...]:
    return tuple(measure(system, program).part.nr_exits for system in COMPARED)


@pytest.mark.parametrize("benchmark_", BENCHMARKS, ids=lambda one: one.name)
def test_exits(benchmark_: object) -> None:
    name, program = benchmark_[:2]  # type: ignore[index]
    assert exits(program) == EXITS[name]


def test_without_traces_a_store_is_no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ring0.KINDS, "vtx", SHADOW)
    assert measure("vtx", "modify_entry").part.nr_exits == 0
