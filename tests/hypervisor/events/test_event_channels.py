"""Event channels, one rule after the other (docs/invariants.md, Event channels)."""

from collections.abc import Callable, Iterator

import pytest

from hypervisor.events.channel import ECS
from hypervisor.events.event_channels import EventChannels
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import (
    NR_VIRQS,
    VIRQ_ARGO,
    VIRQ_CON_RING,
    VIRQ_CONSOLE,
    VIRQ_DEBUG,
    VIRQ_DOM_EXC,
    VIRQ_TIMER,
)
from tests.hypervisor.events.few_domains import DOM0, DOM1, DOM2, FewDomains, ports_of_domain, refused


@pytest.fixture
def house() -> Iterator[FewDomains]:
    """Three domains; whatever the test did, the tables are consistent afterwards."""
    house = FewDomains()
    yield house
    house.recount()


def fill(events: EventChannels, leave: int = 0) -> None:
    """Take all ports but the last `leave`."""
    for _ in range(events.max_port - events.active - leave):
        events.alloc_unbound(DOM1)


# --- E1: how many ports there are -------------------------------------------------------------------------


def test_port_0_is_reserved_for_ever(house: FewDomains) -> None:
    assert house[1].channel(0).state is ECS.RESERVED
    for operation in (house[1].close, house[1].send):
        assert refused(Errno.EINVAL, operation, 0)
    assert refused(Errno.EINVAL, house[1].bind_vcpu, 0, 1)
    assert house[1].alloc_unbound(DOM0) == 1


def test_the_port_after_4095_is_refused_and_nothing_else_happens(house: FewDomains) -> None:
    fill(house[1])
    assert house[1].active == 4095
    assert refused(Errno.ENOSPC, house[1].alloc_unbound, DOM0)
    assert refused(Errno.ENOSPC, house[1].bind_ipi, 0)
    assert house[1].active == 4095


def test_a_domain_with_a_lower_limit_gets_no_port_beyond_it() -> None:
    house = FewDomains(2, max_port=127)
    fill(house[1])
    assert house[1].active == 127
    assert refused(Errno.ENOSPC, house[1].alloc_unbound, DOM0)
    house.recount()


def test_the_lowest_free_port_is_given_again(house: FewDomains) -> None:
    ports = [house[1].alloc_unbound(DOM0) for _ in range(5)]
    house[1].close(ports[3])
    house[1].close(ports[1])
    assert house[1].alloc_unbound(DOM0) == ports[1]
    assert house[1].alloc_unbound(DOM0) == ports[3]
    assert house[1].alloc_unbound(DOM0) == ports[4] + 1


def test_a_port_beyond_the_table_is_invalid_for_every_operation(house: FewDomains) -> None:
    for port in (64, 4095, 4096, 2**31, 2**32 - 1, -1):
        for operation in (house[1].close, house[1].send, house[1].channel):
            assert refused(Errno.EINVAL, operation, port)
        assert refused(Errno.EINVAL, house[1].bind_vcpu, port, 0)
        assert refused(Errno.EINVAL, house[1].bind_interdomain, DOM0, port)
        assert refused(Errno.EINVAL, house[1].poll, 0, [port])


# --- E2, E3: channels between domains ---------------------------------------------------------------------


def test_both_ends_of_a_channel_know_each_other(house: FewDomains) -> None:
    near, far = house.connect(1, 2)
    assert house[1].channel(near).remote_domid == DOM2
    assert house[1].channel(near).remote_port == far
    assert house[2].channel(far).remote_domid == DOM1
    assert house[2].channel(far).remote_port == near


def test_only_the_named_domain_may_bind(house: FewDomains) -> None:
    port = house[0].alloc_unbound(DOM1)
    assert refused(Errno.EINVAL, house[2].bind_interdomain, DOM0, port)
    assert refused(Errno.EINVAL, house[0].bind_interdomain, DOM0, port)
    assert house[2].active == house[0].active - 1 == 0
    house[1].bind_interdomain(DOM0, port)


def test_a_port_is_bound_once(house: FewDomains) -> None:
    port, _ = house.connect(0, 1)
    assert refused(Errno.EINVAL, house[1].bind_interdomain, DOM0, port)


