"""Hypercalls of 32-bit PV guests whose arguments are not those of 64-bit ones, one for one.

    update_va_mapping               va, value low, value high, flags          (and domid)
    update_descriptor               address low, high, descriptor low, high
    set_callbacks                   event selector, event address, failsafe selector, failsafe address

What differs in memory alone is in public/compat.py. Source: Xen arch/x86/x86_64/compat/mm.c, pv/descriptor-tables.c,
pv/callback.c, common/sched/compat.c.
"""

from __future__ import annotations

from dataclasses import replace

from hypervisor.hypercalls.call import Call, Result
from hypervisor.hypercalls.callbacks import code_selector
from hypervisor.hypercalls.descriptors import do_update_descriptor
from hypervisor.hypercalls.update_va_mapping import do_update_va_mapping, do_update_va_mapping_otherdomain
from hypervisor.public.callback import CALLBACKF_mask_events, CALLBACKTYPE_event, CALLBACKTYPE_failsafe
from hypervisor.wire.messages import Effect


def _joined(low: int, high: int) -> int:
    return low | high << 32


def compat_update_va_mapping(call: Call) -> Result:
    """The entry in two halves."""
    va, low, high, flags = call.args[:4]
    return do_update_va_mapping(replace(call, args=(va, _joined(low, high), flags, 0, 0)))


def compat_update_va_mapping_otherdomain(call: Call) -> Result:
    """The entry in two halves."""
    va, low, high, flags, domid = call.args
    return do_update_va_mapping_otherdomain(replace(call, args=(va, _joined(low, high), flags, domid, 0)))


def compat_update_descriptor(call: Call) -> Result:
    """Machine address and descriptor in two halves each."""
    address, address_high, low, high = call.args[:4]
    args = (_joined(address, address_high), _joined(low, high), 0, 0, 0)
    return do_update_descriptor(replace(call, args=args))


def compat_set_callbacks(call: Call) -> Result:
    """Event and failsafe entry, each with its code segment; a 32-bit guest has no syscall entry."""
    event_cs, event, failsafe_cs, failsafe = call.args[:4]
    masks = int(CALLBACKF_mask_events)
    for kind, address, flags, cs in (
        (CALLBACKTYPE_event, event, masks, event_cs),
        (CALLBACKTYPE_failsafe, failsafe, 0, failsafe_cs),
    ):
        call.effects.append([Effect.CALLBACK, int(kind), address, flags, code_selector(call, cs)])
    return 0
