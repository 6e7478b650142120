"""Block front: a guest's disk.

    disk = BlockFront(kernel, "device/vbd/51712")
    disk.connect()
    data = disk.read(sector=0, count=2048)
    disk.submit_read(2048, 256, lambda status, data: …)

Source: Xen public/io/blkif.h. Owns the device's state in xenstore, the ring page, the event channel and the
granted pages. The back end may complete requests in any order: a caller that needs an order waits, or flushes.

When the back end closes or disappears every request on its way fails with BlockError, none is lost silently,
and `connect` may be called again: a write that was on its way may or may not have happened, and may be
repeated.
"""

from typing import NamedTuple

from domains.kernel.kernel import Kernel
from domains.kernel.memory import Page
from domains.kernel.tasks import Task
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
from drivers.front_device import FrontDevice, Nodes
from drivers.ring import FrontRing
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
from hypervisor.public.types import PAGE_SIZE, U64, GrantRef, Port


class BlockConnection(NamedTuple):
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


class BlockFront(FrontDevice):
    """The virtual disk in directory `path` of this domain. `max_pages` bounds the memory it uses for data."""

    def __init__(self, kernel: Kernel, path: str, max_pages: int = 1024) -> None:
        if max_pages <= DIRECT_SEGMENTS:
            raise ValueError(f"{max_pages} pages do not suffice for one request")
        super().__init__(kernel, path)
        self._max_pages = max_pages
        self._connection: BlockConnection | None = None
        self.sectors = 0
        """Size in sectors of 512 bytes, once connected."""
        self.read_only = False

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
        self.kernel.wait(lambda: not outcome.left)
        if outcome.status != BLKIF_RSP_OKAY:
            raise BlockError(outcome.status, f"{self.end.path}: {self.refusal or 'the back end refused'}")

    def _connected(self) -> BlockConnection:
        if self._connection is None or not self.connected:
            raise self.failure("not connected")
        return self._connection

    # --- what a FrontDevice does -----------------------------------------------------------------

    def failure(self, reason: str) -> BlockError:
        """The error that a caller gets when the device cannot be used."""
        return BlockError(BLKIF_RSP_ERROR, f"{self.end.path}: {reason}")

    def prepare(self) -> Task[Nodes]:
        """Makes the ring, the event channel and the pages; what the back end is to know of them."""
        end = self.end
        indirect = yield from end.read_peer_number(Node.INDIRECT, 0, U64)
        handle = yield from end.read_number(Node.VIRTUAL_DEVICE, 0, 0xFFFF)
        can_flush = (yield from end.read_peer_number(Node.FLUSH, 0, 1)) == 1
        can_discard = (yield from end.read_peer_number(Node.DISCARD, 0, 1)) == 1
        most = max(DIRECT_SEGMENTS, min(indirect, MAX_SEGMENTS, self._max_pages - 1))
        return self._allocate(handle, most, can_flush, can_discard)

    def _allocate(self, handle: int, most: int, can_flush: bool, can_discard: bool) -> Nodes:
        kernel, domid = self.kernel, self.end.peer_domid
        page = kernel.memory.alloc_page()
        ref = kernel.grants.grant_access(domid, page.mfn)
        port = kernel.events.alloc_unbound(domid)
        pool = PagePool(kernel, domid, self._max_pages)
        ring = FrontRing(kernel.cpu.view(page.va, PAGE_SIZE, True), blkif_request, blkif_response)
        queue = RequestQueue(ring, pool, handle, lambda: kernel.events.notify(port))
        self._connection = BlockConnection(page, ref, port, pool, ring, queue, most, can_flush, can_discard)
        kernel.events.bind(port, self.on_event)
        return {
            Node.RING_REF: ref,
            Node.EVENT_CHANNEL: port,
            Node.PROTOCOL: XEN_IO_PROTO_ABI_NATIVE,
            Node.PERSISTENT: 1,
        }

    def established(self) -> Task[None]:
        """Reads the size of the disk, and whether it is read-only."""
        self.sectors = yield from self.end.read_peer_number(Node.SECTORS, 0, U64)
        info = yield from self.end.read_peer_number(Node.INFO, 0, U64)
        self.read_only = bool(info & VDISK_READONLY)

    def interrupt(self) -> None:
        """Takes the responses that have come, and sends requests that wait."""
        if self._connection is not None:
            self._connection.queue.interrupt()

    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._connection is None or self._connection.queue.idle

    def drop(self) -> None:
        """Gives back everything of the connection; requests under way fail."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        kernel = self.kernel
        kernel.events.close(connection.port)
        connection.pool.close()
        connection.ring.release()
        if kernel.grants.end_access(connection.ref):
            kernel.memory.free_page(connection.page)
        connection.queue.fail(BLKIF_RSP_ERROR)
