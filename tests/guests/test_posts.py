"""What a guest's process has done and not told yet, when it is killed, paused or asked about (docs/posted-operations.md).

What a guest may see of posts is tested by posts.c; that the core refuses none of them, by the random tests.
"""

import os
import random
import re
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.guests.compiled import HERE, NEEDS, can_compile, compile_guest
from tests.machines import Machine, wait_until

pytestmark = [pytest.mark.skipif(not can_compile(), reason=NEEDS), pytest.mark.needs_headers]


def start_posting(machine: Machine, tmp_path: Path, name: str) -> None:
    """A guest whose process posts all the time."""
    image = compile_guest(HERE / "busy_posting.c", tmp_path / name)
    created = machine.create(
        tmp_path, f'name = "{name}"\nkernel = "{image}"\nmemory = 16\non_crash = "destroy"\n'
    )
    assert created.returncode == 0, created.stderr
    domid = machine.domain(name)["domid"]
    wait_until(lambda: f"(d{domid}) busy" in machine.xenctl("dmesg").stdout, 40, "the guest's loop")


def posted(machine: Machine, domid: int) -> int:
    """How many operations of a domain the core has been told of."""
    assert machine.xenctl("debug-keys", "p").returncode == 0
    found = re.findall(rf"d{domid}: posted operations: (\d+)", machine.xenctl("dmesg").stdout)
    return int(found[-1]) if found else 0


def test_what_is_posted_is_told_while_the_guest_asks_for_nothing(
    clean_machine: Machine, tmp_path: Path
) -> None:
    machine = clean_machine
    start_posting(machine, tmp_path, "tells")
    domid = machine.domain("tells")["domid"]
    first = posted(machine, domid)
    assert first >= 5000
    wait_until(lambda: posted(machine, domid) > first, 20, "more posts")
    assert machine.xenctl("pause", "tells").returncode == 0
    assert machine.xenctl("unpause", "tells").returncode == 0
    assert machine.xenctl("destroy", "tells").returncode == 0


def test_a_guest_killed_between_a_post_and_its_performance_is_reclaimed(
    clean_machine: Machine, tmp_path: Path
) -> None:
    machine = clean_machine
    for turn in range(4):
        name = f"posts{turn}"
        start_posting(machine, tmp_path, name)
        time.sleep(random.uniform(0, 0.01))  # an instant of its work, any of them
        os.kill(machine.domain(name)["pid"], signal.SIGKILL)
        wait_until(partial(machine.is_gone, name), what="the end of the domain")
    assert "hypervisor bug" not in machine.xenctl("dmesg").stdout


def test_a_core_killed_between_a_post_and_its_performance_takes_all_along(
    machine: Machine, tmp_path: Path
) -> None:
    start_posting(machine, tmp_path, "bystander")
    pid = machine.domain("bystander")["pid"]
    core = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _is_core_of(entry, machine.supervisor)
    )
    os.kill(core, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, "the end of the guest's process")
    wait_until(lambda: not machine.folder.exists(), 20, "the removal of the folder")


def _is_core_of(process: Path, supervisor: int) -> bool:
    try:
        stat = (process / "stat").read_text()
    except OSError:
        return False
    return "(xeno-core)" in stat and int(stat.rpartition(")")[2].split()[1]) == supervisor
