"""What is called before Unicorn translates a block of a guest's code, and after it: the place of a binary translator.

The function that reads the guest's instructions (QEMU's gen_intermediate_code) has ours in its place, for the whole process:

    push %rdi; push %rsi; push %rdx              rdi = CPUState, rsi = TranslationBlock, edx = how many instructions it may have
    before(cpu, block, count) -> how many; bit 31: `after` is to be called, too
    pop …; mov %eax, %edx; js 1f; jmp *original
 1: original; jmp *after(cpu)

It may leave by longjmp, for code that cannot be fetched: then `after` is not called. A block: u64 pc @0 (a linear address), u32
flags @16 (hflags).
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from domains.cpu.x86.emulator.cpu_state import HF_CPL, HF_CS64
from domains.cpu.x86.emulator.interpose import Interposer
from domains.cpu.x86.emulator.machine_code import CodePage, load_rax
from domains.cpu.x86.emulator.selfcheck import SCRATCH
from domains.cpu.x86.emulator.unicorn_library import (
    HOOK_INTERRUPT,
    INSTALLED,
    INTERRUPT_HOOK,
    UnicornLibrary,
    UnsupportedLibrary,
    exported,
)

BEFORE = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint32)
AFTER = ctypes.CFUNCTYPE(None, ctypes.c_uint64)
TRANSLATE: Final = "gen_intermediate_code_x86_64"
CALL_AFTER: Final = 1 << 31
TRIAL: Final = bytes.fromhex("90 cd77")
"""nop; int $0x77"""


class Block(NamedTuple):
    """A block that is about to be translated: the linear address of its code, the CPU's hflags, and its most instructions."""

    pc: int
    hflags: int
    most: int


class Translator:
    """One CPU's. `before` says how many instructions the block is to have, and whether `after` is to be called."""

    before: Callable[[Block], tuple[int, bool]]
    after: Callable[[], None]


class TranslationHook:
    """The replaced function; once a process."""

    def __init__(self) -> None:
        self._translators: WeakValueDictionary[int, Translator] = WeakValueDictionary()
        self._page = CodePage()
        self._kept: tuple[Any, ...] = (BEFORE(self._before), AFTER(self._after))
        before, after = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self._kept)
        original = load_rax(exported(TRANSLATE))
        plain = original + b"\xff\xe0"  # jmp *%rax
        code = bytes.fromhex("575652") + load_rax(before) + bytes.fromhex("ffd0 5a5e5f 89c2 85c0 78")
        code += bytes([len(plain)]) + plain
        code += (
            bytes.fromhex("81e2ffffff7f 57") + original + bytes.fromhex("ffd0 5f")
        )  # and $~(1 << 31), %edx
        code += load_rax(after) + b"\xff\xe0"
        self._page.put(0, code)
        Interposer().replace(TRANSLATE, self._page.address)

    def add(self, library: UnicornLibrary, translator: Translator) -> None:
        """Ask this translator about that CPU's blocks. What was translated before stays."""
        self._translators[library.cpu.value or 0] = translator

    def _before(self, cpu: int, block: int, most: int) -> int:
        translator = self._translators.get(cpu)
        if translator is None:
            return most
        pc = ctypes.c_uint64.from_address(block).value
        hflags = ctypes.c_uint32.from_address(block + 16).value
        count, changed = translator.before(Block(pc, hflags, most))
        return count | CALL_AFTER if changed else count

    def _after(self, cpu: int) -> None:
        self._translators[cpu].after()


@functools.cache
def translation_hook() -> TranslationHook:
    """This process's; made at the first call. Raises UnsupportedLibrary."""
    return TranslationHook()


class _Trial(Translator):
    """Blocks of one instruction, and what was seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.afters = 0

    def before(self, block: Block) -> tuple[int, bool]:
        self.seen.append((block.pc, block.hflags & (HF_CS64 | HF_CPL)))
        return 1, len(self.seen) == 1

    def after(self) -> None:
        self.afters += 1


def check_translation(uc: Any, library: UnicornLibrary) -> None:
    """Two instructions, each a block of its own, are seen before they run. Raises UnsupportedLibrary.

    The instance must be fresh; its memory is as before afterwards.
    """
    trial = _Trial()
    translation_hook().add(library, trial)
    hook = library.add_hook(HOOK_INTERRUPT, INTERRUPT_HOOK(lambda *_: library.emu_stop()))
    uc.mem_map(SCRATCH, 0x1000)
    uc.mem_write(SCRATCH, TRIAL)
    library.emu_start(SCRATCH)
    uc.mem_unmap(SCRATCH, 0x1000)
    library.remove_hook(hook)
    if trial.seen != [(SCRATCH, HF_CS64), (SCRATCH + 1, HF_CS64)] or trial.afters != 1:
        raise UnsupportedLibrary(
            f"unicorn {INSTALLED}: blocks are not seen before they are translated: {trial.seen}"
        )
