"""The rings of one front end, as its back end reaches them.

Dom0's process sees the memory of every domain, and maps them. An unprivileged domain's sees its own alone: a back end in a
driver domain copies (docs/driver-domains.md). Whoever serves the rings need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from domains.kernel.grants import GrantMapping
from domains.kernel.kernel import Kernel
from drivers.copied_ring import CopiedBackRing
from drivers.mapped_grants import MappedGrants
from drivers.ring import BackRing
from hypervisor.public.errno import XenError
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef

Records = tuple[type[Struct], type[Struct]]
"""Request and response."""


class FrontRings(Protocol):
    """Held until `release`."""

    @property
    def rings(self) -> Sequence[BackRing]:
        """In the order in which they were asked for."""

    def release(self) -> None:
        """Lets go of the front's pages."""


def reach(kernel: Kernel, domid: DomId, refs: Sequence[int], records: Sequence[Records]) -> FrontRings:
    """The rings in the pages that `domid` grants as `refs`. Raises XenError, holding nothing."""
    kind = MappedRings if kernel.privileged else CopiedRings
    return kind(kernel, domid, [GrantRef(ref) for ref in refs], records)


class MappedRings:
    """Side by side in this domain's address space."""

    def __init__(
        self, kernel: Kernel, domid: DomId, refs: Sequence[GrantRef], records: Sequence[Records]
    ) -> None:
        self._grants = MappedGrants(kernel)
        self._mapping: GrantMapping = self._grants.map(domid, refs)
        pages = kernel.cpu.views(self._mapping.va, len(refs) * PAGE_SIZE, True)
        self.rings = [BackRing(page, *pair) for page, pair in zip(pages, records, strict=True)]

    def release(self) -> None:
        """Unmaps the front's pages."""
        for ring in self.rings:
            ring.release()
        self._grants.unmap(self._mapping)


class CopiedRings:
    """Each in two pages of this domain's own."""

    def __init__(
        self, kernel: Kernel, domid: DomId, refs: Sequence[GrantRef], records: Sequence[Records]
    ) -> None:
        self.rings: list[CopiedBackRing] = []
        try:
            for ref, pair in zip(refs, records, strict=True):
                self.rings.append(CopiedBackRing(kernel, domid, ref, *pair))
        except XenError:
            self.release()
            raise

    def release(self) -> None:
        """Gives back the copies."""
        for ring in self.rings:
            ring.release()
