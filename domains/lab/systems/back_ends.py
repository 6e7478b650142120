"""The back ends of one guest's disk and network card, in a domain whose kernel is Python's: drivers/block and drivers/net.

The disk is a file without a name, the wire a list. A domain that is privileged maps the guest's pages, another one copies them
(docs/driver-domains.md). Ring references and ports are told by the toolstack; there is no xenstore here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from domains.kernel.kernel import Kernel
from domains.lab.systems.system import Fault
from drivers.block.copied_pages import CopiedPages
from drivers.block.granted_pages import GrantedPages
from drivers.block.image import Image
from drivers.block.protocol import RECORDS, SECTORS_PER_PAGE
from drivers.block.requests import Pages, RequestServer
from drivers.front_rings import reach
from drivers.mapped_grants import MappedGrants
from drivers.net.copier import Copier
from drivers.net.tx_server import TxServer
from hypervisor.public.io.netif import netif_tx_request, netif_tx_response
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_32
from hypervisor.public.types import PAGE_SIZE, DomId, Port

BLOCKS: Final = 64
"""Pages that the disk holds."""
AT_ONCE: Final = 64
Told = Callable[[str, int], None]
"""Who hears of what is done, and of how many bytes."""


class FrontEnd(NamedTuple):
    """What a front end says of itself: the grant of its ring, and its event channel."""

    reference: int
    port: int


class Disk:
    """A file of BLOCKS pages. What is in it stays when a back end ends. `broken`: the sector at which a driver has a fault, once;
    -1: none.
    """

    def __init__(self, broken: int = -1) -> None:
        self.broken = broken
        self._fd = os.memfd_create("disk", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, BLOCKS * PAGE_SIZE)

    def close(self) -> None:
        """The file goes, when nobody has it open any more."""
        os.close(self._fd)

    def image(self) -> Image:
        """Opened anew. OSError: somebody has it open."""
        return FaultyImage(self, f"/proc/self/fd/{self._fd}")

    @property
    def sectors(self) -> dict[int, bytes]:
        """The pages that are not empty, by number."""
        blocks = ((number, os.pread(self._fd, PAGE_SIZE, number * PAGE_SIZE)) for number in range(BLOCKS))
        return {number: data for number, data in blocks if any(data)}


class FaultyImage(Image):
    """A disk as its driver has it open: a driver with a fault at `Disk.broken`."""

    def __init__(self, disk: Disk, path: str) -> None:
        super().__init__(path, "w")
        self._disk = disk

    def write(self, sector: int, pages: Sequence[memoryview], size: int) -> None:
        """See Image. Fault: the driver has run into its own."""
        if sector == self._disk.broken * SECTORS_PER_PAGE:
            self._disk.broken = -1
            raise Fault("the driver of the disk has run into a fault of its own")
        super().write(sector, pages, size)


class BackEnds:
    """`kernel`: of the domain that they run in; `guest`: the front ends' domain; `packets`: where what is sent goes."""

    def __init__(self, kernel: Kernel, guest: DomId, disk: Disk, packets: list[bytes], told: Told) -> None:
        self._kernel, self._guest, self._told = kernel, guest, told
        self._image, self.packets = disk.image(), packets
        self._copier = Copier(kernel)

    def close(self) -> None:
        """Let go of the disk."""
        self._image.close()

    def connect(self, block: FrontEnd, network: FrontEnd) -> None:
        """Serve these front ends from now on. XenError: what they say is not usable."""
        kernel, guest = self._kernel, self._guest
        records = RECORDS[XEN_IO_PROTO_ABI_X86_32]
        pair = (records.request, records.response)
        pages: Pages = CopiedPages(kernel, guest)
        if kernel.privileged:
            pages = GrantedPages(MappedGrants(kernel), kernel.cpu, guest, persistent=False)
        ring = reach(kernel, guest, [block.reference], [pair]).rings[0]
        port = kernel.events.bind_interdomain(guest, Port(block.port))
        server = RequestServer(ring, self._image, pages, lambda: kernel.events.notify(port), records)
        self._serve(port, lambda: self._serve_disk(server))
        self._connect_network(network)

    def _connect_network(self, front: FrontEnd) -> None:
        kernel, guest = self._kernel, self._guest
        ring = reach(kernel, guest, [front.reference], [(netif_tx_request, netif_tx_response)]).rings[0]
        port = kernel.events.bind_interdomain(guest, Port(front.port))
        server = TxServer(ring, guest)
        self._serve(port, lambda: self._serve_network(server, port))

    def _serve(self, port: Port, serve: Callable[[], bool]) -> None:
        """Serve at each event, and as long as there is more; at once, too, for something may wait already."""

        def turn() -> None:
            if serve():
                self._kernel.call_soon(turn)

        self._kernel.events.bind(port, turn)
        turn()

    def _serve_disk(self, server: RequestServer) -> bool:
        before = server.counters.rd_sect + server.counters.wr_sect
        more = server.serve()
        moved = server.counters.rd_sect + server.counters.wr_sect - before
        if moved:
            self._told("transfer to or from the disk", moved * 512)
        return more

    def _serve_network(self, server: TxServer, port: Port) -> bool:
        pieces = self._copier.fetch(server.take(AT_ONCE))
        for piece in pieces:
            if piece is not None:
                self._told("copy out of the guest", len(piece))
        packets, wanted = server.finish(pieces)
        self.packets += [packet.data for packet in packets]
        if wanted:
            self._kernel.events.notify(port)
        return server.end_round()
