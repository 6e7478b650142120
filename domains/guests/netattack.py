"""A guest that breaks the rules of the network, or takes all it can get; its neighbours shall hardly notice.

`extra` names the attack. Each shoots slots at net back as fast as the ring takes them and heeds no answer; what the
back end makes of them is docs/network.md's. Layout of a slot: Xen public/io/netif.h.
"""

from collections.abc import Callable, Sequence
from typing import Final

from domains.kernel.guest import Guest
from domains.kernel.kernel import Kernel
from drivers.net.front import NetFront
from drivers.net.protocol import MAX_PACKET, MAX_SLOTS, MIN_PACKET
from drivers.ring import INDEX_MASK, REQ_PROD
from drivers.xenbus import DeviceError
from hypervisor.public.io.netif import NETTXF_extra_info, NETTXF_more_data, netif_tx_request
from hypervisor.public.types import PAGE_SIZE

BROADCAST: Final = b"\xff" * 6
EXPERIMENTAL: Final = b"\x88\xb6"
"""An EtherType for experiments (IEEE 802)."""
FRAME: Final = 1400
BATCH: Final = 64
NOBODYS: Final = 0xDEAD
"""A grant reference that is nobody's."""
MORE: Final = int(NETTXF_more_data)
EXTRA: Final = int(NETTXF_extra_info)
UNKNOWN_STATIONS: Final = 4096


class HostileFront(NetFront):
    """An interface whose ring can be filled with anything. What arrives is left where it lies."""

    def interrupt(self) -> None:
        """Nothing is taken, nothing is posted."""

    def shoot(self, slots: Sequence[netif_tx_request]) -> None:
        """Put as many of these slots into the ring as fit, whatever they say, and ring the bell."""
        connection = self._connection
        if connection is None:
            return
        tx = connection.tx.ring
        tx.take()
        for slot in slots[: tx.free]:
            tx.put(slot.pack())
        tx.push()
        self.kernel.events.notify(connection.port)

    def overrun(self) -> None:
        """Claim more slots than there are in the ring."""
        connection = self._connection
        if connection is not None:
            index = connection.rings[0].view[:PAGE_SIZE].cast("I")
            index[REQ_PROD] = (index[REQ_PROD] + 10 * connection.tx.ring.size) & INDEX_MASK
            index.release()
            self.kernel.events.notify(connection.port)

    def slot(
        self, number: int, size: int = FRAME, flags: int = 0, ref: int | None = None
    ) -> netif_tx_request:
        """A slot with one of the granted pages, unless it names another `ref`."""
        connection = self._connection
        assert connection is not None
        pages = connection.tx.pages
        mine = pages[number % len(pages)].ref
        return netif_tx_request(
            gref=mine if ref is None else ref, flags=flags, id=number % len(pages), size=size
        )

    def write(self, number: int, frame: bytes) -> None:
        """What the page of slot `number` holds."""
        assert self._connection is not None
        self._connection.tx.pages[number].view[: len(frame)] = frame


def flood(front: HostileFront) -> list[netif_tx_request]:
    """Good packets for everybody."""
    return [front.slot(i) for i in range(BATCH)]


def runts(front: HostileFront) -> list[netif_tx_request]:
    """Packets that end within their Ethernet header."""
    return [front.slot(i, size=i % MIN_PACKET) for i in range(BATCH)]


def giants(front: HostileFront) -> list[netif_tx_request]:
    """One packet without an end."""
    return [front.slot(i, MAX_PACKET, MORE) for i in range(BATCH)]


def chains(front: HostileFront) -> list[netif_tx_request]:
    """A packet of as many slots as are allowed, as big as it can be."""
    last = MAX_SLOTS - 1
    sizes = [MAX_PACKET, *[PAGE_SIZE - 1] * last]
    return [front.slot(i, sizes[i], MORE if i < last else 0) for i in range(MAX_SLOTS)]


def extras(front: HostileFront) -> list[netif_tx_request]:
    """Extra information that was not offered."""
    return [front.slot(i, flags=EXTRA) for i in range(BATCH)]


def grants(front: HostileFront) -> list[netif_tx_request]:
    """Pages that nobody granted."""
    return [front.slot(i, ref=NOBODYS) for i in range(BATCH)]


def events(_front: HostileFront) -> list[netif_tx_request]:
    """Nothing but the bell."""
    return []


VOLLEYS: Final[dict[str, Callable[[HostileFront], list[netif_tx_request]]]] = {
    volley.__name__: volley for volley in (flood, runts, giants, chains, extras, grants, events)
}
"""What can be shot at the back end again and again."""


class NetAttack(Guest):
    """The guest; its command line names the attack."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.front = HostileFront(kernel, "device/vif/0", lambda _: None)

    def main(self) -> None:
        """Attacks until it is destroyed."""
        attack = self.kernel.cmdline
        self.front.connect()
        for number in range(BATCH):
            self.front.write(number, BROADCAST + self.front.mac + EXPERIMENTAL + bytes(FRAME))
        print(f"attacking: {attack}")
        if attack in VOLLEYS:
            slots = VOLLEYS[attack](self.front)
            while True:
                self.front.shoot(slots)
        OTHERS[attack](self)

    def stations(self) -> None:
        """Each frame claims to be from another station, and is for one that nobody knows."""
        slots = [self.front.slot(i, size=60) for i in range(BATCH)]
        number = 0
        while True:
            for i in range(BATCH):
                number = (number + 1) % UNKNOWN_STATIONS
                sender = b"\x02" + number.to_bytes(5, "big")
                self.front.write(i, b"\x02\xff" + number.to_bytes(4, "big") + sender)
            self.front.shoot(slots)

    def indices(self) -> None:
        """Break the ring, come back, and again."""
        while True:
            self.front.overrun()
            try:
                self.front.close()
                self.front.connect()
            except DeviceError:
                continue


OTHERS: Final[dict[str, Callable[[NetAttack], None]]] = {
    attack.__name__: attack for attack in (NetAttack.stations, NetAttack.indices)
}
ATTACKS: Final = (*VOLLEYS, *OTHERS)
"""What `extra` can be."""
