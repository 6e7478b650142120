"""What a unit of a hypercall's budget is worth in time, for each operation that spends some (mm/budget.py, Q4).

Every operation is performed many times in one hypercall, in this process, and its time divided by the units that it
spent. Where a unit takes much longer than elsewhere, the operation's cost is set too low, and a guest could hold the
core with it: the figure is how long a whole portion of the worst one takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from hypervisor.hypercalls.call import Call
from hypervisor.hypercalls.dispatch import perform
from hypervisor.machine.paging import PAGE_PRESENT, PAGE_RW, PAGE_USER, pte
from hypervisor.mm.budget import DEFAULT_ENTRIES, Budget
from hypervisor.public.arch_x86.xen import trap_info
from hypervisor.public.grant_table import (
    GNTTAB_CACHE_CLEAN,
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTMAP_host_map,
    GrantTableOp,
    GTF_accept_transfer,
    gnttab_cache_flush,
    gnttab_cache_flush_a,
    gnttab_copy,
    gnttab_copy_ptr,
    gnttab_copy_ptr_u,
    gnttab_map_grant_ref,
    gnttab_swap_grant_ref,
    gnttab_transfer,
    gnttab_unmap_grant_ref,
)
from hypervisor.public.layout import Struct
from hypervisor.public.memory import (
    XENMEM_decrease_reservation,
    XENMEM_exchange,
    XENMEM_increase_reservation,
    XENMEM_populate_physmap,
    xen_memory_exchange,
    xen_memory_reservation,
)
from hypervisor.public.xen import (
    DOMID_SELF,
    MMU_MACHPHYS_UPDATE,
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_UNPIN_TABLE,
    Hypercall,
    mmuext_op,
    mmuext_op_arg1,
    mmuext_op_arg2,
    multicall_entry,
)
from scripts.benchmarks.figure import Figure, Sizes
from tests.hypervisor.grants.granting import GrantingDomains, Guest, granting_domains

PLENTY: Final = 1 << 40
ARGUMENTS: Final = 330
"""The first of the guest's pages that hold arguments; those before it are operated on."""
COUNT: Final = 64
"""Operations of one kind in one hypercall."""
MANY_PAGES: Final = 1 << 15
RW: Final = PAGE_PRESENT | PAGE_RW | PAGE_USER
MILLISECONDS: Final = 1e3

Spent = tuple[float, int]
"""Seconds that a hypercall took, and the units of budget that it spent."""


def budget_units(sizes: Sizes) -> Iterator[Figure]:
    """The longest portion that any operation can make, against one that validates L1 tables."""
    rounds: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    for _ in range(max(1, min(sizes.rounds, 5))):
        with granting_domains() as house:
            bench = Workbench(house)
            for name, operation in OPERATIONS.items():
                seconds, units = operation(bench)
                assert units > 0, f"{name} spends nothing"
                rounds[name].append(seconds / units)
    unit = {name: min(seconds) for name, seconds in rounds.items()}  # the host was least in the way then
    worst, usual = max(unit.values()), unit["L1 table"]
    yield Figure(
        "budget_units",
        worst * DEFAULT_ENTRIES * MILLISECONDS,
        "ms",
        "a portion that validates L1 tables",
        usual * DEFAULT_ENTRIES * MILLISECONDS,
        worst / usual,
        {f"{name}, ns a unit": seconds * 1e9 for name, seconds in unit.items()},
    )


