"""Copies packets between guests' granted pages and this domain, many at once, by grant copy.

Owns a few pages of this domain that everything passes through. Xen checks each reference, offset and length
(G13), so a front's lie is one failed part.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from domains.kernel.grants import CopyEnd, GrantCopy
from domains.kernel.kernel import Kernel
from hypervisor.public.grant_table import GNTST_okay
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef
from hypervisor.public.xen import DOMID_SELF

PAGES: Final = 64


class Part(NamedTuple):
    """A piece of a granted page, in bytes."""

    ref: int
    offset: int
    size: int


class Copier:
    """One for all devices of a net back: copies are finished when its methods return."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pages = [kernel.memory.alloc_page() for _ in range(PAGES)]
        self._views = [kernel.cpu.view(page.va, PAGE_SIZE, True) for page in self._pages]

    def fetch(self, domid: DomId, parts: Sequence[Part]) -> list[bytes | None]:
        """The bytes of each part; None where Xen refused."""
        found: list[bytes | None] = []
        for at in range(0, len(parts), PAGES):
            some = parts[at : at + PAGES]
            ops = [
                GrantCopy(CopyEnd(domid, GrantRef(part.ref), part.offset), self._end(i), part.size)
                for i, part in enumerate(some)
            ]
            statuses = self._kernel.grants.copy(ops)
            found += [
                bytes(self._views[i][: part.size]) if statuses[i] == GNTST_okay else None
                for i, part in enumerate(some)
            ]
        return found

    def deliver(self, domid: DomId, parts: Sequence[tuple[int, memoryview]]) -> list[bool]:
        """Write each (reference, data) to the beginning of its page; whether Xen did it."""
        done: list[bool] = []
        for at in range(0, len(parts), PAGES):
            some = parts[at : at + PAGES]
            for i, (_, data) in enumerate(some):
                self._views[i][: len(data)] = data
            ops = [
                GrantCopy(self._end(i), CopyEnd(domid, GrantRef(ref), 0), len(data))
                for i, (ref, data) in enumerate(some)
            ]
            done += [status == GNTST_okay for status in self._kernel.grants.copy(ops)]
        return done

    def _end(self, index: int) -> CopyEnd:
        return CopyEnd(DOMID_SELF, self._pages[index].mfn, 0)
