"""The PV kernel of a Python guest: boots from start_info and holds what drivers and services need.

Owns the parts, wired together, and the one place that waits. A kernel is straight-line code in `Guest.main`
plus handlers: for event channels, timers, watches and (Dom0) host descriptors. Handlers run one at a time,
only inside `wait`, and never nest into themselves; a handler may itself wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.console import Console
from domains.kernel.events import EventPorts
from domains.kernel.grants import Grants
from domains.kernel.hypercalls import Hypercalls
from domains.kernel.loop import Timer
from domains.kernel.memory import PageAllocator
from domains.kernel.xenbus import Xenbus
from hypervisor.public.types import DomId


class Kernel:
    """One Python kernel on one vCPU."""

    cpu: PythonCpu
    hypercalls: Hypercalls
    memory: PageAllocator
    events: EventPorts
    grants: Grants
    xenbus: Xenbus
    console: Console
    domid: DomId
    """This domain's id, as xenstore tells it (`domid`); 0 in Dom0."""
    privileged: bool
    """start_info says SIF_PRIVILEGED: this is Dom0."""

    def __init__(self, cpu: PythonCpu) -> None:
        self.cpu = cpu

    def wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Run handlers and sleep (SCHEDOP_block) until `condition()` holds; False if `timeout` seconds
        passed first.
        """
        raise NotImplementedError

    def now(self) -> int:
        """System time in nanoseconds since the machine started (Xen public/xen.h, vcpu_time_info)."""
        raise NotImplementedError

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` from the loop, after what is being run."""
        raise NotImplementedError

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` once, `seconds` from now; `Timer.cancel()` takes it back."""
        raise NotImplementedError

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Dom0: run `callback` while host descriptor `fd` is readable, by a physical interrupt
        (EVTCHNOP_bind_pirq).
        """
        raise NotImplementedError

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd` for reading."""
        raise NotImplementedError

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Dom0: run `callback` while host descriptor `fd` can be written to."""
        raise NotImplementedError

    def remove_writer(self, fd: int) -> None:
        """Stop watching `fd` for writing."""
        raise NotImplementedError

    def shutdown(self, reason: int) -> NoReturn:
        """End this domain with SCHEDOP_shutdown; `reason` is a SHUTDOWN_… of Xen public/sched.h."""
        raise NotImplementedError
