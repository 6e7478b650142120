"""Events on the way back to the guest: what the core raised becomes pending, and the upcall is made if nothing masks it.

Xen's test_all_events: after every exit, in a loop, for an upcall's own entry is such an exit too.
"""

from domains.cpu.x86.pv.pv_state import NO_CALLBACK
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.raised import collect_events
from hypervisor.public.callback import CALLBACKTYPE_event


def deliver_events(v: X86Vcpu) -> None:
    """Collect raised ports and enter the guest's event callback if an upcall is pending and not masked."""
    collect_events(v)
    if v.events.upcall_pending and not v.events.upcall_mask:
        v.exits["upcall"] += 1
        callback = v.pv.callbacks.get(CALLBACKTYPE_event, NO_CALLBACK)
        v.entry.bounce(v, callback.cs, callback.address, mask=True)
