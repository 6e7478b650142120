"""Debian's Linux while it runs gives memory back and takes more, and gets a disk and an interface, uses them, and loses them.

Booting takes longest by far, so that all of it is one test, of a PV guest and one under nested paging. What a front end that does
not let go leads to is in tests/domains/xenctl/test_hotplug.py: Linux 6.1 lets go of a disk that is mounted.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from domains.control.device_operations import BlockList, NetworkList
from domains.control.operations import Pause, Unpause, XenstoreLs
from tests.domains.xenctl.commands import succeeds, xenctl
from tests.guests.linux_disk import LinuxDisk
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import REPOSITORY, Machine, wait_until

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 300),
]

AWAIT_DISK = "until [ -b /dev/xvda ]; do sleep 1; done"
DISK_GONE = "until [ ! -e /dev/xvda ]; do sleep 1; done"
WEBSERVER = "10.0.0.3"
SPECIAL_KIB = {"pv": 0, "pvh": 8}
"""What a domain has beyond its target: the pages of a PVH domain that are not RAM."""


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_linux_gets_and_loses_memory_a_disk_and_an_interface_as_it_runs(
    clean_machine: Machine, tmp_path: Path, kind: str
) -> None:
    text = (
        f'name = "linux"\ntype = "{kind}"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\n'
        'memory = 128\nmaxmem = 160\ncmdline = "console=hvc0 noreplace-smp"\n'
    )
    done = clean_machine.create(tmp_path, text)
    assert done.returncode == 0, done.stderr
    done = clean_machine.xenctl(
        "create", REPOSITORY / "domains/guests/webserver.cfg", f"vif=['ip={WEBSERVER}/24']"
    )
    assert done.returncode == 0, done.stderr
    with LinuxShell(clean_machine, "linux") as shell:
        shell.await_shell("linux is up", BOOT_SECONDS)
        its_memory_is_what_it_is_told(clean_machine, shell, SPECIAL_KIB[kind])
        it_works_on_a_disk_that_comes_and_goes(clean_machine, shell, tmp_path)
        it_loses_a_disk_that_is_mounted(clean_machine, shell, tmp_path)
        it_keeps_a_disk_as_long_as_it_is_paused_unless_by_force(clean_machine, shell, tmp_path)
        it_pings_over_an_interface_that_comes_and_goes(clean_machine, shell)
    clean_machine.end_domains()
    nodes = clean_machine.ask(XenstoreLs("/"))
    assert not [n for n in nodes if re.match(r"/(libxl|vm|local/domain/0/backend/v..)/", n["path"])]


def its_memory_is_what_it_is_told(machine: Machine, shell: LinuxShell, special: int) -> None:
    """The guest's own sum, Xen's count of its frames and what is left to the machine go together, frame by frame."""

    def has(mib: int) -> tuple[int, int]:
        def kib() -> int:
            return int(machine.domain("linux")["memory_kib"])

        wait_until(lambda: kib() == mib * 1024 + special, 120, f"{mib} MiB of Linux'")
        found = re.search(r"^Mem: +(\d+)", shell.run("free")[1], re.MULTILINE)
        assert found
        return int(found[1]), machine.info()["free_frames"]

    total, free = has(128)
    for mib in (96, 160, 128):
        succeeds(machine, "mem-set", "linux", str(mib))
        change = (mib - 128) * 1024
        assert has(mib) == (total + change, free - change // 4)
    refused = xenctl(machine, "mem-set", "linux", "161")
    assert "memory_dynamic_max must be less than or equal to memory_static_max" in refused.err


def it_works_on_a_disk_that_comes_and_goes(machine: Machine, shell: LinuxShell, tmp_path: Path) -> None:
    disk = LinuxDisk(tmp_path, "linux")
    for device in ("xvda", "51712"):
        succeeds(machine, "block-attach", "linux", disk.specification)
        disk.is_worked_on(shell)
        succeeds(machine, "block-detach", "linux", device, "--timeout", "60")
        assert shell.run(DISK_GONE)[0] == 0
        assert machine.ask(BlockList(("linux",))) == []
    disk.holds_what_was_written()


def it_loses_a_disk_that_is_mounted(machine: Machine, shell: LinuxShell, tmp_path: Path) -> None:
    """Linux asks nobody whether it is used; who reads on gets errors."""
    disk = LinuxDisk(tmp_path, "mounted")
    succeeds(machine, "block-attach", "linux", disk.specification)
    assert shell.run(f"{AWAIT_DISK}; mount -t ext4 -o ro /dev/xvda /mnt")[0] == 0
    succeeds(machine, "block-detach", "linux", "xvda", "--timeout", "60")
    assert (
        shell.run(f"if cat /mnt/data > /dev/null; then false; else umount -l /mnt; {DISK_GONE}; fi")[0] == 0
    )


def it_keeps_a_disk_as_long_as_it_is_paused_unless_by_force(
    machine: Machine, shell: LinuxShell, tmp_path: Path
) -> None:
    disk = LinuxDisk(tmp_path, "paused")
    succeeds(machine, "block-attach", "linux", disk.specification)
    assert shell.run(AWAIT_DISK)[0] == 0
    machine.ask(Pause("linux"))
    refused = xenctl(machine, "block-detach", "linux", "xvda", "--timeout", "0.5")
    assert (refused.code, "it is paused" in refused.err) == (4, True)
    assert len(machine.ask(BlockList(("linux",)))) == 1
    succeeds(machine, "block-detach", "linux", "xvda", "--force", "--timeout", "5")
    machine.ask(Unpause("linux"))
    assert shell.run(DISK_GONE)[0] == 0


def it_pings_over_an_interface_that_comes_and_goes(machine: Machine, shell: LinuxShell) -> None:
    for address in ("10.0.0.1", "10.0.0.2"):
        succeeds(machine, "network-attach", "linux", "bridge=xenbr0")
        (vif,) = machine.ask(NetworkList(("linux",)))
        ping = f"ip address add {address}/24 dev eth0 && ping -c 2 -W 20 {WEBSERVER}"
        status, output = shell.run(f"until ip link set eth0 up 2> /dev/null; do sleep 1; done; {ping}")
        assert status == 0, output
        assert vif["mac"] in shell.run("cat /sys/class/net/eth0/address")[1]
        device = vif["mac"] if address == "10.0.0.1" else str(vif["devid"])
        succeeds(machine, "network-detach", "linux", device, "--timeout", "60")
        assert shell.run("until [ ! -e /sys/class/net/eth0 ]; do sleep 1; done")[0] == 0
