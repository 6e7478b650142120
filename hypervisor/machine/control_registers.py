"""What of CR0, CR4 and EFER an HVM guest can have: bits that its CPUID advertises, in combinations that a CPU runs with.

Source: Xen arch/x86/hvm/hvm.c (hvm_cr4_guest_valid_bits, hvm_efer_valid, hvm_load_cpu_ctxt); AMD64 Architecture Programmer's
Manual vol. 2, §15.5.1 (what VMRUN refuses).
"""

from typing import Final

X86_CR0_PE: Final = 1 << 0
X86_CR0_ET: Final = 1 << 4
X86_CR0_NW: Final = 1 << 29
X86_CR0_CD: Final = 1 << 30
X86_CR0_PG: Final = 1 << 31
X86_CR4_PAE: Final = 1 << 5
EFER_SCE: Final = 1 << 0
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
EFER_NXE: Final = 1 << 11

CR0_OF_HVM: Final = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31))
"""PE MP EM TS ET NE WP AM NW CD PG."""
CR4_OF_HVM: Final = sum(1 << bit for bit in (2, 3, 4, 5, 7, 8, 9, 10))
"""TSD DE PSE PAE PGE PCE OSFXSR OSXMMEXCPT."""
EFER_OF_HVM: Final = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE


def refused_controls(cr0: int, cr4: int, efer: int) -> str:
    """Why no guest can have these three; empty if one can."""
    paged, long_mode = cr0 & X86_CR0_PG, efer & EFER_LME and cr0 & X86_CR0_PG
    if cr0 & ~CR0_OF_HVM or not cr0 & X86_CR0_ET:
        return f"CR0 {cr0:#x}"
    if (paged and not cr0 & X86_CR0_PE) or (cr0 & X86_CR0_NW and not cr0 & X86_CR0_CD):
        return f"CR0 {cr0:#x}"
    if cr4 & ~CR4_OF_HVM or (long_mode and not cr4 & X86_CR4_PAE):
        return f"CR4 {cr4:#x}"
    if efer & ~EFER_OF_HVM or bool(efer & EFER_LMA) != bool(long_mode):
        return f"EFER {efer:#x}"
    return ""
