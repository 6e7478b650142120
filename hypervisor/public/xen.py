"""Hypercall numbers and the structures every guest sees: shared info, start info, MMU updates, multicalls.

The architecture's part is in `arch_x86/xen.py`. Dom0's VGA console is left out. Source: Xen public/xen.h.
"""

from enum import IntEnum, IntFlag
from typing import Annotated, Final

from hypervisor.public.arch_x86.xen import arch_shared_info
from hypervisor.public.arch_x86.xen_x86_64 import arch_vcpu_info
from hypervisor.public.layout import Struct, Union, i8, u8, u32, u64
from hypervisor.public.types import XEN_GUEST_HANDLE, DomId, unsigned_long, xen_pfn_t, xen_ulong_t


class Hypercall(IntEnum):
    """Hypercall numbers, without `__HYPERVISOR_`, which Python would mangle."""

    set_trap_table = 0
    mmu_update = 1
    set_gdt = 2
    stack_switch = 3
    set_callbacks = 4
    fpu_taskswitch = 5
    sched_op_compat = 6
    platform_op = 7
    set_debugreg = 8
    get_debugreg = 9
    update_descriptor = 10
    memory_op = 12
    multicall = 13
    update_va_mapping = 14
    set_timer_op = 15
    event_channel_op_compat = 16
    xen_version = 17
    console_io = 18
    physdev_op_compat = 19
    grant_table_op = 20
    vm_assist = 21
    update_va_mapping_otherdomain = 22
    iret = 23
    vcpu_op = 24
    set_segment_base = 25
    mmuext_op = 26
    xsm_op = 27
    nmi_op = 28
    sched_op = 29
    callback_op = 30
    xenoprof_op = 31
    event_channel_op = 32
    physdev_op = 33
    hvm_op = 34
    sysctl = 35
    domctl = 36
    kexec_op = 37
    tmem_op = 38
    argo_op = 39
    xenpmu_op = 40
    dm_op = 41
    hypfs_op = 42
    arch_0 = 48  # mca on x86
    arch_1 = 49


class VirtualInterrupt(IntEnum):
    """VIRQ numbers for EVTCHNOP_bind_virq."""

    VIRQ_TIMER = 0
    VIRQ_DEBUG = 1
    VIRQ_CONSOLE = 2
    VIRQ_DOM_EXC = 3
    VIRQ_TBUF = 4
    VIRQ_DEBUGGER = 6
    VIRQ_XENOPROF = 7
    VIRQ_CON_RING = 8
    VIRQ_PCPU_STATE = 9
    VIRQ_MEM_EVENT = 10
    VIRQ_ARGO = 11
    VIRQ_ENOMEM = 12
    VIRQ_XENPMU = 13
    VIRQ_ARCH_0 = 16


(
    VIRQ_TIMER, VIRQ_DEBUG, VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TBUF, VIRQ_DEBUGGER, VIRQ_XENOPROF,
    VIRQ_CON_RING, VIRQ_PCPU_STATE, VIRQ_MEM_EVENT, VIRQ_ARGO, VIRQ_ENOMEM, VIRQ_XENPMU,
    VIRQ_ARCH_0,
) = VirtualInterrupt.__members__.values()  # fmt: skip

NR_VIRQS: Final = 24


class MmuUpdateCommand(IntEnum):
    """Bits 0-1 of `ptr` in an mmu_update; the rest is the machine address of the entry or frame."""

    MMU_NORMAL_PT_UPDATE = 0
    MMU_MACHPHYS_UPDATE = 1
    MMU_PT_UPDATE_PRESERVE_AD = 2
    MMU_PT_UPDATE_NO_TRANSLATE = 3


(
    MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE, MMU_PT_UPDATE_PRESERVE_AD,
    MMU_PT_UPDATE_NO_TRANSLATE,
) = MmuUpdateCommand.__members__.values()  # fmt: skip


class MmuExtCommand(IntEnum):
    """`cmd` of an mmuext_op. INVLPG_* and SET_LDT take arg1.linear_addr, the others arg1.mfn or nothing."""

    MMUEXT_PIN_L1_TABLE = 0
    MMUEXT_PIN_L2_TABLE = 1
    MMUEXT_PIN_L3_TABLE = 2
    MMUEXT_PIN_L4_TABLE = 3
    MMUEXT_UNPIN_TABLE = 4
    MMUEXT_NEW_BASEPTR = 5
    MMUEXT_TLB_FLUSH_LOCAL = 6
    MMUEXT_INVLPG_LOCAL = 7
    MMUEXT_TLB_FLUSH_MULTI = 8
    MMUEXT_INVLPG_MULTI = 9
    MMUEXT_TLB_FLUSH_ALL = 10
    MMUEXT_INVLPG_ALL = 11
    MMUEXT_FLUSH_CACHE = 12
    MMUEXT_SET_LDT = 13
    MMUEXT_NEW_USER_BASEPTR = 15
    MMUEXT_CLEAR_PAGE = 16
    MMUEXT_COPY_PAGE = 17
    MMUEXT_FLUSH_CACHE_GLOBAL = 18
    MMUEXT_MARK_SUPER = 19
    MMUEXT_UNMARK_SUPER = 20


