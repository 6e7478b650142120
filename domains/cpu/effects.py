"""What a hypercall's effects do to a vCPU that runs Python: one handler per effect, in one table.

Effects that have no meaning without x86 instructions (descriptor tables, translated code) are accepted and
recorded nowhere: a Python kernel has no segments and no code in memory. Extents are mapped by the gate
before they get here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from domains.cpu.event_words import EventWords
from domains.cpu.gate import Gate
from domains.cpu.traps import CodeAddresses, TrapTable
from hypervisor.machine.debug_registers import DR6_DEFAULT, DR7_DEFAULT
from hypervisor.machine.trace import Trace
from hypervisor.public.arch_x86.xen import trap_info, vcpu_guest_context
from hypervisor.public.arch_x86.xen_x86_64 import cpu_user_regs
from hypervisor.public.callback import CALLBACKTYPE_event, CALLBACKTYPE_failsafe, CALLBACKTYPE_syscall
from hypervisor.public.types import PAGE_SHIFT
from hypervisor.public.xen import vcpu_info
from hypervisor.wire.messages import Effect

CONTEXT_CALLBACKS: Final = (
    (CALLBACKTYPE_event, "event_callback_eip"),
    (CALLBACKTYPE_failsafe, "failsafe_callback_eip"),
    (CALLBACKTYPE_syscall, "syscall_callback_eip"),
)

Tlbs = tuple[dict[int, memoryview], dict[int, memoryview]]


class VcpuState:
    """The state that effects change. TLBs map a virtual page number to its frame's view: (readable,
    writable).
    """

    def __init__(self, gate: Gate, vcpu: int) -> None:
        self.gate = gate
        self.memory = gate.memory
        self.vcpu = vcpu
        self.trace = Trace()
        self.started = False
        self.cr3: int | None = None
        self.user_cr3: int | None = None
        self.kernel_tlbs: Tlbs = ({}, {})
        self.user_tlbs: Tlbs = ({}, {})
        self.tlb_read, self.tlb_write = self.kernel_tlbs
        self.traps = TrapTable()
        self.code = CodeAddresses()
        self.callbacks: dict[int, tuple[int, bool]] = {}
        """CALLBACKTYPE_… → (address, whether it masks events)."""
        self.vm_assist = 0
        self.debug_registers = [0, 0, 0, 0, 0, 0, DR6_DEFAULT, DR7_DEFAULT]
        self.rip = self.rsi = self.rsp = 0
        """Initial registers: the image, start_info, the top of the stack."""
        self.context = b""
        """vcpu_guest_context as the vCPU started with it."""
        self.events: EventWords

    def flush(self) -> None:
        """Drop all translations."""
        for tlbs in (self.kernel_tlbs, self.user_tlbs):
            tlbs[0].clear()
            tlbs[1].clear()

    def local_call(self, nr: int, args: Sequence[int], result_va: int | None) -> None:
        """Performs an entry of a multicall that concerns this vCPU's registers alone; its result goes to
        `result_va`.
        """
        raise NotImplementedError


def load_cr3(cpu: VcpuState, l4: int) -> None:
    """Another page table for kernel mode."""
    cpu.cr3 = l4
    cpu.flush()


def load_user_cr3(cpu: VcpuState, l4: int) -> None:
    """Another page table for user mode; 0: none."""
    cpu.user_cr3 = l4 or None
    cpu.user_tlbs[0].clear()
    cpu.user_tlbs[1].clear()


def flush_tlb(cpu: VcpuState) -> None:
    """Forgets all translations."""
    cpu.flush()


def invlpg(cpu: VcpuState, va: int) -> None:
    """Forgets the translation of one page."""
    page = va >> PAGE_SHIFT
    for tlbs in (cpu.kernel_tlbs, cpu.user_tlbs):
        tlbs[0].pop(page, None)
        tlbs[1].pop(page, None)


def trap_table(cpu: VcpuState, entries: Sequence[Sequence[int]]) -> None:
    """Replaces entries of the trap table; an empty list clears it."""
    cpu.traps.replace(entries)


def callback(cpu: VcpuState, kind: int, address: int, flags: int) -> None:
    """Sets the entry point of this kind; bit 0 of `flags` masks events on entry."""
    cpu.callbacks[kind] = (address, bool(flags & 1))


def vm_assist(cpu: VcpuState, bits: int) -> None:
    """The assists now in force, as a mask."""
    cpu.vm_assist = bits


def evtchn_unmask(cpu: VcpuState, port: int, _vcpu: int) -> None:
    """Clears the port's mask bit, and delivers what is pending."""
    cpu.events.unmask(port)


