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

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from hypervisor.public.types import DomId, Port


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


NO_CONSUMER: Final = 0
"""`xen_consumer` of a port that is the guest's own."""

ChannelRecord = tuple[int, int, int, int, int, int, int]
"""A port written down: the fields of a Channel in their order, as plain numbers."""


@dataclass(slots=True)
class Channel:
    """One port, as plain data. A field has a meaning in some states only, as told beside it."""

    state: ECS = ECS.FREE
    notify_vcpu_id: int = 0  # all live states: the vCPU that gets the event
    xen_consumer: int = NO_CONSUMER  # UNBOUND, INTERDOMAIN: 1 + place in the core's consumers, as on Xen
    remote_domid: DomId = NO_DOMAIN  # UNBOUND: the domain that may bind; INTERDOMAIN: the peer's domain …
    remote_port: Port = NO_PORT  # INTERDOMAIN: … and its port there
    pirq: int = 0  # PIRQ
    virq: int = 0  # VIRQ

    @property
    def usable(self) -> bool:
        """True when the guest may see events here: a live port that the core does not own."""
        return self.state > ECS.RESERVED and not self.xen_consumer

    def free(self) -> None:
        """Make the port what it was at the beginning: nothing of the old binding is left."""
        self.state, self.notify_vcpu_id, self.xen_consumer = ECS.FREE, 0, NO_CONSUMER
        self.remote_domid, self.remote_port = NO_DOMAIN, NO_PORT
        self.pirq = self.virq = 0

    def snapshot(self) -> ChannelRecord:
        """The port as plain numbers."""
        ends = int(self.remote_domid), int(self.remote_port)
        return int(self.state), self.notify_vcpu_id, self.xen_consumer, *ends, self.pirq, self.virq

    @classmethod
    def restore(cls, record: ChannelRecord) -> Channel:
        """The port that `snapshot` wrote down. ValueError for a state that there is not."""
        state, vcpu_id, consumer, domid, port, pirq, virq = record
        return cls(ECS(state), vcpu_id, consumer, DomId(domid), Port(port), pirq, virq)
