"""Granters that are brought to a standstill, so that their grant flags can be exchanged (docs/events.md).

An x86 guest's locked instructions are not atomic towards the core, which therefore writes grant flags only while such a
guest executes nothing. Who needs them meanwhile is told GNTST_eagain, and asks again:

    running ──reached? no: asked, stop byte──► its next request, whatever it is ──► held: the answer waits ──► running
                                                                            until somebody reached it, or HOLD_NS

Without the hold a guest that makes one short hypercall after another would be running whenever it is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.vcpu import Vcpu
from hypervisor.public.types import DomId
from hypervisor.sched.timers import TimerKind

if TYPE_CHECKING:
    from hypervisor.domain.hypervisor import Hypervisor

HOLD_NS: Final = 100_000_000
"""How long a granter is held at most, for another domain that asked to ask again. That is longer than a back end lets pass
between two tries (drivers/retry.py); a granter that stops at once is asked again at once, and held no longer."""


class Standstill:
    """Which domains were asked to stop for their grant flags' sake, and which are held."""

    def __init__(self, hv: Hypervisor) -> None:
        self._hv = hv
        self._asked: set[DomId] = set()
        self._held: set[DomId] = set()

    def reached(self, granter: Domain) -> bool:
        """Whether grant flags of `granter` may be exchanged now: its CPU exchanges them atomically too, or it executes nothing.

        Otherwise it is asked to stop.
        """
        hv, domid = self._hv, granter.domid
        if hv.atomics is not None and granter.mailbox.atomic_guest:
            return True
        running = [] if granter.life is not Life.ALIVE else [v for v in granter.vcpus if not at_rest(v)]
        if running:
            self._asked.add(domid)
            for vcpu in running:
                granter.mailbox.set_stop(vcpu.vcpu_id, True)
                hv.processes.interrupt(vcpu)
            return False
        self._asked.discard(domid)
        if domid in self._held:  # long enough: it goes on after this hypercall
            hv.timers.set(TimerKind.GRANT_HOLD, domid, 0, hv.now())
        return True

    def keeps(self, vcpu: Vcpu) -> bool:
        """Whether an answer to the vCPU must wait; `Hypervisor.go_on` follows when it need not any more."""
        domain, hv = vcpu.domain, self._hv
        if domain.domid in self._asked:
            self._asked.discard(domain.domid)
            self._held.add(domain.domid)
            hv.timers.set(TimerKind.GRANT_HOLD, domain.domid, 0, hv.now() + HOLD_NS)
        return domain.domid in self._held

    def let_go(self, domain: Domain) -> None:
        """The hold is over: the answers that waited are sent."""
        self._held.discard(domain.domid)
        for vcpu in domain.vcpus:
            self._hv.go_on(vcpu)


def at_rest(vcpu: Vcpu) -> bool:
    """It is in the hypervisor, or was taken off its CPU between two instructions: by force it may be in the middle of one."""
    return vcpu.waiting_seq is not None or (vcpu.unit.cpu is None and not vcpu.unit.frozen)
