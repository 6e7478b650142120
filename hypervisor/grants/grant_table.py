"""One domain's grant table: what it lets others use, and what it uses of others.

Owns, as granter, the shared frames (Xen's own, F12) and the active entries; as mapper, the handles. The
operations on them are beside this file: mapping.py, copying.py, transfer.py, versions.py.

Invariants
    * An active entry exists exactly while its pin word is not 0, and only it counts then (G3).
    * GTF_reading is set in the status of every pinned reference, GTF_writing if a pin may write; the flags go
      with the last such pin, in the same step (G11), and never sooner: a granter that sees neither may reuse
      the frame (G12).
    * A pin holds its frame: every host map, device map and copy in flight has its own general reference, and
      if it may write its own writable type reference (G4). The page-table entry of a host map has references
      of its own.

Differences from Xen, on purpose: a grant of a dying domain is refused, so that its table comes to rest (K4);
a mapping is refused whose frame the mapper's process could not be shown (mapping.py); and transitive grants are
refused, as by a Xen with `gnttab=transitive:off` (XSA-226).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hypervisor.grants.active import Active, GNTPIN_writers
from hypervisor.grants.maptrack import Maptrack
from hypervisor.grants.shared_entries import (
    Granted,
    SharedEntries,
    SharedEntriesV1,
    SharedEntriesV2,
    nr_status_frames,
)
from hypervisor.grants.status import GrantRefused
from hypervisor.machine.atomic import Atomics
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.mmu import Mmu
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_eagain,
    GNTST_general_error,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_type_mask,
    GTF_writing,
)
from hypervisor.public.types import DomId, GrantRef, Mfn

INITIAL_NR_GRANT_FRAMES: Final = 1
DEFAULT_GRANT_FRAMES: Final = 64
"""A table's limit, in frames."""
DEFAULT_MAPTRACK_FRAMES: Final = 1024
"""The limit of a mapper's handles, in pages of 256."""
MAX_GRANT_VERSION: Final = 2


@dataclass(frozen=True)
class GrantLimits:
    """What one domain's table may have at most: its frames, pages of handles, and its version."""

    frames: int = DEFAULT_GRANT_FRAMES
    maptrack_frames: int = DEFAULT_MAPTRACK_FRAMES
    version: int = MAX_GRANT_VERSION


GrantsRecord = dict[str, Any]
"""A domain's grants as plain data (`GrantTable.snapshot`)."""

_READING, _WRITING, _READONLY = int(GTF_reading), int(GTF_writing), int(GTF_readonly)
_TYPE, _SUB_PAGE, _PERMIT_ACCESS = int(GTF_type_mask), int(GTF_sub_page), int(GTF_permit_access)


