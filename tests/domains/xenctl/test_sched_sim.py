"""xenctl sched-sim: the example of the documentation, every mistake in a file with its place, and the options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from domains.control.protocol import ControlError, Exit
from domains.xenctl.main import run
from domains.xenctl.sched_sim.workload import WorkloadError, load
from tests.machines import REPOSITORY

EXAMPLE = REPOSITORY / "docs" / "examples" / "scheduling.yaml"


def simulated(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run(["sched-sim", str(EXAMPLE), *options]) == Exit.OK
    return capsys.readouterr().out


def test_the_table_has_a_row_a_scheduler_and_description(capsys: pytest.CaptureFixture[str]) -> None:
    lines = simulated(capsys, "--seconds", "0.5").splitlines()
    schedulers = ("credit2", "credit", "bvt", "rtds", "round-robin")
    names = ("hog ×3", "server", "video", "cheat")
    assert [line[:11].strip() for line in lines[1:21]] == [one for one in schedulers for _ in names]
    assert lines[0].split()[:2] == ["SCHEDULER", "DOMAINS"]
    assert [line.partition(":")[0] for line in lines[22:]] == list(schedulers)


def test_it_gives_the_same_each_time_and_other_seconds_others(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--sched", "credit", "--sched", "bvt:10ms", "--cpus", "2", "--json")
    first = simulated(capsys, *options, "--seconds", "1")
    assert simulated(capsys, *options, "--seconds", "1") == first
    found = json.loads(first)
    assert [(one["scheduler"], one["cpus"], one["seconds"]) for one in found] == [
        ("credit", 2, 1.0),
        ("bvt 10 ms", 2, 1.0),
    ]
    assert sum(kind["share"] * kind["domains"] for kind in found[0]["kinds"]) == pytest.approx(200, abs=1)
    assert json.loads(simulated(capsys, *options, "--hours", "0.0001"))[0]["seconds"] == pytest.approx(0.36)


def test_pictures_are_drawn_and_are_the_same_each_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for file in files:
        simulated(capsys, "--sched", "credit2", "--seconds", "0.1", "--svg", str(file))
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"CPU time of a domain" in files[0].read_bytes()
    simulated(capsys, "--sched", "credit2", "--seconds", "0.1", "--png", str(tmp_path / "one.png"))
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


MISTAKES = """\
cpus: 1
domans: 3
schedulers: [credit3, {name: "null", slice: 5ms}]
domains:
  a:
    does: {work: 1ms, dodge: 3ms}
    wieght: 3
  1b: {does: compute}
  c: {weight: 0, start: 1h}
  d: {does: compute, rtds: {period: 1ms, budget: 3ms}}
  e: {does: compute, cap: 200}
"""
SAYS = [
    "2:1: unknown key 'domans'; did you mean 'domains'?",
    "3:14: schedulers: EINVAL: there is no scheduler 'credit3'",
    "3:23: schedulers: EINVAL: null has no length of a slice to be set",
    "6:11: does: is compute, or has work and sleep",
    "7:5: unknown key 'wieght'; did you mean 'weight'?",
    "8:3: '1b' is no name",
    "9:6: 'does' is missing",
    "9:15: weight: Input should be greater than or equal to 1",
    "9:25: start: '1h' is no duration, such as 1.5ms, 50us or 2s",
    "10:6: d: EINVAL: budget_us is 10 to 1000, not 3000",
    "11:6: e: cap is at most 100 for each vCPU, not 200",
]
BETWEEN_PARTS = """\
domains:
  a: {does: compute, cpus: [0, 3], count: 1000}
  b: {does: compute, vcpus: 25}
arinc653: {major: 1ms, frames: [{domain: a, runs: 2ms}, {domain: c, runs: 1us}]}
"""
SAYS_BETWEEN = [
    "2:3: 1025 vCPUs; a workload has 1024 at most",
    "2:32: there is no CPU 3: the workload has 1",
    "4:19: major is shorter than its frames together",
    "4:66: there is no domain 'c'",
]


ENDLESS = (
    "{yield_after: 1ns}",
    "{work: 1ns, sleep: 1ns}",
    "{work: 1ns, every: 2ns}",
    "{dodge: 2ns, gap: 1ns}",
)
"""Each would begin anew more often than can be simulated."""


@pytest.mark.parametrize("does", ENDLESS)
def test_what_would_not_end_is_refused(tmp_path: Path, does: str) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(f"time: 10s\ndomains:\n  a: {{does: {does}}}\n")
    with pytest.raises(WorkloadError, match="times are simulated at most"):
        load(file)


@pytest.mark.parametrize(("text", "says"), [(MISTAKES, SAYS), (BETWEEN_PARTS, SAYS_BETWEEN)])
def test_every_mistake_is_told_with_its_place(tmp_path: Path, text: str, says: list[str]) -> None:
    file = tmp_path / "workload.yaml"
    file.write_text(text)
    with pytest.raises(WorkloadError) as refused:
        load(file)
    lines = refused.value.message.splitlines()
    assert len(lines) == len(says)
    for line, start in zip(lines, says, strict=True):
        assert line.startswith(f"{file}:{start}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seconds", "1", "--hours", "1"), "give one of them"),
        (("--seconds", "0"), "above 0"),
        (("--hours", "25"), "at most 24 hours"),
        (("--seconds", "nan"), "no number that can be meant"),
        (("--sched", "cfs"), "there is no scheduler 'cfs'"),
        (("--sched", "credit:5"), "'5' is no duration"),
        (("--svg", "/dev/null/x.svg"), "is not a folder"),
    ],
)
def test_options_that_cannot_be_are_refused(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str
) -> None:
    assert run(["sched-sim", str(EXAMPLE), *options]) in (Exit.USAGE, Exit.FAILURE)
    assert says in capsys.readouterr().err


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot read"):
        load(tmp_path / "nothing.yaml")


def test_the_documentation_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = (REPOSITORY / "docs" / "sched-sim.md").read_text()
    begin = shown.index("SCHEDULER")
    printed = simulated(capsys, "--sched", "credit2", "--sched", "round-robin")
    assert shown[begin : shown.index("```", begin)] == printed
