"""What is particular to x86: trap table entries, a vCPU's initial state, the x86 part of shared info.

Source: Xen public/arch-x86/xen.h.
"""

from enum import IntFlag
from typing import Annotated, Final

from hypervisor.public.arch_x86.xen_x86_64 import cpu_user_regs
from hypervisor.public.layout import Struct, u8, u16, u32, u64
from hypervisor.public.types import unsigned_long, xen_pfn_t

FIRST_RESERVED_GDT_PAGE: Final = 14
FIRST_RESERVED_GDT_BYTE: Final = 0xE000
FIRST_RESERVED_GDT_ENTRY: Final = 0x1C00
XEN_LEGACY_MAX_VCPUS: Final = 32  # vCPUs whose vcpu_info lies in shared info; the others must register theirs
XEN_CPUID_NO_SUBLEAF: Final = 0xFFFFFFFF
XEN_HVM_DEBUGCONS_IOPORT: Final = 233
XEN_EMULATE_PREFIX: Final = bytes.fromhex("0f0b78656e")  # ud2 and "xen": the next instruction is for Xen


class GuestContextFlags(IntFlag):
    """`flags` of vcpu_guest_context."""

    VGCF_i387_valid = 1 << 0
    VGCF_in_kernel = 1 << 2
    VGCF_failsafe_disables_events = 1 << 3
    VGCF_syscall_disables_events = 1 << 4
    VGCF_online = 1 << 5
    VGCF_in_syscall = 1 << 8  # of an iret_context; from xen-x86_64.h


(
    VGCF_i387_valid, VGCF_in_kernel, VGCF_failsafe_disables_events, VGCF_syscall_disables_events,
    VGCF_online, VGCF_in_syscall,
) = GuestContextFlags.__members__.values()  # fmt: skip


class trap_info(Struct, size=16):
    """One entry of set_trap_table; a table ends with an entry whose address is 0."""

    vector: u8
    flags: u8  # bits 0-1: DPL; bit 2: clear the event-enable flag on entry
    cs: u16  # handler's selector
    address: unsigned_long  # handler's entry point


class vcpu_guest_context_fpu_ctxt(Struct, size=512):
    """`fpu_ctxt` of vcpu_guest_context."""

    x: Annotated[bytes, 512]  # as fxsave writes it


class vcpu_guest_context(Struct, size=5168):
    """Whole state of one PV vCPU, for VCPUOP_initialise and XEN_DOMCTL_setvcpucontext."""

    fpu_ctxt: vcpu_guest_context_fpu_ctxt
    flags: unsigned_long  # VGCF_*
    user_regs: cpu_user_regs
    trap_ctxt: Annotated[tuple[trap_info, ...], 256]  # virtual IDT
    ldt_base: unsigned_long  # linear address
    ldt_ents: unsigned_long
    gdt_frames: Annotated[tuple[unsigned_long, ...], 16]  # Mfn each
    gdt_ents: unsigned_long
    kernel_ss: unsigned_long  # stack on entry to the guest's kernel from its user space
    kernel_sp: unsigned_long
    ctrlreg: Annotated[tuple[unsigned_long, ...], 8]  # CR0-CR7; CR3 is the L4 table's, CR1 the user space's
    debugreg: Annotated[tuple[unsigned_long, ...], 8]  # DR0-DR7
    event_callback_eip: unsigned_long
    failsafe_callback_eip: unsigned_long
    syscall_callback_eip: unsigned_long
    vm_assist: unsigned_long  # 1 << VMASST_TYPE_*
    fs_base: u64
    gs_base_kernel: u64
    gs_base_user: u64


class arch_shared_info(Struct, size=48):
    """The x86 part of shared_info, filled in by the guest for the tools."""

    max_pfn: unsigned_long  # frames in the P2M table
    pfn_to_mfn_frame_list_list: xen_pfn_t  # Mfn of the P2M's three-level index
    nmi_reason: unsigned_long
    p2m_cr3: unsigned_long  # CR3 under which p2m_vaddr is mapped, 0 if not used
    p2m_vaddr: unsigned_long  # of the linear P2M table
    p2m_generation: unsigned_long  # odd or changed while the P2M is remapped


class EmulationFlags(IntFlag):
    """`emulation_flags`: devices Xen emulates, for HVM guests."""

    XEN_X86_EMU_LAPIC = 1 << 0
    XEN_X86_EMU_HPET = 1 << 1
    XEN_X86_EMU_PM = 1 << 2
    XEN_X86_EMU_RTC = 1 << 3
    XEN_X86_EMU_IOAPIC = 1 << 4
    XEN_X86_EMU_PIC = 1 << 5
    XEN_X86_EMU_VGA = 1 << 6
    XEN_X86_EMU_IOMMU = 1 << 7
    XEN_X86_EMU_PIT = 1 << 8
    XEN_X86_EMU_USE_PIRQ = 1 << 9
    XEN_X86_EMU_VPCI = 1 << 10
    XEN_X86_EMU_ALL = 0x7FF


(
    XEN_X86_EMU_LAPIC, XEN_X86_EMU_HPET, XEN_X86_EMU_PM, XEN_X86_EMU_RTC, XEN_X86_EMU_IOAPIC,
    XEN_X86_EMU_PIC, XEN_X86_EMU_VGA, XEN_X86_EMU_IOMMU, XEN_X86_EMU_PIT, XEN_X86_EMU_USE_PIRQ,
    XEN_X86_EMU_VPCI, XEN_X86_EMU_ALL,
) = EmulationFlags.__members__.values()  # fmt: skip

XEN_X86_MSR_RELAXED: Final = 1


class xen_arch_domainconfig(Struct, size=8):
    """The x86 part of XEN_DOMCTL_createdomain."""

    emulation_flags: u32  # XEN_X86_EMU_*
    misc_flags: u32  # XEN_X86_MSR_RELAXED


class xen_cpuid_leaf(Struct, size=24):
    """One leaf of a CPU policy."""

    leaf: u32
    subleaf: u32  # XEN_CPUID_NO_SUBLEAF if it has none
    a: u32
    b: u32
    c: u32
    d: u32


class xen_msr_entry(Struct, size=16):
    """One MSR of a CPU policy."""

    idx: u32
    flags: u32  # 0
    val: u64
