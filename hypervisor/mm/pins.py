"""mmuext_op's work on page tables and frames: pin and unpin, clear and copy (X1, X2, X5).

Base pointers are in base_pointers.py, the LDT in descriptors.py; TLB operations are effects on the CPU alone.
"""

from hypervisor.machine.frame_types import L1, PINNED, WRITABLE
from hypervisor.mm.budget import Portion, Restart
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.page_types import PageTypes
from hypervisor.public.errno import Errno, XenError


class Pins:
    """Frames that keep their type because their owner said so."""

    def __init__(self, types: PageTypes) -> None:
        self.types = types

    def pin(self, mfn: int, level: int, owner: DomainMemory, portion: Portion) -> None:
        """Take type `level` (1…4) with validation, and hold it until unpinned (X1).

        XenError(EINVAL): not its frame, refused, or pinned already; counts as before. Restart: ask again.
        """
        types = self.types
        if level > owner.rules.top:  # Xen ignores a level that the guest does not have
            return
        types.get_page_and_type(mfn, owner.domid, level, portion)
        if types.frames.flags[mfn] & PINNED or owner.dying:
            reason = "X1: pinned twice" if types.frames.flags[mfn] & PINNED else "X2: pinned while dying"
            if level == L1:
                types.put_page_and_type(mfn)
            else:
                types.park(portion.vcpu, mfn, partial=False)
            if owner.dying:
                return
            raise XenError(Errno.EINVAL, f"{reason}: {types.frames.describe(mfn)}")
        types.frames.flags[mfn] |= PINNED

    def unpin(self, mfn: int, owner: DomainMemory, portion: Portion) -> None:
        """Drop exactly what pin took (X1). XenError(EINVAL): not pinned. What remains to be dropped is parked."""
        types, frames = self.types, self.types.frames
        frames.get_page(mfn, owner.domid)
        if not frames.flags[mfn] & PINNED:
            frames.put_page(mfn)
            raise XenError(Errno.EINVAL, f"X1: {frames.describe(mfn)} is not pinned")
        frames.flags[mfn] &= ~PINNED
        try:
            types.put_page_and_type(mfn, portion)
        except Restart:
            types.park(portion.vcpu, mfn, partial=True)
        frames.put_page(mfn)

    def clear_page(self, mfn: int, owner: int) -> None:
        """Zero a frame that may be written (X5). XenError(EINVAL)."""
        self.types.get_page_and_type(mfn, owner, WRITABLE)
        self.types.contents.clear(mfn)
        self.types.put_page_and_type(mfn)

    def copy_page(self, mfn: int, source: int, owner: int) -> None:
        """Copy one frame into another that may be written (X5). XenError(EINVAL)."""
        self.types.frames.get_page(source, owner)
        try:
            self.types.get_page_and_type(mfn, owner, WRITABLE)
            self.types.contents.copy(mfn, source)
            self.types.put_page_and_type(mfn)
        finally:
            self.types.frames.put_page(source)
