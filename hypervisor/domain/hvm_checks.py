"""What a vCPU of an HVM domain can be given: registers that its CPU could have come to by itself.

Controls as Xen checks them, and what VMRUN would refuse; segments as Xen's debug builds assert them. Where a value would be lost,
as that of a register that this CPU does not have, it is refused: a guest goes on as it was, or not at all.
Source: Xen arch/x86/hvm/hvm.c (hvm_load_cpu_ctxt, hvm_set_segment_register), arch/x86/hvm/svm/svm.c (svm_vmcb_restore).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hypervisor.machine.control_registers import EFER_LMA, refused_controls
from hypervisor.machine.cpuid import MACHINE_ADDRESS_BITS
from hypervisor.machine.paging import is_canonical
from hypervisor.public.arch_x86.hvm.save import XEN_X86_FPU_INITIALISED, hvm_hw_cpu
from hypervisor.public.errno import Errno, XenError

TYPE, USER, PRESENT, LONG, DEFAULT_32 = 0xF, 1 << 4, 1 << 7, 1 << 9, 1 << 10
"""Bits of a segment's `arbytes`: the type, whether it is code or data, P, L and D."""
ACCESSED, WRITABLE, READABLE, CONFORMING, CODE = 1, 2, 2, 4, 8
"""Bits of the type of code and data."""
LDT, TSS16_BUSY, TSS_BUSY = 2, 3, 11
DPL_SHIFT: Final = 5
SELECTOR_TI: Final = 4
U32, WORD = 0xFFFF_FFFF, 0xFFFF
PENDING: Final = 1 << 31
PAT_TYPES: Final = frozenset((0, 1, 4, 5, 6, 7))


def check_cpu(cpu: hvm_hw_cpu) -> None:
    """XenError(EINVAL): no CPU of this machine runs with these registers."""
    problem = (
        refused_controls(cpu.cr0, cpu.cr4, cpu.msr_efer)
        or next(refused_segments(cpu), "")
        or refused_numbers(cpu)
    )
    if problem:
        raise XenError(Errno.EINVAL, f"no CPU of this machine has {problem}")


def refused_numbers(cpu: hvm_hw_cpu) -> str:
    """The first of the other registers that cannot be; empty if all can."""
    cases = (
        (cpu.cr3 >> MACHINE_ADDRESS_BITS, f"CR3 {cpu.cr3:#x}"),
        (cpu.dr6 > U32 or cpu.dr7 > U32, f"DR6 {cpu.dr6:#x}, DR7 {cpu.dr7:#x}"),
        (cpu.msr_tsc_aux > U32, f"TSC_AUX {cpu.msr_tsc_aux:#x}"),
        (cpu.sysenter_cs > U32, f"SYSENTER_CS {cpu.sysenter_cs:#x}"),
        (cpu.flags & ~XEN_X86_FPU_INITIALISED or cpu.pad0, f"flags {cpu.flags:#x}, padding {cpu.pad0:#x}"),
        (cpu.pending_event & PENDING, f"event {cpu.pending_event:#x} half delivered"),
    )
    return next((text for wrong, text in cases if wrong), "")


def refused_segments(cpu: hvm_hw_cpu) -> Iterator[str]:
    """The segments that cannot be loaded so."""
    for name in ("cs", "ss", "ds", "es", "fs", "gs", "tr", "ldtr"):
        selector, base, attributes = (getattr(cpu, f"{name}_{part}") for part in ("sel", "base", "arbytes"))
        if not attributes & PRESENT and name not in ("cs", "tr"):
            continue
        if not may_be(name, selector, base, attributes):
            yield f"{name.upper()} {selector:#x}, base {base:#x}, attributes {attributes:#x}"
    if cpu.msr_efer & EFER_LMA and cpu.cs_arbytes & LONG and cpu.cs_arbytes & DEFAULT_32:
        yield f"code of 64 and of 32 bits at once, attributes {cpu.cs_arbytes:#x}"
    levels = [attributes >> DPL_SHIFT & 3 for attributes in (cpu.cs_arbytes, cpu.ss_arbytes)]
    if levels[0] != levels[1] and not cpu.cs_arbytes & CONFORMING:
        yield f"code of ring {levels[0]} on a stack of ring {levels[1]}"
    for name in ("gdtr", "idtr"):
        base, limit = getattr(cpu, f"{name}_base"), getattr(cpu, f"{name}_limit")
        if limit > WORD or not is_canonical(base):
            yield f"{name.upper()} base {base:#x}, limit {limit:#x}"


def may_be(name: str, selector: int, base: int, attributes: int) -> bool:
    """Whether this segment register, which is in use, can hold that."""
    kind = attributes & TYPE
    if selector > WORD or attributes >> 12 or not attributes & PRESENT:
        return False
    if name in ("tr", "ldtr"):
        if attributes & USER or selector & SELECTOR_TI:
            return False
        if name == "ldtr":
            return kind == LDT and is_canonical(base)
        return (kind == TSS_BUSY and is_canonical(base)) or (kind == TSS16_BUSY and base <= U32)
    if not attributes & USER or not kind & ACCESSED:
        return False
    if name == "ss" and (kind & CODE or not kind & WRITABLE):
        return False
    if name in ("ds", "es", "fs", "gs") and kind & CODE and not kind & READABLE:
        return False
    return is_canonical(base) if name in ("fs", "gs") else base <= U32


def check_pat(pat: int) -> None:
    """XenError(EINVAL): a type of memory that there is not."""
    if not PAT_TYPES.issuperset(pat.to_bytes(8, "little")):
        raise XenError(Errno.EINVAL, f"no CPU of this machine has PAT {pat:#x}")
