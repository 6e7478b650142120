"""The memory that the arguments of clients' hypercalls lie in, and the page table under which those are performed.

    WINDOW_START ─┬─ pages of Dom0 ─┬─ nothing ───────────── end of the L4 slot

A client's program has its buffers at these addresses in its own process. Dom0 copies them here, performs the hypercall with the
numbers unchanged, and copies back what is here then. Xen looks addresses up in the caller's page table, and the one in force
during the call shows the window alone: whatever a pointer in the arguments says, it reaches nothing else of Dom0.

    Dom0's own L4:    slot 32 ──► L3 ──► L2 ──► L1s ──► the window's pages
    this one:         slot 32 ──┘        all other slots: nothing

The pages are the window's for good, and one call is performed at a time.
"""

from __future__ import annotations

from typing import Final

from domains.kernel.kernel import Kernel
from domains.kernel.page_tables import READ_WRITE
from hypervisor.machine.paging import table_index
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SIZE, Mfn, VAddr
from hypervisor.public.xen import MMUEXT_PIN_L4_TABLE, mmuext_op, mmuext_op_arg1

WINDOW_START: Final = VAddr(32 << 39)
WINDOW_PAGES: Final = 256
WINDOW_END: Final = WINDOW_START + WINDOW_PAGES * PAGE_SIZE


class Window:
    """Pages are taken as they are first needed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._pages = 0
        self._table: Mfn | None = None

    def put(self, address: int, data: memoryview) -> None:
        """Copies a client's bytes to their place. XenError(EFAULT: not in the window; ENOMEM)."""
        self._check(address, len(data))
        self._grow(-(-(address + len(data) - WINDOW_START) // PAGE_SIZE))
        self._kernel.cpu.store(address, data)

    def get(self, address: int, size: int) -> bytes:
        """The bytes at an address. XenError(EFAULT): not in the window, or nobody has put anything there."""
        self._check(address, size)
        if address + size > WINDOW_START + self._pages * PAGE_SIZE:
            raise XenError(Errno.EFAULT, "nothing has been put there")
        return self._kernel.cpu.load(address, size)

    def hypercall(self, nr: int, *args: int) -> int:
        """The result of a hypercall whose arguments lie in the window; negative: an error. XenError(ENOMEM)."""
        return self._kernel.cpu.hypercall_under(self._root(), nr, *args)

    def _check(self, address: int, size: int) -> None:
        if not WINDOW_START <= address <= WINDOW_END - size:
            raise XenError(Errno.EFAULT, f"{address:#x}+{size:#x} is not in the window")

    def _grow(self, pages: int) -> None:
        memory, missing = self._kernel.memory, pages - self._pages
        if missing <= 0:
            return
        taken = []
        try:
            for _ in range(missing):
                taken.append(memory.alloc_page())
            where = VAddr(WINDOW_START + self._pages * PAGE_SIZE)
            memory.tables.map(where, [page.mfn for page in taken], READ_WRITE)
        except XenError:
            for page in taken:
                memory.free_page(page)
            raise
        self._pages = pages

    def _root(self) -> Mfn:
        """The L4 that shows the window alone.

        It and Dom0's own are pinned, so that they stay validated while the other one is loaded. Dom0's own could not be validated
        anew: it maps frames of other domains.
        """
        if self._table is None:
            self._grow(1)
            memory = self._kernel.memory
            slot = table_index(WINDOW_START, 4)
            page = memory.alloc_page()
            entry = memory.tables.entry(memory.tables.l4, slot)
            self._kernel.cpu.store(page.va + slot * 8, entry.to_bytes(8, "little"))
            memory.make_read_only(page)
            tables = (page.mfn, memory.tables.l4)
            pins = [mmuext_op(cmd=MMUEXT_PIN_L4_TABLE, arg1=mmuext_op_arg1(mfn=mfn)) for mfn in tables]
            self._kernel.hypercalls.hypercall_mmuext_op(pins)
            self._table = page.mfn
        return self._table
