"""Switches of several hosts as one layer 2: flood, learn, never from host to host, and no frame larger than fits.

Controls: without isolated ports (`drivers/net/bridge.py`) frames go round between three hosts, and the test of split horizon
fails; without `checksum.fill` in the overlay the test of blank checksums does.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net import checksum
from drivers.net.bridge import AGEING_NS, STATIONS_PER_PORT
from drivers.net.protocol import Packet
from drivers.net.vxlan.header import header_of
from tests.drivers.net.network import frame, mac_of
from tests.drivers.net.test_segmentation import is_sound, tcp
from tests.drivers.net.vxlan.fabric import PORT, VNI, Host, connected

BROADCAST = b"\xff" * 6
A, B, C = mac_of(1), mac_of(2), mac_of(3)


def data_of(host: Host, guest: str = "g") -> list[bytes]:
    """What a guest has got since it was asked last."""
    got = [packet.data for packet in host.guests[guest]]
    host.guests[guest].clear()
    return got


def test_a_frame_for_everybody_reaches_each_guest_of_each_host_once() -> None:
    fabric, (one, two, three) = connected(3)
    two.guest("h")
    hello = frame(BROADCAST, A)
    one.say("g", hello)
    assert [data_of(two), data_of(two, "h"), data_of(three)] == [[hello]] * 3
    assert data_of(one) == []
    assert [(packet, end) for packet, end, _ in fabric.sent] == [
        (header_of(VNI) + hello, ("10.0.0.2", PORT)),
        (header_of(VNI) + hello, ("10.0.0.3", PORT)),
    ]


def test_what_comes_from_a_host_never_goes_to_another() -> None:
    """Each host sends to all others itself; a third one's copy would go round for ever."""
    fabric, (one, two, three) = connected(3)
    one.say("g", frame(BROADCAST, A))
    one.say("g", frame(C, A))  # nobody has heard C yet
    assert len(fabric.sent) == 4
    three.say("g", frame(BROADCAST, C))
    fabric.sent.clear()
    two.receive(header_of(VNI) + frame(C, A), one.address)  # two knows that C is at three
    assert fabric.sent == []


def test_a_frame_to_a_station_that_was_heard_goes_to_its_host_alone() -> None:
    fabric, (one, two, three) = connected(3)
    two.say("g", frame(BROADCAST, B))
    data_of(three)
    fabric.sent.clear()
    one.say("g", frame(B, A))
    assert [end for _, end, _ in fabric.sent] == [("10.0.0.2", PORT)]
    assert data_of(two) == [frame(B, A)]
    assert data_of(three) == []


def test_a_station_that_moves_to_another_host_is_found_with_its_first_frame() -> None:
    fabric, (one, two, three) = connected(3)
    two.say("g", frame(BROADCAST, B))
    three.say("g", frame(BROADCAST, B))  # it was migrated, and announces itself
    for host in (one, two, three):
        data_of(host)
    fabric.sent.clear()
    one.say("g", frame(B, A))
    assert data_of(three) == [frame(B, A)]
    assert data_of(two) == []
    two.say("g", frame(B, C))  # also where it was
    assert data_of(three) == [frame(B, C)]


def test_a_station_not_heard_of_for_long_may_be_behind_any_host() -> None:
    fabric, (one, two, three) = connected(3)
    two.say("g", frame(BROADCAST, B))
    fabric.time = AGEING_NS + 1
    data_of(three)
    one.say("g", frame(B, A))
    assert data_of(two)[-1:] == data_of(three) == [frame(B, A)]


def test_a_host_that_is_no_peer_any_more_gets_nothing_and_is_not_believed() -> None:
    fabric, (one, two, three) = connected(3)
    two.say("g", frame(BROADCAST, B))
    three.say("g", frame(BROADCAST, C))
    for host in (one, two, three):
        data_of(host)
    fabric.sent.clear()
    one.meet(three)
    assert one.switch.stations(one.segment.peers["10.0.0.3"]) == 1  # who stays is still known
    one.say("g", frame(B, A))
    assert [end[0] for _, end, _ in fabric.sent] == ["10.0.0.3"]
    two.say("g", frame(BROADCAST, B))
    assert one.segment.unknown_sender == 1
    assert data_of(one) == []
    one.meet(two, three)
    two.say("g", frame(BROADCAST, B))
    assert data_of(one) == [frame(BROADCAST, B)]


def test_a_hosts_flood_of_senders_displaces_nobody_elses_station() -> None:
    _, (one, two, three) = connected(3)
    two.say("g", frame(BROADCAST, B))
    for number in range(2 * STATIONS_PER_PORT):
        one.receive(header_of(VNI) + frame(A, b"\x02" + number.to_bytes(5, "big")), three.address)
    assert one.switch.stations(one.segment.peers["10.0.0.3"]) == STATIONS_PER_PORT
    assert one.switch.stations(one.segment.peers["10.0.0.2"]) == 1


