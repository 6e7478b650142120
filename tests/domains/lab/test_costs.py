"""costs.toml: each number has a source and a mark; a file that says anything else is refused, and what is wrong is named."""

from pathlib import Path

import pytest

from domains.lab.costs import DEFAULT_FILE, load_costs
from domains.lab.image import LabError

ONE = '[machines.m]\nghz = 2\n[machines.m.costs]\ntrap = { cycles = 3, mark = "assumed", source = "s" }\n'


@pytest.mark.parametrize("machine", ["p4-2003", "p4-2005", "core2-2006"])
def test_the_machines_that_are_there(machine: str) -> None:
    costs = load_costs(machine=machine)
    assert costs.costs.keys() == load_costs().costs.keys()
    assert costs.microseconds(1000 * costs.ghz) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = [", "Unclosed|Invalid|Expected"),
        ("machines = 3", "it has none"),
        ("[machines.n]\nghz = 1", "it has n"),
        ("[machines.m]\nghz = 0\n[machines.m.costs]", "needs ghz"),
        ("[machines.m]\nghz = true\n[machines.m.costs]", "needs ghz"),
        ("[machines.m]\nghz = 1", "needs ghz"),
        ("machines.m = 1", "needs ghz"),
        (ONE.replace("cycles = 3", "cycles = -3"), "m.trap needs cycles"),
        (ONE.replace("cycles = 3", "cycles = inf"), "m.trap needs cycles"),
        (ONE.replace("cycles = 3", 'cycles = "3"'), "m.trap needs cycles"),
        (ONE.replace('"assumed"', '"sure"'), "needs a mark"),
        (ONE.replace('source = "s"', "source = 1"), "needs a source"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "costs.toml"
    file.write_text(text)
    with pytest.raises(LabError, match=complaint):
        load_costs(file, "m")


def test_a_file_that_is_not_there_or_is_no_text(tmp_path: Path) -> None:
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(LabError, match=str(file)):
            load_costs(file)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(LabError):
        load_costs(tmp_path / "bytes")


def test_a_cost_that_is_missing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "costs.toml"
    file.write_text(ONE)
    with pytest.raises(LabError, match="there is no hypercall"):
        load_costs(file, "m").cycles("hypercall")
    assert DEFAULT_FILE.exists()
