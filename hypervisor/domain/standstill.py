"""Granters that are brought to a standstill, so that their grant flags can be exchanged (docs/events.md).

An x86 guest's locked instructions are not atomic towards the core, which therefore writes grant flags only while such a
guest executes nothing. A domain that needs them meanwhile gets GNTST_eagain, and asks again:

    running ──reached? no: asked, stop byte──► its next request, whatever it is ──► held: the answer waits ──► running
                                                                            until somebody reached it, or HOLD_NS

Without the hold a guest that makes one short hypercall after another would be running whenever it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain, Life, Vcpu
from hypervisor.machine.atomic import Atomics
from hypervisor.public.types import DomId
from hypervisor.sched.timers import TimerKind, Timers

HOLD_NS: Final = 100_000_000
"""The longest, in ns, that a granter is held until the domain that got GNTST_eagain repeats its operation. That
is longer than a back end lets pass
between two tries (drivers/retry.py); a granter that stops at once is asked again at once, and held no longer."""


class Standstill:
    """Which domains were asked to stop for their grant flags' sake, and which are held."""

    def __init__(
        self,
        atomics: Atomics | None,
        timers: Timers,
        now: Callable[[], int],
        ask_to_stop: Callable[[Vcpu], None],
    ) -> None:
        self._atomics = atomics
        self._timers = timers
        self._now = now
        self._ask_to_stop = ask_to_stop
        self._asked: set[DomId] = set()
        self._held: set[DomId] = set()

    def reached(self, granter: Domain) -> bool:
        """Whether grant flags of `granter` may be exchanged now: its CPU exchanges them atomically too, or it executes nothing.

        Otherwise it is asked to stop.
        """
        domid = granter.domid
        if self._atomics is not None and granter.mailbox.atomic_guest:
            return True
        running = [] if granter.life is not Life.ALIVE else [v for v in granter.vcpus if not v.run.at_rest]
        if running:
            self._asked.add(domid)
            for vcpu in running:
                self._ask_to_stop(vcpu)
            return False
        self._asked.discard(domid)
        if domid in self._held:  # long enough: it goes on after this hypercall
            self._timers.set(TimerKind.GRANT_HOLD, domid, 0, self._now())
        return True

    def keeps(self, vcpu: Vcpu) -> bool:
        """Whether an answer to the vCPU must wait; `RunControl.go_on` follows when it need not any more."""
        domid = vcpu.domain.domid
        if domid in self._asked:
            self._asked.discard(domid)
            self._held.add(domid)
            self._timers.set(TimerKind.GRANT_HOLD, domid, 0, self._now() + HOLD_NS)
        return domid in self._held

    def let_go(self, domain: Domain) -> None:
        """The hold is over, or the domain is dying."""
        self._asked.discard(domain.domid)
        self._held.discard(domain.domid)
