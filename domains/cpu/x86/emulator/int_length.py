"""How many bytes the INT n, INT3 or INTO has whose interrupt is being delivered.

Unicorn puts rip behind the instruction and forgets where it began; a fault in its delivery is the instruction's own, and told at
its beginning. Prefixes make any length possible, so the one that the translator knew is kept on the way.

     0    raise_interrupt, of the library: (env, vector, whether by an instruction, error code, length)
     8    length
    16    mov %r8d, length(%rip); jmp *raise_interrupt(%rip)
"""

import ctypes
import mmap
import struct
from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.unicorn_library import exported

RAISE_INTERRUPT: Final = "raise_interrupt_x86_64"
_LENGTH_AT, _CODE_AT = 8, 16
_CODE: Final = bytes.fromhex("448905f1ffffff ff25e3ffffff")


class IntLength:
    """The word, kept by machine code that lies in the place of the library's function from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._octets = (ctypes.c_uint8 * mmap.PAGESIZE).from_buffer(self._page)
        struct.pack_into("<Q", self._page, 0, exported(RAISE_INTERRUPT))
        self._page[_CODE_AT : _CODE_AT + len(_CODE)] = _CODE
        base = ctypes.addressof(self._octets)
        self.address = base + _LENGTH_AT
        interposer.replace(RAISE_INTERRUPT, base + _CODE_AT)

    @property
    def value(self) -> int:
        """Bytes, prefixes included. Of the last such instruction of this process."""
        return ctypes.c_uint32.from_address(self.address).value
