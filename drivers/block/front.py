"""Block front: a guest's disk.

    disk = BlockFront(kernel, "device/vbd/51712")
    disk.connect()
    data = disk.read(sector=0, count=2048)
    disk.submit_read(2048, 256, lambda status, data: …)

Source: Xen public/io/blkif.h. Owns the device's state in xenstore, the ring page, the event channel and the
granted pages. The back end may complete requests in any order: who needs an order waits, or flushes.

When the back end closes or disappears every request on its way fails with BlockError, none is lost silently,
and `connect` may be called again: a write that was on its way may or may not have happened, and may be
repeated.
"""

from typing import Final, NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from drivers.block.page_pool import PagePool
from drivers.block.protocol import (
    DIRECT_SEGMENTS,
    MAX_SEGMENTS,
    SECTOR_SIZE,
    SECTORS_PER_PAGE,
    BlockError,
    Node,
)
from drivers.block.queue import Done, Request, RequestQueue
from drivers.ring import FrontRing, RingBroken
from drivers.xenbus import XenbusEnd, number
from hypervisor.public.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    VDISK_READONLY,
    blkif_request,
    blkif_response,
)
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_NATIVE
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

U64: Final = (1 << 64) - 1
ENDED: Final = (XenbusStateUnknown, XenbusStateClosing, XenbusStateClosed)


class Connection(NamedTuple):
    """What is held while connected."""

    page: Page
    ref: GrantRef
    port: Port
    pool: PagePool
    ring: FrontRing
    queue: RequestQueue
    most: int  # pages of data in one request
    can_flush: bool
    can_discard: bool


class Outcome:
    """Gathers what becomes of the requests that one synchronous call needs."""

    def __init__(self) -> None:
        self.left = 0
        self.status = int(BLKIF_RSP_OKAY)
        self.parts: list[bytes] = []

    def expect(self) -> Done:
        """The callback for one more request."""
        part = len(self.parts)
        self.parts.append(b"")
        self.left += 1

        def done(status: int, data: bytes) -> None:
            self.left -= 1
            self.status = self.status or status
            self.parts[part] = data

        return done


