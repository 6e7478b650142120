"""SYSCALL: a hypercall from the guest's kernel, the guest kernel's own system call from its user space (H1).

Source: Xen arch/x86/x86_64/entry.S (lstar_enter, cstar_enter, switch_to_kernel).
"""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.pv.bounce import bounce, inject_hw_exception
from domains.cpu.x86.pv.constant_answers import CONSTANT_ANSWERS
from domains.cpu.x86.pv.effects import apply_effects
from domains.cpu.x86.pv.local_hypercalls import local_hypercall
from domains.cpu.x86.pv.posted_calls import post
from domains.cpu.x86.pv.pv_state import NO_CALLBACK
from domains.cpu.x86.pv.segments import FLAT_CODE32, FLAT_DATA
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.raised import collect_events
from domains.cpu.x86.registers import CS, EFLAGS_DF, EXC_UD, R11, RCX, SS, U64
from hypervisor.public.arch_x86.xen_x86_64 import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_SS,
    FLAT_USER_CS32,
    FLAT_USER_SS32,
)
from hypervisor.public.callback import CALLBACKF_mask_events, CALLBACKTYPE_syscall, CALLBACKTYPE_syscall32
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import EffectRecord

LENGTH: Final = 2
BLOCKING: Final = frozenset({int(Hypercall.sched_op), int(Hypercall.sched_op_compat)})


def handle_syscall(v: X86Vcpu) -> None:
    """rip is behind the instruction."""
    q = v.cpu.q
    if v.cpu.in_64bit_code and v.mode.in_kernel:
        q[RCX], q[R11] = q[RIP], v.cpu.rflags
        if v.cpu.selector(CS) != FLAT_KERNEL_CS or v.cpu.selector(SS) != FLAT_KERNEL_SS:
            v.segments.flat()  # SYSRET loads them
        hypercall(v)
    elif v.cpu.in_64bit_code:
        v.exits["system call"] += 1
        _enter_kernel(v, CALLBACKTYPE_syscall, FLAT_KERNEL_CS, FLAT_KERNEL_SS)
    else:
        v.exits["32-bit system call"] += 1
        _enter_kernel(v, CALLBACKTYPE_syscall32, FLAT_USER_CS32, FLAT_USER_SS32)


def hypercall(v: X86Vcpu) -> None:
    """Perform the hypercall in the registers; its effects are in force, and its result is there, when its vCPU goes on."""
    mode = v.mode
    nr, args = mode.hypercall()
    v.exits["hypercall"] += 1
    if nr in v.entry.local_calls:
        mode.set_result(local_hypercall(v, nr, args))
        return
    if nr in CONSTANT_ANSWERS:
        answer = CONSTANT_ANSWERS[nr](v, args)
        if answer is not None:
            mode.set_result(answer)
            return
    posted = post(v, nr, args)
    if posted is not None:
        v.exits["posted"] += 1
        mode.set_result(posted)
        return
    if nr in BLOCKING and args[0] == SCHEDOP_block and _need_not_block(v):
        mode.set_result(0)
        return

    def finish(result: int, effects: list[EffectRecord]) -> None:
        mode.set_result(result)
        if effects:
            apply_effects(v, effects)

    v.ask(finish, v.gate.hypercall, nr, *args)


def _need_not_block(v: X86Vcpu) -> bool:
    """SCHEDOP_block unmasks upcalls; with one pending it returns at once."""
    v.events.upcall_mask = False
    collect_events(v)
    return v.events.upcall_pending


def _enter_kernel(v: X86Vcpu, callback: int, cs: int, ss: int) -> None:
    """The guest kernel's callback, or #UD at the instruction if there is none."""
    address, flags, _ = v.pv.callbacks.get(callback, NO_CALLBACK)
    cpu = v.cpu
    if not address:
        cpu.q[RIP] = cpu.q[RIP] - LENGTH & U64
        inject_hw_exception(v, EXC_UD)
        return
    cpu.q[RCX], cpu.q[R11] = cpu.q[RIP], cpu.rflags
    limit, code = 0xFFFFFFFF, FLAT_CODE32
    cpu.set_segment(CS, cs, 0, limit, code)  # the frame shows the selectors that SYSRET will load
    cpu.set_segment(SS, ss, 0, limit, FLAT_DATA)
    bounce(v, cs, address, mask=bool(flags & CALLBACKF_mask_events))
    cpu.rflags &= ~EFLAGS_DF
