"""The end of a budget, on a machine that repeats itself: blocks of guest code are counted, and emulation ends at an exact one.

Unicorn calls a piece of machine code at the start of every block, with the address of a word:

    rdi = uc, rcx = &left       decq (%rcx); js 1f; ret          1: jmp uc_emu_stop

What a block is follows from the guest's code and the way it was entered, so the same run has the same blocks. Installed only when
it is needed: it takes a quarter of the speed.

Unicorn also reads the host's clock, to choose the size of its memory of translations: it shrinks after a while in which few are
used. A guest sees that: a translation that is found anew sets an accessed bit that was cleared without a flush. Here that clock
stands still (`stop_clock`).
"""

import ctypes
import struct
from typing import Final

from unicorn.unicorn_const import UC_HOOK_BLOCK

from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage, jump_to
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary

_NOW_AT: Final = 32
_WORDS_AT: Final = 96
_TIME_AT: Final = 128
_CLOCK_AT: Final = 160


class BlockCount:
    """One emulated CPU's. Machine code can ask for the time, too: `now` is a C function as clock_gettime is.

    now: r8 = words          movq $0, (%rsi); 8(%rsi) = resume + (budget - left) * unit; return 0
    """

    def __init__(self, library: UnicornLibrary) -> None:
        self._page = page = CodePage()
        words = page.address + _WORDS_AT
        page.put(0, bytes.fromhex("48ff09 7801 c3") + jump_to("uc_emu_stop"))
        now = b"\x49\xb8" + struct.pack("<Q", words)
        now += bytes.fromhex("498b4008 492b00 490faf4010 49034018 48c70600000000 48894608 31c0 c3")
        page.put(_NOW_AT, now)
        self.now = page.address + _NOW_AT
        self._words = (ctypes.c_int64 * 4).from_address(words)
        self.allow(1 << 62, 0, 0)
        library.add_code_hook(UC_HOOK_BLOCK, page.address, words)

    def allow(self, budget: int, unit: int, resume: int) -> None:
        """Blocks that may be entered from now on, ns that each of them takes, and the time, ns."""
        self._words[0], self._words[1], self._words[2], self._words[3] = budget, budget, unit, resume

    @property
    def left(self) -> int:
        """Blocks that may still be entered; below 0, emulation has ended or is about to."""
        return self._words[0]


def stop_clock() -> CodePage:
    """For the Unicorn library of this process it is always the beginning of 1970. What this returns is to be kept."""
    page = CodePage()
    page.put(_TIME_AT, bytes.fromhex("31c0 488907 48894708 c3"))  # gettimeofday(rdi, …) = 0
    page.put(_CLOCK_AT, bytes.fromhex("31c0 488906 48894608 c3"))  # clock_gettime(…, rsi) = 0
    interposer = Interposer()
    interposer.replace("gettimeofday", page.address + _TIME_AT)
    interposer.replace("clock_gettime", page.address + _CLOCK_AT)
    return page
