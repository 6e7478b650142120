"""A domain with a Python kernel, in the process of the core: Dom0, a driver domain, or somebody's neighbour.

It has no process of its own, so it runs when its turn comes: while an event has woken it, until it blocks again (SCHEDOP_block).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Final

from domains.cpu.python_cpu import PythonCpu
from domains.cpu.watched_fds import WatchedFds
from domains.kernel.image import make_image
from domains.kernel.kernel import Kernel
from domains.lab.in_process import XenInProcess, build_pv
from domains.lab.systems.gate import Answer, InProcessGate, call_name
from domains.lab.systems.system import Fault
from hypervisor.builder.pv_image import PvImage, Segment
from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.lifecycle import create_domain
from hypervisor.public.sched import SCHEDOP_block
from hypervisor.public.types import VAddr
from hypervisor.public.xen import Hypercall
from hypervisor.wire.mailbox import Engine

PAGES: Final = 1280
BASE: Final = VAddr(0xFFFF_FFFF_8000_0000)


class TurnGate(InProcessGate):
    """Its way to the core. Whoever blocks is left alone until the next turn: `asleep`. `told` hears of each hypercall."""

    def __init__(self, xen: XenInProcess, domain: Domain) -> None:
        super().__init__(xen, domain)
        self.busy = False
        self.looks = 0
        self.save_context: Callable[[int], bytes] = bytes
        self.watched = WatchedFds(-1)
        self.asleep = False
        self.told: Callable[[str], None] = lambda _name: None

    def hypercall(self, vcpu: int, nr: int, *args: int) -> Answer:
        """See InProcessGate. Nobody else runs meanwhile."""
        self.told(call_name(nr, args))
        if (nr, *args[:1]) != (Hypercall.sched_op, SCHEDOP_block):
            return self.answer(vcpu, nr, args)
        answer = self.ask(vcpu, nr, args)
        self.asleep = answer is None
        return answer or (0, [])

    def should_stop(self, vcpu: int) -> bool:
        """Whether the core asks it to stop."""
        return self.mailbox.stop(vcpu)

    def stopped(self, vcpu: int) -> Answer:
        """It has: nothing else is there to be run."""
        self.mailbox.set_stop(vcpu, False)
        return 0, []


class PythonDomain:
    """`domain` is built already; its kernel boots now, and blocks. `woken` is called at the beginning of each turn."""

    def __init__(self, xen: XenInProcess, domain: Domain) -> None:
        self.xen, self.domain = xen, domain
        self.gate = TurnGate(xen, domain)
        self.cpu = PythonCpu(self.gate)  # type: ignore[arg-type]
        before = signal.getsignal(signal.SIGUSR1)
        self.cpu.boot(self.gate.start(0))
        signal.signal(signal.SIGUSR1, before)  # nobody sends it here
        self.kernel = Kernel(self.cpu)
        self.woken: Callable[[], None] = lambda: None
        xen.others.append(self.turn)

    def turn(self) -> bool:
        """Run it until it blocks, if an event has woken it; whether one had. A fault of its code ends it as crashed."""
        if self.domain.life is not Life.ALIVE or self.domain.is_shut_down:
            return False
        try:
            return self._turn()
        except Fault as fault:
            self.xen.hv.crash(self.domain, str(fault))
            return True

    def _turn(self) -> bool:
        if not self.gate.asleep:  # it has not blocked yet
            self.block()
        answer = self.xen.processes.answers.pop(self.domain.vcpus[0], None)
        if answer is None:
            return False
        self.woken()
        self.gate.asleep = False
        self.cpu.apply(self.gate.without_extents(answer[1]))
        self.cpu.deliver_events()
        self.block()
        return True

    def have(self, done: Callable[[], None]) -> None:
        """Have its kernel do something at its next turn, as xenstore would."""
        self.kernel.call_soon(done)
        self.xen.hv.run.vcpu_unblock(self.domain.vcpus[0])

    def block(self) -> None:
        """What is ready is run; then it sleeps."""
        self.kernel.wait(lambda: self.gate.asleep)


def new_domain(xen: XenInProcess, pages: int = PAGES) -> PythonDomain:
    """A domain without privilege."""
    domain = create_domain(xen.hv, xen.hv.free_domid(), max_pages=2 * pages, engine=Engine.PYTHON)
    kernel = make_image(f"{__name__}:PythonDomain")
    build_pv(xen, domain, PvImage([Segment(BASE, kernel, len(kernel))], BASE, BASE), pages)
    return PythonDomain(xen, domain)
