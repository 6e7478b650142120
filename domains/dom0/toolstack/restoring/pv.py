"""A PV domain's contents out of libxc's stream: which record may come when, and what it says.

    static data     X86_PV_INFO, X86_CPUID_POLICY, X86_MSR_POLICY; STATIC_DATA_END
    then, at will   X86_PV_P2M_FRAMES ─► PAGE_DATA …; X86_TSC_INFO, SHARED_INFO, X86_PV_VCPU_… of each vCPU
    END             all is put together; Xen checks page tables and registers

Whatever is missing, twice, in the wrong place, or refused by Xen is a StreamError that names its record.
Source: Xen docs/specs/libxc-migration-stream.pandoc, tools/libs/guest/xg_sr_restore.c, xg_sr_restore_x86_pv.c.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np

from domains.control.description import DomainConfig
from domains.dom0.toolstack.builder.memory_map import set_memory_map
from domains.dom0.toolstack.builder.rings import Built, seed_grants
from domains.dom0.toolstack.domain_pages import DomainPages
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.restoring.contents import Contents
from domains.dom0.toolstack.restoring.pv_memory import PvRestoredMemory
from domains.dom0.toolstack.restoring.pv_vcpus import PvRestoredVcpus
from domains.dom0.toolstack.restoring.static_data import read_static_data
from domains.dom0.toolstack.stream import page_data
from domains.dom0.toolstack.stream.framing import Record, RecordReader
from domains.dom0.toolstack.stream.libxc import LibxcRecord
from domains.dom0.toolstack.stream.pv_records import (
    exactly,
    unpack_p2m_frames,
    unpack_pv_info,
    unpack_vcpu_blob,
)
from domains.dom0.toolstack.xenctrl import MAXMEM_CONSTANT, XenCtrl
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.public.abi import COMPAT, NATIVE, Abi
from hypervisor.public.arch_x86.xen import XEN_LEGACY_MAX_VCPUS
from hypervisor.public.errno import XenError
from hypervisor.public.memory import E820_RAM, e820entry
from hypervisor.public.types import PAGE_SIZE, PAGES_PER_MIB, DomId, Mfn
from hypervisor.public.xen import shared_info, vcpu_info

VCPU_RECORDS: Final = {
    LibxcRecord.X86_PV_VCPU_BASIC: "basic",
    LibxcRecord.X86_PV_VCPU_EXTENDED: "extended",
    LibxcRecord.X86_PV_VCPU_XSAVE: "xsave",
    LibxcRecord.X86_PV_VCPU_MSRS: "msrs",
}


class PvRestorer(Contents):
    """Fills one new domain."""

    WHOSE = "a PV domain"
    NEEDED = (LibxcRecord.X86_TSC_INFO, LibxcRecord.SHARED_INFO)

    def __init__(
        self, kernel: Kernel, xen: XenCtrl, domid: DomId, config: DomainConfig, records: RecordReader
    ) -> None:
        super().__init__(kernel, xen, domid, config, records)
        self._pages = DomainPages(kernel, domid)
        self._shared_info: bytes | None = None
        self._abi: Abi
        self._memory: PvRestoredMemory
        self._vcpus: PvRestoredVcpus

    def restore(self) -> Task[Built]:
        """Read the stream up to END. StreamError, XenError."""
        width = {int(LibxcRecord.X86_PV_INFO): self._set_width}
        yield from read_static_data(self._records, self._state, width)
        config, xen, domid = self._config, self._xen, self._domid
        xen.max_vcpus(domid, config.maxvcpus)
        xen.max_mem(domid, config.memory * 1024 + MAXMEM_CONSTANT)
        whole = e820entry(size=config.maxmem << 20, type=int(E820_RAM))
        set_memory_map(self._kernel.hypercalls, domid, [whole])
        most = max(config.maxmem, config.memory) * PAGES_PER_MIB
        self._memory = PvRestoredMemory(self._kernel, xen, domid, most, self._abi.word)
        self._vcpus = PvRestoredVcpus(self._kernel, xen, domid, config.maxvcpus, self._abi)
        end = yield from self._take_all()
        return (yield from self._complete(end))

    def _set_width(self, record: Record) -> None:
        self._abi = NATIVE if unpack_pv_info(record) == NATIVE.word else COMPAT
        try:
            if self._abi is COMPAT:
                self._xen.set_address_size(self._domid, COMPAT.address_size)
        except XenError as error:
            raise record.wrong(f"Xen refuses a guest of this width: {error}") from None

    # --- records -----------------------------------------------------------------------------------

    def _p2m_frames(self, record: Record) -> Task[None]:
        self._memory.p2m_frames(record, unpack_p2m_frames(record, self._abi.word))
        yield NEXT_TURN

    def _page_data(self, record: Record) -> Task[None]:
        return self._memory.page_data(record, page_data.unpack(record))

    def _shared(self, record: Record) -> Task[None]:
        self._once(record)
        exactly(record, PAGE_SIZE)
        self._shared_info = bytes(record.body)
        yield NEXT_TURN

    def _vcpu(self, record: Record) -> Task[None]:
        name = VCPU_RECORDS[LibxcRecord(record.type)]
        self._vcpus.take(record, name, unpack_vcpu_blob(record, self._config.maxvcpus))
        yield NEXT_TURN

    HANDLERS = {
        LibxcRecord.X86_PV_P2M_FRAMES: _p2m_frames,
        LibxcRecord.PAGE_DATA: _page_data,
        LibxcRecord.X86_TSC_INFO: Contents._tsc_info,
        LibxcRecord.SHARED_INFO: _shared,
        **dict.fromkeys(VCPU_RECORDS, _vcpu),
    }

    # --- the end -----------------------------------------------------------------------------------

    def _complete(self, end: Record) -> Task[Built]:
        end.need(len(self._memory.p2m) > 0, "no X86_PV_P2M_FRAMES came before")
        yield from self._memory.finish()
        frame = self._write_shared_info()
        pins = self._memory.pins()
        leaves = [(pfn, level) for pfn, level in pins if level == 1]
        yield from self._pin(leaves)  # piece by piece: a vCPU's CR3 has all below it checked at once
        built = yield from self._vcpus.restore(self._memory, end, frame)
        yield from self._pin(pins[len(leaves) :])
        table = self._xen.grant_table_frame(self._domid)
        seed_grants(self._kernel, self._domid, table, built.store_mfn, built.console_mfn)
        return built

    def _pin(self, tables: Iterable[tuple[int, int]]) -> Task[None]:
        """Have Xen check these page tables, each a page and its level, and keep them checked. ToolstackError."""
        for pfn, level in tables:
            frame = self._memory.table_frame(pfn, level)
            try:
                if frame is not None:
                    self._xen.pin_table(self._domid, Mfn(frame), level)
            except XenError as error:
                raise ToolstackError(
                    f"libxc's PAGE_DATA of page {pfn:#x}: Xen refuses this page table of level {level}: {error}"
                ) from None
            yield NEXT_TURN

    def _write_shared_info(self) -> Mfn:
        """What the guest had there, but for the wall clock and events: no port is bound yet, and each is masked."""
        info = self._xen.getdomaininfo(self._domid)
        if info is None:
            raise ToolstackError(f"domain {self._domid} has disappeared while it was made")
        frame = np.array([info.shared_info_frame], np.uint64)
        layout = self._abi.layout(shared_info)
        old, new = self._shared_info, bytearray(self._pages.read(frame).tobytes())
        assert old is not None
        vcpus = layout.offsetof("vcpu_info")
        arch, pending = layout.offsetof("arch"), layout.offsetof("evtchn_pending")
        mask, clock = layout.offsetof("evtchn_mask"), layout.offsetof("wc_version")
        new[vcpus:pending] = old[vcpus:pending]
        new[arch : layout.sizeof] = old[arch : layout.sizeof]
        new[pending:mask] = bytes(mask - pending)
        new[mask:clock] = b"\xff" * (clock - mask)
        word, lists = self._abi.word, layout.offsetof("arch.pfn_to_mfn_frame_list_list")
        new[lists : lists + word] = bytes(word)
        selector = self._abi.layout(vcpu_info).offsetof("evtchn_pending_sel")
        for vcpu in range(XEN_LEGACY_MAX_VCPUS):
            at = vcpus + vcpu * vcpu_info.sizeof + selector
            new[at : at + word] = bytes(word)
        self._pages.write(frame, np.frombuffer(new, "<u8").reshape(1, PAGE_SIZE >> 3))
        return info.shared_info_frame
