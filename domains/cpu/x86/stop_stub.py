"""The end of a slice: machine code that tests the vCPU's stop byte at the start of each block of guest code.

Unicorn may only be stopped between instructions: `uc_emu_stop` from another thread, and a time limit, end in the middle
of one and run its store twice. The stub is the callback of a block hook. It tests the byte in the mailbox page
itself, so the core ends a running slice by writing one byte (50 µs), without thread, signal or Python.

    cmpb $0, (%rcx)        rdi = uc, rcx = the hook's data: the stop byte's address
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
    """Ends emulation at the next block once the byte at `stop_address` is not zero."""

    def __init__(self, wheel: Wheel, stop_address: int) -> None:
        writable = mmap.PROT_READ | mmap.PROT_WRITE
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=writable | mmap.PROT_EXEC)
        code = bytes.fromhex("803900 7501 c3 48b8") + struct.pack("<Q", exported("uc_emu_stop"))
        self._page[: len(code) + 2] = code + bytes.fromhex("ffe0")
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        wheel.add_code_hook(HOOK_BLOCK, ctypes.addressof(self._octets), stop_address)
