"""A vCPU's whole state: taken over at the start, given back when the core asks for it.

    cpu          registers, segments, MSRs that the CPU keeps, FPU      lapic_regs   vcpu.apic
    pat          as the other MSRs                                      the TSC      goes on by the mailbox's offset

A guest starts in 32-bit protected mode without paging, and gets to long mode by itself; a saved one goes on in the mode that its
CR0, CR4, EFER and segments say. What QEMU keeps of these elsewhere (hflags) is computed here.
Source: Xen arch/x86/hvm/hvm.c (hvm_load_cpu_ctxt, hvm_save_cpu_ctxt).
"""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import (
    CR,
    DR,
    EFER,
    GDTR,
    HF_ADDSEG,
    HF_CPL,
    HF_CS32,
    HF_CS64,
    HF_INHIBIT_IRQ,
    HF_LMA,
    HF_SS32,
    HF_TS,
    LDTR,
    RIP,
    SEGMENT_BASE,
    SEGMENT_FLAGS,
    SEGMENT_LIMIT,
    CpuState,
)
from domains.cpu.x86.emulator.fpu_image import INITIAL, load_fpu, save_fpu
from domains.cpu.x86.emulator.svm import HF_GUEST, HF_SVME
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.registers import (
    CR0_EM,
    CR0_MP,
    CR0_PE,
    CR0_TS,
    CR4_OSFXSR,
    CS,
    DS,
    EFER_LMA,
    EFLAGS_ALL,
    EFLAGS_MBS,
    ES,
    FS,
    GPR_NAMES,
    GS,
    SS,
)
from hypervisor.public.arch_x86.hvm.save import XEN_X86_FPU_INITIALISED, hvm_hw_cpu, hvm_hw_lapic_regs
from hypervisor.public.xenoscope_hvm import xenoscope_hvm_vcpu

IDTR: Final = GDTR + 1
TR: Final = LDTR + 1
SEGMENTS: Final = ((CS, "cs"), (DS, "ds"), (ES, "es"), (FS, "fs"), (GS, "gs"), (SS, "ss"))
SYSTEM: Final = ((TR, "tr"), (LDTR, "ldtr"))
TABLES: Final = ((IDTR, "idtr"), (GDTR, "gdtr"))
NATIVE_MSRS: Final = (
    *(("sysenter_cs", 600), ("sysenter_esp", 601), ("sysenter_eip", 602)),
    *(("msr_star", 603), ("msr_lstar", 605), ("msr_cstar", 606), ("msr_syscall_mask", 607)),
    *(("shadow_gs", 608), ("msr_tsc_aux", 611)),
)
"""Where the CPU state has them (`q`), in QEMU's order: vm_hsave behind STAR, two of the TSC's before TSC_AUX."""
PAT: Final = 660

TSS, TSS_KIND, TSS_BUSY = 0x100, 0x1500, 1 << 9
"""Of a TSS' descriptor: bits by which it is told, and whether its task is the one that runs, which Unicorn does not keep."""
DESC_B: Final = 1 << 22
DESC_L: Final = 1 << 21
HF_PE: Final = 1 << 7
HF_MP, HF_EM = 1 << 9, 1 << 10
HF_OSFXSR: Final = 1 << 22
COMPUTED: Final = (
    HF_CPL | HF_CS32 | HF_SS32 | HF_ADDSEG | HF_PE | HF_MP | HF_EM | HF_TS | HF_LMA | HF_CS64 | HF_OSFXSR
) | HF_INHIBIT_IRQ


def load_context(v: HvmVcpu, raw: bytes) -> None:
    """Take over the state in the bytes of a xenoscope_hvm_vcpu."""
    state = xenoscope_hvm_vcpu.unpack(raw)
    load_registers(v, state.cpu)
    v.apic.load(state.lapic_regs.data)
    v.cpu.q[PAT] = state.pat
    v.stubs.cpuid_faults = state.misc_features_enables != 0
    v.take_clock()