class Workbench:
    """Domain 1 of three performs hypercalls here, with all the budget it can spend."""

    def __init__(self, house: GrantingDomains) -> None:
        self.house = house
        self.guest: Guest = house.dom1
        for guest in house.guests:
            guest.built.domain.mem.max_pages = MANY_PAGES
        self.frames = [self.guest.page(i).mfn for i in range(ARGUMENTS)]

    def call(self, nr: int, *args: int, guest: Guest | None = None) -> Spent:
        """One hypercall of the guest."""
        built = (guest or self.guest).built
        a, b, c, d, e = (*args, *(0,) * (5 - len(args)))
        budget = Budget(PLENTY)
        call = Call(
            self.house.machine.hv, built.domain, built.vcpu, int(nr), (a, b, c, d, e), perform, budget=budget
        )
        start = time.perf_counter()
        result = perform(call)
        seconds = time.perf_counter() - start
        if not isinstance(result, int) or result < 0:
            raise RuntimeError(f"hypercall {nr} {args}: {result}")
        built.vcpu.effects.take()
        return seconds, PLENTY - budget.left

    def put(self, records: list[Struct] | np.ndarray, at: int = ARGUMENTS) -> int:
        """Lay records or numbers out in the guest's pages from `at` on; their address."""
        va = self.guest.page(at).va
        data = records.tobytes() if isinstance(records, np.ndarray) else b"".join(r.pack() for r in records)
        self.guest.poke(va, data)
        return va

    def grants(self, cmd: int, records: list[Struct], guest: Guest | None = None) -> Spent:
        """One grant_table_op of these operations; each must succeed."""
        mapper = guest or self.guest
        va = mapper.page(ARGUMENTS).va
        mapper.poke(va, b"".join(record.pack() for record in records))
        spent = self.call(Hypercall.grant_table_op, int(cmd), va, len(records), guest=guest)
        done = [mapper.peek(va + i * record.sizeof, type(record)) for i, record in enumerate(records)]
        assert all(getattr(record, "status", 0) == 0 for record in done)
        self.results = done
        return spent

    def spare(self, count: int) -> list[int]:
        """Frames of the guest that nothing maps."""
        mmu = self.house.machine.hv.mmu
        return [int(mmu.allocator.alloc_page(self.guest.built.domain.mem)) for _ in range(count)]

    def extension(self, *ops: mmuext_op) -> Spent:
        """One mmuext_op."""
        return self.call(Hypercall.mmuext_op, self.put(list(ops)), len(ops), 0, DOMID_SELF)


# --- grants ------------------------------------------------------------------------------------------------


def copy_by_frame(bench: Workbench) -> Spent:
    """Grant copies of whole pages between frames of one's own."""
    ends = [gnttab_copy_ptr(u=gnttab_copy_ptr_u(gmfn=mfn), domid=DOMID_SELF) for mfn in bench.frames[:2]]
    return bench.grants(
        GrantTableOp.GNTTABOP_copy, [gnttab_copy(source=ends[0], dest=ends[1], len=4096)] * COUNT
    )


def copy_by_reference(bench: Workbench) -> Spent:
    """Grant copies of whole pages between grants of another domain."""
    other, ends = bench.house.dom2, []
    for ref in (8, 9):
        other.offer(ref, bench.guest.domid, other.page(ref).mfn)
        ends.append(gnttab_copy_ptr(u=gnttab_copy_ptr_u(ref=ref), domid=other.domid))
    flags = int(GNTCOPY_source_gref | GNTCOPY_dest_gref)
    op = gnttab_copy(source=ends[0], dest=ends[1], len=4096, flags=flags)
    return bench.grants(GrantTableOp.GNTTABOP_copy, [op] * COUNT)


def map_and_unmap(bench: Workbench) -> tuple[Spent, Spent]:
    """Dom0 maps grants of the guest, then unmaps them."""
    dom0 = bench.house.dom0
    maps: list[Struct] = []
    for i in range(COUNT):
        bench.guest.offer(10 + i, dom0.domid, bench.frames[i])
        maps.append(
            gnttab_map_grant_ref(
                host_addr=dom0.page(i).va, flags=int(GNTMAP_host_map), ref=10 + i, dom=bench.guest.domid
            )
        )
    mapped = bench.grants(GrantTableOp.GNTTABOP_map_grant_ref, maps, dom0)
    unmaps: list[Struct] = [
        gnttab_unmap_grant_ref(host_addr=record.host_addr, handle=record.handle) for record in bench.results
    ]
    return mapped, bench.grants(GrantTableOp.GNTTABOP_unmap_grant_ref, unmaps, dom0)


def transfer(bench: Workbench) -> Spent:
    """Frames given away for good."""
    other, ops = bench.house.dom2, []
    for i, mfn in enumerate(bench.spare(COUNT)):
        other.offer(100 + i, bench.guest.domid, 0, int(GTF_accept_transfer))
        ops.append(gnttab_transfer(mfn=mfn, domid=other.domid, ref=100 + i))
    return bench.grants(GrantTableOp.GNTTABOP_transfer, list(ops))


def swap(bench: Workbench) -> Spent:
    """Entries of one's own table exchanged."""
    return bench.grants(
        GrantTableOp.GNTTABOP_swap_grant_ref, [gnttab_swap_grant_ref(ref_a=200, ref_b=201)] * COUNT
    )


