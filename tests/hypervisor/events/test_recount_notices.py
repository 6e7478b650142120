"""Negative controls: each mutant lacks one check, and the random operations must find it.

A check that no test misses when it is gone is not tested.
"""

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from hypervisor.events.channel import ECS, Channel
from hypervisor.events.event_channels import EventChannels
from hypervisor.public.types import DomId, Port
from tests.hypervisor.events.test_random_event_channels import RandomEventChannels


class PeerStaysBound(EventChannels):
    """E2, E4: closing tells the peer nothing."""

    def _release_binding(self, channel: Channel) -> None:
        if channel.state is not ECS.INTERDOMAIN:
            super()._release_binding(channel)


class AnyoneMayBind(EventChannels):
    """E3: an unbound port is for everybody."""

    def bind_interdomain(self, remote: DomId, remote_port: int) -> Port:
        far = self._domains(remote).channel(remote_port)
        if far.state is ECS.UNBOUND:
            far.remote_domid = self.domid
        return super().bind_interdomain(remote, remote_port)


class NothingIsPendingAtFirst(EventChannels):
    """E3: what was sent before the binding is lost."""

    def bind_interdomain(self, remote: DomId, remote_port: int) -> Port:
        deliver, self._deliver = self._deliver, lambda port: None  # type: ignore[method-assign]
        try:
            return super().bind_interdomain(remote, remote_port)
        finally:
            self._deliver = deliver  # type: ignore[method-assign]


class VirqStaysBound(EventChannels):
    """E4: a closed port leaves its VIRQ behind."""

    def _release_binding(self, channel: Channel) -> None:
        if channel.state is not ECS.VIRQ:
            super()._release_binding(channel)


class GuestClosesCorePorts(EventChannels):
    """E5: the core's ports are like any other."""

    def close(self, port: int, *, guest: bool = True) -> None:
        super().close(port, guest=False)


class ForgetsNothing(EventChannels):
    """E4: a free port remembers its last vCPU."""

    def close(self, port: int, *, guest: bool = True) -> None:
        vcpu_id = self.channel(port).notify_vcpu_id
        super().close(port, guest=guest)
        self.channel(port).notify_vcpu_id = vcpu_id


class TakesBeforeChecking(EventChannels):
    """E9: a refused binding keeps the port it had taken."""

    def bind_virq(self, virq: int, vcpu_id: int) -> Port:
        self._take(self._free_port(), ECS.IPI)
        return super().bind_virq(virq, vcpu_id)


class ResetStopsEarly(EventChannels):
    """E10: a reset says that it is done after its first slice."""

    def reset(self, *, resuming: bool, limit: int = 6) -> tuple[list[Port], bool]:
        closed, _ = super().reset(resuming=resuming, limit=limit)
        self._next_reset = 0
        return closed, True


class PollsAnything(EventChannels):
    """E11, XSA-221: a poll takes any number for a port."""

    def poll(self, vcpu_id: int, ports: object) -> None:
        self._pollers[vcpu_id] = frozenset(ports)  # type: ignore[call-overload]


MUTANTS = [
    PeerStaysBound,
    AnyoneMayBind,
    NothingIsPendingAtFirst,
    VirqStaysBound,
    GuestClosesCorePorts,
    ForgetsNothing,
    TakesBeforeChecking,
    ResetStopsEarly,
    PollsAnything,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_random_operations_find_a_missing_check(mutant: type[EventChannels]) -> None:
    machine = type(mutant.__name__, (RandomEventChannels,), {"kind": mutant})
    few = settings(
        max_examples=1000,  # what is drawn depends on which modules this process has loaded
        stateful_step_count=50,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=True,
    )
    with pytest.raises((AssertionError, KeyError, AttributeError)):
        run_state_machine_as_test(machine, settings=few)
