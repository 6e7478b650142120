"""event_channel_op as a hypercall: privilege, results, and the effects that the guest's process gets."""

from collections.abc import Iterator
from typing import Any

import pytest

from hypervisor.hypercalls.event_channel_op import EVTCHNOPS
from hypervisor.public.errno import Errno
from hypervisor.public.event_channel import (
    EventChannelOp,
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_pirq,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
    evtchn_alloc_unbound,
    evtchn_bind_interdomain,
    evtchn_bind_ipi,
    evtchn_bind_pirq,
    evtchn_bind_vcpu,
    evtchn_bind_virq,
    evtchn_close,
    evtchn_init_control,
    evtchn_reset,
    evtchn_send,
    evtchn_status,
    evtchn_unmask,
)
from hypervisor.public.layout import Struct
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import DOMID_SELF, VIRQ_DEBUG, VIRQ_TIMER, Hypercall
from hypervisor.wire.messages import Effect
from tests.hypervisor.grants.granting import GrantingDomains, Guest, granting_domains


@pytest.fixture
def house() -> Iterator[GrantingDomains]:
    """Dom0 and two domains; all event channels are recounted after every hypercall."""
    with granting_domains() as house:
        yield house


def call(guest: Guest, op: Struct) -> tuple[int, Any]:
    """The result, and the structure as it came back."""
    cmd = EventChannelOp["EVTCHNOP_" + type(op).__name__.removeprefix("evtchn_")]
    va = guest.page(0).va
    guest.poke(va, op.pack())
    result = guest.hypercall(Hypercall.event_channel_op, cmd, va)
    return int(result), guest.peek(va, type(op))


def ok(guest: Guest, op: Struct) -> Any:
    result, record = call(guest, op)
    assert result == 0
    return record


def effects(house: GrantingDomains, guest: Guest) -> list[list[object]]:
    """What the last answer told the guest's process about event channels."""
    ours = (Effect.EVTCHN_CLEAR, Effect.EVTCHN_UNMASK)
    return [effect for effect in house.machine.processes.effects[guest.built.vcpu] if effect[0] in ours]


def channel(house: GrantingDomains) -> tuple[Port, Port]:
    """A channel between domains 1 and 2, made as front and back ends do."""
    near = ok(house.dom1, evtchn_alloc_unbound(dom=DOMID_SELF, remote_dom=DomId(2))).port
    far = ok(house.dom2, evtchn_bind_interdomain(remote_dom=DomId(1), remote_port=near)).local_port
    return near, far


def test_every_operation_is_handled() -> None:
    assert set(EVTCHNOPS) == set(EventChannelOp)


def test_unknown_operations_and_the_fifo_layout_are_enosys(house: GrantingDomains) -> None:
    for cmd in (12, 13, 14, 99, 2**32 - 1):
        assert house.dom1.hypercall(Hypercall.event_channel_op, cmd, house.dom1.page(0).va) == -Errno.ENOSYS


def test_a_fifo_control_block_is_looked_at_before_it_is_refused(house: GrantingDomains) -> None:
    """Xen common/event_fifo.c, evtchn_fifo_init_control: ENOENT, EINVAL for what it would not take (XSA-188)."""
    good = house.dom1.page(1).mfn

    def init_control(**fields: int) -> int:
        return call(house.dom1, evtchn_init_control(**fields))[0]

    assert init_control(control_gfn=good) == -Errno.ENOSYS
    assert init_control(control_gfn=2**64 - 2) == -Errno.EINVAL
    assert init_control(control_gfn=good, offset=4) == -Errno.EINVAL
    assert init_control(control_gfn=good, offset=4096) == -Errno.EINVAL
    assert init_control(control_gfn=good, vcpu=9) == -Errno.ENOENT


