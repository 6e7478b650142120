"""TCP against itself: what was written arrives once, in order and whole, whatever the network does."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.net.ip.tcp.connection import Connection
from drivers.net.ip.tcp.outgoing import BUFFER
from drivers.net.ip.tcp.states import State
from drivers.net.protocol import MAX_PACKET, Packet
from tests.drivers.net.ip.link import SECOND, Device, Link, Talker, fair, talk

SERVER = bytes((10, 0, 0, 2))


def done(*talkers: Talker) -> bool:
    return all(t.connection is not None and t.connection.at_end and t.connection.drained for t in talkers)


def over(*talkers: Talker) -> bool:
    """Done, or one end has given up."""
    return done(*talkers) or any(t.connection is not None and t.connection.error is not None for t in talkers)


def text(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_both_directions_arrive_whole() -> None:
    link = Link()
    client, server = talk(link, text(100_000), text(200_001))
    link.clock.run(lambda: done(client, server), 60)
    assert bytes(server.incoming) == text(100_000)
    assert bytes(client.incoming) == text(200_001)


@pytest.mark.parametrize("device", [Device.WHOLE, Device.CUT])
def test_segments_that_stand_for_many_carry_the_same(device: Device) -> None:
    link = Link(device=device)
    client, server = talk(link, text(300_000), text(1_000_001))
    link.clock.run(lambda: done(client, server), 60)
    assert bytes(server.incoming) == text(300_000)
    assert bytes(client.incoming) == text(1_000_001)
    longest = max(map(len, link.frames))
    assert (60_000 < longest <= MAX_PACKET) if device is Device.WHOLE else longest == 1514


def test_nothing_is_remembered_after_both_ends_have_closed() -> None:
    link = Link()
    client, server = talk(link, b"hello", b"world")
    link.clock.run(lambda: done(client, server), 60)
    states = {one.connection.state for one in (client, server)}  # type: ignore[union-attr]
    assert states <= {State.TIME_WAIT, State.CLOSED}
    link.clock.pass_time(61)
    assert all(not stack.tcp.connections for stack in link.stacks)
    assert link.clock.loop.next_deadline() is None


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    doubling=st.sampled_from([0.0, 0.1]),
    jitter=st.sampled_from([0, 5_000_000, 80_000_000]),
    sizes=st.tuples(st.integers(0, 60_000), st.integers(0, 60_000)),
    device=st.sampled_from(Device),
)
@example(
    8192, 0.1, 0.0, 5_000_000, (7301, 7301), Device.NO_SUCH
)  # both time out, then acknowledge each other's FIN
def test_loss_doubling_and_disorder_change_nothing(
    seed: int, loss: float, doubling: float, jitter: int, sizes: tuple[int, int], device: Device
) -> None:
    dice = random.Random(seed)

    def weather(_number: int, _frame: bytes) -> list[int]:
        copies = (dice.random() >= loss) + (dice.random() < doubling)
        return [1_000_000 + dice.randrange(jitter + 1) for _ in range(copies)]

    link = Link(weather, device)
    client, server = talk(link, text(sizes[0]), text(sizes[1]))
    link.clock.run(lambda: over(client, server), 3000)
    if loss < 0.3:  # else it may be given up after so many losses in a row
        assert done(client, server)
        assert bytes(server.incoming) == text(sizes[0])
        assert bytes(client.incoming) == text(sizes[1])
    assert text(sizes[0]).startswith(bytes(server.incoming))
    assert text(sizes[1]).startswith(bytes(client.incoming))


def test_sequence_numbers_wrap() -> None:
    link = Link()
    for number in (1, 2):
        link.host(random_bits=lambda bits: (1 << bits) - 1000)
        assert len(link.stacks) == number
    server, client = Talker(), Talker(text(300_000))
    link.stacks[1].tcp.listen(80, server.take)
    client.take(link.stacks[0].tcp.connect(SERVER, 80))
    link.clock.run(lambda: done(client, server), 60)
    assert bytes(server.incoming) == text(300_000)


def test_a_port_where_nobody_listens_refuses() -> None:
    link = Link()
    a, _ = link.host(), link.host()
    connection = a.tcp.connect(SERVER, 80)
    link.clock.run(lambda: connection.state is State.CLOSED, 5)
    assert isinstance(connection.error, ConnectionRefusedError)


def test_a_host_that_is_not_there_is_given_up() -> None:
    link = Link()
    a = link.host()
    connection = a.tcp.connect(bytes((10, 0, 0, 9)), 80)
    link.clock.run(lambda: connection.state is State.CLOSED, 600)
    assert isinstance(connection.error, TimeoutError)
    assert not a.tcp.connections


def test_a_reader_that_stops_stops_the_writer_and_goes_on_after() -> None:
    link = Link()
    a, b = link.host(), link.host()
    server, client = Talker(reading=False), Talker(text(900_000))
    b.tcp.listen(80, server.take)
    client.take(a.tcp.connect(SERVER, 80))
    link.clock.pass_time(30)
    assert server.connection is not None
    assert server.connection.readable <= BUFFER
    assert len(client.outgoing) > 0
    link.clock.pass_time(300)  # probes keep it alive
    assert client.connection is not None
    assert client.connection.state is not State.CLOSED
    server.reading = True
    server.look()
    link.clock.run(lambda: done(client, server), 60)
    assert bytes(server.incoming) == text(900_000)


def test_a_reset_ends_the_other_end() -> None:
    link = Link()
    client, server = talk(link, text(200_000), text(200_000))
    link.clock.run(lambda: server.connection is not None and len(server.incoming) > 20_000, 10)
    end = server.connection
    assert client.connection is not None
    assert end is not None
    client.connection.abort()
    link.clock.run(lambda: end.state is State.CLOSED, 5)
    assert isinstance(end.error, ConnectionResetError)


def test_data_for_an_end_that_closed_is_refused() -> None:
    link = Link()
    a, b = link.host(), link.host()
    accepted: list[Connection] = []
    b.tcp.listen(80, accepted.append)
    client = a.tcp.connect(SERVER, 80)
    link.clock.run(lambda: accepted, 5)
    accepted[0].close()
    link.clock.pass_time(1)
    assert client.state is State.CLOSE_WAIT
    client.write(b"anybody there?")
    link.clock.run(lambda: client.state is State.CLOSED, 5)
    assert isinstance(client.error, ConnectionResetError)


def test_a_lost_segment_is_sent_again_long_before_the_time_out() -> None:
    """Three duplicate ACKs say that one is missing: a round trip or two, not 200 ms."""
    lost: list[int] = []

    def weather(number: int, frame: bytes) -> list[int]:
        if len(frame) > 1400 and number > 60 and not lost:
            lost.append(number)
            return []
        return fair(number, frame)

    link = Link(weather)
    client, server = talk(link, text(400_000), b"")
    link.clock.run(lambda: lost, 10)
    before, start = len(server.incoming), link.clock.now()
    link.clock.run(lambda: len(server.incoming) > before + 30_000, 10)
    assert link.clock.now() - start < SECOND // 10
    link.clock.run(lambda: done(client, server), 10)
    assert bytes(server.incoming) == text(400_000)


def test_a_flood_of_syns_keeps_nobody_out() -> None:
    link = Link()
    a, b = link.host(), link.host()
    server, client = Talker(b"welcome"), Talker(b"hello")
    b.tcp.listen(80, server.take)
    dice = random.Random(1)
    syn = a.tcp.connect(SERVER, 80)
    link.clock.run(lambda: syn.state is State.ESTABLISHED, 5)
    frame = next(f for f in link.frames if len(f) == 62)  # with options: a SYN
    for _ in range(2000):
        source = bytes((10, 0, 0, dice.randrange(3, 255)))
        forged = frame[:26] + source + frame[30:34] + dice.randbytes(2) + frame[36:]
        b.receive(Packet(with_checksums(forged)))
    assert len(b.tcp.connections) < 100
    client.take(a.tcp.connect(SERVER, 80))
    link.clock.run(lambda: done(client), 10)
    assert bytes(client.incoming) == b"welcome"


def with_checksums(frame: bytes) -> bytes:
    """A changed frame made sound again."""
    from drivers.net import checksum

    header = frame[14:24] + b"\0\0" + frame[26:34]
    sum_ = checksum.internet_checksum(header).to_bytes(2, "big")
    return checksum.fill(frame[:24] + sum_ + frame[26:])


@settings(deadline=None, max_examples=100)
@given(
    changes=st.lists(st.tuples(st.integers(34, 60), st.integers(0, 255)), min_size=1, max_size=8),
    chosen=st.integers(0, 200),
)
def test_a_forged_segment_breaks_nothing_but_its_own_connection(
    changes: list[tuple[int, int]], chosen: int
) -> None:
    link = Link()
    client, server = talk(link, text(5000), text(5000))
    link.clock.run(lambda: done(client, server), 60)
    frame = bytearray(link.frames[chosen % len(link.frames)])
    for at, value in changes:
        if at < len(frame):
            frame[at] = value
    for stack in link.stacks:
        stack.receive(Packet(with_checksums(bytes(frame))))
        stack.receive(Packet(bytes(frame)))
    listening, again = Talker(), Talker(text(3000))
    link.stacks[1].tcp.listen(81, listening.take)
    again.take(link.stacks[0].tcp.connect(SERVER, 81))
    link.clock.run(lambda: done(again, listening), 120)
    assert bytes(listening.incoming) == text(3000)
