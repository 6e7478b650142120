"""TCP segments that stand for many: cut as their sender would have done it, and only where somebody does not take them whole."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net import checksum
from drivers.net.checksum import internet_checksum
from drivers.net.front import NetFront
from drivers.net.protocol import Packet
from drivers.net.segmentation import MAX_SEGMENTS, can_split, split
from tests.drivers.net.network import Network, Station, mac_of

FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
SOURCE, DESTINATION = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


def tcp(
    payload: bytes, seq: int = 1000, flags: int = ACK, options: bytes = b"", to: bytes = b"\x02" * 6
) -> bytes:
    """A whole TCP segment over IPv4 in an Ethernet frame, its checksum blank."""
    header = struct.pack(">HHIIBBHHH", 1, 2, seq, 0, (5 + len(options) // 4) << 4, flags, 500, 0, 0) + options
    length = 20 + len(header) + len(payload)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, length, 7, 0x4000, 64, 6, 0) + SOURCE + DESTINATION
    ip = ip[:10] + internet_checksum(ip).to_bytes(2, "big") + ip[12:]
    return to + mac_of(1) + b"\x08\x00" + ip + header + payload


def is_sound(frame: bytes) -> bool:
    """Whether both checksums are right."""
    pseudo = frame[26:34] + struct.pack(">HH", 6, len(frame) - 34)
    return not internet_checksum(frame[14:34]) and not internet_checksum(pseudo + frame[34:])


@settings(deadline=None)
@given(
    payload=st.binary(min_size=1, max_size=5000),
    size=st.integers(50, 2000),
    seq=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | PSH | FIN, ACK | CWR]),
    words=st.integers(0, 10),
)
def test_the_pieces_say_what_the_whole_said(
    payload: bytes, size: int, seq: int, flags: int, words: int
) -> None:
    whole = tcp(payload, seq, flags, bytes(4 * words))
    pieces = [checksum.fill(one.data) for one in split(Packet(whole, True, gso_size=size))]
    header = 54 + 4 * words
    assert b"".join(piece[header:] for piece in pieces) == payload
    assert all(map(is_sound, pieces))
    assert [len(piece) - header for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    at = seq
    for number, piece in enumerate(pieces):
        assert struct.unpack_from(">I", piece, 38)[0] == at
        assert piece[47] == flags & ~(0 if number == len(pieces) - 1 else FIN | PSH) & ~(CWR if number else 0)
        assert struct.unpack_from(">HH", piece, 16) == (len(piece) - 14, 7 + number)
        at = (at + len(piece) - header) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        (tcp(bytes(1000)), 0),
        (tcp(bytes(MAX_SEGMENTS * 10 + 1)), 10),
        (tcp(bytes(1000))[:-1], 100),
        (tcp(bytes(1000)) + b"!", 100),
        (tcp(b""), 100),
        (tcp(bytes(1000)).replace(b"\x40\x06", b"\x40\x11", 1), 100),
        (tcp(bytes(1000))[:12] + b"\x86\xdd" + tcp(bytes(1000))[14:], 100),
        (tcp(bytes(10))[:46] + b"\xf0" + tcp(bytes(10))[47:], 100),
    ],
)
def test_what_is_no_such_segment_cannot_be_cut(frame: bytes, size: int) -> None:
    assert not can_split(frame, size)


class Offloader(Station):
    """A guest whose stack takes, and makes, segments that stand for many."""

    def __init__(self, network: Network, domid: int) -> None:
        self.mac = mac_of(domid)
        self.guest = network.guest(domid)
        self.packets: list[Packet] = []
        self.nic = NetFront(self.guest.kernel, network.attach(self.guest), self.packets.append, offload=True)
        self.nic.connect()


def test_a_front_gets_the_whole_or_the_pieces_as_it_can() -> None:
    network = Network()
    sender, whole, plain = Offloader(network, 1), Offloader(network, 2), Station(network, 3)
    payload = bytes(range(250)) * 240
    frame = tcp(payload, to=b"\xff" * 6)
    for _ in range(3):
        assert sender.nic.send(frame, True, 1448)
        network.machine.settle()
    assert whole.packets == [Packet(frame, True, True, 1448)] * 3
    pieces = plain.received
    assert all(map(is_sound, pieces))
    assert b"".join(piece[54:] for piece in pieces) == payload * 3
    assert max(map(len, pieces)) == 54 + 1448


def test_a_segment_that_would_make_too_many_goes_nowhere() -> None:
    network = Network()
    sender, whole, plain = Offloader(network, 1), Offloader(network, 2), Station(network, 3)
    for size in (1, 100):
        sender.nic.send(tcp(bytes(20_000), to=b"\xff" * 6), True, size)
        network.machine.settle()
    assert not whole.packets
    assert not plain.received
    sender.nic.send(tcp(bytes(200), to=b"\xff" * 6), True, 100)
    network.machine.settle()
    assert len(plain.received) == 2
