"""Random operations of three hostile domains on each other's event channels, deaths in the middle included.

After every single step the tables are recounted from scratch (tests/recount_events.py), and a refused
operation must have left everything exactly as it was.
"""

import copy
from typing import Any

import msgpack
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hypervisor.events.channel import ECS, Channel
from hypervisor.events.event_channels import EventChannels
from hypervisor.public.errno import XenError
from hypervisor.public.types import DomId, Port
from tests.hypervisor.events.few_domains import FewDomains

COUNT = 3
LIMIT = 20

domids = st.integers(0, COUNT - 1)
any_domids = domids | st.sampled_from([COUNT, 0x7FF0, 0x7FF4, 0xFFFF])
live_ports = st.integers(1, 6)
ports = live_ports | live_ports | st.sampled_from([0, LIMIT, LIMIT + 1, 63, 64, 4095, 4096, 2**31, 2**32 - 1])
rarely = st.integers(0, 5).map(lambda number: number == 3)
vcpus = st.integers(0, 2) | st.just(2**32 - 1)
virqs = st.integers(0, 24) | st.just(2**32 - 1)
pirqs = st.integers(0, 3) | st.sampled_from([255, 256, 2**32 - 1])


def picture(tables: dict[DomId, EventChannels]) -> Any:
    """All state of all ports; a peer is written as its number, so that pictures can be compared."""
    return {
        domid: (
            [events.channel(port).snapshot() for port in range(len(events))],
            events.active,
            events.xen_owned,
            dict(events._virq_ports),
            dict(events._pirq_ports),
            events.pollers,
        )
        for domid, events in tables.items()
    }


