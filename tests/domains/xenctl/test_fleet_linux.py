"""A drain moves Debian's Linux while it runs, with what it remembers and its disk, to a host that shares nothing with the first
but a network: each has its own images, and the machines believe each other by the keys that the head has told them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.domains.xenctl.fleet_lan import HEAD, Lan, lan_of
from tests.domains.xenctl.fleets import FleetOfTests
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import wait_until

TOPOLOGY = f"""\
domains:
  linux:
    kernel: {CACHE}/vmlinuz
    ramdisk: {CACHE}/initramfs.img
    memory: 128
    cmdline: console=hvc0 noreplace-smp
    disks: [{{size: 4MiB}}]
    wait: {{console: linux is up, timeout: {BOOT_SECONDS}}}
"""

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.needs_iproute2,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 300),
]


@pytest.fixture
def lan() -> Iterator[Lan]:
    with lan_of("ab") as lan:
        yield lan


class Host:
    """The machine of a host, for a shell."""

    def __init__(self, fleet: FleetOfTests, host: str) -> None:
        self.environment = {**fleet.environment, "XENCTL_MACHINE": f"{fleet.name}-{host}"}


def test_a_drain_moves_linux_while_it_runs(lan: Lan, tmp_path: Path) -> None:
    hosts = lan.hosts_text(256, stores=str(tmp_path))
    fleet = FleetOfTests(tmp_path, hosts, f"address: {HEAD}\n", TOPOLOGY)
    fleet.under = lan.enter
    try:
        up = fleet.run("up", timeout=BOOT_SECONDS)
        assert up.returncode == 0, up.stderr + fleet.log()
        first = fleet.places()["linux"] or ""
        with LinuxShell(Host(fleet, first), "linux") as shell:
            assert shell.run("kept=remembered; echo written > /dev/xvda; sync")[0] == 0
        assert fleet.succeeds("drain", first) == f"host {first} is empty; 1 domains were moved\n"
        wait_until(lambda: fleet.listed(first) == set(), what="the end of the domain at its first host")
        second = fleet.places()["linux"] or ""
        assert (second != first, fleet.listed(second)) == (True, {"linux"})
        with LinuxShell(Host(fleet, second), "linux") as shell:
            assert "remembered" in shell.run("echo $kept")[1]
            assert "written" in shell.run("head -n 1 /dev/xvda")[1]
        assert "linux has moved from" in fleet.log()
        assert (
            len({path.name for host in "ab" for path in (tmp_path / host).iterdir()}) == 2
        )  # kernel, ramdisk
    finally:
        fleet.down("a", "b")
