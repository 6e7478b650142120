"""Virtual interrupts: which kind each VIRQ is, and which domain gets the global ones.

A VIRQ is bound per vCPU (the timer), per domain (its vCPU 0), or globally: then one domain handles it, Dom0
unless the control domain named another (XEN_DOMCTL_set_virq_handler). Xen's xen/common/event_channel.c.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from hypervisor.public.errno import Errno, XenError
from hypervisor.public.xen import (
    NR_VIRQS,
    VIRQ_ARGO,
    VIRQ_DEBUG,
    VIRQ_TIMER,
    VIRQ_XENOPROF,
    VIRQ_XENPMU,
)

if TYPE_CHECKING:
    from hypervisor.events.event_channels import EventChannels


class VirqType(Enum):
    """How far one binding reaches."""

    VCPU = auto()
    DOMAIN = auto()
    GLOBAL = auto()


VIRQ_TYPES = {
    int(VIRQ_TIMER): VirqType.VCPU,
    int(VIRQ_DEBUG): VirqType.VCPU,
    int(VIRQ_XENOPROF): VirqType.VCPU,
    int(VIRQ_XENPMU): VirqType.VCPU,
    int(VIRQ_ARGO): VirqType.DOMAIN,
}


def virq_type(virq: int) -> VirqType:
    """The kind of a VIRQ below NR_VIRQS; on x86 the VIRQ_ARCH_* are global."""
    return VIRQ_TYPES.get(virq, VirqType.GLOBAL)


class GlobalVirqs:
    """Which domain's event channels receive each global VIRQ (E8)."""

    def __init__(self) -> None:
        self.default: EventChannels | None = None  # Dom0's, once there is one
        self._handlers: dict[int, EventChannels] = {}

    def handler(self, virq: int) -> EventChannels | None:
        """Who may bind this VIRQ and receives it."""
        return self._handlers.get(virq, self.default)

    def set_handler(self, virq: int, events: EventChannels) -> None:
        """Name the domain that handles a global VIRQ from now on.

        XenError: EINVAL for a VIRQ that is not global, or a dying domain; EBUSY while the old handler has it
        bound.
        """
        if not 0 <= virq < NR_VIRQS or virq_type(virq) is not VirqType.GLOBAL:
            raise XenError(Errno.EINVAL, f"virq {virq} is not a global one")
        old = self.handler(virq)
        if old is events:
            return
        if events.dying:
            raise XenError(Errno.EINVAL, f"K1: d{events.domid} is dying, it gets no virq")
        if old is not None and old.virq_port(0, virq) is not None:
            raise XenError(Errno.EBUSY, f"virq {virq} is bound by d{old.domid}")
        self._handlers[virq] = events

    def forget(self, events: EventChannels) -> None:
        """A domain goes: what it handled falls back to Dom0."""
        self._handlers = {virq: handler for virq, handler in self._handlers.items() if handler is not events}
        if self.default is events:
            self.default = None

    def send(self, virq: int) -> None:
        """send_global_virq: deliver to the handler, if it is there and has it bound."""
        handler = self.handler(virq)
        if handler is not None:
            handler.send_guest_virq(virq)
