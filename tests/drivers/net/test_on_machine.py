"""Networks on a real machine: Dom0 connects guests that run in processes of their own."""

import re
from pathlib import Path

from tests.machines import Machine, wait_until

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

    def received(self, frame):
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

    def received(self, frame):
        if frame[12:14] == ETHERTYPE:
            self.answers.append(frame)
"""
)


def said(machine: Machine, name: str) -> list[str]:
    """What guests have written into their nodes data/`name`."""
    return re.findall(rf'^ *{name} = "(.*)"$', machine.xenctl("xenstore-ls").stdout, re.MULTILINE)


def await_ready(machine: Machine, guests: int = 1) -> None:
    wait_until(lambda: said(machine, "ready").count("yes") == guests, 20, "the guests' readiness")


def test_one_guest_pings_another(clean_machine: Machine, tmp_path: Path) -> None:
    clean_machine.guest(tmp_path, ECHO, name="echo", extra="vif = ['']")
    await_ready(clean_machine)
    done = clean_machine.guest(tmp_path, PING, "-c", extra="vif = ['mac=00:16:3e:01:02:03']")
    assert "answers: True 00:16:3e:01:02:03" in done.stdout, done.stdout + done.stderr
    clean_machine.xenctl("destroy", "echo")


def test_bridges_of_different_names_do_not_hear_each_other(clean_machine: Machine, tmp_path: Path) -> None:
    clean_machine.guest(tmp_path, ECHO, name="echo", extra="vif = ['bridge=left']")
    await_ready(clean_machine)
    done = clean_machine.guest(tmp_path, PING, "-c", extra="vif = ['bridge=right']")
    assert "answers: False" in done.stdout, done.stdout + done.stderr
    clean_machine.xenctl("destroy", "echo")


def test_the_store_says_of_an_interface_what_libxl_would(clean_machine: Machine, tmp_path: Path) -> None:
    vif = "vif = ['', 'bridge=lan,ip=10.0.0.1,rate=1MB/s@20ms,vifname=web0,mtu=9000,script=/x']"
    clean_machine.guest(tmp_path, ECHO, extra=vif)
    await_ready(clean_machine)
    domid = clean_machine.domains()["guest"]["domid"]
    rows = clean_machine.json("xenstore-ls")
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
    clean_machine.xenctl("destroy", "guest")
    assert "vif" not in clean_machine.xenctl("xenstore-ls", "-f", "/local/domain").stdout.replace(
        "backend/vif", ""
    )
