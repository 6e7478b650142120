"""The demonstration is what a newcomer runs first: it succeeds, ends in a clean census, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from domains.xenctl.topology.check import load
from scripts.demonstration.second_act import EXAMPLE, without_linux
from tests.machines import REPOSITORY, pids_of, wait_until

SECONDS = 250


def run_demo(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """scripts/demo with a runtime folder and a temporary folder of the test's own."""
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        [REPOSITORY / "scripts" / "demo"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd="/",
        env={**os.environ, "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(tmp_path)},
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(folder), folder


def test_it_succeeds_and_its_census_is_clean(told: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, _ = told
    assert done.returncode == 0, done.stdout + done.stderr
    census = re.findall(r"^ +([a-z ]+?) {2,}(\d+) +(\d+) +(-?\d+)$", done.stdout, re.MULTILINE)
    assert {what for what, *_ in census} >= {"frames in use", "event channels", "grants", "processes"}
    assert all(before == now and left == "0" for _, before, now, left in census)


def test_two_guests_did_real_work_in_two_processes(
    told: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = told
    listed = re.findall(r"^ +(demandpaging|blockcheck) +\d+ .* (\d+)$", done.stdout, re.MULTILINE)
    assert len({pid for _, pid in listed}) == 2
    assert "page faults, all contents right" in done.stdout
    assert "wrote and read back a pattern: all sectors right" in done.stdout


def test_twenty_domains_come_up_and_every_client_fetches_every_page(
    told: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = told
    topology = yaml.safe_load(EXAMPLE.read_text())["domains"]
    names = {
        f"{kind}-{number}" if "replicas" in about else kind
        for kind, about in topology.items()
        for number in range(1, about.get("replicas", 1) + 1)
    }
    assert len(names) == 20
    assert set(re.findall(r"^ +(\S+): (?:ready|has done its work)$", done.stdout, re.MULTILINE)) == names
    assert "20 domains in" in done.stdout
    assert "8 clients have fetched 44 pages" in done.stdout
    assert set(re.findall(r"^ +(\S+): is gone$", done.stdout, re.MULTILINE)) == names


def test_where_there_is_no_linux_the_topology_is_whole_without(tmp_path: Path) -> None:
    file = tmp_path / "street.yaml"
    file.write_text(without_linux(EXAMPLE.read_text()))
    plan = load(file).plan()
    assert len(plan.domains) == 20
    assert all("python:" in str(planned.settings["kernel"]) for planned in plan.domains.values())


def test_it_leaves_no_file_and_no_process(told: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    done, folder = told
    left = [path for path in folder.rglob("*") if path.is_file() or path.is_socket()]
    assert left == []
    (supervisor,) = re.findall(r"process (\d+): xeno-supervisor", done.stdout)
    assert pids_of(int(supervisor)) == []


def test_a_machine_that_does_not_start_is_a_failed_demonstration(tmp_path: Path) -> None:
    """The exit code is the demonstration's word: what was not shown is not claimed."""
    (tmp_path / "r").mkdir(mode=0o700)
    (tmp_path / "r" / "xenoscope").mkdir(mode=0o755)
    failed = run_demo(tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("\ndemo: FAILED: xenctl start")
    assert "census" not in failed.stdout


def test_a_demonstration_that_is_told_to_end_takes_its_machine_along(tmp_path: Path) -> None:
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(tmp_path)}
    demo = REPOSITORY / "scripts" / "demo"
    with subprocess.Popen(
        [demo], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as telling:
        assert telling.stdout is not None
        supervisor = next(int(line.split()[1][:-1]) for line in telling.stdout if "xeno-supervisor" in line)
        telling.send_signal(signal.SIGTERM)
        _, errors = telling.communicate(timeout=SECONDS)
    assert telling.returncode == 1
    assert "ended by SIGTERM" in errors
    wait_until(lambda: pids_of(supervisor) == [], 30, "the machine's end")


TOLD_IN_A_DESTRUCTOR = """
import os, signal, time
from scripts.demonstration.__main__ import end

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

signal.signal(signal.SIGTERM, end)
Dying()
time.sleep(60)
"""


def test_being_told_to_end_while_a_destructor_runs_is_not_lost() -> None:
    """The demonstration once went on to its end."""
    command = [sys.executable, "-c", TOLD_IN_A_DESTRUCTOR]
    told = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=REPOSITORY
    )
    assert told.returncode == 1
    assert told.stderr.endswith("Failed: ended by SIGTERM\n")
