"""What a domain's process has done already, and says now: its posts, performed before anything else that it asks.

    process   does what is certain to be permitted, keeps it, and goes on
    message   its next request, with what it kept ahead of it; or what it kept alone, when that has become old or much
    here      the same is done to what the core has recorded, in order

A post is refused only if the process was wrong about what it may do: it lied, and its domain ends (docs/posted-operations.md).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from hypervisor.domain.domain import Life, Vcpu
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.sending import send_event
from hypervisor.public.errno import XenError
from hypervisor.sched.timers import TimerKind, s_time
from hypervisor.wire.messages import POST_SIZE, Post, ProtocolError

_TIMER: Final = int(Post.SINGLESHOT_TIMER)
_EVENT: Final = int(Post.EVTCHN_SEND)


class PostedOperations:
    """Performs the posts of one message, MAX_POSTS at most: some milliseconds."""

    def __init__(self, hv: Hypervisor) -> None:
        self.hv = hv

    def perform(self, vcpu: Vcpu, posts: bytes) -> None:
        """In the vCPU's name. Raises ProtocolError: refused, or no vCPU may post now."""
        domain = vcpu.domain
        words = memoryview(posts).cast("Q")
        if domain.is_hvm and any(kind != _EVENT for kind in words[::2]):
            raise ProtocolError("posts of an HVM guest about its page tables or timers")
        if vcpu.run.at_rest:
            raise ProtocolError("posts of a vCPU that does not execute its guest")
        if domain.life is not Life.ALIVE:
            return
        self.hv.counters.add("posted operations", domain.domid, len(posts) // POST_SIZE)
        done = 0
        try:
            for at in range(0, len(words), 2):
                if words[at] in (_TIMER, _EVENT):
                    self.hv.mmu.posted.perform(vcpu.mem, words[done:at])
                    self._perform_one(vcpu, words[at], words[at + 1])
                    done = at + 2
            self.hv.mmu.posted.perform(vcpu.mem, words[done:])
        except XenError as refusal:
            raise ProtocolError(f"a posted operation is refused: {refusal}") from None

    def _perform_one(self, vcpu: Vcpu, kind: int, value: int) -> None:
        """A timer or an event. A toolstack may have closed the port meanwhile (EVTCHNOP_reset): the event is lost, as its end."""
        if kind == _TIMER:
            self.hv.timers.set(TimerKind.SINGLESHOT, vcpu.domain.domid, vcpu.vcpu_id, s_time(value))
            return
        with suppress(XenError):
            send_event(self.hv, vcpu, value)