def test_binding_to_a_domain_that_is_not_there_is_esrch(house: FewDomains) -> None:
    assert refused(Errno.ESRCH, house[1].bind_interdomain, DomId(77), 1)
    assert house[1].active == 0


def test_the_newly_bound_port_is_pending_once_for_what_was_sent_before(house: FewDomains) -> None:
    port = house[0].alloc_unbound(DOM1)
    house[0].send(port)  # lost: nobody is there
    assert house.raised == []
    far = house[1].bind_interdomain(DOM0, port)
    assert house.raised == [(DOM1, far, 0)]


def test_a_domain_may_talk_to_itself(house: FewDomains) -> None:
    near, far = house.connect(1, 1)
    house.raised.clear()
    house[1].send(near)
    assert house.raised == [(DOM1, far, 0)]
    house[1].close(near)
    assert house[1].channel(far).state is ECS.UNBOUND


# --- E4: closing ------------------------------------------------------------------------------------------


def test_closing_leaves_the_peer_unbound_for_the_closer(house: FewDomains) -> None:
    near, far = house.connect(1, 2)
    house[1].close(near)
    peer = house[2].channel(far)
    assert (peer.state, peer.remote_domid, peer.remote_port) == (ECS.UNBOUND, DOM1, 0)
    assert house[1].bind_interdomain(DOM2, far) == near  # and may be bound again


def test_a_free_port_cannot_be_closed(house: FewDomains) -> None:
    assert refused(Errno.EINVAL, house[1].close, 5)


def test_a_closed_port_forgets_its_vcpu(house: FewDomains) -> None:
    port = house[1].alloc_unbound(DOM0)
    house[1].bind_vcpu(port, 1)
    house[1].close(port)
    assert house[1].channel(house[1].alloc_unbound(DOM0)).notify_vcpu_id == 0


def test_a_closed_virq_or_pirq_can_be_bound_again(house: FewDomains) -> None:
    house[0].permitted_pirqs.add(9)
    binds: list[Callable[[], Port]] = [
        lambda: house[0].bind_virq(VIRQ_TIMER, 1),
        lambda: house[0].bind_pirq(9),
    ]
    for bind in binds:
        port = bind()
        assert refused(Errno.EEXIST, bind)
        house[0].close(port)
        bind()


# --- E5, E6: sending --------------------------------------------------------------------------------------


def test_an_event_arrives_at_the_peer_and_its_vcpu(house: FewDomains) -> None:
    near, far = house.connect(1, 2)
    house[2].bind_vcpu(far, 1)
    house.raised.clear()
    house[1].send(near)
    house[1].send(near)
    assert house.raised == [(DOM2, far, 1)] * 2


def test_an_ipi_arrives_at_its_vcpu(house: FewDomains) -> None:
    port = house[1].bind_ipi(1)
    house[1].send(port)
    assert house.raised == [(DOM1, port, 1)]


def test_a_virq_pirq_or_free_port_cannot_be_sent_on(house: FewDomains) -> None:
    house[0].permitted_pirqs.add(1)
    for port in (house[0].bind_virq(VIRQ_TIMER, 0), house[0].bind_pirq(1), 20):
        assert refused(Errno.EINVAL, house[0].send, port)
    assert house.raised == []


def test_a_port_of_the_core_is_out_of_the_guests_reach(house: FewDomains) -> None:
    heard: list[Port] = []
    mine = house[1].alloc_unbound_xen(DOM2, heard.append)
    for operation in (house[1].close, house[1].send):
        assert refused(Errno.EINVAL, operation, mine)
    assert refused(Errno.EINVAL, house[1].bind_vcpu, mine, 1)
    far = house[2].bind_interdomain(DOM1, mine)
    house.raised.clear()
    house[2].send(far)
    assert heard == [mine]
    assert house.raised == []
    house[1].notify_xen(mine)
    assert house.raised == [(DOM2, far, 0)]
    assert not house[1].channel(mine).usable


def test_the_core_closes_its_own_port(house: FewDomains) -> None:
    mine = house[1].alloc_unbound_xen(DOM2, lambda port: None)
    house[1].close(mine, guest=False)
    assert house[1].xen_owned == house[1].active == 0


# --- E8: virtual and physical interrupts ------------------------------------------------------------------


