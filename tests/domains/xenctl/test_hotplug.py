"""Disks and interfaces that come to running domains and leave them, as a user sees it: block-…, network-…, on one machine.

What Debian's Linux makes of them is in tests/guests/test_linux_hotplug.py. Negative control of the refusal to take a disk away:
with `_closes` answering True at once, the disks of the two domains that hold on to theirs are gone, and both tests fail.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from domains.control.description import Vif
from domains.control.device_operations import (
    BlockDetach,
    BlockList,
    NetworkAttach,
    NetworkDetach,
    NetworkList,
)
from domains.control.operations import Pause, Reboot, Unpause, XenstoreLs
from domains.control.protocol import ControlError, Exit
from tests.domains.xenctl.commands import Done, lines_of, succeeds, xenctl
from tests.domains.xenctl.device_guests import BUSY, LIAR, USER
from tests.machines import Machine, wait_until

XVDB = "51728"
DRIVER = "driver_domain = 1"


@pytest.fixture(scope="module")
def lasting() -> Iterator[Machine]:
    machine = Machine(memory=256)
    try:
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def machine(lasting: Machine) -> Iterator[Machine]:
    """Afterwards nothing is left of any domain: no frame, no process, no node of a device."""
    yield lasting
    lasting.end_domains()
    wait_until(lasting.census_is_clean, 30, "a clean census")
    nodes = lasting.ask(XenstoreLs("/"))
    left = [n["path"] for n in nodes if n["path"].startswith(("/libxl/", "/local/domain/0/backend/vbd/"))]
    assert left == []


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"hello" + bytes((1 << 20) - 5))
    return path


def data(machine: Machine, name: str = "guest") -> str:
    domid = machine.domain(name)["domid"]
    (node,) = machine.ask(XenstoreLs(f"/local/domain/{domid}/data"))
    return str(node["value"].decode())


def says(machine: Machine, text: str, name: str = "guest") -> None:
    wait_until(lambda: data(machine, name) == text, 20, f"'{text}' of {name}")


def made(machine: Machine, tmp_path: Path, body: str, name: str = "guest", extra: str = "") -> None:
    done = machine.guest(tmp_path, body, name=name, extra=extra)
    assert done.returncode == 0, done.stderr


def idle(machine: Machine, tmp_path: Path, name: str = "idle", extra: str = "") -> None:
    done = machine.create(
        tmp_path, f'name = "{name}"\nkernel = "python:domains.guests.idle:Idle"\nmemory = 8\n{extra}\n'
    )
    assert done.returncode == 0, done.stderr


def fails(machine: Machine, *words: str | Path) -> Done:
    """A command that is refused, in one line."""
    done = xenctl(machine, *words)
    assert done.code != 0, done
    assert (done.out, len(done.err.splitlines())) == ("", 1), done
    return done


def vdevs(machine: Machine, name: str = "guest") -> list[str]:
    return [disk["vdev"] for disk in machine.ask(BlockList((name,)))]


def attached(machine: Machine, image: Path, name: str = "guest") -> None:
    succeeds(machine, "block-attach", name, f"{image},raw,xvdb,rw")


def test_a_disk_is_attached_used_and_detached_again_and_again(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    made(machine, tmp_path, USER)
    for words, device in (([f"{image},raw,xvdb,rw"], "xvdb"), ([f"{image}", "raw", "xvdb"], "0xca10")):
        shown = json.loads(succeeds(machine, "block-attach", "guest", *words, "--json"))
        domid = machine.domain("guest")["domid"]
        path = f"/local/domain/0/backend/vbd/{domid}/{XVDB}"
        assert shown == {"domid": domid, "devid": int(XVDB), "backend_path": path}
        says(machine, "read hello")
        header, line = lines_of(machine, "block-list", "guest")
        assert header == ["Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"]
        assert (line[:4], line[6]) == ([XVDB, "0", str(domid), "4"], path)
        assert all(number.isdecimal() for number in line[4:6])
        assert fails(machine, "block-attach", "guest", f"{image},raw,xvdb").code == Exit.FAILURE
        assert succeeds(machine, "block-detach", "guest", device) == ""
        says(machine, "gone")
        assert vdevs(machine) == []
        assert image.read_bytes()[1024:1031] == b"written"
        image.write_bytes(b"hello" + bytes((1 << 20) - 5))


def test_a_disk_in_use_is_not_taken_away_unless_by_force(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    made(machine, tmp_path, BUSY)
    attached(machine, image)
    says(machine, "read hello")
    refused = fails(machine, "block-detach", "guest", "xvdb", "--timeout", "0.3")
    assert refused.code == Exit.TIMED_OUT
    assert "has not let go of it within 0.3 s (it may be using it)" in refused.err
    assert "--force" in refused.err
    assert vdevs(machine) == ["xvdb"]
    domid = machine.domain("guest")["domid"]
    succeeds(machine, "block-detach", "guest", "xvdb", "--force")
    says(machine, "gone")
    assert vdevs(machine) == []
    assert machine.domain("guest")["domid"] == domid


def test_a_paused_domain_keeps_its_disk_and_can_release_it_when_it_goes_on(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    made(machine, tmp_path, USER)
    attached(machine, image)
    says(machine, "read hello")
    machine.ask(Pause("guest"))
    refused = fails(machine, "block-detach", "guest", "xvdb", "--timeout", "0.2")
    assert (refused.code, "it is paused" in refused.err) == (Exit.TIMED_OUT, True)
    machine.ask(Unpause("guest"))
    wait_until(lambda: machine.ask(BlockList(("guest",)))[0]["state"] == 6, what="the front end's closing")
    succeeds(machine, "block-detach", "guest", "xvdb", "--timeout", "60")
    says(machine, "gone")


def test_a_domain_that_has_shut_down_and_is_kept_answers_no_more(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    body = USER.replace("self.kernel.wait(lambda: not self.there)", "return")
    made(machine, tmp_path, body, extra='on_poweroff = "preserve"')
    attached(machine, image)
    wait_until(lambda: machine.domain("guest")["shutdown"] == "poweroff", what="the guest's end")
    refused = fails(machine, "block-detach", "guest", "xvdb", "--timeout", "0.1")
    assert (refused.code, "it has shut down" in refused.err) == (Exit.TIMED_OUT, True)
    succeeds(machine, "network-attach", "guest")
    succeeds(machine, "network-detach", "guest", "0")
    succeeds(machine, "block-detach", "guest", "xvdb", "--force")
    assert vdevs(machine) == []


def test_a_device_is_attached_to_a_paused_domain_and_taken_away_before_it_has_looked(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    made(machine, tmp_path, USER)
    machine.ask(Pause("guest"))
    attached(machine, image)
    succeeds(machine, "block-detach", "guest", "xvdb")
    attached(machine, image)
    machine.ask(Unpause("guest"))
    says(machine, "read hello")


def test_an_interface_goes_by_its_number_or_address_from_a_domain_that_does_not_answer_too(
    machine: Machine, tmp_path: Path
) -> None:
    address = "00:16:3e:11:22:33"
    made(
        machine,
        tmp_path,
        """
