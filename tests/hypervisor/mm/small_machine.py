"""A machine without hypercalls for tests of memory management: real frames in real memfds, tiny domains.

`SmallMachine.domain(pages)` gives a domain with frames; `Tables` writes page tables into its frames as a guest does,
by plain stores, and nothing is validated until a test says so. `recount` holds after every step.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgpack
import numpy as np

from hypervisor.machine.memory import MachineMemory, create_memfd
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER, pte
from hypervisor.mm.budget import Budget, Portion, Progress, Restart
from hypervisor.mm.domain_memory import DomainMemory, VcpuMemory
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.layout import XEN_FRAMES
from hypervisor.mm.mmu import Mmu
from hypervisor.public.types import DomId, Mfn
from hypervisor.public.xen import DOMID_SELF
from tests.recount import recount

RO = PAGE_PRESENT | PAGE_USER
RW = RO | PAGE_RW
PLENTY = 1 << 30


class RecordingCpu:
    """A CPU that runs nothing and remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def load_cr3(self, l4: Mfn) -> None:
        self.told.append(("load_cr3", l4))

    def load_user_cr3(self, l4: Mfn | None) -> None:
        self.told.append(("load_user_cr3", l4))

    def flush_tlb(self) -> None:
        self.told.append(("flush_tlb",))

    def invlpg(self, va: int) -> None:
        self.told.append(("invlpg", va))

    def load_gdt(self, entries: int, frames: list[Mfn]) -> None:
        self.told.append(("load_gdt", entries, list(frames)))

    def load_ldt(self, base: int, entries: int) -> None:
        self.told.append(("load_ldt", base, entries))

    def flush_code(self, mfn: Mfn) -> None:
        self.told.append(("flush_code", mfn))


@dataclass
class SmallMachine:
    """One machine; `flushed` lists the domains whose vCPUs were told to flush, in order."""

    quota_frames: int = 1 << 16
    flushed: list[DomId] = field(default_factory=list)
    held: list[tuple[int, bool]] = field(default_factory=list)
    honest: bool = True

    def __post_init__(self) -> None:
        self.fds = [create_memfd("xen", XEN_FRAMES)]
        self.memory = MachineMemory()
        self.memory.map(self.fds[0], 0, XEN_FRAMES, 0)
        self.domains: dict[DomId, DomainMemory] = {}
        self.extents: list[tuple[DomId, int, int, int]] = []
        self.mmu = Mmu(
            self.memory,
            FrameTable(),
            self.domains,
            quota_frames=self.quota_frames,
            flush=lambda d: self.flushed.append(d.domid),
            on_extent=lambda d, mfn, nr, offset: self.extents.append((d.domid, mfn, nr, offset)),
        )

    def domain(
        self,
        pages: int = 0,
        *,
        max_pages: int = 4096,
        privileged: bool = False,
        nr_vcpus: int = 1,
        translated: bool = False,
        address_size: int = 64,
    ) -> "Guest":
        """A new domain with `pages` frames."""
        domid = DomId(len(self.fds) - 1 if not privileged else 0)
        if domid in self.domains or (domid == 0 and not privileged):
            domid = DomId(max(self.domains, default=0) + 1)
        self.fds.append(create_memfd(f"d{domid}", 1 << 14))
        d = self.mmu.create(
            domid,
            self.fds[-1],
            1 << 14,
            max_pages=max_pages,
            privileged=privileged,
            nr_vcpus=nr_vcpus,
            translated=translated,
        )
        for v in d.vcpus:
            v.cpu = RecordingCpu()
        if address_size == 32:
            self.mmu.switch_to_compat(d)
        return Guest(self, d, [self.mmu.allocator.alloc_page(d) for _ in range(pages)])

    def recount(self) -> None:
        recount(self.mmu, self.held, honest=self.honest)

    def write_down_and_read_back(self) -> None:
        """Go on with a memory management that was read back from what this one wrote down (msgpack in between)."""
        record = self.mmu.snapshot()
        packed = msgpack.packb(record)
        old, memfds = self.mmu, {d.domid: d.extents.fd for d in self.domains.values()}
        restored: dict[DomId, DomainMemory] = {}
        fresh = Mmu(
            self.memory,
            FrameTable(),
            restored,
            quota_frames=0,
            flush=lambda d: self.flushed.append(d.domid),
            on_extent=old.allocator.on_extent,
        )
        fresh.restore(msgpack.unpackb(packed), memfds)
        assert fresh.snapshot() == record
        for domid, d in self.domains.items():
            for v, copy in zip(d.vcpus, restored[domid].vcpus, strict=True):
                copy.cpu = v.cpu
        self.mmu, self.domains = fresh, restored

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@contextmanager
def small_machine(*, quota_frames: int = 1 << 16, honest: bool = True) -> Iterator[SmallMachine]:
    """A machine whose counts are right at the end."""
    machine = SmallMachine(quota_frames=quota_frames, honest=honest)
    yield machine
    machine.recount()
    machine.close()


