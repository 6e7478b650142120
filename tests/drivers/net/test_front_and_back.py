"""Net fronts, net back and the switch: frames arrive whole, where they should, whatever a front says."""

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.dom0.xenstore.quota import Quota
from drivers.net import checksum
from drivers.net.fair_queue import SOURCE_BYTES
from drivers.net.protocol import Packet
from drivers.ring import REQ_PROD
from drivers.xenbus import DeviceError
from hypervisor.public.io.netif import netif_tx_request
from hypervisor.public.types import PAGE_SIZE, DomId
from tests.drivers.net.network import Network, Station, frame

BROADCAST = b"\xff" * 6
BACKENDS = pytest.mark.parametrize("backend", [0, 9])
"""Net back in Dom0, which maps rings, and in a driver domain, which copies them."""


@BACKENDS
def test_a_frame_arrives_at_the_station_it_is_for_and_nowhere_else(backend: int) -> None:
    network = Network(backend)
    a, b, c = (Station(network, domid) for domid in (1, 2, 3))
    b.nic.send(frame(BROADCAST, b.mac))
    network.machine.settle()
    hello = frame(b.mac, a.mac, b"hello")
    a.nic.send(hello)
    network.machine.settle()
    assert b.received == [hello]
    assert c.received == a.received == [frame(BROADCAST, b.mac)]


def test_bridges_of_different_names_are_different_networks() -> None:
    network = Network()
    a, b = Station(network, 1), Station(network, 2, bridge="other")
    a.nic.send(frame(BROADCAST, a.mac))
    network.machine.settle()
    assert b.received == []


@BACKENDS
@pytest.mark.parametrize("size", [14, 60, 1514, PAGE_SIZE, PAGE_SIZE + 1, 9000, 65535])
def test_frames_of_every_size_arrive_whole(size: int, backend: int) -> None:
    network = Network(backend)
    a, b = Station(network, 1), Station(network, 2)
    sent = frame(b.mac, a.mac)[:14] + os.urandom(size - 14)
    a.nic.send(sent)
    network.machine.settle()
    assert b.received == [sent]


@BACKENDS
def test_many_frames_arrive_in_order(backend: int) -> None:
    network = Network(backend)
    a, b = Station(network, 1), Station(network, 2)
    sent = [frame(b.mac, a.mac, number.to_bytes(4, "big"), 60 + number) for number in range(500)]
    for one in sent:
        while not a.nic.send(one):
            network.machine.step()
    network.machine.settle()
    assert b.received == sent


