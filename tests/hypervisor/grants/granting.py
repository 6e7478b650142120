"""Domains that grant to each other, on a real hypervisor in this process: what a guest would write and call.

Every hypercall goes through the dispatcher, and afterwards everything is recounted: a test cannot leave an
inconsistency unnoticed. A domain's pages beyond the first megabyte are its free ones; `page(i)` gives the
i-th with all its names.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgpack

from hypervisor.grants.grant_table import GrantLimits, GrantTable
from hypervisor.public.errno import XenError
from hypervisor.public.grant_table import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GrantTableOp,
    GTF_permit_access,
    GTF_reading,
    GTF_sub_page,
    GTF_writing,
    gnttab_copy,
    gnttab_copy_ptr,
    gnttab_copy_ptr_u,
    gnttab_map_grant_ref,
    gnttab_set_version,
    gnttab_unmap_grant_ref,
    grant_entry_header,
    grant_entry_v1,
    grant_entry_v2_full_page,
    grant_entry_v2_sub_page,
)
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, Mfn, VAddr
from hypervisor.public.xen import UVMF_INVLPG, Hypercall
from tests.inprocess import VIRT_BASE, Built, InProcess, hypervisor_in_process
from tests.recount import recount
from tests.recount_events import recount_events
from tests.recount_grants import grant_references, recount_grants

FIRST_FREE_PAGE = 512
HOST = int(GNTMAP_host_map)
READONLY = int(GNTMAP_readonly)
PERMIT = int(GTF_permit_access)
USED = int(GTF_reading | GTF_writing)
PTE_FLAGS = 0x63  # P RW A D
FRAMES_EVERY = 20
"""Hypercalls between two recounts of the frame table."""


class Page(NamedTuple):
    """One page of a guest under its three names."""

    va: VAddr
    pfn: int
    mfn: Mfn


class Guest:
    """What one domain's kernel does: writes its grant table and its pages, and calls the hypervisor."""

    def __init__(self, house: GrantingDomains, built: Built) -> None:
        self.house = house
        self.built = built
        self.domid = built.domain.domid
        self.memory = house.machine.memory

    @property
    def grants(self) -> GrantTable:
        return self.built.domain.grants

    def page(self, number: int) -> Page:
        pfn = FIRST_FREE_PAGE + number
        return Page(VAddr(VIRT_BASE + (pfn << PAGE_SHIFT)), pfn, Mfn(int(self.built.p2m[pfn])))

    # --- its own grant table ---------------------------------------------------------------------------

    def offer(self, ref: int, to: int, mfn: int, flags: int = PERMIT) -> None:
        """Write a whole entry of its table, in the form the table has."""
        if self.version == 1:
            self.write_entry(ref, grant_entry_v1(flags=flags, domid=DomId(to), frame=mfn))
        else:
            hdr = grant_entry_header(flags=flags, domid=DomId(to))
            self.write_entry(ref, grant_entry_v2_full_page(hdr=hdr, frame=mfn))

    def offer_part(self, ref: int, to: int, mfn: int, start: int, length: int, flags: int = PERMIT) -> None:
        """Offer some bytes of a frame, in a version 2 table."""
        hdr = grant_entry_header(flags=flags | int(GTF_sub_page), domid=DomId(to))
        self.write_entry(ref, grant_entry_v2_sub_page(hdr=hdr, page_off=start, length=length, frame=mfn))

    def write_entry(self, ref: int, entry: Struct) -> None:
        self.memory.write(self.entry_address(ref), entry.pack())

    def entry(self, ref: int) -> Any:
        """A grant_entry_v1, or a grant_entry_v2_full_page, as the table has it."""
        kind = grant_entry_v1 if self.version == 1 else grant_entry_v2_full_page
        return kind.unpack(self.memory.read(self.entry_address(ref), kind.sizeof))

    def head(self, ref: int) -> tuple[int, int]:
        """(flags, domid) of an entry."""
        head = grant_entry_header.unpack(self.memory.read(self.entry_address(ref), 4))
        return head.flags, head.domid

    def entry_address(self, ref: int) -> int:
        size = 8 if self.version == 1 else 16
        return (self.grants.frames[ref * size // PAGE_SIZE] << PAGE_SHIFT) + ref * size % PAGE_SIZE

    def used(self, ref: int) -> int:
        """GTF_reading and GTF_writing of an entry, as Xen tells them."""
        if self.version == 1:
            return self.head(ref)[0] & USED
        frame = self.grants.status_frames[ref // 2048]
        return int.from_bytes(self.memory.read((frame << PAGE_SHIFT) + ref % 2048 * 2, 2), "little")

    @property
    def version(self) -> int:
        """Of its table."""
        return self.grants.shared.version

    def set_version(self, version: int) -> int:
        """The result."""
        op = gnttab_set_version(version=version)
        result, (record,) = self.grant_table_op(GrantTableOp.GNTTABOP_set_version, op)
        assert record.version == self.version
        return int(result)

    # --- hypercalls -----------------------------------------------------------------------------------

    def hypercall(self, nr: int, *args: int) -> Any:
        result = self.house.machine.hypercall(self.built.vcpu, nr, *args)
        self.house.after_hypercall()
        return result

    def grant_table_op(self, cmd: int, *records: Any) -> tuple[Any, list[Any]]:
        """The result, and the structures as the hypervisor left them."""
        va = self.page(400).va  # room for a few hundred
        self.poke(va, b"".join(record.pack() for record in records))
        result = self.hypercall(Hypercall.grant_table_op, cmd, va, len(records))
        return result, [self.peek(va + i * r.sizeof, type(r)) for i, r in enumerate(records)]

    def one(self, cmd: int, record: Any) -> Any:
        """A batch of one, which must be accepted as such."""
        result, records = self.grant_table_op(cmd, record)
        assert result == 0
        return records[0]

    def poke(self, va: int, data: bytes) -> None:
        self.house.machine.hv.mmu.guest.copy_to_guest(self.built.vcpu.mem, va, data)

    def peek(self, va: int, struct: type[Struct]) -> Any:
        return struct.unpack(
            self.house.machine.hv.mmu.guest.copy_from_guest(self.built.vcpu.mem, va, struct.sizeof)
        )

    def map(self, granter: Guest, ref: int, va: int, flags: int = HOST) -> gnttab_map_grant_ref:
        op = gnttab_map_grant_ref(host_addr=va, flags=flags, ref=ref, dom=granter.domid)
        return self.one(GrantTableOp.GNTTABOP_map_grant_ref, op)  # type: ignore[no-any-return]

    def unmap(self, handle: int, va: int = 0, dev: int = 0) -> int:
        """The status."""
        op = gnttab_unmap_grant_ref(host_addr=va, dev_bus_addr=dev, handle=handle)
        return int(self.one(GrantTableOp.GNTTABOP_unmap_grant_ref, op).status)

    def copy(self, source: gnttab_copy_ptr, dest: gnttab_copy_ptr, length: int, flags: int) -> int:
        """The status."""
        op = gnttab_copy(source=source, dest=dest, len=length, flags=flags)
        return int(self.one(GrantTableOp.GNTTABOP_copy, op).status)

    def update_va_mapping(self, va: int, entry: int, flags: int = int(UVMF_INVLPG)) -> Any:
        return self.hypercall(Hypercall.update_va_mapping, va, entry, flags)

    def pte_address(self, va: int) -> int:
        """Machine address of the L1 entry of a virtual address, which need not be present."""
        walk = self.house.machine.hv.mmu.walker.to_l1(self.built.vcpu.mem, va)
        assert walk is not None, f"{va:#x} has no L1 table"
        return (walk.l1 << PAGE_SHIFT) + (va >> PAGE_SHIFT & 511) * 8

    def loads(self, va: int, size: int = 16) -> bytes:
        """What the guest reads there; it must be mapped."""
        return self.house.machine.hv.mmu.guest.copy_from_guest(self.built.vcpu.mem, va, size)

    def may_store(self, va: int) -> bool:
        try:
            self.house.machine.hv.mmu.guest.copy_to_guest(self.built.vcpu.mem, va, self.loads(va, 1))
        except XenError:
            return False
        return True


class GrantingDomains:
    """Dom0, which may map what others grant it, and domains 1 and 2, which may copy."""

    def __init__(self, machine: InProcess) -> None:
        self.machine = machine
        self.dom0 = Guest(self, machine.build(privileged=True))
        self.dom1 = Guest(self, machine.build())
        self.dom2 = Guest(self, machine.build())
        self.honest: set[DomId] | None = None
        self.hypercalls = 0
        self.written_down_every: int | None = None
        """Hypercalls between two moments at which all grant tables are written down and read back."""

    @property
    def guests(self) -> tuple[Guest, Guest, Guest]:
        return self.dom0, self.dom1, self.dom2

    def refs(self, mfn: int) -> tuple[int, int]:
        """(general references, type references) on a frame."""
        return self.machine.hv.frames.refs[mfn], self.machine.hv.frames.tcount[mfn]

    def after_hypercall(self) -> None:
        self.hypercalls += 1
        if self.written_down_every and self.hypercalls % self.written_down_every == 0:
            self.write_down_and_read_back()
        self.recount(frames=self.hypercalls % FRAMES_EVERY == 0)

    def write_down_and_read_back(self) -> None:
        """Every domain goes on with a grant table that was read back from what its own wrote down."""
        for domain in self.machine.hv.domains.values():
            old = domain.grants
            fresh = GrantTable(
                old.d,
                old.mmu,
                GrantLimits(),
                domains=old.find,
                atomics=old._atomics,
            )
            fresh.restore(msgpack.unpackb(msgpack.packb(old.snapshot())))
            assert fresh.snapshot() == old.snapshot()
            domain.grants = fresh

    def recount(self, *, frames: bool = True) -> None:
        """Every grant and event channel of the machine, from scratch; with `frames` every frame too."""
        domains = list(self.machine.hv.domains.values())
        tables = [domain.grants for domain in domains]
        recount_grants(tables, honest=self.honest)
        recount_events([domain.events for domain in domains])
        if frames:
            recount(self.machine.hv.mmu, grant_references(tables))


@contextmanager
def granting_domains() -> Iterator[GrantingDomains]:
    """At the end everything is recounted, all domains are destroyed, and every frame is back."""
    with hypervisor_in_process(nr_cpus=4) as machine:
        total = machine.hv.mmu.allocator.free_frames
        house = GrantingDomains(machine)
        yield house
        house.recount()
        for domain in reversed(list(machine.hv.domains.values())):
            machine.destroy(domain)
            house.recount()
        deadline = time.monotonic() + 10
        while machine.hv.domains and time.monotonic() < deadline:
            machine.background()  # a dead granter goes a little after its last mapper (K4)
        assert not machine.hv.domains, "K5: a domain does not go"
        assert machine.hv.mmu.allocator.free_frames == total, "K5: frames are lost"


def by_ref(domid: int, ref: int, offset: int = 0) -> gnttab_copy_ptr:
    """One end of a copy, by grant reference."""
    return gnttab_copy_ptr(u=gnttab_copy_ptr_u(ref=ref), domid=DomId(domid), offset=offset)


def by_frame(domid: int, gmfn: int, offset: int = 0) -> gnttab_copy_ptr:
    """One end of a copy, by frame number."""
    return gnttab_copy_ptr(u=gnttab_copy_ptr_u(gmfn=gmfn), domid=DomId(domid), offset=offset)


PAGE = PAGE_SIZE