def test_an_argument_that_is_not_the_guests_is_efault(house: GrantingDomains) -> None:
    for cmd in range(11):
        for va in (0x1000, 0xFFFF_8000_0000_0000, 0x8000_0000_0000_0000, 2**64 - 1):
            assert house.dom1.hypercall(Hypercall.event_channel_op, cmd, va) == -Errno.EFAULT
    assert house.dom1.grants.domid == house.dom1.domid


def test_an_event_reaches_the_mailbox_of_the_peer(house: GrantingDomains) -> None:
    near, far = channel(house)
    mailbox = house.dom2.built.domain.mailbox
    mailbox.take_raised(0)
    ok(house.dom1, evtchn_send(port=near))
    assert mailbox.take_raised(0) == [far]
    ok(house.dom2, evtchn_send(port=far))
    assert near in house.dom1.built.domain.mailbox.take_raised(0)


def test_a_closed_ports_pending_bit_goes_with_the_answer(house: GrantingDomains) -> None:
    near, far = channel(house)
    ok(house.dom1, evtchn_close(port=near))
    assert effects(house, house.dom1) == [[Effect.EVTCHN_CLEAR, near]]
    assert call(house.dom1, evtchn_close(port=near))[0] == -Errno.EINVAL
    status = ok(house.dom2, evtchn_status(dom=DOMID_SELF, port=far))
    assert (status.status, status.u.unbound.dom) == (EVTCHNSTAT_unbound, 1)


def test_unmasking_is_done_by_the_process_that_owns_the_mask(house: GrantingDomains) -> None:
    near, _ = channel(house)
    ok(house.dom1, evtchn_unmask(port=near))
    assert effects(house, house.dom1) == [[Effect.EVTCHN_UNMASK, near, 0]]
    ok(house.dom1, evtchn_unmask(port=Port(60)))  # a valid port that is not in use: nothing to do
    assert effects(house, house.dom1) == []
    assert call(house.dom1, evtchn_unmask(port=Port(64)))[0] == -Errno.EINVAL


def test_a_ports_vcpu_goes_to_the_process_too(house: GrantingDomains) -> None:
    near, _ = channel(house)
    ok(house.dom1, evtchn_bind_vcpu(port=near, vcpu=0))
    assert call(house.dom1, evtchn_bind_vcpu(port=near, vcpu=1))[0] == -Errno.ENOENT


def test_status_tells_each_state(house: GrantingDomains) -> None:
    house.dom0.built.domain.events.permitted_pirqs.add(7)
    near, far = channel(house)
    assert ok(house.dom1, evtchn_status(dom=DOMID_SELF, port=Port(0))).status == EVTCHNSTAT_closed
    assert ok(house.dom1, evtchn_status(dom=DOMID_SELF, port=Port(63))).status == EVTCHNSTAT_closed
    assert call(house.dom1, evtchn_status(dom=DOMID_SELF, port=Port(64)))[0] == -Errno.EINVAL
    seen = ok(house.dom0, evtchn_status(dom=DomId(1), port=near))
    assert (seen.status, seen.u.interdomain.dom, seen.u.interdomain.port) == (EVTCHNSTAT_interdomain, 2, far)
    bound = [
        (ok(house.dom0, evtchn_bind_virq(virq=VIRQ_DEBUG)).port, EVTCHNSTAT_virq, VIRQ_DEBUG),
        (ok(house.dom0, evtchn_bind_pirq(pirq=7)).port, EVTCHNSTAT_pirq, 7),
        (ok(house.dom0, evtchn_bind_ipi()).port, EVTCHNSTAT_ipi, 0),
    ]
    for port, state, detail in bound:
        seen = ok(house.dom0, evtchn_status(dom=DOMID_SELF, port=port))
        assert (seen.status, seen.u.virq, seen.vcpu) == (state, detail, 0)


# --- who may (E3, E10, E13; XSA-492, XSA-499) -------------------------------------------------------------


