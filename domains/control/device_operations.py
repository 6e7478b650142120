"""What Dom0's toolstack can be asked about a domain's devices while it runs: the records of xl's block-… and network-… commands.
A part of `operations.py`, which has the table of all.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from domains.control.arguments import Arguments, Count, DomIdNumber
from domains.control.description import MAX_DEVID, Disk, DomainText, Vif
from domains.control.records import Length, Range, Record

MAX_DOMAINS: Final = 1024
"""Domains named in one request."""
DETACH_SECONDS: Final = 10.0
"""How long a domain may take to let go of a device: libxl's LIBXL_DESTROY_TIMEOUT."""
LONGEST_DETACH: Final = 86400.0

DeviceText = Annotated[str, Length(32)]
"""What names a device: `xvdb`, `51728`, `0xca10` a disk; `1`, `00:16:3e:…` an interface."""
DetachTime = Annotated[float, Range(0, LONGEST_DETACH)]
"""Seconds."""
Signed = Annotated[int, Range(-1, (1 << 32) - 1)]
"""A number that the domain has published; -1: none, or no number."""
DomainTexts = Annotated[tuple[DomainText, ...], Length(MAX_DOMAINS)]


class Attached(Record):
    """A device that was announced, and whose back end is ready: its number, and its back end's directory in xenstore."""

    domid: DomIdNumber
    devid: Count
    backend_path: str


class BlockAttach(Arguments[Attached]):
    """Give a domain one more disk. Answered when the back end waits for the domain."""

    domain: DomainText
    disk: Disk


class BlockDetach(Arguments[None]):
    """Take a disk away from a domain. One that has not let go of it after `timeout` keeps it; with `force` it is not asked."""

    domain: DomainText
    device: DeviceText
    force: bool = False
    timeout: DetachTime = DETACH_SECONDS


class BlockDevice(Record):
    """A domain's disk. `state`, `event_channel` and `ring_ref` are what the domain has published; -1: nothing."""

    domid: DomIdNumber
    devid: Count
    vdev: str
    target: str
    writable: bool
    backend_id: DomIdNumber
    state: Signed
    event_channel: Signed
    ring_ref: Signed
    backend_path: str


class BlockList(Arguments[tuple[BlockDevice, ...]]):
    """The disks of these domains."""

    domains: DomainTexts


class NetworkAttach(Arguments[Attached]):
    """Give a domain one more interface. Answered when the back end waits for the domain."""

    domain: DomainText
    vif: Vif


class NetworkDetach(Arguments[None]):
    """Take an interface away from a domain; from one that has not let go of it after `timeout`, too."""

    domain: DomainText
    device: DeviceText
    timeout: DetachTime = DETACH_SECONDS


class NetworkDevice(Record):
    """A domain's interface. `state`, `event_channel` and the rings are what the domain has published; -1: nothing."""

    domid: DomIdNumber
    devid: Annotated[int, Range(0, MAX_DEVID)]
    mac: str
    bridge: str
    backend_id: DomIdNumber
    state: Signed
    event_channel: Signed
    tx_ring_ref: Signed
    rx_ring_ref: Signed
    backend_path: str


class NetworkList(Arguments[tuple[NetworkDevice, ...]]):
    """The interfaces of these domains."""

    domains: DomainTexts


DEVICE_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "block-attach": BlockAttach,
    "block-detach": BlockDetach,
    "block-list": BlockList,
    "network-attach": NetworkAttach,
    "network-detach": NetworkDetach,
    "network-list": NetworkList,
}
"""These operations by their names."""
