"""Hypercalls that concern one vCPU's registers alone: performed in the domain process, never sent to the
core.

A Python kernel has few of these registers. Those that can be read back are kept; the others are checked and
done with. `iret` is refused: a Python trap handler returns by returning. Source: Xen arch/x86/pv
(checks), docs/contracts.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from domains.cpu.effects import VcpuState
from hypervisor.machine.paging import is_canonical
from hypervisor.public.errno import Errno
from hypervisor.public.xen import Hypercall

MAX_SEGMENT_BASE: Final = 3
"""SEGBASE_GS_USER_SEL: the last kind of set_segment_base."""
_RESERVED_DEBUG_REGISTERS: Final = (4, 5)


def do_stack_switch(_cpu: VcpuState, _ss: int = 0, esp: int = 0, *_: int) -> int:
    """The kernel stack of a Python kernel is the interpreter's."""
    return 0 if is_canonical(esp) else -Errno.EINVAL


def do_set_segment_base(_cpu: VcpuState, which: int = 0, base: int = 0, *_: int) -> int:
    """No code of this vCPU addresses memory through a segment."""
    return 0 if which <= MAX_SEGMENT_BASE and is_canonical(base) else -Errno.EINVAL


def do_fpu_taskswitch(_cpu: VcpuState, _set: int = 0, *_: int) -> int:
    """CR0.TS has no effect: Python's floating point does not trap."""
    return 0


def do_set_debugreg(cpu: VcpuState, reg: int = 0, value: int = 0, *_: int) -> int:
    """Sets a debug register. EINVAL: there is none of that number; EPERM: an address that is not canonical."""
    if reg > 7 or reg in _RESERVED_DEBUG_REGISTERS:
        return -Errno.EINVAL
    if reg < 4 and not is_canonical(value):
        return -Errno.EPERM
    cpu.debug_registers[reg] = value
    return 0


def do_get_debugreg(cpu: VcpuState, reg: int = 0, *_: int) -> int:
    """The value of a debug register. EINVAL: there is none of that number."""
    if reg > 7 or reg in _RESERVED_DEBUG_REGISTERS:
        return -Errno.EINVAL
    return cpu.debug_registers[reg]


def do_iret(_cpu: VcpuState, *_: int) -> int:
    """ENOSYS: a Python guest has no frame to return through."""
    return -Errno.ENOSYS


LOCAL_CALLS: Final[dict[int, Callable[..., int]]] = {
    Hypercall.stack_switch: do_stack_switch,
    Hypercall.set_segment_base: do_set_segment_base,
    Hypercall.fpu_taskswitch: do_fpu_taskswitch,
    Hypercall.set_debugreg: do_set_debugreg,
    Hypercall.get_debugreg: do_get_debugreg,
    Hypercall.iret: do_iret,
}
