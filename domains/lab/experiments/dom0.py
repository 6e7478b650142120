"""Who may make domains, end them, give frames and ports: the same hypercalls from Dom0 and from a domain without privilege."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from domains.dom0.toolstack.xenctrl import XenCtrl
from domains.kernel.kernel import Kernel
from domains.lab.costs import Costs
from domains.lab.in_process import XenInProcess
from domains.lab.report import Claim, Experiment, Figure, Report, Table
from domains.lab.systems.dom0 import Dom0
from domains.lab.systems.python_domain import new_domain
from hypervisor.domain.domain import Domain
from hypervisor.domain.lifecycle import create_domain
from hypervisor.machine.paging import PAGE_PRESENT
from hypervisor.public.domctl import XEN_DOMCTL_INTERFACE_VERSION, Domctl, xen_domctl, xen_domctl_u
from hypervisor.public.domctl_domain import xen_domctl_irq_permission
from hypervisor.public.errno import XenError
from hypervisor.public.event_channel import (
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_bind_pirq,
    EVTCHNOP_reset,
    EVTCHNOP_status,
    evtchn_alloc_unbound,
    evtchn_bind_pirq,
    evtchn_reset,
    evtchn_status,
)
from hypervisor.public.grant_table import (
    GNTTABOP_map_grant_ref,
    GNTTABOP_query_size,
    GrantStatus,
    gnttab_map_grant_ref,
    gnttab_query_size,
)
from hypervisor.public.memory import (
    XENMEM_current_reservation,
    XENMEM_populate_physmap,
    xen_memory_domain,
    xen_memory_reservation,
)
from hypervisor.public.physdev import (
    PHYSDEVOP_irq_status_query,
    PHYSDEVOP_set_iopl,
    physdev_irq_status_query,
    physdev_set_iopl,
)
from hypervisor.public.sched import SCHEDOP_remote_shutdown, sched_remote_shutdown
from hypervisor.public.types import PAGE_SHIFT, DomId, Port, VAddr
from hypervisor.public.xen import DOMID_SELF

VICTIM_PAGES: Final = 16
PFN: Final = 0x10000
"""A page that nobody has yet."""
PIRQ: Final = 3
MAX_PORT: Final = 1023
DONE: Final = "0"
NONE_GIVEN: Final = "0 of 1 frames"
ITSELF, ANOTHER, MACHINE, PEER = "itself", "another domain", "the machine", "a peer's page"
"""Whom a call is about."""


class Try(NamedTuple):
    """Who makes the call, the domain that it is about, and a frame of that."""

    kernel: Kernel
    victim: Domain
    frame: int


class Asked(NamedTuple):
    """One hypercall, whom it is about, and how it is made: 0, the status of a grant, or XenError."""

    name: str
    about: str
    make: Callable[[Try], object]


class Answer(NamedTuple):
    """What Dom0 and the other domain were told."""

    asked: Asked
    dom0: str
    domu: str


def domctl(method: Callable[[XenCtrl, DomId], object]) -> Callable[[Try], object]:
    """A domctl about the other domain, as Dom0's toolstack makes it."""
    return lambda who: method(XenCtrl(who.kernel), who.victim.domid)


def create(who: Try) -> object:
    """A domain without memory; it is taken apart again."""
    control = XenCtrl(who.kernel)
    domid = control.createdomain(bytes(16), 1, -1, -1, 1, MAX_PORT, python=True)
    control.destroydomain(domid)
    return 0


def irq_permission(who: Try) -> object:
    """A physical interrupt for the other domain: what it needs to drive a device."""
    op = xen_domctl(
        cmd=int(Domctl.XEN_DOMCTL_irq_permission),
        interface_version=XEN_DOMCTL_INTERFACE_VERSION,
        domain=who.victim.domid,
        u=xen_domctl_u(irq_permission=xen_domctl_irq_permission(pirq=PIRQ, allow_access=1)),
    )
    return who.kernel.hypercalls.hypercall_domctl(op)


def populate(who: Try, domid: int) -> object:
    """One frame more. The hypercall's result is how many it gave."""
    with who.kernel.hypercalls.arguments as area:
        where = area.push(PFN.to_bytes(8, "little"))
        op = xen_memory_reservation(extent_start=where, nr_extents=1, domid=DomId(domid))
        given = who.kernel.hypercalls.hypercall_memory_op(XENMEM_populate_physmap, op)
    return 0 if given == 1 else NONE_GIVEN


def reservation(who: Try, domid: int) -> object:
    """How many frames it has."""
    op = xen_memory_domain(domid=DomId(domid))
    return who.kernel.hypercalls.hypercall_memory_op(XENMEM_current_reservation, op)


