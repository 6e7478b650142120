"""Two carriers as processes of their own, with sockets in the place of their Dom0s: what goes over, and who is kept out.

Controls: with a DoorKeeper that admits everybody, `test_a_machine_whose_key_is_not_known_is_kept_out` fails; with a Flow that
does not count what is sent, `test_one_that_does_not_read_is_sent_no_more_than_the_window`; with one that does not count what
comes, `test_a_known_machine_that_keeps_to_nothing_is_cut_off`.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from domains.carrier.chunks import LARGEST, WINDOW, Kind, hello
from domains.carrier.frames import HEAD_SIZE, Word, frame, parse_head
from domains.carrier.keys import Pair, pair_of
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note
from tests.machines import REPOSITORY, wait_until

CARRIER = """
import socket, sys
from domains.carrier.door import Door
from domains.carrier.process import serve
fd, machine, door, place = sys.argv[1:]
serve(socket.socket(fileno=int(fd)), machine, Door(int(door), place) if int(door) >= 0 else None)
"""
SECONDS = 20.0


class Carrier:
    """One process, its Dom0's end of the notes, and where it listens."""

    def __init__(self, machine: str, *, listens: bool, log: Path) -> None:
        self.keys = pair_of(machine)
        self.notes, theirs = descriptors.pair()
        self.notes.settimeout(SECONDS)
        door, self.place = -1, ""
        fds = [theirs.fileno()]
        listener = None
        if listens:
            listener = socket.create_server(("127.0.0.1", 0))
            door, self.place = listener.fileno(), f"127.0.0.1:{listener.getsockname()[1]}"
            fds.append(door)
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CARRIER, str(theirs.fileno()), machine, str(door), self.place],
                pass_fds=fds,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdout=out,
                stderr=out,
            )
        theirs.close()
        if listener is not None:
            listener.close()

    def connect(self, place: str, key: bytes) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors.send(self.notes, [int(Note.CARRY), place, key.hex()], (theirs.fileno(),))
        ours.settimeout(SECONDS)
        return ours

    def came(self) -> socket.socket:
        received = descriptors.receive(self.notes)
        assert received is not None
        assert received.note[0] == Note.CARRIED
        ours = socket.socket(fileno=received.fds[0])
        ours.settimeout(SECONDS)
        return ours

    def nobody_came(self) -> bool:
        return not select.select([self.notes], [], [], 0)[0]

    def close(self) -> None:
        self.notes.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "xenoscope"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def two(home: Path, tmp_path: Path) -> Iterator[tuple[Carrier, Carrier]]:
    """One that knows the other, and that one, which listens."""
    (home / "authorized_keys").write_text(f"{pair_of('near').public.hex()} near\n")
    near = Carrier("near", listens=False, log=tmp_path / "near.log")
    far = Carrier("far", listens=True, log=tmp_path / "far.log")
    yield near, far
    near.close()
    far.close()


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"the end after {len(data)} of {size} bytes"
        data += part
    return data


def lost(sock: socket.socket) -> str:
    """The reason why there is no connection."""
    word, size = parse_head(read(sock, HEAD_SIZE))
    assert word is Word.LOST
    return read(sock, size).decode()


