"""What a hypercall's effects do to an HVM vCPU: one handler per effect, in one table (docs/contracts.md).

Effects on what such a guest keeps in registers of its own (page tables, traps, descriptor tables) are never sent to it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from domains.cpu.event_words import EventWords
from domains.cpu.x86.common_effects import COMMON_EFFECTS
from domains.cpu.x86.hvm.context import load_context
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import vcpu_info
from hypervisor.wire.messages import Effect, EffectRecord


def apply_effects(v: HvmVcpu, effects: Sequence[EffectRecord]) -> None:
    """Perform a reply's effects, in order."""
    for kind, *fields in effects:
        EFFECTS[kind](v, *fields)


def p2m(v: HvmVcpu, root: int) -> None:
    """The P2M's top table, once, before any code of the guest's runs."""
    v.paging.enable(root)


def callback(v: HvmVcpu, _kind: int, vector: int, latch: int) -> None:
    """Events come by this vector from now on; 0: by none. `latch`: and shared_info is the code's that asked for it."""
    v.stubs.set_vector(vector & 0xFF)
    if latch:
        v.latch_shinfo_size()


def vcpu_info_moved(v: HvmVcpu, _vcpu: int, mfn: int, offset: int) -> None:
    """The vCPU's vcpu_info lies there now. The first time that is in the shared page, whose frame it tells."""
    memory = v.gate.memory
    if hasattr(v, "events"):
        v.events.move(memory.view((mfn << PAGE_SHIFT) + offset, vcpu_info.sizeof))
    else:
        v.events = EventWords(memory.view(mfn << PAGE_SHIFT, PAGE_SIZE), v.vcpu_id)
        v.events.set_clock(v.clock.tsc_at_start)
    pending = (mfn << PAGE_SHIFT) + offset + vcpu_info.offsetof("evtchn_upcall_pending")
    v.stubs.watch(memory.base + pending)


def context(v: HvmVcpu, raw: bytes) -> None:
    """Loads the whole state from the bytes of a xenoscope_hvm_vcpu."""
    load_context(v, raw)


EFFECTS: Final[dict[int, Callable[..., None]]] = COMMON_EFFECTS | {
    Effect.CALLBACK: callback,
    Effect.VCPU_INFO: vcpu_info_moved,
    Effect.CONTEXT: context,
    Effect.P2M: p2m,
}
