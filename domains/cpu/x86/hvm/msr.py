"""RDMSR and WRMSR of an HVM guest.

    the CPU's own    what system calls, segment bases and page attributes need: no exit (NATIVE)
    EFER             exits, for a write of the CPU's own would hide VMMCALL
    Xen's            0x40000000: the guest asks for a hypercall page at a guest-physical address
    the rest         as for a PV guest (msr), or #GP

Source: Xen arch/x86/hvm/hvm.c (hvm_msr_read_intercept, hvm_msr_write_intercept, hvm_set_efer), arch/x86/hypercall.c.
"""

import struct
from typing import Final

from domains.cpu.x86.emulator.cpu_state import EFER, HF_LMA
from domains.cpu.x86.emulator.svm import HF_SVME
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.msr import (
    CONSTANTS,
    IGNORED,
    MSR_MISC_FEATURES_ENABLES,
    MSR_PLATFORM_INFO,
    MSR_XEN_HYPERCALL_PAGE,
    ZERO_ALONE,
)
from domains.cpu.x86.paging import NotMapped
from domains.cpu.x86.registers import (
    CR0_PG,
    EFER_LMA,
    EFER_LME,
    MSR_APIC_BASE,
    MSR_CSTAR,
    MSR_EFER,
    MSR_FMASK,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_LSTAR,
    MSR_PAT,
    MSR_SHADOW_GS_BASE,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    MSR_TSC,
)
from hypervisor.machine.control_registers import EFER_OF_HVM
from hypervisor.machine.local_apic import apic_base
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE
from hypervisor.public.xen import Hypercall

NATIVE: Final = (
    *(MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_FMASK, MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE),
    *(MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT),
)
MSR_HWCR: Final = 0xC0010015
HWCR_TSC_FREQ_SEL: Final = 1 << 24
PLATFORM_INFO_CPUID_FAULTING: Final = 1 << 31
"""Of every HVM guest on Xen, for CPUID is Xen's there (arch/x86/cpu-policy.c, calculate_hvm_max_policy)."""
CPUID_FAULTING: Final = 1
HYPERCALL_SIZE: Final = 32
"""Bytes of a hypercall's entry in the page."""
MOV_EAX, VMMCALL_RET, UD2 = b"\xb8", b"\x0f\x01\xd9\xc3", b"\x0f\x0b"


def read_msr(v: HvmVcpu, number: int) -> int | None:
    """The register's value; None is #GP."""
    if number == MSR_EFER:
        return v.cpu.q[EFER]
    if number == MSR_TSC:
        return v.clock.tsc()
    if number == MSR_APIC_BASE:
        return apic_base(v.vcpu_id)
    if number == MSR_HWCR:
        return HWCR_TSC_FREQ_SEL
    if number == MSR_PLATFORM_INFO:
        return PLATFORM_INFO_CPUID_FAULTING
    if number == MSR_MISC_FEATURES_ENABLES:
        return CPUID_FAULTING if v.stubs.cpuid_faults else 0
    return CONSTANTS.get(number)


def write_msr(v: HvmVcpu, number: int, value: int) -> bool:
    """False is #GP."""
    if number == MSR_EFER:
        return _write_efer(v, value)
    if number == MSR_XEN_HYPERCALL_PAGE:
        return _write_hypercall_page(v, value)
    if number == MSR_APIC_BASE:
        return value == read_msr(v, number)
    if number == MSR_MISC_FEATURES_ENABLES:
        return _write_features(v, value)
    return number in IGNORED or (number in ZERO_ALONE and value == 0)


def _write_efer(v: HvmVcpu, value: int) -> bool:
    """LME stays as it is while paging is on; LMA follows from both, and is the CPU's to change."""
    old = v.cpu.q[EFER]
    if value & ~EFER_OF_HVM or (v.paging.control(0) & CR0_PG and (value ^ old) & EFER_LME):
        return False
    set_efer(v, value & ~EFER_LMA | old & EFER_LMA)
    return True


def set_efer(v: HvmVcpu, value: int) -> None:
    """Put EFER in force, with what the CPU keeps of it elsewhere."""
    v.cpu.q[EFER] = value
    v.cpu.set_hflags(HF_LMA, HF_SVME | (HF_LMA if value & EFER_LMA else 0))
    v.paging.invalidate_all()


def _write_features(v: HvmVcpu, value: int) -> bool:
    """Whether user space may execute CPUID."""
    if value & ~CPUID_FAULTING:
        return False
    v.stubs.cpuid_faults = value != 0
    return True


def _write_hypercall_page(v: HvmVcpu, value: int) -> bool:
    """Page `value & 0xfff` of the hypercall pages, of which there is one, at guest frame `value >> 12`."""
    if value & PAGE_SIZE - 1:
        return False
    try:
        at = v.paging.machine(value, write=True)
    except NotMapped:
        return False
    v.paging.memory.write(at, hypercall_page())
    v.paging.invalidate_code(at >> PAGE_SHIFT)
    v.exits["hypercall page"] += 1
    v.latch_shinfo_size()
    return True


def hypercall_page() -> bytes:
    """`mov $number, %eax; vmmcall; ret` for each; IRET is nothing that such a guest asks Xen for."""
    entries = []
    for number in range(PAGE_SIZE // HYPERCALL_SIZE):
        code = UD2 if number == Hypercall.iret else MOV_EAX + struct.pack("<I", number) + VMMCALL_RET
        entries.append(code.ljust(HYPERCALL_SIZE, b"\xcc"))
    return b"".join(entries)
