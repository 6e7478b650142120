"""ARP, ICMP and UDP between hosts on one Ethernet, and what strangers may send to them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net.ip import arp
from drivers.net.protocol import Packet
from tests.drivers.net.ip.link import Link, fair

A, B = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def ping(link: Link, destination: bytes = B, payload: bytes = b"payload") -> list[tuple[bytes, bytes]]:
    answers: list[tuple[bytes, bytes]] = []
    link.stacks[0].icmp.ping(destination, 7, 1, payload, lambda *answer: answers.append(answer))
    link.clock.pass_time(5)
    return answers


def test_a_ping_is_answered_with_what_it_brought() -> None:
    link = Link()
    link.host(), link.host(), link.host()
    assert ping(link) == [(B, b"payload")]


def test_nobody_answers_for_an_address_that_nobody_has() -> None:
    link = Link()
    link.host(), link.host()
    assert ping(link, bytes((10, 0, 0, 77))) == []
    assert len(link.frames) == arp.ATTEMPTS


def test_what_waits_for_an_address_is_sent_when_it_is_known() -> None:
    """The first question is lost; the datagram is not."""
    link = Link(lambda number, frame: [] if number == 1 else fair(number, frame))
    link.host(), link.host()
    assert ping(link) == [(B, b"payload")]


def test_an_address_is_asked_for_once_for_many_datagrams() -> None:
    link = Link()
    a, b = link.host(), link.host()
    received: list[bytes] = []
    b.udp.bind(2000, lambda address, port, data: received.append(data))
    for number in range(arp.WAITING):
        a.udp.send_to(1000, B, 2000, bytes([number]))
    link.clock.pass_time(1)
    assert received == [bytes([number]) for number in range(arp.WAITING)]
    assert sum(frame[12:14] == b"\x08\x06" for frame in link.frames) == 2


def test_a_host_that_changed_its_station_is_found_when_it_says_so() -> None:
    link = Link()
    a, _ = link.host(), link.host()
    assert ping(link)
    moved = link.host("10.0.0.2/24")
    link.stacks.pop(1)
    moved.arp.announce()
    link.clock.pass_time(1)
    assert a.arp.known()[B] == moved.mac


def test_a_table_of_addresses_is_bounded() -> None:
    link = Link()
    a = link.host()
    for number in range(3 * arp.ENTRIES):
        sender = bytes((10, 0, *divmod(number, 256)))
        message = arp.MESSAGE.pack(1, 0x0800, 6, 4, 2, b"\x02" + bytes(5), sender, a.mac, A)
        a.receive(Packet(a.mac + b"\x02" + bytes(5) + b"\x08\x06" + message))
    assert len(a.arp.known()) <= arp.ENTRIES


def test_datagrams_reach_their_port_and_their_answers_the_sender() -> None:
    link = Link()
    a, b = link.host(), link.host()
    answers: list[tuple[bytes, int, bytes]] = []
    b.udp.bind(2000, lambda address, port, data: b.udp.send_to(2000, address, port, data[::-1]))
    port = a.udp.bind(0, lambda *answer: answers.append(answer))
    a.udp.send_to(port, B, 2000, b"hello")
    link.clock.pass_time(1)
    assert answers == [(B, 2000, b"olleh")]


def test_a_broadcast_reaches_every_host_and_is_not_refused() -> None:
    link = Link()
    hosts = [link.host() for _ in range(4)]
    received: list[int] = []
    for number, host in enumerate(hosts[1:-1]):
        host.udp.bind(2000, lambda address, port, data, number=number: received.append(number))  # type: ignore[misc]
    for destination in (b"\xff" * 4, bytes((10, 0, 0, 255))):
        hosts[0].udp.send_to(1000, destination, 2000, b"all")
    link.clock.pass_time(1)
    assert sorted(received) == [0, 0, 1, 1]
    assert len(link.frames) == 2


def test_a_datagram_for_nobody_is_refused_by_icmp() -> None:
    link = Link()
    a, _ = link.host(), link.host()
    a.udp.send_to(1000, B, 2000, b"hello?")
    link.clock.pass_time(1)
    assert link.frames[-1][34:36] == b"\x03\x03"


def test_hosts_of_other_networks_are_reached_by_the_gateway_alone() -> None:
    link = Link()
    a, router = link.host(gateway="10.0.0.2"), link.host()
    a.udp.send_to(1000, bytes((192, 0, 2, 1)), 2000, b"far away")
    link.clock.pass_time(1)
    assert link.frames[-1][:6] == router.mac
    router.udp.send_to(1000, bytes((192, 0, 2, 1)), 2000, b"far away")
    frames = len(link.frames)
    link.clock.pass_time(1)
    assert len(link.frames) == frames


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from([b"\x08\x00", b"\x08\x06", b""]), data=st.binary(max_size=120), to_all=st.booleans()
)
def test_no_frame_harms_a_host(kind: bytes, data: bytes, to_all: bool) -> None:
    link = Link()
    a = link.host()
    a.receive(Packet((b"\xff" * 6 if to_all else a.mac) + b"\x02" + bytes(5) + kind + data))
    link.clock.pass_time(10)
    link.host()
    assert ping(link) == [(B, b"payload")]


@settings(deadline=None, max_examples=200)
@given(cut=st.integers(0, 60), flips=st.lists(st.integers(0, 60 * 8), max_size=4))
def test_a_damaged_ping_is_not_answered_wrongly(cut: int, flips: list[int]) -> None:
    link = Link()
    a, b = link.host(), link.host()
    ping(link)
    request = bytearray(next(f for f in link.frames if f[23:24] == b"\x01" and f[34] == 8))
    for flip in flips:
        if flip // 8 < len(request):
            request[flip // 8] ^= 1 << flip % 8
    sent = len(link.frames)
    b.receive(Packet(bytes(request[: len(request) - cut])))
    link.clock.pass_time(1)
    for frame in link.frames[sent:]:
        if frame[12:14] == b"\x08\x00" and frame[34] == 0:
            assert frame[42:] == request[42:]
    assert a.arp.known()
