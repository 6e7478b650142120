"""Numbers of the x86 CPU that no Xen header has (Intel SDM vol. 1 §3.4, vol. 3A §2.3–2.5, §6.15)."""

from typing import Final

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 = range(16)
"""General registers in the order of their encoding."""

GPR_NAMES: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip

ES, CS, SS, DS, FS, GS = range(6)
"""Segment registers in the order of their encoding."""

U64: Final = (1 << 64) - 1
U32: Final = (1 << 32) - 1

EFLAGS_CF: Final = 1 << 0
EFLAGS_MBS: Final = 1 << 1  # must be set
EFLAGS_PF: Final = 1 << 2
EFLAGS_AF: Final = 1 << 4
EFLAGS_ZF: Final = 1 << 6
EFLAGS_SF: Final = 1 << 7
EFLAGS_TF: Final = 1 << 8
EFLAGS_IF: Final = 1 << 9
EFLAGS_DF: Final = 1 << 10
EFLAGS_OF: Final = 1 << 11
EFLAGS_IOPL: Final = 3 << 12
EFLAGS_NT: Final = 1 << 14
EFLAGS_RF: Final = 1 << 16
EFLAGS_VM: Final = 1 << 17
EFLAGS_AC: Final = 1 << 18
EFLAGS_ALL: Final = 0x3F7FD7
EFLAGS_ARITHMETIC: Final = EFLAGS_CF | EFLAGS_PF | EFLAGS_AF | EFLAGS_ZF | EFLAGS_SF | EFLAGS_OF

EXC_DE, EXC_DB, EXC_NMI, EXC_BP, EXC_OF, EXC_BR, EXC_UD, EXC_NM, EXC_DF = range(9)
EXC_TS, EXC_NP, EXC_SS, EXC_GP, EXC_PF = range(10, 15)
EXC_MF, EXC_AC, EXC_MC, EXC_XM = range(16, 20)

EXC_HAVE_ERROR_CODE: Final = frozenset({EXC_DF, EXC_TS, EXC_NP, EXC_SS, EXC_GP, EXC_PF, EXC_AC})

EXC_NAMES: Final = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF",
    10: "#TS", 11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM",
}  # fmt: skip

XEC_EXT: Final = 1  # bits of an error code that names a selector
XEC_IDT: Final = 2
XEC_TI: Final = 4

CR0_PE: Final = 1 << 0
CR0_MP: Final = 1 << 1
CR0_EM: Final = 1 << 2
CR0_TS: Final = 1 << 3
CR0_ET: Final = 1 << 4
CR0_WP: Final = 1 << 16
CR0_NW: Final = 1 << 29
CR0_CD: Final = 1 << 30
CR0_PG: Final = 1 << 31
CR4_TSD: Final = 1 << 2
CR4_DE: Final = 1 << 3
CR4_PSE: Final = 1 << 4
CR4_PAE: Final = 1 << 5
CR4_PGE: Final = 1 << 7
CR4_PCE: Final = 1 << 8
CR4_OSFXSR: Final = 1 << 9
CR4_OSXMMEXCPT: Final = 1 << 10
CR4_FSGSBASE: Final = 1 << 16
CR4_OSXSAVE: Final = 1 << 18

EFER_SCE_LME_LMA_NX: Final = 0xD01
EFER_SCE: Final = 1 << 0
EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
EFER_NX: Final = 1 << 11

MSR_TSC: Final = 0x10
MSR_APIC_BASE: Final = 0x1B
MSR_FEATURE_CONTROL: Final = 0x3A
MSR_UCODE_REV: Final = 0x8B
MSR_MISC_ENABLE: Final = 0x1A0
MSR_PAT: Final = 0x277
MSR_SYSENTER_CS: Final = 0x174
MSR_SYSENTER_ESP: Final = 0x175
MSR_SYSENTER_EIP: Final = 0x176
MSR_EFER: Final = 0xC0000080
MSR_STAR: Final = 0xC0000081
MSR_LSTAR: Final = 0xC0000082
MSR_CSTAR: Final = 0xC0000083
MSR_FMASK: Final = 0xC0000084
MSR_FS_BASE: Final = 0xC0000100
MSR_GS_BASE: Final = 0xC0000101
MSR_SHADOW_GS_BASE: Final = 0xC0000102
