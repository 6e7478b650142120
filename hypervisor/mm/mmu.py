"""Memory management's parts wired together; one instance per machine."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hypervisor.mm.budget import Budget
from hypervisor.mm.domain_memory import DomainMemory, Flush, OnExtent, VcpuMemory
from hypervisor.mm.frame_table import PGT, FrameTable
from hypervisor.mm.walk import Walk
from hypervisor.public.types import DomId, Mfn

if TYPE_CHECKING:
    from hypervisor.machine.memory import MachineMemory


class Mmu:
    """The memory management of one machine. Knows no sockets."""

    def __init__(
        self,
        memory: "MachineMemory",
        frames: FrameTable,
        domains: Mapping[DomId, DomainMemory],
        *,
        quota_frames: int,
        flush: Flush,
        on_extent: OnExtent,
    ) -> None:
        """`memory` has the Xen memfd (layout.XEN_FRAMES frames) mapped writable at MFN 0.

        `domains` is read whenever a request names a domain. `quota_frames` bounds the sum of all domains' frames.
        """
        raise NotImplementedError

    def create(
        self, domid: DomId, fd: int, memfd_frames: int, *, max_pages: int, privileged: bool, nr_vcpus: int = 1
    ) -> DomainMemory:
        """A new domain without frames. `fd` is its memfd of `memfd_frames` frames, owned by the caller."""
        raise NotImplementedError

    def alloc_page(self, d: DomainMemory) -> Mfn:
        """A zeroed frame of `d`, refs 1, ALLOCATED, counted in tot_pages. XenError(ENOMEM)."""
        raise NotImplementedError

    def alloc_xen_page(self, d: DomainMemory, *, writable: bool) -> Mfn:
        """A zeroed XEN frame of `d` that its guest may map read-only, or also writable (F12). XenError(ENOMEM)."""
        raise NotImplementedError

    def free_xen_page(self, mfn: Mfn) -> None:
        """Give back a XEN frame; it stays until the guest's last mapping is gone."""
        raise NotImplementedError

    def get_page(self, mfn: Mfn, domid: DomId) -> None:
        """A general reference on a frame of `domid` (F11). XenError(EINVAL)."""
        raise NotImplementedError

    def put_page(self, mfn: Mfn) -> None:
        """Drop a general reference; the last one frees the frame."""
        raise NotImplementedError

    def get_page_and_type(self, mfn: Mfn, domid: DomId, pgt: PGT) -> None:
        """A general reference and a type reference. XenError(EINVAL)."""
        raise NotImplementedError

    def put_page_and_type(self, mfn: Mfn) -> None:
        raise NotImplementedError

    def steal_page(self, mfn: Mfn, d: DomainMemory) -> None:
        """Take an ALLOCATED frame with no other reference away from `d` (F13). XenError(EINVAL)."""
        raise NotImplementedError

    def assign_copy(self, mfn: Mfn, to: DomainMemory) -> Mfn:
        """The content of a stolen frame in a new frame of `to`; the old one is freed. XenError(ENOMEM)."""
        raise NotImplementedError

    def walk(self, v: VcpuMemory, va: int, *, write: bool = False, user: bool = False) -> Walk:
        """Translate through the validated copies. XenError(EFAULT)."""
        raise NotImplementedError

    def copy_from_guest(self, v: VcpuMemory, va: int, size: int) -> bytes:
        """`size` bytes at `va`. XenError(EFAULT) if any of them is not mapped or is the hypervisor's."""
        raise NotImplementedError

    def copy_to_guest(self, v: VcpuMemory, va: int, data: bytes) -> None:
        """XenError(EFAULT) if any byte is not mapped writable; nothing is written then."""
        raise NotImplementedError

    def create_grant_mapping(self, v: VcpuMemory, addr: int, mfn: Mfn, flags: int) -> None:
        """Write the L1 entry that a grant map asks for. `flags`: GNTMAP_*; with contains_pte `addr` is the machine
        address of the entry, else the virtual address to map. The caller holds the references for the mapping: they
        belong to the grant, and are dropped by it when the mapping is destroyed. XenError(EINVAL)."""
        raise NotImplementedError

    def destroy_grant_mapping(self, v: VcpuMemory, addr: int, mfn: Mfn, flags: int) -> None:
        """Clear that entry; it must still name `mfn` with the same P and RW (G8). XenError(EINVAL)."""
        raise NotImplementedError

    def replace_grant_mapping(self, v: VcpuMemory, addr: int, mfn: Mfn, new_addr: int, flags: int) -> None:
        """Move the L1 entry at the virtual address `new_addr` to where the grant was mapped, clearing it there."""
        raise NotImplementedError

    def relinquish(self, d: DomainMemory, budget: Budget) -> bool:
        """Take a dying domain's memory apart, restartably (K2, K3). True when done."""
        raise NotImplementedError

    def release_extents(self, d: DomainMemory) -> bool:
        """Give a dead domain's address space back; call when its process is gone. False while a frame is held."""
        raise NotImplementedError
