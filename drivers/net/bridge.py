"""A learning bridge (IEEE 802.1D, clause 7.7 to 7.9, without spanning tree): which ports a frame goes to.

State code: frames and times go in, port names come out. Owns the table of where each station was last seen.
Invariant: a frame never goes back to the port it came from, nor from an *isolated* port to another one (as Linux' bridges
have them). A port can fill only its own share of the table, so no guest can make the bridge forget the others'.
"""

from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)

AGEING_NS: Final = 300 * 10**9
"""A station not heard of for so long may be anywhere (802.1D's default)."""
STATIONS_PER_PORT: Final = 256
HEADER_SIZE: Final = 14
GROUP: Final = 0x01
RESERVED: Final = bytes.fromhex("0180c20000")
"""01-80-C2-00-00-0x is for the bridge itself, and is not forwarded (802.1D, table 7-10)."""


class Bridge(Generic[P]):
    """Ports are named by whatever the caller likes. Times are nanoseconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._ports: dict[P, dict[bytes, int]] = {}
        """Each port's stations, and when each was last heard: the one that has been silent longest comes first."""
        self._where: dict[bytes, P] = {}
        self._isolated: set[P] = set()

    @property
    def ports(self) -> list[P]:
        """The ports there are, in the order in which they came."""
        return list(self._ports)

    def add(self, port: P, isolated: bool = False) -> None:
        """A new port; ValueError if there is one of that name."""
        if port in self._ports:
            raise ValueError(f"the bridge has a port {port}")
        self._ports[port] = {}
        if isolated:
            self._isolated.add(port)

    def remove(self, port: P) -> None:
        """The port is gone, and its stations are anywhere."""
        for mac in self._ports.pop(port):
            del self._where[mac]
        self._isolated.discard(port)

    def forward(self, port: P, frame: bytes, now: int) -> list[P]:
        """Where a frame that came in at `port` goes; learns where its sender is."""
        if len(frame) < HEADER_SIZE or port not in self._ports:
            return []
        destination, source = frame[:6], frame[6:12]
        if source[0] & GROUP:
            return []  # no station has a group address
        self._learn(port, source, now)
        if destination[:5] == RESERVED and destination[5] < 0x10:
            return []
        barred = self._isolated if port in self._isolated else ()
        known = None if destination[0] & GROUP else self._where.get(destination)
        if known is None or now - self._ports[known][destination] > AGEING_NS:
            return [other for other in self._ports if other != port and other not in barred]
        return [known] if known != port and known not in barred else []

    def where(self, mac: bytes) -> P | None:
        """The port behind which a station was last seen."""
        return self._where.get(mac)

    def stations(self, port: P) -> int:
        """How many stations were last seen behind a port."""
        return len(self._ports[port])

    def isolated(self, ports: Iterable[P]) -> int:
        """How many of these ports are isolated."""
        return sum(port in self._isolated for port in ports) if self._isolated else 0

    def _learn(self, port: P, mac: bytes, now: int) -> None:
        stations, before = self._ports[port], self._where.get(mac)
        if before == port:
            del stations[mac]  # it comes last now
        elif len(stations) >= STATIONS_PER_PORT and not self._forget_oldest(stations, now):
            return
        elif before is not None:
            del self._ports[before][mac]
        stations[mac] = now
        self._where[mac] = port

    def _forget_oldest(self, stations: dict[bytes, int], now: int) -> bool:
        """Make room among a port's stations; False if none has aged."""
        mac, seen = next(iter(stations.items()))
        if now - seen <= AGEING_NS:
            return False
        del stations[mac], self._where[mac]
        return True
