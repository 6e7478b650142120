"""Stores of the guest's kernel to its own read-only page tables, carried out by the core under the rules for entries (P12).

The instruction is decoded here, the new entry value computed, and the core asked to validate and write it; what is not a simple
aligned store stays the page fault that it was. Source: Xen arch/x86/pv/ro-page-fault.c (ptwr_emulated_update).
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import Instruction, Operand
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.bounce import inject_page_fault
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import U64
from domains.cpu.x86.stores import STORES
from hypervisor.wire.messages import EffectRecord

ENTRY_BYTES: Final = 8


def emulate_page_table_write(v: X86Vcpu, va: int, error_code: int) -> bool:
    """Do the store at rip that faulted at `va`, or raise the page fault that it was if the core refuses; False if it is no store
    that is done here, and stays a page fault.
    """
    instruction, target = _decode(v)
    if instruction is None or target is None:
        return False
    size = target.size
    if size > ENTRY_BYTES or va & size - 1:
        return False
    at = va % ENTRY_BYTES
    entry = v.paging.read(va - at, ENTRY_BYTES)
    old = int.from_bytes(entry[at : at + size], "little")
    store = STORES[instruction.name](v, instruction, size, old)
    after = v.cpu.q[RIP] + instruction.length & U64
    if store is None or store.value is None:
        v.cpu.q[RIP] = after
        return True

    def finish(result: int, effects: list[EffectRecord]) -> None:
        apply_effects(v, effects)
        if result:
            inject_page_fault(v, va, error_code)
            return
        store.finish(v)
        v.cpu.q[RIP] = after

    if v.posting is not None:
        part = (store.value & (1 << 8 * size) - 1).to_bytes(size, "little")
        whole = int.from_bytes(entry[:at] + part + entry[at + size :], "little")
        if v.posting.entry(v.paging.translate(va - at), whole):
            v.exits["posted"] += 1
            finish(0, [])
            return True
    v.ask(finish, v.gate.pte_write, va, size, store.value, None)
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
    return instruction, memory[0] if len(memory) == 1 and v.decoder.has_values(instruction) else None
