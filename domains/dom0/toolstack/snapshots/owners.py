"""Which domain has which overlays. A domain that reboots leaves them to the one that is made of it; with the last they go."""

from __future__ import annotations

from domains.dom0.toolstack.domains import Domains, Record
from domains.dom0.toolstack.operations import Operations
from domains.kernel.tasks import Task
from drivers.block.overlay import Overlays
from hypervisor.public.types import DomId


class Owners:
    """One per toolstack."""

    def __init__(self, domains: Domains, operations: Operations, overlays: Overlays) -> None:
        self._domains = domains
        self._operations = operations
        self._overlays = overlays
        self._of: dict[DomId, tuple[Record, list[int]]] = {}
        domains.ending.append(self._ends)

    def give(self, record: Record, numbers: list[int]) -> None:
        """The domain has these from now on; if it has gone already, they go."""
        if not numbers:
            return
        self._of[record.domid] = record, numbers
        if record.destroying:
            self._ends(record.domid)

    def _ends(self, domid: DomId) -> None:
        """A domain's destruction begins."""
        if domid in self._of:
            self._operations.start(self._pass_on(*self._of.pop(domid)), lambda _: None, print)

    def _pass_on(self, record: Record, numbers: list[int]) -> Task[None]:
        def known() -> bool:
            return not record.restarting and self._domains.gone(record.domid)

        signals = self._domains.changed(record.domid), record.restarted
        yield from self._operations.kernel.until(known, *signals)
        if record.successor is not None:
            self.give(record.successor, numbers)
            return
        for number in numbers:
            self._overlays.close(number)
