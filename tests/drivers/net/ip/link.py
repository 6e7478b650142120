"""Stacks on one Ethernet, in virtual time: every frame arrives after a delay, unless the weather has it otherwise."""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from ipaddress import IPv4Address, IPv4Interface

from domains.kernel.loop import Loop, Timer
from drivers.net.checksum import fill
from drivers.net.ip.stack import Link as DeviceLink
from drivers.net.ip.stack import Stack
from drivers.net.ip.tcp.connection import Connection
from drivers.net.protocol import Packet
from drivers.net.segmentation import split

SECOND = 10**9
Weather = Callable[[int, bytes], list[int]]
"""(number of the frame, the frame) → after how many nanoseconds copies of it arrive; none: it is lost."""


class VirtualClock:
    """A Kernel's loop with a clock that jumps to the next timer."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.time = 0

    def now(self) -> int:
        return self.time

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return self.loop.call_at(self.time + int(seconds * SECOND), callback)

    def step(self) -> bool:
        """Run one callback, or let time pass to the next one; False if nothing will ever happen."""
        if self.loop.run_one():
            return True
        due = self.loop.next_deadline()
        if due is None:
            return False
        self.time = max(self.time, due)
        return self.loop.fire(self.time)

    def run(self, condition: Callable[[], object], seconds: float = 600) -> None:
        """Until `condition` holds; AssertionError if that much virtual time does not suffice."""
        limit = self.time + int(seconds * SECOND)
        while not condition():
            assert self.step(), "nothing will happen any more"
            assert self.time <= limit, "it takes too long"

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass, and everything that happens meanwhile."""
        done: list[bool] = []
        self.call_later(seconds, lambda: done.append(True))
        self.run(lambda: done, seconds + 1)


def fair(_number: int, _frame: bytes) -> list[int]:
    return [1_000_000]


class Device(Enum):
    """What interfaces do with TCP segments that stand for many."""

    NO_SUCH = auto()  # none are made
    WHOLE = auto()  # they go as they are
    CUT = auto()  # they go as the many, with their checksums


class Link:
    """An Ethernet on which everybody hears everything."""

    def __init__(self, weather: Weather = fair, device: Device = Device.NO_SUCH) -> None:
        self.device = device
        self.clock = VirtualClock()
        self.weather = weather
        self.stacks: list[Stack] = []
        self.frames: list[bytes] = []
        self.random = random.Random(7)

    def host(
        self,
        address: str = "",
        gateway: str | None = None,
        mtu: int = 1500,
        random_bits: Callable[[int], int] | None = None,
    ) -> Stack:
        """A new host; by default 10.0.0.1/24, 10.0.0.2/24 and so on."""
        number = len(self.stacks) + 1
        stack = Stack(
            self.clock,
            bytes((0x00, 0x16, 0x3E, 0, 0, number)),
            IPv4Interface(address or f"10.0.0.{number}/24"),
            IPv4Address(gateway) if gateway else None,
            partial(self._transmit, number - 1),
            random_bits or self.random.getrandbits,
            DeviceLink(mtu, self.device is not Device.NO_SUCH, self.device is not Device.NO_SUCH),
        )
        self.stacks.append(stack)
        return stack

    def _transmit(self, sender: int, packet: Packet) -> None:
        """A station's device has a packet to send."""
        if self.device is Device.CUT:
            for one in split(packet):
                self.send(sender, fill(one.data) if one.csum_blank else one.data)
        else:
            self.send(sender, packet.data, packet.csum_blank)

    def send(self, sender: int, frame: bytes, csum_blank: bool = False) -> None:
        """A station sends a frame."""
        self.frames.append(frame)
        for delay in self.weather(len(self.frames), frame):
            for number, stack in enumerate(self.stacks):
                if number != sender:
                    self.clock.call_later(delay / SECOND, partial(stack.receive, Packet(frame, csum_blank)))


class Talker:
    """A user of a connection: writes `outgoing` as there is room, finishes, and keeps what it reads."""

    def __init__(self, outgoing: bytes = b"", reading: bool = True) -> None:
        self.outgoing = memoryview(outgoing)
        self.incoming = bytearray()
        self.reading = reading
        self.connection: Connection | None = None
        self.finished = False

    def take(self, connection: Connection) -> None:
        self.connection = connection
        connection.changed = self.look
        self.look()

    def look(self) -> None:
        connection = self.connection
        assert connection is not None
        if self.reading:
            while data := connection.read():
                self.incoming += data
        while self.outgoing and connection.writable:
            self.outgoing = self.outgoing[connection.write(self.outgoing) :]
        if not self.outgoing and not self.finished and connection.error is None:
            self.finished = True
            connection.finish()


def talk(link: Link, to_server: bytes, to_client: bytes) -> tuple[Talker, Talker]:
    """Two hosts exchange these bytes, and close; both ends of the conversation."""
    client_host, server_host = link.host(), link.host()
    server, client = Talker(to_client), Talker(to_server)
    server_host.tcp.listen(80, server.take)
    client.take(client_host.tcp.connect(bytes((10, 0, 0, 2)), 80))
    return client, server
