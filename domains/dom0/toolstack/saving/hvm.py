"""What is written of a PVH domain: the records, in their order, of a domain that stands still, or of one that runs, in rounds.

    begin()      its CPU; STATIC_DATA_END
    pages(…)     some of its pages, as the guest numbers them; its page tables are pages like all others
    finish()     the clock, Xen's saved state of its vCPUs, its parameters; END: of a domain that is suspended

Source: Xen tools/libs/guest/xg_sr_save.c, xg_sr_save_x86_hvm.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from domains.dom0.toolstack.builder.hvm_state import HvmState
from domains.dom0.toolstack.core_dump.asking import gethvmcontext
from domains.dom0.toolstack.core_dump.contents import frames_of
from domains.dom0.toolstack.domain_pages import AT_ONCE, DomainPages, Words
from domains.dom0.toolstack.domain_state import FRAMES_AT_ONCE, DomainState
from domains.dom0.toolstack.stream import libxc, page_data
from domains.dom0.toolstack.stream.framing import RecordWriter
from domains.dom0.toolstack.stream.hvm_records import MOST_GFN, pack_params
from domains.dom0.toolstack.stream.libxc import GuestKind, LibxcRecord
from domains.dom0.toolstack.stream.page_data import XTAB, PageData
from domains.dom0.toolstack.xenctrl import DomainInfo, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.arch_x86.xen_x86_64 import MACH2PHYS_VIRT_START
from hypervisor.public.errno import XenError
from hypervisor.public.hvm.params import (
    HVM_PARAM_ACPI_IOPORTS_LOCATION,
    HVM_PARAM_BUFIOREQ_PFN,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_IDENT_PT,
    HVM_PARAM_IOREQ_PFN,
    HVM_PARAM_MCA_CAP,
    HVM_PARAM_MONITOR_RING_PFN,
    HVM_PARAM_NR_IOREQ_SERVER_PAGES,
    HVM_PARAM_PAGING_RING_PFN,
    HVM_PARAM_SHARING_RING_PFN,
    HVM_PARAM_STORE_PFN,
    HVM_PARAM_VIRIDIAN,
    HVM_PARAM_VM86_TSS_SIZED,
    HVM_PARAM_VM_GENERATION_ID_ADDR,
    HVM_PARAM_X87_FIP_WIDTH,
)
from hypervisor.public.version import XENVER_version

SAVED_PARAMS: Final = (
    *(HVM_PARAM_STORE_PFN, HVM_PARAM_IOREQ_PFN, HVM_PARAM_BUFIOREQ_PFN, HVM_PARAM_PAGING_RING_PFN),
    *(
        HVM_PARAM_MONITOR_RING_PFN,
        HVM_PARAM_SHARING_RING_PFN,
        HVM_PARAM_VM86_TSS_SIZED,
        HVM_PARAM_CONSOLE_PFN,
    ),
    *(
        HVM_PARAM_ACPI_IOPORTS_LOCATION,
        HVM_PARAM_VIRIDIAN,
        HVM_PARAM_IDENT_PT,
        HVM_PARAM_VM_GENERATION_ID_ADDR,
    ),
    *(HVM_PARAM_NR_IOREQ_SERVER_PAGES, HVM_PARAM_X87_FIP_WIDTH, HVM_PARAM_MCA_CAP),
)
"""Those that libxc writes: by which vector events come is the guest's to say again."""
NO_TABLES: Final = np.empty(0, np.uint64)
READ_ATTEMPTS: Final = 5
LOOKED_AT_AT_ONCE: Final = 1 << 19
"""Numbers of pages that are looked at in one turn: a guest may have its pages anywhere."""
NO_PAGES: Final = np.empty((0, 512), np.uint64)


class HvmMemory(NamedTuple):
    """`ordinary`: the guest's numbers of the pages that it has, from the lowest up. `places`: by those numbers, in which machine
    frame each is, plus 1; 0: there is none. `tables`: none; a PV domain has some.
    """

    ordinary: Words
    places: Words
    tables: Words = NO_TABLES


