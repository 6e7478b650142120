"""What xl's block-list and network-list tell of a device: its place from the toolstack's own note, its state from the nodes
that the domain itself publishes, which may say anything (libxl_device_disk_getinfo, libxl_device_nic_getinfo).
"""

from __future__ import annotations

import re
from typing import Final

from domains.control.device_operations import BlockDevice, NetworkDevice
from domains.dom0.toolstack import devices
from domains.dom0.toolstack.store_tree import read_or_none
from domains.kernel.store_calls import StoreCalls
from hypervisor.public.types import DomId

OF_BACKEND: Final = re.compile(r"/local/domain/([0-9]{1,5})/backend/")
MAX_LISTED: Final = 1024
"""Devices in one answer."""


def block_device(nodes: StoreCalls, domid: DomId, devid: int) -> BlockDevice | None:
    """A disk; None if it is gone again."""
    note = devices.note_path(domid, "vbd", devid)
    path = read_or_none(nodes, f"{note}/backend")
    if path is None:
        return None
    front = devices.front_path(domid, "vbd", devid)
    return BlockDevice(
        domid=domid,
        devid=devid,
        vdev=text(nodes, f"{note}/dev"),
        target=text(nodes, f"{note}/params"),
        writable=text(nodes, f"{note}/mode") == "w",
        backend_id=backend_of(path),
        state=number(nodes, f"{front}/state"),
        event_channel=number(nodes, f"{front}/event-channel"),
        ring_ref=number(nodes, f"{front}/ring-ref"),
        backend_path=path,
    )


def network_device(nodes: StoreCalls, domid: DomId, devid: int) -> NetworkDevice | None:
    """An interface; None if it is gone again."""
    note = devices.note_path(domid, "vif", devid)
    path = read_or_none(nodes, f"{note}/backend")
    if path is None:
        return None
    front = devices.front_path(domid, "vif", devid)
    return NetworkDevice(
        domid=domid,
        devid=devid,
        mac=text(nodes, f"{note}/mac"),
        bridge=text(nodes, f"{note}/bridge"),
        backend_id=backend_of(path),
        state=number(nodes, f"{front}/state"),
        event_channel=number(nodes, f"{front}/event-channel"),
        tx_ring_ref=number(nodes, f"{front}/tx-ring-ref"),
        rx_ring_ref=number(nodes, f"{front}/rx-ring-ref"),
        backend_path=path,
    )


def backend_of(path: str) -> DomId:
    """The domain that a back end's directory lies in."""
    found = OF_BACKEND.match(path)
    return DomId(int(found[1]) if found else 0)


def text(nodes: StoreCalls, path: str) -> str:
    """A node's value; "" if there is none."""
    return read_or_none(nodes, path) or ""


def number(nodes: StoreCalls, path: str) -> int:
    """A node's value as a number below 2**32; -1 for anything else."""
    value = read_or_none(nodes, path) or ""
    known = value.isascii() and value.isdecimal() and len(value) <= 10
    return int(value) if known and int(value) < 1 << 32 else -1
