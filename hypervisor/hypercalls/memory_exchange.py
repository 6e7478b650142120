"""XENMEM_exchange: frames back, and as many others in their place, chunk by chunk (M4, XSA-29, XSA-159, XSA-212).

A chunk is as many extents of the finer side as make one of the coarser. The lists are checked over the part that is
really used, `nr_exchanged` included, and every slot of a chunk before its frames are touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.hypercalls.memory_lists import check_flags
from hypervisor.hypercalls.memory_subject import subject
from hypervisor.hypercalls.outputs import write_outputs
from hypervisor.mm.budget import COST_OF_CHUNK, COST_OF_FRAME
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.layout import range_ok
from hypervisor.mm.reservation import max_order
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.memory import xen_memory_exchange
from hypervisor.public.types import U64


@dataclass(frozen=True)
class Shape:
    """Extents of each side in one chunk, as powers of two."""

    in_chunk_order: int
    out_chunk_order: int


def exchange(call: Call, arg: int, start: int) -> Result:
    """0. XenError: nr_exchanged says how many input extents were exchanged before (exact)."""
    exch = call.read(arg, xen_memory_exchange)
    done = exch.nr_exchanged
    try:
        shape = checked(call, exch)
        if done == exch.in_.nr_extents:
            return 0
        d = subject(call, exch.in_.domid).mem
        if d.p2m is not None:
            raise XenError(Errno.EOPNOTSUPP, f"d{d.domid} is translated: it exchanges no machine frames")
        chunk = first = done >> shape.in_chunk_order
        while chunk < exch.in_.nr_extents >> shape.in_chunk_order:
            if chunk != first and call.budget.exhausted:
                break
            exchange_chunk(call, d, exch, shape, chunk)
            chunk += 1
            done = chunk << shape.in_chunk_order
            call.budget.spend(
                COST_OF_CHUNK + (COST_OF_FRAME << (exch.in_.extent_order + shape.in_chunk_order))
            )
        else:
            done = exch.in_.nr_extents
    finally:
        exch.nr_exchanged = done
        write_outputs(call, arg, exch, "nr_exchanged")
    return 0 if done == exch.in_.nr_extents else Continue(call.args)


def checked(call: Call, exch: xen_memory_exchange) -> Shape:
    """XenError: EPERM (order), EINVAL (sizes), EFAULT (lists)."""
    given, wanted = exch.in_, exch.out
    if max(given.extent_order, wanted.extent_order) > max_order(call.domain.mem):
        raise XenError(Errno.EPERM, f"M2: orders {given.extent_order}, {wanted.extent_order} (XSA-158)")
    frames_in = given.nr_extents << given.extent_order
    frames_out = wanted.nr_extents << wanted.extent_order
    if (
        exch.nr_exchanged > given.nr_extents
        or given.domid != wanted.domid
        or max(frames_in, frames_out) > U64
        or frames_in != frames_out
    ):
        raise XenError(Errno.EINVAL, f"M4: {frames_in:#x} frames for {frames_out:#x}")
    shift = wanted.extent_order - given.extent_order
    shape = Shape(max(shift, 0), max(-shift, 0))
    first_out = exch.nr_exchanged >> shape.in_chunk_order << shape.out_chunk_order
    for side, first in ((given, exch.nr_exchanged), (wanted, first_out)):
        left = max(side.nr_extents - first, 0)
        if not range_ok(side.extent_start + call.abi.word * first, call.abi.word * left):
            raise XenError(Errno.EFAULT, f"M4: extents {first} to {side.nr_extents} (XSA-29, XSA-212)")
    check_flags(call, wanted.mem_flags)
    return shape


def exchange_chunk(call: Call, d: DomainMemory, exch: xen_memory_exchange, shape: Shape, chunk: int) -> None:
    """One chunk, completely or not at all. XenError."""
    given, wanted = exch.in_, exch.out
    if d.dying:
        raise XenError(Errno.EINVAL, f"K1: d{d.domid} is dying")
    mfns = read_numbers(call, given.extent_start, chunk << shape.in_chunk_order, 1 << shape.in_chunk_order)
    first_out, nr_out = chunk << shape.out_chunk_order, 1 << shape.out_chunk_order
    pfns = read_numbers(call, wanted.extent_start, first_out, nr_out)
    slots = wanted.extent_start + call.abi.word * first_out
    call.hv.mmu.guest.check_writable(call.vcpu.mem, slots, call.abi.word * nr_out)
    frames = [mfn + i for mfn in mfns for i in range(1 << given.extent_order)]
    new = call.hv.mmu.reservation.exchange_chunk(d, frames, pfns, wanted.extent_order)
    call.write_words(slots, new)


def read_numbers(call: Call, start: int, first: int, count: int) -> list[int]:
    """`count` numbers of a list from its `first` on. XenError(EFAULT)."""
    return call.read_words(start + call.abi.word * first, count)
