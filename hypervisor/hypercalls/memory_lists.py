"""increase_reservation, decrease_reservation, populate_physmap: lists of extents in guest memory (M2, M3).

These answer the number of extents done, also when they stop early; there are no error codes. An extent whose number
could not be told to the guest is not allocated. Source: Xen common/memory.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.hypercalls.memory_subject import subject
from hypervisor.mm.budget import COST_OF_BATCHED_FRAME, COST_OF_EXTENT, COST_OF_FRAME, COST_OF_RUN
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.layout import range_ok
from hypervisor.mm.reservation import max_order
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.memory import (
    XENMEMF_exact_node_request,
    XENMEMF_populate_on_demand,
    xen_memory_reservation,
)

MEMOP_EXTENT_SHIFT: Final = 6
"""Where in memory_op's command its continuation keeps the number of extents done."""
_CMD_MASK: Final = (1 << MEMOP_EXTENT_SHIFT) - 1
MAX_EXTENTS: Final = 0xFFFF_FFFF >> MEMOP_EXTENT_SHIFT
"""More could not be encoded in a continuation."""
MAX_NODES: Final = 64
MIN_RUN: Final = 8
"""Fewer frames are not worth the set-up of array operations."""


@dataclass(frozen=True)
class Extents:
    """A checked reservation: whose, and how its list is gone through."""

    call: Call
    d: DomainMemory
    request: xen_memory_reservation

    @property
    def order(self) -> int:
        """The binary logarithm of an extent's size in frames."""
        return self.request.extent_order

    def slot(self, i: int) -> int:
        """Guest address of extent i's number."""
        return self.request.extent_start + self.call.abi.word * i

    def read(self, i: int) -> int:
        """The number in slot `i`. XenError(EFAULT)."""
        return self.call.read_words(self.slot(i), 1)[0]

    def check_writable(self, i: int) -> None:
        """XenError(EFAULT) if slot `i` cannot be written: asked before anything is done for it."""
        self.call.hv.mmu.guest.check_writable(self.call.vcpu.mem, self.slot(i), self.call.abi.word)

    def write(self, i: int, mfn: int) -> None:
        """Answers `mfn` in slot `i`."""
        self.call.write_words(self.slot(i), (mfn,))


def increase_reservation(call: Call, arg: int, start: int) -> Result:
    """More frames; their numbers go to the list, if there is one."""

    def one(extents: Extents, i: int) -> None:
        told = extents.request.extent_start != 0 and extents.d.p2m is None
        if told:
            extents.check_writable(i)
        mfn = call.hv.mmu.reservation.increase(extents.d, extents.order)
        if told:
            extents.write(i, mfn)

    return go_through(call, arg, start, one)


def populate_physmap(call: Call, arg: int, start: int) -> Result:
    """Frames for the PFNs in the list; their numbers replace them."""

    def one(extents: Extents, i: int) -> None:
        if extents.request.mem_flags & XENMEMF_populate_on_demand:
            raise XenError(Errno.EINVAL, "PV guests are not populated on demand")
        pfn = extents.read(i)
        if extents.d.p2m is not None:  # no machine frame numbers are told of a translated domain
            call.hv.mmu.reservation.populate(extents.d, pfn, extents.order)
            return
        extents.check_writable(i)
        extents.write(i, call.hv.mmu.reservation.populate(extents.d, pfn, extents.order))

    return go_through(call, arg, start, one, populate_many)


def populate_many(extents: Extents, i: int) -> int:
    """Populate single frames from extent i on whose numbers lie in one guest page; how many, 0 if it is not certain
    beforehand that it can be done.
    """
    call, request = extents.call, extents.request
    word = call.abi.word
    in_page = (4096 - extents.slot(i) % 4096) // word
    count = min(in_page, request.nr_extents - i, call.budget.left // COST_OF_BATCHED_FRAME)
    if count < MIN_RUN or request.extent_order or request.mem_flags & XENMEMF_populate_on_demand:
        return 0
    try:
        call.hv.mmu.guest.check_writable(call.vcpu.mem, extents.slot(i), word * count)
        pfns = call.abi.words(call.copy_from_guest(extents.slot(i), word * count))
    except XenError:
        return 0
    mfns = call.hv.mmu.reservation.populate_many(extents.d, pfns)
    if extents.d.p2m is None:
        call.write_words(extents.slot(i), mfns)
    call.budget.spend(COST_OF_RUN + COST_OF_BATCHED_FRAME * len(mfns))
    return len(mfns)


def decrease_reservation(call: Call, arg: int, start: int) -> Result:
    """Frames back to Xen (M3)."""

    def one(extents: Extents, i: int) -> None:
        first = extents.read(i)
        for mfn in range(first, first + (1 << extents.order)):
            call.hv.mmu.reservation.remove_page(extents.d, mfn)

    return go_through(call, arg, start, one)


def none_at_once(extents: Extents, i: int) -> int:
    """For an operation that has no quick way for many extents: it did none of them."""
    return 0


def go_through(
    call: Call,
    arg: int,
    start: int,
    one: Callable[[Extents, int], None],
    many: Callable[[Extents, int], int] = none_at_once,
) -> Result:
    """Do `many` or `one` for the extents from `start` on until one is refused or the portion ends. The extents done."""
    done = start
    try:
        extents = checked(call, call.read(arg, xen_memory_reservation), start)
        while done < extents.request.nr_extents:
            if done > start and call.budget.exhausted:
                return Continue((call.args[0] & _CMD_MASK | done << MEMOP_EXTENT_SHIFT, arg, 0, 0, 0))
            if at_once := many(extents, done):
                done += at_once
            else:
                one(extents, done)
                done += 1
                call.budget.spend(COST_OF_EXTENT + (COST_OF_FRAME << extents.order))
    except XenError as refusal:
        call.hv.counters.add(f"memory_op stopped: {refusal.errno.name}", call.domain.domid)
    return done


def checked(call: Call, request: xen_memory_reservation, start: int) -> Extents:
    """XenError: nothing at all can be done for this reservation."""
    if request.nr_extents > MAX_EXTENTS or start >= request.nr_extents:
        raise XenError(Errno.EINVAL, f"M2: {request.nr_extents} extents from {start}")
    if request.extent_order > max_order(call.domain.mem):
        raise XenError(Errno.EPERM, f"M2: extents of order {request.extent_order} (XSA-158)")
    if request.extent_start and not range_ok(request.extent_start, call.abi.word * request.nr_extents):
        raise XenError(Errno.EFAULT, f"H2: {request.nr_extents} extents at {request.extent_start:#x}")
    check_flags(call, request.mem_flags)
    return Extents(call, subject(call, request.domid).mem, request)


def check_flags(call: Call, flags: int) -> None:
    """Width of addresses and NUMA node (XSA-231). XenError: they cannot be met; this machine has one node."""
    bits, node = flags & 0xFF, (flags >> 8 & 0xFF) - 1
    exact = flags & XENMEMF_exact_node_request
    if bits and (bits <= 12 or call.hv.frames.top > 1 << (bits - 12)):
        raise XenError(Errno.ENOMEM, f"M2: frames below {bits} bits are not to be had")
    if node < 0:
        return
    if node >= MAX_NODES and call.domain.privileged:
        raise XenError(Errno.EINVAL, f"M2: node {node}")
    if exact and (node or not call.domain.privileged):
        raise XenError(Errno.EINVAL, f"M2: exactly node {node} is not to be had")
