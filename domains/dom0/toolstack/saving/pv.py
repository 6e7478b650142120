"""What is written of a PV domain: the records, in their order, of a domain that stands still, or of one that runs, in rounds.

    begin()      its width, its CPU; STATIC_DATA_END; where its table of frames lies
    pages(…)     some of its pages; while it runs, page tables are left for the last round, for they change under one's hands
    finish()     the clock, shared_info, each vCPU; END: of a domain that is suspended

Machine frames become the domain's own numbers: in page tables, CR3s, GDT frames, and in vCPU 0's EDX, which names start_info
while a guest is suspended. Source: Xen tools/libs/guest/xg_sr_save.c, xg_sr_save_x86_pv.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from domains.dom0.toolstack.core_dump.asking import getvcpucontext
from domains.dom0.toolstack.domain_pages import AT_ONCE, DomainPages, Words
from domains.dom0.toolstack.domain_state import DomainState
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.saving.pv_memory import PvMemory, PvMemoryReader
from domains.dom0.toolstack.stream import libxc, page_data
from domains.dom0.toolstack.stream.framing import RecordWriter
from domains.dom0.toolstack.stream.libxc import GuestKind, LibxcRecord
from domains.dom0.toolstack.stream.page_data import LEVEL, PageData
from domains.dom0.toolstack.stream.page_tables import NONE, TABLES_AT_ONCE, BadEntry, normalise
from domains.dom0.toolstack.stream.pv_records import P2mFrames, VcpuBlob, pack_pv_info
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Task
from hypervisor.public.abi import COMPAT, NATIVE
from hypervisor.public.arch_x86.xen import vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_32 import xen_cr3_to_pfn, xen_pfn_to_cr3
from hypervisor.public.domctl import Domctl
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.version import XENVER_version

ENTRIES_OF_GDT_PAGE: Final = 512
LOOK_SECONDS: Final = 0.05
"""Between two looks for a guest's table of frames."""


class PvSaver:
    """Of one domain. `memory` is as it was when it was last looked at."""

    memory: PvMemory

    def __init__(self, kernel: Kernel, xen: XenCtrl, info: DomainInfo, writer: RecordWriter) -> None:
        self._kernel = kernel
        self._info = info
        self._writer = writer
        self._state = DomainState(kernel, xen, info.domid)
        self._pages = DomainPages(kernel, info.domid)
        bits = xen.domctl(Domctl.XEN_DOMCTL_get_address_size, info.domid).u.address_size.size
        self._abi = COMPAT if bits == COMPAT.address_size else NATIVE
        self._reader = PvMemoryReader(self._pages, self._state, info, self._abi)
        self._context = Contexts(kernel, xen, info, self._abi.word)
        self._told: Words | None = None
        """The pages of the P2M that the stream names."""
        self.sent = 0
        """How many pages were written."""

    def begin(self, patience: float = 0) -> Task[None]:
        """Headers, and what does not change. A guest that has just arrived says after a moment where its table of frames lies: it
        has `patience` seconds for that.
        """
        writer = self._writer
        version = self._kernel.hypercalls.hypercall_xen_version(int(XENVER_version))
        yield from writer.raw(libxc.headers(GuestKind.X86_PV, version >> 16, version & 0xFFFF))
        yield from writer.write(LibxcRecord.X86_PV_INFO, pack_pv_info(self._abi.word))
        leaves, msrs = self._state.policy()
        yield from writer.write(LibxcRecord.X86_CPUID_POLICY, leaves)
        yield from writer.write(LibxcRecord.X86_MSR_POLICY, msrs)
        yield from writer.write(LibxcRecord.STATIC_DATA_END)
        deadline = self._kernel.now() + round(patience * 1e9)
        while True:
            try:
                return (yield from self.look())
            except ToolstackError:
                if self._kernel.now() >= deadline:
                    raise
            yield from self._kernel.rest(LOOK_SECONDS)

    def look(self) -> Task[None]:
        """Find out anew what pages the domain has, and say where its table of them lies if that is news. ToolstackError."""
        self.memory = memory = yield from self._reader.read()
        if (memory.p2m_pfns == NONE).any():
            raise ToolstackError(
                f"domain {self._info.domid} keeps its table of machine frames outside of its memory"
            )
        if self._told is None or not np.array_equal(self._told, memory.p2m_pfns):
            self._told = memory.p2m_pfns
            frames = P2mFrames(0, len(memory.p2m) - 1, memory.p2m_pfns)
            yield from self._writer.write(LibxcRecord.X86_PV_P2M_FRAMES, *frames.pack())

    def read(self, pfns: Words) -> Words:
        """Copies of at most AT_ONCE of its pages, uint64[n, 512], as they are now. XenError: the domain has ended."""
        return self._pages.read(self.memory.p2m[pfns])

    def pages(
        self,
        pfns: Words,
        seen: Callable[[Words, Words], None] | None = None,
        read: Callable[[], Words] | None = None,
    ) -> Task[None]:
        """Write these pages, as they are now. `seen(pfns, pages)` gets each batch of them as it is written, before page tables
        are translated; `read` gives the contents of at most AT_ONCE ordinary ones. ToolstackError: a page table maps what is not
        the domain's; XenError: the domain has ended.
        """
        has_tables = (self.memory.types[pfns] & np.uint64(LEVEL) != 0).any()
        at_once = TABLES_AT_ONCE if has_tables else AT_ONCE
        for first in range(0, len(pfns), at_once):
            part = pfns[first : first + at_once]
            pages = self.read(part)
            if seen is not None:
                seen(part, pages)
            types = self.memory.types[part]
            self._normalise(part, types, pages)
            data = PageData(part, types, pages)
            yield from self._writer.write(
                LibxcRecord.PAGE_DATA, *page_data.pack(data.sparse if self._writer.sparse else data)
            )
            self.sent += len(part)

    def _normalise(self, pfns: Words, types: Words, pages: Words) -> None:
        which = np.flatnonzero(types & np.uint64(LEVEL) != 0)
        if not len(which):
            return
        tables = pages[which]
        try:
            normalise(tables, types[which], self._abi.word, self.memory.page_of)
        except BadEntry as bad:
            pfn = int(pfns[which[bad.table]])
            raise ToolstackError(
                f"domain {self._info.domid} cannot be saved: entry {bad.entry} of its page table in page {pfn:#x}: {bad}"
            ) from None
        pages[which] = tables

    def finish(self) -> Task[None]:
        """All that is not memory. XenError, ToolstackError."""
        writer, state = self._writer, self._state
        yield from writer.write(LibxcRecord.X86_TSC_INFO, state.tsc().pack())
        yield from writer.write(LibxcRecord.SHARED_INFO, self._reader.shared_info())
        for vcpu in range(self._info.max_vcpus):
            if not state.is_online(vcpu):
                continue
            context = self._context.read(vcpu, self.memory)
            for kind, content in (
                (LibxcRecord.X86_PV_VCPU_BASIC, context),
                (LibxcRecord.X86_PV_VCPU_EXTENDED, state.extended(vcpu)),
                (LibxcRecord.X86_PV_VCPU_XSAVE, state.xsave(vcpu)),
                (LibxcRecord.X86_PV_VCPU_MSRS, state.msrs(vcpu)),
            ):
                if content:
                    yield from writer.write(kind, *VcpuBlob(vcpu, content).pack())
        yield from writer.write(LibxcRecord.END)


