"""Events on the way back to the guest: what the core raised becomes pending, and the upcall is made if nothing masks it.

Xen's test_all_events: after every exit, in a loop, for an upcall's own entry is such an exit too.
"""

from domains.cpu.traps import TI_GET_IF
from domains.cpu.x86.pv.pv_state import NO_CALLBACK
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.raised import collect_events
from domains.cpu.x86.registers import EXC_NMI
from hypervisor.public.callback import CALLBACKTYPE_event, CALLBACKTYPE_nmi


def deliver_nmi(v: X86Vcpu) -> None:
    """Enter the guest's handler of NMIs: its callback, or that of its trap table; without either nothing comes of it.

    Source: Xen arch/x86/pv/traps.c, set_guest_nmi_trapbounce; both are one there.
    """
    v.pv.nmi_pending = False
    callback = v.pv.callbacks.get(CALLBACKTYPE_nmi, NO_CALLBACK)
    gate = v.pv.traps[EXC_NMI]
    if callback.address:
        v.exits["NMI"] += 1
        v.entry.bounce(v, callback.cs, callback.address, mask=True)
    elif gate is not None and gate.address:
        v.exits["NMI"] += 1
        v.entry.bounce(v, gate.cs, gate.address, mask=bool(gate.flags & TI_GET_IF))


def deliver_events(v: X86Vcpu) -> None:
    """Collect raised ports and enter the guest's event callback if an upcall is pending and not masked."""
    if v.gate.mailbox.counter(v.vcpu_id) != v.events_seen:
        collect_events(v)
    if v.pv.nmi_pending:
        deliver_nmi(v)
    if v.events.upcall_pending and not v.events.upcall_mask:
        v.exits["upcall"] += 1
        callback = v.pv.callbacks.get(CALLBACKTYPE_event, NO_CALLBACK)
        v.entry.bounce(v, callback.cs, callback.address, mask=True)
