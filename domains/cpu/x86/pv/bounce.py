"""Exceptions and software interrupts of the guest, and the frame on a 64-bit guest kernel's stack (Xen's create_bounce_frame).

From user space the frame goes to the stack that stack_switch named, after the switch to the kernel; from the kernel below its
current stack. A frame that cannot be written, or a handler that is not there, ends the domain.
What the frame looks like is in pv64_mode.py; a 32-bit guest's is made in pv32_bounce.py.
Source: Xen arch/x86/x86_64/entry.S, arch/x86/pv/traps.c.
"""

from typing import Final

from domains.cpu.traps import TI_GET_IF
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.pv64_mode import FRAME, FRAME_WITH_ERROR
from domains.cpu.x86.pv.segments import SELECTOR_OF_CS, SELECTOR_OF_SS
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    EFLAGS_AC,
    EFLAGS_IF,
    EFLAGS_IOPL,
    EFLAGS_NT,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
    EXC_DB,
    EXC_HAVE_ERROR_CODE,
    EXC_NAMES,
    EXC_PF,
    R11,
    RCX,
    RSP,
    U32,
    U64,
)
from hypervisor.machine.debug_registers import DR6_DEFAULT
from hypervisor.machine.paging import PFEC_USER
from hypervisor.public.arch_x86.xen_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from hypervisor.public.trace import TRC_PV_TRAP
from hypervisor.public.xen import VMASST_TYPE_architectural_iopl

TI_GET_DPL: Final = 3  # mask of trap_info.flags: who may raise the vector by INT n
CLEARED_ON_TRAP: Final = EFLAGS_AC | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | EFLAGS_TF
ARCHITECTURAL_IOPL: Final = 1 << VMASST_TYPE_architectural_iopl
FRAME_BYTES: Final = 64
"""Of the largest frame."""
DR6_BP_MASK: Final = 0xF


def bounce(v: X86Vcpu, cs: int, address: int, *, mask: bool, error_code: int | None = None) -> None:
    """Enter a 64-bit guest's kernel at `address`; whatever `cs` says, its code segment is the flat one."""
    cpu, events, mode = v.cpu, v.events, v.pv64
    q = cpu.q
    flags, old_rsp = cpu.rflags, q[RSP]
    in_kernel = mode.in_kernel
    if not in_kernel:
        mode.enter()
    rsp = (old_rsp if in_kernel else v.pv.kernel_sp) & -mode.stack_alignment
    if HYPERVISOR_VIRT_START < rsp <= HYPERVISOR_VIRT_END + FRAME_BYTES:
        crash(v, f"kernel stack {rsp:#x} lies in the hypervisor's range")
    masked = events.upcall_mask
    saved = flags & ~(EFLAGS_IF | EFLAGS_IOPL) & U32 | (0 if masked else EFLAGS_IF)
    if v.pv.vm_assist & ARCHITECTURAL_IOPL:
        saved |= v.pv.iopl
    d = cpu.d
    code = (d[SELECTOR_OF_CS] & ~3 if in_kernel else d[SELECTOR_OF_CS]) | masked << 32
    where = q[RIP], code, saved, old_rsp, d[SELECTOR_OF_SS]
    if error_code is None:
        frame = FRAME.pack(q[RCX], q[R11], *where)
    else:
        frame = FRAME_WITH_ERROR.pack(q[RCX], q[R11], error_code & U32, *where)
    rsp = rsp - len(frame) & U64
    try:
        v.paging.write(rsp, frame)
    except GuestFault as fault:
        crash(v, f"no frame for a trap can be written at {rsp:#x}: {fault}", walk=fault.va)
    if not address:
        crash(v, "a trap or an event, and the guest has set no handler for it")
    if mask:
        events.upcall_mask = True
    cpu.rflags = flags = flags & ~(CLEARED_ON_TRAP | EFLAGS_IOPL) | EFLAGS_IF
    q[RSP], q[RIP] = rsp, address
    q[RCX], q[R11] = address, flags  # Xen gets there by SYSRET
    v.segments.flat()


def inject_hw_exception(v: X86Vcpu, vector: int, error_code: int = 0) -> None:
    """A fault or trap of the guest's; `error_code` is used by the vectors that have one."""
    v.exits[EXC_NAMES.get(vector, f"vector {vector}")] += 1
    _inject(v, vector, error_code if vector in EXC_HAVE_ERROR_CODE else None)


def inject_sw_interrupt(v: X86Vcpu, vector: int) -> None:
    """INT n, permitted by the gate's DPL; rip is behind it."""
    v.exits["INT n"] += 1
    _inject(v, vector, None)


def inject_page_fault(v: X86Vcpu, va: int, error_code: int) -> None:
    """#PF at `va`; the U bit is what the guest's mode says, for the CPU always sets it."""
    error_code &= ~PFEC_USER
    if not v.mode.in_kernel:
        error_code |= PFEC_USER
    v.pv.cr2 = va
    v.events.set_cr2(va)
    v.exits["#PF"] += 1
    _inject(v, EXC_PF, error_code, va)


def inject_debug(v: X86Vcpu, pending: int) -> None:
    """#DB; `pending` is DR6's new bits with positive polarity."""
    dr6 = v.pv.dr6 ^ DR6_DEFAULT
    v.pv.dr6 = (dr6 & ~DR6_BP_MASK | pending) ^ DR6_DEFAULT
    inject_hw_exception(v, EXC_DB)


def _inject(v: X86Vcpu, vector: int, error_code: int | None, va: int | None = None) -> None:
    if v.trace.sink is not None:
        v.trace.record(TRC_PV_TRAP, vector, error_code or 0)
    gate = v.pv.traps[vector]
    if gate is None or not gate.address:
        name = EXC_NAMES.get(vector, "INT n")
        crash(v, f"Unhandled: vec {vector}, {name}[{error_code or 0:04x}]", walk=va)
    v.entry.bounce(v, gate.cs, gate.address, mask=bool(gate.flags & TI_GET_IF), error_code=error_code)


def permits_software_interrupt(v: X86Vcpu, vector: int) -> bool:
    """The gate's DPL lets the guest's current half raise `vector` by INT n."""
    gate = v.pv.traps[vector]
    return gate is not None and gate.flags & TI_GET_DPL >= (1 if v.mode.in_kernel else 3)
