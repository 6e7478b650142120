"""Storm control: what goes to everybody is bounded for each port, what goes to one is not."""

from collections.abc import Hashable
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from drivers.net.protocol import Packet
from drivers.net.storm import BURST, RATE, SECOND, StormControl
from drivers.net.switch import Switch
from tests.drivers.net.network import frame, mac_of

BROADCAST = b"\xff" * 6
A, B, C = mac_of(1), mac_of(2), mac_of(3)


@given(st.lists(st.integers(0, SECOND // 100), max_size=500), st.integers(0, SECOND))
def test_in_any_time_no_more_than_a_burst_and_the_rate_pass(pauses: list[int], start: int) -> None:
    storm, now, passed = StormControl(start), start, 0
    for pause in pauses:
        now += pause
        passed += storm.allows(now)
        assert passed <= BURST + (now - start) * RATE // SECOND
    assert passed + storm.dropped == len(pauses)


def test_who_keeps_to_the_rate_loses_nothing() -> None:
    storm = StormControl(0)
    assert all(storm.allows(number * SECOND // RATE) for number in range(10 * BURST))


def keep(frames: list[tuple[Hashable, Packet]], source: Hashable, packet: Packet) -> None:
    frames.append((source, packet))


def test_a_flood_of_one_port_leaves_the_others_theirs_and_its_own_frames_to_one_station() -> None:
    got: dict[str, list[tuple[Hashable, Packet]]] = {"a": [], "b": [], "c": []}
    switch = Switch(lambda: 0)
    for port, frames in got.items():
        switch.attach(port, partial(keep, frames))
    for _ in range(2 * BURST):
        switch.accept("a", Packet(frame(BROADCAST, A)))
    assert len(got["b"]) == len(got["c"]) == BURST
    switch.accept("b", Packet(frame(BROADCAST, B)))
    assert got["a"] == [("b", Packet(frame(BROADCAST, B)))]
    for _ in range(BURST):
        switch.accept("a", Packet(frame(B, A)))
    assert len(got["b"]) == 2 * BURST
    assert len(got["c"]) == BURST + 1
