"""Performs the requests of one ring on one image: the heart of block back, without xenstore or waiting.

What a front says is checked here and nowhere else: operation, number and shape of segments, bounds of the
disk, write permission. A bad request gets BLKIF_RSP_ERROR, an unknown operation BLKIF_RSP_EOPNOTSUPP, and
neither touches the image; a bad ring index raises RingBroken. Data moves between the file and the front's
frames in one system call per request.

A flush, and a read of what the host does not have in memory, wait for the host's disk: they are put aside (aside.py), and
answered when they are done. The others overtake them, which blkif permits: a flush is about the writes that were answered
before it. On an image that another program serves (nbd.py) writes and discards are put aside too, in one row with flushes. A
barrier overtakes nothing that writes, for writes are performed in their turn, and so is it.

A request's list of segments, as bytes, names the same views again as long as the grants are kept; `_plans`
remembers them, so that a megabyte of 256 pages costs no work per page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from drivers.block.aside import Aside, Work
from drivers.block.image import Image
from drivers.block.nbd import NbdImage
from drivers.block.overlay import OverlayImage
from drivers.block.protocol import (
    DIRECT_SEGMENTS,
    MAX_SEGMENTS,
    RECORDS_64,
    SECTOR_SIZE,
    SECTORS_PER_PAGE,
    SEGMENTS_PER_PAGE,
    Records,
)
from drivers.ring import BackRing
from hypervisor.public.errno import XenError
from hypervisor.public.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
    blkif_request_segment,
)

AnyImage = Image | NbdImage | OverlayImage
"""What may be behind a device."""
TURN_REQUESTS: Final = 32
TURN_BYTES: Final = 4 << 20
"""Bounds of one turn: after either, other fronts and services of this domain come first."""
ANSWER_BYTES: Final = 1 << 20
"""Answers are shown at the latest when this much was moved, so that the front works while the back does."""
GROUP: Final = 8
"""Requests taken out of the ring at once."""
PLANS: Final = 256


class BadRequest(Exception):
    """A request that is answered with `status` and has done nothing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status


class Plan(NamedTuple):
    """Where the data of one list of segments lies: views in order, their size in sectors, their bounds in their pages, and
    whether the views outlive the request.
    """

    views: list[memoryview]
    sectors: int
    bounds: list[tuple[int, int]]
    kept: bool


class Pages(Protocol):
    """The front's pages: `granted_pages.py`, or in a driver domain `copied_pages.py`. All raise XenError."""

    def views(self, refs: Sequence[int], writable: bool) -> list[memoryview]:
        """The pages of these grants, one view each, until `let_go`. GrantError: one cannot be had."""

    def filled(self, bounds: Sequence[tuple[int, int]]) -> None:
        """Says which bytes (first, end) of each page of the last `views` were written, so that they reach the front."""

    def all_kept(self, refs: Sequence[int]) -> bool:
        """Whether all these grants are held from an earlier request."""

    def let_go(self) -> None:
        """Ends the use of the last `views`."""

    def close(self) -> None:
        """Gives back every page, for good."""


@dataclass(slots=True)
class Counters:
    """What was done for one front; the names are those of Linux's blkback statistics."""

    rd_req: int = 0
    wr_req: int = 0
    f_req: int = 0
    ds_req: int = 0
    errors: int = 0
    rd_sect: int = 0
    wr_sect: int = 0


