"""IN and OUT of a kernel in ring 0 and of its programs: #GP above the IOPL, as on a CPU; else what Python does.

Unicorn never refuses them. The exception has to be raised by machine code, for it leaves by longjmp, which may not cross Python.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Any, Final

from domains.cpu.x86.emulator.cpu_state import HFLAGS, RFLAGS, CpuState
from domains.cpu.x86.emulator.machine_code import CodePage, load_rax, raise_exception
from domains.cpu.x86.emulator.unicorn_library import HOOK_INSN, UnicornLibrary
from domains.cpu.x86.registers import EXC_GP

RING: Final = b"\x8b\x00\x83\xe0\x03"
"""mov (%rax), %eax; and $3, %eax"""
IOPL: Final = b"\x45\x8b\x09\x41\xc1\xe9\x0c\x41\x83\xe1\x03"
"""mov (%r9), %r9d; shr $12, %r9d; and $3, %r9d"""
REFUSED_ABOVE: Final = b"\x44\x39\xc8\x77\x0c"
"""cmp %r9d, %eax; ja 12 bytes on"""
JUMP: Final = b"\xff\xe0"
"""jmp *%rax"""


class GuardedPort:
    """IN's hook, or OUT's."""

    def __init__(self, library: UnicornLibrary, cpu: CpuState, instruction: int, callback: Any) -> None:
        """`callback`: a C callback, which is kept here."""
        self._page, self._callback = CodePage(), callback
        behind = ctypes.cast(callback, ctypes.c_void_p).value or 0
        self._page.put(
            0,
            load_rax(cpu.env + 4 * HFLAGS)
            + RING
            + load_r9(cpu.env + 8 * RFLAGS)
            + IOPL
            + REFUSED_ABOVE
            + load_rax(behind)
            + JUMP
            + raise_exception(cpu.env, EXC_GP),
        )
        library.add_code_hook(HOOK_INSN, self._page.address, 0, instruction)


def load_r9(value: int) -> bytes:
    """movabs $value, %r9"""
    return b"\x49\xb9" + struct.pack("<Q", value)
