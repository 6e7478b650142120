"""Packets from several sources for one front: each in its order, none behind another's flood, and bounded."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.net.fair_queue import SOURCE_BYTES, FairQueue
from drivers.net.protocol import Packet


def test_a_packet_waits_for_one_of_each_other_source_at_most() -> None:
    queue = FairQueue()
    for _ in range(100):
        queue.add("flood", Packet(bytes(1000)))
    queue.add("quiet", Packet(b"hello"))
    assert b"hello" in [queue.take().data for _ in range(2)]


def test_a_flood_is_dropped_and_its_neighbours_are_not() -> None:
    queue = FairQueue()
    taken = [queue.add("flood", Packet(bytes(1000))) for _ in range(1000)]
    assert taken == [True] * (SOURCE_BYTES // 1000) + [False] * (1000 - SOURCE_BYTES // 1000)
    assert queue.add("quiet", Packet(bytes(1000)))


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc") | st.none(), max_size=200))
def test_the_queue_agrees_with_one_list_for_each_source(steps: list[str | None]) -> None:
    """A letter adds a packet of that source, None takes one."""
    queue, lists = FairQueue(), {name: deque[bytes]() for name in "abc"}
    for number, step in enumerate(steps):
        if step is not None:
            queue.add(step, Packet(b"%d" % number))
            lists[step].append(b"%d" % number)
        elif any(lists.values()):
            data = queue.take().data
            assert any(one and one[0] == data and one.popleft() for one in lists.values())
        assert bool(queue) == any(lists.values())
