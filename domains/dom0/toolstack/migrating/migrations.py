"""The migrations of a machine: those that its users ask for, those that other machines ask for, and questions about past ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from domains.carrier.frames import Word
from domains.control import migration_operations as ops
from domains.control.migration_operations import Migrate, Migrated, Migration
from domains.control.records import Malformed
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.lifecycle import Lifecycle
from domains.dom0.toolstack.migrating.arrival import Arrival
from domains.dom0.toolstack.migrating.coming import ComingDomain
from domains.dom0.toolstack.migrating.connection import Connection, Said
from domains.dom0.toolstack.migrating.departure import Departure, Reach, Tell
from domains.dom0.toolstack.migrating.journal import Journal, journal_folder
from domains.dom0.toolstack.migrating.leaving import LeavingDomain
from domains.dom0.toolstack.migrating.links import Links
from domains.dom0.toolstack.migrating.offer import Offer, Question, Ran, body_of, read_body, reason
from domains.dom0.toolstack.parts import Parts
from domains.dom0.toolstack.restoring.restore import Restoring
from domains.dom0.toolstack.saving.save import Saving
from domains.dom0.toolstack.traffic import Devices
from domains.kernel.tasks import Task
from hypervisor.public.sched import SHUTDOWN_suspend
from hypervisor.public.types import DomId

FIRST_WORD_SECONDS: Final = 10.0
"""In which a machine that has connected must have said what for."""
ARRIVALS_MOST: Final = 4
"""Domains that come at once; others are refused, and may come later."""
DEPARTURES_MOST: Final = 4


class Migrations:
    """One per Dom0. `folder`: the machine's; its name is the machine's name."""

    def __init__(
        self,
        parts: Parts,
        lifecycle: Lifecycle,
        saving: Saving,
        restoring: Restoring,
        devices: Devices,
        folder: Path,
        log: Callable[[str], None],
    ) -> None:
        self._parts = parts
        self._kernel = parts.kernel
        self._lifecycle = lifecycle
        self._saving = saving
        self._restoring = restoring
        self._devices = devices
        self._folder = folder
        self._log = log
        self._journal = Journal(parts.kernel, journal_folder(folder.name))
        self._links = Links(parts.kernel, folder, parts.carrier, self._comes)
        self._departures: dict[str, Departure] = {}
        self._leaving: dict[str, LeavingDomain] = {}
        self._arrivals: dict[str, Arrival] = {}
        parts.domains.ending.append(self._ends)

    def close(self) -> None:
        """Take no more."""
        self._links.close()
        self._journal.close()

    def under_way(self) -> list[Migration]:
        """Those that have not ended."""
        leaving = [
            Migration(one.id, one.record.config.name, False, one.peer, one.side.phase.name.lower())
            for one in self._departures.values()
        ]
        coming = [
            Migration(one.offer.id, one.offer.config.name, True, one.peer, one.side.phase.name.lower())
            for one in self._arrivals.values()
        ]
        return leaving + coming

    # --- those that leave --------------------------------------------------------------------------

    def migrate(self, wanted: Migrate, tell: Tell) -> Task[Migrated]:
        """Move a domain; the statement in the end. ToolstackError: it goes on here, unless that says otherwise."""
        if self._kernel.repeats:
            raise ToolstackError("a machine that repeats itself (--seed) sends nothing to other machines")
        if wanted.folder is not None and Path(wanted.folder) == self._folder:
            raise ToolstackError(f"domain '{wanted.domain}' runs on machine '{self._folder.name}' already")
        if len(self._departures) >= DEPARTURES_MOST:
            raise ToolstackError(f"{DEPARTURES_MOST} domains are leaving; try again when one has left")
        record, info = self._saving.savable(wanted.domain)
        check_can_leave(record)
        migration = f"{self._parts.chance.getrandbits(128):032x}"
        domain = LeavingDomain(self._parts, self._lifecycle, self._devices, record, info, wanted)
        peer = wanted.place or f"machine '{Path(wanted.folder or '').name}'"
        departure = Departure(self._kernel, migration, record, domain, self._reach(wanted), peer)
        self._departures[migration] = departure
        self._leaving[migration] = domain
        departure.when_over = lambda: self._left(departure, domain)
        record.saving = True
        return (yield from departure.run(wanted, tell))

    def _left(self, departure: Departure, domain: LeavingDomain) -> None:
        self._departures.pop(departure.id, None)
        self._leaving.pop(departure.id, None)
        departure.record.saving = False
        domain.close()
        self._log(
            f"domain {departure.record.domid} ({departure.record.config.name}) "
            f"to {departure.peer}: {departure.side.phase.name.lower()}"
        )

    def _ends(self, domid: DomId) -> None:
        """A domain's destruction begins."""
        for migration, domain in self._leaving.items():
            if self._departures[migration].record.domid == domid:
                domain.let_go()

    def _reach(self, wanted: Migrate) -> Reach:
        def reach() -> Task[Connection]:
            if wanted.folder is not None:
                return self._links.to_folder(wanted.folder)
            return self._links.to_place(wanted.place or "", wanted.key or "")

        return reach

    # --- those that come ---------------------------------------------------------------------------

    def _comes(self, connection: Connection) -> None:
        self._kernel.spawn(self._serve(connection))

    def _serve(self, connection: Connection) -> Task[None]:
        """A machine has connected: find out what for."""
        yield from self._kernel.until(
            lambda: bool(connection.words) or connection.lost is not None,
            connection.changed,
            timeout=FIRST_WORD_SECONDS,
        )
        said = connection.take()
        try:
            if said is not None and said.word is Word.OFFER:
                yield from self._offered(connection, said)
            elif said is not None and said.word is Word.ASK:
                yield from self._asked(connection, said)
            else:
                connection.close()
        except Malformed as problem:
            connection.say(Word.REFUSE, reason(f"it does not understand: {problem}"))
            connection.close()

    def _offered(self, connection: Connection, said: Said) -> Task[None]:
        offer: Offer = read_body(Offer, said.body, "the offer")
        if len(self._arrivals) >= ARRIVALS_MOST or offer.id in self._arrivals:
            connection.say(Word.REFUSE, reason(f"{ARRIVALS_MOST} domains are coming to it; try again later"))
            connection.close()
            return
        domain = ComingDomain(self._parts, self._lifecycle, self._restoring, self._folder.name)
        arrival = self._arrivals[offer.id] = Arrival(self._kernel, self._journal, connection, offer, domain)
        try:
            yield from arrival.run()
        finally:
            del self._arrivals[offer.id]
            self._log(f"domain {offer.config.name} from {arrival.peer}: {arrival.outcome()}")

    def _asked(self, connection: Connection, said: Said) -> Task[None]:
        """What was decided? One that is not under way any more runs here, or has run, if the journal has it."""
        question: Question = read_body(Question, said.body, "the question")
        arrival = self._arrivals.get(question.id)
        if arrival is not None:
            arrival.attach(connection)
            return
        if not self._journal.has(question.id):
            connection.say(Word.DROPPED, reason("it does not have the domain"))
            connection.close()
            return
        connection.say(Word.RAN, body_of(Ran()))
        yield from self._kernel.until(
            lambda: bool(connection.words) or connection.lost is not None,
            connection.changed,
            timeout=FIRST_WORD_SECONDS,
        )
        answer = connection.take()
        if answer is not None and answer.word is Word.GONE:
            self._journal.forget(question.id)
        connection.close()

    # --- other questions ---------------------------------------------------------------------------

    def perform(self, wanted: Any) -> Any:
        """What the operation answers. Raises ToolstackError."""
        return self.HANDLERS[type(wanted)](self, wanted)

    def _resume(self, wanted: ops.Resume) -> None:
        info = self._parts.domains.guest(wanted.domain)
        record = self._parts.domains.records.get(info.domid)
        if record is None or record.shutdown != SHUTDOWN_suspend:
            raise ToolstackError(
                f"domain '{wanted.domain}' is not suspended; of a paused one 'xenctl unpause'"
            )
        for departure in list(self._departures.values()):
            if departure.record is record:
                departure.stay()
                return
        if record.saving:
            raise ToolstackError(f"domain '{wanted.domain}' is being saved")
        self._parts.suspending.resume(record)

    HANDLERS: Final[dict[type[Any], Callable[[Migrations, Any], Any]]] = {
        ops.Migrations: lambda self, _wanted: self.under_way(),
        ops.Resume: _resume,
    }
    """What performs each operation."""


def check_can_leave(record: Record) -> None:
    """Raises ToolstackError for a domain that has to do with others on its machine."""
    if record.config.driver_domain:
        raise ToolstackError(f"domain '{record.config.name}' is a driver domain, which serves others here")
