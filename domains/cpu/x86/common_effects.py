"""What a hypercall's effects do to a vCPU of any kind of guest: events, and what the CPU remembers of memory (docs/contracts.md).

Each kind's own table (effects, hvm/effects) begins with this one and adds what only its guests have.
"""

from collections.abc import Callable
from typing import Final, Protocol

from domains.cpu.event_words import EventWords
from domains.cpu.x86.paging import Paging
from domains.cpu.x86.raised import EventVcpu
from hypervisor.wire.messages import Effect


class X86VcpuOfAnyKind(EventVcpu, Protocol):
    """A vCPU on the engine, with its address space."""

    @property
    def paging(self) -> Paging:
        """Its address space."""

    def events_of(self, vcpu: int) -> EventWords:
        """The event words of a vCPU of the same domain."""


def flush_tlb(v: X86VcpuOfAnyKind) -> None:
    """Forgets all translations."""
    v.paging.invalidate_all()


def flush_code(v: X86VcpuOfAnyKind, mfn: int, nr_frames: int) -> None:
    """Forgets translated code of these frames, which were written from outside."""
    v.paging.invalidate_code(mfn, nr_frames)


def evtchn_unmask(v: X86VcpuOfAnyKind, port: int, vcpu: int) -> None:
    """Clears the port's mask bit; what is pending is delivered to the vCPU that the port is bound to."""
    v.events_of(vcpu).unmask(port)


def evtchn_clear(v: X86VcpuOfAnyKind, port: int) -> None:
    """Clears the port's pending bit."""
    v.events.clear(port)


COMMON_EFFECTS: Final[dict[int, Callable[..., None]]] = {
    Effect.FLUSH_TLB: flush_tlb,
    Effect.FLUSH_CODE: flush_code,
    Effect.EVTCHN_UNMASK: evtchn_unmask,
    Effect.EVTCHN_CLEAR: evtchn_clear,
}
