"""A bare ZeroMQ socket here, and another process at its other end: what yardsticks over ZeroMQ are made of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

import zmq

from scripts.benchmarks.machine import environment


class ZmqPeer:
    """Use in a `with` block. The peer is this module, run with the endpoint that it is to connect to."""

    kind: int
    """Of the socket here."""
    module: str

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="xz-")
        endpoint = f"ipc://{Path(self._folder.name) / 'peer'}"
        self._context = zmq.Context()
        self.socket = self._context.socket(self.kind)
        self.socket.linger = 0
        self.socket.bind(endpoint)
        self._peer = subprocess.Popen([sys.executable, "-m", self.module, endpoint], env=environment())
        self.greet()
        return self

    def greet(self) -> None:
        """Return once the peer is there."""
        raise NotImplementedError

    def __exit__(self, *_: object) -> None:
        self._peer.kill()
        self._peer.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()
