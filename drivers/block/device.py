"""One virtual block device, back end: its image, and its front's ring and pages.

Source: Xen public/io/blkif.h. Requests themselves are performed in `requests.py`. Invariant: the image is
open, and locked, until the device is Closed, so it cannot be attached a second time before the last request
of the first front is done and durable (XSA-302's idea).
"""

import contextlib
import errno
import select
from collections.abc import Callable
from typing import Final, NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from drivers.back_device import BackDevice, FrontError, Nodes
from drivers.block import overlay
from drivers.block.aside import Aside
from drivers.block.copied_pages import CopiedPages
from drivers.block.granted_pages import GrantedPages
from drivers.block.image import Image
from drivers.block.nbd import NbdImage
from drivers.block.overlay import Overlays
from drivers.block.protocol import MAX_SEGMENTS, RECORDS, SECTOR_SIZE, Node, Records
from drivers.block.qemu_nbd import QEMU_FORMATS, QemuNbd
from drivers.block.requests import AnyImage, Counters, Pages, RequestServer
from drivers.front_rings import FrontRings, reach
from drivers.mapped_grants import MappedGrants
from drivers.xenbus import XenbusEnd
from hypervisor.public.errno import XenError
from hypervisor.public.io.blkif import VDISK_READONLY
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.types import U32, Port

START_SECONDS: Final = 8.0
"""What a qemu-nbd may take to open its image."""
AGAIN: Final = 20
AGAIN_SECONDS: Final = 0.1
LOCK_SECONDS: Final = 20.0
"""What the machine that a domain comes from may take to let go of its images."""


class BlockAttachment(NamedTuple):
    """What is held while a front is attached."""

    port: Port
    rings: FrontRings
    pages: Pages
    server: RequestServer
    aside: Aside | None


class BlockDevice(BackDevice):
    """A disk image for one front."""

    _image: AnyImage | None = None
    _attachment: BlockAttachment | None = None
    _lock_due = False
    """The image is not locked yet: the domain comes from another machine, which has it still."""

    def __init__(
        self,
        kernel: Kernel,
        end: XenbusEnd,
        ready: Callable[[], None],
        dirty: Callable[[], None],
        overlays: Overlays,
    ) -> None:
        super().__init__(kernel, end, ready, dirty)
        self._overlays = overlays

    @property
    def counters(self) -> Counters | None:
        """What was done for the front that is attached."""
        return self._attachment.server.counters if self._attachment else None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do for the front, as it stands."""
        return self._attachment is None or self._attachment.server.is_idle

    def turn(self, crowd: int) -> bool:
        """Serves some of the front's requests; `crowd`: how many devices want a turn."""
        return self._attachment.server.serve(crowd) if self._attachment else False

    def open(self) -> Task[Nodes]:
        """`params` names the file, with or without a format in front, or an overlay by its number; `mode` is "r" or "w", "!"
        without lock. An image of another format than raw is served by a program, which is waited for.
        """
        params = (yield from self.end.read(Node.PARAMS)) or ""
        mode = (yield from self.end.read(Node.MODE)) or "r"
        may_discard = (yield from self.end.read(Node.DISCARD_ENABLE)) != "0"
        format, path = ("", params) if params.startswith("/") else params.partition(":")[::2]
        self._lock_due = (yield from self.end.read(Node.LOCK_LATE)) == "1" and format not in QEMU_FORMATS
        image = yield from self._opened(path, format, mode)
        self._image = image
        return {
            Node.PERSISTENT: int(
                self.kernel.privileged
            ),  # where pages are copied nothing is won by keeping them
            Node.INDIRECT: MAX_SEGMENTS,
            Node.FLUSH: 1,
            Node.BARRIER: int(not image.waits),
            Node.DISCARD: int(may_discard and image.discards),
        }

    def _opened(self, path: str, format: str, mode: str) -> Task[AnyImage]:
        """The image. A qemu-nbd that ends still, of a domain that has just gone, is waited for. Raises OSError."""
        if format == overlay.FORMAT:
            return self._overlays.image(path, mode)
        if format not in QEMU_FORMATS:
            return Image(path, mode, locked=not self._lock_due)
        if not self.kernel.privileged:
            raise OSError(errno.EOPNOTSUPP, f"{format} is served by Dom0 alone; leave backend= out", path)
        for _ in range(AGAIN):
            try:
                return (yield from self._served(QemuNbd(path, format, mode)))
            except BlockingIOError:
                yield from self.kernel.until(lambda: False, timeout=AGAIN_SECONDS)
        return (yield from self._served(QemuNbd(path, format, mode)))

    def _served(self, server: QemuNbd) -> Task[NbdImage]:
        """What a qemu-nbd serves, once it speaks. Raises OSError."""
        kernel, spoken = self.kernel, Signal()
        if kernel.repeats:  # no time of the machine's passes meanwhile
            select.select([server.connection], [], [], START_SECONDS)
        kernel.add_reader(server.connection.fileno(), spoken.send)
        try:
            yield from kernel.until(server.has_spoken, spoken, timeout=START_SECONDS)
        finally:
            kernel.remove_reader(server.connection.fileno())
        return server.image()

    def attach(self) -> Task[Nodes]:
        """Reaches the ring and binds the event channel that the front names. FrontError: they are not usable."""
        end = self.end
        ref = yield from end.read_peer_number(Node.RING_REF, -1, U32)
        remote_port = yield from end.read_peer_number(Node.EVENT_CHANNEL, -1, U32)
        abi = (yield from end.read_peer(Node.PROTOCOL)) or XEN_IO_PROTO_ABI_X86_64
        persistent = (yield from end.read_peer_number(Node.PERSISTENT, 0, 1)) == 1
        if self._lock_due:
            yield from self._take_lock()
        if self._image is None or ref < 0 or remote_port < 0 or abi not in RECORDS:
            raise FrontError(f"no ring: ring-ref {ref}, event-channel {remote_port}, protocol {abi}")
        return self._reach(self._image, ref, Port(remote_port), RECORDS[abi], persistent)

    def _take_lock(self) -> Task[None]:
        """The front end connects, so its domain runs here, and nowhere else: whoever had the image lets go of it, when all is
        written that was to be. FrontError: it does not.
        """
        for _ in range(round(LOCK_SECONDS / AGAIN_SECONDS)):
            try:
                if isinstance(self._image, Image):
                    self._image.lock()
                self._lock_due = False
                return
            except BlockingIOError:
                yield from self.kernel.until(lambda: False, timeout=AGAIN_SECONDS)
        raise FrontError("its image is in use by another device or machine")

    def _reach(
        self, image: AnyImage, ref: int, remote_port: Port, records: Records, persistent: bool
    ) -> Nodes:
        """The front's ring, pages and event channel are held from here on; XenError, and none is."""
        kernel, domid = self.kernel, self.end.peer_domid
        rings = reach(kernel, domid, [ref], [(records.request, records.response)])
        try:
            port = kernel.events.bind_interdomain(domid, remote_port)
        except XenError:
            rings.release()
            raise
        pages: Pages = CopiedPages(kernel, domid)
        aside = None
        if kernel.privileged:
            pages = GrantedPages(MappedGrants(kernel), kernel.cpu, domid, persistent)
            aside = None if kernel.repeats else Aside(kernel)
        server = RequestServer(
            rings.rings[0], image, pages, lambda: kernel.events.notify(port), records, aside
        )
        self._attachment = BlockAttachment(port, rings, pages, server, aside)
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
        if attachment.aside is not None:
            attachment.aside.close()
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
