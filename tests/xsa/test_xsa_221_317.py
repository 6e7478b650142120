"""XSA-221 and XSA-317: port numbers that are not checked.

The flaws. XSA-221: SCHEDOP_poll used a port number from the guest as an index before asking whether the
domain has such a port, and read through a null pointer. XSA-317: a guest that took all its event channels
made the hypervisor allocate one more than its tables can hold; the 4096th port of the 2-level ABI belongs to
nobody.

The probe. Every operation that names a port, for a domain with few, with many and with all ports, gets each
number around the table's end, the ABI's end and the ends of 32 bits. It is refused with EINVAL, nothing
changes, and taking ports until none is left ends with ENOSPC at port 4095.
"""

import pytest

from hypervisor.events.event_channels import EventChannels
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.event_channel import EVTCHN_2L_NR_CHANNELS
from hypervisor.public.types import Port
from tests.hypervisor.events.few_domains import DOM0, DOM1, FewDomains

BAD = [EVTCHN_2L_NR_CHANNELS, EVTCHN_2L_NR_CHANNELS + 1, 8192, 2**31 - 1, 2**31, 2**32 - 1]


def take_all(events: EventChannels) -> list[Port]:
    """Ports until the domain has none left; XenError other than ENOSPC passes through."""
    taken: list[Port] = []
    while True:
        try:
            taken.append(events.alloc_unbound(DOM0))
        except XenError as error:
            if error.errno is not Errno.ENOSPC:
                raise
            return taken


def probe(kind: type[EventChannels], ports: int) -> None:
    """Raises whatever goes wrong: an exception that is no XenError, or a bad port that is accepted."""
    house = FewDomains(2, kind)
    events = house[1]
    for _ in range(ports):
        events.alloc_unbound(DOM0)
    for port in [*BAD, len(events)]:
        for operation in (events.send, events.close, events.channel, lambda port: events.bind_vcpu(port, 0)):
            with pytest.raises(XenError, match="EINVAL"):
                operation(port)
        with pytest.raises(XenError, match="EINVAL"):
            house[0].bind_interdomain(DOM1, port)
        with pytest.raises(XenError, match="EINVAL"):
            events.poll(0, [port])
        assert events.active == ports
        assert not events.pollers
    house.recount()


@pytest.mark.parametrize("ports", [0, 1, 63, 64, 4095])
def test_no_operation_accepts_a_port_that_is_not_there(ports: int) -> None:
    probe(EventChannels, ports)


def test_the_last_port_of_the_abi_is_4095() -> None:
    house = FewDomains(2)
    assert take_all(house[1]) == list(range(1, 4096))
    assert len(house[1]) == EVTCHN_2L_NR_CHANNELS
    house.recount()


class TrustsThePort(EventChannels):
    """A poll indexes with what the guest gave."""

    def poll(self, vcpu_id: int, ports: object) -> None:
        self._pollers[vcpu_id] = frozenset(ports)  # type: ignore[call-overload]


class OnePortTooMany(EventChannels):
    """The limit is compared with the number of ports, not with the highest port."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.max_port = EVTCHN_2L_NR_CHANNELS

    def _free_port(self) -> Port:
        try:
            return super()._free_port()
        except XenError:
            if len(self._channels) > self.max_port:
                raise
            self._channels.append(type(self._channels[0])())
            return Port(len(self._channels) - 1)


def test_negative_control_a_poll_that_trusts_the_guest_is_noticed() -> None:
    with pytest.raises(pytest.fail.Exception):
        probe(TrustsThePort, 1)


def test_negative_control_a_4096th_port_is_noticed() -> None:
    house = FewDomains(2, OnePortTooMany)
    assert take_all(house[1])[-1] == EVTCHN_2L_NR_CHANNELS
    with pytest.raises(AssertionError, match="E1"):
        house.recount()
