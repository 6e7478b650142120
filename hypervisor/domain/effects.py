"""What a vCPU's process has yet to do before its guest's next instruction: bounded, whatever guests ask for.

Effects wait until their vCPU is answered, which for a vCPU that nobody starts is never. So an effect that makes an earlier one
needless takes its place, and many small ones become one large one:

    LOAD_CR3, LOAD_USER_CR3, GDT, LDT, VM_ASSIST, NMI            the last counts
    CALLBACK (by type), EVTCHN_… (by port), VCPU_INFO (by vCPU)  the last counts
    TRAP_TABLE                                                   entries merge by vector; a cleared table drops what was before
    INVLPG       a page counts once; more than INVLPG_LIMIT, or a FLUSH_TLB, and it is one FLUSH_TLB
    FLUSH_CODE   a frame counts once; more than FLUSH_CODE_LIMIT, and it is the frames' whole extents
    LOCAL        each counts, and reads what was before it: nothing is moved across it
    CONTEXT      the last counts, and comes first, after the extents that it needs
    MAP_EXTENT, UNMAP_EXTENT, CLOSE_MEMFD                        each counts; there are as many as there is memory

What takes an earlier one's place stands where the later one was said: no instruction of the guest comes between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.public.types import Mfn
from hypervisor.wire.messages import Effect, EffectRecord

INVLPG_LIMIT: Final = 32
"""Pages that are forgotten one by one; flushing all translations is cheaper than many more."""
FLUSH_CODE_LIMIT: Final = 64
"""Frames whose code is forgotten one by one."""

_EACH: Final = frozenset((Effect.MAP_EXTENT, Effect.UNMAP_EXTENT, Effect.CLOSE_MEMFD))
_BY_FIELD: Final = frozenset((Effect.CALLBACK, Effect.EVTCHN_UNMASK, Effect.EVTCHN_CLEAR, Effect.VCPU_INFO))
# Plain ints: looking a name up in an enum takes longer than all the rest.
_INVLPG, _FLUSH_TLB, _LOCAL = int(Effect.INVLPG), int(Effect.FLUSH_TLB), int(Effect.LOCAL)
_FLUSH_CODE, _TRAP_TABLE = int(Effect.FLUSH_CODE), int(Effect.TRAP_TABLE)
Key = tuple[int, int, int]
"""How many LOCALs came before; the kind; which of that kind."""


class Effects:
    """One vCPU's outstanding effects, in order."""

    def __init__(self) -> None:
        self._records: dict[Key, EffectRecord] = {}
        self._barrier = 0
        """How many LOCALs there have been since the last `take`."""
        self._each = 0
        self._pages: set[int] = set()
        """Pages that INVLPGs since the last LOCAL name."""
        self._frames: set[int] = set()
        """Frames that FLUSH_CODEs since the last LOCAL name."""

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[EffectRecord]:
        return iter(self._records.values())

    def append(self, record: EffectRecord) -> None:
        """One more effect, `[Effect, field…]`; what it makes needless goes."""
        kind = record[0]
        if kind == _INVLPG:
            self._invlpg(record)
        elif kind == _LOCAL:
            self._local(record)
        elif kind == _FLUSH_TLB:
            self._flush_tlb()
        elif kind == _FLUSH_CODE:
            self._flush_code(record)
        elif kind == _TRAP_TABLE:
            self._trap_table(record[1])
        elif kind in _EACH:
            self._each += 1
            self._records[0, kind, self._each] = record
        else:
            self._replace((self._barrier, kind, record[1] if kind in _BY_FIELD else 0), record)

    def extend(self, records: Iterable[EffectRecord]) -> None:
        """Several, in order."""
        for record in records:
            self.append(record)

    def set_context(self, context: bytes, *more: int) -> None:
        """Initial registers: before the page tables and the GDT that were just loaded, but after the first mappings.

        `more`: of a PV guest the frame of its shared_info; of a 32-bit one, behind that, the L4 that its CPU runs on.
        """
        record = [Effect.CONTEXT, context, *more]
        key = (0, int(Effect.CONTEXT), 0)
        self._records.pop(key, None)
        records = list(self._records.items())
        place = next((i for i, (k, _) in enumerate(records) if k[1] != Effect.MAP_EXTENT), len(records))
        self._records = dict([*records[:place], (key, record), *records[place:]])

    def take(self) -> list[EffectRecord]:
        """All of them, for the process; then there are none."""
        if not self._records:
            return []
        records = list(self._records.values())
        self.clear()
        return records

    def clear(self) -> None:
        """Forget all of them."""
        self._records.clear()
        if self._pages:
            self._pages.clear()
        if self._frames:
            self._frames.clear()
        self._barrier = 0

    def _replace(self, key: Key, record: EffectRecord) -> None:
        self._records.pop(key, None)
        self._records[key] = record

    def _local(self, record: EffectRecord) -> None:
        self._barrier += 1
        self._pages.clear()
        self._frames.clear()
        self._records[self._barrier, _LOCAL, 0] = record

    def _invlpg(self, record: EffectRecord) -> None:
        page = record[1] >> 12
        if page in self._pages or (self._barrier, _FLUSH_TLB, 0) in self._records:
            return
        if len(self._pages) == INVLPG_LIMIT:
            self._flush_tlb()
            return
        self._pages.add(page)
        self._records[self._barrier, _INVLPG, page] = record

    def _flush_tlb(self) -> None:
        if self._pages:
            for page in self._pages:
                del self._records[self._barrier, _INVLPG, page]
            self._pages.clear()
        self._replace((self._barrier, _FLUSH_TLB, 0), [Effect.FLUSH_TLB])

    def _flush_code(self, record: EffectRecord) -> None:
        mfn, nr = record[1:]
        if len(self._frames) == FLUSH_CODE_LIMIT and mfn not in self._frames:
            self._widen_code()
        if nr == 1 and (self._barrier, _FLUSH_CODE, -_extent(mfn)) in self._records:
            return
        self._frames.add(mfn)
        self._replace((self._barrier, _FLUSH_CODE, mfn), record)

    def _widen_code(self) -> None:
        """The code of whole extents goes, instead of that of many frames."""
        for mfn in self._frames:
            del self._records[self._barrier, _FLUSH_CODE, mfn]
            base = _extent(mfn)
            self._replace((self._barrier, _FLUSH_CODE, -base), [Effect.FLUSH_CODE, base, EXTENT_FRAMES])
        self._frames.clear()

    def _trap_table(self, entries: list[list[int]]) -> None:
        cleared, merged = (self._barrier, _TRAP_TABLE, 0), (self._barrier, _TRAP_TABLE, 1)
        before = self._records.pop(merged, None)
        if not entries:
            self._replace(cleared, [Effect.TRAP_TABLE, []])
            return
        rows = {row[0]: row for row in (*(before[1] if before else ()), *entries)}
        self._records[merged] = [Effect.TRAP_TABLE, list(rows.values())]


