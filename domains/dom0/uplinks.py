"""The machine's uplinks: opened before the first guest is there, closed with the machine."""

from __future__ import annotations

from collections.abc import Sequence

from domains.control import operations
from domains.dom0.toolstack.xlcfg.uplink import UplinkSpec
from domains.kernel.kernel import Kernel
from drivers.net.back import NetBack
from drivers.net.tap import Taps
from drivers.net.uplink import Uplink


class Uplinks:
    """All that the machine was started with. Raises TapError if one of them cannot be."""

    def __init__(self, kernel: Kernel, nets: NetBack, specs: Sequence[UplinkSpec]) -> None:
        self._specs = specs
        self._taps = Taps.open([(spec.ifname, spec.address) for spec in specs])
        self._uplinks = [
            Uplink(kernel, nets.switch_of(spec.bridge), fd, spec.ifname)
            for spec, fd in zip(specs, self._taps.fds, strict=True)
        ]

    def describe(self) -> tuple[operations.Uplink, ...]:
        """For `info`."""
        return tuple(operations.Uplink(s.bridge, s.ifname, s.address, self._taps.pid) for s in self._specs)

    def close(self) -> None:
        """Takes the interfaces away from the host."""
        for uplink in self._uplinks:
            uplink.close()
        self._taps.close()
