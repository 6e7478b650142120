"""RDMSR and WRMSR of the guest's kernel. What is not here is #GP, as on Xen; nothing reads as zero by accident.

Source: Xen arch/x86/pv/emul-priv-op.c (read_msr, write_msr), arch/x86/msr.c.
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.clock import read_tsc
from domains.cpu.x86.registers import (
    EFER_SCE_LME_LMA_NX,
    FS,
    GS,
    MSR_APIC_BASE,
    MSR_EFER,
    MSR_FEATURE_CONTROL,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_MISC_ENABLE,
    MSR_PAT,
    MSR_SHADOW_GS_BASE,
    MSR_TSC,
    MSR_UCODE_REV,
)
from domains.cpu.x86.vcpu import X86Vcpu
from hypervisor.machine.paging import is_canonical

XEN_MSR_PAT: Final = 0x050100070406
APIC_BASE: Final = 0xFEE00000 | 1 << 11
APIC_BASE_BSP: Final = 1 << 8
MISC_ENABLE_OF_XEN: Final = 1 | 1 << 11 | 1 << 12 | 1 << 23
"""Fast strings; no branch trace store, no PEBS, xTPR disabled."""
FEATURE_CONTROL_LOCK: Final = 1
MSR_PLATFORM_INFO: Final = 0xCE
MSR_MISC_FEATURES_ENABLES: Final = 0x140
MSR_DEBUGCTL: Final = 0x1D9
MSR_PERF_STATUS: Final = 0x198
MSR_PERF_CTL: Final = 0x199
MSR_THERM_STATUS: Final = 0x19C
MSR_PERF_CAPABILITIES: Final = 0x345

CONSTANTS: Final[dict[int, int]] = {
    MSR_DEBUGCTL: 0,
    MSR_EFER: EFER_SCE_LME_LMA_NX,
    MSR_FEATURE_CONTROL: FEATURE_CONTROL_LOCK,
    MSR_MISC_ENABLE: MISC_ENABLE_OF_XEN,
    MSR_MISC_FEATURES_ENABLES: 0,
    MSR_PAT: XEN_MSR_PAT,
    MSR_PERF_CAPABILITIES: 0,
    MSR_PERF_CTL: 0,
    MSR_PERF_STATUS: 0,
    MSR_PLATFORM_INFO: 0,
    MSR_THERM_STATUS: 0,
    MSR_UCODE_REV: 0,
}
"""Registers that read as one value; only what a write may repeat is in REPEATABLE."""
REPEATABLE: Final = frozenset({MSR_EFER})

READ: Final[dict[int, Callable[[X86Vcpu], int]]] = {
    MSR_APIC_BASE: lambda v: APIC_BASE | (0 if v.vcpu_id else APIC_BASE_BSP),
    MSR_FS_BASE: lambda v: v.cpu.base(FS),
    MSR_GS_BASE: lambda v: v.cpu.base(GS),
    MSR_SHADOW_GS_BASE: lambda v: v.mode.inactive_gs,
    MSR_TSC: lambda _v: read_tsc(),
}


def read_msr(v: X86Vcpu, number: int) -> int | None:
    """The register's value; None is #GP."""
    if number in READ:
        return READ[number](v)
    return CONSTANTS.get(number)


def write_msr(v: X86Vcpu, number: int, value: int) -> bool:
    """False is #GP."""
    if number in (MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE):
        if not is_canonical(value):
            return False
        if number == MSR_SHADOW_GS_BASE:
            v.mode.inactive_gs = value
        else:
            v.cpu.set_base(FS if number == MSR_FS_BASE else GS, value)
        return True
    if number in (MSR_MISC_ENABLE, MSR_UCODE_REV):
        return True  # ignored, whatever the value
    return number in REPEATABLE and value == CONSTANTS[number]
