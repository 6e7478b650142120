"""Decoding of the few instructions that Xen's entry code must understand, and access to their register operands.

capstone costs 50 µs an instruction, so what was decoded is kept by its bytes and code size.
"""

import importlib
import re
from typing import Any, Final

import capstone.x86

from domains.cpu.x86.emulator.cpu_state import RIP, CpuState
from domains.cpu.x86.paging import GuestFault, NotMapped, Paging
from domains.cpu.x86.registers import CS, DS, ES, FS, GPR_NAMES, GS, SS, U32, U64
from hypervisor.public.types import PAGE_SIZE

capstone_binding: Any = importlib.import_module("capstone")  # has no types

MAX_LENGTH: Final = 15
PAGE_OFFSET: Final = PAGE_SIZE - 1
CACHE_LIMIT: Final = 4096

SEGMENT_REGISTERS: Final = {
    capstone.x86.X86_REG_ES: ES,
    capstone.x86.X86_REG_CS: CS,
    capstone.x86.X86_REG_SS: SS,
    capstone.x86.X86_REG_DS: DS,
    capstone.x86.X86_REG_FS: FS,
    capstone.x86.X86_REG_GS: GS,
}
"""capstone's numbers of them."""
THROUGH_STACK: Final = (capstone.x86.X86_REG_ESP, capstone.x86.X86_REG_EBP)

ICEBP: Final = re.compile(rb"[\x26\x2e\x36\x3e\x64-\x67\xf2\xf3]*[\x40-\x4f]?\xf1")
"""With prefixes that change nothing. Unicorn has no such instruction."""

Operand = Any
"""A capstone operand: .type, .size in bytes, .reg, .imm, .mem."""


class Instruction:
    """One decoded instruction: `name` without prefixes, `length` in bytes, capstone's operands."""

    __slots__ = ("length", "name", "operands", "text")

    def __init__(self, decoded: Any) -> None:
        self.name: str = decoded.mnemonic.split()[-1]
        self.text = f"{decoded.mnemonic} {decoded.op_str}".strip()
        self.length: int = decoded.size
        self.operands: list[Operand] = list(decoded.operands)


