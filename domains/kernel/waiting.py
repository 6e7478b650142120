"""The one place where a Python kernel waits, and what goes on meanwhile.

Straight-line code (`Guest.main`) waits with `wait`, `run` and `sleep`. Handlers and tasks never do: a task yields what it
waits for (tasks.py), and the loop goes on. So a handler is never entered from below another one. One that waits all the same
gets HandlerWaits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from domains.kernel.events import EventPorts
from domains.kernel.host_fds import HostFds
from domains.kernel.hypercalls import Hypercalls
from domains.kernel.loop import Callback, Loop, Timer
from domains.kernel.shared_info import SharedInfo
from domains.kernel.tasks import Pause, Signal, Task
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.types import Port
from hypervisor.public.version import XENVER_version
from hypervisor.public.xen import VIRQ_TIMER

T = TypeVar("T")

NANOSECONDS: Final = 1_000_000_000
LOOK_NS: Final = 1_000_000
"""How long handlers that are ready all the time may keep the kernel from a look at Dom0's host descriptors."""


class HandlerWaits(Exception):
    """A handler, or a task between two pauses, was about to wait: it has to yield what it waits for."""


class Once:
    """Whether something has happened."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        """It has."""
        self._set = True

    def is_set(self) -> bool:
        """Whether it has."""
        return self._set


class Waiting:
    """A kernel's loop, run while something is waited for."""

    def __init__(
        self, loop: Loop, hypercalls: Hypercalls, shared_info: SharedInfo, events: EventPorts
    ) -> None:
        self.loop = loop
        self.hypercalls = hypercalls
        self.shared_info = shared_info
        self.events = events
        self._host_fds: HostFds | None = None
        """Dom0's host descriptors, whose interrupts must not come too late."""
        self._looks = 0
        self._looked = 0
        self._timer_port: Port | None = None
        self._armed: int | None = None

    @property
    def in_handler(self) -> bool:
        """Whether it is a handler or a task that runs now, so that nothing may wait."""
        return self.loop.running is not None

    def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Run handlers and sleep (SCHEDOP_block) until `condition()` holds; False if `timeout` seconds passed
        first.

        The condition is looked at again after every handler, and once more before the vCPU sleeps. Timers and host
        descriptors get their turn even while handlers are ready all the time. Raises HandlerWaits.
        """
        if self.in_handler:
            raise HandlerWaits(f"{self.loop.running} waits, which only straight-line code may")
        deadline = None if timeout is None else self.now() + int(timeout * NANOSECONDS)
        expired = False
        while not self._round(condition):
            if expired:
                return False
            timer = self.loop.next_deadline()
            if deadline is not None or timer is not None or (self._host_fds is not None and self.loop.ready):
                now = self.now()
                self.loop.fire(now)
                expired = deadline is not None and deadline <= now
                if self.loop.ready:
                    self._look_at_host_fds(now)
            if not self.loop.ready and not expired:
                self._sleep(min((d for d in (deadline, timer) if d is not None), default=None))
        return True

    def _round(self, condition: Callable[[], bool]) -> bool:
        """Run each handler that is ready now; whether the condition held before one of them, or does afterwards."""
        for _ in range(len(self.loop.ready)):
            if condition():
                return True
            self.loop.run_one()
        return condition()

    def _look_at_host_fds(self, now: int) -> None:
        """Host descriptors raise their interrupt only during a hypercall: make one if there has been none for a while."""
        host_fds = self._host_fds
        if host_fds is None:
            return
        if host_fds.looks != self._looks:
            self._looks, self._looked = host_fds.looks, now
        elif now - self._looked >= LOOK_NS:
            self.hypercalls.hypercall_xen_version(XENVER_version)

    def _sleep(self, deadline: int | None) -> None:
        """Block until an event comes or system time `deadline`; at once if a handler has become ready, or a host descriptor is.

        Upcalls are masked between the last look and the hypercall, which unmasks them: none is lost.
        """
        if self._host_fds is not None and self._host_fds.look():
            return
        if deadline is not None and deadline != self._armed:
            if self._timer_port is None:
                self._timer_port = self.events.bind_virq(VIRQ_TIMER, self._timer_fired)
            self.hypercalls.hypercall_set_timer_op(deadline)
            self._armed = deadline
        self.shared_info.mask_upcalls()
        if self.loop.ready:
            self.shared_info.unmask_upcalls()
        else:
            self.hypercalls.hypercall_sched_op(SCHEDOP_block)

    def _timer_fired(self) -> None:
        self._armed = None

    def run(self, task: Task[T]) -> T:
        """Drive `task` to its end, waiting whenever it pauses; its result, or what it raises. For straight-line code, and
        for handlers whose task never pauses (Dom0's requests to the store); HandlerWaits if it does.
        """
        while True:
            try:
                pause = next(task)
            except StopIteration as end:
                result: T = end.value
                return result
            woken = Once()
            self.loop.arm(pause, woken.set)
            self.wait(woken.is_set)

    def spawn(
        self,
        task: Task[Any],
        done: Callable[[Any], None] = lambda _: None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Have the loop drive `task`; `done` gets its result, `failed` the exception that ends it. Without `failed` that
        reaches whoever waits, as what a handler raises does.
        """
        self.loop.spawn(task, done, failed)

    def until(
        self, condition: Callable[[], bool], *signals: Signal, timeout: float | None = None
    ) -> Task[bool]:
        """Task: wait until `condition()` holds, which is looked at whenever one of `signals` is sent; False if
        `timeout` seconds passed first.
        """
        deadline = None if timeout is None else self.now() + int(timeout * NANOSECONDS)
        while not condition():
            if deadline is not None and self.now() >= deadline:
                return False
            yield Pause(signals, deadline)
        return True

    def rest(self, seconds: float) -> Task[None]:
        """Task: let time pass."""
        yield Pause(deadline=self.now() + int(seconds * NANOSECONDS))

    def sleep(self, seconds: float) -> None:
        """Let handlers run for a while."""
        self.wait(lambda: False, seconds)

    def now(self) -> int:
        """System time in nanoseconds since the machine started (Xen public/xen.h, vcpu_time_info)."""
        return self.shared_info.system_time()

    def wall_clock(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        return self.shared_info.wall_clock_at_start() + self.now()

    def call_soon(self, callback: Callback) -> None:
        """Run `callback` from the loop, after what is ready now."""
        self.loop.call_soon(callback)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        """Run `callback` once, `seconds` from now; `Timer.cancel()` takes it back."""
        return self.loop.call_at(self.now() + int(seconds * NANOSECONDS), callback)
