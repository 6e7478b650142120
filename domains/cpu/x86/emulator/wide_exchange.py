"""CMPXCHG8B and CMPXCHG16B with the flags of the instruction before, of which they change ZF alone.

The library's functions for them compute the flags without having been told what they hang on: after ADD, say, they made of its
operand all of EFLAGS, IOPL and VM too, for user code as well. Told it is, from where translated code called them:

     0    cpu_restore_state, of the library: (CPUState, return address, false)
     8    the four functions' addresses
    64    for each: push %rdi; push %rsi; sub $8, %rsp; mov 24(%rsp), %rsi; lea -ENV_OFFSET(%rdi), %rdi; xor %edx, %edx
          call *cpu_restore_state; add $8, %rsp; pop %rsi; pop %rdi; jmp *function
"""

import struct
from typing import Final

from domains.cpu.x86.emulator.cpu_state import ENV_OFFSET
from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

RESTORE: Final = "cpu_restore_state_x86_64"
FUNCTIONS: Final = tuple(
    f"helper_cmpxchg{width}_x86_64" for width in ("8b", "8b_unlocked", "16b", "16b_unlocked")
)
_CODE_AT, _CODE_SIZE = 64, 64


class WideExchange:
    """Machine code in the place of the library's functions from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(RESTORE, *FUNCTIONS)
        for number, name in enumerate(FUNCTIONS):
            at = _CODE_AT + number * _CODE_SIZE
            code = bytes.fromhex("5756 4883ec08 488b742418 488dbf") + struct.pack("<i", -ENV_OFFSET)
            code += bytes.fromhex("31d2 ff15")
            code += struct.pack("<i", -(at + len(code) + 4)) + bytes.fromhex("4883c408 5e5f ff25")
            code += struct.pack("<i", 8 + 8 * number - (at + len(code) + 4))
            self._page.put(at, code)
            interposer.replace(name, self._page.address + at)
