"""Hosts whose VXLAN ports are connected by a network that is a queue: no sockets, and nothing is lost unless a test says so."""

from __future__ import annotations

from collections import deque

from drivers.net.protocol import Packet
from drivers.net.switch import Switch
from drivers.net.vxlan.overlay import Overlay
from drivers.net.vxlan.segment import End, Segment
from drivers.net.vxlan.vtep import Vtep

VNI = 42
PORT = 4789


class Fabric:
    """The network between hosts. `sent` has every packet that went, with the end it went to."""

    def __init__(self) -> None:
        self.time = 0
        self.hosts: dict[str, Host] = {}
        self.sent: list[tuple[bytes, End, int]] = []
        self._queue: deque[tuple[str, bytes, str]] = deque()

    def host(self, address: str, mtu: int = 1450, vni: int = VNI) -> Host:
        self.hosts[address] = Host(self, address, mtu, vni)
        return self.hosts[address]

    def send(self, source: str, packet: bytes, end: End, flow: int) -> None:
        self.sent.append((packet, end, flow))
        self._queue.append((source, packet, end[0]))

    def settle(self) -> None:
        while self._queue:
            source, packet, destination = self._queue.popleft()
            if destination in self.hosts:
                self.hosts[destination].receive(packet, source)


class Host:
    """A switch with a VXLAN port, and guests that remember what they get."""

    def __init__(self, fabric: Fabric, address: str, mtu: int, vni: int) -> None:
        self.fabric = fabric
        self.address = address
        self.takes = True
        """Whether the host takes packets that are sent."""
        self.switch = Switch(lambda: fabric.time)
        self.segment = Segment(vni, mtu)
        self.vtep = Vtep()
        self.vtep.add(self.segment)
        self.overlay = Overlay(self.switch, self.segment, self._send)
        self.guests: dict[str, list[Packet]] = {}

    def _send(self, packet: bytes, end: End, flow: int) -> bool:
        if self.takes:
            self.fabric.send(self.address, packet, end, flow)
        return self.takes

    def guest(self, name: str) -> list[Packet]:
        """A new guest: what it gets."""
        got = self.guests[name] = []
        self.switch.attach(name, lambda _source, packet: got.append(packet))
        return got

    def say(self, guest: str, frame: bytes, **more: int) -> None:
        """A guest sends a frame, and it goes wherever it goes."""
        self.switch.accept(guest, Packet(frame, **more))  # type: ignore[arg-type]
        self.fabric.settle()

    def receive(self, packet: bytes, source: str) -> None:
        arrived = self.vtep.received(packet, source)
        if arrived is not None:
            self.overlay.arrived(arrived.peer, arrived.frame)

    def meet(self, *others: Host) -> None:
        """Let these be the peers."""
        self.overlay.set_peers([(other.address, PORT) for other in others])


def connected(count: int, mtu: int = 1450) -> tuple[Fabric, list[Host]]:
    """Hosts 10.0.0.1, 10.0.0.2 … each with all others as peers, and with one guest, "g"."""
    fabric = Fabric()
    hosts = [fabric.host(f"10.0.0.{number}", mtu) for number in range(1, count + 1)]
    for host in hosts:
        host.meet(*(other for other in hosts if other is not host))
        host.guest("g")
    return fabric, hosts
