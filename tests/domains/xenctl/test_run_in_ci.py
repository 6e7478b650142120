"""`xenctl run` as a CI service uses it: texts that end a run, the guest's own exit code, devices, the result as JUnit's XML."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from domains.xenctl.commands import function_of
from domains.xenctl.junit import MAX_TEXT, Report
from domains.xenctl.reading import read
from tests.machines import REPOSITORY, XENCTL
from tests.warm_xenctl import warm_xenctl

GUESTS = """
import sys
from domains.kernel.guest import Guest


class Steps(Guest):
    def main(self):
        for word in self.kernel.cmdline.split():
            print(word)
        self.kernel.wait(lambda: False)


class Leaving(Guest):
    def main(self):
        sys.exit(int(self.kernel.cmdline))


class Telling(Guest):
    def main(self):
        self.kernel.xenbus.write("data/exit-code", self.kernel.cmdline)


class Devices(Guest):
    def main(self):
        for kind in ("vbd", "vif"):
            print(kind, *sorted(self.kernel.xenbus.directory(f"device/{kind}")))
            print(*[self.kernel.xenbus.read(f"device/vif/{n}/mac") for n in (0, 1)])


class Dirty(Guest):
    def main(self):
        self.kernel.console.write("<a> & \\x1b[31mred\\x00 \\ud7ff ]]>\\n")
        raise ValueError("with \\x07")
