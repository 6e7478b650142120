"""A guest's network as its author sees it: one network interface with an IPv4 host on it.

    net = Interface(kernel)                       device/vif/0, with the address of its vif's `ip`
    net.ping("10.0.0.2")                          seconds, or None
    with net.connect("10.0.0.2", 80) as stream:   a file of bytes
        stream.write(b"…")
    net.listen(80, accepted)                      `accepted(connection)` is called from the loop

`ping`, `connect` and a Stream wait, while the kernel's handlers run; whoever serves many at once works with
Connections and their `changed`. UDP is at `net.stack.udp`.
"""

import errno
import io
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

from domains.kernel.kernel import Kernel
from drivers.net.front import NetFront
from drivers.net.ip.ipv4 import address_of
from drivers.net.ip.stack import Link, Stack
from drivers.net.ip.tcp.connection import Connection
from drivers.net.ip.tcp.ports import Listener
from drivers.net.ip.tcp.states import State
from drivers.net.protocol import Node, Packet

DEFAULT_PREFIX = 24
DEFAULT_MTU = 1500
MAX_MTU = 65521


class Interface:
    """The network behind `device`. Without `address` ("10.0.0.1/24") the one of the vif's `ip` is taken."""

    def __init__(
        self, kernel: Kernel, device: int = 0, address: str | None = None, gateway: str | None = None
    ) -> None:
        """Connects the interface. Raises DeviceError, and ValueError where there is no address."""
        self.kernel = kernel
        self.nic = NetFront(kernel, f"device/vif/{device}", self._received, offload=True)
        address = address or kernel.run(self.nic.end.read_peer(Node.IP))
        if address is None:
            raise ValueError(f"interface {device} has no address: its vif needs ip=, such as ip=10.0.0.1/24")
        if "/" not in address:
            address = f"{address}/{DEFAULT_PREFIX}"
        self._is_up = False
        self.nic.connect()
        self.stack = Stack(
            kernel,
            self.nic.mac,
            IPv4Interface(address),
            IPv4Address(gateway) if gateway else None,
            self._transmit,
            kernel.chance.getrandbits,
            Link(
                kernel.run(self.nic.end.read_number(Node.MTU, DEFAULT_MTU, MAX_MTU)),
                self.nic.can_offload,
                self.nic.can_segment,
            ),
        )
        self._is_up = True
        self.stack.arp.announce()

    @property
    def address(self) -> IPv4Address:
        """This host's own address."""
        return self.stack.interface.ip

    def ping(self, address: str, timeout: float = 1.0, payload: bytes = bytes(56)) -> float | None:
        """Seconds until `address` answered an ICMP echo request; None if it did not. Raises OSError: no way there."""
        destination, identifier = address_of(address), self.kernel.chance.getrandbits(16)
        self.stack.check(destination, len(payload) + 8)
        answers: list[int] = []
        start = self.kernel.now()
        self.stack.icmp.ping(
            destination, identifier, 0, payload, lambda *_: answers.append(self.kernel.now())
        )
        self.kernel.wait(lambda: bool(answers), timeout)
        self.stack.icmp.forget(identifier, 0)
        return (answers[0] - start) / 1e9 if answers else None

    def connect(self, address: str, port: int, timeout: float = 30.0) -> "Stream":
        """A TCP connection that is open. Raises OSError: no way there, refused, timed out."""
        destination = address_of(address)
        self.stack.check(destination)
        connection = self.stack.tcp.connect(destination, port)
        self.kernel.wait(lambda: connection.state is not State.SYN_SENT, timeout)
        if connection.error is not None:
            raise connection.error
        if connection.state is State.SYN_SENT:
            connection.abort()
            raise TimeoutError(errno.ETIMEDOUT, f"{address} does not answer at port {port}")
        return Stream(self.kernel, connection)

    def listen(self, port: int, accepted: Callable[[Connection], None]) -> Listener:
        """Have `accepted` called for each TCP connection to `port`. Raises PortInUse."""
        return self.stack.tcp.listen(port, accepted)

    def close(self) -> None:
        """Disconnect the interface; connections are not ended before."""
        self.nic.close()

    def _transmit(self, packet: Packet) -> None:
        """What the device does not take is lost, as on any network."""
        if self.nic.connected:
            self.nic.send(packet.data, packet.csum_blank, packet.gso_size)

    def _received(self, packet: Packet) -> None:
        """What comes before the stack is there is lost, as on any network."""
        if self._is_up:
            self.stack.receive(packet)


class Stream(io.RawIOBase):
    """A connection as a file that waits. io.BufferedReader gives it lines."""

    def __init__(self, kernel: Kernel, connection: Connection) -> None:
        super().__init__()
        self._kernel = kernel
        self.connection = connection

    def readable(self) -> bool:
        """True: as io streams are asked."""
        return True

    def writable(self) -> bool:
        """True: as io streams are asked."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Wait for bytes; 0 at the end. Raises the connection's error after what had arrived before it."""
        connection = self.connection
        self._kernel.wait(lambda: bool(connection.readable) or connection.at_end)
        data = connection.read(len(buffer))
        if not data and connection.error is not None:
            raise connection.error
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Hand over all of `data`, waiting for room. Raises OSError when the connection is over."""
        connection, view = self.connection, memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += connection.write(view[done:])
            if done < len(view):
                self._kernel.wait(lambda: bool(connection.writable) or connection.state is State.CLOSED)
        return done

    def finish(self) -> None:
        """Nothing more will be written."""
        self.connection.finish()

    def close(self) -> None:
        """What was written still goes out, by and by."""
        if not self.closed:
            self.connection.close()
        super().close()
