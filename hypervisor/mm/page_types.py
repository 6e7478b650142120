"""Page types: a frame is one thing at a time, and nobody uses it as a table before it was checked (F4, F5).

                     get (0 → 1, other type)                      every entry good
      none, or any ────────────────────────► being validated ────────────────────────► VALIDATED, tcount n
      type at tcount 0        ▲                 │        ▲                                    │
                              │      budget out │        │ whoever gets the type next         │ last put
                              │                 ▼        │ goes on where it stopped           ▼
                              │               PARTIAL ───┴──────────── budget out ──── being de-validated
                              └───────────────────────── all references dropped ◄─────────────┘

Two counts of a frame, and what holds them, for a frame that one L1 maps read-only and another one writable:

     L1 a:  entry, read-only ──────► refs                        refs    3 = ALLOCATED + entry + entry
     L1 b:  entry, RW ─────────────► refs, and tcount            type    writable_page
     given to its owner: ALLOCATED ► refs                        tcount  1: no use as a page table until it is 0

A type reference is always taken by whoever holds a general one (tcount <= refs, F3), so a frame never becomes free while it
has a type in use. While tcount > 0 the type cannot change; at 0 the old type stays written down, because stale
translations of it may be left in a TLB: `stamp` remembers when the last use ended, and the next other use flushes first.

PARTIAL (A7): tcount is 1 and there is one extra general reference, both owned by the flag itself; entries
[0, nr_validated) hold references, entry nr_validated holds a general one if partial_set (Q1). Such a table can only
be resumed or torn down (Q2). A table whose validation failed half-way is parked on the vCPU's `old_table`, PARTIAL,
to be torn down before that vCPU's next MMU operation (Q3, U9).

The core has one thread, so "being validated" is never met from outside; Xen's locks have no counterpart here.
Source: Xen arch/x86/mm.c, _get_page_type and _put_page_type.
"""

import numpy as np
import numpy.typing as npt

from hypervisor.machine.frame_types import LEVELS, PARTIAL, PGT, VALIDATED, WRITABLE
from hypervisor.machine.trace import Trace
from hypervisor.mm import devalidate, linear, validate
from hypervisor.mm.budget import Portion, Restart
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import DomainMemory, Flush, VcpuMemory
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.tables import Tables
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.trace import XENOSCOPE_TRC_PAGE_TYPE
from hypervisor.public.types import DomId, Mfn


