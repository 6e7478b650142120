"""A learning bridge (IEEE 802.1D, clause 7.7 to 7.9, without spanning tree): which ports a frame goes to.

State code: frames and times go in, port names come out. Owns the table of where each station was last seen.
Invariant: a frame never goes back to the port it came from. A port can fill only its own share of the table,
so no guest can make the bridge forget the others'.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

P = TypeVar("P", bound=Hashable)

AGEING_NS: Final = 300 * 10**9
"""A station not heard of for so long may be anywhere (802.1D's default)."""
STATIONS_PER_PORT: Final = 256
HEADER_SIZE: Final = 14
GROUP: Final = 0x01
RESERVED: Final = bytes.fromhex("0180c20000")
"""01-80-C2-00-00-0x is for the bridge itself, and is not forwarded (802.1D, table 7-10)."""


@dataclass(slots=True)
class Station:
    """Where a MAC address was seen, and when."""

    port: object
    seen: int


class Bridge(Generic[P]):
    """Ports are named by whatever the caller likes. Times are nanoseconds of any clock that never goes back."""

    def __init__(self) -> None:
        self._ports: dict[P, int] = {}  # how many stations each holds
        self._stations: dict[bytes, Station] = {}

    @property
    def ports(self) -> list[P]:
        return list(self._ports)

    def add(self, port: P) -> None:
        """A new port; ValueError if there is one of that name."""
        if port in self._ports:
            raise ValueError(f"the bridge has a port {port}")
        self._ports[port] = 0

    def remove(self, port: P) -> None:
        """The port is gone, and its stations are anywhere."""
        del self._ports[port]
        self._stations = {mac: s for mac, s in self._stations.items() if s.port != port}

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
        station = None if destination[0] & GROUP else self._stations.get(destination)
        if station is None or now - station.seen > AGEING_NS:
            return [other for other in self._ports if other != port]
        return [other for other in self._ports if other == station.port and other != port]

    def where(self, mac: bytes) -> object | None:
        """The port behind which a station was last seen."""
        station = self._stations.get(mac)
        return station and station.port

    def _learn(self, port: P, mac: bytes, now: int) -> None:
        station = self._stations.get(mac)
        if station is None:
            if self._ports[port] >= STATIONS_PER_PORT and not self._forget_oldest(port, now):
                return
            self._stations[mac] = Station(port, now)
            self._ports[port] += 1
            return
        if station.port != port:
            if self._ports[port] >= STATIONS_PER_PORT and not self._forget_oldest(port, now):
                return
            self._ports[station.port] -= 1  # type: ignore[index]
            self._ports[port] += 1
            station.port = port
        station.seen = now

    def _forget_oldest(self, port: P, now: int) -> bool:
        """Make room among a port's stations; False if none has aged."""
        mac, oldest = min(
            ((mac, s) for mac, s in self._stations.items() if s.port == port), key=lambda item: item[1].seen
        )
        if now - oldest.seen <= AGEING_NS:
            return False
        del self._stations[mac]
        self._ports[port] -= 1
        return True
