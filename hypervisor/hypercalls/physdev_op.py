"""physdev_op: what PV guests call of it (Xen arch/x86/physdev.c). A physical interrupt here is a host descriptor of Dom0.

PHYSDEVOP_set_iopl and _set_iobitmap change the vCPU's I/O privilege, which its process owns: the core checks and passes on.
"""

from __future__ import annotations

from typing import Final

from hypervisor.hypercalls.call import Call, Result, SubOp
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.physdev import (
    PHYSDEVOP_eoi,
    PHYSDEVOP_irq_status_query,
    PHYSDEVOP_map_pirq,
    PHYSDEVOP_set_iopl,
    PHYSDEVOP_unmap_pirq,
    physdev_eoi,
    physdev_irq_status_query,
    physdev_set_iopl,
)
from hypervisor.public.xen import Hypercall
from hypervisor.wire.messages import Effect


def _eoi(call: Call) -> Result:
    """The process arms its descriptor again by itself: there is nothing to unmask."""
    irq = call.read(call.args[1], physdev_eoi).irq
    if call.domain.events.pirq_port(irq) is None:
        raise XenError(Errno.EINVAL, f"irq {irq} is not bound")
    return 0


def _irq_status_query(call: Call) -> Result:
    query = call.read(call.args[1], physdev_irq_status_query)
    if query.irq not in call.domain.events.permitted_pirqs:
        raise XenError(Errno.EINVAL, f"irq {query.irq}")
    query.flags = 0
    call.write(call.args[1], query)
    return 0


def _set_iopl(call: Call) -> Result:
    iopl = call.read(call.args[1], physdev_set_iopl).iopl
    if iopl > 3:
        raise XenError(Errno.EINVAL, f"IOPL {iopl}")
    call.effects.append([Effect.LOCAL, int(Hypercall.physdev_op), PHYSDEVOP_set_iopl, iopl, 0, 0, 0, 0])
    return 0


PHYSDEV_OPS: Final[dict[int, SubOp]] = {
    PHYSDEVOP_eoi: _eoi,
    PHYSDEVOP_irq_status_query: _irq_status_query,
    PHYSDEVOP_set_iopl: _set_iopl,
}


def do_physdev_op(call: Call) -> Result:
    """Physical interrupts, and what else a PV kernel asks of the machine. ENOSYS: no such operation."""
    op = PHYSDEV_OPS.get(call.args[0])
    if op is None:
        raise XenError(Errno.ENOSYS, f"physdev_op {call.args[0]}")
    return op(call)


def do_hvm_physdev_op(call: Call) -> Result:
    """An HVM guest has no physical interrupts. EPERM: it maps none; ENOSYS: for what else a PV kernel asks (hvm_physdev_op)."""
    if call.args[0] in (PHYSDEVOP_map_pirq, PHYSDEVOP_unmap_pirq):
        raise XenError(Errno.EPERM, f"d{call.domain.domid} may not map physical interrupts")
    raise XenError(Errno.ENOSYS, f"physdev_op {call.args[0]} of an HVM guest")