def test_a_guest_learns_nothing_of_others_and_changes_nothing(house: GrantingDomains) -> None:
    near, _ = channel(house)
    for target in (0, 2):
        for port in (0, 1, near, 64, 2**32 - 1):
            assert call(house.dom1, evtchn_status(dom=DomId(target), port=Port(port)))[0] == -Errno.EPERM
        assert (
            call(house.dom1, evtchn_alloc_unbound(dom=DomId(target), remote_dom=DOMID_SELF))[0]
            == -Errno.EPERM
        )
        assert call(house.dom1, evtchn_reset(dom=DomId(target)))[0] == -Errno.EPERM
    for missing in (77, 0x7FF1, 0xFFFF):
        assert call(house.dom1, evtchn_status(dom=DomId(missing), port=near))[0] == -Errno.ESRCH
        assert call(house.dom1, evtchn_reset(dom=DomId(missing)))[0] == -Errno.ESRCH
    assert call(house.dom1, evtchn_bind_pirq(pirq=3))[0] == -Errno.EPERM


def test_dom0_makes_ports_for_a_domain(house: GrantingDomains) -> None:
    op = ok(house.dom0, evtchn_alloc_unbound(dom=DomId(1), remote_dom=DomId(0)))
    assert ok(house.dom0, evtchn_bind_interdomain(remote_dom=DomId(1), remote_port=op.port)).local_port
    own = ok(house.dom1, evtchn_alloc_unbound(dom=DomId(1), remote_dom=DOMID_SELF)).port
    ok(house.dom1, evtchn_bind_interdomain(remote_dom=DOMID_SELF, remote_port=own))


def test_reset_is_for_oneself_or_a_paused_domain(house: GrantingDomains) -> None:
    near, _ = channel(house)
    ok(house.dom1, evtchn_bind_virq(virq=VIRQ_TIMER))
    assert call(house.dom0, evtchn_reset(dom=DomId(1)))[0] == -Errno.EINVAL
    domain = house.dom1.built.domain
    house.machine.hv.run.domain_pause(domain)
    domain.tool_pauses += 1
    domain.effects.clear()
    ok(house.dom0, evtchn_reset(dom=DomId(1)))
    assert domain.events.active == 0
    cleared = [effect for effect in domain.effects if effect[0] == Effect.EVTCHN_CLEAR]
    assert cleared == [[Effect.EVTCHN_CLEAR, near], [Effect.EVTCHN_CLEAR, near + 1]]
    domain.tool_pauses -= 1
    house.machine.hv.run.domain_unpause(domain)
    ok(house.dom2, evtchn_reset(dom=DOMID_SELF))
    assert house.dom2.built.domain.events.active == 0


def test_a_reset_of_very_many_ports_is_one_call_in_many_slices(house: GrantingDomains) -> None:
    events = house.dom1.built.domain.events
    while events.active < 4095:
        events.alloc_unbound(DomId(2))
    ok(house.dom1, evtchn_reset(dom=DOMID_SELF))
    assert events.active == 0
    assert len(effects(house, house.dom1)) == 4095


def test_a_guest_cannot_enter_a_reset_in_the_middle(house: GrantingDomains) -> None:
    """Xen's own EVTCHNOP_reset_cont is not an operation here: the place is kept out of a guest's reach
    (XSA-188, XSA-343).
    """
    assert house.dom1.hypercall(Hypercall.event_channel_op, 14, house.dom1.page(0).va) == -Errno.ENOSYS


def test_a_port_used_again_is_not_cleared_after_its_new_event(house: GrantingDomains) -> None:
    """The clear comes with the answer to the close: before anything that happens later."""
    near, _ = channel(house)
    ok(house.dom1, evtchn_close(port=near))
    assert effects(house, house.dom1) == [[Effect.EVTCHN_CLEAR, near]]
    again = ok(house.dom1, evtchn_bind_ipi()).port
    assert again == near
    assert effects(house, house.dom1) == []
    ok(house.dom1, evtchn_send(port=again))
    assert again in house.dom1.built.domain.mailbox.take_raised(0)
