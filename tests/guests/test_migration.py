"""Debian's Linux moves to another machine, and back, while it works: doubles stay in registers, a file on its disk is written and
compared, a ping goes out every second, and bytes come in over a TCP stream from a neighbour that stays where it is; the machines'
bridges are connected by VXLAN. As a PV guest it has two vCPUs.

Booting takes longest by far, so that what one Linux can show is one test.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from tests.guests.linux_disk import host_tool
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.guests.test_save_restore import (
    LINUX,
    PV,
    PVH,
    SERVER,
    STREAM,
    WORK,
    Kind,
    boot,
    clean_machine,
    disk,
    it_is_at_work,
    serves,
)
from tests.machines import Machine, wait_until
from tests.vxlan_hosts import attach, loopback_address

MOVE_SECONDS = 120

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 600),
]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machines write what they have decided."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("kind", [PV, PVH], ids=["PV", "PVH"])
def test_linux_moves_while_it_works_and_back(tmp_path: Path, kind: Kind) -> None:
    image = disk(tmp_path)
    with clean_machine() as here, clean_machine() as there:
        connect(here, there)
        serves(here, f"vif=['ip={SERVER}/24,rate=1MB/s']")
        boot(here, tmp_path, image, kind)
        with LinuxShell(here, "linux") as shell:
            shell.await_shell(f"network is up: {LINUX}", BOOT_SECONDS)
            assert shell.run(WORK)[0] == 0
            it_is_at_work(shell)
            moves(here, there)
        with LinuxShell(there, "linux") as shell:
            it_is_at_work(shell)
            with gives_and_takes_memory(there) if kind is PVH else nullcontext():
                moves(there, here)
        wait_until(there.census_is_clean, 30, "a clean census")
        with LinuxShell(here, "linux") as shell:
            it_is_at_work(shell)
            assert "remembered" in shell.run("echo $kept")[1]
            assert shell.run("until grep -q done /sum; do sleep 1; done")[0] == 0
            sums = re.findall(r"[0-9a-f]{64}", shell.run("cat /sum")[1])
            shell.run("kill $(busybox pidof doubles ping); rm /rounds; mkdir /rounds; sleep 1")
            assert shell.run("until umount /mnt; do sleep 1; done")[0] == 0
            shell.send("poweroff -f")
            wait_until(lambda: here.is_gone("linux"), 60, "the end of the domain")
    assert sums == [hashlib.sha256(bytes(STREAM)).hexdigest()]
    host_tool("e2fsck", "-fn", str(image))


def connect(here: Machine, there: Machine) -> None:
    """One network of both machines' bridges."""
    near, far = loopback_address(), loopback_address()
    attach(here, "xenbr0", 7, far, "--local", near)
    attach(there, "xenbr0", 7, near, "--local", far)


@contextmanager
def gives_and_takes_memory(machine: Machine) -> Iterator[None]:
    """All the while: pages go that are being read, and come back elsewhere in the machine's memory. (A PV domain stays then.)"""
    enough = threading.Event()

    def balloon() -> None:
        while not enough.is_set():
            for mebibytes in (160, 192):
                machine.xenctl("mem-set", "linux", str(mebibytes))
                enough.wait(0.2)

    thread = threading.Thread(target=balloon)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def moves(source: Machine, target: Machine) -> None:
    done = source.xenctl("migrate", "linux", target.name, timeout=MOVE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert "stood still for" in done.stdout
    assert target.domain("linux")["config"]["vifs"][0]["mac"] == "00:16:3e:00:00:02"
