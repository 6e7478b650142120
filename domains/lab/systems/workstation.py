"""The same monitor as ESX's inside a process of a host system, as VMware Workstation: real I/O is the host's."""

from __future__ import annotations

from domains.lab.systems.esx import Ring1
from domains.lab.systems.world_switch import Host, MonitorDevices, Policy


class Workstation(Ring1):
    """A `System`. `broken`: the sector at which the host's half has a fault; -1: none."""

    name = "workstation"

    def __init__(self, policy: Policy = Policy.TRANSMIT, *, broken: int = -1) -> None:
        super().__init__()
        self.host = Host(self.memfd, broken)
        self.ports = MonitorDevices(self.host, policy)
        self.devices = self.ports

    def close(self) -> None:
        """See System."""
        self.host.close()
        super().close()
