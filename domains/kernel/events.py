"""Event channels as a Python kernel uses them: ports, and handlers that the loop calls."""

from __future__ import annotations

from collections.abc import Callable

from hypervisor.public.types import DomId, Port

Handler = Callable[[], None]


class EventPorts:
    """The domain's ports. A handler runs at least once after the last event that came before it (N events
    coalesce).
    """

    def bind(self, port: Port, handler: Handler) -> None:
        """Call `handler` from the loop for each event on `port`, and unmask it."""
        raise NotImplementedError

    def unbind(self, port: Port) -> None:
        """Mask `port` and forget its handler; the channel stays."""
        raise NotImplementedError

    def alloc_unbound(self, remote: DomId) -> Port:
        """A new port that `remote` may bind to (EVTCHNOP_alloc_unbound)."""
        raise NotImplementedError

    def bind_interdomain(self, remote: DomId, remote_port: Port) -> Port:
        """A local port connected to one that `remote` allocated for this domain
        (EVTCHNOP_bind_interdomain).
        """
        raise NotImplementedError

    def bind_virq(self, virq: int, handler: Handler) -> Port:
        """A port for VIRQ_… on vCPU 0 (EVTCHNOP_bind_virq)."""
        raise NotImplementedError

    def bind_pirq(self, pirq: int, handler: Handler) -> Port:
        """A port for a physical interrupt; Dom0 (EVTCHNOP_bind_pirq)."""
        raise NotImplementedError

    def notify(self, port: Port) -> None:
        """Send an event (EVTCHNOP_send); silently dropped when nobody is at the other end."""
        raise NotImplementedError

    def mask(self, port: Port) -> None:
        """Hold back `port`'s events; they stay pending."""
        raise NotImplementedError

    def unmask(self, port: Port) -> None:
        """Let `port`'s events through again, those pending included."""
        raise NotImplementedError

    def close(self, port: Port) -> None:
        """Close the channel (EVTCHNOP_close) and forget its handler."""
        raise NotImplementedError
