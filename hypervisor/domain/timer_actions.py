"""What happens when a timer is due: one table from its kind to its action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hypervisor.domain.domain import Domain, Life
from hypervisor.domain.hypervisor import Hypervisor
from hypervisor.domain.lifecycle import complete_destroy
from hypervisor.public.sched import SHUTDOWN_watchdog
from hypervisor.public.types import DomId
from hypervisor.public.xen import VIRQ_TIMER
from hypervisor.sched.timers import Timer, TimerKind


def _end_poll(hv: Hypervisor, domain: Domain, timer: Timer) -> None:
    hv.run.vcpu_unblock(domain.vcpus[timer.index])


def _singleshot(_hv: Hypervisor, domain: Domain, timer: Timer) -> None:
    domain.events.send_guest_virq(VIRQ_TIMER, timer.index)


def _periodic(hv: Hypervisor, domain: Domain, timer: Timer) -> None:
    """Ticks that a busy machine missed are not made up for."""
    domain.events.send_guest_virq(VIRQ_TIMER, timer.index)
    following = timer.deadline + domain.vcpus[timer.index].periodic_period
    hv.timers.set(timer.kind, timer.domid, timer.index, max(following, hv.now()))


def _watchdog(hv: Hypervisor, domain: Domain, _timer: Timer) -> None:
    if domain.is_shut_down or domain.life is not Life.ALIVE:
        return
    hv.log.line(f"d{domain.domid}: watchdog timer fired")
    hv.shutdown(domain, int(SHUTDOWN_watchdog))


def _retry_death(hv: Hypervisor, domain: Domain, _timer: Timer) -> None:
    complete_destroy(hv, domain)


TIMER_ACTIONS: Final[dict[TimerKind, Callable[[Hypervisor, Domain, Timer], None]]] = {
    TimerKind.POLL: _end_poll,
    TimerKind.SINGLESHOT: _singleshot,
    TimerKind.PERIODIC: _periodic,
    TimerKind.WATCHDOG: _watchdog,
    TimerKind.DEATH_RETRY: _retry_death,
}


def fire(hv: Hypervisor, timer: Timer) -> None:
    """Do what a timer that is due is for. Its domain is there: a domain that goes takes its timers with it."""
    domain = hv.domains.get(DomId(timer.domid))
    if domain is not None:
        TIMER_ACTIONS[timer.kind](hv, domain, timer)
