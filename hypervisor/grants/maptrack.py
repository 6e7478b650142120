"""Handles: what a mapper holds of others' grants, one record per mapping (G6).

A handle is an index into the mapper's own table, so another domain's handle means nothing here. The table
grows to its limit in pages of 256 records, as in Xen; a freed handle goes to the end of the line, so a stale
one stays wrong for long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from hypervisor.grants.status import GrantRefused
from hypervisor.public.grant_table import GNTST_bad_handle, GNTST_no_space
from hypervisor.public.types import DomId, GrantRef

MAPTRACK_PER_PAGE: Final = 256


@dataclass(slots=True)
class Mapping:
    """One mapping of entry `ref` of domain `granter`.

    `flags` are the GNTMAP_* it was made with, less the parts that were unmapped since. The granter is there for as
    long: a mapping holds one of its frames, and a dead domain goes with its last frame (K4).
    """

    granter: DomId
    ref: GrantRef
    flags: int


class Maptrack:
    """A mapper's handles."""

    def __init__(self, max_frames: int) -> None:
        self._max = max_frames * MAPTRACK_PER_PAGE
        self._records: list[Mapping | None] = []
        self._free: deque[int] = deque()
        self._live = 0

    def __len__(self) -> int:
        """How many mappings there are."""
        return self._live

    def items(self) -> list[tuple[int, Mapping]]:
        """Every live handle and its mapping."""
        return [(handle, mapping) for handle, mapping in enumerate(self._records) if mapping is not None]

    def require_room(self) -> None:
        """GrantRefused(GNTST_no_space) if there is no handle left."""
        if not self._free and len(self._records) >= self._max:
            raise GrantRefused(GNTST_no_space, f"G6: all {self._max} handles are in use")

    def add(self, mapping: Mapping) -> int:
        """A handle for a new mapping; room was asked for before."""
        if not self._free:
            fresh = range(len(self._records), len(self._records) + MAPTRACK_PER_PAGE)
            self._records += [None] * MAPTRACK_PER_PAGE
            self._free.extend(fresh)
        handle = self._free.popleft()
        self._records[handle] = mapping
        self._live += 1
        return handle

    def get(self, handle: int) -> Mapping:
        """GrantRefused(GNTST_bad_handle): out of range, never given out, or given back (G6)."""
        mapping = self._records[handle] if handle < len(self._records) else None
        if mapping is None:
            raise GrantRefused(GNTST_bad_handle, f"G6: there is no handle {handle:#x}")
        return mapping

    def remove(self, handle: int) -> None:
        """The mapping is gone, both parts."""
        self._records[handle] = None
        self._free.append(handle)
        self._live -= 1

    def last(self) -> tuple[int, Mapping] | None:
        """The highest live handle; what lies above it is dropped, so that a long clean-up does not search it
        again.
        """
        while self._records and self._records[-1] is None:
            self._records.pop()
        if not self._records:
            return None
        mapping = self._records[-1]
        assert mapping is not None
        return len(self._records) - 1, mapping

    def snapshot(self) -> dict[str, Any]:
        """Every handle, and the order in which the free ones will be given out."""
        live = [[handle, mapping.granter, mapping.ref, mapping.flags] for handle, mapping in self.items()]
        return {"max": self._max, "records": len(self._records), "mappings": live, "free": list(self._free)}

    def restore(self, record: dict[str, Any]) -> None:
        """Become what `snapshot` wrote down."""
        self._max, self._free = record["max"], deque(record["free"])
        self._records = [None] * record["records"]
        for handle, granter, ref, flags in record["mappings"]:
            self._records[handle] = Mapping(granter, ref, flags)
        self._live = len(record["mappings"])

    def close(self) -> None:
        """No handle is given out any more: the mapper dies (K1)."""
        self._max = 0
        self._free.clear()