class RandomEventChannels(RuleBasedStateMachine):
    """Ports are few, so that exhaustion, reuse and collisions are frequent."""

    kind: type[EventChannels] = EventChannels

    def __init__(self) -> None:
        super().__init__()
        self.house = FewDomains(COUNT, self.kind, max_port=LIMIT)
        self.heard: list[Port] = []
        self.checked = 0
        for domid in range(COUNT):
            self.house[domid].permitted_pirqs |= {0, 1}

    def attempt(self, operation: Any, *arguments: Any, **named: Any) -> Any:
        """Perform it; if it is refused, nothing may have changed and no event may have left."""
        before = picture(self.house.tables)
        events_out = len(self.house.raised), len(self.house.woken), len(self.heard)
        try:
            return operation(*arguments, **named)
        except XenError:
            after = picture(self.house.tables)
            assert {d: grown(before[d], after[d]) for d in before} == after, (
                "a refused operation changed something"
            )
            assert events_out == (len(self.house.raised), len(self.house.woken), len(self.heard))
            return None

    @rule(d=domids, remote=any_domids)
    def alloc_unbound(self, d: int, remote: int) -> None:
        self.attempt(self.house[d].alloc_unbound, DomId(remote))

    @rule(d=domids, remote=domids, vcpu=st.integers(0, 1))
    def alloc_unbound_xen(self, d: int, remote: int, vcpu: int) -> None:
        self.attempt(self.house[d].alloc_unbound_xen, DomId(remote), self.heard.append, vcpu)

    @rule(d=domids, remote=any_domids, port=ports)
    def bind_interdomain(self, d: int, remote: int, port: int) -> None:
        offered = self.is_offered(remote, port, d)
        local = self.attempt(self.house[d].bind_interdomain, DomId(remote), port)
        if local is not None:
            assert offered, f"E3: d{d} bound d{remote} port {port}, which was not offered to it"
            assert self.house.raised[-1:] == [(d, local, 0)], "E3: the new port is not pending"

    def is_offered(self, remote: int, port: int, to: int) -> bool:
        events = self.house.tables.get(DomId(remote))
        if events is None or port >= len(events):
            return False
        return events.channel(port).state is ECS.UNBOUND and events.channel(port).remote_domid == to

    @rule(d=domids, pick=st.integers(0, 1000))
    def bind_what_is_offered(self, d: int, pick: int) -> None:
        """So that many channels come to be: bind one of the ports that are unbound for this domain."""
        offers = [
            (events.domid, port)
            for events in self.house.tables.values()
            for port in range(len(events))
            if self.is_offered(events.domid, port, d)
        ]
        if offers:
            self.bind_interdomain(d, *offers[pick % len(offers)])

    @rule(d=domids, virq=virqs, vcpu=vcpus)
    def bind_virq(self, d: int, virq: int, vcpu: int) -> None:
        self.attempt(self.house[d].bind_virq, virq, vcpu)

    @rule(d=domids, vcpu=vcpus)
    def bind_ipi(self, d: int, vcpu: int) -> None:
        self.attempt(self.house[d].bind_ipi, vcpu)

    @rule(d=domids, pirq=pirqs)
    def bind_pirq(self, d: int, pirq: int) -> None:
        self.attempt(self.house[d].bind_pirq, pirq)

    @rule(d=domids, port=ports, vcpu=vcpus)
    def bind_vcpu(self, d: int, port: int, vcpu: int) -> None:
        self.attempt(self.house[d].bind_vcpu, port, vcpu)

    @rule(d=domids, port=ports)
    def close(self, d: int, port: int) -> None:
        owned = self.house[d].xen_owned
        self.attempt(self.house[d].close, port)
        assert self.house[d].xen_owned == owned, "E5: a guest closed a port of the core"

    @rule(d=domids, port=ports)
    def send(self, d: int, port: int) -> None:
        before = len(self.house.raised)
        self.attempt(self.house[d].send, port)
        for whose, raised, vcpu in self.house.raised[before:]:
            channel = self.house[whose].channel(raised)
            assert channel.usable, "E5: an event for a port that the guest cannot use"
            assert vcpu == channel.notify_vcpu_id < 2, "E6: an event for a vCPU that is not the port's"

    @rule(virq=virqs, vcpu=st.integers(0, 1), pirq=pirqs, d=domids)
    def interrupts(self, virq: int, vcpu: int, pirq: int, d: int) -> None:
        self.house.virqs.send(virq)
        self.house[d].send_guest_virq(virq, vcpu)
        self.house[d].send_pirq(pirq)

    @rule(d=domids, virq=virqs)
    def set_virq_handler(self, d: int, virq: int) -> None:
        self.attempt(self.house.virqs.set_handler, virq, self.house[d])

    @rule(d=domids, vcpu=st.integers(0, 1), wanted=st.lists(ports, max_size=3))
    def poll(self, d: int, vcpu: int, wanted: list[int]) -> None:
        self.attempt(self.house[d].poll, vcpu, wanted)

    @rule(d=domids, vcpu=st.integers(0, 1))
    def unpoll(self, d: int, vcpu: int) -> None:
        self.house[d].unpoll(vcpu)

    @rule(d=domids, resuming=st.booleans(), limit=st.integers(1, 6))
    def reset(self, d: int, resuming: bool, limit: int) -> None:
        result = self.attempt(self.house[d].reset, resuming=resuming, limit=limit)
        if result is not None and result[1]:
            assert self.house[d].active == self.house[d].xen_owned, "E10: a reset left a port of the guest"

    @rule(d=domids, limit=st.integers(1, 20), really=rarely)
    def die(self, d: int, limit: int, really: bool) -> None:
        """One slice of a death; other operations happen in between."""
        if not really and not self.house[d].dying:
            return
        self.house[d].close_all(limit=limit)
        assert self.house[d].pollers == {}, "E11: a dead domain polls"

    @rule(d=domids)
    def come_back(self, d: int) -> None:
        """The id of a domain that is gone is used again: nothing of the old one is left (K5)."""
        old = self.house[d]
        if not old.dying:
            return
        while not old.close_all():
            pass
        assert old.active == old.xen_owned == 0
        self.house.create(DomId(d), self.kind, LIMIT)
        if self.house.virqs.default is None:
            self.house.virqs.default = self.house[d]

    def write_down_and_read_back(self) -> None:
        """The machine's tables, written down as plain data and read back into fresh ones, are the same machine."""
        before = picture(self.house.tables)
        records = {domid: events.snapshot() for domid, events in self.house.tables.items()}
        virqs = self.house.virqs.snapshot()
        records, virqs = msgpack.unpackb(msgpack.packb([records, virqs]), strict_map_key=False)
        for domid, record in records.items():
            fresh = self.house.create(DomId(domid), self.kind, LIMIT)
            fresh.restore(record, [self.heard.append])
        self.house.virqs.restore(virqs, self.house.find)
        assert picture(self.house.tables) == before

    @invariant()
    def consistent(self) -> None:
        self.house.recount()
        self.checked += 1
        if self.checked % 16 == 0:
            self.write_down_and_read_back()
            self.house.recount()


def grown(before: Any, after: Any) -> Any:
    """A refused binding may leave a larger table: free ports at its end are no change."""
    ports_before, *rest = copy.copy(before)
    free = Channel().snapshot()
    missing = len(after[0]) - len(ports_before)
    return (ports_before + [free] * missing, *rest)


TestRandomEventChannels = RandomEventChannels.TestCase
TestRandomEventChannels.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
