"""The end of a slice: machine code that looks at the vCPU's mailbox at the start of each block of guest code.

Unicorn may only be stopped between instructions: `uc_emu_stop` from another thread, and a time limit, end in the middle
of one and run its store twice. The stub is the callback of a block hook. It tests the words in the mailbox page themselves, so
the core reaches a running guest by writing there (50 µs), without thread, signal or Python: the stop byte, and the counter of
raised events, which differs from what this process has seen while there is more to collect.

    cmpb $0, (%rcx)        rdi = uc, rcx = the hook's data: the stop byte's address
    jne  1f
    mov  -8(%rcx), %rax    counter
    cmp  8(%rcx), %rax     seen
    jne  1f
    ret
 1: movabs $uc_emu_stop, %rax
    jmp  *%rax
"""

import ctypes
import mmap
import struct

from domains.cpu.x86.wheel import HOOK_BLOCK, Wheel, exported


class StopStub:
    """Ends emulation at the next block once the byte at `stop_address` is not zero, or the words around it differ."""

    def __init__(self, wheel: Wheel, stop_address: int) -> None:
        writable = mmap.PROT_READ | mmap.PROT_WRITE
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=writable | mmap.PROT_EXEC)
        code = bytes.fromhex("803900 750b 488b41f8 483b4108 7501 c3 48b8") + struct.pack(
            "<Q", exported("uc_emu_stop")
        )
        self._page[: len(code) + 2] = code + bytes.fromhex("ffe0")
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        wheel.add_code_hook(HOOK_BLOCK, ctypes.addressof(self._octets), stop_address)
