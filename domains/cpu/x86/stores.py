"""What an instruction does to its memory operand, computed where the CPU may not do it itself: ordinary stores, and tests that
store nothing.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import capstone.x86

from domains.cpu.x86.decode import Decoder, Instruction
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.registers import (
    EFLAGS_AF,
    EFLAGS_ARITHMETIC,
    EFLAGS_CF,
    EFLAGS_OF,
    EFLAGS_PF,
    EFLAGS_SF,
    EFLAGS_ZF,
    RAX,
    RBX,
    RCX,
    RDX,
    U32,
)


class Vcpu(Protocol):
    """Of any kind of guest."""

    cpu: CpuState
    decoder: Decoder


class Store(NamedTuple):
    """What a decoded instruction does to memory: the new value, None: nothing is stored; what it changes besides, done
    once the store is.
    """

    value: int | None
    flags: int | None = None
    write_back: tuple[int, int] | None = None
    """A register (capstone's number) and its new value."""

    def finish(self, v: Vcpu) -> None:
        """The store is done: change registers and flags."""
        if self.write_back is not None:
            v.decoder.write_register(*self.write_back)
        if self.flags is not None:
            v.cpu.rflags = v.cpu.rflags & ~EFLAGS_ARITHMETIC | self.flags


def store_mov(v: Vcpu, instruction: Instruction, _size: int, _old: int) -> Store:
    """MOV to memory: the new value."""
    return Store(v.decoder.source(instruction.operands[1]))


def store_logic(v: Vcpu, instruction: Instruction, size: int, old: int) -> Store:
    """and, or, xor, and test, which stores nothing: CF and OF are cleared, the rest follows the result."""
    source = v.decoder.source(instruction.operands[1]) & (1 << 8 * size) - 1
    value = {"or": old | source, "xor": old ^ source}.get(instruction.name, old & source)
    return Store(None if instruction.name == "test" else value, _of_result(value, size))


def store_sum(v: Vcpu, instruction: Instruction, size: int, old: int) -> Store:
    """add, sub, and cmp, which stores nothing."""
    source = v.decoder.source(instruction.operands[1]) & (1 << 8 * size) - 1
    if instruction.name == "add":
        return Store(*_sum(old, source, old + source, ~(old ^ source), size))
    difference, flags = _difference(old, source, size)
    return Store(None if instruction.name == "cmp" else difference, flags)


def store_bit(v: Vcpu, instruction: Instruction, size: int, old: int) -> Store:
    """bt, which stores nothing, bts, btr, btc: CF is the old bit. The bit's number is within what is accessed."""
    bit = 1 << (v.decoder.source(instruction.operands[1]) & 8 * size - 1)
    value = {"bts": old | bit, "btr": old & ~bit, "btc": old ^ bit}.get(instruction.name)
    kept = v.cpu.rflags & EFLAGS_ARITHMETIC & ~EFLAGS_CF
    return Store(value, kept | (EFLAGS_CF if old & bit else 0))


def store_xchg(v: Vcpu, instruction: Instruction, _size: int, old: int) -> Store:
    """XCHG: the new value, and the register that gets the old one."""
    register = next(o for o in instruction.operands if o.type == capstone.x86.X86_OP_REG)
    return Store(v.decoder.read_register(register.reg), None, (register.reg, old))


def store_cmpxchg(v: Vcpu, instruction: Instruction, size: int, old: int) -> Store | None:
    """None when it does not match: then the accumulator gets the old value, and nothing is stored."""
    mask = (1 << 8 * size) - 1
    accumulator = v.cpu.q[RAX] & mask
    _, flags = _difference(accumulator, old, size)
    if accumulator == old:
        return Store(v.decoder.source(instruction.operands[1]), flags)
    v.cpu.q[RAX] = old if size >= 4 else v.cpu.q[RAX] & ~mask | old
    v.cpu.rflags = v.cpu.rflags & ~EFLAGS_ARITHMETIC | flags
    return None


def store_cmpxchg8b(v: Vcpu, _instruction: Instruction, _size: int, old: int) -> Store | None:
    """As store_cmpxchg, with EDX:EAX and ECX:EBX: how 32-bit code stores an entry at once. ZF alone changes."""
    q = v.cpu.q
    kept = v.cpu.rflags & EFLAGS_ARITHMETIC & ~EFLAGS_ZF
    if (q[RDX] & U32) << 32 | q[RAX] & U32 == old:
        return Store((q[RCX] & U32) << 32 | q[RBX] & U32, kept | EFLAGS_ZF)
    q[RAX], q[RDX] = old & U32, old >> 32
    v.cpu.rflags = v.cpu.rflags & ~EFLAGS_ARITHMETIC | kept
    return None


def _difference(one: int, other: int, size: int) -> tuple[int, int]:
    """`one` less `other`, and the flags."""
    return _sum(one, other, one - other, one ^ other, size)


def _sum(one: int, other: int, total: int, overflows: int, size: int) -> tuple[int, int]:
    """`total` in its size, and the flags. `overflows`: its sign bit is 1 if the signs allow for an overflow."""
    value = total & (1 << 8 * size) - 1
    flags = _of_result(value, size) | (one ^ other ^ value) & EFLAGS_AF
    flags |= EFLAGS_CF if total != value else 0
    flags |= EFLAGS_OF if overflows & (one ^ value) & 1 << 8 * size - 1 else 0
    return value, flags


def _of_result(value: int, size: int) -> int:
    """ZF, SF and PF."""
    flags = 0 if value else EFLAGS_ZF
    flags |= EFLAGS_SF if value >> 8 * size - 1 else 0
    return flags | (0 if (value & 0xFF).bit_count() & 1 else EFLAGS_PF)


STORES: Final[dict[str, Callable[[Vcpu, Instruction, int, int], Store | None]]] = {
    **dict.fromkeys(("mov", "movabs"), store_mov),
    **dict.fromkeys(("and", "or", "xor", "test"), store_logic),
    **dict.fromkeys(("add", "sub", "cmp"), store_sum),
    **dict.fromkeys(("bt", "bts", "btr", "btc"), store_bit),
    "xchg": store_xchg,
    "cmpxchg": store_cmpxchg,
    "cmpxchg8b": store_cmpxchg8b,
}
"""By the instruction's name: (vCPU, instruction, bytes of the memory operand, what is in it) → what is done; None: nothing."""
