"""Events that are sent without waiting for an answer: EVTCHNOP_send on a port on which it is certain to succeed.

A send on a port succeeds until its own domain closes the port: if the other end goes, the event is dropped without a word (E5).
So a port is certain from its first send that succeeded to the answer that says that it is closed. The core is told of a posted
send at once, in a message of its own, and the vCPU goes on.

    send ─► certain? ─no──► asked for: answered 0? ─► certain from now on
                     └yes─► posted, AT_ONCE at most between two answers of the core, so that nobody sends faster than it performs
"""

from __future__ import annotations

from typing import Final

from domains.cpu.post_queue import PostQueue
from hypervisor.wire.messages import Post

AT_ONCE: Final = 16
"""Events that are posted before one is asked for, to wait for the core."""


class EventPosts:
    """One domain's. `posts`: what its process tells the core; None on a machine that repeats itself, where requests count."""

    def __init__(self, posts: PostQueue | None) -> None:
        self._posts = posts
        self._certain: set[int] = set()
        self._asked: dict[int, int] = {}
        """By vCPU, the port of a send that it asks the core for."""
        self._unanswered = 0

    def send(self, vcpu: int, port: int, *, alone: bool) -> bool:
        """Send the event now, if that is certain to succeed. False: the vCPU asks for it, and `answered` tells what came of it.
        `alone`: no sibling waits for anything that could close the port.
        """
        if self._posts is None:
            return False
        if port not in self._certain or not alone or self._unanswered >= AT_ONCE:
            self._asked[vcpu] = port
            return False
        self._unanswered += 1
        self._posts.send_at_once(vcpu, int(Post.EVTCHN_SEND), port)
        return True

    def answered(self, vcpu: int, result: int) -> None:
        """The core has answered a request of this vCPU."""
        self._unanswered = 0
        if self._asked:
            port = self._asked.pop(vcpu, None)
            if port is not None and result == 0:
                self._certain.add(port)

    def closed(self, port: int) -> None:
        """The port is not open any more."""
        self._certain.discard(port)
