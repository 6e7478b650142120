"""Takes packets off a front's tx ring: the sending half of net back, without xenstore and without waiting.

A packet lies in a chain of slots (Xen public/io/netif.h):

    tx request [size = whole packet] ─ extra info … ─ tx request ─ … ─ tx request without NETTXF_more_data

Everything a front says is checked: sizes, page bounds, the number of slots, extras that were not offered. A
bad packet gets NETIF_RSP_ERROR on each of its slots and goes nowhere; every slot is answered once, in order.
Packets for which the interface's rate leaves no credit are held, and nothing is taken behind them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from drivers.net.copier import Copier, Part
from drivers.net.credit import Credit
from drivers.net.protocol import MAX_PACKET, MAX_SLOTS, MIN_PACKET, Packet
from drivers.ring import BackRing
from hypervisor.public.io.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_FLAG_MORE,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    netif_extra_info,
    netif_tx_request,
    netif_tx_response,
)
from hypervisor.public.types import PAGE_SIZE, DomId

TURN_SLOTS: Final = 32
"""Slots taken in one turn."""
CSUM_BLANK, DATA_VALIDATED = int(NETTXF_csum_blank), int(NETTXF_data_validated)
EXTRA_INFO, MORE_DATA = int(NETTXF_extra_info), int(NETTXF_more_data)


@dataclass(slots=True)
class Chain:
    """The slots of one packet so far. `ids`: what to answer in each slot, None for an extra info."""

    size: int = 0  # of the whole packet, as its first slot says
    flags: int = 0  # of its first slot
    more: bool = False  # another slot with data follows
    bad: bool = False
    ids: list[int | None] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def complete(self) -> None:
        """Give the first part its own size, and find out whether the packet is as it should be."""
        if self.bad or not MIN_PACKET <= self.size <= MAX_PACKET:
            self.bad = True
            return
        first = self.parts[0]
        self.parts[0] = Part(first.ref, first.offset, self.size - sum(part.size for part in self.parts[1:]))
        self.bad = any(part.size <= 0 or part.offset + part.size > PAGE_SIZE for part in self.parts)


class Limit(NamedTuple):
    """An interface's rate: its credit, the time, and what has a turn taken after so many nanoseconds."""

    credit: Credit
    now: Callable[[], int]
    later: Callable[[int], None]


class TxServer:
    """One tx ring. `accept` gets each good packet, `notify` sends the event of new answers."""

    def __init__(
        self,
        ring: BackRing,
        copier: Copier,
        domid: DomId,
        accept: Callable[[Packet], None],
        notify: Callable[[], None],
        limit: Limit | None = None,
    ) -> None:
        self._ring = ring
        self._copier = copier
        self._domid = domid
        self._accept = accept
        self._notify = notify
        self._limit = limit
        self._held: list[Chain] = []
        self._chain: Chain | None = None
        self._in_extras = False
        self._answer = np.zeros(1, netif_tx_response.dtype)

    def serve(self, crowd: int = 1) -> bool:
        """One turn, bounded and shared with `crowd`; True if there is more to do. Raises RingBroken."""
        chains = self._held or self._take(max(TURN_SLOTS // crowd, 1))
        chains, self._held = self._within_limit(chains)
        packets = self._fetch(chains)
        for chain in chains:
            self._respond(chain)
        if chains and self._ring.push():
            self._notify()
        for packet in packets:
            self._accept(packet)
        return not self._held and self._ring.final_check()

    def _take(self, most: int) -> list[Chain]:
        """The packets that end with at most so many new slots."""
        entries = self._ring.take(most)
        chains: list[Chain] = []
        if not entries:
            return chains
        requests = self._ring.records(entries, netif_tx_request).tolist()
        extras = self._ring.records(entries, netif_extra_info)["flags"].tolist()
        for request, extra_flags in zip(requests, extras, strict=True):
            self._add(request, extra_flags, chains)
        return chains

    def _within_limit(self, chains: list[Chain]) -> tuple[list[Chain], list[Chain]]:
        """Those that may go now, and those for which a later turn is arranged. What is bad costs nothing."""
        if self._limit is None:
            return chains, []
        credit, clock, later = self._limit
        now = clock()
        for at, chain in enumerate(chains):
            if not chain.bad and not credit.take(chain.size, now):
                later(credit.wait(chain.size, now))
                return chains[:at], chains[at:]
        return chains, []

    def _add(self, request: tuple[int, int, int, int, int], extra_flags: int, chains: list[Chain]) -> None:
        """One more slot, read both ways; a chain that ends with it joins `chains`."""
        chain = self._chain
        if chain is not None and self._in_extras:
            chain.ids.append(None)
            chain.bad = True  # none was offered
            self._in_extras = bool(extra_flags & XEN_NETIF_EXTRA_FLAG_MORE)
        else:
            ref, offset, flags, id, size = request
            if chain is None:
                chain = Chain(size, flags)
                self._in_extras = bool(flags & EXTRA_INFO)
            chain.more = bool(flags & MORE_DATA)
            chain.ids.append(id)
            chain.parts.append(Part(ref, offset, size))
        goes_on = chain.more or self._in_extras
        if goes_on and len(chain.ids) <= MAX_SLOTS:
            self._chain = chain
            return
        chain.bad |= goes_on
        chain.complete()
        chains.append(chain)
        self._chain = Chain(bad=True, more=chain.more) if goes_on else None  # the rest is no packet either

    def _fetch(self, chains: list[Chain]) -> list[Packet]:
        """Copy the good packets, all at once; those that Xen refuses turn bad."""
        good = [chain for chain in chains if not chain.bad]
        pieces = iter(self._copier.fetch(self._domid, [part for chain in good for part in chain.parts]))
        packets = []
        for chain in good:
            data = [next(pieces) for _ in chain.parts]
            whole = b"".join(piece for piece in data if piece is not None)
            if len(whole) != chain.size:
                chain.bad = True
                continue
            packets.append(Packet(whole, bool(chain.flags & CSUM_BLANK), bool(chain.flags & DATA_VALIDATED)))
        return packets

    def _respond(self, chain: Chain) -> None:
        status = NETIF_RSP_ERROR if chain.bad else NETIF_RSP_OKAY
        for id in chain.ids:
            self._answer[0] = (0, NETIF_RSP_NULL) if id is None else (id, status)
            self._ring.put([self._answer.tobytes()])
