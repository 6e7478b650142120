"""The socket server, driven turn by turn: bounded, and no client's fault is another's trouble."""

import contextlib
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from domains.dom0.xenstore.server import Xenstored
from hypervisor.public.io.xs_wire import XS_READ, XS_WATCH, XS_WRITE, xsd_sockmsg
from tests.domains.dom0.xenstore.client import OK, Message, decode, encode, outcome
from tests.domains.dom0.xenstore.loop import SelectLoop, serving


class Peer:
    """A client's end."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.data = b""
        self.closed = False

    def receive(self) -> None:
        try:
            while chunk := self.socket.recv(65536):
                self.data += chunk
            self.closed = True
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.closed = True

    @property
    def messages(self) -> list[Message]:
        return decode(self.data)[0]

    @property
    def replies(self) -> list[bytes | str]:
        return [outcome(message) for message in self.messages]


class House:
    """Store, loop and clients in one process."""

    def __init__(self, path: str, xenstored: Xenstored, loop: SelectLoop) -> None:
        self.path = path
        self.xenstored = xenstored
        self.loop = loop
        self.peers: list[Peer] = []

    def peer(self) -> Peer:
        self.peers.append(Peer(self.path))
        return self.peers[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "nothing more happens"
            delay = self.xenstored.run()
            self.loop.turn(0.02 if delay is None else min(delay, 0.02))
            for peer in self.peers:
                peer.receive()


@pytest.fixture
def house() -> Iterator[House]:
    with tempfile.TemporaryDirectory(prefix="xs") as folder, contextlib.ExitStack() as stack:
        path = os.path.join(folder, "socket")
        xenstored, loop, _server = stack.enter_context(serving(path))
        house = House(path, xenstored, loop)
        yield house
        for peer in house.peers:
            peer.socket.close()
        stack.close()
        assert os.listdir(folder) == []
        assert xenstored.check() == []


def test_requests_over_the_socket_are_answered(house: House) -> None:
    peer = house.peer()
    peer.socket.send(encode(XS_WRITE, b"/a\0x") + encode(XS_READ, b"/a\0"))
    house.until(lambda: peer.replies == [OK, b"x"])


def test_only_the_owner_may_open_the_socket(house: House) -> None:
    assert stat.S_IMODE(os.stat(house.path).st_mode) == 0o600


def test_a_path_in_use_is_an_error_and_stays_in_use(house: House) -> None:
    with pytest.raises(OSError, match="in use"), serving(house.path):
        pass
    peer = house.peer()
    peer.socket.send(encode(XS_READ, b"/tool\0"))
    house.until(lambda: peer.replies == [b""])


def test_a_message_may_come_in_pieces(house: House) -> None:
    peer = house.peer()
    for byte in encode(XS_WRITE, b"/a\0x"):
        peer.socket.send(bytes([byte]))
        house.until(lambda: True)
        house.loop.turn(0)
    house.until(lambda: peer.replies == [OK])


@pytest.mark.parametrize(
    "garbage", [b"\xff" * 16, b"GET / HTTP/1.1\r\n\r\n", xsd_sockmsg(type=XS_READ, len=4097).pack()]
)
def test_s4_garbage_disconnects_only_who_sent_it(house: House, garbage: bytes) -> None:
    good, bad = house.peer(), house.peer()
    bad.socket.send(garbage)
    house.until(lambda: bad.closed)
    good.socket.send(encode(XS_READ, b"/tool\0"))
    house.until(lambda: good.replies == [b""])


def test_a_client_that_leaves_in_the_middle_leaves_nothing(house: House) -> None:
    peer = house.peer()
    peer.socket.send(encode(XS_WATCH, b"/a\0t\0") + encode(6, b"\0") + encode(XS_WRITE, b"/a\0x")[:18])
    house.until(lambda: len(house.xenstored.watches) == 1 and house.xenstored.store.open_transactions == 1)
    peer.socket.close()
    house.peers.remove(peer)
    house.until(lambda: len(house.xenstored.watches) == 0)
    assert house.xenstored.store.open_transactions == 0


def test_s2_a_client_that_never_reads_is_cut_off_and_the_others_are_served(house: House) -> None:
    sleeper, writer = Peer(house.path), house.peer()
    sleeper.socket.send(encode(XS_WATCH, b"/a\0" + b"t" * 2000 + b"\0"))
    house.until(lambda: len(house.xenstored.watches) == 1)
    for number in range(1500):
        request = encode(XS_WRITE, b"/a/%d\0" % number)
        assert writer.socket.send(request) == len(request)
        house.loop.turn(0)
    house.until(lambda: len(writer.messages) == 1500)
    assert len(house.xenstored.watches) == 0
    sleeper.socket.close()


def test_s2_a_client_that_asks_without_reading_has_to_wait_but_loses_nothing(house: House) -> None:
    peer = Peer(house.path)
    house.until(lambda: len(house.xenstored._connections) == 1)
    writer = house.peer()
    writer.socket.send(encode(XS_WRITE, b"/v\0" + b"x" * 2000))
    house.until(lambda: writer.replies == [OK])
    request, sent = encode(XS_READ, b"/v\0"), 0
    with contextlib.suppress(BlockingIOError):
        for _ in range(5000):
            sent += peer.socket.send(request)
            house.loop.turn(0)
            house.xenstored.run()
    assert sent < 5000 * len(request)
    house.peers.append(peer)
    house.until(lambda: len(peer.messages) == sent // len(request))
    assert set(peer.replies) == {b"x" * 2000}


def test_more_clients_than_allowed_are_turned_away(house: House) -> None:
    peers = [house.peer() for _ in range(10)]
    house.until(lambda: sum(peer.closed for peer in peers) == 2)
    peers[0].socket.send(encode(XS_READ, b"/tool\0"))
    house.until(lambda: peers[0].replies == [b""])
    peers[1].socket.close()
    house.peers.remove(peers[1])
    house.until(lambda: len(house.xenstored._connections) == 7)
    late = house.peer()
    late.socket.send(encode(XS_READ, b"/tool\0"))
    house.until(lambda: late.replies == [b""])
