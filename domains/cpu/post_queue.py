"""What a process has done and the core has not been told of: operations whose outcome was certain (docs/posted-operations.md)."""

from __future__ import annotations

import signal
from array import array
from collections.abc import Callable
from typing import Final

from hypervisor.wire.messages import MAX_POSTS, pack

POST_DELAY: Final = 1e-3
"""Seconds after which what was posted is sent, if the vCPU has not asked for anything by then."""


class PostQueue:
    """Two words for each operation (wire/messages.py, Post), all of one vCPU's turn: a turn ends with a request, which takes them
    along.
    """

    def __init__(self, send: Callable[[bytes], None], *, timed: bool) -> None:
        """`send` takes a message for the core. `timed`: SIGALRM comes POST_DELAY after the first post, and ends emulation."""
        self._send = send
        self._timed = timed
        self._words: list[int] = []

    def __len__(self) -> int:
        return len(self._words) // 2

    def add(self, vcpu: int, first: int, second: int) -> None:
        """The vCPU has done an operation. The core is told with its next request, or by `send`."""
        words = self._words
        if not words and self._timed:
            signal.setitimer(signal.ITIMER_REAL, POST_DELAY)
        words += (first, second)
        if len(words) >= 2 * MAX_POSTS:
            self.send(vcpu)

    def send_at_once(self, vcpu: int, first: int, second: int) -> None:
        """The vCPU has done an operation of which the core is told now."""
        self._words += (first, second)
        self.send(vcpu)

    def send(self, vcpu: int) -> None:
        """Tell the core now, if there is anything to be told."""
        if self._words:
            self._send(pack([vcpu, self.take()]))

    def take(self) -> bytes:
        """All of it, to be told with a request; there is nothing left then."""
        words, self._words = self._words, []
        return array("Q", words).tobytes()