def cache_flush(bench: Workbench) -> Spent:
    """Lines of a frame that another domain grants, among 200 grants in use, written back."""
    dom0, guest = bench.house.dom0, bench.guest
    maps: list[Struct] = []
    for i in range(200):
        guest.offer(250 + i, dom0.domid, bench.frames[i])
        maps.append(
            gnttab_map_grant_ref(
                host_addr=dom0.page(i).va, flags=int(GNTMAP_host_map), ref=250 + i, dom=guest.domid
            )
        )
    bench.grants(GrantTableOp.GNTTABOP_map_grant_ref, maps, dom0)
    mapped = bench.results
    op = gnttab_cache_flush(
        a=gnttab_cache_flush_a(dev_bus_addr=bench.frames[199] << 12), length=64, op=int(GNTTAB_CACHE_CLEAN)
    )
    spent = bench.grants(GrantTableOp.GNTTABOP_cache_flush, [op] * COUNT, dom0)
    unmaps: list[Struct] = [
        gnttab_unmap_grant_ref(host_addr=guest_map.host_addr, handle=guest_map.handle) for guest_map in mapped
    ]
    bench.grants(GrantTableOp.GNTTABOP_unmap_grant_ref, unmaps, dom0)
    return spent


# --- memory ------------------------------------------------------------------------------------------------


def reservation(bench: Workbench, cmd: int, numbers: list[int], order: int = 0) -> Spent:
    """One memory_op on a list of extents."""
    va = bench.put(np.array(numbers, np.uint64))
    op = xen_memory_reservation(
        extent_start=va, nr_extents=len(numbers), extent_order=order, domid=DOMID_SELF
    )
    return bench.call(Hypercall.memory_op, int(cmd), bench.put([op], ARGUMENTS + 8))


def exchange(bench: Workbench, order: int) -> Spent:
    """Frames for as many others."""
    frames = bench.spare(COUNT)
    count = COUNT >> order
    given = bench.put(np.array(frames, np.uint64))
    wanted = bench.put(np.arange(5000, 5000 + count, dtype=np.uint64), ARGUMENTS + 4)
    op = xen_memory_exchange(
        in_=xen_memory_reservation(extent_start=given, nr_extents=COUNT, domid=DOMID_SELF),
        out=xen_memory_reservation(
            extent_start=wanted, nr_extents=count, extent_order=order, domid=DOMID_SELF
        ),
    )
    return bench.call(Hypercall.memory_op, int(XENMEM_exchange), bench.put([op], ARGUMENTS + 8))


# --- page tables -------------------------------------------------------------------------------------------


def updates(bench: Workbench, requests: list[tuple[int, int]]) -> Spent:
    """One mmu_update."""
    va = bench.put(np.array(requests, np.uint64))
    return bench.call(Hypercall.mmu_update, va, len(requests), 0, DOMID_SELF)


def l1_updates(bench: Workbench, times: int) -> Spent:
    """Entries of the guest's own L1 changed; `times` > 1: the same ones again, which array operations cannot do."""
    spots = [bench.guest.pte_address(bench.guest.page(i).va) for i in range(COUNT)]
    return updates(bench, [(spots[i], pte(bench.frames[i], RW)) for _ in range(times) for i in range(COUNT)])


def slow_l1_updates(bench: Workbench) -> Spent:
    """Another frame each time: new references are taken, and old ones dropped."""
    spot = bench.guest.pte_address(bench.guest.page(0).va)
    frames = [bench.frames[i % 2] for i in range(COUNT)]
    return updates(bench, [(spot, pte(mfn, RW)) for mfn in frames])


def m2p_updates(bench: Workbench) -> Spent:
    """The guest's own numbers of its frames."""
    return updates(
        bench, [(mfn << 12 | int(MMU_MACHPHYS_UPDATE), 512 + i) for i, mfn in enumerate(bench.frames[:COUNT])]
    )


def table(bench: Workbench, named: list[int], flags: int = RW) -> int:
    """A frame that nothing maps, as a page table that names these frames."""
    (mfn,) = bench.spare(1)
    bench.house.machine.memory.frames[mfn, : len(named)] = [pte(frame, flags) for frame in named]
    return mfn


def pin_and_unpin(bench: Workbench, level: int, mfn: int) -> tuple[Spent, Spent]:
    """A table of `level` validated, and de-validated."""
    cmd = int(MMUEXT_PIN_L1_TABLE) + level - 1
    pinned = bench.extension(mmuext_op(cmd=cmd, arg1=mmuext_op_arg1(mfn=mfn)))
    unpin = bench.extension(mmuext_op(cmd=int(MMUEXT_UNPIN_TABLE), arg1=mmuext_op_arg1(mfn=mfn)))
    return pinned, unpin


