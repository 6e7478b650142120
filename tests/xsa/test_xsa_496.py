"""XSA-496: a failing VIRQ binding that undoes what another domain had set up.

The flaw. Binding VIRQ_DOM_EXC first registered the caller for domain state changes and then looked for a
free port. When there was none the registration was taken back, also if it was another domain's and had been
there before.

The probe. Dom0 has all global VIRQs bound. A guest that has used up its ports, and one that has not, bind
each VIRQ there is on each vCPU number; whatever the answer, Dom0's bindings are untouched, every VIRQ still
arrives, and a refused binding has no effect on the guest either.
"""

from typing import cast

import pytest

from hypervisor.events.event_channels import EventChannels
from hypervisor.events.virq import VirqType, virq_type
from hypervisor.public.errno import XenError
from hypervisor.public.types import Port
from hypervisor.public.xen import NR_VIRQS
from tests.hypervisor.events.few_domains import DOM0, FewDomains

GLOBAL = [virq for virq in range(NR_VIRQS) if virq_type(virq) is VirqType.GLOBAL]


def subscribed(kind: type[EventChannels], *, full: bool) -> tuple[FewDomains, dict[int, Port]]:
    """Dom0 with every global VIRQ bound; domain 1 with all of its few ports taken, or none."""
    house = FewDomains(2, kind, max_port=40)
    ports = {virq: house[0].bind_virq(virq, 0) for virq in GLOBAL}
    while full and house[1].active < 40:
        house[1].alloc_unbound(DOM0)
    return house, ports


def probe(kind: type[EventChannels], *, full: bool) -> None:
    house, ports = subscribed(kind, full=full)
    for virq in [*range(-1, NR_VIRQS + 2), 2**31, 2**32 - 1]:
        for vcpu in (0, 1, 2, 2**32 - 1):
            active = house[1].active
            try:
                house[1].bind_virq(virq, vcpu)
            except XenError:
                assert house[1].active == active
            house.recount()
    for virq, port in ports.items():
        house.raised.clear()
        house.virqs.send(virq)
        assert house.raised == [(DOM0, port, 0)], f"virq {virq} no longer arrives"


@pytest.mark.parametrize("full", [False, True])
def test_a_guest_cannot_disturb_the_virqs_of_dom0(full: bool) -> None:
    probe(EventChannels, full=full)


class UndoesTooMuch(EventChannels):
    """A binding that fails takes the VIRQ away from whoever handles it."""

    def bind_virq(self, virq: int, vcpu_id: int) -> Port:
        try:
            return super().bind_virq(virq, vcpu_id)
        except XenError:
            handler = self._virqs.handler(virq)
            if handler is not None:
                cast(EventChannels, handler)._virq_ports.pop((0, virq), None)
            raise


def test_negative_control_undoing_too_much_is_noticed() -> None:
    with pytest.raises(AssertionError):
        probe(UndoesTooMuch, full=True)