def map_foreign(who: Try) -> object:
    """A frame of the other domain's, without a grant."""
    va = who.kernel.memory.area.alloc(1)
    who.kernel.memory.tables.ensure_l1(VAddr(va))
    entry = who.frame << PAGE_SHIFT | PAGE_PRESENT
    try:
        return who.kernel.hypercalls.hypercall_update_va_mapping_otherdomain(va, entry, 0, who.victim.domid)
    finally:
        who.kernel.hypercalls.hypercall_update_va_mapping(va, 0)


def unbound(who: Try, domid: int) -> object:
    """A new port, that Dom0 may bind to."""
    op = evtchn_alloc_unbound(dom=DomId(domid), remote_dom=DomId(0))
    return who.kernel.hypercalls.hypercall_event_channel_op(EVTCHNOP_alloc_unbound, op)


def port_status(who: Try) -> object:
    """What a port of the other domain is bound to."""
    op = evtchn_status(dom=who.victim.domid, port=Port(1))
    return who.kernel.hypercalls.hypercall_event_channel_op(EVTCHNOP_status, op)


def reset(who: Try) -> object:
    """Close all its ports."""
    op = evtchn_reset(dom=who.victim.domid)
    return who.kernel.hypercalls.hypercall_event_channel_op(EVTCHNOP_reset, op)


def bind_pirq(who: Try) -> object:
    """A device's interrupt."""
    return who.kernel.hypercalls.hypercall_event_channel_op(EVTCHNOP_bind_pirq, evtchn_bind_pirq(pirq=PIRQ))


def set_iopl(who: Try) -> object:
    """Its own I/O privilege, which opens no port by itself."""
    return who.kernel.hypercalls.hypercall_physdev_op(PHYSDEVOP_set_iopl, physdev_set_iopl(iopl=1))


def irq_status(who: Try) -> object:
    """Whether a device's interrupt must be acknowledged."""
    op = physdev_irq_status_query(irq=PIRQ)
    return who.kernel.hypercalls.hypercall_physdev_op(PHYSDEVOP_irq_status_query, op)


def table_size(who: Try, domid: int) -> object:
    """How large a grant table is: the answer is a status."""
    op = gnttab_query_size(dom=DomId(domid))
    who.kernel.hypercalls.hypercall_grant_table_op(GNTTABOP_query_size, [op])
    return GrantStatus(op.status)


def map_ungranted(who: Try) -> object:
    """A reference that its domain has granted to nobody."""
    va = who.kernel.memory.area.alloc(1)
    op = gnttab_map_grant_ref(host_addr=va, flags=2, ref=8, dom=who.victim.domid)
    who.kernel.hypercalls.hypercall_grant_table_op(GNTTABOP_map_grant_ref, [op])
    return GrantStatus(op.status)


def remote_shutdown(who: Try) -> object:
    """End it as if it had ended itself."""
    op = sched_remote_shutdown(domain_id=who.victim.domid, reason=0)
    return who.kernel.hypercalls.hypercall_sched_op(SCHEDOP_remote_shutdown, op)


def about(call: Callable[[Try, int], object], *, itself: bool) -> Callable[[Try], object]:
    """A call that names its subject."""
    return lambda who: call(who, int(DOMID_SELF) if itself else who.victim.domid)


CALLS: Final = (
    Asked("domctl createdomain", MACHINE, create),
    Asked("domctl getdomaininfo", ANOTHER, domctl(XenCtrl.getdomaininfo)),
    Asked("domctl max_mem", ANOTHER, domctl(lambda control, domid: control.max_mem(domid, 4096))),
    Asked("domctl pausedomain", ANOTHER, domctl(XenCtrl.pausedomain)),
    Asked("domctl unpausedomain", ANOTHER, domctl(XenCtrl.unpausedomain)),
    Asked("domctl irq_permission", ANOTHER, irq_permission),
    Asked("sysctl getdomaininfolist", MACHINE, lambda who: XenCtrl(who.kernel).domains()),
    Asked("memory_op populate_physmap", ITSELF, about(populate, itself=True)),
    Asked("memory_op populate_physmap", ANOTHER, about(populate, itself=False)),
    Asked("memory_op current_reservation", ITSELF, about(reservation, itself=True)),
    Asked("memory_op current_reservation", ANOTHER, about(reservation, itself=False)),
    Asked("update_va_mapping_otherdomain", ANOTHER, map_foreign),
    Asked("event_channel_op alloc_unbound", ITSELF, about(unbound, itself=True)),
    Asked("event_channel_op alloc_unbound", ANOTHER, about(unbound, itself=False)),
    Asked("event_channel_op status", ANOTHER, port_status),
    Asked("event_channel_op reset", ANOTHER, reset),
    Asked("event_channel_op bind_pirq", MACHINE, bind_pirq),
    Asked("physdev_op set_iopl", ITSELF, set_iopl),
    Asked("physdev_op irq_status_query", MACHINE, irq_status),
    Asked("grant_table_op query_size", ITSELF, about(table_size, itself=True)),
    Asked("grant_table_op query_size", ANOTHER, about(table_size, itself=False)),
    Asked("grant_table_op map_grant_ref", PEER, map_ungranted),
    Asked("sched_op remote_shutdown", ANOTHER, remote_shutdown),
    Asked("domctl destroydomain", ANOTHER, domctl(XenCtrl.destroydomain)),
)


