"""What mmu_update and mmuext_op have in common: a list of requests, `done`, and how such a call is continued (U6, U9).

    args: (requests, count, done, foreigndom)     requests, done: guest addresses; done may be 0

A handler begins the batch, performs requests for as long as `progress` and the budget allow, and answers:

    batch = begin(call, record size)
    if not batch.ended: … batch.progress …
    return batch.answer()

Between two portions the arguments say what is left; the number done so far, and a refusal whose table is still being
torn down, travel in the continuation's state, not in guest memory (Xen re-reads `done` there).
Source: Xen arch/x86/mm.c, do_mmu_update, do_mmuext_op.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypervisor.hypercalls.call import Call, Continue, Result
from hypervisor.mm.budget import Portion, Progress
from hypervisor.mm.layout import range_ok
from hypervisor.public.errno import Errno, XenError


@dataclass(slots=True)
class Earlier:
    """The call's earlier portions. `ended`: no request is left, but a table has still to be torn down."""

    done: int = 0
    ended: bool = False
    error: XenError | None = None


@dataclass(slots=True)
class Batch:
    """One portion of a batch: `count` records of `record_size` bytes from guest address `requests` on are left."""

    call: Call
    record_size: int
    requests: int
    count: int
    done_at: int
    foreigndom: int
    earlier: Earlier
    portion: Portion
    progress: Progress = field(default_factory=Progress)

    @property
    def ended(self) -> bool:
        """No request is to be performed any more; `answer` says how it ended."""
        return self.earlier.ended

    def answer(self) -> Result:
        """Tell `done`; then the result, or how the call is continued. XenError: the refusal that ended the batch."""
        if self.earlier.ended:
            return end(self.earlier.error)
        progress = self.progress
        earlier = Earlier(self.earlier.done + progress.done, not progress.restart, progress.error)
        self._tell_done(earlier.done)
        if progress.restart:
            at, left = self.requests + progress.done * self.record_size, self.count - progress.done
            return Continue((at, left, self.done_at, self.call.args[3], 0), earlier)
        if self.portion.vcpu.old_table is not None:
            return Continue(self.call.args, earlier)
        return end(progress.error)

    def _tell_done(self, done: int) -> None:
        """Write `done`, if the guest wants it; as on Xen it does not matter if that fails."""
        if self.done_at:
            try:
                self.call.copy_to_guest(self.done_at, done.to_bytes(4, "little"))
            except XenError:
                self.call.hv.counters.add("done not writable", self.call.domain.domid)


def begin(call: Call, record_size: int) -> Batch:
    """The batch, once what the vCPU's last operation left is torn down (U9). XenError(EFAULT); Restart: not yet."""
    requests, count, done_at, foreigndom = call.args[:4]
    earlier = call.state if isinstance(call.state, Earlier) else Earlier()
    portion = Portion(call.vcpu.mem, call.budget)
    call.hv.mmu.types.finish_old_table(portion)
    count &= 0xFFFF_FFFF
    if not earlier.ended and not range_ok(requests, count * record_size):
        raise XenError(Errno.EFAULT, f"H2: {count} requests at {requests:#x}")
    return Batch(call, record_size, requests, count, done_at, foreigndom & 0xFFFF_FFFF, earlier, portion)


def end(error: XenError | None) -> Result:
    """0, or the refusal, raised."""
    if error is not None:
        raise error
    return 0
