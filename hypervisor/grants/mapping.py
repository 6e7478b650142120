"""Mapping others' grants: map_grant_ref, unmap_grant_ref, unmap_and_replace, and what is left when a mapper
dies.

A map has one or two parts, host and device. Each is a pin of its kind and has its own references on the
frame (G4); the host part is also a page-table entry of the mapper, whose references are the entry's own. So
the parts can go separately, each once (G7), and a page-table entry that the guest overwrote by itself takes
nothing with it but its own references (G10): the pin stays until the handle is unmapped, which then fails
(G8), or the mapper dies (G18).

Order of checks and statuses: Xen's xen/common/grant_table.c. One more refusal, GNTST_general_error: a domain
that is neither privileged nor the granter itself cannot map, for its process must never see the granter's
memfd, and a frame in a memfd of the pair does not exist yet. It works by grant copy.
"""

from __future__ import annotations

from typing import Final

from hypervisor.grants.active import pin_increment
from hypervisor.grants.grant_table import GrantTable
from hypervisor.grants.maptrack import Mapping
from hypervisor.grants.status import GrantRefused
from hypervisor.machine.frame_types import PGT
from hypervisor.mm.domain_memory import VcpuMemory
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_gntref,
    GNTST_general_error,
    gnttab_map_grant_ref,
)
from hypervisor.public.types import PAGE_SHIFT, DomId, Mfn

DEVICE: Final = int(GNTMAP_device_map)
HOST: Final = int(GNTMAP_host_map)
READONLY: Final = int(GNTMAP_readonly)
PARTS: Final = (DEVICE, HOST)
MAPS_PER_PORTION: Final = 32
"""How many mappings of a dying domain are released before others get their turn (Q4)."""


def map_grant_ref(mapper: GrantTable, v: VcpuMemory, op: gnttab_map_grant_ref) -> None:
    """Map one grant for the vCPU `v`; fills in `handle` and `dev_bus_addr`. GrantRefused, and nothing
    changed.
    """
    increment = pin_increment(op.flags)
    if not increment:
        raise GrantRefused(GNTST_bad_gntref, f"map flags {op.flags:#x} name no mapping")
    granter = mapper.granter(op.dom)
    mapper.maptrack.require_room()
    granter.require_ref(op.ref)
    require_visible(mapper, granter)
    readonly = bool(op.flags & READONLY)
    active = granter.acquire(op.ref, mapper.domid, increment, readonly=readonly)
    try:
        take_parts(granter, active.mfn, op.flags)
        try:
            if op.flags & HOST:
                create_host_mapping(mapper, v, op, granter.domid, active.mfn)
        except BaseException:
            drop_parts(granter, active.mfn, op.flags)
            raise
    except BaseException:
        granter.release(op.ref, increment, readonly=readonly)
        raise
    finally:
        granter.mmu.frames.put_page(active.mfn)  # the one that `acquire` took: each part has its own by now
    op.handle = mapper.maptrack.add(Mapping(granter.domid, op.ref, op.flags))
    op.dev_bus_addr = active.mfn << PAGE_SHIFT if mapper.d.p2m is None else 0  # it learns no machine frames


def require_visible(mapper: GrantTable, granter: GrantTable) -> None:
    """Whether the mapper's process can be shown the granter's frames at all (docs/grants.md)."""
    if mapper.d.dying:
        raise GrantRefused(GNTST_general_error, f"K1: d{mapper.domid} is dying, it maps nothing")
    if granter is not mapper and not mapper.d.privileged:
        why = f"d{mapper.domid} has no sight of d{granter.domid}'s memory: it may copy, not map"
        raise GrantRefused(GNTST_general_error, why)


def create_host_mapping(
    mapper: GrantTable, v: VcpuMemory, op: gnttab_map_grant_ref, granter: DomId, mfn: Mfn
) -> None:
    """Write the page-table entry (G9), or a translated mapper's entry in its P2M (Xen's create_grant_p2m_mapping)."""
    try:
        if mapper.d.p2m is None:
            mapper.mmu.grant_entries.create(v, op.host_addr, mfn, op.flags)
        elif op.flags & ~READONLY == HOST:
            gfn, readonly = op.host_addr >> PAGE_SHIFT, bool(op.flags & READONLY)
            mapper.mmu.physmap.add_grant(mapper.d, gfn, mfn, granter, readonly=readonly)
        else:
            raise XenError(Errno.EINVAL, f"map flags {op.flags:#x} of a translated domain")
    except XenError as error:
        raise GrantRefused(GNTST_general_error, f"G9: at {op.host_addr:#x}: {error}") from None