@dataclass
class Guest:
    """A domain as a test plays it. `pages`: frames it was given and has not used yet."""

    machine: SmallMachine
    d: DomainMemory
    pages: list[Mfn]

    @property
    def mmu(self) -> Mmu:
        return self.machine.mmu

    @property
    def v(self) -> VcpuMemory:
        return self.d.vcpus[0]

    @property
    def cpu(self) -> RecordingCpu:
        assert isinstance(self.v.cpu, RecordingCpu)
        return self.v.cpu

    def portion(self, budget: int = PLENTY) -> Portion:
        return Portion(self.v, Budget(budget))

    def take(self, n: int = 1) -> list[Mfn]:
        """Frames nobody uses yet."""
        taken, self.pages = self.pages[:n], self.pages[n:]
        assert len(taken) == n
        return taken

    def write(self, table: int, slot: int, entry: int) -> None:
        """A plain store of the guest, as long as the frame is writable to it."""
        self.machine.memory.frames[table, slot] = entry

    def fill(self, table: int, entries: Sequence[int]) -> None:
        self.machine.memory.frames[table, : len(entries)] = np.array(entries, dtype=np.uint64)

    def table(self, entries: Sequence[int] | dict[int, int]) -> Mfn:
        """A fresh frame with these entries, from slot 0 on or by slot; not validated."""
        (mfn,) = self.take()
        slots = entries if isinstance(entries, dict) else dict(enumerate(entries))
        for slot, entry in slots.items():
            self.write(mfn, slot, entry)
        return mfn

    def l1(self, data: Sequence[int], flags: int = RW) -> Mfn:
        return self.table([pte(mfn, flags) for mfn in data])

    def tower(self, l1s: Sequence[int]) -> tuple[Mfn, Mfn, Mfn]:
        """(L4, L3, L2) that map the L1s from virtual address 0 on."""
        l2 = self.table([pte(l1, RW) for l1 in l1s])
        l3 = self.table([pte(l2, RW)])
        l4 = self.table([pte(l3, RW)])
        return l4, l3, l2

    def pae_tower(self, l1s: Sequence[int]) -> tuple[Mfn, list[Mfn]]:
        """(L3, its four L2s) of a 32-bit guest that map the L1s from virtual address 0 on."""
        l2s = [self.table([pte(l1, RW) for l1 in l1s]), *(self.table([]) for _ in range(3))]
        return self.table([pte(l2, PAGE_PRESENT) for l2 in l2s]), l2s

    def pin(self, mfn: int, level: int) -> None:
        """XenError if refused, with everything undone."""
        self.until_done(lambda s: self.mmu.pins.pin(mfn, level, self.d, s))

    def unpin(self, mfn: int) -> None:
        self.until_done(lambda s: self.mmu.pins.unpin(mfn, self.d, s))

    def run_on(self, l4: int) -> None:
        self.until_done(lambda s: self.mmu.bases.new_baseptr(self.v, l4, s))

    def until_done(self, operation, budget: int = PLENTY, after_portion=None) -> None:  # type: ignore[no-untyped-def]
        """One operation in as many portions as it takes, old tables torn down around it (U9)."""
        after_portion = after_portion or self.machine.recount
        try:
            self._in_portions(operation, budget, after_portion)
        finally:
            self._in_portions(self.mmu.types.finish_old_table, budget, after_portion)

    def _in_portions(self, operation, budget: int, after_portion) -> None:  # type: ignore[no-untyped-def]
        while True:
            portion = self.portion(budget)
            try:
                self.mmu.types.finish_old_table(portion)
                operation(portion)
            except Restart:
                after_portion()
                continue
            except Exception:
                after_portion()
                raise
            after_portion()
            return

    def update(
        self, *requests: tuple[int, int], foreigndom: int = DOMID_SELF, budget: int = PLENTY
    ) -> Progress:
        """mmu_update with these (ptr, val), continued until it ends."""
        total = Progress()
        left = list(requests)
        while True:
            portion = self.portion(budget)
            try:
                self.mmu.types.finish_old_table(portion)
            except Restart:
                self.machine.recount()
                continue
            if total.error is not None or (requests and not left):
                return total
            owners = self.mmu.update_requests.owners(self.d, foreigndom)
            part, packed = Progress(), np.array(left, dtype=np.uint64).tobytes()
            self.mmu.update_requests.run(self.d, owners, packed, portion, part)
            left = left[part.done :]
            total = Progress(total.done + part.done, part.error, False)
            self.machine.recount()
            if not part.restart and self.v.old_table is None:
                return total

    def set_entry(self, table: int, slot: int, entry: int, **options: int) -> Progress:
        return self.update((table << 12 | slot << 3, entry), **options)
