"""The pages that one front granted, as its back end sees them: mapped, and kept so if both ends want that.

With persistent grants ("feature-persistent") a page stays mapped once it was used, up to a limit, and a
request that names the same pages again costs no hypercall. Without, and beyond the limit, a page is mapped
for one request.

Invariant: every view handed out belongs to a mapping that is held; `let_go` ends the ones of this request,
`close` all. A front that reuses a grant reference for another page while it is held here sees the old page:
that is its own loss.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from domains.kernel.grants import GrantMapping
from hypervisor.public.types import PAGE_SIZE, DomId, GrantRef

PERSISTENT_LIMIT: Final = 2048
"""Pages of one front kept mapped: 8 MiB, two full rings' worth of 256 KiB requests."""


class Views(Protocol):
    """The part of the CPU that is needed: views of mapped memory, one a page."""

    def views(self, va: int, size: int, write: bool = False) -> list[memoryview]:
        """The host's memory at a virtual address, one view a page."""


class Mapper(Protocol):
    """What maps grants; drivers.mapped_grants.MappedGrants."""

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """Maps another domain's grants side by side. XenError if one is refused."""

    def unmap(self, mapping: GrantMapping) -> None:
        """Ends the mapping."""


class GrantedPages:
    """Pages of the front in domain `domid`. Raises XenError when Xen refuses a reference."""

    def __init__(self, grants: Mapper, cpu: Views, domid: DomId, persistent: bool) -> None:
        self._grants = grants
        self._cpu = cpu
        self._domid = domid
        self.persistent = persistent
        self._kept: dict[int, memoryview] = {}
        self._kept_mappings: list[GrantMapping] = []
        self._passing: list[GrantMapping] = []

    def views(self, refs: Sequence[int], writable: bool) -> list[memoryview]:
        """One view per reference, in order. They hold until `let_go`, if `all_kept` for as long as the
        object.
        """
        kept = self._kept
        try:
            return [kept[ref] for ref in refs]
        except KeyError:
            return self._map_missing(refs, writable)

    def filled(self, bounds: Sequence[tuple[int, int]]) -> None:
        """What was written into writable views is the front's already: they are its own pages."""

    def all_kept(self, refs: Sequence[int]) -> bool:
        """Whether the views of all of `refs` outlive the request."""
        return all(ref in self._kept for ref in refs)

    def let_go(self) -> None:
        """Unmap what was mapped for one request only."""
        while self._passing:
            self._grants.unmap(self._passing.pop())

    def close(self) -> None:
        """Unmap everything."""
        self._kept.clear()
        self.let_go()
        while self._kept_mappings:
            self._grants.unmap(self._kept_mappings.pop())

    def _map_missing(self, refs: Sequence[int], writable: bool) -> list[memoryview]:
        missing = [ref for ref in dict.fromkeys(refs) if ref not in self._kept]
        keep = self.persistent and len(self._kept) + len(missing) <= PERSISTENT_LIMIT
        writable = writable or keep  # a kept page serves reads and writes alike
        mapping = self._grants.map(self._domid, [GrantRef(ref) for ref in missing], writable)
        (self._kept_mappings if keep else self._passing).append(mapping)
        views = self._cpu.views(mapping.va, len(missing) * PAGE_SIZE, writable)
        found = dict(zip(missing, views, strict=True))
        if keep:
            self._kept.update(found)
            return [self._kept[ref] for ref in refs]
        return [found[ref] if ref in found else self._kept[ref] for ref in refs]
