"""What memory management knows of a domain and of each of its vCPUs: plain state, on which the other files act.

DomainMemory ── extents       its frames' places in the machine, and which of them are free
    │        ── window        page tables of Xen's that show its vCPUs' descriptor tables
    └ vcpus: VcpuMemory       CR3s, GDT, LDT; a table that is still to be dropped; remembered walks
                 └ cpu        what is told to the CPU that runs it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from hypervisor.mm.extents import Extents
from hypervisor.mm.p2m import P2M
from hypervisor.mm.pv_rules import PV64_RULES, RULES, PvRules
from hypervisor.public.types import DomId, Mfn


class CpuPort(Protocol):
    """What memory management tells the CPU that runs a vCPU. Ordered; takes effect before its next instruction."""

    def load_cr3(self, l4: Mfn) -> None:
        """Kernel mode runs on this L4 from now on."""

    def load_user_cr3(self, l4: Mfn | None) -> None:
        """User mode runs on this L4 from now on; None: there is no user mode."""

    def flush_tlb(self) -> None:
        """Forget all translations."""

    def invlpg(self, va: int) -> None:
        """Forget the translation of the page at this linear address."""

    def load_gdt(self, entries: int, frames: list[Mfn]) -> None:
        """The guest's GDT has that many entries, in these frames."""

    def load_ldt(self, base: int, entries: int) -> None:
        """The guest's LDT has that many entries, from linear address `base` on."""

    def flush_code(self, mfn: Mfn) -> None:
        """Somebody else wrote this frame: forget what was translated from the code in it."""


class NoCpu(CpuPort):
    """A vCPU that no CPU runs: tests, and the time before its process is there. Nobody is told."""


class Walked(NamedTuple):
    """Where a walk down to L1 ended: the table's number, its recorded entries, and the rights of the levels above."""

    l1: Mfn
    words: memoryview[int]
    rights: int
    """RW and US if all entries above L1 have them."""


@dataclass
class Window:
    """The page tables of a domain's per-domain window (xen_slots.py): XEN frames of its own memfd."""

    l3: Mfn
    l2: Mfn
    l1s: list[Mfn] = field(default_factory=list)

    def frames(self) -> list[Mfn]:
        """All of them, the L3 first."""
        return [self.l3, self.l2, *self.l1s]


@dataclass(eq=False)
class VcpuMemory:
    """One vCPU: the frames it holds references on, and its remembered walks."""

    vcpu_id: int
    domain: DomainMemory
    cpu: CpuPort = field(default_factory=NoCpu)
    cr3: Mfn | None = None
    """The guest's own table, an L4 or a 32-bit guest's L3."""
    compat_l4: Mfn | None = None
    """Xen's L4 above a 32-bit guest's L3: what the CPU's CR3 names."""
    user_cr3: Mfn | None = None
    gdt_frames: list[Mfn] = field(default_factory=list)
    gdt_entries: int = 0
    ldt_base: int = 0
    ldt_entries: int = 0
    ldt_frames: dict[int, Mfn] = field(default_factory=dict)
    """LDT page index -> frame, promoted at first use (X6)."""
    old_table: Mfn | None = None
    """A table whose last reference could not be dropped in one portion (U9)."""
    old_table_partial: bool = False
    old_table_parent: int | None = None
    """The table whose entry named it (P11)."""
    walks: dict[int, Walked] = field(default_factory=dict)
    """Remembered walks down to the L1 table, by va >> 21."""
    walks_generation: int = -1
    """Tables.generation they are good for (T3)."""
    guest_paging: Callable[[], tuple[int, int]] = lambda: (0, 0)
    """A translated domain's: (CR3, GuestPaging) as its process says them now; any numbers."""


@dataclass
class Relinquished:
    """How far a dying domain's extents have been gone through in the present step, and how many in a row had nothing."""

    extent: int = 0
    quiet_extents: int = 0