def ask(asked: Asked, who: Try) -> str:
    """Make the call: what Xen answers, by its name; 0 for whatever it has done."""
    try:
        answer = asked.make(who)
    except XenError as refused:
        return refused.errno.name
    if isinstance(answer, GrantStatus) and answer:
        return answer.name
    return answer if isinstance(answer, str) else DONE


def ask_all(*, privileged: bool = False) -> tuple[list[Answer], bool]:
    """All calls from the other domain, then from Dom0; and whether the domain they are about was unchanged in between.

    `privileged`: what the other domain is.
    """
    xen = XenInProcess()
    dom0 = Dom0(xen)
    other = new_domain(xen)
    other.domain.privileged = other.domain.mem.privileged = privileged
    victim = create_domain(xen.hv, xen.hv.free_domid(), max_pages=VICTIM_PAGES)
    frame = int(xen.hv.mmu.allocator.alloc_page(victim.mem))
    before = state_of(victim)
    theirs = [ask(asked, Try(other.kernel, victim, frame)) for asked in CALLS]
    same = state_of(victim) == before
    ours = [ask(asked, Try(dom0.kernel, victim, frame)) for asked in CALLS]
    dom0.close()
    xen.close()
    return [Answer(*row) for row in zip(CALLS, ours, theirs, strict=True)], same


def state_of(domain: Domain) -> tuple[object, ...]:
    """What of a domain the calls would change."""
    return (
        domain.life,
        domain.pause_count,
        domain.is_shut_down,
        domain.mem.tot_pages,
        domain.mem.max_pages,
        sorted(domain.events.permitted_pirqs),
        domain.events.snapshot(),
    )


def run(_costs: Costs) -> Report:
    """See EXPERIMENT."""
    answers, same = ask_all()
    rows = [(one.asked.name, (one.asked.about, one.dom0, one.domu)) for one in answers]
    report = Report(claims=claims(answers, same=same))
    report.tables.append(Table("What Xen answers", ("about", "Dom0", "a domain without privilege"), rows))
    report.tables.append(
        Table(
            "Calls that are performed",
            ("Dom0", "a domain without privilege", "calls"),
            [(kind, counts(answers, kind)) for kind in (ITSELF, ANOTHER, MACHINE, PEER)],
        )
    )
    report.notes.append("0: it is done. Errors and the statuses of grants are Xen's, by their names.")
    return report


def counts(answers: list[Answer], kind: str) -> tuple[Figure, Figure, Figure]:
    """How many calls of a kind are performed for Dom0, for the other domain, and how many there are."""
    of_kind = [one for one in answers if one.asked.about == kind]
    done = [
        sum(answer == DONE for answer in column)
        for column in zip(*((o.dom0, o.domu) for o in of_kind), strict=True)
    ]
    return Figure(done[0]), Figure(done[1]), Figure(len(of_kind))


def claims(answers: list[Answer], *, same: bool) -> list[Claim]:
    """What must be seen."""
    peers = [one for one in answers if one.asked.about == PEER]
    beyond = [one for one in answers if one.asked.about in (ANOTHER, MACHINE)]
    return [
        Claim(
            "about itself each domain may ask",
            all(o.dom0 == o.domu == DONE for o in answers if o.asked.about == ITSELF),
        ),
        Claim("Dom0 is refused nothing about others or the machine", all(one.dom0 == DONE for one in beyond)),
        Claim("a domain without privilege is refused all of it", all(one.domu != DONE for one in beyond)),
        Claim("and nothing of the other domain has changed", same),
        Claim(
            "a page that was not granted is refused to Dom0, too",
            not any(DONE in (o.dom0, o.domu) for o in peers),
        ),
    ]


EXPERIMENT: Final = Experiment(
    "dom0",
    "Xen makes only checks; who may create, end, give and connect is decided by whether the caller is Dom0.",
    "Barham et al., SOSP 2003, 3.2 and 3.4: control and management outside the hypervisor",
    run,
)