def test_a_timer_virq_is_bound_once_per_vcpu(house: FewDomains) -> None:
    ports = [house[1].bind_virq(VIRQ_TIMER, vcpu) for vcpu in (0, 1)]
    assert refused(Errno.EEXIST, house[1].bind_virq, VIRQ_TIMER, 1)
    house[1].send_guest_virq(VIRQ_TIMER, 1)
    assert house.raised == [(DOM1, ports[1], 1)]


def test_a_global_virq_is_for_its_handler_on_vcpu_0_only(house: FewDomains) -> None:
    assert refused(Errno.EBUSY, house[1].bind_virq, VIRQ_DOM_EXC, 0)
    assert refused(Errno.EINVAL, house[0].bind_virq, VIRQ_DOM_EXC, 1)
    port = house[0].bind_virq(VIRQ_DOM_EXC, 0)
    house.virqs.send(VIRQ_DOM_EXC)
    assert house.raised == [(DOM0, port, 0)]


def test_a_virq_per_domain_needs_no_handler(house: FewDomains) -> None:
    port = house[1].bind_virq(VIRQ_ARGO, 0)
    assert refused(Errno.EINVAL, house[2].bind_virq, VIRQ_ARGO, 1)
    house[1].send_guest_virq(VIRQ_ARGO)
    assert house.raised == [(DOM1, port, 0)]


def test_a_virq_number_out_of_range_is_refused(house: FewDomains) -> None:
    for virq in (NR_VIRQS, 2**31, 2**32 - 1, -1):
        assert refused(Errno.EINVAL, house[0].bind_virq, virq, 0)
    assert refused(Errno.ENOENT, house[0].bind_virq, VIRQ_TIMER, 2)


def test_the_handler_of_a_global_virq_changes_only_while_nobody_has_it_bound(house: FewDomains) -> None:
    port = house[0].bind_virq(VIRQ_CONSOLE, 0)
    assert refused(Errno.EBUSY, house.virqs.set_handler, VIRQ_CONSOLE, house[1])
    house[0].close(port)
    house.virqs.set_handler(VIRQ_CONSOLE, house[1])
    house[1].bind_virq(VIRQ_CONSOLE, 0)
    assert refused(Errno.EBUSY, house[0].bind_virq, VIRQ_CONSOLE, 0)
    assert refused(Errno.EINVAL, house.virqs.set_handler, VIRQ_TIMER, house[1])
    assert refused(Errno.EINVAL, house.virqs.set_handler, NR_VIRQS, house[1])


def test_a_global_virq_falls_back_to_dom0_when_its_handler_dies(house: FewDomains) -> None:
    house.virqs.set_handler(VIRQ_CON_RING, house[1])
    house[1].bind_virq(VIRQ_CON_RING, 0)
    while not house[1].close_all():
        pass
    house[0].bind_virq(VIRQ_CON_RING, 0)


def test_a_pirq_needs_permission(house: FewDomains) -> None:
    assert refused(Errno.EPERM, house[1].bind_pirq, 5)
    assert refused(Errno.EINVAL, house[1].bind_pirq, 256)
    house[1].permitted_pirqs.add(5)
    port = house[1].bind_pirq(5)
    house[1].bind_vcpu(port, 1)
    house[1].send_pirq(5)
    house[1].send_pirq(6)
    assert house.raised == [(DOM1, port, 1)]


def test_ipis_and_virqs_of_a_vcpu_stay_with_it(house: FewDomains) -> None:
    for port in (house[1].bind_ipi(0), house[1].bind_virq(VIRQ_DEBUG, 0)):
        assert refused(Errno.EINVAL, house[1].bind_vcpu, port, 1)
        assert house[1].channel(port).notify_vcpu_id == 0


def test_a_global_virq_may_move_and_still_be_closed(house: FewDomains) -> None:
    port = house[0].bind_virq(VIRQ_CONSOLE, 0)
    house[0].bind_vcpu(port, 1)
    house.virqs.send(VIRQ_CONSOLE)
    assert house.raised == [(DOM0, port, 1)]
    house[0].close(port)
    house[0].bind_virq(VIRQ_CONSOLE, 0)


