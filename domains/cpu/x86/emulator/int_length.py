"""How many bytes the INT n, INT3 or INTO has whose interrupt is being delivered.

Unicorn puts rip behind the instruction and forgets where it began; a fault in its delivery is the instruction's own, and told at
its beginning. Prefixes make any length possible, so the one that the translator knew is kept on the way.

     0    raise_interrupt, of the library: (env, vector, whether by an instruction, error code, length)
     8    length
    16    mov %r8d, length(%rip); jmp *raise_interrupt(%rip)
"""

import ctypes
from typing import Final

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage

RAISE_INTERRUPT: Final = "raise_interrupt_x86_64"
_LENGTH_AT, _CODE_AT = 8, 16
_CODE: Final = bytes.fromhex("448905f1ffffff ff25e3ffffff")


class IntLength:
    """The word, kept by machine code that lies in the place of the library's function from now on."""

    def __init__(self, interposer: Interposer) -> None:
        self._page = CodePage()
        self._page.put_functions(RAISE_INTERRUPT)
        self._page.put(_CODE_AT, _CODE)
        self.address = self._page.address + _LENGTH_AT
        interposer.replace(RAISE_INTERRUPT, self._page.address + _CODE_AT)

    @property
    def value(self) -> int:
        """Bytes, prefixes included. Of the last such instruction of this process."""
        return ctypes.c_uint32.from_address(self.address).value
