"""IN, OUT, INS and OUTS: what the board answers, if the guest's IOPL lets its ring; there is no I/O bitmap.

Unicorn lets them pass in every ring, so the translator puts a trap in their place.
"""

from typing import Final

from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.registers import EFLAGS_DF, EXC_GP, RCX, RDI, RDX, RSI, U32
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.vcpu import Ring1Vcpu

SIZES: Final = {"b": 1, "w": 2, "d": 4}
"""By the last letter of INS' and OUTS' names."""
AT_ONCE: Final = 1024
"""Repetitions in one exit; after so many the instruction is begun again, as after an interrupt."""


def io_allowed(v: Ring1Vcpu) -> None:
    """Raises the exception of an instruction for which IOPL must be high enough."""
    if v.ring > v.state.iopl:
        raise GuestException(EXC_GP, 0)


def do_in(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """IN."""
    io_allowed(v)
    target, source = instruction.operands
    value = v.board.read_port(v.decoder.source(source) & 0xFFFF, target.size)
    v.decoder.write_register(target.reg, value & (1 << 8 * target.size) - 1)
    return False


def do_out(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """OUT."""
    io_allowed(v)
    target, source = instruction.operands
    v.board.write_port(v.decoder.source(target) & 0xFFFF, source.size, v.decoder.source(source))
    return False


def do_string(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """INS and OUTS, repeated or not."""
    io_allowed(v)
    q = v.cpu.q
    size, repeated = SIZES[instruction.name[-1]], instruction.text.startswith("rep")
    index = RDI if instruction.name.startswith("ins") else RSI
    step = -size if v.cpu.rflags & EFLAGS_DF else size
    for _ in range(min(q[RCX] & U32, AT_ONCE) if repeated else 1):
        _one(v, instruction, size)
        q[index] = q[index] + step & U32
        if repeated:
            q[RCX] = q[RCX] - 1 & U32
    return repeated and q[RCX] & U32 != 0


def _one(v: Ring1Vcpu, instruction: Instruction, size: int) -> None:
    port = v.cpu.q[RDX] & 0xFFFF
    memory = instruction.operands[0 if instruction.name.startswith("ins") else 1]
    at = v.decoder.linear_32(memory)
    if instruction.name.startswith("ins"):
        value = v.board.read_port(port, size) & (1 << 8 * size) - 1
        v.write(at, value.to_bytes(size, "little"))
    else:
        v.board.write_port(port, size, int.from_bytes(v.read(at, size), "little"))


PORTS: Final = {
    "in": do_in,
    "out": do_out,
    **dict.fromkeys(("insb", "insw", "insd", "outsb", "outsw", "outsd"), do_string),
}
"""By mnemonic."""