def evtchn_clear(cpu: VcpuState, port: int) -> None:
    """Clears the port's pending bit."""
    cpu.events.clear(port)


def vcpu_info_moved(cpu: VcpuState, vcpu: int, mfn: int, offset: int) -> None:
    """A vCPU's vcpu_info lies elsewhere now. Only one of this guest's vCPUs runs; another's events come nowhere."""
    if vcpu != cpu.vcpu:
        return
    cpu.events.move(cpu.memory.view((mfn << PAGE_SHIFT) + offset, vcpu_info.sizeof))


def local(cpu: VcpuState, nr: int, *args: int) -> None:
    """Five arguments, then the address of the result word if the entry wants one, else 0 or nothing."""
    cpu.local_call(nr, args[:5], args[5] or None if len(args) > 5 else None)


def context(cpu: VcpuState, raw: bytes, _shared_info: int) -> None:
    """Initial registers: only what a Python kernel looks at is decoded (the whole takes a millisecond)."""
    cpu.context = raw
    regs = cpu_user_regs.unpack(raw, vcpu_guest_context.offsetof("user_regs"))
    cpu.rip, cpu.rsi, cpu.rsp = regs.rip, regs.rsi, regs.rsp
    cpu.traps.replace(traps_of(raw))
    for kind, name in CONTEXT_CALLBACKS:
        cpu.callbacks[kind] = (word_of(raw, name), kind == CALLBACKTYPE_event)
    load_cr3(cpu, word_of(raw, "ctrlreg", 3) >> PAGE_SHIFT)
    load_user_cr3(cpu, word_of(raw, "ctrlreg", 1) >> PAGE_SHIFT)


def word_of(raw: bytes, name: str, index: int = 0) -> int:
    """One 8-byte field of a vcpu_guest_context."""
    at = vcpu_guest_context.offsetof(name) + index * 8
    return int.from_bytes(raw[at : at + 8], "little")


def traps_of(raw: bytes) -> Sequence[Sequence[int]]:
    """The virtual IDT of a vcpu_guest_context: (vector, flags, cs, address) each."""
    rows = trap_info.array(raw, 256, vcpu_guest_context.offsetof("trap_ctxt"))
    return [row.tolist() for row in rows[rows["address"] != 0]]


def nothing(_cpu: VcpuState, *_fields: Any) -> None:
    """No such thing on this CPU."""


EFFECTS: Final[dict[int, Callable[..., None]]] = {
    Effect.LOAD_CR3: load_cr3,
    Effect.LOAD_USER_CR3: load_user_cr3,
    Effect.FLUSH_TLB: flush_tlb,
    Effect.INVLPG: invlpg,
    Effect.FLUSH_CODE: nothing,
    Effect.TRAP_TABLE: trap_table,
    Effect.CALLBACK: callback,
    Effect.GDT: nothing,
    Effect.LDT: nothing,
    Effect.VM_ASSIST: vm_assist,
    Effect.EVTCHN_UNMASK: evtchn_unmask,
    Effect.EVTCHN_CLEAR: evtchn_clear,
    Effect.VCPU_INFO: vcpu_info_moved,
    Effect.LOCAL: local,
    Effect.CONTEXT: context,
}