def load_registers(v: HvmVcpu, context: hvm_hw_cpu) -> None:
    """Take over the CPU's registers; the TSC is the mailbox's to say."""
    cpu, q = v.cpu, v.cpu.q
    for number, name in enumerate(GPR_NAMES):
        q[number] = getattr(context, name)
    q[RIP] = context.rip
    cpu.rflags = context.rflags & EFLAGS_ALL | EFLAGS_MBS
    for number, name in (*SEGMENTS, *SYSTEM):
        attributes = getattr(context, f"{name}_arbytes")
        flags = (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12
        selector, base, limit = (getattr(context, f"{name}_{part}") for part in ("sel", "base", "limit"))
        cpu.set_segment(number, selector, base, limit, flags & ~TSS_BUSY if number == TR else flags)
    for number, name in TABLES:
        cpu.set_segment(number, 0, getattr(context, f"{name}_base"), getattr(context, f"{name}_limit"), 0)
    v.paging.load_controls(context.cr0, context.cr2, context.cr3, context.cr4)
    for name, at in NATIVE_MSRS:
        q[at] = getattr(context, name)
    for number in (0, 1, 2, 3, 6):
        q[DR + number] = getattr(context, f"dr{number}")
    v.stubs.set_dr7(context.dr7)
    q[EFER] = context.msr_efer
    cpu.set_hflags(COMPUTED, _hflags(cpu))
    load_fpu(cpu, v.float_unit, context.fpu_regs if context.flags & XEN_X86_FPU_INITIALISED else INITIAL)
    v.paging.invalidate_all()


def _hflags(cpu: CpuState) -> int:
    """What QEMU derives from control registers, EFER and segments (its cpu_x86_update_cr0 and cpu_x86_load_seg_cache)."""
    q, d = cpu.q, cpu.d
    cr0, cr4 = q[CR], q[CR + 4]
    code, stack = d[SEGMENT_FLAGS + 6 * CS], d[SEGMENT_FLAGS + 6 * SS]
    flags = HF_GUEST | HF_SVME | stack >> 13 & HF_CPL
    for bit, flag in ((CR0_PE, HF_PE), (CR0_MP, HF_MP), (CR0_EM, HF_EM), (CR0_TS, HF_TS)):
        flags |= flag if cr0 & bit else 0
    flags |= HF_OSFXSR if cr4 & CR4_OSFXSR else 0
    long_mode = q[EFER] & EFER_LMA
    flags |= HF_LMA if long_mode else 0
    if long_mode and code & DESC_L:
        return flags | HF_CS64 | HF_CS32 | HF_SS32
    flags |= (HF_CS32 if code & DESC_B else 0) | (HF_SS32 if stack & DESC_B else 0)
    based = any(q[SEGMENT_BASE + 3 * segment] for segment in (DS, ES, SS))
    return flags | (HF_ADDSEG if based or not code & DESC_B or not cr0 & CR0_PE else 0)


def save_context(v: HvmVcpu) -> bytes:
    """The bytes of this vCPU's xenoscope_hvm_vcpu."""
    return xenoscope_hvm_vcpu(
        cpu=save_registers(v),
        lapic_regs=hvm_hw_lapic_regs(data=v.apic.saved()),
        pat=v.cpu.q[PAT],
        misc_features_enables=int(v.stubs.cpuid_faults),
        result_size=v.result_size,
    ).pack()


def save_registers(v: HvmVcpu) -> hvm_hw_cpu:
    """The CPU's registers, and its TSC."""
    cpu, q, d = v.cpu, v.cpu.q, v.cpu.d
    context = hvm_hw_cpu()
    for number, name in enumerate(GPR_NAMES):
        setattr(context, name, q[number])
    context.rip, context.rflags = q[RIP], cpu.rflags
    for number, name in (*SEGMENTS, *SYSTEM):
        flags = d[SEGMENT_FLAGS + 6 * number]
        if number == TR and flags & TSS_KIND == TSS:
            flags |= TSS_BUSY
        setattr(context, f"{name}_sel", cpu.selector(number) & 0xFFFF)
        setattr(context, f"{name}_base", cpu.base(number))
        setattr(context, f"{name}_limit", d[SEGMENT_LIMIT + 6 * number])
        setattr(context, f"{name}_arbytes", flags >> 8 & 0xFF | flags >> 12 & 0xF00)
    for number, name in TABLES:
        setattr(context, f"{name}_base", cpu.base(number))
        setattr(context, f"{name}_limit", d[SEGMENT_LIMIT + 6 * number])
    for number in (0, 2, 3, 4):
        setattr(context, f"cr{number}", v.paging.control(number))
    for number in (0, 1, 2, 3, 6, 7):
        setattr(context, f"dr{number}", q[DR + number])
    for name, at in NATIVE_MSRS:
        setattr(context, name, q[at])
    context.msr_efer, context.tsc = q[EFER], v.clock.tsc()
    context.fpu_regs, context.flags = save_fpu(cpu, v.float_unit), XEN_X86_FPU_INITIALISED
    return context
