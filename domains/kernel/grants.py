"""Grant tables from both sides: giving others access to a frame, and using what others gave.

Owns the domain's grant table (version 1), which Xen allocates and the kernel maps at first use, and the list
of free references. A reference lives through: free → permit_access (other side may map) → … reading/writing
set by Xen while it does → free. Both sides write an entry's flags, so the granter ends an access by
compare-and-exchange on the entry's first word. Source: Xen public/grant_table.h.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.hypercalls import Hypercalls
from domains.kernel.memory import Page, PageAllocator
from domains.kernel.page_tables import READ_WRITE
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTTAB_NR_RESERVED_ENTRIES,
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_okay,
    GNTTABOP_map_grant_ref,
    GNTTABOP_query_size,
    GNTTABOP_setup_table,
    GNTTABOP_transfer,
    GNTTABOP_unmap_grant_ref,
    GrantStatus,
    GTF_accept_transfer,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_transfer_completed,
    GTF_writing,
    gnttab_copy,
    gnttab_map_grant_ref,
    gnttab_query_size,
    gnttab_setup_table,
    gnttab_transfer,
    gnttab_unmap_grant_ref,
    grant_entry_v1,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, GrantRef, Mfn, VAddr
from hypervisor.public.xen import DOMID_SELF

T = TypeVar("T")
CopyRows = np.ndarray[tuple[int], np.dtype[np.void]]
"""An array of gnttab_copy.dtype."""
ENTRIES_PER_FRAME: Final = PAGE_SIZE // grant_entry_v1.sizeof
BATCH: Final = 256
"""Operations in one hypercall; their structures must fit into the argument area."""
_IN_USE: Final = int(GTF_reading | GTF_writing)
_PERMIT: Final = int(GTF_permit_access)
_PERMIT_READ: Final = int(GTF_permit_access | GTF_readonly)


class GrantError(XenError):
    """Xen refused one operation; `status` is its GNTST_…"""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(Errno.EINVAL, f"{what}: {GrantStatus(status).name}")
        self.status = GrantStatus(status)


class GrantMapping(NamedTuple):
    """Granted frames of another domain, side by side at `va`."""

    va: VAddr
    handles: tuple[int, ...]


class CopyEnd(NamedTuple):
    """One end of a grant copy: `frame` is a GrantRef of `domid`, or with DOMID_SELF a frame of this domain."""

    domid: DomId
    frame: GrantRef | Mfn
    offset: int


class GrantCopy(NamedTuple):
    """Copy `length` bytes; neither end may cross its page. At most one end is of another domain by ref."""

    source: CopyEnd
    dest: CopyEnd
    length: int


class InOrder(NamedTuple):
    """What became of copies in order: how many were done, and the status of the next, GNTST_okay if there is none."""

    done: int
    status: int


class Grants:
    """The grant table and the grants mapped from others."""

    def __init__(self, cpu: PythonCpu, hypercalls: Hypercalls, memory: PageAllocator) -> None:
        self._cpu = cpu
        self._hypercalls = hypercalls
        self._memory = memory
        self._va: VAddr | None = None
        self._frames = 0
        self._max_frames = 0
        self._next = int(GNTTAB_NR_RESERVED_ENTRIES)
        self._free: list[GrantRef] = []

    # --- granting --------------------------------------------------------------------------------

    def grant_access(self, domid: DomId, mfn: Mfn, readonly: bool = False) -> GrantRef:
        """Let `domid` map or copy `mfn`; XenError(ENOSPC) when the table is full."""
        ref = self._new_ref()
        self._grant(ref, domid, mfn, _PERMIT_READ if readonly else _PERMIT)
        return ref

    def grant_access_at(self, ref: GrantRef, domid: DomId, mfn: Mfn) -> None:
        """The same with a reserved reference (GNTTAB_RESERVED_CONSOLE, _XENSTORE)."""
        self._table(ref)
        self._grant(ref, domid, mfn, _PERMIT)

    def _grant(self, ref: GrantRef, domid: DomId, mfn: int, flags: int) -> None:
        """The frame first and the flags last: from then on the entry counts."""
        entry = self._entry(ref)
        self._cpu.store(entry + 4, mfn.to_bytes(4, "little"))
        self._cpu.store(entry, (domid << 16).to_bytes(4, "little"))
        self._cpu.store(entry, (domid << 16 | flags).to_bytes(4, "little"))

    def end_access(self, ref: GrantRef) -> bool:
        """Revoke; False, and nothing changed, while the other domain uses it."""
        if not self.try_end_access(ref):
            return False
        self._free.append(ref)
        return True

    def try_end_access(self, ref: GrantRef) -> bool:
        """Revoke and keep the reference out of circulation (a reserved one); False while it is in use."""
        entry = self._entry(ref)
        seen = int.from_bytes(self._cpu.load(entry, 4), "little")
        while not seen & _IN_USE:
            there = self._cpu.compare_exchange_32(entry, seen, 0)
            if there == seen:
                return True
            seen = there
        return False

    def in_use(self, ref: GrantRef) -> bool:
        """Whether the other domain has the frame mapped or is copying."""
        return bool(self._cpu.load(self._entry(ref), 1)[0] & _IN_USE)

    def _entry(self, ref: GrantRef) -> int:
        if self._va is None:
            self._table(ref)
        return (self._va or 0) + ref * grant_entry_v1.sizeof

    def _new_ref(self) -> GrantRef:
        if self._free:
            return self._free.pop()
        ref = GrantRef(self._next)
        self._table(ref)
        self._next += 1
        return ref

    def _table(self, ref: GrantRef) -> None:
        """Have a table that is long enough for `ref`."""
        if self._va is None:
            size = gnttab_query_size(dom=DOMID_SELF)
            self._hypercalls.hypercall_grant_table_op(GNTTABOP_query_size, [size])
            self._max_frames = size.max_nr_frames
            self._va = self._memory.area.alloc(self._max_frames)
        wanted = ref // ENTRIES_PER_FRAME + 1
        if wanted > self._max_frames:
            raise XenError(Errno.ENOSPC, f"the grant table has no entry {ref}")
        if wanted > self._frames:
            self._grow(self._va, wanted)

    def _grow(self, va: VAddr, wanted: int) -> None:
        with self._hypercalls.arguments as area:
            frame_list = area.reserve(8 * wanted)
            setup = gnttab_setup_table(dom=DOMID_SELF, nr_frames=wanted, frame_list=frame_list)
            self._hypercalls.hypercall_grant_table_op(GNTTABOP_setup_table, [setup])
            if setup.status != GNTST_okay:
                raise GrantError(setup.status, "setup_table")
            mfns = np.frombuffer(self._cpu.load(frame_list, 8 * wanted), "<u8").tolist()
        new = mfns[self._frames :]
        self._memory.tables.map(VAddr(va + self._frames * PAGE_SIZE), new, READ_WRITE)
        self._frames = wanted

    # --- using others' grants --------------------------------------------------------------------

    def map(self, domid: DomId, refs: Sequence[GrantRef], writable: bool = True) -> GrantMapping:
        """Map frames that `domid` granted, all or none. Raises GrantError (an XenError) with the first status."""
        va = self._memory.area.alloc(len(refs))
        for first in range(va, va + len(refs) * PAGE_SIZE, PAGE_SIZE):
            self._memory.tables.ensure_l1(VAddr(first))
        flags = int(GNTMAP_host_map) if writable else int(GNTMAP_host_map | GNTMAP_readonly)
        ops = [
            gnttab_map_grant_ref(host_addr=va + i * PAGE_SIZE, flags=flags, ref=ref, dom=domid)
            for i, ref in enumerate(refs)
        ]
        self._perform(GNTTABOP_map_grant_ref, ops)
        failed = [op for op in ops if op.status != GNTST_okay]
        if failed:
            self._unmap([op for op in ops if op.status == GNTST_okay])
            self._memory.area.free(va)
            raise GrantError(failed[0].status, f"map of grant {failed[0].ref} of d{domid}")
        return GrantMapping(va, tuple(op.handle for op in ops))

    def unmap(self, mapping: GrantMapping) -> None:
        """Let them go; GrantError if Xen refuses a handle, whose address stays taken."""
        self._unmap(
            [
                gnttab_map_grant_ref(host_addr=mapping.va + i * PAGE_SIZE, handle=handle)
                for i, handle in enumerate(mapping.handles)
            ]
        )
        self._memory.area.free(mapping.va)

    def _unmap(self, mapped: Sequence[gnttab_map_grant_ref]) -> None:
        ops = [gnttab_unmap_grant_ref(host_addr=op.host_addr, handle=op.handle) for op in mapped]
        self._perform(GNTTABOP_unmap_grant_ref, ops)
        for op in ops:
            if op.status != GNTST_okay:
                raise GrantError(op.status, f"unmap of handle {op.handle}")

    def _perform(self, cmd: int, ops: Sequence[gnttab_map_grant_ref | gnttab_unmap_grant_ref]) -> None:
        for first in range(0, len(ops), BATCH):
            self._hypercalls.hypercall_grant_table_op(cmd, ops[first : first + BATCH])

    def copy(self, ops: Sequence[GrantCopy]) -> None:
        """Copy without mapping. Raises GrantError for the first that Xen refuses; the others are done all the same."""
        for op, status in zip(ops, self.copy_rows(rows_of(ops)), strict=True):
            if status != GNTST_okay:
                raise GrantError(status, f"copy of {op.length} bytes, {op.source} to {op.dest}")

    def copy_rows(self, rows: CopyRows) -> list[int]:
        """The GNTST_… status of each row of an array of gnttab_copy.dtype, for code that copies much."""
        statuses: list[int] = []
        for first in range(0, len(rows), BATCH):
            statuses += self._hypercalls.hypercall_grant_copy(rows[first : first + BATCH])["status"].tolist()
        return statuses

    def copy_in_order(self, rows: CopyRows) -> InOrder:
        """Copies that count only after those before them, at most BATCH: Xen performs them in this order."""
        statuses = self._hypercalls.hypercall_grant_copy(rows)["status"]
        failed = np.flatnonzero(statuses != GNTST_okay)
        if not len(failed):
            return InOrder(len(rows), int(GNTST_okay))
        return InOrder(int(failed[0]), int(statuses[failed[0]]))

    # --- giving frames away ----------------------------------------------------------------------

    def accept_transfer(self, domid: DomId) -> GrantRef:
        """A reference at which `domid` may give this domain a frame."""
        ref = self._new_ref()
        self._grant(ref, domid, 0, int(GTF_accept_transfer))
        return ref

    def finish_transfer(self, ref: GrantRef) -> Mfn | None:
        """The frame that came, which is now this domain's and mapped nowhere; None while none has come."""
        entry = self._entry(ref)
        head, frame = np.frombuffer(self._cpu.load(entry, 8), "<u4").tolist()
        if not head & GTF_transfer_completed:
            return None
        self._cpu.store(entry, bytes(8))
        self._free.append(ref)
        return Mfn(frame)

    def transfer(self, domid: DomId, ref: GrantRef, page: Page) -> None:
        """Give a page away for good to `domid`, which accepts it at `ref`; GrantError, and the page is still
        here.

        The page's own mapping goes first, for a frame that is referenced anywhere cannot be transferred
        (F13).
        """
        self._hypercalls.hypercall_update_va_mapping(page.va, 0)
        op = gnttab_transfer(mfn=page.mfn, domid=domid, ref=ref)
        self._hypercalls.hypercall_grant_table_op(GNTTABOP_transfer, [op])
        if op.status != GNTST_okay:
            self._hypercalls.hypercall_update_va_mapping(page.va, page.mfn << PAGE_SHIFT | READ_WRITE)
            raise GrantError(op.status, f"transfer of frame {page.mfn:#x} to d{domid}")
        self._memory.set_phys_to_machine(page.pfn, None)


def rows_of(ops: Sequence[GrantCopy]) -> np.ndarray[Any, np.dtype[np.void]]:
    """The copies as an array of gnttab_copy."""
    rows = np.zeros(len(ops), gnttab_copy.dtype)
    for row, op in zip(rows, ops, strict=True):
        flags = 0
        for end, side, gref in (
            (op.source, row["source"], GNTCOPY_source_gref),
            (op.dest, row["dest"], GNTCOPY_dest_gref),
        ):
            is_frame = end.domid == DOMID_SELF
            side["u"]["gmfn" if is_frame else "ref"] = end.frame
            side["domid"], side["offset"] = end.domid, end.offset
            flags |= 0 if is_frame else int(gref)
        row["len"], row["flags"] = op.length, flags
    return rows
