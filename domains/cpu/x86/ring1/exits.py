"""The one dispatcher of what comes to the monitor, by its cause; each has a counter in `exits`.

    page fault         hidden: the shadow is filled in; the guest's own: delivered; a traced store: made, then a step
    trap NAME          a privileged instruction, emulated
    call-out NAME      a sensitive one, in whose place the translator has put a trap
    hidden descriptor  the CPU is shown what the guest's GDT or LDT has
    software interrupt, guest's own NAME, interrupt      delivered
What is emulated is decoded from memory, where the guest's code is as it wrote it.
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import SEGMENT_REGISTERS, Instruction
from domains.cpu.x86.descriptors import DESC_ACCESSED, DESC_PRESENT
from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import (
    EFLAGS_TF,
    EXC_DB,
    EXC_GP,
    EXC_HAVE_ERROR_CODE,
    EXC_NAMES,
    EXC_NP,
    EXC_PF,
    EXC_SS,
    EXC_UD,
    U32,
    XEC_IDT,
)
from domains.cpu.x86.ring1.delivery import deliver, deliver_interrupt, deliver_software
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.privileged import privileged
from domains.cpu.x86.ring1.segments import descriptor, high_of, mark
from domains.cpu.x86.ring1.sensitive import sensitive
from domains.cpu.x86.ring1.transfers import ringed
from domains.cpu.x86.ring1.vcpu import Handler, Ring1Vcpu
from hypervisor.machine.paging import PFEC_WRITE

DR6_BS: Final = 1 << 14
SELECTOR: Final = 0xFFFC


def handle_exception(v: Ring1Vcpu, vector: int, error_code: int) -> None:
    """A fault or trap of the CPU's; rip is where the CPU has it."""
    try:
        HANDLERS.get(vector, handle_other)(v, vector, error_code)
    except GuestException as exception:
        end_step(v)
        v.state.inhibited = False
        deliver(v, exception)
    leave(v)


def handle_software_interrupt(v: Ring1Vcpu, vector: int) -> None:
    """INT n, INT3 or INTO; rip is behind it."""
    v.exits["software interrupt"] += 1
    end_step(v)
    v.state.inhibited = False
    deliver_software(v, vector, interposed().int_length.value)
    leave(v)


def leave(v: Ring1Vcpu) -> None:
    """On the way back to the guest: an interrupt, if one is pending and the guest takes it."""
    if not v.state.interrupts or v.state.stepping:
        return
    vector = v.board.interrupt()
    if vector is None:
        return
    if v.state.inhibited:  # one instruction more
        v.exits["interrupt held back"] += 1
        step(v)
        return
    v.exits["interrupt"] += 1
    deliver_interrupt(v, vector)


def step(v: Ring1Vcpu) -> None:
    """Come back after one instruction of the guest's."""
    if not v.state.stepping:
        v.state.stepping, v.state.stepped_by_guest = True, v.cpu.rflags & EFLAGS_TF != 0
        v.cpu.rflags |= EFLAGS_TF


def end_step(v: Ring1Vcpu) -> None:
    """The instruction is over, one way or another."""
    if v.state.stepping:
        v.state.stepping = False
        if not v.state.stepped_by_guest:
            v.cpu.rflags &= ~EFLAGS_TF
        v.paging.tracer.close()


def handle_other(v: Ring1Vcpu, vector: int, error_code: int) -> None:
    """An exception that is the guest's own."""
    v.exits[f"guest's own {EXC_NAMES.get(vector, vector)}"] += 1
    raise GuestException(vector, error_code if vector in EXC_HAVE_ERROR_CODE else None)


def handle_pf(v: Ring1Vcpu, _vector: int, error_code: int) -> None:
    """A page fault; its address is in the CPU's CR2."""
    v.exits["page fault"] += 1
    va = v.cpu.q[CR + 2] & U32
    try:
        own = v.paging.page_fault(va, error_code)
    except NotMapped as hole:
        address = v.paging.tracer.traced(hole.gpa) if error_code & PFEC_WRITE else None
        if address is not None:
            _traced_store(v, va, error_code, address)
            return
        v.exits["no memory"] += 1
        raise v.refused(hole) from None
    if own is None:
        v.exits["hidden fault"] += 1
        return
    v.exits["guest's own fault"] += 1
    raise GuestException(EXC_PF, own, va)


