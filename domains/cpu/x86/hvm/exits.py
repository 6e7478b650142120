"""The one dispatcher of exits: what an HVM guest cannot do without Xen, by its cause.

Each has a counter in `exits`. A system call, an interrupt's entry and a store to a page table are no exits; with nested paging a
page fault and a load of CR3 are none either, with shadow paging they are shadow_exits'.
A handler returns the exception that the guest gets instead, in EVENTINJ's form, or NOTHING.
Source: Xen arch/x86/hvm/svm/svm.c (svm_vmexit_handler), arch/x86/hvm/hvm.c.
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.svm import INTERCEPTED, NOTHING, Exit, exception
from domains.cpu.x86.hvm.hypercalls import ask, hypercall
from domains.cpu.x86.hvm.mmio import access_hole
from domains.cpu.x86.hvm.msr import read_msr, write_msr
from domains.cpu.x86.hvm.report import crash, report
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.raised import collect_events
from domains.cpu.x86.registers import EFLAGS_IF, EXC_DB, EXC_GP, EXC_UD, RAX, RCX, RDX, U32
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.vcpu import VCPUOP_down
from hypervisor.public.xen import Hypercall

MSR_LENGTH: Final = 2
HLT_LENGTH: Final = 1
VMCALL: Final = b"\x0f\x01\xc1"


def handle_exit(v: HvmVcpu, code: int) -> int:
    """Perform what the exit asks for; the exception that the guest gets, or NOTHING."""
    name, handler = v.handlers.get(code, UNKNOWN)
    v.exits[name] += 1
    event = handler(v)
    ask_for_upcall(v)
    return event


def ask_for_upcall(v: HvmVcpu) -> None:
    """On the way back to the guest: if an event is pending, it is delivered as soon as the guest can take it."""
    collect_events(v)
    if v.events.upcall_pending:
        v.stubs.request()


def handle_invalid_op(v: HvmVcpu) -> int:
    """An invalid opcode for Unicorn at rip: the exception that the guest gets for it, or NOTHING, for it was a hypercall and is
    done. VMCALL is Intel's; Xen accepts it too. ICEBP is a debug exception behind itself.
    """
    at = v.mode.linear_rip
    try:
        if v.decoder.fetch(at, len(VMCALL)) != VMCALL:
            length = v.decoder.icebp(at)
            v.mode.skip(length)
            v.stubs.set_behind(length)
            return EXC_DB if length else EXC_UD
    except (GuestFault, NotMapped):
        return EXC_UD
    v.cpu.take_exception()
    v.exits["vmcall"] += 1
    do_hypercall(v)
    ask_for_upcall(v)
    return NOTHING


def do_hypercall(v: HvmVcpu) -> int:
    """VMMCALL or VMCALL."""
    v.mode.skip(len(VMCALL))
    hypercall(v)
    return NOTHING


def do_hlt(v: HvmVcpu) -> int:
    """HLT: waits for an event. With interrupts off for good the vCPU goes down, and with the last one its domain."""
    if not v.cpu.rflags & EFLAGS_IF:
        v.mode.skip(HLT_LENGTH)
        ask(v, Hypercall.vcpu_op, VCPUOP_down, v.vcpu_id)
        return NOTHING
    collect_events(v)
    if not v.events.upcall_pending:
        ask(v, Hypercall.sched_op, SCHEDOP_block)
        collect_events(v)
    if v.events.upcall_pending:  # else it halts again
        v.mode.skip(HLT_LENGTH)
    return NOTHING


def do_msr(v: HvmVcpu) -> int:
    """RDMSR or WRMSR of a register that is not the CPU's own."""
    q = v.cpu.q
    number = q[RCX] & U32
    if v.paging.svm.exit_info[0]:
        if not write_msr(v, number, (q[RDX] & U32) << 32 | q[RAX] & U32):
            return exception(EXC_GP)
    else:
        value = read_msr(v, number)
        if value is None:
            return exception(EXC_GP)
        q[RAX], q[RDX] = value & U32, value >> 32
    v.mode.skip(MSR_LENGTH)
    return NOTHING


def do_nested_fault(v: HvmVcpu) -> int:
    """The P2M has nothing for an access, or forbids it."""
    _, gpa = v.paging.svm.exit_info
    if v.paging.svm.take_event():
        crash(v, f"an event cannot be delivered: guest-physical {gpa:#x} is not there")
    return access_hole(v, gpa)


def do_shutdown(v: HvmVcpu) -> int:
    """A triple fault."""
    v.gate.triple_fault(v.vcpu_id, report(v, "triple fault"))


def do_undefined(_v: HvmVcpu) -> int:
    """An instruction that this CPU does not advertise."""
    return exception(EXC_UD)


def do_unknown(v: HvmVcpu) -> int:
    """An exit that was not asked for."""
    crash(v, "an exit of no known cause")


UNKNOWN: Final = ("unknown", do_unknown)
HANDLERS: Final[dict[int, tuple[str, Callable[[HvmVcpu], int]]]] = {
    Exit.VMMCALL: ("vmmcall", do_hypercall),
    Exit.HLT: ("hlt", do_hlt),
    Exit.MSR: ("msr", do_msr),
    Exit.NPF: ("nested fault", do_nested_fault),
    Exit.SHUTDOWN: ("shutdown", do_shutdown),
    **{
        code: (f"undefined {code.name}", do_undefined)
        for code in INTERCEPTED
        if code not in (Exit.VMMCALL, Exit.HLT, Exit.MSR, Exit.NPF, Exit.SHUTDOWN)
    },
}
"""By exit code: the cause's name and what is done."""
