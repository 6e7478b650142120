"""xenctl fleet sim: the example of the documentation in small, every mistake in a file with its place, and the options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domains.control.protocol import Exit
from domains.xenctl.fleet.sim.file import SimulationError, load
from domains.xenctl.main import run
from tests.machines import REPOSITORY

EXAMPLE = REPOSITORY / "docs" / "examples" / "fleet-sim.yaml"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The example, a hundred times smaller."""
    text = EXAMPLE.read_text()
    for count in ("8000", "2000", "60000", "39000", "1000"):
        text = text.replace(f"count: {count},", f"count: {int(count) // 100},")
    file = tmp_path / "small.yaml"
    file.write_text(
        text.replace("kill: 100", "kill: 2").replace("cut: 100", "cut: 2").replace("drain: 100", "drain: 2")
    )
    return file


def test_the_example_is_of_10_000_hosts_and_100_000_domains() -> None:
    play = load(EXAMPLE).play()
    assert (len(play.hosts), len(play.domains)) == (10_000, 100_000)


def test_the_table_the_data_and_the_pictures(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg", tmp_path / "one.png"]
    assert run(["fleet", "sim", str(small), "--svg", str(pictures[0]), "--png", str(pictures[2])]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["EVENT", "begin", "kill", "cut", "drain"]
    assert any("places were found" in line for line in lines)
    assert run(["fleet", "sim", str(small), "--json", "--svg", str(pictures[1])]) == Exit.OK
    found = json.loads(capsys.readouterr().out)
    assert (found["hosts"], found["domains"], found["twice"]) == (100, 1000, 0)
    assert [event["waiting"] for event in found["events"]] == [0, 0, 0]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert b"Memory in use" in pictures[0].read_bytes()
    assert pictures[2].read_bytes().startswith(b"\x89PNG")


MISTAKES = """\
hots: 3
hosts:
  a: {count: 1, memory: 10, cpus: 1, labels: {"": x}}
domains:
  w: {count: 0, memory: 1, strategy: best}
  x: {count: 1, memory: 1, beside: [x, y], apart: [y]}
events:
  - {at: 1s, kill: 1, drain: 1}
  - {at: soon, cut: 1}
  - {at: 1s, kill: 1, for: 2s}
lease: {lasts: 1s, renew: 1s}
"""
SAYS = [
    "1:1: unknown key 'hots'; did you mean 'hosts'?",
    "3:47: '' is no name",
    "5:14: count: Input should be greater than or equal to 1",
    "5:38: strategy: Input should be 'spread' or 'pack'",
    "6:6: x: cannot be beside y and apart from it",
    "8:5: events: has one of kill, cut and drain",
    "9:10: at: 'soon' is no duration",
    "10:5: events: 'for' belongs to 'cut'",
    "11:8: lease: a lease lasts for two renewals at least",
]
BETWEEN_PARTS = """\
hosts: {a: {count: 90000, memory: 10, cpus: 1}, b: {count: 90000, memory: 10, cpus: 1}}
domains:
  x: {count: 1, memory: 1, beside: [y]}
  y: {count: 1, memory: 1, beside: [x], apart: [z]}
time: 1000s
"""
SAYS_BETWEEN = [
    "1:8: 180,000 hosts; 100,000 are simulated at most",
    "3:36: domains are beside in a circle: ",
    "4:49: there is no domain 'z'",
    "5:7: 180,000,000 renewals of leases in this time; 20,000,000 are simulated at most",
]


@pytest.mark.parametrize(("text", "says"), [(MISTAKES, SAYS), (BETWEEN_PARTS, SAYS_BETWEEN)])
def test_every_mistake_is_told_with_its_place(tmp_path: Path, text: str, says: list[str]) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(text)
    with pytest.raises(SimulationError) as refused:
        load(file)
    lines = refused.value.message.splitlines()
    assert len(lines) == len(says), lines
    for line, said in zip(lines, says, strict=True):
        assert said in line


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("hosts: {a: {count: 2, memory: 10, cpus: 1}}\ndomains: {w: {count: 1, memory: 11}}\n")
    for words, says in (
        (["sim", str(file)], "w-1: no host has room for 11 MiB and 1 vCPU: 2 hosts with too little memory"),
        (["sim", str(tmp_path / "none.yaml")], "cannot read"),
        (["simulate", str(file)], "there is no 'fleet simulate'"),
        (["sim", str(file), "--svg", str(tmp_path)], "is a folder"),
    ):
        assert run(["fleet", *words]) != Exit.OK
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert says in lines[0]
