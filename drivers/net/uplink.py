"""An uplink: the port of a switch behind which the host's own network is, by way of a TAP device.

A frame leaves as it would on a wire: with its checksum, and of no more bytes than one has, for the device's other end
knows nothing of ours. The host is
the slower's equal: a frame for which the device has no room is dropped and counted, and so is one that comes for a
guest whose queue is full.
"""

import os
from collections.abc import Hashable
from typing import Final

from domains.kernel.kernel import Kernel
from drivers.net import checksum
from drivers.net.protocol import MAX_PACKET, Packet
from drivers.net.segmentation import split
from drivers.net.switch import Switch

TURN_FRAMES: Final = 32
"""Frames taken in one turn of the loop."""


class Uplink:
    """Connects `switch` with the device of descriptor `tap`, which stays the caller's to close."""

    def __init__(self, kernel: Kernel, switch: Switch, tap: int, name: str) -> None:
        self._kernel = kernel
        self._switch = switch
        self._tap = tap
        self._port = f"uplink/{name}"
        self.dropped = 0
        switch.attach(self._port, self._deliver)
        kernel.add_reader(tap, self._take)

    def close(self) -> None:
        """Harmless if it is closed already."""
        self._kernel.remove_reader(self._tap)
        self._switch.detach(self._port)

    def _take(self) -> None:
        """The host has sent something."""
        for _ in range(TURN_FRAMES):
            try:
                frame = os.read(self._tap, MAX_PACKET)
            except BlockingIOError:
                return
            except OSError as error:  # the interface was deleted
                print(f"{self._port} is gone: {error.strerror}")
                self.close()
                return
            self._switch.accept(self._port, Packet(frame))

    def _deliver(self, _source: Hashable, packet: Packet) -> None:
        """The switch has something for the host."""
        for one in split(packet):
            frame = checksum.fill(one.data) if one.csum_blank else one.data
            try:
                os.write(self._tap, frame)
            except OSError:  # no room, or the interface is down
                self.dropped += 1