class PageTypes:
    """Type references, with validation at the first and de-validation at the last."""

    def __init__(
        self,
        frames: FrameTable,
        contents: Contents,
        tables: Tables,
        domains: dict[DomId, DomainMemory],
        flush: Flush,
        trace: Trace,
    ) -> None:
        self.frames = frames
        self.contents = contents
        self.tables = tables
        self.domains = domains
        self.entries_checked = 0
        """How many entries of page tables validation has looked at: all of an L1, the present ones of others."""
        self._flush = flush
        self._trace = trace

    # --- taking -------------------------------------------------------------------------------------

    def get_type(self, mfn: int, pgt: int, portion: Portion | None = None) -> None:
        """A type reference on a frame that the caller holds a general reference on.

        L2…L4 need a portion. XenError: of another type in use, too many uses (F7), or its content is refused.
        Restart: parked PARTIAL, to be asked for again.
        """
        frames = self.frames
        tcount = frames.tcount[mfn]
        was_partial = False
        # Five cases: unused; too many uses; of another type; good as it is; parked half-way, and to be gone on with.
        if tcount == 0:
            flags = frames.flags[mfn]
            frames.tcount[mfn] = 1
            if frames.type[mfn] == pgt and flags & VALIDATED:
                return  # writable or seg_desc, unused meanwhile: nothing can have altered it (F6)
            self._begin_type(mfn, pgt, flags)
            if pgt == WRITABLE:
                frames.flags[mfn] |= VALIDATED
                return
        elif tcount >= frames.max_tcount:
            raise XenError(Errno.EINVAL, f"F7: {frames.describe(mfn)} has too many uses")
        elif frames.type[mfn] != pgt:
            raise XenError(Errno.EINVAL, f"F4: {frames.describe(mfn)} cannot be {PGT(pgt).name}")
        elif frames.flags[mfn] & VALIDATED:
            frames.tcount[mfn] = tcount + 1
            return
        elif not frames.flags[mfn] & PARTIAL:
            raise XenError(Errno.EINVAL, f"F8: {frames.describe(mfn)} is being validated")
        else:
            frames.flags[mfn] &= ~PARTIAL
            was_partial = True
        try:
            self._validate(mfn, pgt, portion, resumed=was_partial)
        finally:
            if was_partial:
                frames.put_page(mfn)  # PARTIAL's own; if it parked again, it has taken a new one (Q3)

    def get_page_and_type(self, mfn: int, domid: int, pgt: int, portion: Portion | None = None) -> None:
        """A general and a type reference; neither if refused. XenError, Restart as in get_type.

        After a refusal the general reference stays with the vCPU's old_table if the frame was parked there.
        """
        self.frames.get_page(mfn, domid)
        try:
            self.get_type(mfn, pgt, portion)
        except (XenError, Restart):
            if portion is None or portion.vcpu.old_table != mfn:
                self.frames.put_page(mfn)
            raise

    def _begin_type(self, mfn: int, pgt: int, flags: int) -> None:
        """tcount is 1 from now on: publish the type, then flush what could still be written through (T1).

        Whether a flush is needed is decided by the frame's history, not by its new type (XSA-401, XSA-408).
        """
        frames = self.frames
        changed = frames.type[mfn] != pgt
        frames.type[mfn] = pgt
        frames.flags[mfn] = flags & ~VALIDATED
        if changed:
            if self._trace.sink is not None:
                self._trace.record(XENOSCOPE_TRC_PAGE_TYPE, mfn, pgt)
            owner = self.domains.get(DomId(frames.owner[mfn]))
            if owner is not None and frames.stamp[mfn] >= owner.flush_clock:
                self.flush(owner)

    def _validate(self, mfn: int, pgt: int, portion: Portion | None, *, resumed: bool) -> None:
        """Exclusive until VALIDATED or PARTIAL is set, or the type word is 0 again (F8, F9)."""
        frames = self.frames
        if (
            not resumed
        ):  # a parked table is gone on with from its copy: the guest may have written to its frame since
            frames.nr_validated[mfn] = 0
            frames.partial_set[mfn] = 0
            frames.linear[mfn] = 0
            if LEVELS[pgt]:
                self.tables.take_copy(mfn)
        try:
            validate.promote(self, mfn, pgt, portion)
        except Restart:
            self._park(mfn)
            raise
        except XenError:
            if portion is not None and portion.vcpu.old_table == mfn:
                self._park(mfn)  # some entries hold references: they go with the vCPU's next operation (Q3)
            else:
                frames.type[mfn] = 0
                frames.tcount[mfn] = 0
                frames.flags[mfn] &= ~(VALIDATED | PARTIAL)
                if LEVELS[pgt]:
                    self.tables.drop(mfn)
            raise
        frames.flags[mfn] |= VALIDATED

    def _park(self, mfn: int) -> None:
        self.frames.get_page_light(mfn)
        self.frames.flags[mfn] |= PARTIAL

    # --- giving back ----------------------------------------------------------------------------------

    def put_type(
        self,
        mfn: int,
        portion: Portion | None = None,
        *,
        partial_set: bool = False,
        parent: int | None = None,
    ) -> None:
        """Drop a type reference; the last one of a table de-validates it (F10).

        partial_set: the caller holds no type reference, it only cleans up after a parked table: no effect unless
        the frame is PARTIAL. parent: the table whose entry goes. Restart: parked PARTIAL with that reference.
        """
        frames = self.frames
        flags = frames.flags[mfn]
        if partial_set and not flags & PARTIAL:
            return
        if frames.tcount[mfn] == 1:
            if LEVELS[frames.type[mfn]] and flags & (VALIDATED | PARTIAL):
                self._put_final(mfn, flags, portion, parent)
                return
            if parent is None or frames.type[mfn] != frames.type[parent]:
                self.stamp(mfn)
        frames.tcount[mfn] -= 1
        if parent is not None and frames.type[mfn] == frames.type[parent]:
            linear.put(frames, mfn, parent)

    def put_page_and_type(self, mfn: int, portion: Portion | None = None) -> None:
        """Drop a type and a general reference; the general one stays if the former must be restarted."""
        self.put_type(mfn, portion)
        self.frames.put_page(mfn)

    def _put_final(self, mfn: int, flags: int, portion: Portion | None, parent: int | None) -> None:
        frames = self.frames
        is_linear = parent is not None and frames.type[mfn] == frames.type[parent] and flags & VALIDATED
        frames.flags[mfn] = flags & ~(VALIDATED | PARTIAL)
        try:
            devalidate.demote(self, mfn, portion, resumed=bool(flags & PARTIAL))
        except Restart:
            self._park(mfn)
            raise
        else:
            self.stamp(mfn)
            frames.tcount[mfn] -= 1
            if flags & PARTIAL:
                frames.type[mfn] = 0  # F9: as if its validation had never begun
            self.tables.drop(mfn)
        finally:
            if is_linear and parent is not None:
                linear.put(frames, mfn, parent)
            if flags & PARTIAL:
                frames.put_page(mfn)

    def stamp(self, mfn: int) -> None:
        """The last type reference goes: what is cached of the frame from now on is old (T1)."""
        owner = self.domains.get(DomId(self.frames.owner[mfn]))
        if owner is not None:
            self.frames.stamp[mfn] = owner.flush_clock

    def stamp_all(self, mfns: npt.NDArray[np.int64]) -> None:
        """stamp for many frames."""
        owners = self.frames.owner_np[mfns]
        for domid in set(owners.tolist()):
            owner = self.domains.get(DomId(domid))
            if owner is not None:
                self.frames.stamp_np[mfns[owners == domid]] = owner.flush_clock

    # --- around -----------------------------------------------------------------------------------------

    def flush(self, d: DomainMemory) -> None:
        """All vCPUs of `d` drop their translations before they run again."""
        d.flush_clock += 1
        self._flush(d)

    def finish_old_table(self, portion: Portion) -> None:
        """Tear down what the vCPU's last operation left (U9). Restart: not yet done."""
        v = portion.vcpu
        mfn = v.old_table
        if mfn is None:
            return
        try:
            self.put_type(mfn, portion, partial_set=v.old_table_partial, parent=v.old_table_parent)
        except Restart:
            v.old_table_partial = True
            v.old_table_parent = None
            raise
        v.old_table = None
        v.old_table_partial = False
        v.old_table_parent = None
        self.frames.put_page(mfn)

    def park(self, v: VcpuMemory, mfn: int, *, partial: bool, parent: int | None = None) -> None:
        """The vCPU takes over a reference to be dropped: a type and a general one, or with `partial` the latter."""
        v.old_table = Mfn(mfn)
        v.old_table_partial = partial
        v.old_table_parent = parent

    def put_later(self, mfn: int, v: VcpuMemory) -> None:
        """Drop a table's type and general reference in later portions, through old_table."""
        self.park(v, mfn, partial=False)

    def controls(self, domid: int, target: int) -> bool:
        """True if domain `domid` may act on the frames of `target` (U2)."""
        d = self.domains.get(DomId(domid))
        return d is not None and d.controls(target)

    def is_table(self, mfn: int, level: int) -> bool:
        """True for a validated table of that level."""
        frames = self.frames
        return bool(
            frames.type[mfn] == level and frames.flags[mfn] & VALIDATED and frames.tcount[mfn] and level
        )