@dataclass(eq=False)
class DomainMemory:
    """One domain: limits, its frames' extents, its vCPUs. Owner of record in the frame table is `domid`."""

    domid: DomId
    max_pages: int
    extents: Extents
    privileged: bool = False
    dying: bool = False
    tot_pages: int = 0
    """Frames with this owner, without XEN frames (M1)."""
    vcpus: list[VcpuMemory] = field(default_factory=list)
    window: Window | None = None
    """Page tables of the per-domain window (L4 slot 260)."""
    p2m: P2M | None = None
    """A translated domain's physical memory (HVM); None: a PV guest, which counts in machine frames."""
    paging_pool: int = 0
    """Frames of the machine's quota that its process may use for shadow page tables, in memory of its own."""
    rules: PvRules = PV64_RULES
    """What its width of guest may have in its tables."""
    m2p_strict: bool = False
    """VMASST_TYPE_m2p_strict: user page tables do not show the M2P."""
    flush_clock: int = 1
    """Counts flushes of all the domain's vCPUs; a frame's stamp is compared with it (T1)."""
    target: DomId | None = None
    """The one domain this domain has privilege over without being privileged."""
    e820: bytes = b""
    """The memory map that XENMEM_memory_map answers with: packed e820 entries."""
    relinquish_step: int = 0
    """Steps of its end that are done (relinquish.py)."""
    relinquished: Relinquished = field(default_factory=Relinquished)

    def machine_frame(self, frame: int) -> Mfn:
        """The frame that its guest means by a number: a translated one counts in guest frames; a hole is frame 0, nobody's."""
        return Mfn(frame) if self.p2m is None else self.p2m.mfn(frame) or Mfn(0)

    def controls(self, target: int) -> bool:
        """True if this domain may act on the memory of domain `target` (U2)."""
        return self.privileged or target == self.domid or (self.target is not None and target == self.target)


VCPU_NUMBERS: Final = (
    "cr3",
    "compat_l4",
    "user_cr3",
    "gdt_frames",
    "gdt_entries",
    "ldt_base",
    "ldt_entries",
    "old_table",
    "old_table_partial",
    "old_table_parent",
)
DOMAIN_NUMBERS: Final = (
    "max_pages",
    "privileged",
    "dying",
    "tot_pages",
    "paging_pool",
    "m2p_strict",
    "flush_clock",
    "target",
    "e820",
    "relinquish_step",
)
"""What of a vCPU and of a domain is written down as it is."""


def snapshot_domain(d: DomainMemory) -> dict[str, Any]:
    """One domain and its vCPUs as plain data. Remembered walks are not in it, nor what runs a vCPU."""
    return {
        "domid": int(d.domid),
        "address_size": d.rules.address_size,
        **{name: getattr(d, name) for name in DOMAIN_NUMBERS},
        "relinquished": [d.relinquished.extent, d.relinquished.quiet_extents],
        "window": None if d.window is None else [d.window.l3, d.window.l2, list(d.window.l1s)],
        "p2m": None if d.p2m is None else d.p2m.snapshot(),
        "extents": d.extents.snapshot(),
        "vcpus": [snapshot_vcpu(v) for v in d.vcpus],
    }


def snapshot_vcpu(v: VcpuMemory) -> dict[str, Any]:
    """One vCPU's frames, and the table that it still has to drop."""
    numbers = {name: getattr(v, name) for name in VCPU_NUMBERS}
    return {**numbers, "gdt_frames": list(v.gdt_frames), "ldt_frames": sorted(v.ldt_frames.items())}


def restore_domain(record: dict[str, Any], extents: Extents) -> DomainMemory:
    """The domain that `snapshot_domain` wrote down; `extents` is empty, with its memfd. Its vCPUs have no CPU yet."""
    extents.restore(record["extents"])
    d = DomainMemory(DomId(record["domid"]), record["max_pages"], extents)
    d.rules = RULES[record["address_size"]]
    for name in DOMAIN_NUMBERS:
        setattr(d, name, record[name])
    d.relinquished = Relinquished(*record["relinquished"])
    if record["window"] is not None:
        l3, l2, l1s = record["window"]
        d.window = Window(l3, l2, list(l1s))
    if record["p2m"] is not None:
        d.p2m = P2M.restored(record["p2m"])
    for vcpu in record["vcpus"]:
        v = VcpuMemory(len(d.vcpus), d)
        for name in VCPU_NUMBERS:
            setattr(v, name, vcpu[name])
        v.gdt_frames, v.ldt_frames = list(vcpu["gdt_frames"]), dict(vcpu["ldt_frames"])
        d.vcpus.append(v)
    return d


Flush = Callable[[DomainMemory], None]
"""Called when all vCPUs of a domain must drop their translations before they run again."""

OnExtent = Callable[[DomainMemory, Mfn, int, int], None]
"""(domain, first MFN, frames, offset in frames): an extent was mapped and may be used from now on."""