"""


@pytest.fixture(scope="module")
def guests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tmp_path_factory.mktemp("guests") / "guests.py"
    module.write_text(GUESTS)
    return module


def ran(guests: Path, name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Nothing of its machine may be left at the end."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        if "--seed" in options:  # such a command begins anew, as only one can whose Python is its own
            whole = [*XENCTL, *words(guests, name, *options)]
            done = subprocess.run(
                whole, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
        else:
            done = warm_xenctl().run(words(guests, name, *options), environment, "", 60)
        assert not list(Path(folder).glob("xenoscope/*"))
    return done


def words(guests: Path, name: str, *options: str | Path) -> list[str]:
    """What follows `xenctl`."""
    return ["run", f"python:{guests}:{name}", "--memory", "8", *map(str, options)]


def test_the_text_that_comes_first_decides_how_a_run_ends(guests: Path) -> None:
    texts = ("--exit-on", "done", "--exit-on", "fine", "--fail-on", "panic", "--fail-on", "oops")
    well = ran(guests, "Steps", "--cmdline", "a fine panic", *texts)
    assert (well.returncode, well.stderr) == (0, "")
    badly = ran(guests, "Steps", "--cmdline", "an oops fine", *texts, "--expect", "fine")
    assert (badly.returncode, badly.stderr) == (1, "xenctl: the guest printed 'oops'\n")


def test_a_text_that_fails_a_run_that_repeats_itself_is_looked_for_at_its_end(guests: Path) -> None:
    seeded = ("--cmdline", "a panic", "--seed", "1", "--for", "0.1")
    done = ran(guests, "Steps", *seeded, "--fail-on", "panic")
    assert (done.returncode, done.stderr) == (1, "xenctl: guest printed 'panic'\n")
    refused = ran(guests, "Steps", *seeded, "--exit-on", "a")
    assert refused.returncode == 2
    assert "--exit-on" in refused.stderr


@pytest.mark.parametrize(
    ("name", "given", "code", "says"),
    [
        ("Leaving", ["7", "--exit-code"], 7, "crashed (crash), with code 7"),
        ("Leaving", ["256", "--exit-code"], 5, "crashed"),
        ("Leaving", ["7"], 5, "crashed (crash), with code 7"),
        ("Leaving", ["7", "--exit-code", "--seed", "1"], 7, "crashed"),
        ("Telling", ["3", "--exit-code"], 3, "poweroff, with code 3"),
        ("Telling", ["3"], 1, "poweroff, with code 3"),
        ("Telling", ["0", "--exit-code"], 0, ""),
        ("Telling", ["256"], 0, ""),
        ("Telling", ["4 or so", "--exit-code"], 0, ""),
    ],
)
def test_the_guests_own_code_is_told_and_may_be_the_commands(
    guests: Path, name: str, given: list[str], code: int, says: str
) -> None:
    done = ran(guests, name, "--cmdline", *given)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert says or not done.stderr


def test_the_guests_own_code_is_in_the_json(guests: Path) -> None:
    done = ran(guests, "Leaving", "--cmdline", "7", "--json")
    result = json.loads(done.stdout)
    assert (result["code"], result["exit_code"], result["ended"]) == (5, 7, "crash")


def test_a_guest_has_several_disks_and_interfaces(guests: Path, tmp_path: Path) -> None:
    devices: list[str] = []
    for vdev in ("xvda", "xvdb"):
        (tmp_path / vdev).write_bytes(bytes(4096))
        devices += ["--disk", f"{tmp_path / vdev},raw,{vdev},rw"]
    devices += ["--vif", "mac=00:16:3e:00:00:01", "--vif", "mac=00:16:3e:00:00:02,bridge=other"]
    done = ran(guests, "Devices", *devices)
    assert done.returncode == 0, done.stderr
    assert "vbd 51712 51728" in done.stdout
    assert "vif 0 1" in done.stdout
    assert "00:16:3e:00:00:01 00:16:3e:00:00:02" in done.stdout


def junit(file: Path) -> tuple[ET.Element, ET.Element]:
    """The suite and its one case."""
    (suite,) = ET.parse(file).getroot()
    (case,) = suite
    return suite, case


def test_a_crash_as_junit_is_a_failure_with_the_console_and_the_log_without_characters_that_xml_lacks(
    guests: Path, tmp_path: Path
) -> None:
    done = ran(guests, "Dirty", "--junit", tmp_path / "result.xml")
    assert done.returncode == 5
    suite, case = junit(tmp_path / "result.xml")
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "1",
        "failures": "1",
        "errors": "0",
    }
    assert (case.get("classname"), case.get("name")) == ("xenctl.run", "guests.py:Dirty")
    assert 0 < float(case.get("time", "")) < 60
    (failure, out, err) = case
    assert (failure.tag, failure.get("type")) == ("failure", "CRASHED")
    assert failure.get("message") == "the guest crashed (crash)"
    assert "d1" in (failure.text or "")
    assert (out.tag, err.tag) == ("system-out", "system-err")
    assert (out.text or "").startswith("<a> & \\x1b[31mred\\x00 \ud7ff ]]>\n")
    assert "ValueError: with \\x07" in (out.text or "")


def test_success_as_junit_has_no_failure(guests: Path, tmp_path: Path) -> None:
    done = ran(guests, "Steps", "--cmdline", "fine", "--expect", "fine", "--junit", tmp_path / "result.xml")
    assert done.returncode == 0, done.stderr
    suite, case = junit(tmp_path / "result.xml")
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert [child.tag for child in case] == ["system-out"]


def test_what_cannot_be_run_is_an_error_of_junit(guests: Path, tmp_path: Path) -> None:
    assert ran(guests, "Steps", "--memory", "1", "--junit", tmp_path / "made.xml").returncode == 1
    assert ran(guests, "Steps", "--disk", "frob", "--junit", tmp_path / "read.xml").returncode == 2
    for name, text in (("made.xml", "1 MiB"), ("read.xml", "vdev")):
        suite, case = junit(tmp_path / name)
        assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
        assert text in (case[0].get("message") or "")


def test_a_topology_as_junit_has_a_case_for_each_domain(guests: Path, tmp_path: Path) -> None:
    topology = tmp_path / "two.yaml"
    kernel = f"kernel: 'python:{guests}:Leaving', memory: 8"
    topology.write_text(f"domains: {{good: {{{kernel}, extra: '0'}}, bad: {{{kernel}, extra: '3'}}}}")
    command = [*XENCTL, "run", str(topology), "--seed", "1", "--junit", str(tmp_path / "result.xml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    (suite,) = ET.parse(tmp_path / "result.xml").getroot()
    assert (suite.get("name"), suite.get("failures")) == ("two.yaml", "1")
    assert [(case.get("name"), case[0].tag) for case in suite] == [("good", "system-out"), ("bad", "failure")]


def test_the_example_workflow_runs_commands_that_there_are() -> None:
    workflow = yaml.safe_load((REPOSITORY / "docs" / "examples" / "github-workflow.yml").read_text())
    scripts = [step["run"] for step in workflow["jobs"]["guest"]["steps"] if "run" in step]
    (command,) = [shlex.split(script) for script in scripts if script.startswith("xenctl")]
    given = read(function_of(command[1]), command[2:])
    assert given is not None
    assert (given["expect"], given["fail_on"], given["timeout"]) == ("PASS", ["panic"], 30)
    (install,) = [script for script in scripts if "pip install" in script]
    assert "mkdir -p results" in install


def test_a_file_that_cannot_be_written_is_told_before_the_guest_runs(guests: Path, tmp_path: Path) -> None:
    done = ran(guests, "Steps", "--junit", tmp_path / "nowhere" / "result.xml")
    assert done.returncode == 1
    assert done.stderr.startswith("xenctl: --junit: cannot write")
    assert done.stdout == ""
    os.mkfifo(tmp_path / "fifo")
    done = ran(guests, "Steps", "--junit", tmp_path / "fifo")
    assert (done.returncode, "it is a FIFO" in done.stderr) == (1, True)


def test_a_run_that_is_interrupted_leaves_a_whole_document(guests: Path, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*XENCTL, *words(guests, "Steps", "--cmdline", "here", "--junit", tmp_path / "result.xml")],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert running.stdout is not None
    assert running.stdout.readline().strip() == b"here"
    running.terminate()
    assert running.wait(20) == 143
    running.stdout.close()
    _suite, case = junit(tmp_path / "result.xml")
    assert (case[0].tag, case[0].get("message")) == ("error", "the run was interrupted")


def test_a_long_console_as_junit_is_its_end() -> None:
    report = Report("long")
    report.add("long", None, "poweroff", "x" * 2 * MAX_TEXT + "end", [])
    (suite,) = ET.fromstring(report.xml())
    text = suite[0][0].text or ""
    assert len(text) == MAX_TEXT
    assert text.endswith("xend")