class Contexts:
    """The registers of a domain's vCPUs with the domain's own numbers in place of the machine's."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, info: DomainInfo, width: int) -> None:
        self._kernel = kernel
        self._xen = xen
        self._info = info
        self._width = width

    def read(self, vcpu: int, memory: PvMemory) -> bytes:
        """A vcpu_guest_context in the layout of the guest's width. XenError, ToolstackError."""
        raw = getvcpucontext(self._kernel, self._xen, self._info.domid, vcpu)
        layout = (NATIVE if self._width == 8 else COMPAT).layout(vcpu_guest_context)
        context = layout.unpack(raw)

        def page(frame: int, what: str) -> int:
            pfn = memory.page_of(np.array([frame], np.uint64))[0]
            if pfn == NONE:
                raise ToolstackError(
                    f"domain {self._info.domid} cannot be saved: {what} of vCPU {vcpu} is not its own memory"
                )
            return int(pfn)

        if vcpu == 0:
            registers, name = context.user_regs, "rdx" if self._width == 8 else "edx"
            setattr(registers, name, page(getattr(registers, name), "start_info, as named by EDX,"))
            context.user_regs = registers
        used = -(-context.gdt_ents // ENTRIES_OF_GDT_PAGE)
        frames = enumerate(context.gdt_frames)
        context.gdt_frames = tuple(page(frame, "the GDT") if i < used else 0 for i, frame in frames)
        control = list(context.ctrlreg)
        if self._width == 8:
            control[3] = page(control[3] >> PAGE_SHIFT, "CR3") << PAGE_SHIFT
            if control[1]:  # the lowest bit says that there is one, for its page may be page 0
                control[1] = page(control[1] >> PAGE_SHIFT, "the user's CR3") << PAGE_SHIFT | 1
        else:
            control[3] = xen_pfn_to_cr3(page(xen_cr3_to_pfn(control[3]), "CR3"))
        context.ctrlreg = tuple(control)
        return bytes(layout.pack(context))
