"""LOCKed instructions that are atomic towards other processes, and fences: the core sets grant flags while a guest runs, and
a back end looks at a ring while its front writes it.

Unicorn translates for a machine with one CPU: a LOCKed instruction becomes a load and a store, MFENCE nothing. It has the
other translation, too (QEMU's CF_PARALLEL), and looks which one is wanted in its TCGContext, where each block's translation
begins. An operand that is not aligned has no atomic translation: that instruction is then done as before, in a block of its own,
which is named by the flags that the CPUState wants of the next block.

     0    tcg_func_start, cpu_restore_state, cpu_loop_exit_noexc, of the library
    24    wanted: u32, CF_PARALLEL or nothing                28    unaligned: u32, how many such instructions there were
    32    testl $CF_COUNT_MASK, TB_CFLAGS(%rdi); jnz 1f                   rdi = TCGContext
          mov wanted, %eax; or %eax, TB_CFLAGS(%rdi)
          1: jmp *tcg_func_start(%rip)
    64    movl $1, CFLAGS_NEXT_TB(%rdi)                                   rdi = CPUState, rsi = where translated code called
          incl unaligned; push %rdi; mov $1, %edx; call *cpu_restore_state(%rip); pop %rdi
          jmp *cpu_loop_exit_noexc(%rip)

XCHG, which goes without LOCK, CMPXCHG8B and CMPXCHG16B stay as they were: no word that others write is altered by them.
"""

import ctypes
import struct
from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

BEGIN: Final = "tcg_func_start_x86_64"
EXIT_ATOMIC: Final = "cpu_loop_exit_atomic_x86_64"
TB_CFLAGS: Final = 0x64
"""Of a TCGContext: u32, the flags of the block that is being translated."""
CF_COUNT_MASK: Final = 0x7FFF
CF_PARALLEL: Final = 0x80000
CFLAGS_NEXT_TB: Final = 0x18
"""Of a CPUState: u32, the flags that the next block must have; the lowest 15 bits are its number of instructions."""
_WANTED_AT, _UNALIGNED_AT, _BEGIN_AT, _EXIT_AT = 24, 28, 32, 64


class AtomicLocks:
    """Machine code in the place of the library's functions from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(BEGIN, "cpu_restore_state_x86_64", "cpu_loop_exit_noexc_x86_64")
        begin = bytes([0xF7, 0x47, TB_CFLAGS]) + struct.pack("<I", CF_COUNT_MASK) + bytes.fromhex("7509")
        at = self._put(_BEGIN_AT, begin, b"\x8b\x05", _WANTED_AT)
        self._put(at, bytes([0x09, 0x47, TB_CFLAGS]), b"\xff\x25", 0)
        exit_atomic = bytes([0xC7, 0x47, CFLAGS_NEXT_TB]) + struct.pack("<I", 1)
        at = self._put(_EXIT_AT, exit_atomic, b"\xff\x05", _UNALIGNED_AT)
        at = self._put(at, bytes.fromhex("57 ba01000000"), b"\xff\x15", 8)
        self._put(at, b"\x5f", b"\xff\x25", 16)
        interposer.replace(BEGIN, self._page.address + _BEGIN_AT)
        interposer.replace(EXIT_ATOMIC, self._page.address + _EXIT_AT)

    def want(self, atomic: bool) -> None:
        """Whether what is translated from now on is to be atomic. Unicorn's hooks on memory see only what is not."""
        self._page.put(_WANTED_AT, struct.pack("<I", CF_PARALLEL if atomic else 0))

    @property
    def unaligned(self) -> int:
        """How many LOCKed instructions were done in a block of their own."""
        return ctypes.c_uint32.from_address(self._page.address + _UNALIGNED_AT).value

    def _put(self, at: int, code: bytes, last: bytes, target: int) -> int:
        """Code that ends in an instruction on what lies at `target` of the page; where it ends."""
        end = at + len(code) + len(last) + 4
        self._page.put(at, code + last + struct.pack("<i", target - end))
        return end
