"""multicall: many hypercalls in one (Xen common/multicall.c). It does not nest; each entry keeps its own result.

Entries that the process performs itself (iret's neighbours: docs/contracts.md, LOCAL) become LOCAL effects in their place in the
order; their results are the process's to write.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from hypervisor.hypercalls.call import Blocked, Call, Continue, Result
from hypervisor.mm.budget import COST_OF_CALL, Budget
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import Hypercall, multicall_entry
from hypervisor.wire.messages import Effect, EffectRecord

LOCAL_HYPERCALLS: Final = frozenset(
    int(nr)
    for nr in (
        Hypercall.stack_switch,
        Hypercall.set_segment_base,
        Hypercall.fpu_taskswitch,
        Hypercall.set_debugreg,
        Hypercall.get_debugreg,
    )
)
"""Hypercalls on one vCPU's registers alone. iret is one too, and ends the multicall (XSA-213)."""
MAX_EFFECTS: Final = 4096
"""Effects that one multicall may gather. They are sent together at its end, so entries beyond them are refused (E2BIG)."""


@dataclass(frozen=True)
class _Inner:
    """The continuation of the entry that used up its portion."""

    args: tuple[int, int, int, int, int]
    state: object


def do_multicall(call: Call) -> Result:
    """(entries, count): each entry through `call.perform`, as any hypercall."""
    va, count = call.args[:2]
    if count > 1 << 32:
        raise XenError(Errno.EINVAL, f"multicall of {count} entries")
    layout = call.abi.layout(multicall_entry)
    size = layout.sizeof
    inner = call.state if isinstance(call.state, _Inner) else None
    for done in range(count):
        if call.budget.exhausted and done:
            return Continue((va, count - done, 0, 0, 0))
        entry, result_at = call.read(va, multicall_entry), va + layout.offsetof("result")
        if entry.op == Hypercall.iret and not call.domain.is_hvm:
            call.effects.append(_local(entry, result_at))
            return 0
        result = _perform_entry(call, entry, inner)
        inner = None
        if isinstance(result, Continue):
            return Continue((va, count - done, 0, 0, 0), _Inner(result.args, result.state))
        if isinstance(result, Blocked):
            call.write_words(result_at, (0,))
            rest = (va + size, count - done - 1, 0, 0, 0)
            call.vcpu.rest = replace(call, args=rest, state=None, budget=Budget())
            return result
        if result is not None:
            call.write_words(result_at, (result & (1 << call.abi.address_size) - 1,))
        else:
            call.effects.append(_local(entry, result_at))
        call.budget.spend(COST_OF_CALL)
        va += size
    return 0


def _local(entry: multicall_entry, result_at: int) -> EffectRecord:
    return [Effect.LOCAL, entry.op, *entry.args[:5], result_at]


def _perform_entry(call: Call, entry: multicall_entry, inner: _Inner | None) -> Result | None:
    """One entry; None when it is the process's to perform."""
    if entry.op == Hypercall.multicall:
        return -Errno.EINVAL
    if inner is None and len(call.effects) >= MAX_EFFECTS:
        return -Errno.E2BIG
    if entry.op in LOCAL_HYPERCALLS and not call.domain.is_hvm:
        return None
    a = entry.args
    args = inner.args if inner else (a[0], a[1], a[2], a[3], a[4])
    state = inner.state if inner else None
    return call.perform(replace(call, nr=entry.op, args=args, state=state))