class Decoder:
    """Decodes at the guest's rip, and reads and writes the operands."""

    def __init__(self, cpu: CpuState, paging: Paging) -> None:
        self._cpu = cpu
        self._paging = paging
        self._modes = {
            True: _disassembler("CS_MODE_64"),
            False: _disassembler("CS_MODE_32"),
        }
        self._cache: dict[tuple[bool, bytes], Instruction | None] = {}
        self._registers = _register_table()

    def decode(self, rip: int) -> Instruction | None:
        """The instruction at `rip`; None if it is none. Raises GuestFault if its bytes cannot be fetched."""
        octets = self.fetch(rip, MAX_LENGTH)
        key = (self._cpu.in_64bit_code, octets)
        if key not in self._cache:
            if len(self._cache) >= CACHE_LIMIT:
                self._cache.clear()
            decoded = next(self._modes[key[0]].disasm(octets, rip, 1), None)
            if decoded is None and len(octets) < MAX_LENGTH:
                self._paging.translate(rip + len(octets) & U64, fetch=True)
            self._cache[key] = Instruction(decoded) if decoded is not None else None
        return self._cache[key]

    def fetch(self, rip: int, size: int) -> bytes:
        """Up to `size` bytes of code at `rip`; fewer if the next page cannot be read. Raises GuestFault for the first."""
        here = min(size, PAGE_OFFSET + 1 - (rip & PAGE_OFFSET))
        octets = self._paging.read(rip, here, fetch=True)
        if here < size:
            try:
                octets += self._paging.read(rip + here & U64, size - here, fetch=True)
            except (GuestFault, NotMapped):
                return octets
        return octets

    def icebp(self, rip: int) -> int:
        """The length of the ICEBP at `rip`; 0: there is another instruction. Raises GuestFault as `fetch` does."""
        found = ICEBP.match(self.fetch(rip, MAX_LENGTH))
        return found.end() if found else 0

    def read_register(self, register: int) -> int:
        """The value of a general register (capstone's number), zero-extended."""
        number, size, shift = self._registers[register]
        return self._cpu.q[number] >> shift & (1 << 8 * size) - 1

    def write_register(self, register: int, value: int) -> None:
        """Write a general register as the CPU does: 32-bit writes clear the upper half, narrower ones keep the rest."""
        number, size, shift = self._registers[register]
        if size >= 4:
            self._cpu.q[number] = value & (U32 if size == 4 else U64)
        else:
            mask = (1 << 8 * size) - 1 << shift
            self._cpu.q[number] = self._cpu.q[number] & ~mask | value << shift & mask

    def has_values(self, instruction: Instruction) -> bool:
        """Whether each operand that is not memory is a general register or a number: no segment register, for one."""
        return all(
            operand.type != capstone.x86.X86_OP_REG or operand.reg in self._registers
            for operand in instruction.operands
        )

    def source(self, operand: Operand) -> int:
        """The value of a register or immediate operand, in the operand's size."""
        if operand.type == capstone.x86.X86_OP_IMM:
            return int(operand.imm) & (1 << 8 * int(operand.size)) - 1
        return self.read_register(operand.reg)

    def offset(self, operand: Operand) -> int:
        """A memory operand's address within its segment, not cut to any width; of code that has no RIP-relative ones."""
        memory = operand.mem
        address = int(memory.disp)
        if memory.base:
            address += self.read_register(memory.base)
        if memory.index:
            address += self.read_register(memory.index) * memory.scale
        return address

    def linear_32(self, operand: Operand) -> int:
        """The linear address of a memory operand of 32-bit code."""
        return self._cpu.base(segment_of(operand)) + self.offset(operand) & U32

    def linear(self, operand: Operand, length: int) -> int:
        """The linear address of a memory operand of an instruction of `length` bytes at the current rip."""
        if self._cpu.in_64bit_code:
            return self.effective_address(operand, length)
        return self.linear_32(operand)

    def effective_address(self, operand: Operand, length: int) -> int:
        """The same, of 64-bit code."""
        memory = operand.mem
        address = int(memory.disp)
        if memory.base == capstone.x86.X86_REG_RIP:
            address += self._cpu.q[RIP] + length
        elif memory.base:
            address += self.read_register(memory.base)
        if memory.index:
            address += self.read_register(memory.index) * memory.scale
        segment = {capstone.x86.X86_REG_FS: FS, capstone.x86.X86_REG_GS: GS}.get(memory.segment)
        if segment is not None:
            address += self._cpu.base(segment)
        return address & U64


def segment_of(operand: Operand) -> int:
    """The segment that a memory operand of 32-bit code goes through."""
    if operand.mem.segment:
        return SEGMENT_REGISTERS[operand.mem.segment]
    return SS if operand.mem.base in THROUGH_STACK else DS


def _disassembler(mode: str) -> Any:
    disassembler = capstone_binding.Cs(capstone_binding.CS_ARCH_X86, getattr(capstone_binding, mode))
    disassembler.detail = True
    return disassembler


def _register_table() -> dict[int, tuple[int, int, int]]:
    """capstone's register number → (our number, bytes, shift)."""
    table = {}
    for number, name in enumerate(GPR_NAMES):
        if number < 8:
            word = name[1:]
            low = word[0] + "l" if word[1] == "x" else word + "l"
            names = {name: (8, 0), "e" + word: (4, 0), word: (2, 0), low: (1, 0)}
            if word[1] == "x":
                names[word[0] + "h"] = (1, 8)
        else:
            names = {name: (8, 0), name + "d": (4, 0), name + "w": (2, 0), name + "b": (1, 0)}
        for wanted, (size, shift) in names.items():
            table[getattr(capstone.x86, f"X86_REG_{wanted.upper()}")] = (number, size, shift)
    return table