(
    MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L2_TABLE, MMUEXT_PIN_L3_TABLE, MMUEXT_PIN_L4_TABLE,
    MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_INVLPG_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI, MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_ALL,
    MMUEXT_FLUSH_CACHE, MMUEXT_SET_LDT, MMUEXT_NEW_USER_BASEPTR, MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE, MMUEXT_FLUSH_CACHE_GLOBAL, MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER,
) = MmuExtCommand.__members__.values()  # fmt: skip


class UpdateVaMappingFlags(IntFlag):
    """Third argument of update_va_mapping; other bits: 0 (LOCAL), ALL, or a pointer to a vCPU bitmap."""

    UVMF_NONE = 0
    UVMF_TLB_FLUSH = 1 << 0
    UVMF_INVLPG = 1 << 1
    UVMF_FLUSHTYPE_MASK = 3
    UVMF_MULTI = 0
    UVMF_LOCAL = 0
    UVMF_ALL = 1 << 2


(
    UVMF_NONE, UVMF_TLB_FLUSH, UVMF_INVLPG, UVMF_FLUSHTYPE_MASK, UVMF_MULTI, UVMF_LOCAL, UVMF_ALL,
) = UpdateVaMappingFlags.__members__.values()  # fmt: skip


class ConsoleIo(IntEnum):
    """First argument of console_io."""

    CONSOLEIO_write = 0
    CONSOLEIO_read = 1


CONSOLEIO_write, CONSOLEIO_read = ConsoleIo.__members__.values()


class VmAssistCommand(IntEnum):
    """First argument of vm_assist."""

    VMASST_CMD_enable = 0
    VMASST_CMD_disable = 1


VMASST_CMD_enable, VMASST_CMD_disable = VmAssistCommand.__members__.values()


class VmAssistType(IntEnum):
    """Second argument of vm_assist, a bit number."""

    VMASST_TYPE_4gb_segments = 0
    VMASST_TYPE_4gb_segments_notify = 1
    VMASST_TYPE_writable_pagetables = 2
    VMASST_TYPE_pae_extended_cr3 = 3
    VMASST_TYPE_architectural_iopl = 4
    VMASST_TYPE_runstate_update_flag = 5
    VMASST_TYPE_m2p_strict = 32


(
    VMASST_TYPE_4gb_segments, VMASST_TYPE_4gb_segments_notify, VMASST_TYPE_writable_pagetables,
    VMASST_TYPE_pae_extended_cr3, VMASST_TYPE_architectural_iopl, VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_m2p_strict,
) = VmAssistType.__members__.values()  # fmt: skip


class StartInfoFlags(IntFlag):
    """`flags` of start_info; PM_MASK holds power management bits."""

    SIF_PRIVILEGED = 1 << 0
    SIF_INITDOMAIN = 1 << 1
    SIF_MULTIBOOT_MOD = 1 << 2
    SIF_MOD_START_PFN = 1 << 3
    SIF_VIRT_P2M_4TOOLS = 1 << 4
    SIF_PM_MASK = 0xFF00


(
    SIF_PRIVILEGED, SIF_INITDOMAIN, SIF_MULTIBOOT_MOD, SIF_MOD_START_PFN, SIF_VIRT_P2M_4TOOLS,
    SIF_PM_MASK,
) = StartInfoFlags.__members__.values()  # fmt: skip


class ClockFlags(IntFlag):
    """`flags` of vcpu_time_info."""

    XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0
    XEN_PVCLOCK_GUEST_STOPPED = 1 << 1


XEN_PVCLOCK_TSC_STABLE_BIT, XEN_PVCLOCK_GUEST_STOPPED = ClockFlags.__members__.values()

DOMID_FIRST_RESERVED: Final = DomId(0x7FF0)
DOMID_SELF: Final = DomId(0x7FF0)  # the caller
DOMID_IO: Final = DomId(0x7FF1)  # owner of I/O memory
DOMID_XEN: Final = DomId(0x7FF2)  # owner of Xen's own frames that may be mapped
DOMID_COW: Final = DomId(0x7FF3)  # owner of shared (copy-on-write) frames
DOMID_INVALID: Final = DomId(0x7FF4)
DOMID_IDLE: Final = DomId(0x7FFF)
DOMID_MASK: Final = DomId(0x7FFF)
MAX_GUEST_CMDLINE: Final = 1024


