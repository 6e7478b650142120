"""Debian's own xen-netfront and xen-blkfront on our devices: with another Linux, a Python guest and the host, and with what is
killed around it.

Booting takes longest by far, so that everything is one test, of a PV guest and one under shadow paging. (Linux under nested
paging is in test_linux_driver_domains.py.)
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.drivers.net.captures import Capture, faults, tshark
from tests.guests.linux_disk import LinuxDisk
from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.host_network import HOST, HostSide, Rights, machine_with_uplink
from tests.machines import REPOSITORY, Machine, wait_until
from tests.vxlan_hosts import attach, loopback_address, port_of

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.needs_iproute2,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 600),
]

WEBSERVER = REPOSITORY / "domains" / "guests" / "webserver.cfg"
ALICE, BOB, PYTHON, VISITOR, FAR_SERVER = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"
FETCH = """
import hashlib
from domains.guests.webclient import OverStack
from drivers.net.ip.interface import Interface

class Probe(Guest):
    def main(self):
        host, path = self.kernel.cmdline.split()
        connection = OverStack(Interface(self.kernel), host, 80)
        connection.request("GET", path)
        print("md5:", hashlib.md5(connection.getresponse().read()).hexdigest())
        connection.close()
"""
"""A Python guest that fetches `path` from `host` and says what it was."""


def boot(machine: Machine, tmp_path: Path, name: str, kind: str, address: str) -> LinuxDisk:
    """(noreplace-smp spares half of a PV boot: Linux takes thousands of LOCK prefixes away, for two hypercalls each.)"""
    disk = LinuxDisk(tmp_path, name)
    text = (
        f'name = "{name}"\n{kind}\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\nmemory = 128\n'
        f"vif = ['']\ncmdline = \"console=hvc0 noreplace-smp task=net address={address}/24\"\n{disk.setting}"
    )
    done = machine.create(tmp_path, text)
    assert done.returncode == 0, done.stderr
    return disk


def reaches(shell: LinuxShell, address: str) -> None:
    status, output = shell.run(f"ping -c 3 -W 10 {address}")
    assert status == 0, output  # an answer at least; on a busy host one may be lost


def md5(shell: LinuxShell, command: str) -> str:
    status, output = shell.run(f"{command} | md5sum")
    assert status == 0, output
    found = re.search(r"\b[0-9a-f]{32}\b", output)
    assert found, output
    return found[0]


def kill(machine: Machine, name: str) -> None:
    os.kill(int(machine.domain(name)["pid"]), signal.SIGKILL)
    wait_until(lambda: name not in machine.domains(), what=f"the end of {name}")


def test_linux_works_on_a_disk_and_talks_with_linux_a_python_guest_and_the_host_whatever_dies(
    tmp_path: Path,
) -> None:
    with machine_with_uplink(Rights.UNPRIVILEGED) as host:
        machine = host.machine
        guests = (("alice", 'type = "pv"', ALICE), ("bob", 'type = "pvh"\nhap = 0', BOB))
        disks = [boot(machine, tmp_path, name, kind, address) for name, kind, address in guests]
        assert machine.xenctl("create", WEBSERVER, f"vif=['ip={PYTHON}/24']").returncode == 0
        with ExitStack() as stack:
            alice, bob = (stack.enter_context(LinuxShell(machine, name)) for name in ("alice", "bob"))
            for shell, address in ((alice, ALICE), (bob, BOB)):
                shell.await_shell(f"network is up: {address}", BOOT_SECONDS)
            for shell, disk in zip((alice, bob), disks, strict=True):
                disk.is_worked_on(shell)
                disk.holds_what_was_written()
            with Capture(machine, "alice", tmp_path / "alice.pcap"):
                guests_reach_each_other(machine, tmp_path, alice, bob)
                guests_and_the_host_reach_each_other(host, tmp_path, alice)
            another_host_and_linux_reach_each_other(machine, tmp_path, alice)
            if shutil.which("tshark"):
                is_sound(tmp_path / "alice.pcap")
            comes_back_after_it_was_unbound(bob)
            its_death_is_its_own(host, tmp_path, alice, bob)
        for name in ("bob", "webserver"):
            kill(machine, name)
        wait_until(machine.census_is_clean, what="a clean census")


def guests_reach_each_other(machine: Machine, tmp_path: Path, alice: LinuxShell, bob: LinuxShell) -> None:
    reaches(alice, BOB)
    reaches(bob, PYTHON)
    assert md5(alice, f"wget -q -O - http://{BOB}/busybox") == md5(bob, "cat /bin/busybox")
    status, output = alice.run(f"wget -q -O - http://{PYTHON}/bytes/300000 | wc -c")
    assert (status, output.split()[-1]) == (0, "300000"), output
    assert fetched(machine, tmp_path, ALICE, "/busybox") == md5(alice, "cat /bin/busybox")


def guests_and_the_host_reach_each_other(host: HostSide, tmp_path: Path, alice: LinuxShell) -> None:
    reaches(alice, HOST)
    busybox = host.fetch(f"http://{ALICE}/busybox")
    assert hashlib.md5(busybox).hexdigest() == md5(alice, "cat /bin/busybox")
    (tmp_path / "data").write_bytes(busybox)
    with host.serving(tmp_path) as port:
        assert alice.run(f"wget -q -O - http://{HOST}:{port}/data | cmp - /bin/busybox")[0] == 0


def another_host_and_linux_reach_each_other(machine: Machine, tmp_path: Path, alice: LinuxShell) -> None:
    """By VXLAN, between which and the interfaces that are there nobody has agreed on an MTU: TCP is cut to what fits."""
    near, far = loopback_address(), loopback_address()
    other = Machine(memory=128)
    try:
        attach(machine, "xenbr0", 42, far, "--local", near)
        attach(other, "xenbr0", 42, near, "--local", far)
        assert other.xenctl("create", WEBSERVER, f"vif=['ip={FAR_SERVER}/24']").returncode == 0
        reaches(alice, FAR_SERVER)
        assert fetched(other, tmp_path, ALICE, "/busybox") == md5(alice, "cat /bin/busybox")
        status, output = alice.run(f"wget -q -O - http://{FAR_SERVER}/bytes/300000 | wc -c")
        assert (status, output.split()[-1]) == (0, "300000"), output
        assert port_of(machine)["dropped"]["too_big"] == 0
        assert alice.run(f"ping -c 1 -W 1 -s 1472 {FAR_SERVER}")[0] != 0
        assert port_of(machine)["dropped"]["too_big"] == 1
    finally:
        other.stop()


def fetched(machine: Machine, tmp_path: Path, host: str, path: str, address: str = VISITOR) -> str:
    """MD5 of what a Python guest at `address` gets."""
    extra = f"vif = ['ip={address}/24']\nextra = '{host} {path}'"
    done = machine.guest(tmp_path, FETCH, "-c", name="visitor", extra=extra)
    assert "md5: " in done.stdout, done.stdout + done.stderr
    return done.stdout.partition("md5: ")[2].split()[0]


def is_sound(capture: Path) -> None:
    """What Wireshark says of all that passed: checksums too, which Linux leaves to the device."""
    assert len(tshark(capture, 'http.request.uri == "/busybox"')) == 3
    assert tshark(capture, f"icmp && ip.addr == {BOB}")
    # How many depends on the rate at which Linux sends (tcp_tso_autosize): two at least.
    stands_for_many = f"frame.len > 1514 && ip.src == {BOB} && ip.dst == {ALICE}"
    assert tshark(capture, stands_for_many)
    assert faults(capture) == []


def comes_back_after_it_was_unbound(bob: LinuxShell) -> None:
    """Linux closes its end (Closing, Closed) and begins anew at Initialising, as with a reloaded module."""
    driver = "/sys/bus/xen/drivers/vif"
    assert bob.run(f"echo vif-0 > {driver}/unbind; ls /sys/class/net")[1].split().count("eth0") == 0
    assert bob.run(f"echo vif-0 > {driver}/bind; sleep 1; ip link set eth0 up")[0] == 0
    assert bob.run(f"ip address add {BOB}/24 dev eth0")[0] == 0
    reaches(bob, PYTHON)


def its_death_is_its_own(host: HostSide, tmp_path: Path, alice: LinuxShell, bob: LinuxShell) -> None:
    """Killed in mid-transfer: whoever it talked to goes on, and its address is free for the next."""
    bob.run(f"while true; do wget -q -O /dev/null http://{ALICE}/busybox; done & true")
    received = sent_bytes(alice)
    wait_until(lambda: sent_bytes(alice) > received + 100_000, 60, "the transfer")
    kill(host.machine, "alice")
    reaches(bob, PYTHON)
    assert (
        fetched(host.machine, tmp_path, PYTHON, "/bytes/100000", ALICE)
        == hashlib.md5(bytes(100_000)).hexdigest()
    )


def sent_bytes(shell: LinuxShell) -> int:
    """What the interface has sent; the kernel may put a line of its own behind the number."""
    output = shell.run("cat /sys/class/net/eth0/statistics/tx_bytes")[1]
    return int(re.findall(r"^\d+$", output, re.MULTILINE)[-1])
