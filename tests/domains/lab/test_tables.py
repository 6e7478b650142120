"""A trace tells what each step changed in the tables of an address that is watched, on all levels there are.

Negative control: an address that nobody touches changes nothing.
"""

from functools import cache

import pytest

from domains.lab.compare import SYSTEMS, measure
from domains.lab.experiments.page_fault import PROGRAM, TOUCHED
from domains.lab.trace import Part

UNTOUCHED = 0x40020000
STORE = "movl %edx, (%eax)"
ACCESS = "movl $1, 0x40010000"
CHANGES = {
    "native": [(STORE, "guest L1[16]"), (ACCESS, "guest L1[16]")],
    "nested": [(STORE, "guest L1[16]"), (STORE, "P2M[0x204]"), (ACCESS, "guest L1[16]")],
    "vtx": [
        ("traced store", "guest L1[16]"),
        ("hidden fault", "guest L1[16]"),
        ("hidden fault", "shadow L1[16]"),
    ],
    "esx": [
        ("traced store", "guest L1[16]"),
        ("hidden fault", "guest L1[16]"),
        ("hidden fault", "shadow L1[16]"),
    ],
    "xen": [("hypercall update_va_mapping", "guest L1[16]"), (ACCESS, "guest L1[16]")],
}
CHANGES["workstation"] = CHANGES["esx"]


@cache
def part(system: str) -> Part:
    """The run of page_fault, watched."""
    return measure(system, PROGRAM, watch=[TOUCHED]).part


@pytest.mark.parametrize("system", SYSTEMS)
def test_who_changed_which_table(system: str) -> None:
    changes = [(step.text, change.where) for step in part(system).steps for change in step.changes]
    assert changes == CHANGES[system]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_tables_before_the_first_step(system: str) -> None:
    places = [entry.where for entry in part(system).tables]
    assert places[:3] == ["guest L3[1]", "guest L2[0]", "guest L1[16]"]
    assert [entry.value for entry in part(system).tables if "L1[16]" in entry.where] == ["0"] * len(
        places[2:]
    )


def test_the_shadow_has_the_machine_s_page_where_the_guest_has_its_own() -> None:
    last = {change.where: change.new for step in part("esx").steps for change in step.changes}
    assert last == {"guest L1[16]": "0x204000 P RW US A D", "shadow L1[16]": "0x814000 P RW US A D"}


def test_an_address_that_nobody_touches_changes_nothing() -> None:
    watched = measure("esx", PROGRAM, watch=[UNTOUCHED]).part
    assert watched.tables
    assert not any(step.changes for step in watched.steps)


def test_of_several_addresses_each_entry_says_whose_it_is() -> None:
    tables = measure("native", PROGRAM, watch=[TOUCHED, UNTOUCHED]).part.tables
    assert [entry.where for entry in tables if "L1" in entry.where] == [
        "0x40010000 guest L1[16]",
        "0x40020000 guest L1[32]",
    ]
