"""A front end's ring that this domain cannot map: its back end reaches it by grant copy.

Source: Xen public/io/ring.h, GNTTABOP_copy in public/grant_table.h. Why: docs/driver-domains.md. Owns two pages:

    seen     req_prod, rsp_event and the entries as they were when last copied from the front's page
    mine     rsp_prod, req_event and the responses, as they are to be in the front's page

    push          mine ─► responses, then rsp_prod;      then rsp_event ─► seen, and what final_check will ask for
    final_check   mine ─► req_event;                     then req_prod, then the entries ─► seen

A live ring can be copied because each of its words has one writer, and what this end writes (responses where it has taken the
requests, two words of the header) is written by nobody else. Invariants: copies are performed in the order given, so that an
entry is seen no earlier than the index that covers it, and an answer is there before its index; the core's exchange of the
grant's flags between two of them is the full barrier that `ring.py` asks for. What was taken is read from `seen` alone: the
front cannot alter it any more. No pin outlives a copy, so nothing of the front's is held when this domain dies.

"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from domains.kernel.grants import CopyRows, GrantError
from domains.kernel.kernel import Kernel
from drivers.ring import (
    HEADER_SIZE,
    INDEX_MASK,
    REQ_EVENT,
    REQ_PROD,
    RSP_EVENT,
    RSP_PROD,
    BackRing,
    RingBroken,
)
from hypervisor.public.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_okay,
    GrantStatus,
    gnttab_copy,
)
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef, Mfn
from hypervisor.public.xen import DOMID_SELF

WORD: Final = 4


class Piece(NamedTuple):
    """Bytes of the front's page to copy, from it or (`out`) to it."""

    offset: int
    size: int
    out: bool = False


class CopiedBackRing(BackRing):
    """The ring in the page that `domid` grants as `ref`."""

    def __init__(
        self, kernel: Kernel, domid: DomId, ref: GrantRef, request: type[Struct], response: type[Struct]
    ) -> None:
        """Raises GrantError if the page cannot be used, and XenError where there is no memory."""
        self._kernel = kernel
        self._pages = [kernel.memory.alloc_page() for _ in range(2)]
        seen, mine = (kernel.cpu.view(page.va, PAGE_SIZE, True) for page in self._pages)
        seen[:] = bytes(PAGE_SIZE)  # a page comes as its last owner in this domain left it
        super().__init__(seen, request, response)
        self._mine = mine
        self._my_index = mine[:HEADER_SIZE].cast("I")
        self._asked = False  # final_check was called since the last push
        self._answered = False  # and what it would do now, push has done
        self._rows = templates(domid, ref, *(page.mfn for page in self._pages))
        status = kernel.grants.copy_in_order(self._to_copy(self._new_requests())).status
        if status != GNTST_okay:
            self.release()
            raise GrantError(status, f"copy of grant {ref} of d{domid}")

    def push(self) -> bool:
        """Show the front all answers put so far; whether it wants to hear of them. Raises RingBroken.

        Whoever asked after the last push whether more had come will ask again: the answer is fetched along with it.
        """
        old, new = self._pushed, self._prod
        if old == new:
            return False
        self._my_index[RSP_PROD] = self._pushed = new
        ask = self._asked and not self._unconsumed()
        self._asked, self._answered = False, ask
        last = self._wake_at(1) if ask else ()
        self._copy(*self._responses(old, new), out(RSP_PROD), Piece(RSP_EVENT * WORD, WORD), *last)
        return (new - self._index[RSP_EVENT]) & INDEX_MASK < (new - old) & INDEX_MASK

    def final_check(self, wanted: int = 1) -> bool:
        """As of any ring."""
        answered, self._answered, self._asked = self._answered, False, wanted == 1
        if self._unconsumed() < wanted and not (answered and wanted == 1):
            self._copy(*self._wake_at(wanted))
        return self._unconsumed() >= wanted

    def _wake_at(self, wanted: int) -> tuple[Piece, ...]:
        """Have the front notify when so many requests wait; then look for them once more."""
        self._my_index[REQ_EVENT] = (self._cons + wanted) & INDEX_MASK
        return out(REQ_EVENT), *self._new_requests()

    @property
    def waiting(self) -> int:
        """How many requests are known to wait; looks for new ones if none are. Raises RingBroken."""
        self._answered = False
        if not self._unconsumed():
            self._copy(*self._new_requests())
        return self._unconsumed()

    def take(self, limit: int = INDEX_MASK) -> bytes:
        """Requests that have come, at most `limit`, as bytes."""
        return super().take(min(limit, self.waiting) if limit else 0)

    def release(self) -> None:
        """Gives back this end's own pages."""
        super().release()
        self._my_index.release()
        self._mine.release()
        for page in self._pages:
            self._kernel.memory.free_page(page)

    def _new_requests(self) -> tuple[Piece, Piece]:
        return Piece(REQ_PROD * WORD, WORD), Piece(HEADER_SIZE, self.size * self.entry_size)

    def _responses(self, old: int, new: int) -> Iterable[Piece]:
        """Where the responses from `old` up to `new` lie: up to two pieces."""
        first, count = old & (self.size - 1), (new - old) & INDEX_MASK
        until_wrap = min(count, self.size - first)
        yield Piece(HEADER_SIZE + first * self.entry_size, until_wrap * self.entry_size, out=True)
        if count > until_wrap:
            yield Piece(HEADER_SIZE, (count - until_wrap) * self.entry_size, out=True)

    def _copy(self, *pieces: Piece) -> None:
        """Copy in this order. RingBroken: the front took its page back."""
        status = self._kernel.grants.copy_in_order(self._to_copy(pieces)).status
        if status != GNTST_okay:
            raise RingBroken(f"its page cannot be copied: {GrantStatus(status).name}")

    def _to_copy(self, pieces: Iterable[Piece]) -> CopyRows:
        offsets, sizes, ways = zip(*pieces, strict=True)
        rows = self._rows[list(map(int, ways))]
        rows["source"]["offset"] = rows["dest"]["offset"] = offsets
        rows["len"] = sizes
        return rows


def templates(domid: DomId, ref: GrantRef, seen: Mfn, mine: Mfn) -> CopyRows:
    """A copy from the front's page, and one to it; offset and length are left open."""
    rows = np.zeros(2, gnttab_copy.dtype)
    for row, theirs, own, flag, mfn in (
        (rows[0], "source", "dest", GNTCOPY_source_gref, seen),
        (rows[1], "dest", "source", GNTCOPY_dest_gref, mine),
    ):
        row[theirs]["u"]["ref"], row[theirs]["domid"] = ref, domid
        row[own]["u"]["gmfn"], row[own]["domid"] = mfn, DOMID_SELF
        row["flags"] = flag
    return rows


def out(word: int) -> Piece:
    """One word of the header, to the front's page."""
    return Piece(word * WORD, WORD, out=True)
