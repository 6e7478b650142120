"""One end of an event channel: its state and what the state needs.

                 alloc_unbound              bind_interdomain (by the named domain)
      ┌── FREE ───────────────► UNBOUND ───────────────────────────► INTERDOMAIN
      │    │ ▲                     ▲                                  │       │
      │    │ └──── close ──────────┼────────── close (this end) ──────┘       │
      │    │                       └────────── the peer closes ───────────────┘
      │    └─ bind_virq / bind_ipi / bind_pirq ─► VIRQ / IPI / PIRQ ── close ──► FREE
      └── RESERVED: port 0 alone, for ever (E1)

Xen's xen/include/xen/sched.h: `struct evtchn` and the ECS_* states (E2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from hypervisor.public.types import DomId, Port

if TYPE_CHECKING:
    from hypervisor.events.event_channels import EventChannels

XenConsumer = Callable[[Port], None]
"""What the core does with an event on a port that it owns."""


class ECS(IntEnum):
    """State of one port."""

    FREE = 0
    RESERVED = 1
    UNBOUND = 2
    INTERDOMAIN = 3
    PIRQ = 4
    VIRQ = 5
    IPI = 6


NO_DOMAIN: Final = DomId(0)
NO_PORT: Final = Port(0)


@dataclass(slots=True)
class Channel:
    """One port. A field is meaningful in its own states only, as told beside it."""

    state: ECS = ECS.FREE
    notify_vcpu_id: int = 0
    xen_consumer: XenConsumer | None = None  # UNBOUND, INTERDOMAIN: the core owns this end
    remote_domid: DomId = NO_DOMAIN  # UNBOUND: who may bind
    remote: EventChannels | None = None  # INTERDOMAIN: the peer …
    remote_port: Port = NO_PORT  # … and its port
    pirq: int = 0  # PIRQ
    virq: int = 0  # VIRQ

    @property
    def usable(self) -> bool:
        """Whether the guest may see events here: a live port that the core does not own."""
        return self.state > ECS.RESERVED and self.xen_consumer is None

    def free(self) -> None:
        """Back to what it was at the beginning: nothing of the old binding is left."""
        self.state, self.notify_vcpu_id, self.xen_consumer = ECS.FREE, 0, None
        self.remote_domid, self.remote, self.remote_port = NO_DOMAIN, None, NO_PORT
        self.pirq = self.virq = 0
