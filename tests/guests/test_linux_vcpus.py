"""Debian's Linux with four vCPUs: it brings them up, sends IPIs, computes on all, takes them down and up as it is told, and its
clock goes as the host's.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.guests.linux_shell import LinuxShell
from tests.guests.test_debian import BOOT_SECONDS, CACHE
from tests.machines import Machine, wait_until

VCPUS = 4
MS = 10**6
"""In ns: how far the guest's clock may go from the host's while it is looked at."""

pytestmark = [
    pytest.mark.needs_guests,
    pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests"),
    pytest.mark.timeout(BOOT_SECONDS + 240),
]


def test_linux_uses_all_its_vcpus(clean_machine: Machine, tmp_path: Path) -> None:
    done = clean_machine.create(
        tmp_path,
        f'name = "linux"\nkernel = "{CACHE}/vmlinuz"\nramdisk = "{CACHE}/initramfs.img"\nmemory = 192\n'
        f'vcpus = {VCPUS}\ncmdline = "console=hvc0 noreplace-smp"\n',
    )
    assert done.returncode == 0, done.stderr
    with LinuxShell(clean_machine, "linux") as shell:
        shell.await_shell("linux is up", BOOT_SECONDS)
        assert online(shell) == VCPUS
        at_first = ahead_of_the_host(shell)
        computes_on_all(shell)
        all_have_had_ipis(shell)
        assert clean_machine.xenctl("vcpu-set", "linux", "1").returncode == 0
        wait_until(lambda: online(shell) == 1, 120, "a single vCPU")
        assert clean_machine.xenctl("vcpu-set", "-i", "linux", str(VCPUS)).returncode == 0
        brings_them_up(shell)
        assert online(shell) == VCPUS
        computes_on_all(shell)
        assert shell.run("until [ $(cut -d. -f1 /proc/uptime) -ge 90 ]; do sleep 1; done")[0] == 0
        in_the_end = ahead_of_the_host(shell)
        assert in_the_end[0] - at_first[1] <= MS
        assert at_first[0] - in_the_end[1] <= MS
        shell.send("poweroff -f")
        wait_until(lambda: "linux" not in clean_machine.domains(), 60, "the end of the domain")


def online(shell: LinuxShell) -> int:
    """How many CPUs Linux says it has."""
    found = re.findall(r"^(\d+)\s*$", shell.run("nproc")[1], re.MULTILINE)
    return int(found[-1])


def brings_them_up(shell: LinuxShell) -> None:
    """Linux finds that a vCPU is there again; to bring it up is udev's, which this guest does not have."""
    cpu = "/sys/devices/system/cpu/cpu$i/online"
    wait = f"for i in 1 2 3; do until [ -e {cpu} ]; do sleep 1; done; echo 1 > {cpu}; done"
    assert shell.run(wait)[0] == 0


def computes_on_all(shell: LinuxShell) -> None:
    """A process on each CPU, all at once, by affinity; each has the same sum."""
    cpus = " ".join(map(str, range(VCPUS)))
    status, text = shell.run(
        "head -c 200000 /dev/zero > /dev/shm.bin; "
        f"for i in {cpus}; do busybox taskset -c $i busybox sha256sum /dev/shm.bin & done; wait"
    )
    assert status == 0
    sums = re.findall(r"^([0-9a-f]{64})  /dev/shm.bin", text, re.MULTILINE)
    assert (len(sums), len(set(sums))) == (VCPUS, 1)


def ahead_of_the_host(shell: LinuxShell) -> tuple[int, int]:
    """By how much at least and at most, ns, the guest's clock is ahead of the host's. Until Linux has found Xen's clock, early in
    its boot, it counts ticks, of which some are lost on a busy host: so this need not be 0, but must not change.
    """
    before = time.time_ns()
    text = shell.run("busybox adjtimex")[1]
    after = time.time_ns()
    seconds, microseconds = (
        int(re.findall(rf"time\.tv_{unit}: +(\d+)", text)[0]) for unit in ("sec", "usec")
    )
    shown = (seconds * 10**6 + microseconds) * 1000
    return shown - after, shown - before


def all_have_had_ipis(shell: LinuxShell) -> None:
    """Function calls of one CPU on another, by /proc/interrupts."""
    text = shell.run("grep CAL: /proc/interrupts")[1]
    found = re.search(r"CAL:((?:\s+\d+)+)\s+Function call interrupts", text)
    assert found is not None, text
    counts = list(map(int, found[1].split()))
    assert len(counts) == VCPUS
    assert all(counts)
