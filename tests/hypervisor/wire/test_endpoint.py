"""The core's end of its connections, against libzmq's own DEALER and against peers that are not honest.

Controls: with a `receive` that looks for a whole message before it returns, the flood of halves is not told from silence; without
SEND_QUEUE the peer that never reads is never refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from hypervisor.wire.endpoint import SEND_QUEUE, CoreEndpoint
from hypervisor.wire.errors import ConnectionEnded, ProtocolError
from hypervisor.wire.messages import MAX_MESSAGE
from hypervisor.wire.zmtp import frame, handshake
from tests.machines import wait_until


@pytest.fixture
def endpoint() -> Iterator[CoreEndpoint]:
    endpoint = CoreEndpoint()
    yield endpoint
    endpoint.close()


@pytest.fixture
def dealer(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """A process's socket as libzmq has it, bound at `d1`."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.RCVTIMEO, 20_000)
        dealer.bind(f"ipc://{tmp_path / 'd1'}")
        yield dealer


def messages(endpoint: CoreEndpoint, count: int = 1) -> list[tuple[int, bytes | ProtocolError]]:
    """The next messages, waited for."""
    found: list[tuple[int, bytes | ProtocolError]] = []

    def look() -> bool:
        while (received := endpoint.receive()) is not None:
            if received[0] is not None:
                found.append((received[0], received[1]))
        return len(found) >= count

    wait_until(look, 20, "the messages")
    return found


def plain(endpoint: CoreEndpoint, path: Path, domid: int = 1) -> socket.socket:
    """A process's end, on which nothing but the handshake has been said."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        endpoint.connect(domid, str(path))
        connection, _ = listener.accept()
    connection.sendall(handshake(b"DEALER"))
    return connection


@pytest.mark.parametrize("size", [0, 1, 255, 256, 8191, MAX_MESSAGE])
def test_libzmq_is_understood_and_understands(
    endpoint: CoreEndpoint, dealer: zmq.Socket[bytes], tmp_path: Path, size: int
) -> None:
    said = os.urandom(size)
    endpoint.connect(1, str(tmp_path / "d1"))
    dealer.send(said)
    assert messages(endpoint) == [(1, said)]
    assert endpoint.send(1, said)
    assert dealer.recv() == said
    endpoint.connected(1)
    assert not list(tmp_path.iterdir())


def test_a_reply_that_the_socket_does_not_take_at_once_arrives_whole_and_in_order(
    endpoint: CoreEndpoint, dealer: zmq.Socket[bytes], tmp_path: Path
) -> None:
    endpoint.connect(1, str(tmp_path / "d1"))
    replies = [os.urandom(1 << 21), b"second", os.urandom(1 << 20), b"last"]
    for reply in replies:
        assert endpoint.send(1, reply)
    got: list[bytes] = []

    def look() -> bool:
        while endpoint.receive() is not None:
            pass
        try:
            got.append(dealer.recv(zmq.NOBLOCK))
        except zmq.Again:
            return False
        return len(got) == len(replies)

    wait_until(look, 20, "the replies")
    assert got == replies


def test_a_process_that_reads_nothing_is_refused_and_one_that_has_gone_is_not(
    endpoint: CoreEndpoint, tmp_path: Path
) -> None:
    with plain(endpoint, tmp_path / "d1"):
        taken = 0
        while taken < 10 * SEND_QUEUE and endpoint.send(1, bytes(4096)):
            taken += 1
        assert SEND_QUEUE <= taken < 2 * SEND_QUEUE
    with plain(endpoint, tmp_path / "d2", 2):
        pass
    assert endpoint.send(2, b"lost")
    assert not endpoint.send(3, b"nobody")


def test_a_closed_connection_is_told_once_after_what_was_said(endpoint: CoreEndpoint, tmp_path: Path) -> None:
    with plain(endpoint, tmp_path / "d1") as connection:
        connection.sendall(frame(b"last words") + frame(b"and more"))
    told = messages(endpoint, 3)
    assert told[:2] == [(1, b"last words"), (1, b"and more")]
    assert isinstance(told[2][1], ConnectionEnded)
    assert endpoint.receive() is None


def test_where_nobody_listens_no_connection_is_made(endpoint: CoreEndpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("nothing", "file", "x" * 200):
        with pytest.raises(ProtocolError, match="cannot be reached"):
            endpoint.connect(1, str(tmp_path / name))
    assert not endpoint.send(1, b"")
    endpoint.disconnect(1)


def test_a_flood_of_halves_gives_everybody_else_a_turn(endpoint: CoreEndpoint, tmp_path: Path) -> None:
    with plain(endpoint, tmp_path / "d1") as flooding, plain(endpoint, tmp_path / "d2", 2) as honest:
        flooding.setblocking(False)
        octets = frame(bytes(MAX_MESSAGE))
        honest.sendall(frame(b"hello"))
        for _ in range(100):
            flooding.send(octets[:9000] if not endpoint.readable() else octets[9000:9001])
            received = endpoint.receive()
            assert received is not None
            if received == (2, b"hello"):
                return
    pytest.fail("the other's message was never received")


def test_what_is_no_message_is_told_and_nothing_more_is_read(endpoint: CoreEndpoint, tmp_path: Path) -> None:
    with plain(endpoint, tmp_path / "d1") as connection:
        connection.sendall(b"\xff garbage")
        ((domid, error),) = messages(endpoint)
        assert domid == 1
        assert type(error) is ProtocolError
        connection.sendall(frame(b"honest again"))
        assert endpoint.receive() is None


def test_what_a_forgotten_process_has_said_is_not_taken_for_the_next_ones(
    endpoint: CoreEndpoint, tmp_path: Path
) -> None:
    with plain(endpoint, tmp_path / "d1") as connection:
        connection.sendall(frame(b"one") + frame(b"two") + frame(b"three"))
        wait_until(lambda: endpoint.receive() == (1, b"one"), 20, "the first message")
        assert endpoint.readable()
        endpoint.disconnect(1)
    with plain(endpoint, tmp_path / "again") as connection:
        connection.sendall(frame(b"new"))
        assert messages(endpoint) == [(1, b"new")]
