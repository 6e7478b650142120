"""Segment descriptors: the bits of their high word, and what a segment register holds of one (Intel SDM vol. 3A §3.4.5)."""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import (
    HF_ADDSEG,
    HF_CPL,
    HF_CS32,
    HF_CS64,
    HF_SS32,
    SEGMENT_FLAGS,
    CpuState,
)
from domains.cpu.x86.registers import CS, DS, ES, FS, GS, SS

DESC_G: Final = 1 << 23
DESC_DB: Final = 1 << 22
DESC_L: Final = 1 << 21
DESC_PRESENT: Final = 1 << 15
DESC_DPL: Final = 3 << 13
DESC_S: Final = 1 << 12
DESC_CODE: Final = 1 << 11
DESC_CONFORMING: Final = 1 << 10
DESC_WRITABLE: Final = 1 << 9
"""Of a code segment: it may be read."""
DESC_ACCESSED: Final = 1 << 8

CODE_SIZE_HFLAGS: Final = HF_CS64 | HF_CS32 | HF_SS32 | HF_ADDSEG

Loaded = tuple[int, int, int]
"""What a segment register holds: base, limit in bytes, high word."""


class SelectorFault(Exception):
    """A selector that the CPU refuses; the error code of the #GP (or #SS, #NP)."""

    def __init__(self, error_code: int) -> None:
        super().__init__(f"selector {error_code:#x}")
        self.error_code = error_code


def unpack(descriptor: int) -> Loaded:
    """Base, limit in bytes and high word of a descriptor's 8 bytes."""
    high = descriptor >> 32
    limit = descriptor & 0xFFFF | high & 0xF0000
    if high & DESC_G:
        limit = limit << 12 | 0xFFF
    return descriptor >> 16 & 0xFFFFFF | high & 0xFF000000, limit, high & 0xF0FF00


def load_code_and_stack(cpu: CpuState, cs: int, code: Loaded, ss: int, stack: Loaded) -> None:
    """Load CS and SS of 32-bit or 16-bit code, with what the CPU derives of them; the ring is the RPL of `cs`."""
    cpu.set_segment(CS, cs, *code)
    cpu.set_segment(SS, ss, *stack)
    size = (HF_CS32 if code[2] & DESC_DB else 0) | (HF_SS32 if stack[2] & DESC_DB else 0)
    if not code[2] & DESC_DB or any(cpu.base(segment) for segment in (DS, ES, SS)):
        size |= HF_ADDSEG
    cpu.set_hflags(CODE_SIZE_HFLAGS | HF_CPL, size | cs & 3)


def drop_inner(cpu: CpuState) -> None:
    """On a return to an outer ring: data segments that it may not use become null."""
    ring = cpu.selector(CS) & 3
    for segment in (DS, ES, FS, GS):
        flags = cpu.d[SEGMENT_FLAGS + 6 * segment]
        shared = DESC_CODE | DESC_CONFORMING
        if flags >> 13 & 3 < ring and flags & shared != shared:
            cpu.set_segment(segment, 0, 0, 0, 0)
