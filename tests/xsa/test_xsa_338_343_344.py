"""XSA-338, XSA-343 and XSA-344: ports that become invalid, a reset that races, and closes that take too long.

The flaws. XSA-344: EVTCHNOP_reset and the destruction of a domain closed all ports in one go; with the most
ports a domain may have that took long enough for a watchdog to reset the host. XSA-343: while a reset was
under way other operations found channels in a state that nobody had thought of, and counters came out wrong.
XSA-338: ports were believed to stay valid for ever; after a reset to a smaller table they were not.

The probe. Two domains share 2047 channels, and a third takes part. One of the two resets, or dies; after
every slice, which must be short, all tables are recounted (E2 symmetry, E9 counts), and in the gap every
other operation is attempted, on ports already closed, ports yet to be closed and the one in between. At the
end nothing of it is left.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from hypervisor.events.channel import ECS
from hypervisor.events.event_channels import PORTS_PER_PORTION, EventChannels
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId, Port
from hypervisor.public.xen import VIRQ_TIMER
from tests.hypervisor.events.few_domains import DOM0, DOM1, DOM2, FewDomains

CHANNELS = 2047


def crowded(kind: type[EventChannels] = EventChannels) -> FewDomains:
    """Domain 1 has 4094 ports that lead to domain 2, and one for its timer."""
    house = FewDomains(3, kind)
    for _ in range(CHANNELS):
        house.connect(1, 2)
        house.connect(2, 1)
    house[1].bind_virq(VIRQ_TIMER, 0)
    assert house[1].active == 4095
    return house


def resetting(house: FewDomains) -> Iterator[list[Port]]:
    """Each slice of a reset of domain 1: the ports that it closed."""
    closed, done = house[1].reset(resuming=False)
    yield closed
    while not done:
        closed, done = house[1].reset(resuming=True)
        yield closed


def dying(house: FewDomains) -> Iterator[list[Port]]:
    """Each slice of the death of domain 1."""
    while not house[1].close_all():
        yield []


def meddle(house: FewDomains, at: int) -> None:
    """Everything else that can happen to the ports around a place, by both sides."""
    for port in (at - 1, at, at + 1, 1, 4095):
        for operation in (
            house[1].send,
            house[2].send,
            lambda port: house[1].bind_vcpu(port, 1),
            lambda port: house[2].bind_interdomain(DOM1, port),
            lambda port: house[1].bind_interdomain(DOM2, port),
            lambda port: house[1].poll(0, [port]),
        ):
            attempt(operation, port)
    attempt(house[2].close, at + 1)
    attempt(house[2].alloc_unbound, DOM1)


def attempt(operation: Callable[..., object], argument: int | DomId) -> None:
    with suppress(XenError):
        operation(argument)


def probe(house: FewDomains, slices: Callable[[FewDomains], Iterator[list[Port]]]) -> int:
    """Runs the slices with interference and a recount after each; returns how many there were."""
    count = 0
    for closed in slices(house):
        count += 1
        assert len(closed) <= PORTS_PER_PORTION
        if count % 8 == 1:
            house.recount()
            meddle(house, count * PORTS_PER_PORTION)
            house.recount()
    house.recount()
    return count


@pytest.mark.parametrize("slices", [resetting, dying])
def test_a_long_close_is_sliced_and_every_slice_ends_consistent(
    slices: Callable[[FewDomains], Iterator[list[Port]]],
) -> None:
    house = crowded()
    assert probe(house, slices) >= 4095 // PORTS_PER_PORTION
    for _ in slices(house):  # what was bound behind the last slice
        pass
    assert house[1].active == 0
    for port in range(len(house[2])):
        assert house[2].channel(port).state is not ECS.INTERDOMAIN


def test_the_death_of_a_domain_in_the_middle_of_its_reset_ends_like_any_death() -> None:
    house = crowded()
    next(resetting(house))
    probe(house, dying)
    assert house[1].active == 0
    assert house[1].close_all()


def test_the_peer_may_die_while_this_domain_is_reset() -> None:
    house = crowded()
    slices = resetting(house)
    for _ in range(5):
        next(slices)
        house[2].close_all()
        house.recount()
    for _ in slices:
        house.recount()
    while not house[2].close_all():
        pass
    assert house[1].active == house[2].active == 0


class ClosesAllAtOnce(EventChannels):
    """XSA-344: no end to a slice."""

    def reset(self, *, resuming: bool, limit: int = 0) -> tuple[list[Port], bool]:
        return super().reset(resuming=resuming, limit=1 << 20)


class CountsWrong(EventChannels):
    """XSA-343: closing during a reset forgets the counter."""

    def close(self, port: int, *, guest: bool = True) -> None:
        super().close(port, guest=guest)
        self.active += self._next_reset > 1000


def test_negative_control_a_reset_without_slices_is_noticed() -> None:
    with pytest.raises(AssertionError):
        probe(crowded(ClosesAllAtOnce), resetting)


def test_negative_control_a_wrong_counter_is_noticed() -> None:
    with pytest.raises(AssertionError, match="E9"):
        probe(crowded(CountsWrong), resetting)


def test_the_slices_of_the_probe_do_meet_live_ports() -> None:
    """The interference is worth something: ports of domain 0 bound in a gap survive until the reset comes to
    them.
    """
    house = crowded()
    slices = resetting(house)
    next(slices)
    port = house[1].alloc_unbound(DOM0)
    house[0].bind_interdomain(DOM1, port)
    for _ in slices:
        pass
    assert house[0].channel(1).state is ECS.UNBOUND
