"""RDMSR and WRMSR of a PV guest's kernel: what Xen answers a guest of an Intel CPU without the features that cpuid.py lacks.

Source: Xen arch/x86/msr.c (guest_rdmsr, guest_wrmsr), arch/x86/pv/emul-priv-op.c (read_msr, write_msr).
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.msr import CONSTANTS, IGNORED, ZERO_ALONE
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    FS,
    GS,
    MSR_APIC_BASE,
    MSR_EFER,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_SHADOW_GS_BASE,
    MSR_TSC,
)
from hypervisor.machine.local_apic import apic_base
from hypervisor.machine.paging import is_canonical

READ: Final[dict[int, Callable[[X86Vcpu], int]]] = {
    MSR_EFER: lambda v: v.mode.efer,
    MSR_APIC_BASE: lambda v: apic_base(v.vcpu_id),
    MSR_FS_BASE: lambda v: v.cpu.base(FS),
    MSR_GS_BASE: lambda v: v.cpu.base(GS),
    MSR_SHADOW_GS_BASE: lambda v: v.mode.inactive_gs,
    MSR_TSC: lambda v: v.clock.tsc(),
}


def read_msr(v: X86Vcpu, number: int) -> int | None:
    """The register's value; None is #GP."""
    if number in v.mode.hidden_msrs:
        return None
    if number in READ:
        return READ[number](v)
    return CONSTANTS.get(number)


def write_msr(v: X86Vcpu, number: int, value: int) -> bool:
    """False is #GP."""
    if number in v.mode.hidden_msrs:
        return False
    if number in (MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE):
        if not is_canonical(value):
            return False
        if number == MSR_SHADOW_GS_BASE:
            v.mode.inactive_gs = value
        else:
            v.cpu.set_base(FS if number == MSR_FS_BASE else GS, value)
        return True
    if number in IGNORED or (number in ZERO_ALONE and value == 0):
        return True
    return number == MSR_EFER and value == v.mode.efer  # what was read may be written
