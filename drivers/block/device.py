"""One virtual block device, back end: its state in xenstore, its image, its front's ring and pages.

Source: Xen public/io/blkif.h. Requests themselves are performed in `requests.py`.

    Initialising ─► InitWait ─► Connected ─► Closing ─► Closed ─► InitWait …
     open image     the front's    serve       let go     close
                    ring is up                 of front   image

Invariants: the image is open, and locked, from InitWait to Closed, so it cannot be attached a second time
before the last request of the first front is done and durable (INVARIANTS B, XSA-302's idea). When the front,
its domain's nodes or the device's own vanish, everything is let go. Nothing that a front does raises out of
here.
"""

import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple

from domains.kernel.grants import GrantMapping
from domains.kernel.kernel import Kernel
from drivers.block.granted_pages import GrantedPages
from drivers.block.image import Image
from drivers.block.protocol import MAX_SEGMENTS, SECTOR_SIZE, Node
from drivers.block.requests import Counters, RequestServer
from drivers.ring import BackRing, RingBroken
from drivers.xenbus import XenbusEnd, number
from hypervisor.public.errno import XenError
from hypervisor.public.io.blkif import VDISK_READONLY, blkif_request, blkif_response
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.io.xenbus import (
    XenbusState,
    XenbusStateClosed,
    XenbusStateClosing,
    XenbusStateConnected,
    XenbusStateInitialised,
    XenbusStateInitialising,
    XenbusStateInitWait,
    XenbusStateUnknown,
)
from hypervisor.public.types import PAGE_SIZE, GrantRef, Port

U32: Final = 0xFFFF_FFFF


class Connection(NamedTuple):
    """What is held while a front is connected."""

    port: Port
    ring_mapping: GrantMapping
    ring: BackRing
    pages: GrantedPages
    server: RequestServer


