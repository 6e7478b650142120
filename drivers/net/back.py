"""Net back: serves every virtual interface whose back end the toolstack puts into this domain, and owns the
switches.

    backend/vif/<front's domid>/<device>     written by the toolstack: frontend, mac, bridge, handle, online,
    state

A switch comes to be with the first interface that names its bridge. Interfaces are served in rounds:

    take ─► one copy of all that fronts send ─► switch ─► one copy of all that fronts get ─► all events in one call

What a round costs beside its packets is the same for one interface as for all of them, and of its slots, of which there
is a fixed number, each interface gets an equal share. So whoever sends waits for the rest of one round and for its own,
whatever its neighbours send. While just two have used the network of late, nobody waits: their rounds are longer.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from domains.kernel.kernel import Kernel
from drivers.back_ends import BackEnds
from drivers.net.copier import Copier, Filling, Part
from drivers.net.device import NetDevice
from drivers.net.switch import Switch
from drivers.xenbus import XenbusEnd

ROUND: Final = 8
"""Slots taken in a round, slots filled in one, and interfaces that take part. A flood fills every round: with 16 its neighbours'
ping takes twice as long, with 8 a third more, and a third fewer small packets pass (`scripts/bench net`)."""
LONG_ROUND: Final = 64
"""The same while no more than two interfaces took part in the last LATELY rounds."""
LATELY: Final = 32
"""Rounds, so that whoever pings every now and then keeps them short, and who comes anew waits for a long one once."""


class NetBack(BackEnds[NetDevice]):
    """All devices below backend/vif."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "vif", self._make_device)
        self._copier: Copier | None = None
        self._rounds = 0
        self._lately: dict[
            str, int
        ] = {}  # of an interface, by its path: the last round in which it took part
        self.switches: dict[str, Switch] = {}
        """By the name of the bridge."""

    def switch_of(self, bridge: str) -> Switch:
        """The switch behind a bridge's name."""
        if bridge not in self.switches:
            self.switches[bridge] = Switch(self._kernel.now)
        return self.switches[bridge]

    def serve(self, crowd: int) -> None:
        """A round of the interfaces that have waited longest, and of those that get what they send."""
        devices = [device for device in self.take_ready(ROUND) if device.can_serve]
        slots = self._slots(devices)
        self._send(devices, max(slots // max(crowd, 1), 1))
        senders = len(devices)
        receivers = self.take_ready(ROUND - senders)
        devices += [device for device in receivers if device.can_serve and device not in devices]
        slots = min(slots, self._slots(devices))
        self._give(devices, max(slots // max(len(devices), 1), 1))
        self._rounds += 1
        told = devices[senders:] + devices[:senders]  # who only gets something may sleep, who sends is awake
        ports = [device.port for device in told if device.bell and device.port is not None]
        self._kernel.events.notify_all(ports)
        for device in devices:
            device.bell = False
            device.end_turn(device.attempt(device.end_round, False))

    def _slots(self, devices: list[NetDevice]) -> int:
        """How many slots this round has, in which these take part."""
        self._lately.update((device.end.path, self._rounds) for device in devices)
        if len(self._lately) > 2:
            first = self._rounds - LATELY
            self._lately = {path: last for path, last in self._lately.items() if last > first}
        return LONG_ROUND if len(self._lately) <= 2 else ROUND

    def _send(self, devices: list[NetDevice], most: int) -> None:
        """What these fronts send goes to the switch, of each so many slots."""
        none: list[Part] = []
        taken = [(device, device.attempt(partial(device.take, most), none)) for device in devices]
        pieces = iter(self._copy.fetch([part for _, parts in taken for part in parts]))
        for device, parts in taken:
            mine = list(islice(pieces, len(parts)))
            device.attempt(partial(device.sent, mine), None)

    def _give(self, devices: list[NetDevice], most: int) -> None:
        """What the switch has for these fronts goes to them, to each so many slots, or a packet."""
        none: list[Filling] = []
        matched = [(device, device.attempt(partial(device.match, most), none)) for device in devices]
        done = iter(self._copy.deliver([page for _, pages in matched for page in pages]))
        for device, pages in matched:
            mine = list(islice(done, len(pages)))
            device.attempt(partial(device.given, mine), None)

    @property
    def _copy(self) -> Copier:
        """Made with the first round: its pages are only there where there is a network."""
        if self._copier is None:
            self._copier = Copier(self._kernel)
        return self._copier

    def _make_device(
        self, kernel: Kernel, end: XenbusEnd, ready: Callable[[], None], dirty: Callable[[], None]
    ) -> NetDevice:
        return NetDevice(kernel, end, ready, dirty, self.switch_of)
