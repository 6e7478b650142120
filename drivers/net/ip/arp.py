"""Address resolution: which station of the link has an address of the network.

    unknown ─send──► asked (frames wait, a few) ─answer──► known ─MAX_AGE──► asked again when needed
                       └─ no answer to ATTEMPTS ──► unknown, what waited is dropped

Source: RFC 826, RFC 1122 §2.3.2. Only those who ask for us or answer us are remembered, so that a talkative
network fills no table; an address that is remembered is updated by whatever its owner says.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from drivers.net.ip.clock import Clock, Timer

MESSAGE: Final = struct.Struct(">HHBBH6s4s6s4s")
ETHERNET, IPV4 = 1, 0x0800
REQUEST, REPLY = 1, 2
MAX_AGE_NS: Final = 60 * 10**9
INTERVAL: Final = 0.5
"""Seconds between two questions."""
ATTEMPTS: Final = 4
WAITING: Final = 16
"""Packets that wait for one answer; the oldest go first."""
ENTRIES: Final = 512
UNKNOWN: Final = bytes(6)

Deliver = Callable[[bytes], None]
"""Sends something to the station with this MAC address."""


@dataclass
class Entry:
    """`mac` is None while nobody has answered."""

    mac: bytes | None = None
    seen: int = 0
    asked: int = 0
    timer: Timer | None = None
    waiting: list[Deliver] = field(default_factory=list)


class Arp:
    """One interface's. `ask(destination mac, message)` sends an ARP message."""

    def __init__(
        self,
        clock: Clock,
        mac: bytes,
        address: bytes,
        ask: Callable[[bytes, bytes], None],
    ) -> None:
        self._clock = clock
        self._mac = mac
        self._address = address
        self._ask = ask
        self._entries: dict[bytes, Entry] = {}

    def send(self, address: bytes, deliver: Deliver) -> None:
        """Call `deliver` with the station that has `address`, now or when it has answered."""
        entry = self._entries.get(address)
        if entry is None:
            entry = self._remember(address)
        if entry.mac is not None and self._clock.now() - entry.seen <= MAX_AGE_NS:
            deliver(entry.mac)
            return
        entry.mac = None
        entry.waiting = [*entry.waiting[1 - WAITING :], deliver]
        if entry.timer is None:
            entry.asked = 0
            self._question(address)

    def receive(self, message: bytes) -> None:
        """An ARP message of the link."""
        if len(message) < MESSAGE.size:
            return
        hardware, protocol, hlen, plen, operation, mac, sender, _, target = MESSAGE.unpack_from(message)
        if (
            (hardware, protocol, hlen, plen) != (ETHERNET, IPV4, 6, 4)
            or mac[0] & 1
            or sender == self._address
        ):
            return
        for_us = target == self._address
        if sender in self._entries or (for_us and sender != bytes(4)):
            self._learn(sender, mac)
        if for_us and operation == REQUEST:
            self._ask(mac, self._message(REPLY, mac, sender))

    def announce(self) -> None:
        """Tell the link whose address this is (RFC 5227 §3)."""
        self._ask(b"\xff" * 6, self._message(REQUEST, UNKNOWN, self._address))

    def known(self) -> dict[bytes, bytes]:
        """Addresses and the stations that have them."""
        return {address: entry.mac for address, entry in self._entries.items() if entry.mac is not None}

    def _learn(self, address: bytes, mac: bytes) -> None:
        entry = self._entries.get(address) or self._remember(address)
        entry.mac, entry.seen = mac, self._clock.now()
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        waiting, entry.waiting = entry.waiting, []
        for deliver in waiting:
            deliver(mac)

    def _question(self, address: bytes) -> None:
        """Ask, or give up."""
        entry = self._entries.get(address)
        if entry is None:
            return
        if entry.asked == ATTEMPTS:
            del self._entries[address]
            return
        entry.asked += 1
        entry.timer = self._clock.call_later(INTERVAL, lambda: self._question(address))
        self._ask(b"\xff" * 6, self._message(REQUEST, UNKNOWN, address))

    def _remember(self, address: bytes) -> Entry:
        """A new entry, in the place of the oldest if there are too many."""
        if len(self._entries) >= ENTRIES:
            oldest = self._entries.pop(next(iter(self._entries)))
            if oldest.timer is not None:
                oldest.timer.cancel()
        entry = self._entries[address] = Entry()
        return entry

    def _message(self, operation: int, mac: bytes, address: bytes) -> bytes:
        return MESSAGE.pack(ETHERNET, IPV4, 6, 4, operation, self._mac, self._address, mac, address)
