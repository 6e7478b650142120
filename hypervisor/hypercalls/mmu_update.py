"""mmu_update: change page-table entries and M2P entries by machine address (Xen arch/x86/mm.c).

    do_mmu_update ─► mm/update_requests.py: run ─► perform, one request ─► mm/update.py: pt_update
                                            └────► mm/update_batch.py: many L1 entries at once

Requests are copied in chunks and used from the copy. Deliberate difference: Xen copies them one by one, so on Xen a
request may still change what a later one of the same chunk says.
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.mmu_batches import Batch, begin
from hypervisor.public.errno import XenError
from hypervisor.public.xen import mmu_update

CHUNK: Final = 512
"""Requests copied at once."""
_SIZE: Final = mmu_update.sizeof


def do_mmu_update(call: Call) -> Result:
    """(requests, count, done, foreigndom): see mmu_batches. XenError: of the first request refused."""
    batch = begin(call, _SIZE)
    if not batch.ended:
        perform_requests(batch)
    return batch.answer()


def perform_requests(batch: Batch) -> None:
    """Chunk by chunk until a request is refused, the budget is used up, or all are done. XenError: see `owners`."""
    d, progress, requests = batch.call.domain.mem, batch.progress, batch.call.hv.mmu.update_requests
    owners = requests.owners(d, batch.foreigndom)
    while progress.done < batch.count and not progress.restart and progress.error is None:
        at = batch.requests + progress.done * _SIZE
        try:
            chunk = read_requests(batch.call, at, min(CHUNK, batch.count - progress.done))
        except XenError as fault:
            progress.error = fault
        else:
            requests.run(d, owners, chunk, batch.portion, progress)


def read_requests(call: Call, va: int, count: int) -> bytes:
    """Up to `count` requests: all, or else the first one. XenError(EFAULT)."""
    try:
        return call.copy_from_guest(va, count * _SIZE)
    except XenError:
        return call.copy_from_guest(va, _SIZE)
