"""The header, and whose a packet is: what RFC 7348 and Linux' own device want, whatever comes.

Control: a packet that keeps every rule is taken between those that do not.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net.vxlan.flow import flow_of
from drivers.net.vxlan.header import Bad, header_of
from drivers.net.vxlan.segment import Peer, Segment
from drivers.net.vxlan.vtep import Vtep
from tests.drivers.net.network import frame, mac_of
from tests.drivers.net.test_segmentation import tcp

PEER = "10.0.0.2"
FRAME = frame(mac_of(1), mac_of(2))


def vtep(*vnis: int) -> tuple[Vtep, list[Segment]]:
    it, segments = Vtep(), [Segment(vni, 1450) for vni in vnis]
    for segment in segments:
        segment.set_peers([(PEER, 4789)])
        it.add(segment)
    return it, segments


def test_the_header_is_that_of_the_rfc() -> None:
    assert header_of(42) == bytes.fromhex("0800000000002a00")
    assert header_of(0xFFFFFF) == bytes.fromhex("08000000ffffff00")


def test_a_packet_is_taken_by_the_network_whose_number_it_bears() -> None:
    it, (first, second) = vtep(1, 2)
    arrived = it.received(header_of(2) + FRAME, PEER)
    assert arrived is not None
    assert (arrived.segment, arrived.frame) == (second, FRAME)
    assert arrived.peer is second.peers[PEER]
    assert (arrived.peer.received_frames, arrived.peer.received_bytes) == (1, len(FRAME))
    assert first.peers[PEER].received_frames == 0


def test_what_is_wrong_with_a_packet_is_counted() -> None:
    it, (segment,) = vtep(42)
    wrong = {
        Bad.SHORT: [b"", b"\x08", header_of(42), header_of(42) + FRAME[:13], bytes(21)],
        Bad.FLAGS: [bytes(8) + FRAME, b"\x0c" + header_of(42)[1:] + FRAME, header_of(42)[:7] + b"\1" + FRAME],
        Bad.OTHER_VNI: [header_of(41) + FRAME, header_of(0) + FRAME, header_of(42 << 8) + FRAME],
    }
    for packets in wrong.values():
        for packet in packets:
            assert it.received(packet, PEER) is None
            assert it.received(header_of(42) + FRAME, PEER) is not None
    assert it.bad == {bad: len(packets) for bad, packets in wrong.items()}
    assert it.received(header_of(42) + FRAME, "10.0.0.3") is None
    assert segment.unknown_sender == 1


@settings(deadline=None)
@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: header_of(42) + tail))
def test_every_packet_is_taken_or_counted_once(packet: bytes) -> None:
    it, (segment,) = vtep(42)
    arrived = it.received(packet, PEER)
    assert (arrived is not None) + sum(it.bad.values()) == 1
    if arrived is not None:
        assert packet == segment.header + arrived.frame
        assert len(arrived.frame) >= 14


ends = st.lists(st.integers(1, 6), unique=True).map(
    lambda hosts: [(f"10.0.0.{host}", 4789) for host in hosts]
)


@settings(deadline=None)
@given(st.lists(ends, max_size=8))
def test_peers_that_stay_are_the_same_and_all_others_come_or_go_once(
    lists: list[list[tuple[str, int]]],
) -> None:
    segment = Segment(1, 1450)
    there: dict[tuple[str, int], Peer] = {}
    for wanted in lists:
        before = dict(segment.peers)
        gone, new = segment.set_peers(wanted)
        for peer in gone:
            assert there.pop(peer.end) is peer
        for peer in new:
            assert peer.end not in there
            there[peer.end] = peer
        assert set(there) == set(wanted)
        assert segment.peers == {peer.end[0]: peer for peer in there.values()}
        assert all(segment.peers[host] is peer for host, peer in before.items() if peer not in gone)


def test_a_peer_whose_port_changes_is_another_one() -> None:
    segment = Segment(1, 1450)
    segment.set_peers([(PEER, 4789)])
    gone, new = segment.set_peers([(PEER, 4790)])
    assert [peer.end for peer in gone] == [(PEER, 4789)]
    assert [peer.end for peer in new] == [(PEER, 4790)]
    assert segment.peers == {PEER: new[0]}


def test_frames_of_one_flow_have_one_number_and_flows_are_spread() -> None:
    one = tcp(b"payload")
    assert flow_of(one) == flow_of(tcp(b"something else", seq=77))
    numbers = {flow_of(one[:34] + port.to_bytes(2, "big") + one[36:]) % 8 for port in range(1000, 1100)}
    assert numbers == set(range(8))
    assert len({flow_of(frame(mac_of(1), mac_of(n))) % 8 for n in range(2, 60)}) == 8


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_every_frame_has_a_flow(data: bytes) -> None:
    assert flow_of(data) == flow_of(data) >= 0
