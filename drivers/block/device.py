"""One virtual block device, back end: its image, and its front's ring and pages.

Source: Xen public/io/blkif.h. Requests themselves are performed in `requests.py`. Invariant: the image is
open, and locked, until the device is Closed, so it cannot be attached a second time before the last request
of the first front is done and durable (XSA-302's idea).
"""

import contextlib
from typing import NamedTuple

from drivers.back_device import BackDevice, FrontError, Nodes
from drivers.block.copied_pages import CopiedPages
from drivers.block.granted_pages import GrantedPages
from drivers.block.image import Image
from drivers.block.protocol import MAX_SEGMENTS, SECTOR_SIZE, Node
from drivers.block.requests import Counters, Pages, RequestServer
from drivers.front_rings import FrontRings, reach
from drivers.mapped_grants import MappedGrants
from drivers.retry import Turn
from drivers.xenbus import number
from hypervisor.public.errno import XenError
from hypervisor.public.io.blkif import VDISK_READONLY, blkif_request, blkif_response
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.types import U32, Port


class Connection(NamedTuple):
    """What is held while a front is attached."""

    port: Port
    rings: FrontRings
    pages: Pages
    server: RequestServer


class BlockDevice(BackDevice):
    """A disk image for one front."""

    _image: Image | None = None
    _connection: Connection | None = None

    @property
    def counters(self) -> Counters | None:
        """What was done for the front that is attached."""
        return self._connection.server.counters if self._connection else None

    def turn(self, crowd: int) -> Turn:
        """Serves some of the front's requests; `crowd`: how many devices want a turn."""
        return self._connection.server.serve(crowd) if self._connection else Turn.DONE

    def open(self) -> Nodes:
        """`params` names the file, with or without a format in front; `mode` is "r" or "w", "!" without
        lock.
        """
        params, mode = self.end.read(Node.PARAMS) or "", self.end.read(Node.MODE) or "r"
        path = params if params.startswith("/") else params.partition(":")[2]
        self._image = Image(path, mode)
        discard = self._image.writable and self.end.read(Node.DISCARD_ENABLE) != "0"
        return {
            Node.PERSISTENT: int(
                self.kernel.privileged
            ),  # where pages are copied nothing is won by keeping them
            Node.INDIRECT: MAX_SEGMENTS,
            Node.FLUSH: 1,
            Node.BARRIER: 1,
            Node.DISCARD: int(discard),
        }

    def attach(self) -> Nodes:
        """Reaches the ring and binds the event channel that the front names. FrontError: they are not usable."""
        end, kernel, image = self.end, self.kernel, self._image
        ref = number(end.read_peer(Node.RING_REF), -1, U32)
        remote_port = number(end.read_peer(Node.EVENT_CHANNEL), -1, U32)
        abi = end.read_peer(Node.PROTOCOL) or XEN_IO_PROTO_ABI_X86_64
        if image is None or ref < 0 or remote_port < 0 or abi != XEN_IO_PROTO_ABI_X86_64:
            raise FrontError(f"no ring: ring-ref {ref}, event-channel {remote_port}, protocol {abi}")
        persistent = number(end.read_peer(Node.PERSISTENT), 0, 1) == 1
        domid = end.peer_domid
        rings = reach(kernel, domid, [ref], [(blkif_request, blkif_response)])
        try:
            port = kernel.events.bind_interdomain(domid, Port(remote_port))
        except XenError:
            rings.release()
            raise
        pages: Pages = CopiedPages(kernel, domid)
        if kernel.privileged:
            pages = GrantedPages(MappedGrants(kernel), kernel.cpu, domid, persistent)
        server = RequestServer(rings.rings[0], image, pages, lambda: kernel.events.notify(port))
        self._connection = Connection(port, rings, pages, server)
        kernel.events.bind(port, self.ready)
        return {
            Node.SECTORS: image.sectors,
            Node.SECTOR_BYTES: SECTOR_SIZE,
            Node.INFO: 0 if image.writable else int(VDISK_READONLY),
        }

    def detach(self) -> None:
        """What the front wrote becomes durable."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self.kernel.events.close(connection.port)
        connection.pages.close()
        connection.rings.release()
        if self._image is not None:
            with contextlib.suppress(OSError):  # there is nobody left to tell
                self._image.flush()

    def shut(self) -> None:
        """Closes the image."""
        image, self._image = self._image, None
        if image is not None:
            image.close()