class HvmSaver:
    """Of one domain. `memory` is as it was when it was last looked at."""

    memory: HvmMemory

    def __init__(self, kernel: Kernel, xen: XenCtrl, info: DomainInfo, writer: RecordWriter) -> None:
        self._kernel = kernel
        self._xen = xen
        self._info = info
        self._writer = writer
        self._state = DomainState(kernel, xen, info.domid)
        self._hvm = HvmState(kernel, info.domid)
        self._pages = DomainPages(kernel, info.domid)
        self._told = np.zeros(MOST_GFN, np.bool_)
        """By the guest's number, whether the stream has a page. Only what is touched takes memory."""
        self._end = 0
        """No page had this number or a higher one."""
        self.sent = 0
        """How many pages were written."""

    def begin(self, patience: float = 0) -> Task[None]:
        """Headers, and what does not change. Nobody has to wait for a PVH guest, whose pages Xen knows."""
        writer = self._writer
        version = self._kernel.hypercalls.hypercall_xen_version(int(XENVER_version))
        yield from writer.raw(libxc.headers(GuestKind.X86_HVM, version >> 16, version & 0xFFFF))
        leaves, msrs = self._state.policy()
        yield from writer.write(LibxcRecord.X86_CPUID_POLICY, leaves)
        yield from writer.write(LibxcRecord.X86_MSR_POLICY, msrs)
        yield from writer.write(LibxcRecord.STATIC_DATA_END)
        yield from self.look()

    def look(self) -> Task[None]:
        """Find out anew what pages the domain has, and say which it has no more. What Xen shows it, such as shared_info and the
        grant table, is not its own.
        """
        gfns, frames = yield from frames_of(self._kernel, self._xen, self._info.domid)
        places = np.zeros(MOST_GFN, np.uint64)
        places[gfns.astype(np.intp)] = frames + np.uint64(1)
        self._end = max(self._end, int(gfns.max(initial=0)) + 1)
        ordinary, gone = yield from self._compare(places)
        self.memory = HvmMemory(ordinary, places)
        for first in range(0, len(gone), AT_ONCE):
            part = gone[first : first + AT_ONCE]
            absent = PageData(part, np.full(len(part), XTAB, np.uint64), NO_PAGES)
            yield from self._writer.write(LibxcRecord.PAGE_DATA, *page_data.pack(absent))

    def _compare(self, places: Words) -> Task[tuple[Words, Words]]:
        """The pages that there are, and those that the stream has and that are there no more; now it has not."""
        found, gone = [], []
        for first in range(0, self._end, LOOKED_AT_AT_ONCE):
            there, told = (all_of[first : first + LOOKED_AT_AT_ONCE] for all_of in (places, self._told))
            found.append(np.flatnonzero(there) + first)
            gone.append(np.flatnonzero(told & (there == 0)) + first)
            self._told[gone[-1]] = False
            yield NEXT_TURN
        return np.concatenate(found).astype(np.uint64), np.concatenate(gone).astype(np.uint64)

    def read(self, gfns: Words) -> Words:
        """Copies of at most AT_ONCE of its pages, uint64[n, 512], as they are now; of those that a running domain has given away
        since it was looked at, zeros. XenError: the domain has ended, or gives pages away faster than they are read.
        """
        there = np.ones(len(gfns), np.bool_)
        for attempt in range(READ_ATTEMPTS):
            try:
                found = self._pages.read(gfns[there])
                break
            except XenError:
                if attempt == READ_ATTEMPTS - 1:
                    raise
                there = self._still_there(gfns)
        if there.all():
            return found
        pages = np.zeros((len(gfns), 512), np.uint64)
        pages[there] = found
        return pages

    def _still_there(self, gfns: Words) -> npt.NDArray[np.bool_]:
        """Which of these pages are still in the frames where they were. A frame that Dom0 has mapped is the domain's even after
        that: the machine's own table says then that it is no page any more.
        """
        frames = self.memory.places[gfns.astype(np.intp)] - np.uint64(1)
        load = self._kernel.cpu.load
        raw = b"".join(load(MACH2PHYS_VIRT_START + 8 * frame, 8) for frame in frames.tolist())
        parts = [frames[first : first + FRAMES_AT_ONCE] for first in range(0, len(frames), FRAMES_AT_ONCE)]
        still: npt.NDArray[np.bool_] = np.concatenate([self._state.types(part) != XTAB for part in parts])
        still &= np.frombuffer(raw, "<u8") == gfns
        return still

    def pages(
        self,
        gfns: Words,
        seen: Callable[[Words, Words], None] | None = None,
        read: Callable[[], Words] | None = None,
    ) -> Task[None]:
        """Write these pages, as they are now. `seen(gfns, pages)` gets each batch as it is written; `read`
        gives the contents of at most AT_ONCE of them. XenError: the domain has
        ended, or gave one of them away.
        """
        for first in range(0, len(gfns), AT_ONCE):
            part = gfns[first : first + AT_ONCE]
            pages = self.read(part)
            if seen is not None:
                seen(part, pages)
            types = np.zeros(len(part), np.uint64)
            data = PageData(part, types, pages)
            yield from self._writer.write(
                LibxcRecord.PAGE_DATA, *page_data.pack(data.sparse if self._writer.sparse else data)
            )
            self.sent += len(part)
            self._told[part.astype(np.intp)] = True

    def finish(self) -> Task[None]:
        """All that is not memory. XenError."""
        writer, domid = self._writer, self._info.domid
        yield from writer.write(LibxcRecord.X86_TSC_INFO, self._state.tsc().pack())
        yield from writer.write(LibxcRecord.HVM_CONTEXT, gethvmcontext(self._kernel, self._xen, domid))
        values = {int(index): self._hvm.param(index) for index in SAVED_PARAMS}
        params = {index: value for index, value in values.items() if value}
        yield from writer.write(LibxcRecord.HVM_PARAMS, *pack_params(params))
        yield from writer.write(LibxcRecord.END)