class RequestServer:
    """One ring, one image, one front's pages. `notify` sends the event of new answers. Without `aside` the disk is waited for."""

    def __init__(
        self,
        ring: BackRing,
        image: AnyImage,
        pages: Pages,
        notify: Callable[[], None],
        records: Records = RECORDS_64,
        aside: Aside | None = None,
    ) -> None:
        self._ring = ring
        self._records = records
        self._image = image
        self._pages = pages
        self._notify = notify
        self._aside = aside
        self._later: Work | None = None
        """What is left to do of the request that is being performed, and is put aside."""
        self._plans: dict[bytes, Plan] = {}
        self._aside_now = 0
        """Requests that were put aside and are not done."""
        self._moved = 0  # sectors, in this turn
        self._answer = np.zeros(1, records.response.dtype)
        self.counters = Counters()

    def serve(self, crowd: int = 1) -> bool:
        """One turn, bounded and shared with `crowd`; whether there is more to do. Raises RingBroken."""
        self._perform(crowd)
        self._show()
        return self._ring.final_check()

    @property
    def is_idle(self) -> bool:
        """Whether every request that is in the ring has been answered."""
        return self._aside_now == 0 and not self._ring.final_check()

    def _perform(self, crowd: int) -> None:
        """Perform requests up to the bounds of a turn."""
        self._moved = shown = 0
        left = max(TURN_REQUESTS // crowd, 1)
        while left > 0 and self._moved * SECTOR_SIZE < TURN_BYTES // crowd:
            entries = self._ring.take(min(left, GROUP))
            if not entries:
                break
            requests = self._ring.records(entries, self._records.request)
            left -= len(requests)
            for at, request in enumerate(requests):
                self._execute(request, entries[at * self._ring.entry_size :])
                if (self._moved - shown) * SECTOR_SIZE >= ANSWER_BYTES:
                    shown = self._moved
                    self._show()

    def _show(self) -> None:
        if self._ring.push():
            self._notify()

    def _execute(self, request: np.void, entry: bytes) -> None:
        """Perform one request and put its answer; `entry` begins with the request's bytes."""
        operation = int(request["operation"])
        try:
            perform = OPERATIONS.get(operation)
            if perform is None:
                raise BadRequest(BLKIF_RSP_EOPNOTSUPP, f"unknown operation {operation}")
            operation = perform(self, request, entry)
            status = int(BLKIF_RSP_OKAY)
            later, self._later = self._later, None
            if later is not None and self._aside is not None:
                self._aside_now += 1
                self._aside.submit(later, partial(self._finish, int(request["id"]), operation))
                return
        except BadRequest as bad:
            status = bad.status
        except (OSError, XenError):  # the host refused the file, or Xen a grant
            status = int(BLKIF_RSP_ERROR)
        finally:
            self._pages.let_go()
        self._put_answer(int(request["id"]), operation, status)

    def _finish(self, id: int, operation: int, error: OSError | None) -> None:
        """A request that was put aside is done."""
        self._aside_now -= 1
        self._put_answer(id, operation, int(BLKIF_RSP_OKAY if error is None else BLKIF_RSP_ERROR))
        self._show()

    def _put_answer(self, id: int, operation: int, status: int) -> None:
        self.counters.errors += status != BLKIF_RSP_OKAY
        self._answer[0] = (id, operation, status)
        self._ring.put([self._answer.tobytes()])

    def _read(self, request: np.void, entry: bytes) -> int:
        self._transfer(int(request["sector_number"]), direct_segments(request), write=False)
        return int(BLKIF_OP_READ)

    def _write(self, request: np.void, entry: bytes) -> int:
        self._transfer(int(request["sector_number"]), direct_segments(request), write=True)
        return int(BLKIF_OP_WRITE)

    def _indirect(self, request: np.void, entry: bytes) -> int:
        indirect: Any = self._records.indirect.unpack(entry)
        if indirect.indirect_op not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            raise BadRequest(BLKIF_RSP_ERROR, f"indirect operation {indirect.indirect_op}")
        count = indirect.nr_segments
        if not 0 < count <= MAX_SEGMENTS:
            raise BadRequest(BLKIF_RSP_ERROR, f"{count} indirect segments")
        lists = indirect.indirect_grefs[: -(-count // SEGMENTS_PER_PAGE)]
        size = count * blkif_request_segment.sizeof
        segments = b"".join(bytes(view) for view in self._pages.views(lists, writable=False))[:size]
        self._transfer(indirect.sector_number, segments, write=indirect.indirect_op == BLKIF_OP_WRITE)
        return int(indirect.indirect_op)

    def _barrier(self, request: np.void, entry: bytes) -> int:
        """All writes before are durable before it, and it is before all after. It is not offered where writes are put aside."""
        if self._image.waits:
            raise BadRequest(BLKIF_RSP_EOPNOTSUPP, "no barriers on this image")
        self.counters.f_req += 1
        self._image.flush()
        if request["nr_segments"]:
            self._write(request, entry)
            self._image.flush()
        return int(BLKIF_OP_WRITE_BARRIER)

    def _flush(self, request: np.void, entry: bytes) -> int:
        self.counters.f_req += 1
        if self._aside is None:
            self._image.flush()
        else:
            self._later = self._image.flush
        return int(BLKIF_OP_FLUSH_DISKCACHE)

    def _discard(self, request: np.void, entry: bytes) -> int:
        """BLKIF_DISCARD_SECURE is ignored, for discard-secure is not offered."""
        discard: Any = self._records.discard.unpack(entry)
        self._check(discard.sector_number, discard.nr_sectors, write=True)
        self.counters.ds_req += 1
        if discard.nr_sectors:
            self._do(partial(self._image.discard, discard.sector_number, discard.nr_sectors))
        return int(BLKIF_OP_DISCARD)

    def _transfer(self, sector: int, segments: bytes, write: bool) -> None:
        """Move data between the image and the pages that `segments` (blkif_request_segment[]) names."""
        plan = self._plans.get(segments) or self._plan(segments, guest_writes=not write)
        self._check(sector, plan.sectors, write)
        self._moved += plan.sectors
        counters = self.counters
        if write:
            counters.wr_req += 1
            self._do(partial(self._image.write, sector, plan.views, plan.sectors * SECTOR_SIZE), plan.kept)
            counters.wr_sect += plan.sectors
        else:
            counters.rd_req += 1
            self._fill(sector, plan)
            counters.rd_sect += plan.sectors

    def _do(self, work: Work, there: bool = True) -> None:
        """Perform `work`; aside, if the image makes wait and the pages are there until then."""
        if self._image.waits and self._aside is not None and there:
            self._later = work
        else:
            work()

    def _fill(self, sector: int, plan: Plan) -> None:
        """Read into the pages; aside, if that would wait for the disk and they are there until then."""
        size = plan.sectors * SECTOR_SIZE
        if self._aside is None or not plan.kept:
            self._image.read(sector, plan.views, size)
        elif not self._image.read_at_once(sector, plan.views, size):
            self._later = partial(self._image.read, sector, plan.views, size)
        self._pages.filled(plan.bounds)

    def _check(self, sector: int, count: int, write: bool) -> None:
        if write and not self._image.writable:
            raise BadRequest(BLKIF_RSP_ERROR, "the device is read-only")
        if sector + count > self._image.sectors:
            raise BadRequest(BLKIF_RSP_ERROR, f"sectors {sector}+{count} lie beyond the device")

    def _plan(self, segments: bytes, guest_writes: bool) -> Plan:
        """Check a list of segments and get its pages, for writing if the front's memory is to be filled."""
        array = blkif_request_segment.array(segments, len(segments) // blkif_request_segment.sizeof)
        first, last = array["first_sect"].astype(np.int64), array["last_sect"].astype(np.int64)
        if not len(array) or (first > last).any() or (last >= SECTORS_PER_PAGE).any():
            raise BadRequest(BLKIF_RSP_ERROR, "segments that no page has")
        refs = array["gref"].tolist()
        views = self._pages.views(refs, guest_writes)
        sectors = int((last - first + 1).sum())
        bounds = list(zip((first * SECTOR_SIZE).tolist(), ((last + 1) * SECTOR_SIZE).tolist(), strict=True))
        if sectors != len(views) * SECTORS_PER_PAGE:
            views = [view[start:end] for view, (start, end) in zip(views, bounds, strict=True)]
        plan = Plan(views, sectors, bounds, self._pages.all_kept(refs))
        if plan.kept:
            if len(self._plans) >= PLANS:
                self._plans.clear()
            self._plans[segments] = plan
        return plan


def direct_segments(request: np.void) -> bytes:
    """The segment list of a request that holds it itself."""
    count = int(request["nr_segments"])
    if count > DIRECT_SEGMENTS:
        raise BadRequest(BLKIF_RSP_ERROR, f"{count} segments in one request")
    return bytes(request["seg"][:count].tobytes())


OPERATIONS: Final[dict[int, Callable[[RequestServer, np.void, bytes], int]]] = {
    BLKIF_OP_READ: RequestServer._read,
    BLKIF_OP_WRITE: RequestServer._write,
    BLKIF_OP_WRITE_BARRIER: RequestServer._barrier,
    BLKIF_OP_FLUSH_DISKCACHE: RequestServer._flush,
    BLKIF_OP_DISCARD: RequestServer._discard,
    BLKIF_OP_INDIRECT: RequestServer._indirect,
}
