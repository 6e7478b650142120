"""The back end's side of a PV console's page: takes what the guest said, puts in what is typed.

Source: Xen public/io/console.h. The page as both sides see it:

       0  in[1024]       written by this side
    1024  out[2048]      written by the guest
    3072  in_cons        by the guest       3080  out_cons   by this side
    3076  in_prod        by this side       3084  out_prod   by the guest

An index counts bytes since the start, modulo 2^32; it is taken modulo the ring's size. Invariant: this
side's own indices are private copies, of the guest's each is read once per decision, and one that is
impossible breaks the ring: nothing more is read from it or written to it (S4, XSA-325 say the
same of the store's ring).
"""

from typing import Final

from domains.kernel.console import IN_SIZE, OUT_SIZE

OUT_AT: Final = IN_SIZE
INDICES_AT: Final = IN_SIZE + OUT_SIZE
IN_CONS, IN_PROD, OUT_CONS, OUT_PROD = range(4)
INDEX_MASK: Final = 0xFFFF_FFFF


class RingBroken(Exception):
    """The guest wrote an index that no honest one can reach."""


class ConsoleRing:
    """`page` is a writable view of the guest's console page, whose indices are taken over as they stand."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._index = page[INDICES_AT : INDICES_AT + 16].cast("I")
        self._out_cons = self._index[OUT_CONS]
        self._in_prod = self._index[IN_PROD]

    def take(self) -> bytes:
        """What the guest has written since; RingBroken. The guest has room again: notify it if not empty."""
        count = (self._index[OUT_PROD] - self._out_cons) & INDEX_MASK
        if count > OUT_SIZE:
            raise RingBroken(f"the guest claims {count} bytes of output in a ring of {OUT_SIZE}")
        first = self._out_cons % OUT_SIZE
        until_wrap = min(count, OUT_SIZE - first)
        data = bytes(self._page[OUT_AT + first : OUT_AT + first + until_wrap])
        data += bytes(self._page[OUT_AT : OUT_AT + count - until_wrap])
        self._out_cons = (self._out_cons + count) & INDEX_MASK
        self._index[OUT_CONS] = self._out_cons
        return data

    def put(self, data: bytes) -> int:
        """Write as much of `data` as fits; how much that was; RingBroken."""
        used = (self._in_prod - self._index[IN_CONS]) & INDEX_MASK
        if used > IN_SIZE:
            raise RingBroken(
                f"the guest has read input up to {used} bytes from the end of a ring of {IN_SIZE}"
            )
        count = min(len(data), IN_SIZE - used)
        first = self._in_prod % IN_SIZE
        until_wrap = min(count, IN_SIZE - first)
        self._page[first : first + until_wrap] = data[:until_wrap]
        self._page[: count - until_wrap] = data[until_wrap:count]
        self._in_prod = (self._in_prod + count) & INDEX_MASK
        self._index[IN_PROD] = self._in_prod
        return count

    def release(self) -> None:
        """Let go of the page, so that it can be unmapped."""
        self._index.release()
        self._page.release()