class BlockFront:
    """The virtual disk in directory `path` of this domain. `max_pages` bounds the memory it uses for data."""

    def __init__(self, kernel: Kernel, path: str, max_pages: int = 1024) -> None:
        self._kernel = kernel
        self._end = XenbusEnd.front(kernel.xenbus, path)
        self._max_pages = max_pages
        self._peer: XenbusState = XenbusStateUnknown
        self._refusal = ""
        self._connection: Connection | None = None
        self.sectors = 0
        """Size in sectors of 512 bytes, once connected."""
        self.read_only = False

    @property
    def connected(self) -> bool:
        """Whether requests are taken."""
        return self._connection is not None and self._peer is XenbusStateConnected

    def connect(self, timeout: float = 10.0) -> None:
        """Connect, or connect again; BlockError if the back end does not come up within `timeout` seconds."""
        if self._connection is not None:
            self.close(timeout)
        self._refusal = ""
        if self._end.state() is not XenbusStateInitialising:
            self._end.switch(XenbusStateInitialising)
        self._end.watch_peer(self._backend_changed)
        self._await((XenbusStateInitWait, XenbusStateInitialised), timeout)
        self._connection = connection = self._prepare()
        nodes: dict[str, str | int] = {
            Node.RING_REF: connection.ref,
            Node.EVENT_CHANNEL: connection.port,
            Node.PROTOCOL: XEN_IO_PROTO_ABI_NATIVE,
            Node.PERSISTENT: 1,
        }
        self._end.switch(XenbusStateInitialised, nodes)
        try:
            self._await((XenbusStateConnected,), timeout)
        except BlockError:
            self._lose()
            raise
        self.sectors = number(self._end.read_peer(Node.SECTORS), 0, U64)
        info = number(self._end.read_peer(Node.INFO), 0, U64)
        self.read_only = bool(info & VDISK_READONLY)
        self._end.switch(XenbusStateConnected)

    def read(self, sector: int, count: int) -> bytes:
        """`count` sectors from `sector` on. Raises BlockError."""
        outcome, requests = Outcome(), []
        for at, length in self._pieces(sector, count):
            requests.append(Request(BLKIF_OP_READ, at, length, b"", outcome.expect()))
        self._finish(outcome, requests)
        return outcome.parts[0] if len(outcome.parts) == 1 else b"".join(outcome.parts)

    def write(self, sector: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data`, a whole number of sectors, from `sector` on. Raises BlockError."""
        view = memoryview(data).cast("B")
        if len(view) % SECTOR_SIZE:
            raise ValueError(f"{len(view)} bytes are not a whole number of sectors")
        outcome, requests = Outcome(), []
        for at, length in self._pieces(sector, len(view) // SECTOR_SIZE):
            start = (at - sector) * SECTOR_SIZE
            piece = view[start : start + length * SECTOR_SIZE]
            requests.append(Request(BLKIF_OP_WRITE, at, length, piece, outcome.expect()))
        self._finish(outcome, requests)

    def flush(self) -> None:
        """Make all completed writes durable. Raises BlockError."""
        if not self._connected().can_flush:
            raise BlockError(BLKIF_RSP_EOPNOTSUPP, "the back end has no flush")
        outcome = Outcome()
        self._finish(outcome, [Request(BLKIF_OP_FLUSH_DISKCACHE, 0, 0, b"", outcome.expect())])

    def discard(self, sector: int, count: int) -> None:
        """Tell the back end that these sectors are not used any more. Raises BlockError."""
        if not self._connected().can_discard:
            raise BlockError(BLKIF_RSP_EOPNOTSUPP, "the back end has no discard")
        outcome = Outcome()
        self._finish(outcome, [Request(BLKIF_OP_DISCARD, sector, count, b"", outcome.expect())])

    @property
    def max_sectors(self) -> int:
        """The most sectors that one submitted request may have."""
        return self._connected().most * SECTORS_PER_PAGE

    def submit_read(self, sector: int, count: int, done: Done) -> None:
        """Start a read of at most `max_sectors`; `done(status, data)` is called from the loop."""
        self._check_size(count)
        self._connected().queue.submit(Request(BLKIF_OP_READ, sector, count, b"", done))

    def submit_write(self, sector: int, data: bytes | memoryview, done: Done) -> None:
        """Start a write of at most `max_sectors`; `data` is used until `done(status, b"")` is called."""
        self._check_size(len(data) // SECTOR_SIZE)
        request = Request(BLKIF_OP_WRITE, sector, len(data) // SECTOR_SIZE, data, done)
        self._connected().queue.submit(request)

    def close(self, timeout: float = 10.0) -> None:
        """Finish what is on its way, and disconnect."""
        if self._connection is not None:
            queue = self._connection.queue
            self._kernel.wait(lambda: queue.idle, timeout)
        self._end.switch(XenbusStateClosing)
        self._kernel.wait(lambda: self._peer in ENDED, timeout)
        self._end.switch(XenbusStateClosed)
        self._kernel.wait(lambda: self._peer in (XenbusStateClosed, XenbusStateUnknown), timeout)
        self._lose()
        self._end.unwatch()

    def _pieces(self, sector: int, count: int) -> list[tuple[int, int]]:
        """A range of sectors cut into what one request can carry: (first sector, number of sectors) each."""
        if count <= 0 or sector < 0:
            raise ValueError(f"{count} sectors from {sector} on are no range")
        most, end = self.max_sectors, sector + count
        return [(at, min(most, end - at)) for at in range(sector, end, most)]

    def _check_size(self, count: int) -> None:
        if not 0 < count <= self.max_sectors:
            raise ValueError(f"{count} sectors in one request; up to {self.max_sectors} are possible")

    def _finish(self, outcome: Outcome, requests: list[Request]) -> None:
        self._connected().queue.submit(*requests)
        self._kernel.wait(lambda: not outcome.left)
        if outcome.status != BLKIF_RSP_OKAY:
            raise BlockError(outcome.status, f"{self._end.path}: {self._refusal or 'the back end refused'}")

    def _connected(self) -> Connection:
        if self._connection is None or self._peer is not XenbusStateConnected:
            raise BlockError(BLKIF_RSP_ERROR, f"{self._end.path} is not connected")
        return self._connection

    def _await(self, states: tuple[XenbusState, ...], timeout: float) -> None:
        """Wait until the back end is in one of `states`; BlockError if it refuses, or does not get there."""
        self._kernel.wait(lambda: self._peer in states or bool(self._refusal), timeout)
        if self._peer not in states:
            why = self._refusal or f"the back end stays in state {self._peer.name}"
            raise BlockError(BLKIF_RSP_ERROR, f"{self._end.path}: {why}")

    def _prepare(self) -> Connection:
        """Allocate ring, channel and pages, according to what the back end offers."""
        end, kernel = self._end, self._kernel
        indirect = number(end.read_peer(Node.INDIRECT), 0, U64)
        most = max(DIRECT_SEGMENTS, min(indirect, MAX_SEGMENTS, self._max_pages - 1))
        page = kernel.memory.alloc_page()
        ref = kernel.grants.grant_access(end.peer_domid, page.mfn)
        port = kernel.events.alloc_unbound(end.peer_domid)
        pool = PagePool(kernel, end.peer_domid, self._max_pages)
        ring = FrontRing(kernel.cpu.view(page.va, PAGE_SIZE, True), blkif_request, blkif_response)
        handle = number(end.read(Node.VIRTUAL_DEVICE), 0, 0xFFFF)
        queue = RequestQueue(ring, pool, handle, lambda: kernel.events.notify(port))
        kernel.events.bind(port, self._interrupt)
        can_flush = number(end.read_peer(Node.FLUSH), 0, 1) == 1
        can_discard = number(end.read_peer(Node.DISCARD), 0, 1) == 1
        return Connection(page, ref, port, pool, ring, queue, most, can_flush, can_discard)

    def _interrupt(self) -> None:
        """The back end's event: answers have come."""
        if self._connection is None:
            return
        try:
            self._connection.queue.interrupt()
        except RingBroken as broken:
            self._refusal = str(broken)
            self._lose()
            self._end.switch(XenbusStateClosing)
        if self._peer is XenbusStateClosing:
            self._follow_closing()

    def _backend_changed(self) -> None:
        """The back end's state may have changed."""
        self._peer = self._end.peer_state()
        if self._peer is XenbusStateClosing:
            if self._connection is not None:
                self._refusal = self._end.read_peer("error") or "the back end is closing"
            self._follow_closing()
        elif self._peer in (XenbusStateUnknown, XenbusStateClosed):
            if self._end.read_peer("hotplug-status") == "error":
                self._refusal = self._end.read_peer("hotplug-error") or "the back end cannot open its image"
            self._lose()

    def _follow_closing(self) -> None:
        """The back end wants to close: so be it, when everything on its way is answered."""
        if self._connection is None or self._connection.queue.idle:
            self._end.switch(XenbusStateClosed)

    def _lose(self) -> None:
        """Let go of the connection; what is on its way fails."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        kernel = self._kernel
        kernel.events.close(connection.port)
        connection.pool.close()
        connection.ring.release()
        if kernel.grants.end_access(connection.ref):
            kernel.memory.free_page(connection.page)
        connection.queue.fail(BLKIF_RSP_ERROR)
