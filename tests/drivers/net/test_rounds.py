"""Rounds of net back: what a neighbour has to wait for is bounded, whatever another front puts into its ring."""

import struct

import pytest

from domains.guests.netattack import VOLLEYS, HostileFront
from drivers.net.back import LATELY, LONG_ROUND, ROUND
from drivers.net.protocol import MAX_SLOTS
from drivers.ring import REQ_PROD
from tests.drivers.net.network import Network, Station, frame

BROADCAST = b"\xff" * 6


class Attacker(Station):
    """A station whose ring takes anything."""

    front = HostileFront
    nic: HostileFront

    def flood(self) -> int:
        """Fill the ring with good frames for everybody; how many."""
        connection = self.nic._connection
        assert connection is not None
        slots = connection.tx.ring.free
        for number in range(len(connection.tx.pages)):
            self.nic.write(number, frame(BROADCAST, self.mac, b"flood", 1400))
        self.nic.shoot([self.nic.slot(number) for number in range(slots)])
        return slots


def test_a_round_costs_one_copy_each_way_however_many_interfaces_take_part() -> None:
    network = Network()
    stations = [Station(network, domid) for domid in range(1, ROUND + 1)]
    for station in stations:
        station.nic.send(frame(BROADCAST, station.mac))  # now the bridge knows them all
    network.machine.settle()
    before = network.dom0.grants.copies
    for station, other in zip(stations, stations[1:] + stations[:1], strict=True):
        station.nic.send(frame(other.mac, station.mac, b"hello"))
    network.machine.settle()
    assert all(station.received[-1][14:19] == b"hello" for station in stations)
    assert network.dom0.grants.copies - before <= 4


def copies_of_many_frames(network: Network, a: Station, b: Station, count: int) -> int:
    """How many grant copies it takes to send so many frames from `a` to `b` at once."""
    before, received = network.dom0.grants.copies, len(b.received)
    for number in range(count):
        a.nic.send(frame(b.mac, a.mac, bytes([number])))
    network.machine.settle()
    assert [one[14] for one in b.received[received:]] == list(range(count))
    return network.dom0.grants.copies - before


def test_rounds_are_long_while_only_two_talk_and_short_as_soon_as_another_does() -> None:
    network = Network()
    a, b, other = (Station(network, domid) for domid in (1, 2, 3))
    for station in (a, b, other):
        station.nic.send(frame(BROADCAST, station.mac))
    network.machine.settle()
    assert copies_of_many_frames(network, a, b, 4 * ROUND) >= 8, "the third has just been there"
    for _ in range(LATELY):
        copies_of_many_frames(network, a, b, 1)
    assert copies_of_many_frames(network, a, b, LONG_ROUND // 2) <= 4
    other.nic.send(frame(a.mac, other.mac))
    network.machine.settle()
    assert copies_of_many_frames(network, a, b, 4 * ROUND) >= 8


def test_a_frame_beside_a_flood_waits_for_a_share_of_two_rounds_at_most() -> None:
    network = Network()
    flooder, quiet, far = Attacker(network, 1), Station(network, 2), Station(network, 3)
    assert flooder.flood() > 4 * ROUND
    while not far.received:  # the flood is under way
        network.machine.step()
    before = len(far.received)
    hello = frame(far.mac, quiet.mac, b"hello")
    quiet.nic.send(hello)
    network.machine.settle()
    assert far.received.index(hello) - before <= 2 * ROUND


def test_what_one_front_sends_in_a_round_is_its_share() -> None:
    """Of the slots of a round each of those who send gets as many."""
    network = Network()
    flooders = [Attacker(network, domid) for domid in (1, 2, 3, 4)]
    far = Station(network, 5)
    for flooder in flooders:
        flooder.flood()
    while len(far.received) < ROUND:
        network.machine.step()
    counts = [sum(one[6:12] == flooder.mac for one in far.received[:ROUND]) for flooder in flooders]
    assert max(counts) - min(counts) <= ROUND // 4


def test_a_ring_that_breaks_in_a_round_keeps_nothing_from_its_neighbours() -> None:
    network = Network()
    liar, a, b = Attacker(network, 1), Station(network, 2), Station(network, 3)
    connection = liar.nic._connection
    assert connection is not None
    struct.pack_into("<I", network.machine.frame(connection.rings[0].page.mfn), 4 * REQ_PROD, 1 << 20)
    hello = frame(b.mac, a.mac, b"hello")
    a.nic.send(hello)
    liar.guest.events.notify(connection.port)
    network.machine.settle()
    assert b.received == [hello]
    assert network.back.devices["backend/vif/1/0"]._attachment is None


@pytest.mark.parametrize("attack", ["runts", "giants", "extras", "grants"])
def test_slots_of_a_bad_kind_are_answered_and_reach_nobody(attack: str) -> None:
    network = Network()
    attacker, far = Attacker(network, 1), Station(network, 2)
    slots = VOLLEYS[attack](attacker.nic)
    attacker.nic.shoot(slots)
    network.machine.settle()
    connection = attacker.nic._connection
    assert connection is not None
    assert far.received == []
    assert (
        connection.tx.ring.waiting >= len(slots) - MAX_SLOTS
    )  # of a packet without an end the rest is awaited
