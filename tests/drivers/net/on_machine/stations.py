"""Guests that send and answer bare Ethernet frames, and what they say of themselves in the store."""

import re

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


def said(machine: Machine, name: str) -> list[str]:
    """What guests have written into their nodes data/`name`."""
    return re.findall(rf'^ *{name} = "(.*)"$', machine.xenctl("xenstore-ls").stdout, re.MULTILINE)


def await_ready(machine: Machine, guests: int = 1) -> None:
    wait_until(lambda: said(machine, "ready").count("yes") == guests, 20, "the guests' readiness")
