"""Network interface specifications, xl-network-configuration(5): `key=value` separated by commas, all
optional.
"""

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Interface, NetmaskValueError, ip_interface
from typing import Any, Final

from domains.control.description import INTERFACE_NAME, MAC_ADDRESS, MAX_ADDRESSES, MAX_U32, Rate, Vif
from domains.dom0.toolstack.xlcfg.backend import parse_backend

IGNORED: Final = ("model", "type", "accel")
"""What stands in descriptions for Xen and makes no difference here: a PV guest has no emulated device; and what was xm's."""
FLAGS: Final = ("trusted",)
"""Words without a value that ask for what there is anyway."""
SCRIPTS: Final = "/etc/xen/scripts"
RATE: Final = re.compile(r"([0-9]+)([GMK]?)([Bb])/s(?:@([0-9]+)(s|ms|us)?)?")
MULTIPLES: Final = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
MICROSECONDS: Final = {None: 1000**2, "s": 1000**2, "ms": 1000, "us": 1}
INTERVAL: Final = 50_000
"""Microseconds between two replenishments where none are named."""
MTU_RANGE: Final = range(68, 65522)
"""RFC 791's smallest, and what fits into netif's largest packet behind an Ethernet header."""


def parse_vif(text: str) -> Vif:
    """The interface that a specification describes. Raises ValueError with a reason of one line."""
    named: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if item in FLAGS:
            continue
        if not equals:
            raise ValueError(f"'{item}' in a vif is not key=value")
        if key not in PARSERS and key not in IGNORED and key not in UNSUPPORTED:
            raise ValueError(f"unknown vif option '{key}'")
        if key in named:
            raise ValueError(f"vif option '{key}' is given twice")
        if key in UNSUPPORTED and value:
            raise ValueError(f"vif option '{key}' is not supported: {UNSUPPORTED[key]}")
        named[key] = value
    fields = {field: parse(named[key]) for key, (field, parse) in PARSERS.items() if key in named}
    return Vif(**fields)


def parse_mac(text: str) -> str:
    """Six bytes in hexadecimal, in lower case."""
    mac = ":".join(part.zfill(2) for part in re.split("[:-]", text.lower()))
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac):
        raise ValueError(f"'{text}' is no MAC address")
    if not MAC_ADDRESS.fullmatch(mac):
        raise ValueError(f"'{text}' is a group address; the first byte of a MAC must be even")
    return mac


def parse_name(text: str) -> str:
    """Of a bridge or an interface: as Linux bounds them."""
    if not INTERFACE_NAME.fullmatch(text):
        raise ValueError(f"'{text}' is no name of a bridge or interface: 1 to 15 of A-Z a-z 0-9 _ . : -")
    return text


def parse_ip(text: str) -> str:
    """An IPv4 address, with or without the length of its network's prefix."""
    try:
        IPv4Interface(text)
    except (AddressValueError, NetmaskValueError):
        raise ValueError(f"'{text}' is no IPv4 address, such as 10.0.0.1 or 10.0.0.1/24") from None
    return text


def parse_ips(text: str) -> str:
    """Addresses as `ip=` has them, for whoever filters or configures: IPv4 and IPv6, with or without the length of the prefix,
    several with blanks between them.
    """
    words = text.split()
    for word in words:
        try:
            ip_interface(word)
        except ValueError:
            raise ValueError(f"'{word}' is no IP address, such as 10.0.0.1, 10.0.0.1/24 or fd00::1") from None
    if not words or len(text.encode()) > MAX_ADDRESSES:
        raise ValueError(f"ip= has no address, or more than {MAX_ADDRESSES} bytes of them")
    return " ".join(words)


def parse_rate(text: str) -> Rate:
    """`10Mb/s`, `250KB/s`, `1MB/s@20ms`: bits or bytes a second, and how often the credit is renewed."""
    found = RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"'{text}' is no rate, such as 10Mb/s, 250KB/s or 1MB/s@20ms")
    number, multiple, unit, interval, scale = found.groups()
    if not 0 < int(number) <= MAX_U32:
        raise ValueError(f"'{text}' is a rate of nothing, or too large a number")
    bytes_per_second = int(number) * MULTIPLES[multiple] // (8 if unit == "b" else 1)
    usecs = int(interval) * MICROSECONDS[scale] if interval else INTERVAL
    if not 0 < usecs <= MAX_U32:
        raise ValueError(f"'{text}' has no interval, or one that is too long")
    if not (in_interval := bytes_per_second * usecs // 1000**2):
        raise ValueError(f"'{text}' is less than a byte in each interval")
    return Rate(in_interval, usecs)


def parse_script(text: str) -> str:
    """A hotplug script: a path, or a name in Xen's own folder."""
    return text if text.startswith("/") else f"{SCRIPTS}/{text}"


def parse_mtu(text: str) -> int:
    """Bytes of the largest IP packet."""
    if not text.isascii() or not text.isdigit() or int(text[:6]) not in MTU_RANGE:
        raise ValueError(f"'{text}' is no MTU; {MTU_RANGE.start} to {MTU_RANGE.stop - 1} are possible")
    return int(text)


PARSERS: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "mac": ("mac", parse_mac),
    "bridge": ("bridge", parse_name),
    "vifname": ("name", parse_name),
    "ip": ("ip", parse_ips),
    "rate": ("rate", parse_rate),
    "mtu": ("mtu", parse_mtu),
    "script": ("script", parse_script),
    "backend": ("backend", parse_backend),
}
ROUTED: Final = "there are bridges, and no routing scripts; write bridge="
UNSUPPORTED: Final = {
    "gatewaydev": ROUTED,
    "netdev": ROUTED,
    "vlan": "bridges here have no VLANs; make a bridge for each",
    "devid": "interfaces are numbered as they stand in the list",
    "forwarddev": "there is no COLO",
}
"""Options of xl's that are refused, unless they say nothing, and what to do."""
