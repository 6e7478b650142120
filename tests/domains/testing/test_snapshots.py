"""A suite boots a guest once, and each test goes on from there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.domains.testing.projects import Project
from tests.guests.test_debian import CACHE

TESTS = f"""
import pytest


@pytest.fixture(scope="session")
def booted(xen_snapshot):
    def prepare(guest):
        guest.sendline("dmesg -n 1; kept=remembered")

    return xen_snapshot(
        "{CACHE}/vmlinuz", ramdisk="{CACHE}/initramfs.img", memory=128, cmdline="console=hvc0 noreplace-smp",
        vif=[""], until="built-in shell", timeout=200, prepare=prepare, forks=2,
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_each_has_its_own(xen_fork, booted, n):
    guest = xen_fork(booted)
    guest.sendline("echo $kept-$mine-$((41 + 1)); mine=changed")
    guest.expect("remembered--42", timeout=60)
    guest.sendline("echo $mine-$((42 + 1))")
    guest.expect("changed-43", timeout=60)
    assert [one.name for one in booted.machine.domains] == [guest.name]


def test_two_at_once(xen_fork, booted):
    for guest in (xen_fork(booted, name="one"), xen_fork(booted, name="two")):
        guest.sendline("echo $kept-$((41 + 1))")
        guest.expect("remembered-42", timeout=60)
    guest.sendline("poweroff -f")
    assert guest.wait(60).reason == "poweroff"


PAIR = '''
name: pair
networks: {{lan: {{subnet: 10.0.0.0/29}}}}
domains:
  pair: {{replicas: 2, from_snapshot: ready, networks: [lan]}}
'''


def test_a_topology_goes_on_from_it(xen_topology, booted, tmp_path):
    (tmp_path / "pair.yaml").write_text(PAIR)
    for _ in range(2):
        pair = xen_topology(tmp_path / "pair.yaml", snapshot=booted)
        assert [one.state for one in pair.status()] == ["ready", "ready"]
        for name in ("pair-1", "pair-2"):
            pair[name].sendline("echo $kept-$(cat /sys/class/net/eth0/address)")
            pair[name].expect(f"remembered-{{pair[name].store['device/vif/0/mac']}}", timeout=60)
            assert booted.machine.store[pair[name].store["device/vif/0/backend"] + "/bridge"] == "lan"
        pair.close()
        assert not booted.machine.domains


def test_a_machine_without_it(xen_topology, booted, tmp_path):
    (tmp_path / "pair.yaml").write_text(PAIR)
    xen_topology(tmp_path / "pair.yaml")


def test_one_with_other_interfaces(xen_topology, booted, tmp_path):
    (tmp_path / "pair.yaml").write_text(PAIR.replace("[lan]", "[lan, lan]"))
    xen_topology(tmp_path / "pair.yaml", snapshot=booted)


def test_one_that_dies_fails_its_test(xen_fork, booted):
    guest = xen_fork(booted, may_end=())
    guest.sendline("poweroff -f")
    guest.expect("never", timeout=60)


def test_a_guest_that_cannot_be_kept(xen_snapshot):
    xen_snapshot("python:./guests.py:Idle", memory=8, until="here")
"""


@pytest.mark.needs_guests
@pytest.mark.skipif(not (CACHE / "versions").exists(), reason="needs scripts/fetch_guests")
@pytest.mark.timeout(400)
def test_a_suite_boots_once(tmp_path: Path) -> None:
    done = Project(tmp_path, TESTS).run("-q", seconds=350)
    assert "4 failed, 5 passed" in done.summary, done.output
    assert (
        "has no snapshot 'ready', from which pair-1 is to go on" in done.failed["test_a_machine_without_it"]
    )
    assert (
        "has 1 interfaces, and its fork is described with 2" in done.failed["test_one_with_other_interfaces"]
    )
    assert "guest 'ready-4' ended (poweroff)" in done.output
    assert "is a guest in Python" in done.output
