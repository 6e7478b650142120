"""An access to guest-physical memory that is not there: to the local APIC, or to a device that there is not.

The instruction at rip is decoded and done in the CPU's place. What is known are loads by moves, and what `stores` knows: moves,
logic, sums and bits with a memory operand, which is how kernels talk to an APIC. What is read where nothing is are ones, and what
is written there is dropped (Xen arch/x86/hvm/emulate.c, null_handler), as are stores to a page that cannot be written.
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.emulator.svm import NOTHING, exception
from domains.cpu.x86.hvm.lapic import APIC_PAGE
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import EXC_GP, U64
from domains.cpu.x86.segment_limit import limit_fault
from domains.cpu.x86.stores import STORES
from hypervisor.public.types import PAGE_SIZE

PLAIN: Final = frozenset({"mov", "movabs"})
SIGNED: Final = frozenset({"movsx", "movsxd"})
LOADS: Final = PLAIN | SIGNED | {"movzx"}
LARGEST: Final = 8


def access_hole(v: HvmVcpu, gpa: int) -> int:
    """Do the access to `gpa` of the instruction at rip. What the guest gets instead, or NOTHING: its own fault, or #GP if the
    instruction is none that is done here.
    """
    fault = limit_fault(v.cpu, v.decoder)
    if fault is not None:
        return exception(fault)
    try:
        instruction = v.decoder.decode(v.mode.linear_rip)
    except (GuestFault, NotMapped):
        return exception(EXC_GP)
    if instruction is None or not v.decoder.has_values(instruction) or not _perform(v, instruction, gpa):
        return exception(EXC_GP)
    v.exits["local APIC" if _in_apic(gpa) else "no device"] += 1
    v.mode.skip(instruction.length)
    return NOTHING


def _perform(v: HvmVcpu, instruction: Instruction, gpa: int) -> bool:
    """False: it is not known."""
    operands, name = instruction.operands, instruction.name
    memory = [operand for operand in operands if operand.type == capstone.x86.X86_OP_MEM]
    if len(memory) != 1 or memory[0].size > LARGEST:
        return False
    size = memory[0].size
    if operands[0].type != capstone.x86.X86_OP_MEM and name != "xchg":
        if name not in LOADS:
            return False
        value = _load(v, gpa, size)
        v.decoder.write_register(operands[0].reg, _extended(value, size) if name in SIGNED else value)
        return True
    if name not in STORES:
        return False
    store = STORES[name](v, instruction, size, 0 if name in PLAIN else _load(v, gpa, size))
    if store is not None:
        if store.value is not None and _in_apic(gpa):
            v.apic.write(gpa - APIC_PAGE, store.value)
        store.finish(v)
    return True


def _in_apic(gpa: int) -> bool:
    return gpa & -PAGE_SIZE == APIC_PAGE


def _load(v: HvmVcpu, gpa: int, size: int) -> int:
    """What is read: a register of the APIC, or what there is, byte by byte, for an access may cross pages."""
    if _in_apic(gpa):
        return v.apic.read(gpa - APIC_PAGE) & (1 << 8 * size) - 1
    return int.from_bytes(bytes(_byte(v, gpa + n) for n in range(size)), "little")


def _byte(v: HvmVcpu, gpa: int) -> int:
    """Of memory, which cannot be written, or of none."""
    try:
        return v.gate.memory.octets[v.paging.machine(gpa)]
    except NotMapped:
        return 0xFF


def _extended(value: int, size: int) -> int:
    """With its sign, to 64 bits, of which a register takes as many as it has."""
    sign = 1 << 8 * size - 1
    return (value ^ sign) - sign & U64
