"""xenctl lab says what it found, in words and as data; and what it cannot do, in one line, with nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from domains.lab import command_all
from domains.lab.catalogue import NAMES, experiment
from domains.lab.costs import Costs
from domains.lab.output import sheet
from domains.lab.output.data import as_data
from domains.lab.output.playback import Playback
from domains.lab.output.terminal import as_table, show
from domains.lab.parallel import each_in_a_process
from domains.lab.report import Claim, Experiment, Figure, Kind, Report, Table
from domains.xenctl.main import run as xenctl
from tests.domains.lab.reports import COSTS, EXPERIMENT, SOURCE, a_report, a_trace


@cache
def shown(width: int = 200) -> str:
    console = Console(record=True, width=width, file=open(os.devnull, "w"))  # noqa: SIM115
    show(console, EXPERIMENT, a_report(holds=False), COSTS)
    return console.export_text()


def test_every_number_says_where_it_is_from() -> None:
    assert "1,234 cycles (m)" in shown()
    assert "1.42 µs (p)" in shown()
    assert f"(p) published; {SOURCE}" in shown()
    assert "✓ it is so" in shown()
    assert "✗ </script>" in shown()


def test_the_list_has_each_claim_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert xenctl(["lab"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 60 for line in lines)
    words = " ".join(line[max(map(len, NAMES)) + 2 :].strip() for line in lines)
    assert all(experiment(name).claim in words for name in NAMES)


def test_data_have_the_documented_names() -> None:
    data = as_data(EXPERIMENT, a_report(), COSTS)
    assert list(data) == [
        *(
            "experiment",
            "claim",
            "source",
            "holds",
            "machine",
            "claims",
            "notes",
            "tables",
            "charts",
            "traces",
        )
    ]
    assert data["tables"][0]["rows"][0]["cells"] == [
        {"value": 3, "kind": "measured", "unit": "", "source": "", "mark": ""},
        {"value": 1234.5, "kind": "modelled", "unit": "cycles", "source": "", "mark": ""},
        {"value": 1.42, "kind": "published", "unit": "µs", "source": SOURCE, "mark": "quoted"},
        {"value": None, "kind": None, "unit": "", "source": "", "mark": ""},
    ]
    assert data["traces"][0]["steps"][3] == {
        "who": "monitor",
        "ring": -1,
        "at": "",
        "text": "traced store",
        "cr3": 0x2000,
        "changes": [
            {"where": "guest L1[16]", "old": "0", "new": "0x204000 P RW"},
            {"where": "P2M[0x204]", "old": "", "new": "0x814000"},
        ],
        "is_exit": True,
    }


def test_nothing_of_a_table_is_cut_away_where_it_is_wider_than_the_terminal() -> None:
    columns = [f"Workstation number {n}, published" for n in range(8)]
    cells = ["123,456.78"] * len(columns)
    console = Console(record=True, width=80, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(as_table(Table("", columns, [("instructions", cells)])))
    text = console.export_text()
    letters = sorted(filter(str.isalnum, "".join([*columns, "instructions", *cells])))
    assert sorted(filter(str.isalnum, text)) == letters


def test_json_is_one_object_of_a_real_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert xenctl(["lab", "page-fault", "--json"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["holds"]
    changes = [
        change["where"] for trace in data["traces"] for step in trace["steps"] for change in step["changes"]
    ]
    assert "shadow L1[16]" in changes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonesuch"], "no experiment 'nonesuch'"),
        (["--trace"], "--trace needs the name of an experiment"),
        (["all", "--step"], "--step is for a single experiment"),
        (["all", "--picture", "x.svg"], "--picture is for a single experiment"),
        (["page-fault", "--step", "--json"], "--step and --json exclude each other"),
        (["page-fault", "--explain", "--html", "pages"], "does not go with --explain"),
        (["page-fault", "--step"], "--step needs a terminal"),
        (["page-fault", "--picture", "x.pdf"], "ends in .svg or .png"),
        (["page-fault", "--picture", "file/x.svg"], "file is not a folder"),
        (["page-fault", "--picture", "folder.svg"], "folder.svg is a folder"),
        (["page-fault", "--html", "file"], "file is not a folder"),
        (["page-fault", "--html", "file/below"], "file is not a folder"),
        (["all", "--html", "file"], "file is not a folder"),
        (["page-fault", "--costs", "nonesuch.toml"], "nonesuch.toml"),
        (["all", "--costs", "file"], "Expected '=' after a key"),
        (["all", "--cpu", "z80"], "no machine 'z80'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not costs")
    (tmp_path / "folder.svg").mkdir()
    assert xenctl(["lab", *words]) == 2
    out, errors = capsys.readouterr()
    assert (out, len(errors.splitlines())) == ("", 1)
    assert said in errors
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.svg"]


def test_without_the_libraries_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("domains.lab.command.LIBRARIES", ("matplotlib", "no_such_library"))
    assert xenctl(["lab", "page-fault", "--html", str(tmp_path / "pages")]) == 2
    assert (
        "need no_such_library: pip install no_such_library, or scripts/setup-venv" in capsys.readouterr().err
    )
    assert not (tmp_path / "pages").exists()


def test_the_command_line_needs_no_library_of_pictures() -> None:
    code = "import sys, domains.lab.command_all; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_each_experiment_has_a_sheet_that_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert xenctl(["lab", name, "--explain"]) == 0
        assert name in capsys.readouterr().out


def test_the_index_of_the_sheets_has_every_experiment_with_its_claim() -> None:
    index = (sheet.SHEETS / "README.md").read_text()
    rows = [f"| [{name}]({name}.md) | {experiment(name).claim} |" for name in NAMES]
    assert [row for row in rows if row not in index] == []


def test_a_sheet_that_is_not_there_is_missed_by_its_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sheet, "SHEETS", tmp_path)
    assert xenctl(["lab", "page-fault", "--explain"]) == 2
    assert f"{tmp_path}/page-fault.md is not there" in capsys.readouterr().err


# --- all of them -----------------------------------------------------------------------------------


def broken(_costs: Costs) -> Report:
    raise ValueError("a mistake\nof the experiment's")


def deadly(_costs: Costs) -> Report:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def disproved(_costs: Costs) -> Report:
    return Report(claims=[Claim("one and one is three", False)])


RUNS = {
    "good": EXPERIMENT.run,
    "broken": broken,
    "deadly": deadly,
    "disproved": disproved,
    "last": EXPERIMENT.run,
}


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five, in the place of the laboratory's."""

    def made(name: str) -> Experiment:
        return Experiment(name, f"the claim of {name}", "nobody", RUNS[name])

    monkeypatch.setattr(command_all, "NAMES", tuple(RUNS))
    monkeypatch.setattr(command_all, "experiment", made)
    monkeypatch.setattr("domains.lab.output.page.experiment_of", made)


