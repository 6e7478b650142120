"""Stores of the guest's kernel to its own read-only page tables, carried out by the core under the rules for entries (P12).

The instruction is decoded here, the new entry value computed, and the core asked to validate and write it; what is not a simple
aligned store stays the page fault that it was. Source: Xen arch/x86/pv/ro-page-fault.c (ptwr_emulated_update).
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import capstone.x86

from domains.cpu.x86.decode import Instruction, Operand
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    EFLAGS_ARITHMETIC,
    EFLAGS_CF,
    EFLAGS_PF,
    EFLAGS_SF,
    EFLAGS_ZF,
    RAX,
    RBX,
    RCX,
    RDX,
    U32,
    U64,
)

MAX_STORE: Final = 8


class Store(NamedTuple):
    """What a decoded instruction does to memory: the new value; what it changes besides, done once the store is."""

    value: int
    flags: int | None = None
    write_back: tuple[int, int] | None = None
    """A register (capstone's number) and its new value."""


def emulate_page_table_write(v: X86Vcpu, va: int) -> bool:
    """Do the store at rip that faulted at `va`; False if it stays a page fault."""
    instruction, target = _decode(v)
    if instruction is None or target is None:
        return False
    size = target.size
    if size > MAX_STORE or va & size - 1:
        return False
    old = int.from_bytes(v.paging.read(va, size), "little")
    store = STORES[instruction.name](v, instruction, size, old)
    if store is not None:
        result, effects = v.gate.pte_write(v.vcpu_id, va, size, store.value, None)
        apply_effects(v, effects)
        if result:
            return False
        if store.write_back is not None:
            v.decoder.write_register(*store.write_back)
        if store.flags is not None:
            v.cpu.rflags = v.cpu.rflags & ~EFLAGS_ARITHMETIC | store.flags
    v.cpu.q[RIP] = v.cpu.q[RIP] + instruction.length & U64
    return True


def _decode(v: X86Vcpu) -> tuple[Instruction | None, Operand]:
    """The instruction at rip and its memory operand, if it is one that we know."""
    try:
        instruction = v.decoder.decode(v.cpu.q[RIP])
    except GuestFault:
        return None, None
    if instruction is None or instruction.name not in STORES:
        return None, None
    memory = [o for o in instruction.operands if o.type == capstone.x86.X86_OP_MEM]
    return instruction, memory[0] if len(memory) == 1 else None


def store_mov(v: X86Vcpu, instruction: Instruction, _size: int, _old: int) -> Store:
    """MOV to memory: the new value."""
    return Store(v.decoder.source(instruction.operands[1]))


def store_logic(v: X86Vcpu, instruction: Instruction, size: int, old: int) -> Store:
    """and, or, xor: CF and OF are cleared, the rest follows the result."""
    source = v.decoder.source(instruction.operands[1]) & (1 << 8 * size) - 1
    value = {"and": old & source, "or": old | source, "xor": old ^ source}[instruction.name]
    flags = 0 if value else EFLAGS_ZF
    flags |= EFLAGS_SF if value >> 8 * size - 1 else 0
    flags |= 0 if (value & 0xFF).bit_count() & 1 else EFLAGS_PF
    return Store(value, flags)


def store_bit(v: X86Vcpu, instruction: Instruction, size: int, old: int) -> Store:
    """bts, btr, btc with a bit number within the operand: CF is the old bit."""
    bit = 1 << (v.decoder.source(instruction.operands[1]) & 8 * size - 1)
    value = {"bts": old | bit, "btr": old & ~bit, "btc": old ^ bit}[instruction.name]
    kept = v.cpu.rflags & EFLAGS_ARITHMETIC & ~EFLAGS_CF
    return Store(value, kept | (EFLAGS_CF if old & bit else 0))


def store_xchg(v: X86Vcpu, instruction: Instruction, _size: int, old: int) -> Store:
    """XCHG: the new value, and the register that gets the old one."""
    register = next(o for o in instruction.operands if o.type == capstone.x86.X86_OP_REG)
    return Store(v.decoder.read_register(register.reg), None, (register.reg, old))


def store_cmpxchg(v: X86Vcpu, instruction: Instruction, size: int, old: int) -> Store | None:
    """None when it does not match: then the accumulator gets the old value, and nothing is stored."""
    mask = (1 << 8 * size) - 1
    accumulator = v.cpu.q[RAX] & mask
    difference = accumulator - old & mask
    flags = EFLAGS_CF if accumulator < old else 0
    flags |= EFLAGS_SF if difference >> 8 * size - 1 else 0
    flags |= 0 if (difference & 0xFF).bit_count() & 1 else EFLAGS_PF
    if accumulator == old:
        return Store(v.decoder.source(instruction.operands[1]), flags | EFLAGS_ZF)
    v.cpu.q[RAX] = old if size >= 4 else v.cpu.q[RAX] & ~mask | old
    v.cpu.rflags = v.cpu.rflags & ~EFLAGS_ARITHMETIC | flags
    return None


def store_cmpxchg8b(v: X86Vcpu, _instruction: Instruction, _size: int, old: int) -> Store | None:
    """As store_cmpxchg, with EDX:EAX and ECX:EBX: how 32-bit code stores an entry at once. ZF alone changes."""
    q = v.cpu.q
    kept = v.cpu.rflags & EFLAGS_ARITHMETIC & ~EFLAGS_ZF
    if (q[RDX] & U32) << 32 | q[RAX] & U32 == old:
        return Store((q[RCX] & U32) << 32 | q[RBX] & U32, kept | EFLAGS_ZF)
    q[RAX], q[RDX] = old & U32, old >> 32
    v.cpu.rflags = v.cpu.rflags & ~EFLAGS_ARITHMETIC | kept
    return None


STORES: Final[dict[str, Callable[[X86Vcpu, Instruction, int, int], Store | None]]] = {
    "mov": store_mov,
    "movabs": store_mov,
    "and": store_logic,
    "or": store_logic,
    "xor": store_logic,
    "bts": store_bit,
    "btr": store_bit,
    "btc": store_bit,
    "xchg": store_xchg,
    "cmpxchg": store_cmpxchg,
    "cmpxchg8b": store_cmpxchg8b,
}