def _extent(mfn: int) -> int:
    return mfn - mfn % EXTENT_FRAMES


class EffectPort:
    """hypervisor.mm's `CpuPort`: what memory management tells a CPU becomes effects, in order."""

    def __init__(self, effects: Effects, shared: Effects, *, translates: bool = True) -> None:
        """`effects`: the vCPU's own; `shared`: those of its domain's process as a whole, whose translated code is one, if it
        `translates` any.
        """
        self._effects = effects
        self._shared = shared
        self._translates = translates

    def _add(self, *record: Any) -> None:
        self._effects.append(list(record))

    def load_cr3(self, l4: Mfn) -> None:
        """A new kernel page table."""
        self._add(Effect.LOAD_CR3, l4)

    def load_user_cr3(self, l4: Mfn | None) -> None:
        """The page table of user mode, if there is one."""
        self._add(Effect.LOAD_USER_CR3, l4 or 0)

    def flush_tlb(self) -> None:
        """Forget all translations."""
        self._add(Effect.FLUSH_TLB)

    def invlpg(self, va: int) -> None:
        """Forget one page's translation."""
        self._add(Effect.INVLPG, va)

    def load_gdt(self, entries: int, frames: list[Mfn]) -> None:
        """Another GDT."""
        self._add(Effect.GDT, entries, list(frames))

    def load_ldt(self, base: int, entries: int) -> None:
        """Another LDT."""
        self._add(Effect.LDT, base, entries)

    def flush_code(self, mfn: Mfn) -> None:
        """Forget the code translated from a frame."""
        if self._translates:
            self._shared.append([Effect.FLUSH_CODE, mfn, 1])
