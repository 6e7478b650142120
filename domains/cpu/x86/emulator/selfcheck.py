"""Proof by trial, before a guest runs: the state structure lies as `state` says, and a slice ends as `stop_stub` says."""

import ctypes
from collections.abc import Callable
from typing import Any, Final

import unicorn.x86_const as uc_x86

from domains.cpu.x86.emulator.cpu_state import (
    CR,
    HF_CS64,
    HF_LMA,
    HFLAGS,
    IS_INT,
    OLD_EXCEPTION,
    RFLAGS,
    RIP,
    CpuState,
)
from domains.cpu.x86.emulator.unicorn_library import (
    CPUID_HOOK,
    HOOK_INSN,
    HOOK_INTERRUPT,
    INSTALLED,
    INTERRUPT_HOOK,
    UnicornLibrary,
    UnsupportedLibrary,
)
from domains.cpu.x86.registers import (
    CS,
    EFLAGS_CF,
    EFLAGS_DF,
    EFLAGS_MBS,
    EFLAGS_ZF,
    EXC_DE,
    FS,
    RAX,
    RBX,
    RCX,
    RSI,
)

SCRATCH: Final = 0x5A5A5000
PROGRAM: Final = bytes.fromhex("4831c0 48ffc8 4883c001 cd77 31c9 f7f1")
"""xor %rax, %rax; dec %rax; add $1, %rax (sets CF and ZF); int $0x77; xor %ecx, %ecx; div %ecx"""
AFTER_INT: Final = SCRATCH + 12
AT_DIV: Final = SCRATCH + 14
BLOCKS: Final = bytes.fromhex("0fa2 480106 48ffc3 eb00 48ffc1")
"""cpuid; add %rax, (%rsi); inc %rbx; jmp 1f; 1: inc %rcx"""
SECOND_BLOCK: Final = SCRATCH + 10
FLOATS: Final = bytes.fromhex("b8801f000089060fae16f20f2ac0660f57c9f20f5ec10fae1edbe3d9e8d9ebdef9dfe0cd77")
"""mov $0x1f80, %eax; mov %eax, (%rsi); ldmxcsr (%rsi); cvtsi2sd %eax, %xmm0; xorpd %xmm1, %xmm1; divsd %xmm1, %xmm0;
stmxcsr (%rsi); fninit; fld1; fldpi; fdivrp; fnstsw %ax; int $0x77
"""
LOCKS: Final = bytes.fromhex("f0ff06 f0ff4605 cd77")
"""lock incl (%rsi); lock incl 5(%rsi); int $0x77"""
DIVIDED_BY_ZERO: Final = 0x1F84
INEXACT: Final = 0x20


def check(uc: Any, library: UnicornLibrary, state: CpuState) -> None:
    """Run ten bytes of code and compare what the structure says with what must be. Raises UnsupportedLibrary.

    The instance must be fresh; its memory is as before afterwards, its registers are not.
    """
    seen: list[tuple[int, ...]] = []

    def on_interrupt(_uc: int, vector: int, _data: int) -> None:
        state.running = True
        old = ctypes.c_int32(state.d[OLD_EXCEPTION]).value
        seen.append((vector, state.d[IS_INT], state.q[RIP], old, state.rflags & (EFLAGS_CF | EFLAGS_ZF)))
        state.take_exception()
        if vector == EXC_DE:
            state.rflags = EFLAGS_CF | EFLAGS_DF
            library.emu_stop()
        state.running = False

    _run(uc, library, on_interrupt)
    uc.reg_write(uc_x86.UC_X86_REG_CR2, 0x1234567)
    uc.reg_write(uc_x86.UC_X86_REG_FS_BASE, 0x7654321)
    vectors, software, rips, old, flags = zip(*seen, strict=True) if len(seen) == 2 else ((),) * 5
    facts = {
        "general registers": state.q[RAX] == 0,
        "rip": rips == (AFTER_INT, AT_DIV) and state.q[RIP] == AT_DIV,
        "INT n": vectors == (0x77, EXC_DE) and software == (1, 0),
        "old_exception": old == (-1, EXC_DE) and ctypes.c_int32(state.d[OLD_EXCEPTION]).value == -1,
        "lazy flags": flags[:1] == (EFLAGS_CF | EFLAGS_ZF,),
        "rflags": state.q[RFLAGS] & 0xCD7 == EFLAGS_CF | EFLAGS_DF | EFLAGS_MBS,
        "hflags": state.d[HFLAGS] & (HF_LMA | HF_CS64) == HF_LMA | HF_CS64,
        "control registers": state.q[CR + 2] == 0x1234567,
        "segment bases": state.base(FS) == 0x7654321 and state.base(CS) == 0,
    }
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        where = ", ".join(wrong)
        raise UnsupportedLibrary(f"unicorn {INSTALLED}: its CPU state differs in {where}; seen {seen}")


