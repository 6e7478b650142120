"""A 64-bit paravirtual guest without a CPU: it makes hypercalls, which the real core performs; its frames can be looked at."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from domains.lab.in_process import XenInProcess, build_pv
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.domain.lifecycle import create_domain
from hypervisor.machine.frame_types import PGT
from hypervisor.machine.paging import PV64, pte_mfn
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, VAddr
from hypervisor.public.xen import DOMID_SELF, Hypercall, mmuext_op

PAGES: Final = 1024
BASE: Final = VAddr(0xFFFF_FFFF_8000_0000)
U64: Final = (1 << 64) - 1


class Uses(NamedTuple):
    """What the frame table says of a frame: its type, how many uses hold that, and how many references there are in all."""

    type: str
    type_count: int
    references: int


class PlayedGuest:
    """One domain of PAGES pages, with page tables as the toolstack makes them; `scratch` is a page of its own for arguments."""

    def __init__(self, xen: XenInProcess) -> None:
        self.xen = xen
        self.domain = create_domain(xen.hv, xen.hv.free_domid(), max_pages=2 * PAGES)
        image = PvImage([Segment(BASE, b"laboratory", PAGE_SIZE)], BASE, BASE)
        self.layout, self.p2m = build_pv(xen, self.domain, image, PAGES)
        self.vcpu = self.domain.vcpus[0]
        self.scratch = self.layout.vaddr(self.layout.boot_stack) + PAGE_SIZE

    def call(self, number: Hypercall, *args: int) -> int:
        """A hypercall's result."""
        answer = self.xen.perform(self.vcpu, int(number), *(arg & U64 for arg in args))
        assert answer is not None
        return answer[0]

    def put(self, data: bytes) -> int:
        """Arguments, in the guest's memory; where."""
        self.xen.hv.mmu.guest.copy_to_guest(self.vcpu.mem, self.scratch, data)
        return self.scratch

    def mmu_update(self, *changes: tuple[int, int]) -> int:
        """(machine address of an entry, its new value) each."""
        at = self.put(b"".join(struct.pack("<2Q", *change) for change in changes))
        return self.call(Hypercall.mmu_update, at, len(changes), 0, DOMID_SELF)

    def extended(self, command: int, mfn: int = 0) -> int:
        """One mmuext_op."""
        op = mmuext_op(cmd=int(command))
        op.arg1.mfn = mfn
        return self.call(Hypercall.mmuext_op, self.put(op.pack()), 1, 0, DOMID_SELF)

    def set_gdt(self, *mfns: int) -> int:
        """A GDT of these frames."""
        at = self.put(struct.pack(f"<{len(mfns)}Q", *mfns))
        return self.call(Hypercall.set_gdt, at, len(mfns) * PAGE_SIZE // 8)

    def spare(self) -> int:
        """A frame of its own that nothing maps."""
        return int(self.xen.hv.mmu.allocator.alloc_page(self.domain.mem))

    def write(self, mfn: int, slot: int, value: int) -> None:
        """A store of the guest's, as through a writable mapping."""
        self.xen.memory.frames[mfn, slot] = value

    def entry_for(self, va: int, level: int) -> int:
        """The machine address of the entry that maps `va` in its table of this level."""
        table = int(self.vcpu.mem.cr3 or 0)
        for above in range(PV64.levels, level, -1):
            table = pte_mfn(int(self.xen.memory.frames[table, PV64.index(va, above)]))
        return table << PAGE_SHIFT | PV64.index(va, level) * PV64.entry_size

    def uses(self, mfn: int) -> Uses:
        """What the frame table says."""
        frames = self.xen.hv.mmu.frames
        count = int(frames.tcount[mfn])
        return Uses(PGT(frames.type[mfn]).name if count else "–", count, int(frames.refs[mfn]))
