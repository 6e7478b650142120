"""Hypercalls about one vCPU's registers: decoded and performed here, never sent to the core, alone or within a multicall.

Result: ≥ 0, or -errno from a XenError in `local_hypercall`. Source: Xen arch/x86/pv/misc-hypercalls.c.
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.descriptors import DESC_PRESENT, unpack
from domains.cpu.x86.pv.debug_registers import read_dr, write_dr
from domains.cpu.x86.pv.iret import do_iret
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import FS, GS
from hypervisor.machine.paging import is_canonical
from hypervisor.public.arch_x86.xen_x86_64 import (
    SEGBASE_FS,
    SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER,
    SEGBASE_GS_USER_SEL,
)
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import Hypercall


def do_stack_switch(v: X86Vcpu, ss: int = 0, esp: int = 0, *_: int) -> int:
    """The stack on which user space enters the kernel."""
    v.pv.kernel_ss, v.pv.kernel_sp = ss & 0xFFFF | 3, esp
    return 0


def do_fpu_taskswitch(v: X86Vcpu, on: int = 0, *_: int) -> int:
    """Sets or clears CR0.TS: the guest's next use of the FPU faults, or not."""
    v.set_ts(bool(on & 0xFFFFFFFF))
    return 0


def do_set_debugreg(v: X86Vcpu, number: int = 0, value: int = 0, *_: int) -> int:
    """Sets a debug register. XenError as write_dr."""
    write_dr(v.pv, number & 0xFFFFFFFF, value)
    v.breakpoints.changed()
    return 0


def do_get_debugreg(v: X86Vcpu, number: int = 0, *_: int) -> int:
    """The value of a debug register. XenError as read_dr."""
    return read_dr(v.pv, number & 0xFFFFFFFF)


def set_fs(v: X86Vcpu, base: int) -> None:
    """Sets the base of FS."""
    v.cpu.set_base(FS, base)


def set_gs_user(v: X86Vcpu, base: int) -> None:
    """Sets the base of GS of user mode, which is not in use now."""
    v.mode.inactive_gs = base


def set_gs_kernel(v: X86Vcpu, base: int) -> None:
    """Sets the base of GS of kernel mode."""
    v.cpu.set_base(GS, base)


BASES: Final[dict[int, Callable[[X86Vcpu, int], None]]] = {
    SEGBASE_FS: set_fs,
    SEGBASE_GS_USER: set_gs_user,
    SEGBASE_GS_KERNEL: set_gs_kernel,
}


def do_set_segment_base(v: X86Vcpu, which: int = 0, base: int = 0, *_: int) -> int:
    """Set a base, or the user GS by selector; a selector that does not work gives base 0, as a null one does."""
    which &= 0xFFFFFFFF
    if which == SEGBASE_GS_USER_SEL:
        selector = base & 0xFFFF
        descriptor = v.segments.descriptor(selector, v.paging.root) if selector > 3 else None
        usable = descriptor is not None and descriptor >> 32 & DESC_PRESENT
        v.mode.inactive_gs = unpack(descriptor)[0] if descriptor is not None and usable else 0
        return 0
    setter = BASES.get(which)
    if setter is None or not is_canonical(base):
        raise XenError(Errno.EINVAL, f"set_segment_base {which}, {base:#x}")
    setter(v, base)
    return 0


def do_set_iopl(v: X86Vcpu, _cmd: int, iopl: int, *_: int) -> int:
    """Sets the I/O privilege level, 0 to 3, that the guest's kernel believes to have."""
    v.pv.iopl = (iopl & 3) << 12
    return 0


LOCAL_HYPERCALLS: Final[dict[int, Callable[..., int]]] = {
    Hypercall.stack_switch: do_stack_switch,
    Hypercall.fpu_taskswitch: do_fpu_taskswitch,
    Hypercall.set_debugreg: do_set_debugreg,
    Hypercall.get_debugreg: do_get_debugreg,
    Hypercall.iret: do_iret,
    Hypercall.set_segment_base: do_set_segment_base,
}


LOCAL_EFFECTS: Final[dict[int, Callable[..., int]]] = {**LOCAL_HYPERCALLS, Hypercall.physdev_op: do_set_iopl}
"""What a LOCAL effect may name: the above, and PHYSDEVOP_set_iopl, whose argument the core has read."""


def local_hypercall(v: X86Vcpu, nr: int, args: tuple[int, ...]) -> int:
    """Perform hypercall `nr`, one of the entry's `local_effects`."""
    try:
        return v.entry.local_effects[nr](v, *args)
    except XenError as error:
        return -error.errno
