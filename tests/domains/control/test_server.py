"""The toolstack's end of the control protocol, by itself, with real clients.

ZeroMQ's descriptor tells of a message once, and whatever is done with the socket may take that away: so each such thing has the
server look again, one that fails too.
"""

from __future__ import annotations

import select
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from domains.control.address import MachineAddress
from domains.control.client import ControlClient
from domains.control.operations import Info
from domains.control.server import ControlServer, Disconnected, Request
from tests.machines import wait_until


class Served:
    """A server, and how often it was told to look again."""

    def __init__(self, folder: Path) -> None:
        self.looks = 0
        self.address = MachineAddress.in_folder(folder)
        self.server = ControlServer(self.address, self._look)

    def _look(self) -> None:
        self.looks += 1

    def request(self) -> Request:
        """The next request."""
        found: Request = wait_until(lambda: next(self.server.receive(), None), 10, "a request")
        return found


@pytest.fixture
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        served = Served(Path(folder))
        yield served
        served.server.close()


def test_an_answer_for_a_client_that_is_gone_hides_no_request_of_another(served: Served) -> None:
    """Control: where only an answer that is sent has the server look again, it is not told to here."""
    gone = ControlClient(served.address)
    gone.post(Info())
    request = served.request()
    gone.close()

    def is_gone() -> bool:
        try:
            request.stream(None)
        except Disconnected:
            return True
        return False

    wait_until(is_gone, 10, "the end of the connection")
    with ControlClient(served.address) as other:
        other.post(Info())
        poll = select.poll()
        poll.register(served.server.fd, select.POLLIN)
        assert poll.poll(10_000)
        before = served.looks
        assert is_gone()
        assert served.looks == before + 1
        assert served.request().peer != request.peer