class GrantTable:
    """The grants of one domain; it has no frames, and so no entries, until it has grown (INITIAL_NR_GRANT_FRAMES).

    domains(domid)  a peer's GrantTable; XenError(ESRCH) if there is no such domain
    atomics         how flags are exchanged while the granter runs
    """

    def __init__(
        self,
        memory_of: DomainMemory,
        mmu: Mmu,
        limits: GrantLimits,
        *,
        domains: Callable[[DomId], GrantTable],
        atomics: Atomics,
    ) -> None:
        self.d = memory_of
        self.domid = memory_of.domid
        self.mmu = mmu
        self.memory = mmu.contents.memory
        self.max_grant_frames = limits.frames
        self.max_version = limits.version
        self.frames: list[Mfn] = []
        self.status_frames: list[Mfn] = []
        self._atomics = atomics
        self.shared: SharedEntries
        self.become(1)
        self.active: dict[GrantRef, Active] = {}
        self.maptrack = Maptrack(limits.maptrack_frames)
        self.find = domains

    # --- the table -----------------------------------------------------------------------------------

    def become(self, version: int) -> None:
        """Read the frames as a table of that version from now on; versions.py has seen to what is in them."""
        if version == 1:
            self.shared = SharedEntriesV1(self.memory, self._atomics, self.frames)
        else:
            self.shared = SharedEntriesV2(self.memory, self._atomics, self.frames, self.status_frames)

    def grow(self, nr_frames: int) -> None:
        """At least this many frames; a table never shrinks and its frames never move (G1).

        XenError: EINVAL beyond the limit, ENOMEM; what was added before stays.
        """
        if nr_frames > self.max_grant_frames:
            raise XenError(Errno.EINVAL, f"G1: d{self.domid} may have {self.max_grant_frames} grant frames")
        if self.shared.version == 2:
            self.populate_status(nr_frames)  # first: no entry is without its status
        while len(self.frames) < nr_frames:
            self.frames.append(self.mmu.allocator.alloc_xen_page(self.d, writable=True))

    def populate_status(self, nr_frames: int) -> None:
        """Status words for a version 2 table of `nr_frames` frames. XenError(ENOMEM)."""
        while len(self.status_frames) < nr_status_frames(nr_frames):
            self.status_frames.append(self.mmu.allocator.alloc_xen_page(self.d, writable=True))

    def unpopulate_status(self) -> None:
        """Give the status frames back, all or none. XenError(EBUSY): one is still mapped (G15, XSA-255)."""
        for mfn in self.status_frames:
            if self.mmu.frames.refs[mfn] != 1:
                raise XenError(Errno.EBUSY, f"G15: status frame {self.mmu.frames.describe(mfn)} is in use")
        while self.status_frames:
            self.mmu.allocator.free_xen_page(self.status_frames.pop())

    def require_ref(self, ref: GrantRef) -> None:
        """GrantRefused(GNTST_bad_gntref) for a reference beyond the table (G1)."""
        if ref >= len(self.shared):
            raise GrantRefused(GNTST_bad_gntref, f"G1: d{self.domid} has no entry {ref:#x}")

    def granter(self, domid: DomId) -> GrantTable:
        """The table of the domain that an operation names. GrantRefused(GNTST_bad_domain)."""
        try:
            return self.find(domid)
        except XenError as error:
            raise GrantRefused(GNTST_bad_domain, str(error)) from None

    def swap(self, a: GrantRef, b: GrantRef) -> None:
        """Exchange two entries of one's own that nobody uses (G16). GrantRefused: bad_gntref, eagain."""
        self.require_ref(a)
        self.require_ref(b)
        if a == b:
            return
        for ref in (a, b):
            if ref in self.active:
                raise GrantRefused(GNTST_eagain, f"G16: entry {ref:#x} of d{self.domid} is in use")
        self.shared.swap(a, b)

    def destroy(self) -> bool:
        """Give the shared frames back once nobody uses an entry any more (K4); False while somebody does."""
        if self.active:
            return False
        for frames in (self.frames, self.status_frames):
            while frames:
                self.mmu.allocator.free_xen_page(frames.pop())
        return True

    # --- written down and read back ------------------------------------------------------------------

    def snapshot(self) -> GrantsRecord:
        """What it grants and what it uses of others', as plain data; what is in its frames is memory's affair."""
        return {
            "version": self.shared.version,
            "limits": [self.max_grant_frames, self.max_version],
            "frames": list(self.frames),
            "status_frames": list(self.status_frames),
            "active": [[ref, *active.as_numbers()] for ref, active in sorted(self.active.items())],
            "maptrack": self.maptrack.snapshot(),
        }

    def restore(self, record: GrantsRecord) -> None:
        """Become what `snapshot` wrote down; for a table that has no frames yet. The granters are found when needed."""
        self.max_grant_frames, self.max_version = record["limits"]
        self.frames[:] = record["frames"]
        self.status_frames[:] = record["status_frames"]
        self.become(record["version"])
        self.active = {GrantRef(ref): Active(*numbers) for ref, *numbers in record["active"]}
        self.maptrack.restore(record["maptrack"])

    # --- pinning -------------------------------------------------------------------------------------

    def acquire(
        self, ref: GrantRef, user: DomId, increment: int, *, readonly: bool, sub_page: bool = False
    ) -> Active:
        """Pin an entry for a user, and take one general reference on its frame (G2, G3).

        `increment` is what the pin word grows by; `sub_page` accepts an entry that grants a part of its frame,
        which on version 1 means all of it. GrantRefused, and nothing changed: bad_gntref, general_error,
        bad_page.
        """
        self.require_ref(ref)
        active = self.active.get(ref)
        if active is not None:
            self._require_usable(ref, active, user, increment, sub_page=sub_page)
        elif self.d.dying:
            raise GrantRefused(GNTST_bad_domain, f"K4: d{self.domid} is dying")
        granted = None
        if active is None or not (readonly or active.written):
            granted = self._announce(ref, user, active, readonly=readonly, sub_page=sub_page)
        if active is None:
            assert granted is not None
            active = Active(
                user, self.d.machine_frame(granted.frame), 0, granted.start, granted.length, granted.sub_page
            )
        try:
            self.mmu.frames.get_page(active.mfn, self.domid)
        except XenError as error:
            self._withdraw(ref, active.pin, readonly=readonly)
            raise GrantRefused(GNTST_bad_page, f"G5: entry {ref:#x} of d{self.domid}: {error}") from None
        self.active[ref] = active
        active.pin += increment
        return active

    def _require_usable(
        self, ref: GrantRef, active: Active, user: DomId, increment: int, *, sub_page: bool
    ) -> None:
        """A pinned entry may be pinned once more. GrantRefused(GNTST_general_error)."""
        if active.domid != user or active.overflows(increment) or (active.sub_page and not sub_page):
            why = f"G4: entry {ref:#x} of d{self.domid}: d{active.domid}, pin {active.pin:#x}"
            raise GrantRefused(GNTST_general_error, why)

    def release(self, ref: GrantRef, decrement: int, *, readonly: bool) -> None:
        """Undo `acquire`'s pin, not its reference; the flags go with the last pin that needs them (G11)."""
        active = self.active[ref]
        active.pin -= decrement
        if not active.pin:
            del self.active[ref]
        self._withdraw(ref, active.pin, readonly=readonly)

    def _announce(
        self, ref: GrantRef, user: DomId, active: Active | None, *, readonly: bool, sub_page: bool
    ) -> Granted:
        """Check the shared entry, and tell the granter of its use by the status (G2); what it grants."""
        type_mask = _TYPE if sub_page else _TYPE | _SUB_PAGE

        def check(head: int) -> None:
            flags, domid = head & 0xFFFF, head >> 16
            if active is None and (flags & type_mask != _PERMIT_ACCESS or domid != user):
                why = f"G2: entry {ref:#x} of d{self.domid} has head {head:#x}, asked for by d{user}"
                raise GrantRefused(GNTST_general_error, why)
            if flags & _READONLY and not readonly:
                raise GrantRefused(GNTST_general_error, f"G2: entry {ref:#x} of d{self.domid} is read-only")

        new = (0 if active else _READING) | (0 if readonly else _WRITING)
        return self.shared.granted(ref, self.shared.announce(ref, new, check))

    @staticmethod
    def flags_to_clear(pin: int, *, readonly: bool) -> int:
        """Which flags go when `pin` is what is left after one use of that kind ended (G11)."""
        last_writer = not readonly and not pin & GNTPIN_writers
        return (0 if pin else _READING) | (_WRITING if last_writer else 0)

    def _withdraw(self, ref: GrantRef, pin: int, *, readonly: bool) -> None:
        if flags := self.flags_to_clear(pin, readonly=readonly):
            self.shared.withdraw(ref, flags)
