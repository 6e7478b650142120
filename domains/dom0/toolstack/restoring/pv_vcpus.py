"""The vCPUs of a PV domain that is restored, and start_info, through which the guest finds its rings again.

Pages become machine frames: in CR3s, GDT frames, and in vCPU 0's EDX, which names start_info. Source: Xen
tools/libs/guest/xg_sr_restore_x86_pv.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from domains.dom0.toolstack.builder.rings import Built
from domains.dom0.toolstack.domain_pages import DomainPages, Words
from domains.dom0.toolstack.domain_state import DomainState
from domains.dom0.toolstack.restoring.pv_memory import PvRestoredMemory
from domains.dom0.toolstack.stream.framing import Record
from domains.dom0.toolstack.stream.pv_records import VcpuBlob, exactly
from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.abi import Abi
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_ENTRY, VGCF_online, vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_32 import xen_cr3_to_pfn, xen_pfn_to_cr3
from hypervisor.public.domctl_vcpu import xen_domctl_vcpu_msr
from hypervisor.public.errno import XenError
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, Mfn, Port
from hypervisor.public.xen import start_info

ENTRIES_OF_GDT_PAGE: Final = 512


@dataclass
class Blobs:
    """What the stream has of one vCPU, and in which records; None: nothing."""

    basic: tuple[Record, bytes] | None = None
    extended: tuple[Record, bytes] | None = None
    xsave: tuple[Record, bytes] | None = None
    msrs: tuple[Record, bytes] | None = None


class PvRestoredVcpus:
    """Of one domain."""

    def __init__(self, kernel: Kernel, xen: XenCtrl, domid: DomId, vcpus: int, abi: Abi) -> None:
        self._xen = xen
        self._domid = domid
        self._abi = abi
        self._levels = 4 if abi.word == 8 else 3
        self._state = DomainState(kernel, xen, domid)
        self._pages = DomainPages(kernel, domid)
        self._blobs = [Blobs() for _ in range(vcpus)]

    def take(self, record: Record, name: str, blob: VcpuBlob) -> None:
        """One record of a vCPU. StreamError: there was one, or its length is no such record's."""
        blobs = self._blobs[blob.vcpu]
        record.need(getattr(blobs, name) is None, f"vCPU {blob.vcpu} has had one already")
        if not blob.content:  # Xen 4.6 to 4.8 wrote such
            return
        if name == "basic":
            exactly(record, 8 + self._abi.sizeof(vcpu_guest_context))
        if name == "msrs":
            size = xen_domctl_vcpu_msr.sizeof
            record.need(
                not len(blob.content) % size, f"{len(blob.content)} bytes are no whole number of MSRs"
            )
        setattr(blobs, name, (record.bare, blob.content))

    def restore(self, memory: PvRestoredMemory, end: Record, shared_info: int) -> Task[Built]:
        """Give the vCPUs their registers; the rings, of which start_info tells. StreamError."""
        end.need(self._blobs[0].basic is not None, "no X86_PV_VCPU_BASIC of vCPU 0 came before")
        built: Built | None = None
        for vcpu, blobs in enumerate(self._blobs):
            if blobs.basic is None:
                continue
            record, raw = blobs.basic
            layout = self._abi.layout(vcpu_guest_context)
            context = layout.unpack(raw)
            if vcpu == 0:
                built = self._start_info(record, context, memory, shared_info)
            self._localise(record, context, memory)
            try:
                self._xen.setvcpucontext(self._domid, vcpu, layout.unpack(layout.pack(context)))
            except XenError as error:
                raise record.wrong(
                    f"Xen refuses these registers, or the page tables below CR3: {error}"
                ) from None
            self._more(vcpu, blobs)
            yield NEXT_TURN
        assert built is not None
        return built

    def _more(self, vcpu: int, blobs: Blobs) -> None:
        for blob, give in (
            (blobs.extended, self._state.set_extended),
            (blobs.xsave, self._state.set_xsave),
            (blobs.msrs, self._state.set_msrs),
        ):
            if blob is None:
                continue
            record, content = blob
            try:
                give(vcpu, content)
            except XenError as error:
                raise record.wrong(f"Xen refuses it: {error}") from None

    def _localise(self, record: Record, context: Any, memory: PvRestoredMemory) -> None:
        """Machine frames in place of pages. StreamError: a page is not there, or not what it is to be."""

        def table(pfn: int, what: str) -> int:
            frame = memory.table_frame(pfn, self._levels)
            if frame is None:
                raise record.wrong(
                    f"{what} names page {pfn:#x}, which is no page table of level {self._levels}"
                )
            return frame

        context.flags |= int(VGCF_online)
        record.need(context.gdt_ents <= FIRST_RESERVED_GDT_ENTRY, f"a GDT of {context.gdt_ents} entries")
        used = -(-context.gdt_ents // ENTRIES_OF_GDT_PAGE)
        frames = [self._ordinary(record, memory, pfn, "the GDT") for pfn in context.gdt_frames[:used]]
        context.gdt_frames = (*frames, *(0,) * (len(context.gdt_frames) - used))
        control = list(context.ctrlreg)
        if self._levels == 4:
            control[3] = table(control[3] >> PAGE_SHIFT, "CR3") << PAGE_SHIFT
            user = control[1]
            control[1] = table(user >> PAGE_SHIFT, "CR1") << PAGE_SHIFT if user & 1 else 0
        else:
            control[3] = xen_pfn_to_cr3(table(xen_cr3_to_pfn(control[3]), "CR3"))
        context.ctrlreg = tuple(control)

    def _ordinary(self, record: Record, memory: PvRestoredMemory, pfn: int, what: str) -> int:
        frame = memory.ordinary_frame(pfn)
        if frame is None:
            raise record.wrong(f"{what} is in page {pfn:#x}, which is no ordinary page of the domain")
        return frame

    def _start_info(self, record: Record, context: Any, memory: PvRestoredMemory, shared_info: int) -> Built:
        """Have start_info name the machine's frames and new ports."""
        name = "rdx" if self._levels == 4 else "edx"
        registers = context.user_regs
        frame = self._ordinary(record, memory, getattr(registers, name), "start_info")
        setattr(registers, name, frame)
        context.user_regs = registers
        layout = self._abi.layout(start_info)
        page = self._pages.read(_one(frame))
        raw = bytearray(page.tobytes())
        info = layout.unpack(bytes(raw[: layout.sizeof]))
        store = self._ordinary(record, memory, info.store_mfn, "xenstore's ring, as start_info says,")
        console, domu = info.console, info.console.domU
        ring = self._ordinary(record, memory, domu.mfn, "the console's ring, as start_info says,")
        store_port, console_port = (self._xen.alloc_unbound(self._domid, DomId(0)) for _ in range(2))
        info.store_mfn, info.store_evtchn = store, store_port
        domu.mfn, domu.evtchn = ring, console_port
        console.domU = domu
        info.console = console
        info.nr_pages, info.shared_info, info.flags = len(memory.p2m), shared_info << PAGE_SHIFT, 0
        raw[: layout.sizeof] = layout.pack(info)
        self._pages.write(_one(frame), np.frombuffer(raw, "<u8").reshape(1, PAGE_SIZE // 8))
        return Built(Mfn(store), Port(store_port), Mfn(ring), Port(console_port))


def _one(frame: int) -> Words:
    return np.array([frame], np.uint64)
