"""A domain process's end of its connection, against libzmq's own ROUTER."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from hypervisor.wire.process_endpoint import ProcessEndpoint
from hypervisor.wire.zmtp import OUR_HANDSHAKE
from tests.machines import wait_until

PEER = b"d1"


@pytest.fixture
def router() -> Iterator[zmq.Socket[bytes]]:
    """Not connected yet."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.RCVTIMEO, 20_000)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.CONNECT_ROUTING_ID, PEER)
        yield router


def connected(router: zmq.Socket[bytes], path: Path) -> ProcessEndpoint:
    endpoint = ProcessEndpoint(str(path))
    router.connect(f"ipc://{path}")
    endpoint.send(b"hello")
    assert router.recv_multipart() == [PEER, b"hello"]
    return endpoint


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000, 1 << 20])
def test_messages_of_every_size_go_both_ways(router: zmq.Socket[bytes], tmp_path: Path, size: int) -> None:
    endpoint = connected(router, tmp_path / "d1")
    said = os.urandom(size)
    endpoint.send(said)
    assert router.recv_multipart() == [PEER, said]
    router.send_multipart([PEER, said])
    assert endpoint.recv() == said


def test_it_can_be_looked_at_without_waiting(router: zmq.Socket[bytes], tmp_path: Path) -> None:
    endpoint = connected(router, tmp_path / "d1")
    assert endpoint.receive() is None
    assert not endpoint.readable()
    for number in range(9):
        router.send_multipart([PEER, b"%d" % number])
    wait_until(endpoint.readable, 20, "the messages")
    got: list[bytes] = []
    wait_until(lambda: (found := endpoint.receive()) is not None and (got.append(found) or len(got) == 9), 20)
    assert got == [b"%d" % number for number in range(9)]


def test_the_process_ends_with_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "d1"
    pid = os.fork()
    if pid == 0:
        try:
            ProcessEndpoint(str(path)).recv()
        finally:
            os._exit(0)  # whatever happens: this process is no pytest
    wait_until(path.exists, 20, "the process's endpoint")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as core:
        wait_until(lambda: core.connect_ex(str(path)) == 0, 20, "a connection")
        core.sendall(OUR_HANDSHAKE)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
