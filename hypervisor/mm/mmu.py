"""Memory management's parts wired together; one instance per machine. Knows no sockets.

    frames ── allocator ── reservation
       └───── types (validate, devalidate, linear) ── updates ── va_mapping, mmu_update
                  │                                 ├ pins, bases, descriptors
                  └── tables ── walker ── guest     └ grant entries, relinquish

The methods here are what other rooms use; the hypercall decoders reach for the parts themselves.
"""

import numpy as np

from hypervisor.machine.memory import MachineMemory
from hypervisor.mm import xen_slots
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.base_pointers import BasePointers
from hypervisor.mm.budget import Budget, Slice
from hypervisor.mm.descriptors import Descriptors
from hypervisor.mm.domain_memory import DomainMemory, Flush, OnExtent, VcpuMemory
from hypervisor.mm.extents import Extents, MachineSpace
from hypervisor.mm.frame_table import NO_OWNER, PGT, FrameTable
from hypervisor.mm.grant_entries import GrantEntries
from hypervisor.mm.guest_memory import GuestMemory
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.mm.live import Live
from hypervisor.mm.m2p import M2P
from hypervisor.mm.mmu_update import MmuUpdate
from hypervisor.mm.mmuext import Pins
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.relinquish import Relinquish
from hypervisor.mm.reservation import Reservation
from hypervisor.mm.tables import Tables
from hypervisor.mm.update import Updates
from hypervisor.mm.va_mapping import VaMapping
from hypervisor.mm.walk import Walk, Walker
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId, Mfn


