"""mmu_update: change page-table entries and M2P entries by machine address (Xen arch/x86/mm.c).

Requests are copied in chunks and used from the copy. Deliberate difference: Xen copies them one by one, so on Xen a
request may still change what a later one of the same chunk says.
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.mmu_batches import run_batch
from hypervisor.mm.budget import Slice
from hypervisor.mm.mmu_update import Progress
from hypervisor.public.errno import XenError
from hypervisor.public.xen import mmu_update

CHUNK: Final = 512
_SIZE: Final = mmu_update.sizeof


def do_mmu_update(call: Call) -> Result:
    """(requests, count, done, foreigndom): see mmu_batches. XenError: of the first request refused."""
    return run_batch(call, _SIZE, perform)


def perform(call: Call, requests: int, count: int, foreigndom: int, s: Slice) -> Progress:
    d, mmu_update = s.vcpu.domain, call.hv.mmu.mmu_update
    owners = mmu_update.owners(d, foreigndom)
    total = Progress()
    while total.done < count and not total.restart and total.error is None:
        if total.done and s.budget.exhausted:
            total.restart = True
            break
        try:
            chunk = read_requests(call, requests + total.done * _SIZE, min(CHUNK, count - total.done))
        except XenError as fault:
            total.error = fault
            break
        part = mmu_update.perform(d, owners, chunk, s)
        total = Progress(total.done + part.done, part.error, part.restart)
    return total


def read_requests(call: Call, va: int, count: int) -> bytes:
    """Up to `count` requests: all, or else the first one. XenError(EFAULT)."""
    try:
        return call.copy_from_guest(va, count * _SIZE)
    except XenError:
        return call.copy_from_guest(va, _SIZE)