def test_a_flood_for_everybody_costs_more_the_more_hosts_there_are() -> None:
    """So that a guest's storm does not hold Dom0, which makes a copy for each host."""
    copies = {}
    for count in (3, 90):
        fabric, hosts = connected(count)
        for _ in range(1000):
            hosts[0].switch.accept("g", Packet(frame(BROADCAST, A)))
        copies[count] = len(fabric.sent) // (count - 1)
    assert copies == {3: 256, 90: 256 // (1 + 89 // 4)}


def test_a_large_segment_for_very_many_hosts_is_dropped() -> None:
    """It would be cut for each of them: more than 10,000 packets at once. Control: a small one is not."""
    fabric, hosts = connected(257)
    hosts[0].switch.accept("g", Packet(blank(tcp(bytes(60_000), to=BROADCAST)), True, gso_size=1000))
    assert fabric.sent == []
    hosts[0].switch.accept("g", Packet(blank(tcp(bytes(1000), to=BROADCAST)), True))
    assert len(fabric.sent) == 256


def test_a_blank_checksum_is_filled_in_before_it_leaves() -> None:
    _, (one, two) = connected(2)
    one.say("g", blank(tcp(b"payload", to=BROADCAST)), csum_blank=True)
    (packet,) = two.guests["g"]
    assert is_sound(packet.data)
    assert not packet.csum_blank


def test_a_checksum_that_the_senders_network_left_blank_is_marked_so() -> None:
    """Linux' own device sends such ones to a socket of the same host."""
    _, (one, two) = connected(2)
    for data, expected in ((blank(tcp(b"payload")), True), (checksum.fill(tcp(b"payload")), False)):
        two.receive(header_of(VNI) + data, one.address)
        assert two.guests["g"].pop().csum_blank is expected


def test_a_segment_that_stands_for_many_is_cut_as_its_sender_would() -> None:
    fabric, (one, two) = connected(2)
    one.say("g", blank(tcp(bytes(range(256)) * 40, to=BROADCAST)), csum_blank=True, gso_size=1000)
    got = [packet.data for packet in two.guests["g"]]
    assert [len(data) - 54 for data in got] == [1000] * 10 + [240]
    assert all(map(is_sound, got))
    assert b"".join(data[54:] for data in got) == bytes(range(256)) * 40
    assert len({flow for _, _, flow in fabric.sent}) == 1


@settings(deadline=None, max_examples=50)
@given(
    size=st.integers(1, 20_000),
    gso=st.sampled_from([0, 500, 1460, 9000]),
    mtu=st.sampled_from([576, 1450, 8950]),
)
def test_no_frame_leaves_that_is_larger_than_fits(size: int, gso: int, mtu: int) -> None:
    """A guest that does not know of the network's MTU gets its TCP through all the same."""
    fabric, (one, two) = connected(2, mtu)
    payload = bytes(size)
    one.say("g", blank(tcp(payload, to=BROADCAST)), csum_blank=True, gso_size=gso)
    assert all(len(packet) <= mtu + 14 + 8 for packet, _, _ in fabric.sent)
    assert b"".join(packet.data[54:] for packet in two.guests["g"]) == payload
    assert one.segment.too_big == 0


def test_what_is_too_large_and_cannot_be_cut_is_dropped_and_counted() -> None:
    fabric, (one, two) = connected(2)
    one.say("g", frame(BROADCAST, A, size=1464))
    assert len(data_of(two)) == 1
    one.say("g", frame(BROADCAST, A, size=1465))
    assert (data_of(two), one.segment.too_big, len(fabric.sent)) == ([], 1, 1)


def test_what_the_host_does_not_take_is_counted_and_nothing_else_happens() -> None:
    _, (one, two, three) = connected(3)
    one.takes = False
    one.say("g", frame(BROADCAST, A))
    assert one.segment.unsent == 2
    one.takes = True
    one.say("g", frame(BROADCAST, A))
    assert data_of(two) == data_of(three) == [frame(BROADCAST, A)]
    assert [peer.sent_frames for peer in one.segment.peers.values()] == [1, 1]


def test_a_closed_port_leaves_the_switch_as_it_was() -> None:
    fabric, (one, _) = connected(2)
    before = one.switch.mtu
    one.overlay.close()
    one.say("g", frame(BROADCAST, A))
    assert (before, one.switch.mtu) == (1450, None)
    assert not fabric.sent


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.binary(max_size=80)), max_size=20))
def test_no_packet_harms_a_host(packets: list[tuple[int, bytes]]) -> None:
    fabric, (one, two, _) = connected(3)
    for source, data in packets:
        one.receive(header_of(VNI) + data, f"10.0.0.{source}")
    assert fabric.sent == []
    two.say("g", frame(BROADCAST, B))
    assert data_of(one)[-1] == frame(BROADCAST, B)


def blank(segment: bytes) -> bytes:
    """A TCP segment over IPv4 whose checksum is the sum so far, as a stack leaves it to its device."""
    pseudo = segment[26:34] + (6).to_bytes(2, "big") + (len(segment) - 34).to_bytes(2, "big")
    return segment[:50] + checksum.partial_checksum(pseudo).to_bytes(2, "big") + segment[52:]
