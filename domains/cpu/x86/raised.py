"""What the core has raised becomes pending in the guest's words: the same for every kind of guest."""

from typing import Protocol

from domains.cpu.event_words import EventWords
from domains.cpu.gate import Gate


class EventVcpu(Protocol):
    """A vCPU that events come to. `events_seen`: the mailbox counter when raised ports were last collected."""

    vcpu_id: int
    gate: Gate
    events: EventWords
    events_seen: int


def collect_events(v: EventVcpu) -> None:
    """Set the pending bits of what the core has raised since the last time."""
    counter = v.gate.mailbox.counter(v.vcpu_id)
    if counter != v.events_seen:
        v.events_seen = counter
        for port in v.gate.raised(v.vcpu_id):
            v.events.set_pending(port)