def test_bytes_go_both_ways_in_order_and_the_end_is_seen(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(frame(Word.PING))
        with far.came() as there:
            assert read(there, HEAD_SIZE) == frame(Word.PING)
            data = os.urandom(1 << 20) * 12
            sending = threading.Thread(target=here.sendall, args=(data,))
            sending.start()
            assert read(there, len(data)) == data
            sending.join()
            there.sendall(b"thanks")
            assert read(here, 6) == b"thanks"
            here.close()
            assert there.recv(1) == b""


def test_a_machine_whose_key_is_not_known_is_kept_out(two: tuple[Carrier, Carrier], home: Path) -> None:
    near, far = two
    (home / "authorized_keys").write_text("")
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(frame(Word.PING))
        why = lost(here)
    assert "authorized_keys" in why
    assert near.keys.public.hex() in why
    assert far.nobody_came()
    assert near.keys.public.hex() in far.log.read_text()


def test_a_machine_with_another_key_than_expected_is_not_believed(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with near.connect(far.place, near.keys.public) as here:
        assert "that key" in lost(here)
    assert far.nobody_came()


def test_where_nobody_listens_a_line_says_so(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
    with near.connect(place, far.keys.public) as here:
        assert "no machine listens there" in lost(here)
    with near.connect("no-such-host.invalid:1", far.keys.public) as here:
        assert "cannot connect to no-such-host.invalid:1" in lost(here)


def test_one_that_is_no_machine_is_not_taken_for_one(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                with suppress(OSError):
                    peer, _ = server.accept()
                    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                    peer.recv(1000)
                    peer.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        place = f"127.0.0.1:{server.getsockname()[1]}"
        with near.connect(place, far.keys.public) as here:
            assert place in lost(here)


def test_garbage_of_strangers_disturbs_nobody(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    host, port = far.place.split(":")
    for garbage in (b"", b"GET / HTTP/1.0\r\n\r\n", bytes(64), b"\xff" * 4096, os.urandom(100_000)):
        with socket.create_connection((host, int(port))) as stranger, suppress(OSError):
            stranger.sendall(garbage)
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(b"hello")
        with far.came() as there:
            assert read(there, 5) == b"hello"
    assert far.process.poll() is None


def test_one_that_does_not_read_is_sent_no_more_than_the_window(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(b"x")
        with far.came() as there:
            read(there, 1)
            here.setblocking(False)
            sent, quiet = 0, 0
            while quiet < 10:
                try:
                    sent += here.send(bytes(1 << 16))
                    quiet = 0
                except BlockingIOError:
                    quiet += not select.select([], [here], [], 0.1)[1]
            assert sent < WINDOW + (4 << 20)
            here.setblocking(True)
            reading = threading.Thread(target=read, args=(there, sent))
            reading.start()
            reading.join(SECONDS)
            assert not reading.is_alive()


def dealer(keys: Pair, server: bytes, place: str) -> zmq.Socket[bytes]:
    """A client that may connect, and keeps to nothing else."""
    client: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    client.linger = 0
    client.curve_secretkey, client.curve_publickey = z85.encode(keys.secret), z85.encode(keys.public)
    client.curve_serverkey = z85.encode(server)
    client.sndtimeo = client.rcvtimeo = int(SECONDS * 1000)
    client.connect(f"tcp://{place}")
    return client


def test_a_machine_of_another_version_is_told_the_one_that_is_here(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with dealer(near.keys, far.keys.public, far.place) as client:
        client.send(bytes((Kind.HELLO,)) + b"xenoscope 0")
        assert client.recv() == hello()
    assert far.nobody_came()


@pytest.mark.parametrize("kind", ["flood", "frames", "too large"])
def test_a_known_machine_that_keeps_to_nothing_is_cut_off(two: tuple[Carrier, Carrier], kind: str) -> None:
    near, far = two
    with dealer(near.keys, far.keys.public, far.place) as client:
        client.send(hello())
        assert client.recv() == hello()
        with far.came() as there:
            with suppress(zmq.Again):
                if kind == "flood":
                    for _ in range(40):
                        client.send(bytes((Kind.DATA,)) + bytes(1 << 18))
                    wait_until(lambda: "sends more than it may" in far.log.read_text())
                elif kind == "frames":
                    client.send_multipart([bytes((Kind.DATA,)), b"more"])
                elif kind == "too large":
                    client.send(bytes(4 * LARGEST))
            while there.recv(1 << 20):
                pass
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(b"hello")
        with far.came() as there:
            assert read(there, 5) == b"hello"


def test_the_process_that_listens_is_started_again(two: tuple[Carrier, Carrier]) -> None:
    """Whatever has ended it: libzmq does so where descriptors or memory are short."""
    near, far = two

    def children() -> list[int]:
        path = Path(f"/proc/{far.process.pid}/task/{far.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    (first,) = wait_until(children)
    os.kill(first, 9)
    wait_until(lambda: children() not in ([], [first]))
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(b"hello")
        with far.came() as there:
            assert read(there, 5) == b"hello"


def test_a_connection_ends_with_either_carrier(two: tuple[Carrier, Carrier]) -> None:
    near, far = two
    with near.connect(far.place, far.keys.public) as here:
        here.sendall(b"x")
        with far.came() as there:
            read(there, 1)
            far.process.kill()
            assert here.recv(1) == b""
            assert there.recv(1) == b""
