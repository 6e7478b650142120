"""MOV to and from CR0, CR2, CR3 and CR4, and CLTS, of the guest's kernel. Source: Xen arch/x86/pv/emul-priv-op.c, domain.c."""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.pv_state import CR4_OF_GUEST, CR4_OF_XEN
from domains.cpu.x86.pv.vcpu import CR0_OF_XEN, X86Vcpu
from domains.cpu.x86.registers import CR0_TS, CR4_TSD, U64
from hypervisor.wire.messages import EffectRecord


def read_cr0(v: X86Vcpu) -> int:
    """Xen's bits, and TS as the guest set it."""
    return CR0_OF_XEN | (CR0_TS if v.pv.cr0_ts else 0)


def read_cr2(v: X86Vcpu) -> int:
    """The address of the last page fault."""
    return v.pv.cr2


def read_cr3(v: X86Vcpu) -> int:
    """The guest's own kernel page table."""
    return v.mode.cr3()


def read_cr4(v: X86Vcpu) -> int:
    """What the guest believes to have set."""
    return v.pv.cr4


def write_cr0(v: X86Vcpu, value: int) -> bool:
    """Sets TS; False (#GP) if any other bit would change."""
    if (value ^ CR0_OF_XEN) & ~CR0_TS & U64:
        return False
    v.set_ts(bool(value & CR0_TS))
    return True


def write_cr2(v: X86Vcpu, value: int) -> bool:
    """Sets the fault address, also where the guest reads it in vcpu_info."""
    v.pv.cr2 = value
    v.events.set_cr2(value)
    return True


def write_cr3(v: X86Vcpu, value: int, finish: Callable[[bool], None]) -> None:
    """A new page table for the kernel, as MMUEXT_NEW_BASEPTR. `finish` gets whether the core accepted it."""

    def loaded(result: int, effects: list[EffectRecord]) -> None:
        apply_effects(v, effects)
        finish(result == 0)

    v.ask(loaded, v.gate.new_baseptr, v.mode.table_in(value))


def write_cr4(v: X86Vcpu, value: int) -> bool:
    """Bits a guest may not choose are ignored, not refused."""
    v.pv.cr4 = value & CR4_OF_GUEST | CR4_OF_XEN
    cr4 = v.cpu.q[CR + 4]
    v.cpu.q[CR + 4] = cr4 & ~CR4_TSD | v.pv.cr4 & CR4_TSD
    return True


READ_CR: Final[dict[int, Callable[[X86Vcpu], int]]] = {0: read_cr0, 2: read_cr2, 3: read_cr3, 4: read_cr4}
WRITE_CR: Final[dict[int, Callable[[X86Vcpu, int], bool]]] = {
    0: write_cr0,
    2: write_cr2,
    4: write_cr4,
}
"""By number, but for CR3; False is #GP."""
