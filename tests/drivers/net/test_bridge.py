"""The learning bridge, against what IEEE 802.1D asks of one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net.bridge import AGEING_NS, STATIONS_PER_PORT, Bridge
from tests.drivers.net.network import frame, mac_of

A, B, C = mac_of(1), mac_of(2), mac_of(3)
BROADCAST = b"\xff" * 6


def bridge(*ports: str) -> Bridge[str]:
    made: Bridge[str] = Bridge()
    for port in ports:
        made.add(port)
    return made


def test_a_frame_to_an_unknown_station_goes_everywhere_else() -> None:
    assert bridge("a", "b", "c").forward("a", frame(B, A), 0) == ["b", "c"]


def test_a_frame_to_a_known_station_goes_there_alone() -> None:
    it = bridge("a", "b", "c")
    it.forward("b", frame(BROADCAST, B), 0)
    assert it.forward("a", frame(B, A), 1) == ["b"]


def test_a_frame_never_goes_back_where_it_came_from() -> None:
    it = bridge("a", "b")
    it.forward("a", frame(BROADCAST, B), 0)
    assert it.forward("a", frame(B, A), 1) == []


def test_broadcast_and_multicast_go_everywhere_else() -> None:
    it = bridge("a", "b", "c")
    for group in (BROADCAST, bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")):
        assert it.forward("b", frame(group, A), 0) == ["a", "c"]


def test_frames_for_the_bridge_itself_are_not_forwarded() -> None:
    assert bridge("a", "b").forward("a", frame(bytes.fromhex("0180c2000000"), A), 0) == []


def test_a_sender_with_a_group_address_is_neither_learned_nor_forwarded() -> None:
    it = bridge("a", "b")
    assert it.forward("a", frame(B, BROADCAST), 0) == []
    assert it.where(BROADCAST) is None


def test_a_station_that_moves_is_found_at_its_new_port() -> None:
    it = bridge("a", "b", "c")
    it.forward("b", frame(BROADCAST, B), 0)
    it.forward("c", frame(BROADCAST, B), 1)
    assert it.forward("a", frame(B, A), 2) == ["c"]


def test_a_station_not_heard_of_for_long_may_be_anywhere() -> None:
    it = bridge("a", "b", "c")
    it.forward("b", frame(BROADCAST, B), 0)
    assert it.forward("a", frame(B, A), AGEING_NS) == ["b"]
    assert it.forward("a", frame(B, A), AGEING_NS + 1) == ["b", "c"]


def test_a_removed_port_gets_nothing_and_its_stations_are_forgotten() -> None:
    it = bridge("a", "b", "c")
    it.forward("b", frame(BROADCAST, B), 0)
    it.remove("b")
    assert it.where(B) is None
    assert it.forward("a", frame(B, A), 1) == ["c"]
    assert it.forward("b", frame(A, B), 1) == []


def test_a_flood_of_senders_displaces_nobody_elses_station() -> None:
    it = bridge("a", "b", "c")
    it.forward("b", frame(BROADCAST, B), 0)
    for number in range(2 * STATIONS_PER_PORT):
        it.forward("a", frame(BROADCAST, b"\x02" + number.to_bytes(5, "big")), 1)
    assert it.forward("c", frame(B, C), 2) == ["b"]
    learned = sum(it.where(b"\x02" + n.to_bytes(5, "big")) == "a" for n in range(2 * STATIONS_PER_PORT))
    assert learned == STATIONS_PER_PORT


stations = st.integers(0, 5).map(mac_of)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), stations | st.just(BROADCAST), stations), max_size=40))
def test_the_bridge_agrees_with_a_naive_one(frames: list[tuple[str, bytes, bytes]]) -> None:
    it, seen = bridge("a", "b", "c", "d"), {}
    for now, (port, destination, source) in enumerate(frames):
        seen[source] = port
        known = seen.get(destination)
        wanted = [p for p in "abcd" if p != port and known in (None, p)]
        assert it.forward(port, frame(destination, source), now) == wanted


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_no_frame_harms_the_bridge(data: bytes) -> None:
    assert set(bridge("a", "b").forward("a", data, 0)) <= {"b"}


def test_isolated_ports_have_nothing_to_do_with_each_other() -> None:
    it = bridge("a", "b")
    for port in ("x", "y"):
        it.add(port, isolated=True)
    assert it.forward("x", frame(BROADCAST, A), 0) == ["a", "b"]
    assert it.forward("y", frame(A, B), 1) == []  # it is known behind x
    assert it.forward("a", frame(BROADCAST, C), 2) == ["b", "x", "y"]
    assert it.forward("a", frame(A, C), 3) == ["x"]
    assert it.forward("x", frame(C, A), 4) == ["a"]
    it.remove("x")
    it.add("x")
    assert it.forward("y", frame(BROADCAST, B), 5) == ["a", "b", "x"]
