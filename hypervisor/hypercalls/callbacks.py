"""Where Xen enters the guest: trap table, callbacks, and the assists that change it (Xen arch/x86/pv/callback.c).

The core checks every address (D4) and hands the entry points to the process, which owns the CPU.
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Continue, Result, SubOp
from hypervisor.machine.descriptor_window import guest_selector
from hypervisor.machine.paging import is_canonical
from hypervisor.mm.budget import COST_OF_TRAP
from hypervisor.public.arch_x86.xen import trap_info
from hypervisor.public.callback import (
    CALLBACKF_mask_events,
    CALLBACKOP_register,
    CALLBACKOP_unregister,
    CALLBACKTYPE_event,
    CALLBACKTYPE_failsafe,
    CALLBACKTYPE_nmi,
    CALLBACKTYPE_syscall,
    CALLBACKTYPE_syscall32,
    CALLBACKTYPE_sysenter,
    callback_register,
    callback_unregister,
)
from hypervisor.public.compat import xen_callback
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import (
    VMASST_CMD_disable,
    VMASST_CMD_enable,
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_m2p_strict,
    VMASST_TYPE_pae_extended_cr3,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_writable_pagetables,
)
from hypervisor.wire.messages import Effect


def code_selector(call: Call, selector: int) -> int:
    """fixup_guest_code_selector: at least the RPL of the guest's kernel (D4)."""
    return guest_selector(selector & 0xFFFF, call.domain.mem.rules.kernel_rpl)


def do_set_trap_table(call: Call) -> Result:
    """Replace entries until one with address 0; a null pointer clears the table."""
    va = call.args[0]
    if va == 0:
        call.effects.append([Effect.TRAP_TABLE, []])
        return 0
    entries: list[list[int]] = []
    try:
        while not call.budget.exhausted or not entries:
            trap = call.read(va, trap_info)
            if trap.address == 0:
                return 0
            if not is_canonical(trap.address):
                raise XenError(
                    Errno.EINVAL, f"D4: trap {trap.vector}: address {trap.address:#x} is not canonical"
                )
            entries.append([trap.vector, trap.flags, code_selector(call, trap.cs), trap.address])
            call.budget.spend(COST_OF_TRAP)
            va += call.abi.sizeof(trap_info)
        return Continue((va, 0, 0, 0, 0))
    finally:
        if entries:
            call.effects.append([Effect.TRAP_TABLE, entries])


def do_set_callbacks(call: Call) -> Result:
    """Event, failsafe and syscall entry in one call."""
    event, failsafe, syscall = call.args[:3]
    for address in (event, failsafe, syscall):
        _require_canonical(address)
    call.effects.append([Effect.CALLBACK, int(CALLBACKTYPE_event), event, int(CALLBACKF_mask_events)])
    call.effects.append([Effect.CALLBACK, int(CALLBACKTYPE_failsafe), failsafe, 0])
    call.effects.append([Effect.CALLBACK, int(CALLBACKTYPE_syscall), syscall, 0])
    return 0


def _require_canonical(address: int) -> None:
    if not is_canonical(address):
        raise XenError(Errno.EINVAL, f"D4: callback address {address:#x} is not canonical")


_REGISTERABLE: Final = frozenset(
    int(kind)
    for kind in (
        CALLBACKTYPE_event,
        CALLBACKTYPE_failsafe,
        CALLBACKTYPE_syscall,
        CALLBACKTYPE_syscall32,
        CALLBACKTYPE_sysenter,
        CALLBACKTYPE_nmi,
    )
)


OF_EXTENDED_CONTEXT: Final = (CALLBACKTYPE_syscall32, CALLBACKTYPE_sysenter)
"""Entry points that vcpu_guest_context has no room for; a toolstack gets and sets them by get_ and set_ext_vcpucontext."""


def _callback_register(call: Call) -> Result:
    register = call.read(call.args[1], callback_register)
    address, entry = _entry_point(call, register.address)
    if register.type not in _REGISTERABLE:
        raise XenError(Errno.ENOSYS, f"callback type {register.type}")
    if register.type == CALLBACKTYPE_event and address == 0:
        raise XenError(Errno.EINVAL, "an event callback at 0")
    effect = [Effect.CALLBACK, register.type, address, register.flags & CALLBACKF_mask_events, *entry]
    call.effects.append(effect)
    if register.type in OF_EXTENDED_CONTEXT:
        call.vcpu.extended_callbacks[register.type] = effect
    return 0


def _entry_point(call: Call, where: int | xen_callback) -> tuple[int, list[int]]:
    """An address, and of a 32-bit guest the code segment that it is in. XenError(EINVAL)."""
    if isinstance(where, xen_callback):
        return where.eip, [code_selector(call, where.cs)]
    _require_canonical(where)
    return where, []


def _callback_unregister(call: Call) -> Result:
    """Only an NMI callback may be taken away."""
    kind = call.read(call.args[1], callback_unregister).type
    if kind in _REGISTERABLE - {int(CALLBACKTYPE_nmi)}:
        raise XenError(Errno.EINVAL, f"callback type {kind} cannot be unregistered")
    if kind != CALLBACKTYPE_nmi:
        raise XenError(Errno.ENOSYS, f"callback type {kind}")
    call.effects.append([Effect.CALLBACK, kind, 0, 0])
    return 0


CALLBACK_OPS: Final[dict[int, SubOp]] = {
    CALLBACKOP_register: _callback_register,
    CALLBACKOP_unregister: _callback_unregister,
}


def do_callback_op(call: Call) -> Result:
    """Registering an entry point, or taking it back. ENOSYS: no such operation."""
    op = CALLBACK_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"callback_op {call.args[0]}")
    return op(call)


VM_ASSISTS: Final = frozenset(
    int(kind)
    for kind in (
        VMASST_TYPE_4gb_segments,
        VMASST_TYPE_4gb_segments_notify,
        VMASST_TYPE_writable_pagetables,
        VMASST_TYPE_pae_extended_cr3,
        VMASST_TYPE_architectural_iopl,
        VMASST_TYPE_runstate_update_flag,
        VMASST_TYPE_m2p_strict,
    )
)


VM_ASSISTS_OF_HVM: Final = frozenset({int(VMASST_TYPE_runstate_update_flag)})


def do_vm_assist(call: Call) -> Result:
    """Switches an assist on or off for the whole domain. EINVAL: no such assist; ENOSYS: no such command."""
    command, kind = call.args[:2]
    if kind not in (VM_ASSISTS_OF_HVM if call.domain.is_hvm else VM_ASSISTS):
        raise XenError(Errno.EINVAL, f"there is no vm_assist {kind}")
    if command == VMASST_CMD_enable:
        call.domain.vm_assist |= 1 << kind
    elif command == VMASST_CMD_disable:
        call.domain.vm_assist &= ~(1 << kind)
    else:
        raise XenError(Errno.ENOSYS, f"vm_assist command {command}")
    if call.domain.is_hvm:
        return 0
    call.domain.mem.m2p_strict = bool(call.domain.vm_assist >> VMASST_TYPE_m2p_strict & 1)
    for vcpu in call.domain.vcpus:
        vcpu.effects.append([Effect.VM_ASSIST, call.domain.vm_assist])
    return 0
