"""The registers of the emulated CPU, read and written where Unicorn keeps them.

Unicorn's own register calls take 3 µs each, set selectors without their descriptors and hide error codes, so the CPU
state structure (QEMU's CPUX86State) is used directly: 0.1 µs a word. The offsets are those of unicorn 2.1.4; marks in
the general registers, and then `selfcheck`, prove them before a guest runs.

    0    general registers 16 × u64     152  cc_src u64        424  cr0…cr4 u64, 592 efer u64
    128  rip u64                        168  cc_op u32         5384 error_code i32, exception_is_int i32
    136  rflags u64                     172  df i32            5392 exception_next_eip u64, 5400 dr0…dr7 u64
                                        176  hflags u32        5496 old_exception i32
    184  ES CS SS DS FS GS, 24 bytes each: selector u32, base u64 @8, limit u32 @16, flags u32 @20
    328  LDTR, 352 TR, 376 GDTR, 400 IDTR, likewise

While code runs, the arithmetic flags and DF live apart from rflags (cc_*, df); between runs rflags is whole.
`rflags` hides that: `running` says which of the two it is.
"""

import ctypes
import struct
from typing import Any, Final

import unicorn.x86_const as uc_x86

from domains.cpu.x86.emulator.unicorn_library import INSTALLED, UnicornLibrary, UnsupportedLibrary, peek
from domains.cpu.x86.registers import EFLAGS_DF, U64

RIP: Final = 16  # indices into `q`, in u64
RFLAGS: Final = 17
CC_SRC: Final = 19
SEGMENT_BASE: Final = 24  # + 3 * segment
CR: Final = 53  # + number
EFER: Final = 74
DR: Final = 675  # + number

CC_OP: Final = 42  # indices into `d`, in u32
DF: Final = 43
HFLAGS: Final = 44
SEGMENT_SELECTOR: Final = 46  # + 6 * segment
SEGMENT_LIMIT: Final = 50
SEGMENT_FLAGS: Final = 51
ERROR_CODE: Final = 1346
IS_INT: Final = 1347
OLD_EXCEPTION: Final = 1374

LDTR: Final = 6  # segment numbers of the system registers, for `set_segment`
GDTR: Final = 8

CC_OP_EFLAGS: Final = 1
CC_FLAGS: Final = 0x8D5
LAZY_FLAGS: Final = CC_FLAGS | EFLAGS_DF

# hflags: what the translator must know of the CPU's state; it is part of the name of each translated block
#
#    bit  28 KERNEL │ 15 CS64 │ 14 LMA │ 11 TS │ 8 a block an instruction (float_code.HF_TF) │ 6 ADDSEG │ 5 SS32 │ 4 CS32
#      3 no interrupt
#     1-0 CPL: 3 for ever, for kernel and user space of 64-bit PV alike
HF_CPL: Final = 3
HF_INHIBIT_IRQ: Final = 1 << 3
HF_CS32: Final = 1 << 4
HF_SS32: Final = 1 << 5
HF_ADDSEG: Final = 1 << 6
HF_TS: Final = 1 << 11
HF_LMA: Final = 1 << 14
HF_CS64: Final = 1 << 15
HF_KERNEL: Final = 1 << 28
"""Ours, none of Unicorn's. What was translated for a PV guest's kernel its user space does not find, and the other way round."""

CPU_POINTER: Final = 440
"""Of uc_struct: the pointer to the CPUState."""
ENV_OFFSET: Final = 35408
"""From a CPUState to its CPUX86State."""
_STATE_SIZE: Final = 8192
_GPR_IDS: Final = tuple(
    getattr(uc_x86, f"UC_X86_REG_{name}")
    for name in [
        "RAX",
        "RCX",
        "RDX",
        "RBX",
        "RSP",
        "RBP",
        "RSI",
        "RDI",
        "R8",
        "R9",
        "R10",
        "R11",
        "R12",
        "R13",
        "R14",
        "R15",
    ]
)


