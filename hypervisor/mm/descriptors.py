"""GDT and LDT of a vCPU: frames typed seg_desc, shown in the per-domain window (D1–D3, X6).

The GDT's frames are named by the guest and all taken at once; the LDT is named by address and each of its pages is
taken when the CPU first touches it. While a frame is in use it is mapped writable nowhere (F4).
"""

from hypervisor.machine.descriptor_window import LDT_FIRST_PAGE, MAX_LDT_ENTRIES
from hypervisor.machine.frame_types import SEG_DESC, WRITABLE
from hypervisor.machine.paging import PAGE_PRESENT, pte_mfn
from hypervisor.mm import xen_slots
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.walk import Walker
from hypervisor.public.arch_x86.xen import FIRST_RESERVED_GDT_ENTRY
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import Mfn


class Descriptors:
    """Descriptor tables of vCPUs."""

    def __init__(self, types: PageTypes, walker: Walker) -> None:
        self.types = types
        self.walker = walker

    def set_gdt(self, v: VcpuMemory, frames: list[int], entries: int) -> None:
        """The first ceil(entries / 512) of `frames` become the GDT, or nothing changes (D1). XenError(EINVAL)."""
        if not 0 <= entries <= FIRST_RESERVED_GDT_ENTRY:
            raise XenError(Errno.EINVAL, f"D1: a GDT of {entries} entries")
        wanted = frames[: -(-entries // 512)]
        taken: list[Mfn] = []
        try:
            for mfn in wanted:
                self.types.get_page_and_type(mfn, v.domain.domid, SEG_DESC)
                taken.append(Mfn(mfn))
        except XenError:
            for mfn in taken:
                self.types.put_page_and_type(mfn)
            raise
        self.drop_gdt(v)
        v.gdt_frames, v.gdt_entries = taken, entries
        self._show_gdt(v)
        v.cpu.load_gdt(entries, taken)

    def drop_gdt(self, v: VcpuMemory) -> None:
        """No GDT of its own any more."""
        old, v.gdt_frames, v.gdt_entries = v.gdt_frames, [], 0
        window = v.domain.window
        for page, mfn in enumerate(old):
            if window is not None:
                xen_slots.clear_page(self.types.contents, window, v.vcpu_id, page)
            self.types.put_page_and_type(mfn)

    def _show_gdt(self, v: VcpuMemory) -> None:
        if v.domain.window is not None:
            for page, mfn in enumerate(v.gdt_frames):
                xen_slots.map_page(self.types.contents, v.domain.window, v.vcpu_id, page, mfn)

    def update_descriptor(self, v: VcpuMemory, maddr: int, descriptor: int) -> None:
        """Write one checked descriptor into a frame of the caller's own (D3). XenError(EINVAL)."""
        if maddr & 7:
            raise XenError(Errno.EINVAL, f"D3: descriptor at {maddr:#x} is not aligned")
        descriptor = v.domain.rules.checked_descriptor(descriptor)
        types, mfn = self.types, maddr >> 12
        types.frames.get_page(mfn, v.domain.domid)
        try:
            types.get_type(mfn, SEG_DESC if types.frames.type[mfn] == SEG_DESC else WRITABLE)
            try:
                types.contents.write_word(maddr, descriptor)
            finally:
                types.put_type(mfn)
        finally:
            types.frames.put_page(mfn)

    def set_ldt(self, v: VcpuMemory, base: int, entries: int) -> None:
        """Name the LDT; its pages are taken when touched (X6). XenError(EINVAL)."""
        if not entries:
            base = 0
        if entries > MAX_LDT_ENTRIES or (entries and (base & 4095 or not v.domain.rules.addr_ok(base))):
            raise XenError(Errno.EINVAL, f"X6: an LDT of {entries} entries at {base:#x}")
        if (v.ldt_base, v.ldt_entries) == (base, entries):
            return
        if self.drop_ldt_pages(v):
            v.cpu.flush_tlb()
        v.ldt_base, v.ldt_entries = base, entries
        v.cpu.load_ldt(base, entries)

    def drop_ldt_pages(self, v: VcpuMemory) -> bool:
        """Give all pages of the LDT back; True if there were any."""
        old, v.ldt_frames = v.ldt_frames, {}
        for page, mfn in old.items():
            if v.domain.window is not None:
                xen_slots.clear_page(self.types.contents, v.domain.window, v.vcpu_id, LDT_FIRST_PAGE + page)
            self.types.put_page_and_type(mfn)
        return bool(old)

    def map_ldt_page(self, v: VcpuMemory, offset: int) -> bool:
        """The CPU touched byte `offset` of the LDT: take the page there as seg_desc and show it (X6, XSA-298).

        False: beyond the limit, not mapped, or refused: the guest gets its fault.
        """
        page = offset >> 12
        if not 0 <= offset >> 3 < v.ldt_entries:
            return False
        if page in v.ldt_frames:
            return True
        va = v.ldt_base + (page << 12)
        walked = self.walker.to_l1(v, va)
        entry = walked.words[va >> 12 & 511] if walked is not None else 0
        if not entry & PAGE_PRESENT:
            return False
        mfn = Mfn(pte_mfn(entry))
        try:
            self.types.get_page_and_type(mfn, v.domain.domid, SEG_DESC)
        except XenError:
            return False
        v.ldt_frames[page] = mfn
        if v.domain.window is not None:
            xen_slots.map_page(self.types.contents, v.domain.window, v.vcpu_id, LDT_FIRST_PAGE + page, mfn)
        return True
