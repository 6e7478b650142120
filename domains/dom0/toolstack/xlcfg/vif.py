"""Network interface specifications, xl-network-configuration(5): `key=value` separated by commas, all
optional.
"""

import re
from dataclasses import dataclass
from typing import Final

KEYS: Final = (
    "mac",
    "bridge",
    "vifname",
    "ip",
    "script",
    "rate",
    "backend",
    "model",
    "type",
    "gatewaydev",
    "mtu",
)


@dataclass(frozen=True, slots=True)
class Vif:
    """One virtual network interface; what is None is chosen at creation."""

    mac: str | None = None
    bridge: str = "xenbr0"
    name: str | None = None
    ip: str | None = None


def parse_vif(text: str) -> Vif:
    """The interface that a specification describes. Raises ValueError with a reason of one line."""
    named: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"'{item}' in a vif is not key=value")
        if key not in KEYS:
            raise ValueError(f"unknown vif option '{key}'")
        if key in named:
            raise ValueError(f"vif option '{key}' is given twice")
        named[key] = value
    for key in ("script", "rate", "backend", "gatewaydev", "mtu"):
        if key in named:
            raise ValueError(f"vif option '{key}' is not supported yet")
    mac = named.get("mac")
    if mac is not None and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", mac):
        raise ValueError(f"'{mac}' is no MAC address")
    if mac is not None and int(mac[:2], 16) & 1:
        raise ValueError(f"'{mac}' is a group address; the first byte of a MAC must be even")
    return Vif(mac and mac.lower(), named.get("bridge", "xenbr0"), named.get("vifname"), named.get("ip"))