def take_parts(granter: GrantTable, mfn: Mfn, flags: int) -> None:
    """One general reference for each part, with a writable type reference unless read-only (G4); all or
    none.
    """
    taken = 0
    try:
        for part in PARTS:
            if flags & part:
                if flags & READONLY:
                    granter.mmu.frames.get_page(mfn, granter.domid)
                else:
                    granter.mmu.types.get_page_and_type(mfn, granter.domid, PGT.writable_page)
                taken |= part
    except XenError as error:
        drop_parts(granter, mfn, taken | flags & READONLY)
        raise GrantRefused(GNTST_general_error, f"G4: frame {mfn:#x} of d{granter.domid}: {error}") from None


def drop_parts(granter: GrantTable, mfn: Mfn, flags: int) -> None:
    """What `take_parts` took for the parts in `flags`, each once (G7)."""
    for part in PARTS:
        if flags & part:
            if flags & READONLY:
                granter.mmu.frames.put_page(mfn)
            else:
                granter.mmu.types.put_page_and_type(mfn)


def unmap(
    mapper: GrantTable,
    v: VcpuMemory,
    handle: int,
    *,
    host_addr: int = 0,
    dev_bus_addr: int = 0,
    new_addr: int = 0,
) -> None:
    """Unmap the parts of a mapping whose address is not 0; with `new_addr`, that address's entry moves to
    `host_addr`.

    GrantRefused, and nothing changed: bad_handle, bad_dev_addr; general_error if the page-table
    entry is not the grant's any more (G8). The caller flushes the mapper's TLBs before its guest runs again.
    """
    mapping = mapper.maptrack.get(handle)
    granter, flags = mapper.find(mapping.granter), mapping.flags
    active = granter.active[mapping.ref]
    parts = flags & ((HOST if host_addr else 0) | (DEVICE if dev_bus_addr else 0))
    if parts & DEVICE and dev_bus_addr != active.mfn << PAGE_SHIFT:
        raise GrantRefused(GNTST_bad_dev_addr, f"G7: handle {handle:#x} is not at {dev_bus_addr:#x}")
    if parts & HOST:
        remove_host_mapping(mapper, v, host_addr, active.mfn, new_addr, flags)
    release_parts(granter, mapping, parts)
    if not mapping.flags & (HOST | DEVICE):
        mapper.maptrack.remove(handle)


def remove_host_mapping(
    mapper: GrantTable, v: VcpuMemory, host_addr: int, mfn: Mfn, new_addr: int, flags: int
) -> None:
    """Clear or replace the page-table entry, or the P2M's, which must still be what the grant put there (G8)."""
    try:
        if mapper.d.p2m is not None:
            mapper.mmu.physmap.remove_grant(mapper.d, host_addr >> PAGE_SHIFT, mfn)
        elif new_addr:
            mapper.mmu.grant_entries.replace(v, host_addr, mfn, new_addr, flags)
        else:
            mapper.mmu.grant_entries.destroy(v, host_addr, mfn, flags)
    except XenError as error:
        raise GrantRefused(GNTST_general_error, f"G8: at {host_addr:#x}: {error}") from None


def release_parts(granter: GrantTable, mapping: Mapping, parts: int) -> None:
    """References, pin and flags of these parts go together (G7, G11)."""
    readonly = mapping.flags & READONLY
    if not parts:
        return
    mfn = granter.active[mapping.ref].mfn
    mapping.flags &= ~parts
    granter.release(mapping.ref, pin_increment(parts | readonly), readonly=bool(readonly))
    drop_parts(granter, mfn, parts | readonly)
    if not readonly:
        forget_code(granter, mfn)


def forget_code(granter: GrantTable, mfn: Mfn) -> None:
    """Others wrote this frame: what the owner's CPUs translated from it goes (docs/contracts.md, FLUSH_CODE)."""
    for vcpu in granter.d.vcpus:
        vcpu.cpu.flush_code(mfn)


def release_maps(mapper: GrantTable, *, limit: int = MAPS_PER_PORTION) -> bool:
    """The mapper dies: let go of what it mapped, from the highest handle down; True once nothing is left
    (G18, K2).

    Restartable. Its page-table entries hold references of their own and go with its tables.
    """
    mapper.maptrack.close()
    for _ in range(limit):
        last = mapper.maptrack.last()
        if last is None:
            return True
        handle, mapping = last
        granter = mapper.find(mapping.granter)
        release_parts(granter, mapping, mapping.flags & (HOST | DEVICE))
        mapper.maptrack.remove(handle)
    return False
