"""IN and OUT: the guest's own IOPL decides whether they are allowed; no port of the machine belongs to a guest.

An allowed read gives all ones, an allowed write goes nowhere, but for the timer in `pit`. String forms (INS, OUTS) are #GP:
no PV guest uses them without a port of its own. Unicorn never refuses IN and OUT, so the stub below, installed as their hook,
raises the #GP that the CPU should have raised (machine_code.raise_exception).

Source: Xen arch/x86/pv/emul-priv-op.c (guest_io_okay, guest_io_read).
"""

import ctypes
import mmap
from typing import Final

import unicorn.x86_const as uc_x86

from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.emulator.machine_code import raise_exception
from domains.cpu.x86.emulator.unicorn_library import HOOK_INSN, UnicornLibrary
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import EFLAGS_IOPL, EXC_GP
from hypervisor.public.xen import VMASST_TYPE_architectural_iopl

NO_DEVICE: Final = 0xFFFFFFFF


def iopl_ok(v: X86Vcpu) -> bool:
    """The guest's IOPL lets its current half do I/O, CLI and STI; its kernel counts as ring 1, or 0 if it asked for that."""
    kernel_ring = 0 if v.pv.vm_assist >> VMASST_TYPE_architectural_iopl & 1 else 1
    needed = kernel_ring if v.mode.in_kernel else 3
    return needed << 12 <= v.pv.iopl & EFLAGS_IOPL


class PortStub:
    """Makes IN and OUT fault at CPL 3, as they do with IOPL 0."""

    def __init__(self, library: UnicornLibrary, cpu: CpuState) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code = raise_exception(cpu.env, EXC_GP)
        self._page[: len(code)] = code
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        for instruction in (uc_x86.UC_X86_INS_IN, uc_x86.UC_X86_INS_OUT):
            library.add_code_hook(HOOK_INSN, ctypes.addressof(self._octets), 0, instruction)
