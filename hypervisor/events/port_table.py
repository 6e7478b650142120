"""A domain's table of ports: which are valid, which are free, and what VIRQs and PIRQs are bound to.

     0          1 … len − 1                       len … max_port
    ┌──────────┬──────────────────────────────────┬───────────────────────────┐
    │ RESERVED │ valid: FREE, or live              │ invalid until it grows    │
    └──────────┴──────────────────────────────────┴───────────────────────────┘
                 grows by EVTCHNS_PER_BUCKET ports ►

The ports are the truth. The counters and the two indexes follow from them, so `restore` computes them again (E9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.events.channel import ECS, Channel, ChannelRecord
from hypervisor.events.virq import VirqType, virq_type
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import EVTCHN_2L_NR_CHANNELS
from hypervisor.public.types import DomId, Port

EVTCHNS_PER_BUCKET: Final = 64
"""The table grows by this many ports."""


class PortTable:
    """The ports of domain `domid`, of which `max_port` is the last that it may have (XEN_DOMCTL_createdomain).

    `active`: ports that are not FREE, port 0 apart; `xen_owned`: how many of them the core owns (E9).
    `dying`: the domain gets no port any more (K1).
    """

    def __init__(self, domid: DomId, max_port: int) -> None:
        self.domid = domid
        self.max_port = max_port
        self.nr_channels: Callable[[], int] = lambda: EVTCHN_2L_NR_CHANNELS
        """How many ports the guest's shared_info has room for now; whoever knows its layout sets it."""
        self.dying = False
        self.active = 0
        self.xen_owned = 0
        self._channels = [Channel() for _ in range(EVTCHNS_PER_BUCKET)]
        self._channels[0].state = ECS.RESERVED  # E1
        self._lowest_free = 1  # no port below it is free
        self._virq_ports: dict[tuple[int, int], Port] = {}  # (vcpu, virq) → port
        self._pirq_ports: dict[int, Port] = {}

    # --- looking -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many ports are valid, that is: have a place in the table."""
        return len(self._channels)

    def channel(self, port: int) -> Channel:
        """The state of a port. XenError(EINVAL) if it is not a valid one."""
        if not 0 <= port < len(self._channels):
            raise XenError(Errno.EINVAL, f"port {port} of d{self.domid} is beyond the table")
        return self._channels[port]

    def virq_port(self, vcpu_id: int, virq: int) -> Port | None:
        """The port that this vCPU's VIRQ is bound to."""
        return self._virq_ports.get((vcpu_id, virq))

    def pirq_port(self, pirq: int) -> Port | None:
        """The port that a physical interrupt is bound to."""
        return self._pirq_ports.get(pirq)

    # --- taking and freeing a port -------------------------------------------------------------------

    def _free_port(self) -> Port:
        """The lowest free port, the table grown for it if need be; nothing is taken yet (E9).

        XenError: EINVAL in a dying domain (K1), ENOSPC if there is none (E1).
        """
        if self.dying:
            raise XenError(Errno.EINVAL, f"K1: d{self.domid} is dying, it gets no port")
        port = self._lowest_free
        while port < len(self._channels) and self._channels[port].state is not ECS.FREE:
            port += 1
        self._lowest_free = port
        if port > self.max_port or port >= self.nr_channels():
            raise XenError(Errno.ENOSPC, f"E1: d{self.domid} has no free port")
        while port >= len(self._channels):
            self._channels += [Channel() for _ in range(EVTCHNS_PER_BUCKET)]
        return Port(port)

    def _take(self, port: Port, state: ECS, vcpu_id: int = 0) -> Channel:
        """Make a free port an active one; everything has been checked (E9)."""
        channel = self._channels[port]
        channel.state, channel.notify_vcpu_id = state, vcpu_id
        self.active += 1
        return channel

    def _free(self, port: Port) -> None:
        """Give an active port back; whatever others held of it has been taken back already."""
        channel = self._channels[port]
        self.active -= 1
        self.xen_owned -= bool(channel.xen_consumer)
        channel.free()
        self._lowest_free = min(self._lowest_free, port)

    # --- writing it down -----------------------------------------------------------------------------

    def _write_down(self) -> list[ChannelRecord]:
        return [channel.snapshot() for channel in self._channels]

    def _read_back(self, records: list[ChannelRecord]) -> None:
        """Take over the ports of a record; counters and indexes are computed again."""
        self._channels = [Channel.restore(record) for record in records]
        live = [(Port(port), c) for port, c in enumerate(self._channels) if c.state > ECS.RESERVED]
        self.active, self._lowest_free = len(live), 1
        self.xen_owned = sum(bool(channel.xen_consumer) for _, channel in live)
        self._virq_ports = {virq_key(c): port for port, c in live if c.state is ECS.VIRQ}
        self._pirq_ports = {c.pirq: port for port, c in live if c.state is ECS.PIRQ}


def virq_key(channel: Channel) -> tuple[int, int]:
    """(vCPU, VIRQ) under which a port's VIRQ is bound: a VIRQ that is not per vCPU counts as vCPU 0's (E8)."""
    per_vcpu = virq_type(channel.virq) is VirqType.VCPU
    return channel.notify_vcpu_id if per_vcpu else 0, channel.virq