@pytest.mark.usefixtures("experiments")
def test_one_that_fails_or_dies_is_named_and_the_others_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert xenctl(["lab", "all", "--html", str(tmp_path / "pages")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "✓ good                    2 claims hold",
        "✗ broken                  failed: ValueError: a mistake of the experiment's",
        "✗ deadly                  failed: its process died: Killed",
        "✗ disproved               does not hold: one and one is three",
        "✓ last                    2 claims hold",
    ]
    pages = sorted(path.name for path in (tmp_path / "pages").iterdir())
    assert pages == ["disproved.html", "good.html", "index.html", "last.html"]
    text = (tmp_path / "pages" / "index.html").read_text()
    assert "failed: its process died: Killed" in text
    assert all(f'href="{name}"' in text for name in pages if name != "index.html")


@pytest.mark.usefixtures("experiments")
def test_the_data_of_all_name_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert xenctl(["lab", "all", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [one["experiment"] for one in data["experiments"]] == list(RUNS)
    assert data["experiments"][2] == {
        "experiment": "deadly",
        "holds": False,
        "error": "its process died: Killed",
    }
    assert data["experiments"][0]["traces"]


def test_runs_are_ended_when_nobody_waits_for_them(tmp_path: Path) -> None:
    """The first is done, the second would never be."""

    def first() -> int:
        return os.getpid()

    def second() -> int:
        (tmp_path / "pid").write_text(str(os.getpid()))
        signal.pause()
        return 0

    runs = each_in_a_process([second, first] if len(os.sched_getaffinity(0)) > 1 else [first, second])
    assert isinstance(next(runs)[1], int)
    runs.close()
    if (tmp_path / "pid").exists():
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


# --- a place in a trace ----------------------------------------------------------------------------


def test_the_next_exit_is_one_of_the_monitor_s() -> None:
    playback = Playback([a_trace("ESX", "monitor")])
    places = []
    for _ in range(4):
        playback.next_exit()
        places.append(playback.place)
    assert places == [1, 3, 5, 5]
    playback.move(-9)
    assert playback.place == 0


def test_the_tables_of_a_step_are_those_after_it() -> None:
    playback = Playback([a_trace("ESX", "monitor")])
    seen = []
    for _ in playback.trace.steps:
        seen.append([entry.value for entry in playback.tables()])
        playback.move(1)
    before, after = ["0x201000 P", "0"], ["0x201000 P", "0x204000 P RW"]
    assert seen == [before, before, before, [*after, "0x814000"], [*after, "0x814000"], after]


def test_a_float_of_four_digits_is_written_in_full() -> None:
    assert [Figure(value, Kind.MODELLED).number for value in (0.012345, 1.5, 999.4, 1234.6, 12345678.0)] == [
        *("0.0123", "1.5", "999", "1,235", "12,345,678")
    ]