def check_stop(uc: Any, library: UnicornLibrary, state: CpuState, ask: Callable[[], None]) -> None:
    """`ask` for the end of a slice in the middle of a block that goes on to change memory. Raises UnsupportedLibrary.

    The block must be run to its end, once, and the next one not begun.
    """

    def on_cpuid(_uc: int, _data: int) -> int:
        ask()
        return 1

    uc.mem_map(SCRATCH, 0x1000)
    uc.mem_write(SCRATCH, BLOCKS)
    hook = library.add_hook(HOOK_INSN, CPUID_HOOK(on_cpuid), uc_x86.UC_X86_INS_CPUID)
    state.q[RAX], state.q[RBX], state.q[RCX], state.q[RSI] = 1, 0, 0, SCRATCH + 0x800
    library.emu_start(SCRATCH)
    sums = int.from_bytes(uc.mem_read(SCRATCH + 0x800, 8), "little")
    library.remove_hook(hook)
    uc.mem_unmap(SCRATCH, 0x1000)
    if (sums, state.q[RBX], state.q[RCX], state.q[RIP]) != (1, 1, 0, SECOND_BLOCK):
        raise UnsupportedLibrary(f"unicorn {INSTALLED}: a slice does not end at the start of a block")


def check_locks(uc: Any, library: UnicornLibrary, state: CpuState, unaligned: Callable[[], int]) -> None:
    """LOCKed instructions are translated as atomic ones (atomic_locks): one whose operand is not aligned, and no other, comes
    to `unaligned`, and is done once. Raises UnsupportedLibrary.
    """
    seen: list[bytes] = []

    def on_interrupt(_uc: int, _vector: int, _data: int) -> None:
        seen.append(bytes(uc.mem_read(SCRATCH + 0x800, 8)))
        state.take_exception()
        library.emu_stop()

    state.q[RSI] = SCRATCH + 0x800
    before = unaligned()
    _run(uc, library, on_interrupt, LOCKS)
    if (seen, unaligned() - before) != ([bytes((1, 0, 0, 0, 0, 1, 0, 0))], 1):
        raise UnsupportedLibrary(f"unicorn {INSTALLED}: LOCKed instructions are not atomic: {seen}")


def check_floats(uc: Any, library: UnicornLibrary, state: CpuState) -> None:
    """Divide by zero, and with a remainder: MXCSR and the x87 status word must tell (float_unit). Raises UnsupportedLibrary."""
    seen: list[int] = []

    def on_interrupt(_uc: int, _vector: int, _data: int) -> None:
        seen.append(int.from_bytes(uc.mem_read(SCRATCH + 0x800, 4), "little"))
        state.take_exception()
        library.emu_stop()

    state.q[RSI] = SCRATCH + 0x800
    _run(uc, library, on_interrupt, FLOATS)
    if seen != [DIVIDED_BY_ZERO] or not state.q[RAX] & INEXACT:
        raise UnsupportedLibrary(
            f"unicorn {INSTALLED}: floating-point exceptions are not seen: {seen}, {state.q[RAX]:#x}"
        )


def _run(
    uc: Any, library: UnicornLibrary, on_interrupt: Callable[[int, int, int], None], program: bytes = PROGRAM
) -> None:
    """Run a program until the hook stops it; neither stays."""
    uc.mem_map(SCRATCH, 0x1000)
    uc.mem_write(SCRATCH, program)
    hook = library.add_hook(HOOK_INTERRUPT, INTERRUPT_HOOK(on_interrupt))
    uc.reg_write(uc_x86.UC_X86_REG_RAX, 5)
    library.emu_start(SCRATCH)
    library.remove_hook(hook)
    uc.mem_unmap(SCRATCH, 0x1000)
