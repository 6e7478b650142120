"""Event channels as a Python kernel uses them: ports, and handlers that the loop calls.

Owns which handler belongs to which port. `upcall` is the kernel's event callback: it only takes the pending
ports and triggers their sources, so it may come between any two steps of the guest.
"""

from __future__ import annotations

from collections.abc import Sequence

from domains.kernel.hypercalls import Hypercalls
from domains.kernel.loop import Callback, Loop, Source
from domains.kernel.shared_info import SharedInfo
from hypervisor.public.errno import XenError
from hypervisor.public.event_channel import (
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_bind_interdomain,
    EVTCHNOP_bind_pirq,
    EVTCHNOP_bind_virq,
    EVTCHNOP_close,
    EVTCHNOP_send,
    EVTCHNOP_unmask,
    evtchn_alloc_unbound,
    evtchn_bind_interdomain,
    evtchn_bind_pirq,
    evtchn_bind_virq,
    evtchn_close,
    evtchn_send,
    evtchn_unmask,
)
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import DOMID_SELF


class EventPorts:
    """The domain's ports. A handler runs at least once after the last event before it (N events coalesce)."""

    def __init__(self, hypercalls: Hypercalls, shared: SharedInfo, loop: Loop) -> None:
        self._hypercalls = hypercalls
        self._shared = shared
        self._loop = loop
        self._sources: dict[Port, Source] = {}
        self._send = evtchn_send()

    def upcall(self) -> None:
        """The event callback, registered with Xen."""
        for port in self._shared.take_pending():
            source = self._sources.get(port)
            if source is not None:
                source.trigger()

    # --- handlers --------------------------------------------------------------------------------

    def bind(self, port: Port, handler: Callback) -> None:
        """Call `handler` from the loop for each event on `port`, and unmask it."""
        self._sources[port] = self._loop.source(handler)
        self.unmask(port)

    def unbind(self, port: Port) -> None:
        """Mask `port` and forget its handler; the channel stays."""
        self._shared.mask(port)
        source = self._sources.pop(port, None)
        if source is not None:
            source.callback = None

    def mask(self, port: Port) -> None:
        """Hold back `port`'s events; they stay pending."""
        self._shared.mask(port)

    def unmask(self, port: Port) -> None:
        """Let `port`'s events through again, those pending included."""
        if self._shared.is_masked(port) and self._shared.unmask(port):
            self._hypercalls.hypercall_event_channel_op(EVTCHNOP_unmask, evtchn_unmask(port=port))

    # --- channels --------------------------------------------------------------------------------

    def alloc_unbound(self, remote: DomId) -> Port:
        """A new port that `remote` may bind to (EVTCHNOP_alloc_unbound)."""
        op = evtchn_alloc_unbound(dom=DOMID_SELF, remote_dom=remote)
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_alloc_unbound, op)
        return op.port

    def bind_interdomain(self, remote: DomId, remote_port: Port) -> Port:
        """A local port connected to one that `remote` allocated for this domain (EVTCHNOP_bind_interdomain)."""
        op = evtchn_bind_interdomain(remote_dom=remote, remote_port=remote_port)
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_bind_interdomain, op)
        return op.local_port

    def bind_virq(self, virq: int, handler: Callback) -> Port:
        """A port for VIRQ_… on vCPU 0 (EVTCHNOP_bind_virq)."""
        op = evtchn_bind_virq(virq=virq, vcpu=0)
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_bind_virq, op)
        self.bind(op.port, handler)
        return op.port

    def bind_pirq(self, pirq: int, handler: Callback) -> Port:
        """A port for a physical interrupt; Dom0 (EVTCHNOP_bind_pirq)."""
        op = evtchn_bind_pirq(pirq=pirq)
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_bind_pirq, op)
        self.bind(op.port, handler)
        return op.port

    def notify(self, port: Port) -> None:
        """Send an event (EVTCHNOP_send); silently dropped when nobody is at the other end."""
        self._send.port = port
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_send, self._send)

    def notify_all(self, ports: Sequence[Port]) -> None:
        """The same for several ports. XenError, of the first that is refused, after the others were sent."""
        refused = None
        for port in ports:
            try:
                self.notify(port)
            except XenError as error:
                refused = refused or error
        if refused is not None:
            raise refused

    def close(self, port: Port) -> None:
        """Close the channel (EVTCHNOP_close) and forget its handler."""
        self.unbind(port)
        self._hypercalls.hypercall_event_channel_op(EVTCHNOP_close, evtchn_close(port=port))
