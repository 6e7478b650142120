"""Records of an HVM guest's saved state: the header, a vCPU's registers and its local APIC.

Of the devices that no guest here has there are the numbers alone. Source: Xen public/arch-x86/hvm/save.h.
"""

from typing import Annotated, Final

from hypervisor.public.layout import Struct, u32, u64

HVM_FILE_MAGIC: Final = 0x54381286
HVM_FILE_VERSION: Final = 1
HVM_SAVE_CODE_HEADER: Final = 1  # HVM_SAVE_CODE(HEADER)
HVM_SAVE_CODE_CPU: Final = 2  # HVM_SAVE_CODE(CPU)
HVM_SAVE_CODE_PIC: Final = 3
HVM_SAVE_CODE_IOAPIC: Final = 4
HVM_SAVE_CODE_LAPIC: Final = 5
HVM_SAVE_CODE_LAPIC_REGS: Final = 6
HVM_SAVE_CODE_PCI_IRQ: Final = 7
HVM_SAVE_CODE_ISA_IRQ: Final = 8
HVM_SAVE_CODE_PCI_LINK: Final = 9
HVM_SAVE_CODE_PIT: Final = 10
HVM_SAVE_CODE_RTC: Final = 11
HVM_SAVE_CODE_HPET: Final = 12
HVM_SAVE_CODE_PMTIMER: Final = 13
HVM_SAVE_CODE_MTRR: Final = 14
CPU_XSAVE_CODE: Final = 16
HVM_SAVE_CODE_VMCE_VCPU: Final = 18
HVM_SAVE_CODE_TSC_ADJUST: Final = 19
CPU_MSR_CODE: Final = 20
MTRR_VCNT: Final = 8
NUM_FIXED_MSR: Final = 11
XEN_X86_FPU_INITIALISED: Final = 1  # in `flags` of hvm_hw_cpu: fpu_regs counts


class hvm_save_header(Struct, size=24):
    """The first record."""

    magic: u32  # HVM_FILE_MAGIC
    version: u32  # HVM_FILE_VERSION
    changeset: u64
    cpuid: u32  # EAX of CPUID leaf 1
    gtsc_khz: u32


class hvm_hw_cpu(Struct, size=1032):
    """One vCPU. A segment's `arbytes` are type, S, DPL, P in bits 0-7, then AVL, L, D, G in bits 8-11."""

    fpu_regs: Annotated[bytes, 512]  # as FXSAVE writes them
    rax: u64
    rbx: u64
    rcx: u64
    rdx: u64
    rbp: u64
    rsi: u64
    rdi: u64
    rsp: u64
    r8: u64
    r9: u64
    r10: u64
    r11: u64
    r12: u64
    r13: u64
    r14: u64
    r15: u64
    rip: u64
    rflags: u64
    cr0: u64
    cr2: u64
    cr3: u64
    cr4: u64
    dr0: u64
    dr1: u64
    dr2: u64
    dr3: u64
    dr6: u64
    dr7: u64
    cs_sel: u32
    ds_sel: u32
    es_sel: u32
    fs_sel: u32
    gs_sel: u32
    ss_sel: u32
    tr_sel: u32
    ldtr_sel: u32
    cs_limit: u32
    ds_limit: u32
    es_limit: u32
    fs_limit: u32
    gs_limit: u32
    ss_limit: u32
    tr_limit: u32
    ldtr_limit: u32
    idtr_limit: u32
    gdtr_limit: u32
    cs_base: u64
    ds_base: u64
    es_base: u64
    fs_base: u64
    gs_base: u64
    ss_base: u64
    tr_base: u64
    ldtr_base: u64
    idtr_base: u64
    gdtr_base: u64
    cs_arbytes: u32
    ds_arbytes: u32
    es_arbytes: u32
    fs_arbytes: u32
    gs_arbytes: u32
    ss_arbytes: u32
    tr_arbytes: u32
    ldtr_arbytes: u32
    sysenter_cs: u64
    sysenter_esp: u64
    sysenter_eip: u64
    shadow_gs: u64
    msr_flags: u64
    msr_lstar: u64
    msr_star: u64
    msr_cstar: u64
    msr_syscall_mask: u64
    msr_efer: u64
    msr_tsc_aux: u64
    tsc: u64
    pending_event: u32  # vector in bits 0-7, type 8-10, error code valid 11, valid 31
    error_code: u32
    flags: u32  # XEN_X86_FPU_INITIALISED
    pad0: u32


class hvm_hw_lapic(Struct, size=24):
    """LAPIC: what of a local APIC its registers do not show."""

    apic_base_msr: u64
    disabled: u32  # 1: by APIC_BASE, 2: by the spurious vector's register
    timer_divisor: u32
    tdt_msr: u64  # the deadline in TSC, of a timer that has one


class hvm_hw_lapic_regs(Struct, size=1024):
    """LAPIC_REGS: a local APIC's registers at their offsets, 32 bits every 16 bytes."""

    data: Annotated[bytes, 1024]


class hvm_hw_mtrr(Struct, size=240):
    """MTRR: what memory is cached how."""

    msr_pat_cr: u64
    msr_mtrr_var: Annotated[tuple[u64, ...], 16]
    msr_mtrr_fixed: Annotated[tuple[u64, ...], 11]
    msr_mtrr_cap: u64  # how many pairs of msr_mtrr_var there are, in bits 0-7
    msr_mtrr_def_type: u64


class hvm_vmce_vcpu(Struct, size=32):
    """VMCE_VCPU: the machine check registers that keep a value."""

    caps: u64  # MCG_CAP
    mci_ctl2_bank0: u64
    mci_ctl2_bank1: u64
    mcg_ext_ctl: u64


class hvm_tsc_adjust(Struct, size=8):
    """TSC_ADJUST."""

    tsc_adjust: u64


class hvm_one_msr(Struct, size=16):
    """One of the registers in CPU_MSR, behind their number (xenoscope_hvm.xenoscope_hvm_msr_count)."""

    index: u32
    _rsvd: u32
    val: u64
