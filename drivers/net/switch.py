"""A bridge with something behind its ports: packets come in, and go on to whoever is to have them.

Owns the ports' names and what delivers to each; where packets go is `bridge.py`'s, how many of them may go to several
ports is `storm.py`'s.
"""

from collections.abc import Callable, Hashable
from typing import Final, Protocol

from drivers.net.bridge import Bridge
from drivers.net.protocol import Packet
from drivers.net.storm import StormControl

COPIES_PER_TOKEN: Final = 4
"""A copy for another host takes longer than one for a guest: a frame for everybody costs a token more for each so many."""
MOST_COPIES: Final = 512
"""A frame that would need more of them is dropped: they would hold everybody for more than some ms."""
COPY_SIZE: Final = 1500
"""Bytes of a frame that go to another host in one packet, about."""
Deliver = Callable[[Hashable, Packet], None]
"""Gets a packet, and the port it came from."""


class Observer(Protocol):
    """Somebody that sees every packet that passes an interface or a switch."""

    def saw(self, packet: Packet) -> None:
        """A packet passed."""

    def lost(self) -> None:
        """It is gone."""


class Switch:
    """`clock` gives nanoseconds and never goes back."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.observers: list[Observer] = []
        self.mtu: int | None = None
        """Bytes of the largest packet that goes everywhere; None: nothing was said."""
        self._clock = clock
        self._bridge: Bridge[Hashable] = Bridge()
        self._deliver: dict[Hashable, Deliver] = {}
        self._storms: dict[Hashable, StormControl] = {}

    def attach(self, port: Hashable, deliver: Deliver, isolated: bool = False) -> None:
        """A new port; ValueError if there is one of that name. `isolated`: another host is behind it, and nothing goes to it
        that comes from a host.
        """
        self._bridge.add(port, isolated)
        self._storms[port] = StormControl(self._clock())
        self._deliver[port] = deliver

    def detach(self, port: Hashable) -> None:
        """The port is gone."""
        self._bridge.remove(port)
        del self._deliver[port], self._storms[port]

    def stations(self, port: Hashable) -> int:
        """How many stations were last seen behind a port."""
        return self._bridge.stations(port)

    def accept(self, port: Hashable, packet: Packet) -> None:
        """A packet came in at `port`."""
        for observer in self.observers:
            observer.saw(packet)
        now = self._clock()
        others = self._bridge.forward(port, packet.data, now)
        if len(others) < 2 or self._may_flood(port, packet, others, now):
            for other in others:
                self._deliver[other](port, packet)

    def _may_flood(self, port: Hashable, packet: Packet, others: list[Hashable], now: int) -> bool:
        """Whether a packet may go from `port` to all of these; it is paid for then."""
        copies = self._bridge.isolated(others) * -(-len(packet.data) // COPY_SIZE)
        return copies <= MOST_COPIES and self._storms[port].allows(now, 1 + copies // COPIES_PER_TOKEN)
