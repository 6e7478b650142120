"""The sockets of a VTEP, real ones on the loopback interface."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from drivers.net.vxlan.udp import LARGEST, SENDERS, UdpEnd, UdpError, local_among
from tests.machines import wait_until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request: pytest.FixtureRequest) -> str:
    if ":" in request.param and not has_ipv6():
        pytest.skip("the host has no IPv6")
    return str(request.param)


@pytest.fixture
def receiver(host: str) -> Iterator[socket.socket]:
    """Somebody else's socket, to see what leaves."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        one.settimeout(20)
        yield one


def free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        one.bind((host, 0))
        return int(one.getsockname()[1])


def test_packets_go_and_come(host: str, receiver: socket.socket) -> None:
    port = free_port(host)
    with closing(UdpEnd(host, port)) as end:
        assert end.receive() is None
        assert end.send(b"hello", (host, receiver.getsockname()[1]), 0)
        assert receiver.recv(100) == b"hello"
        receiver.sendto(bytes(60_000), (host, port))
        assert wait_until(end.receive, what="the packet") == (bytes(60_000), host)


def test_each_flow_has_a_source_port_of_its_own(host: str, receiver: socket.socket) -> None:
    with closing(UdpEnd(host, free_port(host))) as end:
        ports: dict[int, set[int]] = {}
        for flow in (*range(SENDERS), *range(SENDERS)):
            assert end.send(b"x", (host, receiver.getsockname()[1]), flow)
            ports.setdefault(flow, set()).add(receiver.recvfrom(10)[1][1])
    assert all(len(found) == 1 for found in ports.values())
    assert len(set.union(*ports.values())) == SENDERS


def test_what_the_host_refuses_is_no_error(host: str) -> None:
    with closing(UdpEnd(host, free_port(host))) as end:
        assert ":" in host or not end.send(b"x", ("255.255.255.255", 9), 0)
        assert not end.send(bytes(LARGEST + 1), (host, 9), 0)


def test_a_port_that_somebody_has_and_an_address_that_is_not_ours_are_refused_in_one_line() -> None:
    port = free_port("127.0.0.1")
    with closing(UdpEnd("127.0.0.1", port)):
        with pytest.raises(UdpError, match=f"UDP port {port} of 127.0.0.1: another program has it"):
            UdpEnd("127.0.0.1", port)
        UdpEnd("127.0.0.2", port).close()
    with pytest.raises(UdpError, match="the host has no such address"):
        UdpEnd("198.51.100.1", port)


def test_addresses_are_known_as_this_hosts_own(host: str) -> None:
    others = ["2001:db8::1", "2001:db8::2"] if ":" in host else ["198.51.100.1", "198.51.100.2"]
    assert local_among([others[0], host, others[1]]) == {host}
    assert local_among(others) == local_among([]) == set()