def _traced_store(v: Ring1Vcpu, va: int, error_code: int, address: int) -> None:
    """A store to what is traced: it is made, and looked at. MOV, the usual one, is emulated; for others the CPU makes a step."""
    if v.paging.tracer.let_go(address):
        v.exits["trace dropped"] += 1  # the store is tried again
        return
    instruction = _decode(v)
    if instruction is not None and instruction.text.startswith("rep") and v.paging.tracer.unshadow(address):
        v.exits["trace dropped"] += 1
        return
    v.paging.open(va, error_code, address)
    if instruction is None or not is_plain_store(instruction):
        v.exits["traced store"] += 1
        step(v)
        return
    try:
        emulate(v, instruction, "traced", "store", do_store)
    finally:
        v.paging.tracer.close()


def is_plain_store(instruction: Instruction) -> bool:
    """Whether it is a MOV of a general register or a number to memory."""
    if instruction.name != "mov" or len(instruction.operands) != 2:
        return False
    target, source = instruction.operands
    return target.type == capstone.x86.X86_OP_MEM and source.reg not in SEGMENT_REGISTERS


def do_store(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """That MOV."""
    target, source = instruction.operands
    v.write(v.decoder.linear_32(target), v.decoder.source(source).to_bytes(target.size, "little"))
    return False


def handle_db(v: Ring1Vcpu, _vector: int, _error_code: int) -> None:
    """A single step, of the monitor's or of the guest's."""
    if v.state.stepping:
        v.exits["step"] += 1
        end_step(v)
        v.state.inhibited = False
        if not v.state.stepped_by_guest:
            return
    v.exits["guest's own #DB"] += 1
    v.state.dr[6] |= DR6_BS
    raise GuestException(EXC_DB)


def handle_selector(v: Ring1Vcpu, vector: int, error_code: int) -> None:
    """#GP, #NP or #SS with a selector: of a descriptor that the CPU has not been shown, or for the monitor's rings alone."""
    selector = error_code & SELECTOR
    if error_code & XEC_IDT or not selector:
        handle_other(v, vector, error_code)
    if show_descriptor(v, selector):
        v.exits["hidden descriptor"] += 1
        return
    instruction = _decode(v) if v.ring == 0 else None
    if instruction is not None:
        found = ringed(instruction)
        if found is not None:
            emulate(v, instruction, "trap", *found)
            return
    handle_other(v, vector, error_code)


def show_descriptor(v: Ring1Vcpu, selector: int) -> bool:
    """Fill in the CPU's descriptor table; False if that changes nothing."""
    table = v.table(selector)
    if not table.holds(selector):
        return False
    if table.fill(selector):
        return True
    word = descriptor(v, selector)
    if not high_of(word) & DESC_PRESENT or high_of(word) & DESC_ACCESSED:
        return False
    mark(v, selector, word)
    table.fill(selector)
    return True


def handle_gp(v: Ring1Vcpu, vector: int, error_code: int) -> None:
    """Without an error code it may be a privileged instruction, or a trap of the translator's."""
    if error_code & 0xFFFF:
        handle_selector(v, vector, error_code)
        return
    instruction = _decode(v)
    for kind, find in (("trap", privileged), ("call-out", sensitive)):
        found = find(instruction) if instruction is not None else None
        if instruction is not None and found is not None:
            emulate(v, instruction, kind, *found)
            return
    handle_other(v, vector, error_code)


def emulate(v: Ring1Vcpu, instruction: Instruction, kind: str, name: str, handler: Handler) -> None:
    """Do an instruction in the CPU's place. Raises GuestException, with nothing done."""
    v.exits[f"{kind} {name}"] += 1
    end_step(v)
    stepped = v.cpu.rflags & EFLAGS_TF
    v.state.inhibited = False
    if not handler(v, instruction):
        v.skip(instruction.length)
    if stepped:
        v.state.dr[6] |= DR6_BS
        raise GuestException(EXC_DB)


def _decode(v: Ring1Vcpu) -> Instruction | None:
    """The instruction at rip. Raises GuestException."""
    try:
        return v.decoder.decode(v.at)
    except (GuestFault, NotMapped) as fault:
        raise v.refused(fault) from None


def handle_invalid_op(v: Ring1Vcpu) -> None:
    """An invalid opcode."""
    handle_exception(v, EXC_UD, 0)


HANDLERS: Final = {
    EXC_PF: handle_pf,
    EXC_GP: handle_gp,
    EXC_NP: handle_selector,
    EXC_SS: handle_selector,
    EXC_DB: handle_db,
}
