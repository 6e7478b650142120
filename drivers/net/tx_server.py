"""Takes packets off a front's tx ring: the sending half of net back, without xenstore and without waiting.

    take ─► the parts of the packets, for somebody to copy ─► finish: answers; the packets ─► more?

A packet lies in a chain of slots (Xen public/io/netif.h):

    tx request [size = whole packet] ─ extra info … ─ tx request ─ … ─ tx request without NETTXF_more_data

Everything a front says is checked: sizes, page bounds, the number of slots, what stands in an extra info. A
bad packet gets NETIF_RSP_ERROR on each of its slots and goes nowhere; every slot is answered once, in order.
Packets for which the interface's rate leaves no credit are held; nothing is taken behind them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from drivers.net.copier import Part
from drivers.net.credit import Credit
from drivers.net.protocol import MAX_PACKET, MAX_SLOTS, MIN_PACKET, Packet
from drivers.net.segmentation import can_split
from drivers.ring import BackRing
from hypervisor.public.io.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_GSO_TYPE_TCPV4,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
    netif_extra_info,
    netif_tx_request,
    netif_tx_response,
)
from hypervisor.public.types import PAGE_SIZE, DomId

CSUM_BLANK, DATA_VALIDATED = int(NETTXF_csum_blank), int(NETTXF_data_validated)
EXTRA_INFO, MORE_DATA = int(NETTXF_extra_info), int(NETTXF_more_data)
GSO, GSO_TCPV4 = int(XEN_NETIF_EXTRA_TYPE_GSO), int(XEN_NETIF_GSO_TYPE_TCPV4)
MAX_EXTRAS: Final = int(XEN_NETIF_EXTRA_TYPE_MAX) - 1
"""One of each kind there is."""


@dataclass(slots=True)
class Chain:
    """The slots of one packet so far. `ids`: what to answer in each slot, None for an extra info. `gso_size`: as one
    says.
    """

    size: int = 0  # of the whole packet, as its first slot says
    flags: int = 0  # of its first slot
    more: bool = False  # another slot with data follows
    bad: bool = False
    paid: bool = False  # out of the interface's credit
    gso_size: int = 0
    ids: list[int | None] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def may_grow(self) -> bool:
        """Whether it has not more slots of either kind than any packet needs."""
        return len(self.parts) <= MAX_SLOTS and len(self.ids) - len(self.parts) <= MAX_EXTRAS

    def add_extra(self, extra: np.void) -> None:
        """An extra info: of the size of its segments, or of something that was not offered."""
        gso = extra["u"]["gso"]
        self.ids.append(None)
        self.bad |= extra["type"] != GSO or gso["type"] != GSO_TCPV4
        self.gso_size = int(gso["size"])

    def complete(self) -> None:
        """Give the first part its own size, and find out whether the packet is as it should be."""
        if self.bad or not MIN_PACKET <= self.size <= MAX_PACKET:
            self.bad = True
            return
        first = self.parts[0]
        rest = self.size - sum(part.size for part in self.parts[1:])
        self.parts[0] = Part(first.domid, first.ref, first.offset, rest)
        self.bad = any(part.size <= 0 or part.offset + part.size > PAGE_SIZE for part in self.parts)


class Limit(NamedTuple):
    """An interface's rate: its credit, the time, and what has a turn taken after so many nanoseconds."""

    credit: Credit
    now: Callable[[], int]
    later: Callable[[int], None]


class TxServer:
    """One tx ring, of `domid`'s front."""

    def __init__(self, ring: BackRing, domid: DomId, limit: Limit | None = None) -> None:
        self._ring = ring
        self._domid = domid
        self._limit = limit
        self._held: list[Chain] = []
        self._taken: list[Chain] = []
        self._chain: Chain | None = None
        self._in_extras = False
        self._answer = np.zeros(1, netif_tx_response.dtype)

    def take(self, most: int) -> list[Part]:
        """What is to be copied of the packets that end with at most so many new slots. Raises RingBroken."""
        chains = self._held or self._take(most)
        self._taken, self._held = self._within_limit(chains)
        return [part for chain in self._taken if not chain.bad for part in chain.parts]

    def finish(self, pieces: Iterable[bytes | None]) -> tuple[list[Packet], bool]:
        """Answer what was taken, of which these are the parts' bytes; the good packets, and whether the front wants an event.
        Raises RingBroken.
        """
        taken, self._taken = self._taken, []
        packets = self._join(taken, iter(pieces))
        for chain in taken:
            self._respond(chain)
        return packets, self._ring.push()

    def end_round(self) -> bool:
        """Whether there is more to take; if not, the front will say when there is. Raises RingBroken."""
        return not self._held and self._ring.final_check()

    def _take(self, most: int) -> list[Chain]:
        """The packets that end with at most so many new slots."""
        entries = self._ring.take(most)
        chains: list[Chain] = []
        if not entries:
            return chains
        requests = self._ring.records(entries, netif_tx_request).tolist()
        extras = self._ring.records(entries, netif_extra_info)
        for at, request in enumerate(requests):
            self._add(request, extras[at], chains)
        return chains

    def _within_limit(self, chains: list[Chain]) -> tuple[list[Chain], list[Chain]]:
        """Those that may go now, and those for which a later turn is arranged. What is bad costs nothing."""
        if self._limit is None:
            return chains, []
        credit, clock, later = self._limit
        now = clock()
        for at, chain in enumerate(chains):
            if not chain.bad and not chain.paid and not credit.take(chain.size, now):
                later(credit.wait(chain.size, now))
                return chains[:at], chains[at:]
            chain.paid = True
        return chains, []

    def _add(self, request: tuple[int, int, int, int, int], extra: np.void, chains: list[Chain]) -> None:
        """One more slot, read both ways; a chain that ends with it joins `chains`."""
        chain = self._chain
        if chain is not None and self._in_extras:
            chain.add_extra(extra)
            self._in_extras = bool(extra["flags"] & XEN_NETIF_EXTRA_FLAG_MORE)
        else:
            ref, offset, flags, id, size = request
            if chain is None:
                chain = Chain(size, flags)
                self._in_extras = bool(flags & EXTRA_INFO)
            chain.more = bool(flags & MORE_DATA)
            chain.ids.append(id)
            chain.parts.append(Part(self._domid, ref, offset, size))
        goes_on = chain.more or self._in_extras
        if goes_on and chain.may_grow:
            self._chain = chain
            return
        chain.bad |= goes_on
        chain.complete()
        chains.append(chain)
        self._chain = Chain(bad=True, more=chain.more) if goes_on else None  # the rest is no packet either

    def _join(self, chains: list[Chain], pieces: Iterator[bytes | None]) -> list[Packet]:
        """The good packets. Those of which Xen refused a part turn bad."""
        packets: list[Packet] = []
        for chain in chains:
            if chain.bad:
                continue
            data = [next(pieces) for _ in chain.parts]
            whole = b"".join(piece for piece in data if piece is not None)
            if len(whole) != chain.size or (chain.gso_size and not can_split(whole, chain.gso_size)):
                chain.bad = True
                continue
            blank, valid = bool(chain.flags & CSUM_BLANK), bool(chain.flags & DATA_VALIDATED)
            packets.append(Packet(whole, blank or chain.gso_size > 0, valid, chain.gso_size))
        return packets

    def _respond(self, chain: Chain) -> None:
        status = NETIF_RSP_ERROR if chain.bad else NETIF_RSP_OKAY
        for id in chain.ids:
            self._answer[0] = (0, NETIF_RSP_NULL) if id is None else (id, status)
            self._ring.put([self._answer.tobytes()])