class BlockDevice:
    """One device. `ready` is called when its ring needs another turn, `dirty` when its state does."""

    def __init__(
        self, kernel: Kernel, path: str, ready: Callable[[], None], dirty: Callable[[], None]
    ) -> None:
        self._kernel = kernel
        self._ready = ready
        self._dirty = dirty
        self.end = XenbusEnd.back(kernel.xenbus, path)
        self.end.watch_peer(dirty)
        self._image: Image | None = None
        self._connection: Connection | None = None
        self._serving = False
        self._failed = False
        self._broken = ""

    @property
    def serving(self) -> bool:
        """Whether a turn is being executed right now, further up the stack."""
        return self._serving

    @property
    def counters(self) -> Counters | None:
        """What was done for the front that is connected."""
        return self._connection.server.counters if self._connection else None

    def serve(self) -> None:
        """One turn of the ring: for an event and, while there is more to do, in the round of all rings."""
        connection = self._connection
        if connection is None or self._serving or self._broken:
            return
        self._serving = True
        try:
            if connection.server.serve():
                self._ready()
        except RingBroken as broken:
            self._broken = str(broken)
            self._kernel.events.mask(connection.port)
            self._dirty()
        finally:
            self._serving = False

    def reconcile(self) -> bool:
        """Take the steps that both states call for; False when the device is gone and all is let go."""
        own = self.end.state()
        if own is XenbusStateUnknown:
            self.release()
            return False
        if self._broken:
            self._give_up(self._broken)
            return True
        STEPS.get(self.end.peer_state(), BlockDevice._wait)(self, own)
        return True

    def release(self) -> None:
        """Let go of front, image and watch."""
        self.end.unwatch()
        self._disconnect()
        self._close_image()

    def _wait(self, own: XenbusState) -> None:
        """A front that reconfigures is nothing to act on."""

    def _offer(self, own: XenbusState) -> None:
        """Front Initialising: open the image and say what this back end can do."""
        if own is XenbusStateClosing and self._connection is None:
            self._close(own)
        elif own in (XenbusStateInitialising, XenbusStateClosed) and not self._failed and self._online():
            self._open_image()

    def _connect(self, own: XenbusState) -> None:
        """Front Initialised, or Connected already: attach to its ring. After a failure it closes first."""
        if own is XenbusStateInitialising:
            self._offer(own)
            own = self.end.state()
        if self._connection is None and own is XenbusStateInitWait:
            try:
                self._attach()
            except (XenError, ValueError) as error:
                self._give_up(str(error))

    def _follow_closing(self, own: XenbusState) -> None:
        self._disconnect()
        if own not in (XenbusStateClosing, XenbusStateClosed):
            self.end.switch(XenbusStateClosing)

    def _close(self, own: XenbusState) -> None:
        """Front Closed or gone."""
        self._disconnect()
        self._close_image()
        if own is not XenbusStateClosed:
            self.end.switch(XenbusStateClosed)

    def _online(self) -> bool:
        """Whether the toolstack wants the device to come up again after it was closed."""
        return self.end.read(Node.ONLINE) != "0"

    def _open_image(self) -> None:
        params, mode = self.end.read(Node.PARAMS) or "", self.end.read(Node.MODE) or "r"
        path = params if params.startswith("/") else params.partition(":")[2]
        try:
            self._close_image()
            self._image = Image(path, mode)
        except OSError as error:
            self._failed = True
            why = f"{path}: {error.strerror}"
            self.end.switch(XenbusStateClosed, {"hotplug-status": "error", "hotplug-error": why})
            return
        discard = self._image.writable and self.end.read(Node.DISCARD_ENABLE) != "0"
        nodes: dict[str, str | int] = {
            Node.PERSISTENT: 1,
            Node.INDIRECT: MAX_SEGMENTS,
            Node.FLUSH: 1,
            Node.BARRIER: 1,
            Node.DISCARD: int(discard),
            "hotplug-status": "connected",
        }
        self.end.switch(XenbusStateInitWait, nodes)

    def _attach(self) -> None:
        """Map the ring and bind the channel the front names. Raises XenError or ValueError."""
        end, kernel, image = self.end, self._kernel, self._image
        ref = number(end.read_peer(Node.RING_REF), -1, U32)
        remote_port = number(end.read_peer(Node.EVENT_CHANNEL), -1, U32)
        abi = end.read_peer(Node.PROTOCOL) or XEN_IO_PROTO_ABI_X86_64
        if image is None or ref < 0 or remote_port < 0 or abi != XEN_IO_PROTO_ABI_X86_64:
            raise ValueError(
                f"no ring to attach to: ring-ref {ref}, event-channel {remote_port}, protocol {abi}"
            )
        persistent = number(end.read_peer(Node.PERSISTENT), 0, 1) == 1
        domid = end.peer_domid
        mapping = kernel.grants.map(domid, [GrantRef(ref)])
        try:
            port = kernel.events.bind_interdomain(domid, Port(remote_port))
        except XenError:
            kernel.grants.unmap(mapping)
            raise
        ring = BackRing(kernel.cpu.views(mapping.va, PAGE_SIZE, True)[0], blkif_request, blkif_response)
        pages = GrantedPages(kernel.grants, kernel.cpu, domid, persistent)
        server = RequestServer(ring, image, pages, lambda: kernel.events.notify(port))
        self._connection = Connection(port, mapping, ring, pages, server)
        info = int(VDISK_READONLY) * (not image.writable)
        nodes: dict[str, str | int] = {
            Node.SECTORS: image.sectors,
            Node.SECTOR_BYTES: SECTOR_SIZE,
            Node.INFO: info,
        }
        end.switch(XenbusStateConnected, nodes)
        kernel.events.bind(port, self.serve)
        self._ready()  # requests may have come before the channel was bound

    def _disconnect(self) -> None:
        """Let go of everything of the front's; what it wrote becomes durable."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._kernel.events.close(connection.port)
        connection.pages.close()
        connection.ring.release()
        self._kernel.grants.unmap(connection.ring_mapping)
        if self._image is not None:
            with contextlib.suppress(OSError):  # there is nobody left to tell
                self._image.flush()

    def _close_image(self) -> None:
        image, self._image = self._image, None
        if image is not None:
            image.close()

    def _give_up(self, reason: str) -> None:
        """End the connection for the front's fault; it may come back by way of Closed."""
        self._disconnect()
        self._broken = ""
        self.end.switch(XenbusStateClosing, {"error": reason})


STEPS: Final[dict[XenbusState, Callable[[BlockDevice, XenbusState], None]]] = {
    XenbusStateUnknown: BlockDevice._close,
    XenbusStateInitialising: BlockDevice._offer,
    XenbusStateInitialised: BlockDevice._connect,
    XenbusStateConnected: BlockDevice._connect,
    XenbusStateClosing: BlockDevice._follow_closing,
    XenbusStateClosed: BlockDevice._close,
}
"""What the front's state calls for."""
