"""Xen's shared ring: requests one way and responses back, in one page that two domains write.

Source: Xen public/io/ring.h. The page as both sides see it, entries being large enough for either record:

      0  req_prod     written by the front: requests below it are complete
      4  req_event    written by the back: notify me when req_prod reaches this
      8  rsp_prod     written by the back: responses below it are complete
     12  rsp_event    written by the front: notify me when rsp_prod reaches this
     16  private padding
     64  entry 0, entry 1, … entry size-1   (size is a power of two; an index is taken modulo size)

    rsp_cons ≤ rsp_prod ≤ req_cons ≤ req_prod ≤ rsp_cons + size     (mod 2^32, if both sides are honest)

Invariant: every index this side acts on is its own private copy. Of the other side's words one is read, the
producer index, once per decision, and an impossible value ends the ring (`RingBroken`): nothing behind it is
looked at. What lies in an entry is copied out once before it is judged.

Memory order. Payload, then index, then notify. A store through a memoryview cast to "I" is one aligned move
of 32 bits, so no index is ever half written; x86 keeps stores in order and loads in order (Intel SDM vol. 3A
§8.2.2), and the interpreter does not reorder them. Only "store my index, then load your event" can pass each
other in the store buffer: there is a `full_barrier`.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hypervisor.machine.barrier import full_barrier
from hypervisor.public.io.ring import sring
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SIZE

INDEX_MASK: Final = 0xFFFF_FFFF
HEADER_SIZE: Final = sring.sizeof
REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = (
    sring.offsetof(name) // 4 for name in ("req_prod", "req_event", "rsp_prod", "rsp_event")
)


class RingBroken(Exception):
    """The other side wrote an index that no honest peer can reach; the ring must not be used any more."""


class SharedRing:
    """What both ends have in common: one produces a kind of record, the other consumes it.

    `page` is a writable view of one whole page; `request` and `response` are the records sharing its entries.
    """

    _prod_word: ClassVar[int]  # what this end produces
    _peer_event_word: ClassVar[int]  # where the peer says when it wants to hear of it
    _peer_prod_word: ClassVar[int]  # what this end consumes
    _event_word: ClassVar[int]  # where this end says when it wants to hear of it

    def __init__(self, page: memoryview, request: type[Struct], response: type[Struct]) -> None:
        if len(page) != PAGE_SIZE or page.readonly:
            raise ValueError(f"a ring needs one writable page, not {len(page)} bytes")
        align = max(request.alignof, response.alignof)
        self.entry_size = -(-max(request.sizeof, response.sizeof) // align) * align
        fitting = (PAGE_SIZE - HEADER_SIZE) // self.entry_size
        self.size = 1 << (fitting.bit_length() - 1)
        self._page = page
        self._mine = page  # where this end's records are written
        self._index = page[:HEADER_SIZE].cast("I")
        self._prod = 0  # records put so far
        self._pushed = 0  # what the peer may have seen of them
        self._cons = 0  # the peer's records taken so far

    def push(self) -> bool:
        """Show the peer all records put so far; True if it wants to be notified."""
        old, new = self._pushed, self._prod
        self._index[self._prod_word] = self._pushed = new
        full_barrier()
        return (new - self._index[self._peer_event_word]) & INDEX_MASK < (new - old) & INDEX_MASK

    def final_check(self, wanted: int = 1) -> bool:
        """Before sleeping: ask to be notified when `wanted` records wait; True if they do already
        (RingBroken).
        """
        if self._unconsumed() >= wanted:
            return True
        self._index[self._event_word] = (self._cons + wanted) & INDEX_MASK
        full_barrier()
        return self._unconsumed() >= wanted

    @property
    def waiting(self) -> int:
        """How many of the peer's records can be taken. Raises RingBroken."""
        return self._unconsumed()

    def take(self, limit: int = INDEX_MASK) -> bytes:
        """Copies of at most `limit` new entries of the peer's, to be read with `records` (RingBroken)."""
        count = min(limit, self._unconsumed())
        entries = self._copy_out(self._cons, count)
        self._cons = (self._cons + count) & INDEX_MASK
        return entries

    def records(self, entries: bytes, record: type[Struct]) -> NDArray[Any]:
        """Copied-out entries read as `record`: a structured array, one row per entry."""
        count = len(entries) // self.entry_size
        return np.ndarray((count,), record.dtype, entries, strides=(self.entry_size,))

    def release(self) -> None:
        """Let go of the page, so that it can be unmapped; the ring cannot be used afterwards."""
        self._index.release()
        self._page.release()

    def _unconsumed(self) -> int:
        """How many entries of the peer's are waiting; RingBroken if impossibly many."""
        count = (self._index[self._peer_prod_word] - self._cons) & INDEX_MASK
        if count > self._possible():
            raise RingBroken(f"the peer claims {count} entries, at most {self._possible()} are possible")
        return count

    def _possible(self) -> int:
        """How many entries of an honest peer can be waiting."""
        raise NotImplementedError

    def _copy_out(self, index: int, count: int) -> bytes:
        """`count` entries from `index` on, each byte read once."""
        first = index & (self.size - 1)
        until_wrap = min(count, self.size - first)
        page, at = self._page, HEADER_SIZE + first * self.entry_size
        entries = bytes(page[at : at + until_wrap * self.entry_size])
        if until_wrap == count:
            return entries
        return entries + bytes(page[HEADER_SIZE : HEADER_SIZE + (count - until_wrap) * self.entry_size])

    def _append(self, record: bytes) -> None:
        at = HEADER_SIZE + (self._prod & (self.size - 1)) * self.entry_size
        self._mine[at : at + len(record)] = record
        self._prod = (self._prod + 1) & INDEX_MASK


class FrontRing(SharedRing):
    """The end that sends requests. Creating it initialises the page (XEN_FRONT_RING_INIT)."""

    _prod_word, _peer_event_word, _peer_prod_word, _event_word = REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT

    def __init__(self, page: memoryview, request: type[Struct], response: type[Struct]) -> None:
        super().__init__(page, request, response)
        page[:HEADER_SIZE] = bytes(HEADER_SIZE)
        self._index[REQ_EVENT] = self._index[RSP_EVENT] = 1

    @property
    def free(self) -> int:
        """How many more requests fit (RING_FREE_REQUESTS)."""
        return self.size - ((self._prod - self._cons) & INDEX_MASK)

    def put(self, request: bytes) -> None:
        """Write one request, unseen until `push`; the caller has checked `free`."""
        if not self.free:
            raise ValueError("request put into a full ring")
        self._append(request)

    def _possible(self) -> int:
        """One response for each request that was shown and not answered (RING_RESPONSE_PROD_OVERFLOW)."""
        return (self._pushed - self._cons) & INDEX_MASK


class BackRing(SharedRing):
    """The end that answers. It attaches to a page that the front has initialised (BACK_RING_INIT)."""

    _prod_word, _peer_event_word, _peer_prod_word, _event_word = RSP_PROD, RSP_EVENT, REQ_PROD, REQ_EVENT

    @property
    def unanswered(self) -> int:
        """Requests taken and not answered yet."""
        return (self._cons - self._prod) & INDEX_MASK

    def put(self, responses: Iterable[bytes]) -> None:
        """Write responses in the place of requests already taken, unseen until `push`."""
        for response in responses:
            if not self.unanswered:
                raise ValueError("response without a request")
            self._append(response)

    def _possible(self) -> int:
        """The entries not occupied by unanswered requests (RING_REQUEST_PROD_OVERFLOW, prod running back)."""
        return self.size - self.unanswered
