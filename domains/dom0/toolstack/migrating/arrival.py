"""A domain that comes: the target's side of a migration, from the offer until the source's own is gone.

    checked ─► made, paused, under the name NAME--incoming ─► READY ─► GO ─► written to the disk ─► its own name ─► it runs

What is said when, and what follows from it, agreement.py decides; here it is done.
"""

from __future__ import annotations

from typing import Final, Protocol

from domains.carrier.frames import Word
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.migrating.agreement import Broken, Do, Step, TargetPhase, TargetSide
from domains.dom0.toolstack.migrating.connection import Connection, Lost
from domains.dom0.toolstack.migrating.journal import Journal
from domains.dom0.toolstack.migrating.offer import Accepted, Offer, Ran, body_of, reason, why_of
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from hypervisor.public.errno import XenError

PATIENCE: Final = 30.0
"""Seconds in which a source whose connection is lost may connect anew, before a domain that waits for GO is dropped."""


class Coming(Protocol):
    """What is done with the domain itself."""

    def check(self, offer: Offer) -> Task[tuple[str, ...]]:
        """See that it can be taken; the warnings. Raises ToolstackError."""

    def restore(self, offer: Offer, connection: Connection) -> Task[Record]:
        """Make it of what comes, paused. Raises ToolstackError, XenError, Lost; then nothing of it is left."""

    def start(self, record: Record, offer: Offer) -> None:
        """Give it its name, and let it run unless it is to stay paused."""

    def take_apart(self, record: Record, offer: Offer) -> Task[None]:
        """Nothing of it stays."""

    def release(self, offer: Offer) -> None:
        """What was kept free for it is free for others."""


class Arrival:
    """One of them."""

    def __init__(
        self, kernel: Kernel, journal: Journal, connection: Connection, offer: Offer, domain: Coming
    ) -> None:
        self.offer = offer
        self.peer = connection.name
        self.side = TargetSide()
        self._kernel = kernel
        self._journal = journal
        self._connection = connection
        self._next: Connection | None = None
        self._domain = domain
        self._record: Record | None = None
        self._changed = Signal()
        self._written: list[OSError | None] = []
        self._patient_until: int | None = None
        self._why = "it was dropped"

    def attach(self, connection: Connection) -> None:
        """The source has connected anew, and asks what was decided."""
        self._next = connection
        self._changed.send()

    def outcome(self) -> str:
        """What has become of it, in words."""
        return (
            f"not taken: {self._why}"
            if self.side.phase is TargetPhase.DROPPED
            else self.side.phase.name.lower()
        )

    def run(self) -> Task[None]:
        """The whole of it."""
        try:
            yield from self._receive()
            while not self._over():
                yield from self._wait()
                yield from self._heed()
        finally:
            self._domain.release(self.offer)
        self._connection.close()

    def _receive(self) -> Task[None]:
        """Up to READY, or a reason why not."""
        try:
            warnings = yield from self._domain.check(self.offer)
        except ToolstackError as problem:
            self._why = str(problem)
            yield from self._perform(self.side.refused())
            return
        self.side.accepted()
        self._connection.say(Word.ACCEPT, body_of(Accepted(warnings)))
        try:
            self._record = yield from self._domain.restore(self.offer, self._connection)
        except Lost:  # the connection's end, or a word in the place of DATA
            yield from self._heed()
            if self.side.phase is not TargetPhase.DROPPED:
                yield from self._perform(self.side.failed())
        except (ToolstackError, XenError) as problem:
            self._why = str(problem)
            yield from self._perform(self.side.failed())
        else:
            yield from self._perform(self.side.restored())

    def _over(self) -> bool:
        """Whether there is nothing more to wait for: a source that asks later is answered by what the journal says."""
        if self.side.phase is TargetPhase.DROPPED:
            return True
        return self.side.phase is TargetPhase.RUNNING and (
            self._connection.lost is not None and self._next is None
        )

    def _wait(self) -> Task[None]:
        connection = self._connection

        def happened() -> bool:
            lost = connection.lost is not None and self.side.connected
            return (
                bool(connection.words or self._next or self._written)
                or lost
                or self._gone()
                or self._expired()
            )

        yield from self._kernel.until(happened, connection.changed, self._changed, timeout=1.0)

    def _heed(self) -> Task[None]:
        """Whatever has happened."""
        if self._written:
            error = self._written.pop()
            self._why = f"its decision cannot be written: {error.strerror}" if error is not None else ""
            yield from self._perform(self.side.written() if error is None else self.side.not_written())
        if self._gone() and self.side.phase is TargetPhase.WAITING:
            self._why = "it was destroyed"
            yield from self._perform(self.side.failed())
        while (said := self._connection.take()) is not None:
            if said.word is Word.CANCEL:
                self._why = f"the source has ended it: {why_of(said.body)}"
            try:
                todo = self.side.heard(said.word)
            except Broken as problem:
                self._connection.close(str(problem))
                break
            yield from self._perform(todo)
        if self._connection.lost is not None and self.side.connected:
            yield from self._perform(self.side.lost())
        if self._next is not None:
            self._connection.close()
            self._connection, self._next, self._patient_until = self._next, None, None
            yield from self._perform(self.side.asked())
        if self._expired():
            self._why = "the source did not connect anew"
            yield from self._perform(self.side.expired())

    def _gone(self) -> bool:
        return self._record is not None and self._record.destroying and self.side.phase is TargetPhase.WAITING

    def _expired(self) -> bool:
        return self._patient_until is not None and self._kernel.now() > self._patient_until

    def _perform(self, steps: tuple[Step, ...]) -> Task[None]:
        for step in steps:
            if step is Do.WRITE:
                self._journal.write(self.offer.id, self._decided)
            elif step is Do.UNPAUSE:
                assert self._record is not None
                self._domain.start(self._record, self.offer)
            elif step is Do.TAKE_APART:
                record, self._record = self._record, None
                if record is not None:
                    yield from self._domain.take_apart(record, self.offer)
            elif step is Do.BE_PATIENT:
                self._patient_until = self._kernel.now() + int(PATIENCE * 1e9)
            elif step is Do.FORGET:
                self._journal.forget(self.offer.id)
                self._connection.close()
            elif step in (Word.REFUSE, Word.DROPPED):
                self._say(step, reason(self._why))
            elif step is Word.RAN:
                self._say(step, body_of(Ran(self._record.domid if self._record is not None else None)))
            else:
                self._say(step)

    def _say(self, word: Step, body: bytes = b"") -> None:
        assert isinstance(word, Word)
        self._connection.say(word, body)

    def _decided(self, error: OSError | None) -> None:
        self._written.append(error)
        self._changed.send()
