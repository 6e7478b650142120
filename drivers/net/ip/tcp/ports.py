"""All TCP connections of a host, by both ends' addresses, and who listens at which port.

    SYN for a listener ─► half open (HALF_OPEN at most, the oldest goes) ─► `accepted` ─► its owner's

Source: RFC 9293 §3.10.7. What belongs to nobody is answered by a reset. A host keeps MAX_CONNECTIONS at most.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from drivers.net.ip.clock import Clock
from drivers.net.ip.ipv4 import TCP, Datagram
from drivers.net.ip.tcp.connection import Connection
from drivers.net.ip.tcp.segment import ACK, RST, SYN, Segment, build, parse
from drivers.net.ip.tcp.states import State
from drivers.net.ip.udp import FIRST_EPHEMERAL, PortInUse

HALF_OPEN: Final = 64
MAX_CONNECTIONS: Final = 1024

Key = tuple[bytes, int, int]
"""(the other end's address, its port, the port here)"""


class Listener:
    """A port that takes connections. `accepted` gets each one that is open."""

    def __init__(self, port: int, accepted: Callable[[Connection], None]) -> None:
        self.port = port
        self.accepted = accepted
        self.half_open: dict[Key, Connection] = {}


class Tcp:
    """`send(destination, protocol, payload, gso_size)` sends a datagram, `random_bits(n)` makes what nobody can guess.
    `most`: bytes of a segment that stands for many, if the device cuts such.
    """

    def __init__(
        self,
        clock: Clock,
        address: bytes,
        mss: int,
        send: Callable[[bytes, int, bytes, int], None],
        random_bits: Callable[[int], int],
        offload: bool = False,
        most: int = 0,
    ) -> None:
        self._clock = clock
        self._address = address
        self._mss = mss
        self._send = send
        self._random_bits = random_bits
        self._offload = offload
        self._most = most
        self._connections: dict[Key, Connection] = {}
        self._listeners: dict[int, Listener] = {}

    @property
    def connections(self) -> list[Connection]:
        """All that are remembered, those that only linger included."""
        return list(self._connections.values())

    def listen(self, port: int, accepted: Callable[[Connection], None]) -> Listener:
        """Have `accepted` called for each connection to `port`. Raises PortInUse."""
        if port in self._listeners:
            raise PortInUse(f"TCP port {port} is in use")
        listener = self._listeners[port] = Listener(port, accepted)
        return listener

    def close(self, listener: Listener) -> None:
        """Take no more connections; those that are open stay so."""
        del self._listeners[listener.port]
        for connection in list(listener.half_open.values()):
            connection.abort()

    def connect(self, address: bytes, port: int) -> Connection:
        """Begin to open a connection; its `changed` tells more. Raises PortInUse if this host has too many."""
        first = FIRST_EPHEMERAL + self._random_bits(14)
        for number in range(65536 - FIRST_EPHEMERAL):
            local = FIRST_EPHEMERAL + (first + number) % (65536 - FIRST_EPHEMERAL)
            key = (address, port, local)
            if key not in self._connections and len(self._connections) < MAX_CONNECTIONS:
                connection = self._make(key, partial(self._forget, key))
                connection.open()
                return connection
        raise PortInUse("this host has too many TCP connections")

    def receive(self, datagram: Datagram, *, trusted: bool) -> None:
        """A TCP datagram; `trusted`: the device vouches for its checksum."""
        segment = parse(datagram, trusted=trusted)
        if segment is None:
            return
        key = (datagram.source, segment.source_port, segment.port)
        connection = self._connections.get(key)
        listener = self._listeners.get(segment.port)
        opening = segment.flags & (SYN | ACK | RST) == SYN
        if connection is not None and not (connection.state is State.TIME_WAIT and opening and listener):
            self._deliver(key, connection, segment, listener)
        elif listener is not None and opening:
            if connection is not None:
                connection.abort()  # it only lingered: the other end opens a new one (RFC 9293 §3.6.1)
            self._answer(listener, key, segment)
        elif not segment.flags & RST:
            self._reset(datagram.source, segment)

    def unreachable(self, address: bytes, source_port: int, port: int) -> None:
        """A segment sent from `source_port` here did not get to `port` there."""
        connection = self._connections.get((address, port, source_port))
        if connection is not None:
            connection.unreachable()

    def _deliver(self, key: Key, connection: Connection, segment: Segment, listener: Listener | None) -> None:
        connection.receive(segment)
        if listener is not None and key in listener.half_open and connection.state is not State.SYN_RECEIVED:
            del listener.half_open[key]
            if connection.state is not State.CLOSED:
                listener.accepted(connection)

    def _answer(self, listener: Listener, key: Key, syn: Segment) -> None:
        if len(listener.half_open) >= HALF_OPEN:
            next(iter(listener.half_open.values())).abort()
        if len(self._connections) >= MAX_CONNECTIONS:
            return

        def gone() -> None:
            listener.half_open.pop(key, None)
            self._forget(key)

        connection = listener.half_open[key] = self._make(key, gone)
        connection.answer(syn)

    def _make(self, key: Key, gone: Callable[[], None]) -> Connection:
        address, port, local = key
        transmit = partial(self._transmit, address)
        iss = self._random_bits(32)
        connection = Connection(self._clock, (local, port), iss, self._mss, transmit, gone, self._most)
        self._connections[key] = connection
        return connection

    def _forget(self, key: Key) -> None:
        del self._connections[key]

    def _transmit(self, address: bytes, segment: Segment) -> None:
        whole = build(segment, self._address, address, self._offload)
        self._send(address, TCP, whole, segment.gso_size)

    def _reset(self, address: bytes, segment: Segment) -> None:
        """Answer what belongs to no connection (RFC 9293 §3.10.7.1)."""
        ports = (segment.port, segment.source_port)
        if segment.flags & ACK:
            self._transmit(address, Segment(*ports, segment.ack, 0, RST, 0))
        else:
            self._transmit(address, Segment(*ports, 0, segment.seq + segment.length, RST | ACK, 0))
