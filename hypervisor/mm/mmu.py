"""Memory management's parts wired together; one instance per machine. Knows no sockets.

    frames ── allocator ── reservation
       └───── types (validate, devalidate, linear) ── updates ── va_mapping, mmu_update
                  │                                 ├ pins, bases, descriptors
                  └── tables ── walker ── guest     └ grant entries, relinquish

The methods here are what other rooms use; the hypercall decoders reach for the parts themselves.
"""

from typing import Any

import numpy as np

from hypervisor.machine.frame_types import NO_OWNER
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.trace import Trace
from hypervisor.mm import xen_slots
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.base_pointers import BasePointers
from hypervisor.mm.budget import Budget
from hypervisor.mm.contents import Contents
from hypervisor.mm.descriptors import Descriptors
from hypervisor.mm.domain_memory import (
    DomainMemory,
    Flush,
    OnExtent,
    VcpuMemory,
    restore_domain,
    snapshot_domain,
)
from hypervisor.mm.extents import Extents, MachineSpace
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.grant_entries import GrantEntries
from hypervisor.mm.guest_memory import GuestMemory
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.mm.m2p import M2P
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.physmap import Physmap
from hypervisor.mm.pins import Pins
from hypervisor.mm.posted import Posted
from hypervisor.mm.relinquish import Relinquish
from hypervisor.mm.reservation import Reservation
from hypervisor.mm.tables import Tables
from hypervisor.mm.update import Updates
from hypervisor.mm.update_requests import UpdateRequests
from hypervisor.mm.va_mapping import VaMapping
from hypervisor.mm.walk import Walker
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId


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
        trace: Trace | None = None,
    ) -> None:
        """`memory` has the Xen memfd (layout.XEN_FRAMES frames) mapped writable at MFN 0, and only it.

        `domains` has an entry for each domain from `create` to `release_extents`. `quota_frames` bounds the sum of
        all domains' frames.
        """
        self.frames = frames
        self.domains = domains
        self.contents = Contents(memory)
        self.m2p = M2P(self.contents)
        self.space = MachineSpace(memory, frames)
        self.tables = Tables(self.contents)
        self.allocator = Allocator(
            frames, self.contents, self.m2p, self.space, domains, quota_frames, on_extent
        )
        self.types = PageTypes(frames, self.contents, self.tables, domains, flush, trace or Trace())
        self.walker = Walker(self.contents, self.tables)
        self.guest = GuestMemory(self.contents, self.walker)
        self.updates = Updates(self.types)
        self.update_requests = UpdateRequests(self.updates, self.m2p, domains)
        self.va_mapping = VaMapping(self.updates, self.walker)
        self.descriptors = Descriptors(self.types, self.walker)
        self.bases = BasePointers(self.types, self.descriptors)
        self.posted = Posted(self.updates, self.bases)
        self.pins = Pins(self.types)
        self.grant_entries = GrantEntries(self.types, self.walker)
        self.physmap = Physmap(self.types, self.allocator)
        self.reservation = Reservation(self.allocator, self.physmap)
        self._relinquish = Relinquish(self.types, self.allocator, self.bases, self.physmap)
        xen_slots.build_machine(self.contents, frames)

    # --- written down and read back -----------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All of the machine's frames, page types, the core's copies of tables, and its domains, as plain data.

        What is in the frames is not: neither the guests' memory nor the M2P.
        """
        return {
            "frames": self.frames.snapshot(),
            "tables": self.tables.snapshot(),
            "space": self.space.snapshot(),
            "quota_frames": self.allocator.quota_frames,
            "used_frames": self.allocator.used_frames,
            "domains": [snapshot_domain(d) for d in self.domains.values()],
        }

    def restore(self, record: dict[str, Any], memfds: dict[DomId, int]) -> None:
        """Become what `snapshot` wrote down, in a machine without domains; `memfds` are those of the domains.

        Their frames' contents are put back by the caller, and each vCPU is told its CPU.
        """
        self.frames.restore(record["frames"])
        self.space.restore(record["space"])
        self.tables.restore(record["tables"])
        self.allocator.quota_frames, self.allocator.used_frames = (
            record["quota_frames"],
            record["used_frames"],
        )
        for written in record["domains"]:
            domid = DomId(written["domid"])
            extents = Extents(self.space, memfds[domid], written["extents"]["capacity"])
            self.domains[domid] = restore_domain(written, extents)

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
        translated: bool = False,
    ) -> DomainMemory:
        """A new domain without frames of its own. XenError(ENOMEM): not even its per-domain window fits; it is gone.

        `fd` is its memfd of `memfd_frames` frames: max_pages rounded up to extents, plus one extent for XEN frames
        at least. It stays the caller's, and open until release_extents. `translated`: it has a P2M instead of the window.
        """
        d = DomainMemory(domid, max_pages, Extents(self.space, fd, memfd_frames), privileged)
        self.domains[domid] = d
        try:
            if translated:
                self.physmap.create(d)
            else:
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
        if d.window is not None:
            xen_slots.add_vcpu(self.allocator, d, v.vcpu_id)
        d.vcpus.append(v)
        return v

    def switch_to_compat(self, d: DomainMemory) -> None:
        """`d`, which has no memory yet, becomes a 32-bit guest. XenError(ENOMEM): it stays as it is."""
        xen_slots.switch_to_compat(self.allocator, d)

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