def l1_table(bench: Workbench) -> tuple[Spent, Spent]:
    """512 entries that name as many frames."""
    return pin_and_unpin(bench, 1, table(bench, bench.spare(512)))


def upper_table(bench: Workbench) -> tuple[Spent, Spent]:
    """512 entries that name the same small L1."""
    return pin_and_unpin(bench, 2, table(bench, [table(bench, [])] * 512))


def whole_pages(bench: Workbench, cmd: int) -> Spent:
    """Frames cleared or copied by mmuext_op."""
    one, other = bench.spare(2)
    op = mmuext_op(cmd=int(cmd), arg1=mmuext_op_arg1(mfn=one), arg2=mmuext_op_arg2(src_mfn=other))
    return bench.extension(*[op] * COUNT)


# --- descriptors, traps, multicalls ------------------------------------------------------------------------


def gdt(bench: Workbench) -> Spent:
    """Fourteen frames full of call gates, which are looked at one by one."""
    frames = bench.spare(14)
    for mfn in frames:
        bench.house.machine.memory.frames[mfn] = 0x0000EC00E0330000
    spent = bench.call(Hypercall.set_gdt, bench.put(np.array(frames, np.uint64)), 14 * 512)
    bench.call(Hypercall.set_gdt, 0, 0)
    return spent


def trap_table(bench: Workbench) -> Spent:
    """A full table."""
    traps = [trap_info(vector=i, cs=0xE033, address=0x1000) for i in range(255)]
    return bench.call(Hypercall.set_trap_table, bench.put([*traps, trap_info()]))


def multicall(bench: Workbench, nr: int, *args: int) -> Spent:
    """The same small hypercall again and again."""
    entry = multicall_entry(op=int(nr), args=[*args, *[0] * (6 - len(args))])
    return bench.call(Hypercall.multicall, bench.put([entry] * COUNT), COUNT)


def descriptors(bench: Workbench) -> Spent:
    """Descriptors of a frame changed one by one."""
    (mfn,) = bench.spare(1)
    return multicall(bench, Hypercall.update_descriptor, mfn << 12, 0x00CFF3000000FFFF)


OPERATIONS: Final[dict[str, Callable[[Workbench], Spent]]] = {
    "L1 table": lambda bench: l1_table(bench)[0],
    "L1 table dropped": lambda bench: l1_table(bench)[1],
    "upper table": lambda bench: upper_table(bench)[0],
    "upper table dropped": lambda bench: upper_table(bench)[1],
    "mmu_update in a batch": lambda bench: l1_updates(bench, 1),
    "mmu_update": slow_l1_updates,
    "mmu_update, same frame": lambda bench: l1_updates(bench, 2),
    "mmu_update of the M2P": m2p_updates,
    "clear_page": lambda bench: whole_pages(bench, MMUEXT_CLEAR_PAGE),
    "copy_page": lambda bench: whole_pages(bench, MMUEXT_COPY_PAGE),
    "increase_reservation": lambda bench: reservation(bench, XENMEM_increase_reservation, [0] * COUNT),
    "increase_reservation, order 5": lambda bench: reservation(bench, XENMEM_increase_reservation, [0], 5),
    "populate_physmap": lambda bench: reservation(bench, XENMEM_populate_physmap, list(range(COUNT))),
    "populate_physmap, more": lambda bench: reservation(bench, XENMEM_populate_physmap, list(range(512))),
    "decrease_reservation": lambda bench: reservation(bench, XENMEM_decrease_reservation, bench.spare(COUNT)),
    "exchange": lambda bench: exchange(bench, 0),
    "exchange, order 5": lambda bench: exchange(bench, 5),
    "grant copy": copy_by_frame,
    "grant copy by reference": copy_by_reference,
    "grant map": lambda bench: map_and_unmap(bench)[0],
    "grant unmap": lambda bench: map_and_unmap(bench)[1],
    "grant transfer": transfer,
    "swap_grant_ref": swap,
    "cache_flush": cache_flush,
    "set_gdt": gdt,
    "set_trap_table": trap_table,
    "multicall of update_descriptor": descriptors,
    "multicall of xen_version": lambda bench: multicall(bench, Hypercall.xen_version),
}
