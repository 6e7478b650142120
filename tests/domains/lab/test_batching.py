"""batching: exact counts. Negative control: without traces a monitor does not see the stores."""

from functools import partial

import pytest

from domains.lab import compare
from domains.lab.compare import SYSTEMS
from domains.lab.costs import load_costs
from domains.lab.experiments.batching import WAYS, Way, make
from domains.lab.systems.esx import Ring1

BY_PROGRAM = {(way.system, way.program): way for way in WAYS}
ENTRIES = {
    ("xen", "batch_1"): 512,
    ("xen", "batch_32"): 16,
    ("xen", "batch_512"): 1,
    ("xen", "one_by_one"): 512,
    ("xen", "by_store"): 512,
    ("native", "by_store"): 0,
}


@pytest.mark.parametrize("which", ENTRIES)
def test_entries(which: tuple[str, str]) -> None:
    assert make(BY_PROGRAM[which], load_costs()).entries == ENTRIES[which]


@pytest.mark.parametrize(("traces", "entries"), [(True, 512), (False, 0)])
def test_a_store_is_an_entry_because_tables_are_traced(
    traces: bool, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    title, _ = SYSTEMS["esx"]
    monkeypatch.setitem(compare.SYSTEMS, "esx", (title, partial(Ring1, traces_tables=traces)))
    way: Way = BY_PROGRAM["esx", "by_store"]
    assert make(way, load_costs()).entries == entries
