"""IRET, far RET, far CALL and far JMP of the guest's kernel, and its loads of SS: what depends on the guest's ring.

In ring 3 they are the CPU's affair, IRET apart, by which Unicorn lets user code into virtual-8086 mode. Not virtualized:
that mode, nested tasks, call gates, tasks; each is #GP.
A handler says whether rip is where the guest goes on.
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import SEGMENT_REGISTERS, Instruction, Operand
from domains.cpu.x86.descriptors import drop_inner
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.registers import CS, EFLAGS_NT, EFLAGS_VM, EXC_GP, RSP, SS, U32
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.segments import (
    RPL,
    code_by_transfer,
    descriptor,
    is_code,
    put_in_force,
    stack,
    stack_in_force,
)
from domains.cpu.x86.ring1.vcpu import KERNEL_RING, Handler, Ring1Vcpu

WORD: Final = {"iretd": 4, "iret": 2}


def do_iret(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """IRET."""
    size = WORD[instruction.name]
    eip, cs, flags = (v.stack(size * slot, size) for slot in range(3))
    ring = v.ring
    if v.flags & EFLAGS_NT or (flags & EFLAGS_VM and ring == 0):
        raise GuestException(EXC_GP, 0)
    _return(v, cs & 0xFFFF, eip, 3 * size, size)
    v.load_flags(flags, size, ring)
    return True


def do_far_return(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """RETF, whose operand, if there is one, is how much of the stack is dropped."""
    dropped = instruction.operands[0].imm if instruction.operands else 0
    eip, cs = v.stack(0, 4), v.stack(4, 4)
    _return(v, cs & 0xFFFF, eip, 8 + dropped, 4)
    if v.ring == 3:
        v.move_stack(dropped)
    return True


def _return(v: Ring1Vcpu, cs: int, eip: int, popped: int, size: int) -> None:
    """Back to `cs`, from where `popped` bytes of the stack are done with; behind them are ESP and SS, for an outer ring."""
    code, ring = code_by_transfer(v, cs, back=True)
    if ring > v.ring:
        esp, ss = v.stack(popped, size), v.stack(popped + size, size) & 0xFFFF
        put_in_force(v, ring, cs, code, ss, stack(v, ss, ring))
        v.cpu.q[RSP] = esp
        drop_inner(v.cpu)
    else:
        v.move_stack(popped)
        put_in_force(v, ring, cs, code, v.selector(SS), stack_in_force(v))
    v.cpu.q[RIP] = eip


def do_far_jump(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LJMP."""
    _go(v, *_target(v, instruction))
    return True


def do_far_call(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LCALL: CS as the guest knows it is pushed."""
    selector, eip = _target(v, instruction)
    code, ring = code_by_transfer(v, selector, back=False)
    after = v.cpu.q[RIP] + instruction.length & U32
    at = v.cpu.q[RSP]
    v.push(v.selector(CS), 4)
    try:
        v.push(after, 4)
    except GuestException:
        v.cpu.q[RSP] = at
        raise
    put_in_force(v, ring, selector, code, v.selector(SS), stack_in_force(v))
    v.cpu.q[RIP] = eip
    return True


def _go(v: Ring1Vcpu, selector: int, eip: int) -> None:
    code, ring = code_by_transfer(v, selector, back=False)
    put_in_force(v, ring, selector, code, v.selector(SS), stack_in_force(v))
    v.cpu.q[RIP] = eip


def _target(v: Ring1Vcpu, instruction: Instruction) -> tuple[int, int]:
    """Selector and offset, from the instruction or from memory."""
    operands: list[Operand] = instruction.operands
    if len(operands) == 2:
        return operands[0].imm & 0xFFFF, operands[1].imm & U32
    at = v.decoder.linear_32(operands[0])
    data = v.read(at, 6)
    return int.from_bytes(data[4:], "little"), int.from_bytes(data[:4], "little")


def do_stack_segment(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """MOV to SS, POP SS, LSS: refused by the CPU, for the RPL is the guest's ring."""
    source = instruction.operands[-1]
    if instruction.name == "pop":
        selector = v.stack(0, 2)
        _load_stack(v, selector)
        v.move_stack(4)
    elif instruction.name == "lss":
        data = v.read(v.decoder.linear_32(source), 6)
        _load_stack(v, int.from_bytes(data[4:], "little"))
        v.decoder.write_register(instruction.operands[0].reg, int.from_bytes(data[:4], "little"))
    else:
        _load_stack(v, _word(v, source))
    v.state.inhibited = True
    return False


def _load_stack(v: Ring1Vcpu, selector: int) -> None:
    segment = stack(v, selector, v.ring)
    v.cpu.set_segment(SS, selector & ~RPL | (KERNEL_RING if v.ring == 0 else 3), *segment)
    code = descriptor(v, v.selector(CS))
    if is_code(code):
        put_in_force(v, v.ring, v.selector(CS), code, selector, segment)


def _word(v: Ring1Vcpu, operand: Operand) -> int:
    if operand.type == capstone.x86.X86_OP_MEM:
        return int.from_bytes(v.read(v.decoder.linear_32(operand), 2), "little")
    if operand.reg in SEGMENT_REGISTERS:
        return v.selector(SEGMENT_REGISTERS[operand.reg])
    return v.decoder.read_register(operand.reg) & 0xFFFF


def is_stack_load(instruction: Instruction) -> bool:
    """Whether it loads SS."""
    if instruction.name == "lss":
        return True
    return (
        instruction.name in ("mov", "pop")
        and len(instruction.operands) > 0
        and instruction.operands[0].type == capstone.x86.X86_OP_REG
        and instruction.operands[0].reg == capstone.x86.X86_REG_SS
    )


def ringed(instruction: Instruction) -> tuple[str, Handler] | None:
    """An instruction that the CPU refuses for the guest's ring is not its own."""
    if is_stack_load(instruction):
        return "load of ss", do_stack_segment
    return {"retf": ("retf", do_far_return), "ljmp": ("ljmp", do_far_jump)}.get(instruction.name)
