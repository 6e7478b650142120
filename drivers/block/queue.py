"""The front's requests on their way: from the caller into the ring, and back as status and data.

State code without xenstore and without waiting; `front.py` connects it. As many requests fly as the ring has
slots and the pages suffice for; the others wait here in order of submission. Data is copied once, between the
caller's bytes and granted pages. The back end is not trusted: an answer to nothing, or more answers than
requests, is RingBroken.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from drivers.block.page_pool import PagePool
from drivers.block.protocol import DIRECT_SEGMENTS, SECTOR_SIZE, SECTORS_PER_PAGE
from drivers.ring import FrontRing, RingBroken
from hypervisor.public.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_OKAY,
    blkif_request,
    blkif_request_discard,
    blkif_request_indirect,
    blkif_response,
)

Done = Callable[[int, bytes], None]
"""Called once with the blkif status and, for a read that succeeded, its data."""


@dataclass(slots=True, eq=False)
class Request:
    """One request: `count` sectors from `sector` on, `data` for a write. `pages` are lent while it flies."""

    operation: int
    sector: int
    count: int
    data: bytes | memoryview
    done: Done
    pages: list[int] = field(default_factory=list)


class RequestQueue:
    """Requests of one connection. `notify` sends the back end its event; `handle` is the device's number."""

    def __init__(self, ring: FrontRing, pool: PagePool, handle: int, notify: Callable[[], None]) -> None:
        self._ring = ring
        self._pool = pool
        self._handle = handle
        self._notify = notify
        self._waiting: deque[Request] = deque()
        self._flying: dict[int, Request] = {}
        self._next_id = 0
        self._scratch = np.zeros(1, blkif_request.dtype)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing flies."""
        return not self._waiting and not self._flying

    def submit(self, *requests: Request) -> None:
        """Send them as soon as there is room."""
        self._waiting.extend(requests)
        self._send()

    def interrupt(self) -> None:
        """Handle the back end's event: complete what is answered, send what waits. RingBroken."""
        while True:
            for id, _, status in self._ring.records(self._ring.take(), blkif_response).tolist():
                self._complete(id, status)
            self._send()
            if not self._ring.final_check():
                return

    def fail(self, status: int) -> None:
        """The connection is lost: every request ends with `status`, what flies before what waits."""
        requests = [*self._flying.values(), *self._waiting]
        self._flying.clear()
        self._waiting.clear()
        for request in requests:
            request.done(status, b"")

    def _complete(self, id: int, status: int) -> None:
        request = self._flying.pop(id, None)
        if request is None:
            raise RingBroken(f"an answer to request {id}, which is not on its way")
        data = b""
        if request.operation == BLKIF_OP_READ and status == BLKIF_RSP_OKAY:
            data = self._gather(request)
        self._pool.give(request.pages)
        request.done(status, data)

    def _send(self) -> None:
        """Put as many waiting requests into the ring as fit, and show them all at once."""
        sent = False
        while self._waiting and self._ring.free:
            request = self._waiting[0]
            pages = self._pool.take(pages_for(request))
            if pages is None:
                break
            self._waiting.popleft()
            request.pages = pages
            self._ring.put(self._encode(request))
            sent = True
        if sent and self._ring.push():
            self._notify()

    def _encode(self, request: Request) -> bytes:
        """The request's bytes in the ring; a write's data and a long list go into its pages."""
        id = self._next_id
        self._next_id = (id + 1) & 0xFFFF_FFFF_FFFF_FFFF
        self._flying[id] = request
        if request.operation == BLKIF_OP_DISCARD:
            return blkif_request_discard(
                operation=BLKIF_OP_DISCARD,
                handle=self._handle,
                id=id,
                sector_number=request.sector,
                nr_sectors=request.count,
            ).pack()
        if request.operation == BLKIF_OP_WRITE:
            self._scatter(request)
        if len(request.pages) > DIRECT_SEGMENTS:
            return self._encode_indirect(request, id)
        slot = self._scratch
        slot["operation"], slot["nr_segments"] = request.operation, len(request.pages)
        slot["handle"], slot["id"], slot["sector_number"] = self._handle, id, request.sector
        if request.pages:
            slot["seg"][0, : len(request.pages)] = self._pool.segments(request.pages, request.count)
        return bytes(slot.tobytes())

    def _encode_indirect(self, request: Request, id: int) -> bytes:
        """The last page lent is the one that holds the list."""
        *pages, list_page = request.pages
        segments = self._pool.segments(pages, request.count).tobytes()
        self._pool.views[list_page][: len(segments)] = segments
        return blkif_request_indirect(
            operation=BLKIF_OP_INDIRECT,
            indirect_op=request.operation,
            nr_segments=len(pages),
            id=id,
            sector_number=request.sector,
            handle=self._handle,
            indirect_grefs=(self._pool.ref(list_page), 0, 0, 0, 0, 0, 0, 0),
        ).pack()

    def _data_views(self, request: Request) -> list[memoryview]:
        """The pages that hold the request's data, the last one cut to its length."""
        views = self._pool.views
        found = [views[page] for page in request.pages[: -(-request.count // SECTORS_PER_PAGE)]]
        if rest := request.count % SECTORS_PER_PAGE:
            found[-1] = found[-1][: rest * SECTOR_SIZE]
        return found

    def _gather(self, request: Request) -> bytes:
        return b"".join(self._data_views(request))

    def _scatter(self, request: Request) -> None:
        data, at = memoryview(request.data), 0
        for view in self._data_views(request):
            view[:] = data[at : at + len(view)]
            at += len(view)


def pages_for(request: Request) -> int:
    """How many pages a request needs, the page of an indirect list included."""
    if request.operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
        return 0
    pages = -(-request.count // SECTORS_PER_PAGE)
    return pages + (pages > DIRECT_SEGMENTS)
