"""What passes an interface or a bridge, as pcap, for `xenctl network-capture`.

    interface, switch ─saw─► PcapWriter ─► buffer ─ once a turn of the loop ─► the client

Whoever reads too slowly loses packets, never Dom0: the buffer is bounded, and what does not fit is counted. A
capture ends with its interface, or when its client is gone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, Protocol

from domains.control.operations import Captured
from domains.control.server import Congested, Disconnected, Request
from domains.dom0.toolstack.errors import ToolstackError
from domains.kernel.kernel import Kernel
from drivers.net import checksum
from drivers.net.back import NetBack
from drivers.net.pcap import PcapWriter
from drivers.net.protocol import Packet
from drivers.net.switch import Observer
from hypervisor.public.types import DomId

BUFFER: Final = 1 << 20
"""Bytes that wait for the client."""
RETRY: Final = 0.02
"""Seconds until a client that did not take them is offered them again."""


class Observed(Protocol):
    """An interface, or the switch of a bridge."""

    observers: list[Observer]


class Captures:
    """Starts captures; each lives by itself."""

    def __init__(self, kernel: Kernel, nets: NetBack) -> None:
        self._kernel = kernel
        self._nets = nets

    def start(self, request: Request, domid: DomId, device: int) -> None:
        """Stream the packets of a domain's interface from now on. Raises ToolstackError if there is none."""
        interface = self._nets.devices.get(f"backend/vif/{domid}/{device}")
        if interface is None:
            raise ToolstackError(
                f"domain {domid} has no network interface {device} that Dom0 serves;"
                f" 'xenctl network-list {domid}' shows those it has"
            )
        Capture(self._kernel, interface, request.stream, request.answer)

    def start_bridge(self, request: Request, bridge: str) -> None:
        """Stream what comes in at any port of a bridge, once each. Raises ToolstackError if there is none."""
        switch = self._nets.switches.get(bridge)
        if switch is None:
            there = ", ".join(sorted(self._nets.switches)) or "none"
            raise ToolstackError(f"Dom0 has no bridge '{bridge}'; there are: {there}")
        Capture(self._kernel, switch, request.stream, request.answer)


class Capture:
    """One client's. `send` gets pieces of the file, `end` what to say last."""

    def __init__(
        self, kernel: Kernel, observed: Observed, send: Callable[[bytes], None], end: Callable[[Any], None]
    ) -> None:
        self._kernel = kernel
        self._observed = observed
        self._send = send
        self._end = end
        self._buffer = io.BytesIO()
        self._writer = PcapWriter(self._buffer)
        self._flushing = self._ended = False
        self._packets = self._dropped = 0
        observed.observers.append(self)
        self._flush()

    def saw(self, packet: Packet) -> None:
        """Record a packet; a checksum that was left to the device is shown as it will be."""
        if self._buffer.tell() > BUFFER:
            self._dropped += 1
            return
        data = checksum.fill(packet.data) if packet.csum_blank else packet.data
        self._writer.record(self._kernel.wall_clock(), data)
        self._packets += 1
        if not self._flushing:
            self._flushing = True
            self._kernel.call_soon(self._flush)

    def lost(self) -> None:
        """What was observed is gone: no more comes."""
        self._ended = True
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        try:
            if self._buffer.tell():
                self._send(self._buffer.getvalue())
                self._buffer.seek(0)
                self._buffer.truncate()
        except Congested:
            self._flushing = True
            self._kernel.call_later(RETRY, self._flush)
            return
        except Disconnected:
            if self in self._observed.observers:
                self._observed.observers.remove(self)
            return
        if self._ended:
            self._end(Captured(self._packets, self._dropped + self._writer.dropped))
