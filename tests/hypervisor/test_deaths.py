"""Death is normal (docs/domains-and-processes.md): any process may be killed at any moment, and nothing of it stays."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from hypervisor.supervisor import LAST_WORDS
from tests.machines import Machine, pids_of, wait_until

BUSY_WITH_PAGE_TABLES = """
class Probe(Guest):
    def main(self):
        kernel = self.kernel
        pages = [kernel.memory.alloc_page() for _ in range(64)]
        print("busy")
        while True:
            for va in [kernel.memory.map_own(page.mfn) for page in pages]:
                kernel.memory.unmap(va)
"""
SPINNING = """
class Probe(Guest):
    def main(self):
        print("busy")
        while True:
            pass
"""
DEAF = """
import signal


class Probe(Guest):
    def main(self):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        print("busy")
        while True:
            pass
"""
ALIVE = """
class Probe(Guest):
    def main(self):
        print("alive")
"""


def pid_of(machine: Machine, name: str) -> int:
    """Its process's, once the supervisor has told the core of it."""
    return int(wait_until(lambda: machine.domain(name)["pid"], what="the domain's process"))


def process_named(machine: Machine, name: str) -> int:
    return next(
        pid for pid in pids_of(machine.supervisor) if Path(f"/proc/{pid}/comm").read_text().strip() == name
    )


def test_a_guest_killed_in_the_middle_of_mmu_updates_is_reclaimed(
    clean_machine: Machine, tmp_path: Path
) -> None:
    for turn in range(3):
        name = f"busy{turn}"
        created = clean_machine.guest(
            tmp_path, BUSY_WITH_PAGE_TABLES, name=name, extra='on_crash = "destroy"'
        )
        assert created.returncode == 0, created.stderr
        pid = pid_of(clean_machine, name)
        time.sleep(random.uniform(0, 0.05))  # an instant of its work, any of them
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(clean_machine.is_gone, name), what="the end of the domain")
    assert "hypervisor bug" not in clean_machine.xenctl("dmesg").stdout


@pytest.mark.parametrize("body", [SPINNING, DEAF], ids=["spins", "spins and ignores signals"])
def test_guests_that_never_stop_leave_the_others_their_turn(
    body: str, clean_machine: Machine, tmp_path: Path
) -> None:
    for number in range(3):
        assert clean_machine.guest(tmp_path, body, name=f"hog{number}").returncode == 0
    alive = clean_machine.guest(tmp_path, ALIVE, "-c", name="alive")
    assert "alive" in alive.stdout
    for number in range(3):
        assert clean_machine.xenctl("destroy", f"hog{number}").returncode == 0


def test_a_stopped_guest_process_holds_nobody_up(clean_machine: Machine, tmp_path: Path) -> None:
    assert clean_machine.guest(tmp_path, SPINNING, name="stopped").returncode == 0
    os.kill(pid_of(clean_machine, "stopped"), signal.SIGSTOP)
    assert "alive" in clean_machine.guest(tmp_path, ALIVE, "-c", name="alive").stdout
    assert clean_machine.xenctl("destroy", "stopped").returncode == 0


def test_a_paused_guest_executes_nothing(clean_machine: Machine, tmp_path: Path) -> None:
    assert clean_machine.guest(tmp_path, DEAF, name="deaf").returncode == 0
    assert clean_machine.xenctl("pause", "deaf").returncode == 0
    pid = pid_of(clean_machine, "deaf")
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TS")
    assert clean_machine.xenctl("unpause", "deaf").returncode == 0
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R")
    assert clean_machine.xenctl("destroy", "deaf").returncode == 0


@pytest.mark.parametrize("victim", ["xeno-core", "xeno-dom0", "supervisor"])
def test_when_a_process_of_the_machine_itself_is_killed_nothing_remains(
    victim: str, machine: Machine, tmp_path: Path
) -> None:
    assert machine.guest(tmp_path, SPINNING, name="bystander").returncode == 0
    pids = pids_of(machine.supervisor)
    os.kill(machine.supervisor if victim == "supervisor" else process_named(machine, victim), signal.SIGKILL)
    wait_until(lambda: not any(_runs(pid) for pid in pids), 5, "the end of every process")
    wait_until(lambda: not machine.folder.exists(), 5, "the removal of the folder")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


CHATTERBOX = """
import os


class Probe(Guest):
    def main(self):
        os.write(2, b"first words\\n")
        try:
            for _ in range(2000):
                os.write(1 + _ % 2, b"x" * 8192)
        except OSError:
            pass
        print("done")
"""


def test_what_one_domains_process_prints_cannot_fill_the_machines_log(
    clean_machine: Machine, tmp_path: Path
) -> None:
    console = clean_machine.guest(tmp_path, CHATTERBOX, "-c")
    assert "done" in console.stdout
    log = clean_machine.folder / "log"
    wait_until(lambda: "first words" in log.read_text(), what="the words in the log")
    assert log.stat().st_size < LAST_WORDS + 8192
