"""What `--uplink` says: which bridge is connected with the host, and what the host's end is to be.

xenbr0                               an interface of that name, without an address
xenbr0=10.0.0.254/24                 with one; without a prefix it is a /24, as a vif's `ip`
xenbr0=10.0.0.254/24,ifname=tap7     under another name (as QEMU's -netdev tap)
"""

from typing import Final, NamedTuple

from domains.dom0.toolstack.xlcfg.vif import parse_ip, parse_name

DEFAULT_PREFIX: Final = 24


class UplinkSpec(NamedTuple):
    """`address` has a prefix, or is empty."""

    bridge: str
    address: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.bridge}={self.address},ifname={self.ifname}"


def parse_uplink(text: str) -> UplinkSpec:
    """The uplink that a text describes. Raises ValueError with a reason of one line."""
    first, *options = text.split(",")
    bridge, _, address = first.partition("=")
    ifname = parse_name(bridge)
    for option in options:
        key, _, ifname = option.partition("=")
        if key != "ifname":
            raise ValueError(f"unknown option '{option}' of an uplink; there is ifname=")
    if ":" in parse_name(ifname):
        raise ValueError(f"'{ifname}' is no name of an interface; choose another one with ifname=")
    if address and "/" not in parse_ip(address):
        address = f"{address}/{DEFAULT_PREFIX}"
    return UplinkSpec(bridge, address, ifname)