class Seen:
    """An observer of an interface."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.is_lost = False

    def saw(self, packet: Packet) -> None:
        self.frames.append(packet.data)

    def lost(self) -> None:
        self.is_lost = True


def test_an_observer_sees_both_directions_until_the_interface_is_gone() -> None:
    network = Network()
    a, b = Station(network, 1), Station(network, 2)
    seen = Seen()
    network.back.devices["backend/vif/1/0"].observers.append(seen)
    out, back = frame(BROADCAST, a.mac), frame(a.mac, b.mac)
    a.nic.send(out)
    network.machine.settle()
    b.nic.send(back)
    network.machine.settle()
    assert seen.frames == [out, back]
    network.detach(a.guest)
    network.machine.settle()
    assert seen.is_lost


@BACKENDS
def test_closing_gives_everything_back(backend: int) -> None:
    network = Network(backend)
    a, b = Station(network, 1), Station(network, 2)
    b.nic.close()
    network.machine.settle()
    before = network.machine.census()
    for _ in range(3):
        b.nic.connect()
        b.received.clear()
        a.nic.send(frame(BROADCAST, a.mac))
        network.machine.settle()
        assert b.received == [frame(BROADCAST, a.mac)]
        b.nic.close()
        network.machine.settle()
        assert network.machine.census() == before
    with pytest.raises(DeviceError):
        b.nic.send(frame(BROADCAST, b.mac))


@BACKENDS
def test_a_guest_that_dies_leaves_nothing_held_and_the_others_connected(backend: int) -> None:
    network = Network(backend)
    a, b, c = (Station(network, domid) for domid in (1, 2, 3))
    for _ in range(30):
        a.nic.send(frame(BROADCAST, a.mac))
        b.nic.send(frame(BROADCAST, b.mac))
    b.guest.die()
    network.detach(b.guest)
    network.machine.settle()
    assert sum(grant.pins for grant in b.guest.grants.table.values()) == 0
    assert len(network.back.devices) == 2
    c.received.clear()
    a.nic.send(frame(BROADCAST, a.mac, b"still here"))
    network.machine.settle()
    assert c.received == [frame(BROADCAST, a.mac, b"still here")]


def test_fronts_connect_by_themselves_when_their_driver_domain_is_made_again() -> None:
    network = Network(9)
    a, b = Station(network, 1), Station(network, 2)
    before = network.machine.census()
    for domid in range(10, 13):
        for _ in range(200):
            a.nic.send(frame(BROADCAST, a.mac))  # some of them on their way when it dies
        network.replace_driver_domain(domid, a.guest, b.guest)
        assert a.nic.connected
        assert b.nic.connected
        assert network.machine.census() | {"frames": 0} == before | {"frames": 0}
        b.received.clear()
        a.nic.send(frame(b.mac, a.mac, b"again"))
        network.machine.settle()
        assert b.received == [frame(b.mac, a.mac, b"again")]


def test_a_front_whose_driver_domain_is_gone_holds_nothing_and_says_so() -> None:
    network = Network(9)
    a = Station(network, 1)
    network.driver.die()
    network.dom0.xenbus.rm("/local/domain/9")
    network.dom0.xenbus.rm("/local/domain/1/device/vif/0")
    network.machine.settle()
    assert not a.guest.grants.table
    assert not a.guest.events.channels
    with pytest.raises(DeviceError):
        a.nic.send(frame(BROADCAST, a.mac))


def test_a_device_for_which_the_store_has_no_room_is_not_served_and_harms_no_other() -> None:
    """It is looked at again when the toolstack changes it. Failed before: the watch that the device itself had set made the back
    end try for ever.
    """
    network = Network(9)
    a, b = Station(network, 1), Station(network, 2)
    owned = network.machine.store.domains.usage_of(DomId(9))[Quota.NODES]
    network.machine.store.limits[Quota.NODES] = owned + 8  # what the toolstack writes, and no more
    with pytest.raises(DeviceError):
        Station(network, 3)
    assert sorted(network.back.devices) == ["backend/vif/1/0", "backend/vif/2/0"]
    a.nic.send(frame(b.mac, a.mac))
    network.machine.settle()
    assert b.received == [frame(b.mac, a.mac)]


def test_a_front_that_was_closed_stays_closed_wherever_it_is_plugged_in() -> None:
    network = Network(9)
    a = Station(network, 1)
    a.nic.close()
    network.replace_driver_domain(10, a.guest)
    assert not a.nic.connected


def test_a_front_that_posts_no_pages_costs_a_bounded_queue() -> None:
    network = Network()
    a, b = Station(network, 1), Station(network, 2)
    b.guest.die()  # it takes nothing any more
    for _ in range(3000):
        while not a.nic.send(frame(b.mac, a.mac, size=1514)):
            network.machine.step()
    network.machine.settle()
    rx = network.back.devices["backend/vif/2/0"]._attachment.rx  # type: ignore[union-attr]
    assert sum(rx._queue._bytes.values()) <= SOURCE_BYTES
    assert rx.dropped > 1000


def test_a_rate_is_kept_and_nothing_is_lost_or_disordered() -> None:
    network = Network()
    slow, quick, far = Station(network, 1, rate="20000,20000"), Station(network, 2), Station(network, 3)
    far.nic.send(frame(BROADCAST, far.mac))
    network.machine.settle()
    start = network.machine.time
    sent = [frame(far.mac, slow.mac, number.to_bytes(4, "big"), 1514) for number in range(400)]
    for number, one in enumerate(sent):
        while not slow.nic.send(one):
            network.machine.step()
        if number < 20:  # who has no rate is not held up by who has
            quick.nic.send(frame(far.mac, quick.mac, number.to_bytes(4, "big")))
    network.machine.settle()
    seconds = (network.machine.time - start) / 1e9
    assert [one for one in far.received if one[6:12] == slow.mac] == sent
    assert len([one for one in far.received if one[6:12] == quick.mac]) == 20
    assert 0.9 * 400 * 1514 / 1e6 < seconds + 0.02 < 1.2 * 400 * 1514 / 1e6


def test_a_held_packet_keeps_nobody_from_leaving() -> None:
    network = Network()
    slow, far = Station(network, 1, rate="100,1000000"), Station(network, 2)
    before = network.machine.census()
    for _ in range(20):
        slow.nic.send(frame(BROADCAST, slow.mac, size=1514))
    while network.machine.queue:
        network.machine.step()
    slow.guest.die()
    network.detach(slow.guest)
    network.machine.settle()
    assert len(network.back.devices) == 1
    assert network.machine.census()["pins"] < before["pins"]
    assert far.received == []


def udp(payload: bytes, csum: bytes) -> bytes:
    """An IPv4 UDP datagram in an Ethernet frame, from 10.0.0.1:1000 to 10.0.0.2:2000."""
    length = 8 + len(payload)
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 17, 0)
    ports = struct.pack(">HHH", 1000, 2000, length)
    return (
        frame(BROADCAST, b"\x02" * 6)[:12]
        + b"\x08\0"
        + header
        + bytes((10, 0, 0, 1, 10, 0, 0, 2))
        + ports
        + csum
        + payload
    )


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_a_filled_checksum_sums_to_zero(payload: bytes) -> None:
    filled = checksum.fill(udp(payload, b"\xab\xcd"))
    segment = filled[34:]
    pseudo = filled[26:34] + struct.pack(">BBH", 0, 17, len(segment))
    assert checksum.internet_checksum(pseudo + segment) == 0
    assert filled[40:42] != b"\0\0"


def test_a_blank_checksum_is_filled_for_a_front_that_wants_it() -> None:
    network = Network()
    Station(network, 1)
    b = Station(network, 2)
    blank = udp(b"payload", b"\0\0")
    network.back.switch_of("xenbr0").accept("backend/vif/1/0", Packet(blank, csum_blank=True))
    network.machine.settle()
    assert b.received == [checksum.fill(blank)]


Slot = st.tuples(
    st.sampled_from(["good", "good", "good", "foreign", "none"]),
    st.sampled_from([0, 0, 0, 100, 4095, 4096, 65535]),
    st.sampled_from([0, 0, 0, 4, 4, 8, 12, 0xFFFF]),
    st.integers(0, 65535),
    st.sampled_from([0, 1, 13, 14, 60, 1500, 4096, 5000, 65535]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(Slot, max_size=60), st.sampled_from([0, 9]))
def test_any_slots_are_answered_once_in_order_and_only_whole_packets_pass(
    slots: list[tuple[str, int, int, int, int]], backend: int
) -> None:
    network = Network(backend)
    liar, other = Station(network, 1), Station(network, 2)
    connection = liar.nic._connection
    assert connection is not None
    good = connection.tx.pages[0]
    secret = liar.guest.memory.alloc_page()
    network.machine.frame(secret.mfn)[:] = b"secret" * 682 + b"key!"
    for_another = liar.guest.grants.grant_access(other.guest.domid, secret.mfn)
    refs = {"good": good.ref, "foreign": for_another, "none": 99999}
    good.view[:] = frame(BROADCAST, liar.mac, size=PAGE_SIZE)
    ring = network.machine.frame(connection.rings[0].page.mfn)
    for at, (page, offset, flags, id, size) in enumerate(slots):
        request = netif_tx_request(gref=refs[page], offset=offset, flags=flags, id=id, size=size)
        ring[64 + 12 * at : 64 + 12 * (at + 1)] = request.pack()
    struct.pack_into("<I", ring, 4 * REQ_PROD, len(slots))
    liar.guest.events.channels[connection.port].source = None  # answers stay for the test to read
    liar.guest.events.notify(connection.port)
    network.machine.settle()
    answered = struct.unpack_from("<I", ring, 8)[0]
    assert answered <= len(slots)
    for at in range(answered):
        id, status = struct.unpack_from("<Hh", ring, 64 + 12 * at)
        assert (id, status) in ((slots[at][3], 0), (slots[at][3], -1), (0, 1))
    assert all(14 <= len(one) <= 65535 and b"secret" not in one for one in other.received)
    fresh, far = Station(network, 3), Station(network, 4)
    fresh.nic.send(frame(far.mac, fresh.mac, b"as ever"))
    network.machine.settle()
    assert frame(far.mac, fresh.mac, b"as ever") in far.received
