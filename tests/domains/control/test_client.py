"""xenctl's end of a connection beside libzmq's: whatever size an answer has it comes through, and each way in which Dom0 may
fail is told as an error in time. The servers are real ones, in a thread each.

Control of what an ended or a strange Dom0 does: the same client gets its answer from one that behaves.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest
import zmq

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import ConsoleInput, Dmesg, Domname
from domains.control.protocol import MAX_MESSAGE, ControlError, Exit, MachineEnded
from hypervisor.wire.zmtp import handshake

WAIT = 20.0
"""Seconds in which what must come comes, however busy the host is."""
NOT_LONG = 0.2


@contextmanager
def router(folder: Path, body: Callable[[zmq.Socket[bytes]], object]) -> Iterator[MachineAddress]:
    """The address of a ROUTER that a thread does `body` with; then it closes."""
    address = MachineAddress.in_folder(folder)
    with zmq.Context() as context:
        server = context.socket(zmq.ROUTER)
        server.bind(address.endpoint)

        def serve() -> None:
            try:
                body(server)
            finally:
                server.close(linger=1000)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address
        finally:
            thread.join()


@contextmanager
def plain(folder: Path, greeting: bytes) -> Iterator[MachineAddress]:
    """The address of somebody who accepts, says `greeting`, and reads nothing."""
    address = MachineAddress.in_folder(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address.path)
        listener.listen()
        accepted: list[socket.socket] = []

        def serve() -> None:
            peer, _ = listener.accept()
            peer.sendall(greeting)
            accepted.append(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield address
        finally:
            thread.join()
            for peer in accepted:
                peer.close()


def answer(server: zmq.Socket[bytes], result: bytes) -> None:
    """Answer one request."""
    peer, request = server.recv_multipart()
    number = msgpack.unpackb(request)["id"]
    server.send_multipart([peer, msgpack.packb({"id": number, "ok": True, "result": result})])


@pytest.mark.parametrize("size", [0, 1, 200, 255, 256, 70_000, MAX_MESSAGE - 100])
def test_an_answer_of_any_size_comes_through(tmp_path: Path, size: int) -> None:
    text = bytes(at & 255 for at in range(size))
    with router(tmp_path, lambda server: answer(server, text)) as address, ControlClient(address) as client:
        assert client.call(Dmesg(), timeout=WAIT) == text


def test_a_request_of_the_longest_size_comes_through(tmp_path: Path) -> None:
    came: list[bytes] = []

    def body(server: zmq.Socket[bytes]) -> None:
        came.append(msgpack.unpackb(server.recv_multipart()[1])["data"])

    data = b"x" * (MAX_MESSAGE - 100)
    with router(tmp_path, body) as address, ControlClient(address, WAIT) as client:
        client.post(ConsoleInput(data))
    assert came == [data]


def test_what_came_before_the_machines_end_is_read_first(tmp_path: Path) -> None:
    with router(tmp_path, lambda server: answer(server, b"last words")) as address:
        client = ControlClient(address, WAIT)
        client.post(Dmesg())
    with client:
        reply = client.receive(WAIT)
        assert reply is not None
        assert reply.result() == b"last words"
        for _ in range(2):
            with pytest.raises(MachineEnded):
                client.receive(WAIT)
        client.post(Dmesg())  # which nobody gets: it is told when the answer is waited for
        with pytest.raises(MachineEnded):
            client.receive(0)


def test_a_dom0_that_says_nothing_is_waited_for_as_long_as_was_said(tmp_path: Path) -> None:
    done = threading.Event()
    with (
        router(tmp_path, lambda _server: done.wait(WAIT)) as address,
        ControlClient(address, NOT_LONG) as client,
    ):
        with pytest.raises(ControlError, match=r"did not answer 'domname' within 0\.2 s") as caught:
            client.call(Domname("x"))
        done.set()
    assert caught.value.code == Exit.TIMED_OUT


def test_one_who_listens_and_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with plain(tmp_path, b"") as address, pytest.raises(ControlError, match="did not answer") as caught:
        ControlClient(address, NOT_LONG)
    assert caught.value.code == Exit.TIMED_OUT


def test_one_who_reads_nothing_does_not_hold_whoever_sends(tmp_path: Path) -> None:
    with plain(tmp_path, handshake(b"ROUTER")) as address, ControlClient(address, NOT_LONG) as client:
        with pytest.raises(ControlError, match="did not read") as caught:
            client.post(ConsoleInput(b"x" * (MAX_MESSAGE - 100)))
        with pytest.raises(MachineEnded):  # for a part of a message is all that can still be sent
            client.receive(0)
    assert caught.value.code == Exit.TIMED_OUT


@pytest.mark.parametrize("greeting", [b"SSH-2.0-x" + bytes(80), b"\xff" + bytes(63)])
def test_one_who_speaks_otherwise_is_told_in_one_line(tmp_path: Path, greeting: bytes) -> None:
    with plain(tmp_path, greeting) as address, pytest.raises(ControlError, match="in another form"):
        ControlClient(address, WAIT)


def test_where_nobody_listens_there_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ControlClient(MachineAddress.in_folder(tmp_path))
