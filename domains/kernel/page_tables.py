"""The kernel's own page tables: how a PV guest builds them under Xen's eyes.

A page becomes a table in three steps, and in this order (Barham et al. 2003, §3.3.3): it is filled while it
is an ordinary page; its mapping in the linear map is made read-only (`update_va_mapping`); it is linked into
its parent (`mmu_update`), which is when Xen checks it as a whole. From then on each change is a request to
Xen.

Invariant: every table of this kernel is mapped exactly once in the linear map, read-only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.hypercalls import Hypercalls
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PTE_MFN_MASK,
    TABLE_ENTRIES,
    table_index,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, MAddr, Mfn, VAddr
from hypervisor.public.xen import (
    DOMID_SELF,
    MMU_NORMAL_PT_UPDATE,
    MMUEXT_TLB_FLUSH_LOCAL,
    UVMF_INVLPG,
    mmu_update,
    mmuext_op,
)

TABLE_FLAGS: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER | PAGE_ACCESSED | PAGE_DIRTY
"""Of an entry that names a table."""
READ_ONLY: Final = PAGE_PRESENT | PAGE_USER | PAGE_ACCESSED | PAGE_NX
READ_WRITE: Final = READ_ONLY | PAGE_RW
"""Of an entry that names a page of data."""
BATCH: Final = 1024
"""Requests in one mmu_update: half of the room for arguments."""
L1_SPAN: Final = TABLE_ENTRIES * PAGE_SIZE

Words = npt.NDArray[np.uint64]


class PageTables:
    """The tree whose L4 is `l4`. `linear(mfn)` is where the kernel's linear map shows one of its own frames."""

    def __init__(
        self,
        cpu: PythonCpu,
        hypercalls: Hypercalls,
        l4: Mfn,
        linear: Callable[[Mfn], VAddr],
        new_table: Callable[[], tuple[VAddr, Mfn]],
    ) -> None:
        self.cpu = cpu
        self.hypercalls = hypercalls
        self.l4 = l4
        self.linear = linear
        self._new_table = new_table
        self._l1s: dict[int, Mfn] = {}
        """Address of the first byte that an L1 maps → the L1. Only of tables that are never freed."""

    def entry(self, table: Mfn, index: int) -> int:
        """One entry of one of this kernel's tables."""
        return int.from_bytes(self.cpu.load(self.linear(table) + index * 8, 8), "little")

    def l1(self, va: VAddr) -> Mfn | None:
        """The L1 that maps `va`, or None if there is none."""
        known = self._l1s.get(va & -L1_SPAN)
        if known is not None:
            return known
        table = self.l4
        for level in (4, 3, 2):
            entry = self.entry(table, table_index(va, level))
            if not entry & PAGE_PRESENT:
                return None
            table = Mfn((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        self._l1s[va & -L1_SPAN] = table
        return table

    def ensure_l1(self, va: VAddr, entries: Words | None = None) -> Mfn:
        """The L1 that maps `va`, made and linked with its parents if need be; `entries` (512) are what a new
        one holds.
        """
        present = self.l1(va)
        if present is not None:
            return present
        table = self.l4
        for level in (4, 3, 2):
            slot = table_index(va, level)
            entry = self.entry(table, slot)
            if not entry & PAGE_PRESENT:
                child = self._make_table(entries if level == 2 else None)
                entry = child << PAGE_SHIFT | TABLE_FLAGS
                self.update([(MAddr((table << PAGE_SHIFT) + slot * 8), entry)])
            table = Mfn((entry & PTE_MFN_MASK) >> PAGE_SHIFT)
        self._l1s[va & -L1_SPAN] = table
        return table

    def _make_table(self, entries: Words | None) -> Mfn:
        va, mfn = self._new_table()
        if entries is not None:
            self.cpu.store(va, entries.tobytes())
        self.hypercalls.hypercall_update_va_mapping(va, mfn << PAGE_SHIFT | READ_ONLY, UVMF_INVLPG)
        return mfn

    def update(self, requests: Sequence[tuple[MAddr, int]], foreigndom: int = DOMID_SELF) -> None:
        """Write entries by machine address, in order. XenError: the first refused one and those behind it are
        not done.
        """
        rows = [mmu_update(ptr=where | MMU_NORMAL_PT_UPDATE, val=entry) for where, entry in requests]
        for first in range(0, len(rows), BATCH):
            self.hypercalls.hypercall_mmu_update(rows[first : first + BATCH], foreigndom)

    def map(self, va: VAddr, mfns: Sequence[int], flags: int, foreigndom: int = DOMID_SELF) -> None:
        """Map frames side by side from `va` on, all or none; XenError. Nothing may be mapped there before."""
        entries = np.array(mfns, "<u8") << np.uint64(PAGE_SHIFT) | np.uint64(flags)
        try:
            self._write(va, entries, foreigndom)
        except BaseException:
            self.unmap(va, len(mfns))
            raise

    def unmap(self, va: VAddr, count: int) -> None:
        """Clear `count` entries from `va` on and flush their translations."""
        self._write(va, np.zeros(count, "<u8"))
        self.hypercalls.hypercall_mmuext_op([mmuext_op(cmd=MMUEXT_TLB_FLUSH_LOCAL)])

    def _write(self, va: VAddr, entries: Words, foreigndom: int = DOMID_SELF) -> None:
        """Write entries that may span several L1s, which are made if need be."""
        rows = np.zeros(len(entries), mmu_update.dtype)
        rows["val"] = entries
        addresses = np.arange(va, va + len(entries) * PAGE_SIZE, PAGE_SIZE, dtype=np.uint64)
        rows["ptr"] = (addresses >> np.uint64(PAGE_SHIFT) & np.uint64(TABLE_ENTRIES - 1)) * np.uint64(8)
        done = 0
        while done < len(entries):
            at = va + done * PAGE_SIZE
            here = min(len(entries) - done, (L1_SPAN - at % L1_SPAN) >> PAGE_SHIFT)
            rows["ptr"][done : done + here] += np.uint64(self.ensure_l1(VAddr(at)) << PAGE_SHIFT)
            done += here
        for first in range(0, len(rows), BATCH):
            self.hypercalls.hypercall_mmu_update(rows[first : first + BATCH], foreigndom)
