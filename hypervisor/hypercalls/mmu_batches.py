"""What mmu_update and mmuext_op have in common: a list of requests, `done`, and how such a call is continued (U6, U9).

    args: (requests, count, done, foreigndom)     requests, done: guest addresses; done may be 0

Between two slices the arguments say what is left; the number done so far, and a refusal whose table is still being
torn down, travel in the continuation's state, not in guest memory (Xen re-reads `done` there).
Source: Xen arch/x86/mm.c, do_mmu_update, do_mmuext_op.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.mm.budget import Restart, Slice
from hypervisor.mm.layout import range_ok
from hypervisor.mm.mmu_update import Progress
from hypervisor.public.errno import Errno, XenError

PerformSlice = Callable[[Call, int, int, int, Slice], Progress]
"""(call, requests, count, foreigndom, slice): requests in order until one is refused or the slice ends."""


@dataclass(slots=True)
class Batch:
    """`done`: requests of earlier slices. `ended`: all is said and done but the tear-down of a table."""

    done: int = 0
    ended: bool = False
    error: XenError | None = None


def run_batch(call: Call, record_size: int, perform: PerformSlice) -> Result:
    """One slice of a batch. XenError: the refusal of the first request that was refused, after `done` was told."""
    requests, count, done_at, foreigndom = call.args[:4]
    count &= 0xFFFF_FFFF
    batch = call.state if isinstance(call.state, Batch) else Batch()
    v = call.vcpu.mem
    s = Slice(v, call.budget)
    try:
        call.hv.mmu.types.finish_old_table(s)
    except Restart:
        return Continue(call.args, batch)
    if batch.ended:
        return end(batch.error)
    if not range_ok(requests, count * record_size):
        raise XenError(Errno.EFAULT, f"H2: {count} requests at {requests:#x}")
    progress = perform(call, requests, count, foreigndom & 0xFFFF_FFFF, s)
    batch = Batch(batch.done + progress.done, ended=not progress.restart, error=progress.error)
    tell_done(call, done_at, batch.done)
    if progress.restart:
        left = count - progress.done
        return Continue((requests + progress.done * record_size, left, done_at, foreigndom, 0), batch)
    if v.old_table is not None:
        return Continue(call.args, batch)
    return end(progress.error)


def end(error: XenError | None) -> Result:
    if error is not None:
        raise error
    return 0


def tell_done(call: Call, done_at: int, done: int) -> None:
    """Write `done`, if the guest wants it; as on Xen it does not matter if that fails."""
    if done_at:
        try:
            call.copy_to_guest(done_at, done.to_bytes(4, "little"))
        except XenError:
            call.hv.log.count("done not writable")