class mmuext_op_arg1(Union, size=8):
    """`arg1` of mmuext_op."""

    mfn: xen_pfn_t
    linear_addr: unsigned_long


class mmuext_op_arg2(Union, size=8):
    """`arg2` of mmuext_op."""

    nr_ents: u32  # SET_LDT
    vcpumask: XEN_GUEST_HANDLE  # TLB_FLUSH_MULTI, INVLPG_MULTI
    src_mfn: xen_pfn_t  # COPY_PAGE


class mmuext_op(Struct, size=24):
    """One operation of mmuext_op(ops, count, done, domid)."""

    cmd: u32  # MMUEXT_*
    arg1: mmuext_op_arg1
    arg2: mmuext_op_arg2


class mmu_update(Struct, size=16):
    """One request of mmu_update(requests, count, done, domid)."""

    ptr: u64  # machine address of the entry, or of the frame (MACHPHYS); bits 0-1: MMU_*
    val: u64  # new entry, or new Pfn (MACHPHYS)


class multicall_entry(Struct, size=64):
    """One call of multicall(entries, count)."""

    op: xen_ulong_t  # IN: hypercall number
    result: xen_ulong_t  # OUT
    args: Annotated[tuple[xen_ulong_t, ...], 6]  # IN; the sixth is not used


class vcpu_time_info(Struct, size=32):
    """One vCPU's clock: system_time at tsc_timestamp, and how to go on from there by the TSC."""

    version: u32  # odd while Xen writes
    pad0: u32
    tsc_timestamp: u64  # TSC when this was written
    system_time: u64  # ns since boot, then
    tsc_to_system_mul: u32  # ns per (shifted) tick, 32-bit fraction
    tsc_shift: i8  # left shift of ticks before the multiplication, right if negative
    flags: u8  # XEN_PVCLOCK_*
    pad1: Annotated[bytes, 2]


class vcpu_info(Struct, size=64):
    """What Xen and one vCPU share; in shared info, or where the guest registered it."""

    evtchn_upcall_pending: u8  # set by Xen with the selector, cleared by the guest
    evtchn_upcall_mask: u8  # virtual interrupt flag: non-zero means no upcall
    evtchn_pending_sel: xen_ulong_t  # bit n: look at word n of evtchn_pending
    arch: arch_vcpu_info
    time: vcpu_time_info


class shared_info(Struct, size=3136):
    """The page that Xen and a domain share."""

    vcpu_info: Annotated[tuple[vcpu_info, ...], 32]
    evtchn_pending: Annotated[tuple[xen_ulong_t, ...], 64]  # one bit per port
    evtchn_mask: Annotated[tuple[xen_ulong_t, ...], 64]  # one bit per port, written by the guest
    wc_version: u32  # odd while Xen writes the wall clock
    wc_sec: u32  # wall clock at boot, seconds since 1970
    wc_nsec: u32
    wc_sec_hi: u32  # upper half of wc_sec
    arch: arch_shared_info


class start_info_console_domU(Struct, size=16):
    """`domU` of start_info_console."""

    mfn: xen_pfn_t
    evtchn: u32


class start_info_console_dom0(Struct, size=8):
    """`dom0` of start_info_console."""

    info_off: u32
    info_size: u32


class start_info_console(Union, size=16):
    """`console` of start_info."""

    domU: start_info_console_domU
    dom0: start_info_console_dom0


class start_info(Struct, size=1168):
    """What a PV guest is told at its entry point, through RSI."""

    magic: Annotated[bytes, 32]  # "xen-3.0-x86_64"
    nr_pages: unsigned_long  # size of the guest
    shared_info: unsigned_long  # MAddr
    flags: u32  # SIF_*
    store_mfn: xen_pfn_t  # xenstore ring: Mfn
    store_evtchn: u32
    console: start_info_console
    pt_base: unsigned_long  # VAddr of the L4 table
    nr_pt_frames: unsigned_long  # boot page tables, from pt_base
    mfn_list: unsigned_long  # VAddr of the P2M table
    mod_start: unsigned_long  # VAddr of the ramdisk, or Pfn (MOD_START_PFN)
    mod_len: unsigned_long  # bytes
    cmd_line: Annotated[bytes, 1024]  # NUL-terminated
    first_p2m_pfn: unsigned_long  # of the P2M's frames, if not in the initial mapping
    nr_p2m_frames: unsigned_long


class xen_multiboot_mod_list(Struct, size=16):
    """One module, where SIF_MULTIBOOT_MOD is set."""

    mod_start: u32  # bytes from the list's start
    mod_end: u32
    cmdline: u32  # likewise
    pad: u32


class xenctl_bitmap(Struct, size=16):
    """A bitmap in the caller's memory, for domctl and sysctl."""

    bitmap: XEN_GUEST_HANDLE  # to bytes, bit 0 first
    nr_bits: u32