def test_a_vcpu_that_is_not_there_gets_nothing(house: FewDomains) -> None:
    port = house[1].alloc_unbound(DOM0)
    assert refused(Errno.ENOENT, house[1].bind_ipi, 2)
    assert refused(Errno.ENOENT, house[1].bind_vcpu, port, 2)


# --- E9, K1, K2: dying ------------------------------------------------------------------------------------


def test_a_dying_domain_gets_no_port_and_lets_go_of_all(house: FewDomains) -> None:
    near, far = house.connect(1, 2)
    own = house[1].alloc_unbound_xen(DOM2, lambda port: None)
    waiting = house[2].alloc_unbound(DOM1)
    while not house[1].close_all(limit=7):
        house.recount()
        assert refused(Errno.EINVAL, house[1].alloc_unbound, DOM2)
        assert refused(Errno.EINVAL, house[1].bind_interdomain, DOM2, waiting)
    assert house[1].active == house[1].xen_owned == 0
    assert house[2].channel(far).state is ECS.UNBOUND
    house[2].send(far)
    assert refused(Errno.EINVAL, house[2].bind_interdomain, DOM1, near)
    assert refused(Errno.EINVAL, house[2].bind_interdomain, DOM1, own)
    assert house[1].close_all()


# --- E10: reset -------------------------------------------------------------------------------------------


def test_reset_leaves_only_the_ports_of_the_core(house: FewDomains) -> None:
    mine = house[1].alloc_unbound_xen(DOM0, lambda port: None)
    near, far = house.connect(1, 2)
    timer = house[1].bind_virq(VIRQ_TIMER, 0)
    closed, done = house[1].reset(resuming=False)
    assert (closed, done) == ([near, timer], True)
    assert house[1].active == house[1].xen_owned == 1
    assert house[1].channel(mine).state is ECS.UNBOUND
    assert house[2].channel(far).state is ECS.UNBOUND


def test_a_long_reset_is_cut_into_slices_and_none_other_begins_meanwhile(house: FewDomains) -> None:
    fill(house[1], leave=3)
    closed, done = house[1].reset(resuming=False, limit=100)
    assert not done
    assert refused(Errno.EBUSY, house[1].reset, resuming=False)
    slices = 1
    while not done:
        more, done = house[1].reset(resuming=True, limit=100)
        assert len(more) <= 100
        closed += more
        slices += 1
        house.recount()
    assert slices >= 40
    assert closed == list(range(1, 4093))
    assert refused(Errno.EBUSY, house[1].reset, resuming=True)
    assert house[1].reset(resuming=False) == ([], True)


def test_ports_that_appear_behind_a_reset_are_closed_too(house: FewDomains) -> None:
    fill(house[1])
    _, done = house[1].reset(resuming=False)
    assert house[1].alloc_unbound(DOM0) == 1
    while not done:
        _, done = house[1].reset(resuming=True)
    assert house[1].active == 0


# --- E11: polling -----------------------------------------------------------------------------------------


def test_a_poll_ends_once_with_the_first_event_of_its_ports(house: FewDomains) -> None:
    near, far = house.connect(1, 2)
    house[2].poll(1, [far])
    house[1].send(near)
    house[1].send(near)
    assert house.woken == [(DOM2, 1)]
    assert house[2].pollers == {}


def test_an_event_on_another_port_does_not_end_a_poll(house: FewDomains) -> None:
    near, far = house.connect(1, 2)
    other = house[2].alloc_unbound(DOM0)
    house[2].poll(0, [other])
    house[1].send(near)
    assert house.woken == []
    house[2].unpoll(0)
    assert house[2].pollers == {}
    assert ports_of_domain(house.raised, 2)[-1] == far


def test_a_poll_on_a_port_that_goes_is_woken(house: FewDomains) -> None:
    port = house[1].alloc_unbound(DOM0)
    house[1].poll(0, [port])
    house[1].close(port)
    assert house.woken == [(DOM1, 0)]


def test_one_invalid_port_refuses_the_whole_poll(house: FewDomains) -> None:
    port = house[1].alloc_unbound(DOM0)
    with pytest.raises(XenError):
        house[1].poll(0, [port, 4096])
    assert house[1].pollers == {}


def test_nobody_polls_after_death(house: FewDomains) -> None:
    house[1].poll(0, [Port(1)])
    house[1].close_all()
    assert house[1].pollers == {}