from domains.kernel.shutdown import await_shutdown
from drivers.net.front import NetFront

class Probe(Guest):
    def main(self) -> None:
        NetFront(self.kernel, "device/vif/0", lambda packet: None).connect()
        self.kernel.xenbus.write("data", "connected")
        await_shutdown(self.kernel)
""",
        extra="vif = ['']",
    )
    says(machine, "connected")
    succeeds(machine, "network-attach", "guest", f"mac={address.upper()}", "bridge=xenbr1")
    header, first, second = lines_of(machine, "network-list", "guest")
    assert header == ["Idx", "BE", "Mac", "Addr.", "handle", "state", "evt-ch", "tx-/rx-ring-ref", "BE-path"]
    with pytest.raises(ControlError, match="more than 1024 devices; name fewer"):
        machine.ask(NetworkList(("guest",) * 600))
    assert (first[0], first[4], second[:5]) == ("0", "4", ["1", "0", address, "1", "1"])
    machine.ask(Pause("guest"))
    machine.ask(NetworkDetach("guest", "0", timeout=0.2))
    succeeds(machine, "network-detach", "guest", address)
    assert machine.ask(NetworkList(("guest",))) == []
    machine.ask(Unpause("guest"))
    assert machine.ask(NetworkAttach("guest", Vif()))["devid"] == 0
    for device in (address, "7", "-1", "99999", "frob", "00:16:3e"):
        assert "Unknown device" in fails(machine, "network-detach", "--", "guest", device).err


def test_a_domain_comes_back_from_a_reboot_with_the_devices_that_it_had(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(4096))
    idle(machine, tmp_path, extra=f"vif = ['', '']\ndisk = ['{other},raw,xvda']")
    attached(machine, image, "idle")
    succeeds(machine, "block-detach", "idle", "xvda")
    succeeds(machine, "network-detach", "idle", "0")
    (before,) = machine.ask(NetworkList(("idle",)))
    domid = machine.domain("idle")["domid"]
    machine.ask(Reboot("idle", wait=True))
    wait_until(lambda: machine.domains().get("idle", {}).get("domid", domid) != domid, what="the reboot")
    wait_until(lambda: machine.ask(NetworkList(("idle",))), what="its interface")
    (after,) = machine.ask(NetworkList(("idle",)))
    assert (vdevs(machine, "idle"), after["devid"], after["mac"]) == (["xvdb"], 1, before["mac"])


def test_a_front_end_that_lies_gets_its_devices_and_loses_them(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    made(machine, tmp_path, LIAR)
    attached(machine, image)
    says(machine, f"lied of device/vbd/{XVDB}")
    (disk,) = machine.ask(BlockList(("guest",)))
    assert (disk["event_channel"], disk["ring_ref"]) == (-1, -1)
    succeeds(machine, "network-attach", "guest")
    says(machine, "lied of device/vif/0")
    assert machine.ask(NetworkList(("guest",)))[0]["tx_ring_ref"] == -1
    succeeds(machine, "block-detach", "guest", "xvdb", "--force", "--timeout", "0.5")
    succeeds(machine, "network-detach", "guest", "0", "--timeout", "0.5")
    assert (vdevs(machine), machine.ask(NetworkList(("guest",)))) == ([], [])


def test_whoever_waits_for_a_domain_that_ends_is_told_so(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    """Negative control: without `_check_alive` in `_until` it is told that the disk is detached."""
    made(machine, tmp_path, BUSY)
    attached(machine, image)
    says(machine, "read hello")

    def detach() -> Any:
        with pytest.raises(ControlError) as refused:
            machine.ask(BlockDetach("guest", "xvdb", timeout=3600))
        return str(refused.value)

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(detach)
        (disk,) = machine.ask(BlockList(("guest",)))
        online = f"{disk['backend_path']}/online"
        wait_until(lambda: machine.ask(XenstoreLs(online))[0]["value"] == b"0", what="the request")
        assert "is being" in fails(machine, "block-detach", "guest", "xvdb").err
        machine.destroy("guest")
        assert "has ended meanwhile" in waiting.result(timeout=20)


def test_devices_that_cannot_be_are_refused_in_one_line_and_leave_nothing(
    machine: Machine, tmp_path: Path, image: Path
) -> None:
    idle(machine, tmp_path)
    for code, text, words in (
        (1, "No such file", ["block-attach", "idle", f"{tmp_path}/none,raw,xvdb"]),
        (1, "Dom0 has no virtual devices", ["block-attach", "0", f"{image},raw,xvdb"]),
        (3, "no domain 'nobody'", ["block-attach", "nobody", f"{image},raw,xvdb"]),
        (2, "no virtual device", ["block-attach", "idle", f"{image},raw,frob"]),
        (2, "unknown value for format", ["block-attach", "idle", str(image), "frob", "xvdb"]),
        (3, "there is no domain 'netdom'", ["block-attach", "idle", f"{image},raw,xvdb,backend=netdom"]),
        (1, "is no driver domain", ["network-attach", "idle", "backend=idle"]),
        (2, "unknown vif option", ["network-attach", "idle", "frob=1"]),
        (2, "is no MAC address", ["network-attach", "idle", "mac=1"]),
        (1, "Device xvdb not connected", ["block-detach", "idle", "xvdb"]),
        (1, "Device 0123 not connected", ["block-detach", "idle", "0123"]),
        (1, "Device 089 not connected", ["block-detach", "idle", "089"]),
        (2, "'089' is no virtual device", ["block-attach", "idle", f"{image},raw,089"]),
        (1, "Device \\x1b[2J not connected", ["block-detach", "idle", "\x1b[2J"]),
        (1, "Device 99999999999999999999 not", ["block-detach", "idle", "9" * 20]),
        (3, "no domain 'nobody'", ["block-list", "idle", "nobody"]),
        (3, "no domain 'nobody'", ["network-list", "nobody"]),
        (2, "--timeout", ["block-detach", "idle", "xvdb", "--timeout", "-1"]),
        (2, "device model", ["cd-insert", "idle", "xvdb", str(image)]),
        (2, "device model", ["cd-eject", "idle", "xvdb"]),
    ):
        done = fails(machine, *words)
        assert (done.code, text in done.err) == (code, True), done
    assert machine.ask(BlockList(("idle", "Domain-0"))) == []


def test_a_driver_domain_serves_what_is_attached(machine: Machine, tmp_path: Path) -> None:
    text = f'name = "netdom"\nkernel = "python:domains.guests.driverdomain:NetworkBackend"\nmemory = 16\n{DRIVER}\n'
    assert machine.create(tmp_path, text).returncode == 0
    idle(machine, tmp_path)
    backend = machine.domain("netdom")["domid"]
    succeeds(machine, "network-attach", "idle", "backend=netdom")
    (vif,) = machine.ask(NetworkList(("idle",)))
    assert (vif["backend_id"], vif["backend_path"].startswith(f"/local/domain/{backend}/")) == (backend, True)
    succeeds(machine, "network-detach", "idle", "0")
    succeeds(machine, "network-attach", "idle", "backend=netdom")
    machine.destroy("netdom")
    wait_until(lambda: machine.ask(NetworkList(("idle",))) == [], what="the end of what it served")
    succeeds(machine, "network-detach", "idle", "0")
    assert machine.create(tmp_path, text).returncode == 0
    succeeds(machine, "network-attach", "idle")
    assert [vif["backend_id"] for vif in machine.ask(NetworkList(("idle",)))] == [0]
