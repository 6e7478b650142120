"""Virtual interrupts: which kind each VIRQ is, and which domain gets the global ones.

A VIRQ is bound per vCPU (the timer), per domain (its vCPU 0), or globally: then one domain handles it, Dom0
unless the control domain named another (XEN_DOMCTL_set_virq_handler). Xen's xen/common/event_channel.c.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import (
    NR_VIRQS,
    VIRQ_ARGO,
    VIRQ_DEBUG,
    VIRQ_TIMER,
    VIRQ_XENOPROF,
    VIRQ_XENPMU,
)


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


class VirqHandler(Protocol):
    """What a domain's event channels are to the table of global VIRQs."""

    domid: DomId
    dying: bool

    def virq_port(self, vcpu_id: int, virq: int) -> Port | None:
        """The port that the VIRQ is bound to, or None."""

    def send_guest_virq(self, virq: int, vcpu_id: int = 0) -> None:
        """Deliver the VIRQ if it is bound."""


VirqsRecord = dict[str, object]
"""`default`: a domid or None; `handlers`: [(virq, domid), …]."""


class GlobalVirqs:
    """Which domain's event channels receive each global VIRQ (E8)."""

    def __init__(self) -> None:
        self.default: VirqHandler | None = None  # Dom0's, once there is one
        self._handlers: dict[int, VirqHandler] = {}

    def handler(self, virq: int) -> VirqHandler | None:
        """The event channels that may bind this VIRQ and receive it; None while there is no Dom0."""
        return self._handlers.get(virq, self.default)

    def set_handler(self, virq: int, events: VirqHandler) -> None:
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

    def forget(self, events: VirqHandler) -> None:
        """A domain goes: what it handled falls back to Dom0."""
        self._handlers = {virq: handler for virq, handler in self._handlers.items() if handler is not events}
        if self.default is events:
            self.default = None

    def send(self, virq: int) -> None:
        """send_global_virq: deliver to the handler, if it is there and has it bound."""
        handler = self.handler(virq)
        if handler is not None:
            handler.send_guest_virq(virq)

    def snapshot(self) -> VirqsRecord:
        """Which domain handles what, as plain numbers."""
        default = None if self.default is None else int(self.default.domid)
        return {"default": default, "handlers": [(v, int(h.domid)) for v, h in self._handlers.items()]}

    def restore(self, record: VirqsRecord, find: Callable[[DomId], VirqHandler]) -> None:
        """Become what `snapshot` wrote down; `find` gives each domain's event channels."""
        default, handlers = record["default"], record["handlers"]
        assert isinstance(handlers, list)
        self.default = find(DomId(default)) if isinstance(default, int) else None
        self._handlers = {virq: find(DomId(domid)) for virq, domid in handlers}