class Mmu:
    """The memory management of one machine."""

    def __init__(
        self,
        memory: MachineMemory,
        frames: FrameTable,
        domains: dict[DomId, DomainMemory],
        *,
        quota_frames: int,
        flush: Flush,
        on_extent: OnExtent,
    ) -> None:
        """`memory` has the Xen memfd (layout.XEN_FRAMES frames) mapped writable at MFN 0, and only it.

        `domains` has an entry for each domain from `create` to `release_extents`. `quota_frames` bounds the sum of
        all domains' frames.
        """
        self.frames = frames
        self.domains = domains
        self.live = Live(memory)
        self.m2p = M2P(self.live)
        self.space = MachineSpace(memory, frames)
        self.tables = Tables(self.live)
        self.allocator = Allocator(frames, self.live, self.m2p, self.space, domains, quota_frames, on_extent)
        self.types = PageTypes(frames, self.live, self.tables, domains, flush)
        self.walker = Walker(self.live, self.tables)
        self.guest = GuestMemory(self.live, self.walker)
        self.updates = Updates(self.types)
        self.mmu_update = MmuUpdate(self.updates, self.m2p, domains)
        self.va_mapping = VaMapping(self.updates, self.walker)
        self.descriptors = Descriptors(self.types, self.walker)
        self.bases = BasePointers(self.types, self.descriptors)
        self.pins = Pins(self.types)
        self.grant_entries = GrantEntries(self.types, self.walker)
        self.reservation = Reservation(self.allocator)
        self._relinquish = Relinquish(self.types, self.allocator, self.bases)
        xen_slots.build_machine(self.live, frames)

    # --- domains --------------------------------------------------------------------------------------

    def create(
        self,
        domid: DomId,
        fd: int,
        memfd_frames: int,
        *,
        max_pages: int,
        privileged: bool,
        nr_vcpus: int = 1,
    ) -> DomainMemory:
        """A new domain without frames of its own. XenError(ENOMEM): not even its per-domain window fits; it is gone.

        `fd` is its memfd of `memfd_frames` frames: max_pages rounded up to extents, plus one extent for XEN frames
        at least. It stays the caller's, and open until release_extents.
        """
        d = DomainMemory(domid, max_pages, Extents(self.space, fd, memfd_frames), privileged)
        self.domains[domid] = d
        try:
            d.window = xen_slots.build_window(self.allocator, d)
            for _ in range(nr_vcpus):
                self.add_vcpu(d)
        except XenError:
            self._uncreate(d)
            raise
        return d

    def _uncreate(self, d: DomainMemory) -> None:
        """Give back what a window that does not fit had so far: all that `d` has."""
        for base in d.extents.bases:
            owned = np.flatnonzero(self.frames.owner_np[base : base + EXTENT_FRAMES] == d.domid)
            for mfn in (base + owned).tolist():
                self.allocator.free_xen_page(mfn)
        self.release_extents(d)

    def add_vcpu(self, d: DomainMemory) -> VcpuMemory:
        """One more vCPU of `d`, numbered in order, with its part of the window. XenError(ENOMEM)."""
        v = VcpuMemory(len(d.vcpus), d)
        xen_slots.add_vcpu(self.allocator, d, v.vcpu_id)
        d.vcpus.append(v)
        return v

    def extents_of(self, d: DomainMemory) -> list[tuple[Mfn, int]]:
        """(first MFN, frames) of each extent of `d`."""
        return [(Mfn(base), EXTENT_FRAMES) for base in d.extents.bases]

    @property
    def free_frames(self) -> int:
        """Frames of the quota that nobody has."""
        return self.allocator.quota_frames - self.allocator.used_frames

    def relinquish(self, d: DomainMemory, budget: Budget) -> bool:
        """Take a dying domain's memory apart, restartably (K2, K3). True when done."""
        d.dying = True
        return self._relinquish.relinquish(d, budget)

    def release_extents(self, d: DomainMemory) -> bool:
        """Give a dead domain's address space back and forget it; call when its process is gone.

        False while somebody still holds one of its frames (K4): then ask again later.
        """
        owners = self.frames.owner_np
        if any((owners[base : base + EXTENT_FRAMES] != NO_OWNER).any() for base in d.extents.bases):
            return False
        d.extents.release()
        del self.domains[d.domid]
        return True

    # --- frames ---------------------------------------------------------------------------------------

    def alloc_page(self, d: DomainMemory) -> Mfn:
        """A zeroed frame of `d`, refs 1, ALLOCATED, counted in tot_pages. XenError(ENOMEM)."""
        return self.allocator.alloc_page(d)

    def alloc_xen_page(self, d: DomainMemory, *, writable: bool) -> Mfn:
        """A zeroed XEN frame of `d` that its guest may map read-only, or also writable (F12). XenError(ENOMEM)."""
        return self.allocator.alloc_xen_page(d, writable=writable)

    def free_xen_page(self, mfn: Mfn) -> None:
        """Give back a XEN frame; it stays until the guest's last mapping is gone."""
        self.allocator.free_xen_page(mfn)

    def get_page(self, mfn: Mfn, domid: DomId) -> None:
        """A general reference on a frame of `domid` (F11). XenError(EINVAL)."""
        self.frames.get_page(mfn, domid)

    def put_page(self, mfn: Mfn) -> None:
        """Drop a general reference; the last one frees the frame."""
        self.frames.put_page(mfn)

    def get_page_and_type(self, mfn: Mfn, domid: DomId, pgt: PGT) -> None:
        """A general reference and one of type writable_page or seg_desc_page. XenError(EINVAL)."""
        self.types.get_page_and_type(mfn, domid, pgt)

    def put_page_and_type(self, mfn: Mfn) -> None:
        """Drop what get_page_and_type took."""
        self.types.put_page_and_type(mfn)

    def steal_page(self, mfn: Mfn, d: DomainMemory) -> None:
        """Take an ALLOCATED frame with no other reference away from `d` (F13). XenError(EINVAL).

        It is nobody's then; assign_copy or unsteal_page must follow before the hypercall returns.
        """
        self.allocator.steal_page(mfn, d)

    def unsteal_page(self, mfn: Mfn, d: DomainMemory) -> None:
        """Undo steal_page."""
        self.allocator.unsteal_page(mfn, d)

    def assign_copy(self, mfn: Mfn, source: DomainMemory, to: DomainMemory) -> Mfn:
        """The content of a frame stolen from `source` in a new frame of `to`; the old one is free then.

        XenError(ENOMEM): `to` may not have more; the frame is still stolen.
        """
        return self.allocator.assign_copy(mfn, source, to)

    # --- addresses ------------------------------------------------------------------------------------

    def walk(self, v: VcpuMemory, va: int, *, write: bool = False, user: bool = False) -> Walk:
        """Translate through the validated copies. XenError(EFAULT)."""
        return self.walker.walk(v, va, write=write, user=user)

    def copy_from_guest(self, v: VcpuMemory, va: int, size: int) -> bytes:
        """`size` bytes at `va`. XenError(EFAULT) if any of them is not mapped or is the hypervisor's."""
        return self.guest.copy_from_guest(v, va, size)

    def copy_to_guest(self, v: VcpuMemory, va: int, data: bytes) -> None:
        """XenError(EFAULT) if any byte is not mapped writable; nothing is written then."""
        self.guest.copy_to_guest(v, va, data)

    def create_grant_mapping(self, v: VcpuMemory, addr: int, mfn: Mfn, flags: int) -> None:
        """Write the L1 entry that a grant map asks for, with references of its own. XenError(EINVAL).

        `flags`: GNTMAP_*; with contains_pte `addr` is the entry's machine address, else the virtual address.
        """
        self.grant_entries.create(v, addr, mfn, flags)

    def destroy_grant_mapping(self, v: VcpuMemory, addr: int, mfn: Mfn, flags: int) -> None:
        """Clear that entry, which must still map `mfn` with the same P and RW (G8). XenError(EINVAL)."""
        self.grant_entries.destroy(v, addr, mfn, flags)

    def replace_grant_mapping(self, v: VcpuMemory, addr: int, mfn: Mfn, new_addr: int, flags: int) -> None:
        """Put the L1 entry of virtual address `new_addr` where the grant is mapped. XenError(EINVAL)."""
        self.grant_entries.replace(v, addr, mfn, new_addr, flags)

    def emulate_pte_write(self, v: VcpuMemory, va: int, size: int, value: int, old: int | None = None) -> int:
        """A store to an L1 of the guest's own that `va` maps read-only (P12): 0. XenError(EFAULT): a page fault.

        With `old` it is a cmpxchg: 1 if the entry held another value.
        """
        return 0 if self.va_mapping.ptwr_emulated_update(v, va, size, value, old) else 1

    # --- a vCPU's registers ------------------------------------------------------------------------------

    def set_base_pointers(self, v: VcpuMemory, l4: int, user_l4: int, budget: Budget) -> None:
        """The first CR3s of a vCPU that does not run yet; 0: no user table (D6). Restart: ask again.

        XenError: neither is its own. What had been taken goes with the vCPU's next operation, or its end.
        """
        s = Slice(v, budget)
        self.types.finish_old_table(s)
        self.bases.new_baseptr(v, l4, s)
        try:
            self.bases.new_user_baseptr(v, user_l4, s)
        except XenError:
            if v.old_table is None and v.cr3 is not None:
                self.types.park(v, v.cr3, partial=False)
                v.cr3 = None
            raise
