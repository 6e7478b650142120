"""One virtual block device, back end: its image, and its front's ring and pages.

Source: Xen public/io/blkif.h. Requests themselves are performed in `requests.py`. Invariant: the image is
open, and locked, until the device is Closed, so it cannot be attached a second time before the last request
of the first front is done and durable (XSA-302's idea).
"""

import contextlib
from typing import NamedTuple

from domains.kernel.tasks import Task
from drivers.back_device import BackDevice, FrontError, Nodes
from drivers.block.copied_pages import CopiedPages
from drivers.block.granted_pages import GrantedPages
from drivers.block.image import Image
from drivers.block.protocol import MAX_SEGMENTS, RECORDS, SECTOR_SIZE, Node, Records
from drivers.block.requests import Counters, Pages, RequestServer
from drivers.front_rings import FrontRings, reach
from drivers.mapped_grants import MappedGrants
from drivers.retry import Turn
from hypervisor.public.errno import XenError
from hypervisor.public.io.blkif import VDISK_READONLY
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.types import U32, Port


class BlockAttachment(NamedTuple):
    """What is held while a front is attached."""

    port: Port
    rings: FrontRings
    pages: Pages
    server: RequestServer


class BlockDevice(BackDevice):
    """A disk image for one front."""

    _image: Image | None = None
    _attachment: BlockAttachment | None = None

    @property
    def counters(self) -> Counters | None:
        """What was done for the front that is attached."""
        return self._attachment.server.counters if self._attachment else None

    def turn(self, crowd: int) -> Turn:
        """Serves some of the front's requests; `crowd`: how many devices want a turn."""
        return self._attachment.server.serve(crowd) if self._attachment else Turn.DONE

    def open(self) -> Task[Nodes]:
        """`params` names the file, with or without a format in front; `mode` is "r" or "w", "!" without
        lock.
        """
        params = (yield from self.end.read(Node.PARAMS)) or ""
        mode = (yield from self.end.read(Node.MODE)) or "r"
        may_discard = (yield from self.end.read(Node.DISCARD_ENABLE)) != "0"
        path = params if params.startswith("/") else params.partition(":")[2]
        self._image = Image(path, mode)
        return {
            Node.PERSISTENT: int(
                self.kernel.privileged
            ),  # where pages are copied nothing is won by keeping them
            Node.INDIRECT: MAX_SEGMENTS,
            Node.FLUSH: 1,
            Node.BARRIER: 1,
            Node.DISCARD: int(may_discard and self._image.writable),
        }

    def attach(self) -> Task[Nodes]:
        """Reaches the ring and binds the event channel that the front names. FrontError: they are not usable."""
        end = self.end
        ref = yield from end.read_peer_number(Node.RING_REF, -1, U32)
        remote_port = yield from end.read_peer_number(Node.EVENT_CHANNEL, -1, U32)
        abi = (yield from end.read_peer(Node.PROTOCOL)) or XEN_IO_PROTO_ABI_X86_64
        persistent = (yield from end.read_peer_number(Node.PERSISTENT, 0, 1)) == 1
        if self._image is None or ref < 0 or remote_port < 0 or abi not in RECORDS:
            raise FrontError(f"no ring: ring-ref {ref}, event-channel {remote_port}, protocol {abi}")
        return self._reach(self._image, ref, Port(remote_port), RECORDS[abi], persistent)

    def _reach(self, image: Image, ref: int, remote_port: Port, records: Records, persistent: bool) -> Nodes:
        """The front's ring, pages and event channel are held from here on; XenError, and none is."""
        kernel, domid = self.kernel, self.end.peer_domid
        rings = reach(kernel, domid, [ref], [(records.request, records.response)])
        try:
            port = kernel.events.bind_interdomain(domid, remote_port)
        except XenError:
            rings.release()
            raise
        pages: Pages = CopiedPages(kernel, domid)
        if kernel.privileged:
            pages = GrantedPages(MappedGrants(kernel), kernel.cpu, domid, persistent)
        server = RequestServer(rings.rings[0], image, pages, lambda: kernel.events.notify(port), records)
        self._attachment = BlockAttachment(port, rings, pages, server)
        kernel.events.bind(port, self.ready)
        return {
            Node.SECTORS: image.sectors,
            Node.SECTOR_BYTES: SECTOR_SIZE,
            Node.INFO: 0 if image.writable else int(VDISK_READONLY),
        }

    def detach(self) -> None:
        """What the front wrote becomes durable."""
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return
        self.kernel.events.close(attachment.port)
        attachment.pages.close()
        attachment.rings.release()
        if self._image is not None:
            with contextlib.suppress(OSError):  # there is nobody left to tell
                self._image.flush()

    def shut(self) -> None:
        """Closes the image."""
        image, self._image = self._image, None
        if image is not None:
            image.close()
