"""How a 32-bit guest reaches Xen: INT 0x82, and hypercalls about its vCPU's registers that never leave the process.

Its own software interrupts (INT 0x80 above all) go to its handlers as a 64-bit guest's do. It has no SYSCALL, as on every Intel
CPU in this mode. Source: Xen arch/x86/pv/misc-hypercalls.c, pv/hypercall.c.
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.pv.bounce import inject_hw_exception
from domains.cpu.x86.pv.exceptions import handle_software_interrupt
from domains.cpu.x86.pv.local_hypercalls import (
    do_fpu_taskswitch,
    do_get_debugreg,
    do_set_debugreg,
    do_set_iopl,
)
from domains.cpu.x86.pv.pv32_iret import do_compat_iret
from domains.cpu.x86.pv.syscall import LENGTH, hypercall
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import EXC_UD, U32
from hypervisor.machine.descriptor_window import COMPAT_KERNEL_RPL, guest_selector
from hypervisor.public.errno import Errno
from hypervisor.public.xen import Hypercall

HYPERCALL_VECTOR: Final = 0x82


def handle_compat_interrupt(v: X86Vcpu, vector: int) -> None:
    """INT n, rip behind it: 0x82 in the kernel's ring is a hypercall."""
    if vector == HYPERCALL_VECTOR and v.mode.in_kernel:
        hypercall(v)
    else:
        handle_software_interrupt(v, vector)


def handle_compat_syscall(v: X86Vcpu) -> None:
    """SYSCALL outside 64-bit code: #UD at the instruction."""
    v.cpu.q[RIP] = v.cpu.q[RIP] - LENGTH & U32
    inject_hw_exception(v, EXC_UD)


def do_compat_stack_switch(v: X86Vcpu, ss: int = 0, esp: int = 0, *_: int) -> int:
    """The stack on which user space enters the kernel."""
    v.pv.kernel_ss, v.pv.kernel_sp = guest_selector(ss & 0xFFFF, COMPAT_KERNEL_RPL), esp & U32
    return 0


def do_no_segment_base(_v: X86Vcpu, *_: int) -> int:
    """A 32-bit guest's segments have the bases of their descriptors."""
    return -Errno.ENOSYS


COMPAT_LOCAL_HYPERCALLS: Final[dict[int, Callable[..., int]]] = {
    Hypercall.stack_switch: do_compat_stack_switch,
    Hypercall.fpu_taskswitch: do_fpu_taskswitch,
    Hypercall.set_debugreg: do_set_debugreg,
    Hypercall.get_debugreg: do_get_debugreg,
    Hypercall.iret: do_compat_iret,
    Hypercall.set_segment_base: do_no_segment_base,
}
COMPAT_LOCAL_EFFECTS: Final[dict[int, Callable[..., int]]] = {
    **COMPAT_LOCAL_HYPERCALLS,
    Hypercall.physdev_op: do_set_iopl,
}
"""As LOCAL_EFFECTS."""