class CpuState:
    """The state structure of one Unicorn instance. `q` and `d` are it as u64s and as u32s; `q[RAX]`…`q[R15]` are registers."""

    def __init__(self, uc: Any, library: UnicornLibrary) -> None:
        self.env, cpu = _locate(uc)
        library.cpu.value = cpu
        raw = (ctypes.c_uint8 * _STATE_SIZE).from_address(self.env)
        self.octets = octets = memoryview(raw).cast("B")
        self.q = octets.cast("Q")
        self.d = octets.cast("I")
        self._signed = octets.cast("i")
        self._compute = library.cc_compute_all
        self.running = False

    @property
    def rflags(self) -> int:
        """RFLAGS, computed: while code runs, Unicorn keeps the arithmetic flags as operands."""
        lazy_op = self.d[CC_OP]
        arithmetic = self.q[CC_SRC] if lazy_op == CC_OP_EFLAGS else self._compute(self.env, lazy_op)
        if not self.running:
            return self.q[RFLAGS]
        return self.q[RFLAGS] & ~LAZY_FLAGS | arithmetic & CC_FLAGS | self.d[DF] & EFLAGS_DF

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.q[CC_SRC] = value & CC_FLAGS
        self.d[CC_OP] = CC_OP_EFLAGS
        self._signed[DF] = -1 if value & EFLAGS_DF else 1
        self.q[RFLAGS] = (value & ~LAZY_FLAGS if self.running else value) | 2

    @property
    def error_code(self) -> int:
        """Of the exception whose hook is running."""
        return self.d[ERROR_CODE]

    def take_exception(self) -> bool:
        """Acknowledge the exception whose hook is running; True if it was an INT n with rip behind it.

        `old_exception` must go every time, or the next fault becomes a double fault.
        """
        self._signed[OLD_EXCEPTION] = -1
        software = self.d[IS_INT] != 0
        self.d[IS_INT] = 0
        return software

    def selector(self, segment: int) -> int:
        """The selector of a segment register."""
        return self.d[SEGMENT_SELECTOR + 6 * segment]

    def base(self, segment: int) -> int:
        """The base of a segment."""
        return self.q[SEGMENT_BASE + 3 * segment]

    def set_base(self, segment: int, base: int) -> None:
        """Sets the base of a segment."""
        self.q[SEGMENT_BASE + 3 * segment] = base & U64

    def set_segment(self, segment: int, selector: int, base: int, limit: int, flags: int) -> None:
        """Load a segment register's cache: `flags` is the descriptor's high word, `limit` in bytes."""
        self.d[SEGMENT_SELECTOR + 6 * segment] = selector
        self.q[SEGMENT_BASE + 3 * segment] = base
        self.d[SEGMENT_LIMIT + 6 * segment] = limit
        self.d[SEGMENT_FLAGS + 6 * segment] = flags

    @property
    def in_64bit_code(self) -> bool:
        """Whether CS is a 64-bit code segment."""
        return self.d[HFLAGS] & HF_CS64 != 0

    def set_hflags(self, clear: int, on: int) -> None:
        """Clears, then sets bits of Unicorn's own flags."""
        self.d[HFLAGS] = self.d[HFLAGS] & ~clear | on


def _locate(uc: Any) -> tuple[int, int]:
    """The addresses of CPUX86State and of the CPUState that embeds it; proved by marks in the general registers."""
    marks = [0xA5A50000DEAD0000 + i * 0x0101 for i in range(16)]
    saved = [uc.reg_read(reg) for reg in _GPR_IDS]
    for reg, mark in zip(_GPR_IDS, marks, strict=True):
        uc.reg_write(reg, mark)
    (cpu,) = struct.unpack("<Q", peek(uc._uch.value + CPU_POINTER, 8))
    found = peek(cpu + ENV_OFFSET, 128)
    for reg, value in zip(_GPR_IDS, saved, strict=True):
        uc.reg_write(reg, value)
    if found != struct.pack("<16Q", *marks):
        raise UnsupportedLibrary(f"unicorn {INSTALLED}: its CPU state was not found")
    return cpu + ENV_OFFSET, cpu
