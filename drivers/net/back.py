"""Net back: serves every virtual interface whose back end the toolstack puts into this domain, and owns the
switches.

    backend/vif/<front's domid>/<device>     written by the toolstack: frontend, mac, bridge, handle, online,
    state

A switch comes to be with the first interface that names its bridge.
"""

from collections.abc import Callable

from domains.kernel.kernel import Kernel
from drivers.back_ends import BackEnds
from drivers.net.copier import Copier
from drivers.net.device import NetDevice
from drivers.net.switch import Switch


class NetBack(BackEnds[NetDevice]):
    """All devices below backend/vif."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel, "vif", self._make_device)
        self._copier: Copier | None = None
        self.switches: dict[str, Switch] = {}
        """By the name of the bridge."""

    def switch_of(self, bridge: str) -> Switch:
        """The switch behind a bridge's name."""
        if bridge not in self.switches:
            self.switches[bridge] = Switch(self._kernel.now)
        return self.switches[bridge]

    def _make_device(
        self, kernel: Kernel, path: str, ready: Callable[[], None], dirty: Callable[[], None]
    ) -> NetDevice:
        if self._copier is None:
            self._copier = Copier(kernel)
        return NetDevice(kernel, path, ready, dirty, self._copier, self.switch_of)
