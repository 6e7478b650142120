"""Debian's own xen-netfront and xen-blkfront before driver domains: they do not know that these copy, nor miss Dom0.

Booting takes longest by far, so that everything is one test, of a PVH guest: its front ends are those of a PV one.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.drivers.net.on_machine.stations import GUESTS
from tests.drivers.net.on_machine.test_driver_domain import by_netdom, create, kill, nodes
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.guests.test_linux_network import md5, reaches
from tests.machines import Machine, wait_until

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 300),
]

SERVER, LINUX = "10.0.0.3", "10.0.0.1"
DRIVERS = ("netdom", "diskdom")
DEVICES = ("vif/0", "vbd/51712")


def connected(machine: Machine, domid: int) -> list[str]:
    """The domids of the back ends to which the devices are connected, of all or of none."""
    found = nodes(machine)

    def value(device: str, name: str) -> str:
        return found.get(f"/local/domain/{domid}/device/{device}/{name}", ("", []))[0]

    whole = all(value(device, "state") == "4" for device in DEVICES)
    return [value(device, "backend-id") for device in DEVICES] if whole else []


def connected_anew(machine: Machine, domid: int, before: list[str]) -> bool:
    """Whether the devices are connected to other driver domains than before."""
    return all(now not in ("", *before) for now in connected(machine, domid) or before)


def md5_of(image: Path) -> str:
    return hashlib.md5(image.read_bytes()).hexdigest()


def test_linux_uses_driver_domains_and_gets_its_devices_back_when_they_died(
    clean_machine: Machine, tmp_path: Path
) -> None:
    machine, image = clean_machine, tmp_path / "disk.img"
    image.write_bytes(os.urandom(1 << 20))
    for driver in DRIVERS:
        create(machine, GUESTS / f"{driver}.cfg")
    create(machine, GUESTS / "webserver.cfg", by_netdom(SERVER))
    text = (
        f'name = "linux"\ntype = "pvh"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\nmemory = 128\n'
        f"vif = ['backend=netdom']\ndisk = ['backend=diskdom, vdev=xvda, target={image}']\n"
        f'cmdline = "console=hvc0 noreplace-smp task=net address={LINUX}/24"\n'
    )
    done = machine.create(tmp_path, text)
    assert done.returncode == 0, done.stderr
    domid = int(machine.domain("linux")["domid"])
    with LinuxShell(machine, "linux") as shell:
        shell.await_shell("# ", BOOT_SECONDS)
        assert md5(shell, "cat /dev/xvda") == md5_of(image)
        reaches(shell, SERVER)
        before = connected(machine, domid)
        for driver in DRIVERS:
            kill(machine, driver)
        wait_until(lambda: connected_anew(machine, domid, before), 90, "the devices")
        assert shell.run(f"ip addr add {LINUX}/24 dev eth0; ip link set eth0 up")[0] == 0
        reaches(shell, SERVER)
        assert shell.run("dd if=/dev/zero of=/dev/xvda bs=64k count=8 conv=fsync")[0] == 0
        assert image.read_bytes()[: 512 << 10] == bytes(512 << 10)
        assert md5(shell, "cat /dev/xvda") == md5_of(image)
    assert len(machine.domains()) == 5
    for name in ("linux", "webserver", *DRIVERS):
        assert machine.xenctl("destroy", name).returncode == 0
    wait_until(machine.census_is_clean, what="a clean census")
