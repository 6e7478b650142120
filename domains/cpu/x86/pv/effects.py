"""What a hypercall's effects do to a vCPU of a PV guest: one handler per effect, in one table (docs/contracts.md).

Extents are mapped, and registers given back, by the gate before they get here.
"""

from collections.abc import Callable, Sequence
from typing import Final

from domains.cpu.traps import TrapGate
from domains.cpu.x86.common_effects import COMMON_EFFECTS
from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.local_hypercalls import local_hypercall
from domains.cpu.x86.pv.pv_state import Callback
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import CR4_TSD
from hypervisor.public.errno import Errno
from hypervisor.public.types import PAGE_SHIFT, Mfn
from hypervisor.public.xen import Hypercall, vcpu_info
from hypervisor.wire.messages import Effect, EffectRecord


def apply_effects(v: X86Vcpu, effects: Sequence[EffectRecord]) -> None:
    """Perform a reply's effects, in order."""
    for kind, *fields in effects:
        EFFECTS[kind](v, *fields)


def load_cr3(v: X86Vcpu, l4: int) -> None:
    """Another page table for kernel mode."""
    v.mode.load_kernel_table(l4)


def load_user_cr3(v: X86Vcpu, l4: int) -> None:
    """Another page table for user mode."""
    v.mode.load_user_table(l4)


def invlpg(v: X86Vcpu, va: int) -> None:
    """Forgets the translation of one page."""
    v.paging.invalidate(va)


def trap_table(v: X86Vcpu, entries: Sequence[Sequence[int]]) -> None:
    """Replace the entries named; an empty list clears the table."""
    if not entries:
        v.pv.traps = [None] * 256
    for vector, flags, cs, address in entries:
        v.pv.traps[vector] = TrapGate(flags, cs, address)


def callback(v: X86Vcpu, kind: int, address: int, flags: int, cs: int = 0) -> None:
    """Sets the entry point of this kind."""
    v.pv.callbacks[kind] = Callback(address, flags, cs)


def gdt(v: X86Vcpu, entries: int, frames: Sequence[int]) -> None:
    """The window already shows the new frames; only the translations of it are old."""
    v.pv.gdt_entries, v.pv.gdt_frames = entries, list(frames)
    v.paging.invalidate_all()


def ldt(v: X86Vcpu, base: int, entries: int) -> None:
    """Another LDT: its address and number of entries."""
    v.pv.ldt_base, v.pv.ldt_entries = base, entries
    v.segments.set_ldt(base, entries)
    v.paging.invalidate_all()


def vm_assist(v: X86Vcpu, bits: int) -> None:
    """The assists now in force, as a mask."""
    v.pv.vm_assist = bits


def vcpu_info_moved(v: X86Vcpu, vcpu: int, mfn: int, offset: int) -> None:
    """A vCPU's vcpu_info lies elsewhere now."""
    v.events_of(vcpu).move(v.gate.memory.view((mfn << PAGE_SHIFT) + offset, vcpu_info.sizeof))


def nmi(v: X86Vcpu) -> None:
    """Pending until the next way back to the guest; a second one before that is the same."""
    v.pv.nmi_pending = True


def local(v: X86Vcpu, nr: int, a1: int, a2: int, a3: int, a4: int, a5: int, result_va: int = 0) -> None:
    """A multicall entry that this process performs; its result goes to the entry's result word. iret ends the multicall:
    its result is the multicall's."""
    result = local_hypercall(v, nr, (a1, a2, a3, a4, a5))
    size = v.entry.abi.word
    if nr == Hypercall.iret:
        v.mode.set_result(result)
    elif result_va:
        try:
            v.paging.write(result_va, (result & (1 << 8 * size) - 1).to_bytes(size, "little"))
        except GuestFault:
            v.mode.set_result(-Errno.EFAULT)


def context(v: X86Vcpu, raw: bytes, shared_info: int, *more: int) -> None:
    """Loads all registers from a vcpu_guest_context, and says in which frame shared_info lies; a 32-bit guest's comes with the
    frame of Xen's L4, too.
    """
    v.shared_info = Mfn(shared_info)
    v.entry.load_context(v, raw, *more)
    cr4 = v.cpu.q[CR + 4]
    v.cpu.q[CR + 4] = cr4 & ~CR4_TSD | v.pv.cr4 & CR4_TSD


EFFECTS: Final[dict[int, Callable[..., None]]] = COMMON_EFFECTS | {
    Effect.LOAD_CR3: load_cr3,
    Effect.LOAD_USER_CR3: load_user_cr3,
    Effect.INVLPG: invlpg,
    Effect.TRAP_TABLE: trap_table,
    Effect.CALLBACK: callback,
    Effect.GDT: gdt,
    Effect.LDT: ldt,
    Effect.VM_ASSIST: vm_assist,
    Effect.VCPU_INFO: vcpu_info_moved,
    Effect.NMI: nmi,
    Effect.LOCAL: local,
    Effect.CONTEXT: context,
}
