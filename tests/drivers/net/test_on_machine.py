"""Networks on a real machine: Dom0 connects guests that run in processes of their own."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines import REPOSITORY, Machine, wait_until

GUESTS = REPOSITORY / "domains" / "guests"

FRAMES = """
from drivers.net.front import NetFront

ETHERTYPE = b"\\x88\\xb5"  # for experiments (IEEE 802)
BROADCAST = b"\\xff" * 6

class Station(Guest):
    def connect(self):
        self.nics = []
        for device in sorted(self.kernel.xenbus.directory("device/vif"), key=int):
            self.nics.append(NetFront(self.kernel, f"device/vif/{device}", self.received))
            self.nics[-1].connect()
        self.nic = self.nics[0]

    def say(self, name, value):
        self.kernel.xenbus.write(f"data/{name}", str(value))
"""

ECHO = (
    FRAMES
    + """
class Probe(Station):
    def main(self):
        self.connect()
        self.say("ready", "yes")
        self.kernel.sleep(600)

    def received(self, packet):
        frame = packet.data
        self.nic.send(frame[6:12] + self.nic.mac + frame[12:])
"""
)

PING = (
    FRAMES
    + """
class Probe(Station):
    def main(self):
        self.answers = []
        self.connect()
        for number in range(20):
            self.nic.send(BROADCAST + self.nic.mac + ETHERTYPE + bytes([number]) * 100)
            if not self.kernel.wait(lambda: len(self.answers) > number, 2):
                break
        print("answers:", [frame[14] for frame in self.answers] == list(range(20)), self.nic.mac.hex(":"))

    def received(self, packet):
        if packet.data[12:14] == ETHERTYPE:
            self.answers.append(packet.data)
"""
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.stop()


@pytest.fixture(autouse=True)
def nothing_is_left(machine: Machine) -> Iterator[None]:
    yield
    for name in machine.domains().keys() - {"Domain-0"}:
        machine.xenctl("destroy", name)
    wait_until(machine.census_is_clean, what="a clean census")


def said(machine: Machine, name: str) -> list[str]:
    """What guests have written into their nodes data/`name`."""
    return re.findall(rf'^ *{name} = "(.*)"$', machine.xenctl("xenstore-ls").stdout, re.MULTILINE)


def await_ready(machine: Machine, guests: int = 1) -> None:
    wait_until(lambda: said(machine, "ready").count("yes") == guests, 20, "the guests' readiness")


def test_one_guest_pings_another(machine: Machine, tmp_path: Path) -> None:
    machine.guest(tmp_path, ECHO, name="echo", extra="vif = ['']")
    await_ready(machine)
    done = machine.guest(tmp_path, PING, "-c", extra="vif = ['mac=00:16:3e:01:02:03']")
    assert "answers: True 00:16:3e:01:02:03" in done.stdout, done.stdout + done.stderr


def test_bridges_of_different_names_do_not_hear_each_other(machine: Machine, tmp_path: Path) -> None:
    machine.guest(tmp_path, ECHO, name="echo", extra="vif = ['bridge=left']")
    await_ready(machine)
    done = machine.guest(tmp_path, PING, "-c", extra="vif = ['bridge=right']")
    assert "answers: False" in done.stdout, done.stdout + done.stderr


def test_the_store_says_of_an_interface_what_libxl_would(machine: Machine, tmp_path: Path) -> None:
    vif = "vif = ['', 'bridge=lan,ip=10.0.0.1,rate=1MB/s@20ms,vifname=web0,mtu=9000,script=/x']"
    machine.guest(tmp_path, ECHO, extra=vif)
    await_ready(machine)
    domid = machine.domains()["guest"]["domid"]
    rows = machine.json("xenstore-ls")
    nodes = {row["path"]: row["value"] for row in rows}
    front, back = f"/local/domain/{domid}/device/vif/", f"/local/domain/0/backend/vif/{domid}/"
    mac = nodes[f"{front}0/mac"]
    assert re.fullmatch(r"00:16:3e:[0-7][0-9a-f](:[0-9a-f]{2}){2}", mac)
    wanted = {
        f"{front}0/backend": f"{back}0",
        f"{front}0/backend-id": "0",
        f"{front}0/handle": "0",
        f"{front}0/mtu": "1500",
        f"{front}0/state": "4",
        f"{back}0/frontend": f"{front}0",
        f"{back}0/frontend-id": str(domid),
        f"{back}0/mac": mac,
        f"{back}0/bridge": "xenbr0",
        f"{back}0/online": "1",
        f"{back}0/state": "4",
        f"{back}0/hotplug-status": "connected",
        f"{back}1/bridge": "lan",
        f"{back}1/handle": "1",
        f"{back}1/ip": "10.0.0.1",
        f"{back}1/rate": "20000,20000",
        f"{back}1/vifname": "web0",
        f"{front}1/mtu": "9000",
    }
    assert wanted.items() <= nodes.items()
    assert {row["path"]: row["permissions"] for row in rows}[f"{back}0"] == ["n0", f"r{domid}"]
    machine.xenctl("destroy", "guest")
    assert "vif" not in machine.xenctl("xenstore-ls", "-f", "/local/domain").stdout.replace("backend/vif", "")


FLOOD = (
    FRAMES
    + """
class Probe(Station):
    def main(self):
        self.connect()
        self.say("ready", "yes")
        frame = BROADCAST + self.nic.mac + ETHERTYPE + bytes(1400)
        while True:
            self.kernel.wait(lambda: self.nic.send(frame))

    def received(self, packet):
        pass
"""
)


def test_guests_killed_in_mid_transfer_leave_nothing(machine: Machine, tmp_path: Path) -> None:
    for attempt in range(3):
        names = [f"echo{attempt}", f"flood{attempt}"]
        for name, body in zip(names, (ECHO, FLOOD), strict=True):
            machine.guest(tmp_path, body, name=name, extra="vif = ['']")
        await_ready(machine, 2)
        for name in names:
            os.kill(int(machine.domains()[name]["pid"]), signal.SIGKILL)
        wait_until(machine.census_is_clean, 15, "a clean census")


def test_a_guest_fetches_a_page_from_another_that_is_told_to_end(machine: Machine) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg")
    assert "200 OK" in done.stdout
    assert "10.0.0.1 has answered 1 requests" in done.stdout
    words = "extra='http://10.0.0.1/bytes/500000 http://10.0.0.1/nothing'"
    done = machine.xenctl("create", "-c", GUESTS / "webclient.cfg", words)
    assert "500000 bytes in" in done.stdout
    assert "404 Not Found" in done.stdout
    assert machine.xenctl("shutdown", "--wait", "webserver").returncode == 0


def test_a_guest_pings_who_is_there_and_says_who_is_not(machine: Machine) -> None:
    assert machine.xenctl("create", GUESTS / "webserver.cfg").returncode == 0
    done = machine.xenctl("create", "-c", GUESTS / "ping.cfg", "extra='10.0.0.1 10.0.0.77 2'")
    assert "10.0.0.1: 2 of 2 answered" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("no answer from 10.0.0.77") == 2
