"""Addresses of other hosts as they are written, and what a VXLAN port may be."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.control.records import Malformed, decode, encode
from domains.control.vxlan_operations import (
    ADDRESS_ANY,
    MAX_PEERS,
    UdpAddress,
    Vxlan,
    VxlanPeers,
    parse_peer,
    parse_peers,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.2", UdpAddress("10.0.0.2", 4789)),
        ("10.0.0.2:8472", UdpAddress("10.0.0.2", 8472)),
        ("fd00::2", UdpAddress("fd00::2", 4789)),
        ("FD00:0:0::2", UdpAddress("fd00::2", 4789)),
        ("[fd00::2]", UdpAddress("fd00::2", 4789)),
        ("[fd00::2]:8472", UdpAddress("fd00::2", 8472)),
    ],
)
def test_an_address_is_read_and_written(text: str, expected: UdpAddress) -> None:
    assert parse_peer(text) == expected
    assert parse_peer(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":",
            ":4789",
            "10.0.0",
            "10.0.0.2:",
            "10.0.0.2:65536",
            "10.0.0.2:-1",
            "10.0.0.2:１",
            "a.example",
        ),
        *(
            "[fd00::2",
            "[fd00::2]4789",
            "[10.0.0.2]x",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
        ),
        *("fe80::1", "::ffff:10.0.0.2", "10.0.0.2\0"),
    ],
)
def test_what_is_the_address_of_no_one_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_peer(text)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=30) | st.text("0123456789abcdef:.[]%", max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        found = parse_peer(text)
    except ValueError:
        return
    assert parse_peer(str(found)) == found


def test_a_host_is_a_peer_once() -> None:
    assert parse_peers(["10.0.0.2", "10.0.0.2:4789"]) == (UdpAddress("10.0.0.2", 4789),)
    with pytest.raises(ValueError, match="two peers at"):
        parse_peers(["10.0.0.2", "10.0.0.2:5"])


@pytest.mark.parametrize(
    ("port", "own", "mtu"),
    [
        (Vxlan("br", 1), "0.0.0.0:4789", 1450),
        (Vxlan("br", 1, ("10.0.0.2",), 5), "0.0.0.0:5", 1450),
        (Vxlan("br", 1, ("fd00::2",)), "[::]:4789", 1430),
        (Vxlan("br", 1, local="fd00::1"), "[fd00::1]:4789", 1430),
        (Vxlan("br", 1, local="::"), "[::]:4789", 1430),
        (Vxlan("br", 1, ("fd00::2",), mtu=9000), "[::]:4789", 9000),
    ],
)
def test_what_is_not_said_follows_from_what_is(port: Vxlan, own: str, mtu: int) -> None:
    assert (str(port.own), port.largest_packet) == (own, mtu)
    assert (port.own.host in ADDRESS_ANY.values()) == (port.local in ("", "::"))
    assert decode(Vxlan, encode(port)) == port


@pytest.mark.parametrize(
    "change",
    [
        *({"vni": 0}, {"vni": 1 << 24}, {"mtu": 575}, {"mtu": 65486}, {"port": 0}, {"local": "x"}),
        {"bridge": "a b"},
        {"peers": ["fd00::2", "10.0.0.2"]},
        {"peers": ["fd00::2"], "local": "10.0.0.1"},
        {"peers": ["10.0.0.2"] * (MAX_PEERS + 1)},
    ],
)
def test_what_cannot_be_is_malformed(change: dict[str, object]) -> None:
    decode(Vxlan, {"bridge": "br", "vni": 1})
    with pytest.raises(Malformed):
        decode(Vxlan, {"bridge": "br", "vni": 1} | change)


def test_too_many_peers_are_refused_before_they_are_looked_at() -> None:
    with pytest.raises(Malformed, match="longer than 256"):
        decode(VxlanPeers, {"bridge": "br", "peers": [5] * 257})
