"""DR0–DR7 as PV state: what set_debugreg, get_debugreg and MOV DR accept and give back.

What they watch is seen by breakpoints.py.
Source: Xen arch/x86/pv/misc-hypercalls.c, arch/x86/debug.c.
"""

import contextlib
from collections.abc import Sequence
from typing import Final

from domains.cpu.x86.pv.pv_state import PvState
from domains.cpu.x86.registers import CR4_DE, U32
from hypervisor.machine.debug_registers import DR6_DEFAULT, DR7_DEFAULT
from hypervisor.machine.paging import is_canonical
from hypervisor.public.arch_x86.xen_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from hypervisor.public.errno import Errno, XenError

DR6_ZEROS: Final = 1 << 12
DR7_ZEROS: Final = 0xD800
DR7_ACTIVE: Final = 0xFF
DR7_GENERAL_DETECT: Final = 1 << 13
DR_IO: Final = 2


def address_ok(va: int) -> bool:
    """Canonical and not in the hypervisor's range (D4)."""
    return is_canonical(va) and not HYPERVISOR_VIRT_START <= va < HYPERVISOR_VIRT_END


def read_dr(pv: PvState, number: int) -> int:
    """XenError(ENODEV) for DR4 and DR5 under CR4.DE, and for numbers there are not."""
    number = _alias(pv, number)
    if number < 4:
        return pv.dr[number]
    return pv.dr6 if number == 6 else pv.dr7 | pv.dr7_emul


def write_dr(pv: PvState, number: int, value: int) -> None:
    """XenError: ENODEV as for read_dr, EINVAL for reserved bits, EPERM for what a guest may not have."""
    number = _alias(pv, number)
    if number < 4:
        if not address_ok(value):
            raise XenError(Errno.EPERM, f"breakpoint at {value:#x}")
        pv.dr[number] = value
        return
    if value > U32:
        raise XenError(Errno.EINVAL, f"DR{number} has 32 bits")
    if number == 6:
        pv.dr6 = (value | DR6_DEFAULT) & ~DR6_ZEROS
    else:
        _write_dr7(pv, value)


def load_drs(pv: PvState, values: Sequence[int]) -> None:
    """A context's eight debug registers. One whose value `write_dr` refuses has that of a CPU after a reset, as on Xen."""
    pv.dr, pv.dr6, pv.dr7, pv.dr7_emul = [0] * 4, DR6_DEFAULT, DR7_DEFAULT, 0
    for number in (0, 1, 2, 3, 6, 7):
        with contextlib.suppress(XenError):
            write_dr(pv, number, values[number])


def _write_dr7(pv: PvState, value: int) -> None:
    if value & DR7_GENERAL_DETECT:
        raise XenError(Errno.EPERM, "general detect is Xen's")
    value = value & ~DR7_ZEROS | DR7_DEFAULT
    io_enable = 0
    if value & DR7_ACTIVE:
        for breakpoint_number in range(4):
            if value >> 16 + 4 * breakpoint_number & 3 == DR_IO:
                if not pv.cr4 & CR4_DE:
                    raise XenError(Errno.EPERM, "an I/O breakpoint needs CR4.DE")
                io_enable |= value & 3 << 2 * breakpoint_number
    pv.dr7_emul = io_enable
    pv.dr7 = value & ~io_enable


def _alias(pv: PvState, number: int) -> int:
    if number in (4, 5) and not pv.cr4 & CR4_DE:
        return number + 2
    if number > 7 or number in (4, 5):
        raise XenError(Errno.ENODEV, f"DR{number}")
    return number
