"""What has gone through the devices that Dom0 serves, by domains. Driver domains count for themselves."""

from __future__ import annotations

import re
from typing import Final

from domains.control.domain_operations import DomainTraffic
from drivers.block.back import BlockBack
from drivers.block.overlay import Overlays
from drivers.net.back import NetBack

OF_DOMAIN: Final = re.compile(r"(?:^|/)backend/\w+/(\d+)/")
"""The front end's domain in the path of a device."""


class Devices:
    """The back ends of Dom0's own."""

    def __init__(self, blocks: BlockBack, nets: NetBack) -> None:
        self._blocks = blocks
        self._nets = nets

    def disks_idle(self, domid: int) -> bool:
        """Whether Dom0's back ends have done all that a domain, which stands still, has asked of its disks."""
        of_domain = f"backend/vbd/{domid}/"
        return all(disk.is_idle for path, disk in self._blocks.devices.items() if of_domain in path)

    @property
    def overlays(self) -> Overlays:
        """The disks of forks."""
        return self._blocks.overlays

    def traffic(self) -> list[DomainTraffic]:
        """What each domain's devices have done so far, by the order of ids. A disk's counts begin anew when its front end
        connects again.
        """
        counts: dict[int, dict[str, int]] = {}
        for path, interface in self._nets.devices.items():
            add(
                counts, path, nets=1, sent_bytes=interface.sent_bytes, received_bytes=interface.received_bytes
            )
        for path, disk in self._blocks.devices.items():
            did = disk.counters
            add(counts, path, vbds=1)
            if did is not None:
                add(
                    counts,
                    path,
                    rd_req=did.rd_req,
                    wr_req=did.wr_req,
                    rd_sect=did.rd_sect,
                    wr_sect=did.wr_sect,
                )
        blank = dict.fromkeys(DomainTraffic.fields, 0)
        return [DomainTraffic(**blank | counts[domid] | {"domid": domid}) for domid in sorted(counts)]


def add(counts: dict[int, dict[str, int]], path: str, **more: int) -> None:
    """Count what a device has done for its domain."""
    found = OF_DOMAIN.search(path)
    if found is not None:
        sums = counts.setdefault(int(found[1]), {})
        for name, number in more.items():
            sums[name] = sums.get(name, 0) + number
