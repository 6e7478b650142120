"""What is particular to 64-bit x86: flat selectors, the hypervisor's address range, register frames.

    0xFFFF8000_00000000  HYPERVISOR_VIRT_START = MACH2PHYS_VIRT_START
                         machine-to-physical table, read-only to guests: one u64 per machine frame
    0xFFFF8040_00000000  MACH2PHYS_VIRT_END
                         Xen's own
    0xFFFF8800_00000000  HYPERVISOR_VIRT_END; from here on the guest's again

Source: Xen public/arch-x86/xen-x86_64.h.
"""

from enum import IntEnum
from typing import Annotated, Final

from hypervisor.public.layout import Struct, u8, u16, u32, u64
from hypervisor.public.types import VAddr, unsigned_long

FLAT_RING3_CS32: Final = 0xE023
FLAT_RING3_CS64: Final = 0xE033
FLAT_RING3_DS32: Final = 0xE02B
FLAT_RING3_DS64: Final = 0
FLAT_RING3_SS32: Final = 0xE02B
FLAT_RING3_SS64: Final = 0xE02B
FLAT_KERNEL_DS64: Final = 0
FLAT_KERNEL_DS32: Final = 0xE02B
FLAT_KERNEL_DS: Final = 0
FLAT_KERNEL_CS64: Final = 0xE033
FLAT_KERNEL_CS32: Final = 0xE023
FLAT_KERNEL_CS: Final = 0xE033
FLAT_KERNEL_SS64: Final = 0xE02B
FLAT_KERNEL_SS32: Final = 0xE02B
FLAT_KERNEL_SS: Final = 0xE02B
FLAT_USER_DS64: Final = 0
FLAT_USER_DS32: Final = 0xE02B
FLAT_USER_DS: Final = 0
FLAT_USER_CS64: Final = 0xE033
FLAT_USER_CS32: Final = 0xE023
FLAT_USER_CS: Final = 0xE033
FLAT_USER_SS64: Final = 0xE02B
FLAT_USER_SS32: Final = 0xE02B
FLAT_USER_SS: Final = 0xE02B

HYPERVISOR_VIRT_START: Final = VAddr(0xFFFF_8000_0000_0000)
HYPERVISOR_VIRT_END: Final = VAddr(0xFFFF_8800_0000_0000)
MACH2PHYS_VIRT_START: Final = VAddr(0xFFFF_8000_0000_0000)
MACH2PHYS_VIRT_END: Final = VAddr(0xFFFF_8040_0000_0000)
MACH2PHYS_NR_ENTRIES: Final = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3


class SegmentBase(IntEnum):
    """First argument of set_segment_base: which base the second argument is for."""

    SEGBASE_FS = 0
    SEGBASE_GS_USER = 1
    SEGBASE_GS_KERNEL = 2
    SEGBASE_GS_USER_SEL = 3


SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL, SEGBASE_GS_USER_SEL = SegmentBase.__members__.values()


class iret_context(Struct, size=72):
    """What the iret hypercall finds on the guest's kernel stack, lowest address first."""

    rax: u64
    r11: u64
    rcx: u64
    flags: u64  # VGCF_in_syscall: return by sysret, so RCX and R11 are lost
    rip: u64
    cs: u64
    rflags: u64
    rsp: u64  # of the context returned to
    ss: u64


class cpu_user_regs(Struct, size=200):
    """General registers as Xen saves them and as vcpu_guest_context holds them.

    C declares each register as a union of its widths; here it is the full 64 bits under the 64-bit name.
    """

    r15: u64
    r14: u64
    r13: u64
    r12: u64
    rbp: u64
    rbx: u64
    r11: u64
    r10: u64
    r9: u64
    r8: u64
    rax: u64
    rcx: u64
    rdx: u64
    rsi: u64
    rdi: u64
    error_code: u32  # Xen's own
    entry_vector: u32  # Xen's own
    rip: u64
    cs: u16
    _pad0: Annotated[tuple[u16, ...], 1]
    saved_upcall_mask: u8
    _pad1: Annotated[bytes, 3]
    rflags: u64
    rsp: u64
    ss: u16
    _pad2: Annotated[tuple[u16, ...], 3]
    es: u16
    _pad3: Annotated[tuple[u16, ...], 3]
    ds: u16
    _pad4: Annotated[tuple[u16, ...], 3]
    fs: u16
    _pad5: Annotated[tuple[u16, ...], 3]
    gs: u16
    _pad6: Annotated[tuple[u16, ...], 3]


class arch_vcpu_info(Struct, size=16):
    """The part of vcpu_info that depends on the architecture."""

    cr2: unsigned_long  # faulting address of the last page fault, written by Xen
    pad: unsigned_long
