"""What interfaces are called by: MAC addresses that stay the same, IPv4 addresses out of a network's subnet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from domains.control.description import XEN_OUI


def mac_of(*names: str | int) -> str:
    """The MAC address of whatever is called so: in the space that is Xen's (OUI 00:16:3e), its lower half."""
    tail = bytearray(hashlib.sha256("/".join(map(str, names)).encode()).digest()[:3])
    tail[0] &= 0x7F
    return (XEN_OUI + tail).hex(":")


class Subnet:
    """Hands out the addresses of a network in order, but for those that are taken."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if `text` is no IPv4 network."""
        self.network = IPv4Network(text)
        self._hosts: Iterator[IPv4Address] = self.network.hosts()
        self._taken: set[IPv4Address] = set()

    def take(self, text: str) -> str:
        """An address that its owner has chosen, with the network's prefix. Raises ValueError."""
        address = IPv4Interface(text).ip
        if address not in self.network:
            raise ValueError(f"{address} is not in {self.network}")
        if address in self._taken:
            raise ValueError(f"{address} is given twice")
        self._taken.add(address)
        return f"{address}/{self.network.prefixlen}"

    def next(self) -> str:
        """The next free address, with the network's prefix. Raises ValueError if there is none."""
        address = next((host for host in self._hosts if host not in self._taken), None)
        if address is None:
            raise ValueError(f"{self.network} has no address left")
        self._taken.add(address)
        return f"{address}/{self.network.prefixlen}"
