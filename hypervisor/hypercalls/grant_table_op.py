"""grant_table_op: decode each operation of a batch, have the grant tables perform it, write its status back.

    grant_table_op(cmd, uop, count)     cmd: GNTTABOP_*; uop: guest address of `count` structures of that
    operation

Each structure is read once and only what is an output is written, into that structure, before the next one
is read. A batch is cut where the budget of the dispatch ends, and goes on behind what is done: none is
repeated, none skipped (G17, XSA-318). Error numbers and statuses: Xen's xen/common/grant_table.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hypervisor.domain.domain import Domain
from hypervisor.grants.cache_flush import cache_flush
from hypervisor.grants.copying import copy
from hypervisor.grants.mapping import map_grant_ref, unmap
from hypervisor.grants.status import GrantRefused
from hypervisor.grants.transfer import transfer
from hypervisor.grants.versions import set_version
from hypervisor.hypercalls.call import Call, Continue
from hypervisor.hypercalls.outputs import write_outputs
from hypervisor.mm.budget import (
    ACTIVE_GRANTS_PER_UNIT,
    COST_OF_CACHE_FLUSH,
    COST_OF_GRANT_COPY,
    COST_OF_GRANT_MAP,
    COST_OF_GRANT_SWAP,
    COST_OF_GRANT_TRANSFER,
    COST_OF_GRANT_UNMAP,
    COST_OF_PAGE,
)
from hypervisor.mm.layout import addr_ok
from hypervisor.public.abi import NATIVE, Abi
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.grant_table import (
    GNTST_bad_domain,
    GNTST_bad_virt_addr,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GrantTableOp,
    gnttab_cache_flush,
    gnttab_copy,
    gnttab_get_status_frames,
    gnttab_get_version,
    gnttab_map_grant_ref,
    gnttab_query_size,
    gnttab_set_version,
    gnttab_setup_table,
    gnttab_swap_grant_ref,
    gnttab_transfer,
    gnttab_unmap_and_replace,
    gnttab_unmap_grant_ref,
)
from hypervisor.public.layout import Struct
from hypervisor.public.types import U32, Mfn

GNTTABOP_CMD_MASK: Final = 0xFFF
"""Above it Xen keeps its place in a cut cache_flush; here the place is the address alone."""
MAX_COUNT: Final = (1 << 31) - 1


def do_grant_table_op(call: Call) -> int | Continue:
    """The handler of hypercall 20. XenError: EINVAL, ENOSYS, EFAULT."""
    cmd, uop, count = call.args[0] & U32, call.args[1], call.args[2] & U32
    if count > MAX_COUNT or cmd & ~GNTTABOP_CMD_MASK:
        raise XenError(Errno.EINVAL, f"grant_table_op {cmd:#x} of {count}")
    if batched := BATCHED.get(cmd):
        return perform_batch(call, batched, uop, count)
    single = SINGLE.get(cmd)
    if single is None:
        raise XenError(Errno.ENOSYS, f"grant_table_op {cmd}")
    return single(call, uop, count)


FOR_HVM: Final = frozenset(
    int(op)
    for op in (
        GrantTableOp.GNTTABOP_query_size,
        GrantTableOp.GNTTABOP_setup_table,
        GrantTableOp.GNTTABOP_set_version,
        GrantTableOp.GNTTABOP_get_version,
        GrantTableOp.GNTTABOP_copy,
        GrantTableOp.GNTTABOP_map_grant_ref,
        GrantTableOp.GNTTABOP_unmap_grant_ref,
        GrantTableOp.GNTTABOP_swap_grant_ref,
    )
)
"""What an HVM guest may ask (Xen's hvm_grant_table_op)."""


def do_hvm_grant_table_op(call: Call) -> int | Continue:
    """The same for an HVM guest. XenError(ENOSYS): an operation that is for PV guests."""
    if call.args[0] & U32 not in FOR_HVM:
        raise XenError(Errno.ENOSYS, f"grant_table_op {call.args[0] & U32} of an HVM guest")
    return do_grant_table_op(call)


# --- batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batched:
    """An operation that comes in arrays. `outputs`: the fields the guest gets back; without any, a refusal
    is the result.
    """

    struct: type[Struct]
    perform: Callable[[Call, Any], None]
    cost: int
    outputs: tuple[str, ...] = ("status",)
    unmaps: bool = False


def perform_batch(call: Call, op: Batched, uop: int, count: int) -> int | Continue:
    """As many operations as the budget allows, in order; at least one, so that every dispatch makes
    progress.
    """
    size = call.abi.sizeof(op.struct)
    require_range(uop, size * count)
    try:
        for done in range(count):
            if done and call.budget.exhausted:
                return Continue((call.args[0], uop + done * size, count - done, *call.args[3:]))
            perform_one(call, op, uop + done * size)
            call.budget.spend(op.cost)
        return 0
    finally:
        if op.unmaps and count:
            for vcpu in call.domain.mem.vcpus:
                vcpu.cpu.flush_tlb()


def perform_one(call: Call, op: Batched, va: int) -> None:
    """Reads one structure of a batch, performs it, and writes its status and outputs back. A refusal is
    logged once a kind.
    """
    record: Any = call.read(va, op.struct)
    try:
        op.perform(call, record)
        status = GNTST_okay
    except GrantRefused as refused:
        status = refused.status
        kind = f"{op.struct.__name__} {status.name}"
        call.hv.log.once(call.domain.domid, kind, f"{kind}: {refused.reason}")
    if op.outputs:
        record.status = int(status)
    write_outputs(call, va, record, *op.outputs)


def require_range(va: int, size: int) -> None:
    """The array lies in addresses a guest may use. XenError(EFAULT), before its first element is read (H2)."""
    if not addr_ok(va) or not addr_ok(va + max(size, 1) - 1) or va + size > 1 << 64:
        raise XenError(Errno.EFAULT, f"H2: {size} bytes at {va:#x} are not the guest's")


def do_map_grant_ref(call: Call, op: gnttab_map_grant_ref) -> None:
    """Maps a frame that another domain grants; answers a handle."""
    map_grant_ref(call.domain.grants, call.vcpu.mem, op)


def do_unmap_grant_ref(call: Call, op: gnttab_unmap_grant_ref) -> None:
    """Ends a mapping, or one part of it, by its handle."""
    grants = call.domain.grants
    unmap(grants, call.vcpu.mem, op.handle, host_addr=op.host_addr, dev_bus_addr=op.dev_bus_addr)


def do_unmap_and_replace(call: Call, op: gnttab_unmap_and_replace) -> None:
    """Ends a mapping and moves another page's entry into its place."""
    unmap(call.domain.grants, call.vcpu.mem, op.handle, host_addr=op.host_addr, new_addr=op.new_addr)


def do_copy(call: Call, op: gnttab_copy) -> None:
    """Copies bytes within one page each, between frames of one's own and granted ones."""
    copy(call.domain.grants, op)


def do_transfer(call: Call, op: gnttab_transfer) -> None:
    """Gives a frame to a domain that offered to accept one."""
    transfer(call.domain.grants, op)


def do_swap_grant_ref(call: Call, op: gnttab_swap_grant_ref) -> None:
    """Exchanges two entries of the caller's table that nobody uses."""
    call.domain.grants.swap(op.ref_a, op.ref_b)


def do_cache_flush(call: Call, op: gnttab_cache_flush) -> None:
    """The frame's grant is looked for among all that its owner has in use, which costs, too."""
    call.budget.spend(cache_flush(call.domain.grants, op) // ACTIVE_GRANTS_PER_UNIT)


BATCHED: Final[dict[int, Batched]] = {
    GrantTableOp.GNTTABOP_map_grant_ref: Batched(
        gnttab_map_grant_ref, do_map_grant_ref, COST_OF_GRANT_MAP, ("status", "handle", "dev_bus_addr")
    ),
    GrantTableOp.GNTTABOP_unmap_grant_ref: Batched(
        gnttab_unmap_grant_ref, do_unmap_grant_ref, COST_OF_GRANT_UNMAP, unmaps=True
    ),
    GrantTableOp.GNTTABOP_unmap_and_replace: Batched(
        gnttab_unmap_and_replace, do_unmap_and_replace, COST_OF_GRANT_UNMAP, unmaps=True
    ),
    GrantTableOp.GNTTABOP_transfer: Batched(gnttab_transfer, do_transfer, COST_OF_GRANT_TRANSFER),
    GrantTableOp.GNTTABOP_copy: Batched(gnttab_copy, do_copy, COST_OF_GRANT_COPY),
    GrantTableOp.GNTTABOP_swap_grant_ref: Batched(
        gnttab_swap_grant_ref, do_swap_grant_ref, COST_OF_GRANT_SWAP
    ),
    GrantTableOp.GNTTABOP_cache_flush: Batched(gnttab_cache_flush, do_cache_flush, COST_OF_CACHE_FLUSH, ()),
}


# --- one at a time ----------------------------------------------------------------------------------------


def require_one(count: int) -> None:
    """XenError(EINVAL) unless exactly one structure is passed."""
    if count != 1:
        raise XenError(Errno.EINVAL, f"this grant_table_op takes one structure, not {count}")


def target_status(call: Call, domid: int) -> tuple[Any, int]:
    """The domain that a query names, if one may ask about it (G16, M5): (domain, GNTST_okay), or (None, the
    status).
    """
    try:
        target = call.target(domid)
    except XenError:
        return None, int(GNTST_bad_domain)
    try:
        call.require_privilege_over(target)
    except XenError:
        return None, int(GNTST_permission_denied)
    return target, int(GNTST_okay)


def do_setup_table(call: Call, uop: int, count: int) -> int:
    """Grow a table to at least `nr_frames`, and list that many of its frames (G1)."""
    require_one(count)
    op = call.read(uop, gnttab_setup_table)
    require_range(op.frame_list, call.abi.word * op.nr_frames)
    target, op.status = target_status(call, op.dom)
    if target is not None:
        try:
            before = len(target.grants.frames)
            target.grants.grow(op.nr_frames)
            call.budget.spend(COST_OF_PAGE * (len(target.grants.frames) - before))
            op.status = list_frames(
                call, op.frame_list, numbers_of(target, target.grants.shared.frames)[: op.nr_frames], call.abi
            )
        except XenError as error:
            call.hv.log.once(call.domain.domid, "setup_table", str(error))
            op.status = int(GNTST_general_error)
    write_outputs(call, uop, op, "status")
    return 0


def numbers_of(target: Domain, frames: list[Mfn]) -> list[int]:
    """By which numbers a domain's frames are told: a translated one's by where they are in its map, all ones if nowhere."""
    if target.mem.p2m is None:
        return [int(mfn) for mfn in frames]
    return [target.grants.mmu.m2p.get(mfn) for mfn in frames]


def list_frames(call: Call, va: int, frames: list[Any], abi: Abi) -> int:
    """Write the frame numbers as unsigned longs of `abi`; the status."""
    try:
        call.copy_to_guest(va, abi.pack_words(frames))
    except XenError:
        return int(GNTST_bad_virt_addr)
    return int(GNTST_okay)


def do_query_size(call: Call, uop: int, count: int) -> int:
    """How many frames a domain's table has, and may have."""
    require_one(count)
    op = call.read(uop, gnttab_query_size)
    target, op.status = target_status(call, op.dom)
    if target is not None:
        op.nr_frames = len(target.grants.shared.frames)
        op.max_nr_frames = target.grants.max_grant_frames
    write_outputs(call, uop, op, "nr_frames", "max_nr_frames", "status")
    return 0


def do_set_version(call: Call, uop: int, _count: int) -> int:
    """The version in force is written back, also after a refusal."""
    op, grants = call.read(uop, gnttab_set_version), call.domain.grants
    call.budget.spend(COST_OF_PAGE * len(grants.frames))
    try:
        set_version(grants, op.version)
    finally:
        op.version = grants.shared.version
        write_outputs(call, uop, op, "version")
    return 0


def do_get_version(call: Call, uop: int, _count: int) -> int:
    """The version of a domain's table, 1 or 2. EPERM about others without privilege."""
    op = call.read(uop, gnttab_get_version)
    target = call.target(op.dom)
    call.require_privilege_over(target)
    op.version = target.grants.shared.version
    write_outputs(call, uop, op, "version")
    return 0


def do_get_status_frames(call: Call, uop: int, count: int) -> int:
    """List the first `nr_frames` status frames of a version 2 table, in 64 bits each; version 1 has none."""
    require_one(count)
    op = call.read(uop, gnttab_get_status_frames)
    require_range(op.frame_list, NATIVE.word * op.nr_frames)
    target, op.status = target_status(call, op.dom)
    if target is not None:
        frames = target.grants.status_frames
        op.status = int(GNTST_general_error)
        if op.nr_frames <= len(frames):
            op.status = list_frames(call, op.frame_list, numbers_of(target, frames)[: op.nr_frames], NATIVE)
    write_outputs(call, uop, op, "status")
    return 0


SINGLE: Final[dict[int, Callable[[Call, int, int], int]]] = {
    GrantTableOp.GNTTABOP_setup_table: do_setup_table,
    GrantTableOp.GNTTABOP_query_size: do_query_size,
    GrantTableOp.GNTTABOP_set_version: do_set_version,
    GrantTableOp.GNTTABOP_get_version: do_get_version,
    GrantTableOp.GNTTABOP_get_status_frames: do_get_status_frames,
}
