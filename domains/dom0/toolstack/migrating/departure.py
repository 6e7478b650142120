"""A domain that leaves: the source's side of a migration, from the offer until it is known who runs the domain.

What is said when, and what follows from it, agreement.py decides; here it is done. The user who asked for it is answered when it
is over, or when it has been in doubt for DOUBT_SECONDS; the asking goes on then, for as long as the suspended domain is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from domains.carrier.frames import Word
from domains.control.migration_operations import Migrate, Migrated, Round
from domains.control.protocol import Exit
from domains.control.records import Malformed
from domains.dom0.toolstack.domains import Record
from domains.dom0.toolstack.errors import ToolstackError
from domains.dom0.toolstack.migrating.agreement import Broken, Do, SourcePhase, SourceSide, Step
from domains.dom0.toolstack.migrating.connection import Connection, Lost, Said
from domains.dom0.toolstack.migrating.offer import (
    Accepted,
    Offer,
    Question,
    Ran,
    body_of,
    read_body,
    reason,
    why_of,
)
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import Signal, Task
from hypervisor.public.errno import XenError

ANSWER_SECONDS: Final = 30.0
"""In which a target must have said whether it takes the domain."""
READY_SECONDS: Final = 120.0
"""In which it must have made the domain of what it has got."""
DOUBT_SECONDS: Final = 20.0
ASK_SECONDS: Final = 1.0
"""Between two tries to ask what was decided."""

Tell = Callable[[Round], None]
Reach = Callable[[], Task[Connection]]
"""A new connection with the target. Raises Lost."""


class Leaving(Protocol):
    """What is done with the domain itself."""

    def offer(self, migration: str) -> Task[Offer]:
        """What there is to say of it. Raises ToolstackError if it cannot leave."""

    def send(self, connection: Connection, heard: Callable[[], None], tell: Tell) -> Task[None]:
        """Send it while it runs, suspend it, and send the rest. `heard` is called often; what it raises ends the work.
        Raises ToolstackError, XenError, Lost.
        """

    def stood_since(self) -> int | None:
        """The system time, ns, at which it stood still; None: it runs."""

    def resume(self) -> None:
        """Let it go on, if it stands still."""

    def rename(self, *, away: bool) -> None:
        """Its name while it is in doubt, or its own again."""

    def destroy(self) -> Task[None]:
        """Nothing of it stays."""


class Refused(ToolstackError):
    """The target does not take the domain, or has dropped it."""


@dataclass
class Course:
    """What there is to tell in the end. Times are system times in ns."""

    began: int
    rounds: list[Round] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    domid: int | None = None
    stood_since: int | None = None
    ran: int = 0


class Departure:
    """One of them."""

    def __init__(
        self, kernel: Kernel, migration: str, record: Record, domain: Leaving, reach: Reach, peer: str
    ) -> None:
        self.id = migration
        self.record = record
        self._name = record.config.name
        self.peer = peer
        self.side = SourceSide()
        self.settled = Signal()
        self._kernel = kernel
        self._domain = domain
        self._reach = reach
        self.when_over: Callable[[], None] = lambda: None
        """Called once, when it is known who runs the domain, or the domain is gone."""
        self._over = False
        self._connection: Connection | None = None
        self._why = ""
        self._in_doubt_since: int | None = None
        self._course = Course(kernel.now())

    def run(self, wanted: Migrate, tell: Tell) -> Task[Migrated]:
        """The whole migration. Raises ToolstackError; then the domain goes on here, unless it says otherwise."""

        def note(done: Round) -> None:
            self._course.rounds.append(done)
            tell(done)

        try:
            offer = yield from self._domain.offer(self.id)
            self._connection = yield from self._reach()
            yield from self._offer(offer.replaced(paused=wanted.paused))
            yield from self._domain.send(self._connection, self._listen, note)
            self._course.stood_since = self._domain.stood_since()
            self.side.sent()
            self._listen()
        except (ToolstackError, XenError, Lost) as problem:
            self._give_up(problem)
            code = problem.code if isinstance(problem, ToolstackError) else Exit.FAILURE
            raise ToolstackError(self._stays(), code) from None
        except BaseException as problem:
            self._give_up(problem)
            raise
        self._kernel.spawn(self._settle())
        yield from self._kernel.until(self._known, self.settled)
        return self._outcome()

    def _stays(self) -> str:
        return f"domain {self._name} did not migrate: {self._why}; it goes on here"

    def stay(self) -> None:
        """Its user is certain that it does not run at the target. ToolstackError: that is not in doubt."""
        if self.side.phase is not SourcePhase.IN_DOUBT:
            raise ToolstackError(
                f"domain {self._name} is on its way to {self.peer}; wait until that has ended"
            )
        self._why = "its user has decided so"
        self._perform(self.side.decided_by_user())

    # --- before GO -------------------------------------------------------------------------------

    def _offer(self, offer: Offer) -> Task[None]:
        connection = self._connection
        assert connection is not None
        connection.say(Word.OFFER, body_of(offer))

        def answered() -> bool:
            self._listen()
            return self.side.phase is not SourcePhase.OFFERED

        if not (yield from self._kernel.until(answered, connection.changed, timeout=ANSWER_SECONDS)):
            raise Lost(f"{self.peer} does not answer")

    def _listen(self) -> None:
        """Heed what the target has said. Raises Refused, Lost before GO."""
        connection = self._connection
        assert connection is not None
        while (said := connection.take()) is not None:
            self._heed(said)
        if connection.lost is not None and not self.side.over:
            why = connection.lost
            self._why = self._why or why
            self._perform(self.side.lost())
            if self.side.over:
                raise Lost(why)

    def _heed(self, said: Said) -> None:
        try:
            if said.word is Word.ACCEPT:
                accepted: Accepted = read_body(Accepted, said.body, "its answer")
                self._course.warnings = accepted.warnings
            elif said.word is Word.RAN:
                ran: Ran = read_body(Ran, said.body, "its answer")
                self._course.domid, self._course.ran = ran.domid, self._kernel.now()
            if said.word in (Word.REFUSE, Word.DROPPED):
                self._why = f"{self.peer}: {why_of(said.body)}"
            todo = self.side.heard(said.word)
        except (Broken, Malformed) as problem:
            assert self._connection is not None
            self._connection.close(f"{self.peer} is no machine of this version: {problem}")
            return
        self._perform(todo)
        if self.side.phase is SourcePhase.KEPT:
            raise Refused(self._why)

    def _give_up(self, problem: BaseException) -> None:
        """Before GO: the domain goes on here."""
        why = str(problem)
        self._why = self._why or why
        if not self.side.over:
            steps = self.side.lost() if isinstance(problem, Lost) else self.side.cancelled()
            self._perform(steps, why)
        self._end()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self.settled.send()
        if not self._over:
            self._over = True
            self.when_over()

    # --- GO, and what comes after it -------------------------------------------------------------

    def _settle(self) -> Task[None]:
        """Wait for what the target decides, and ask again whenever the connection is lost."""
        deadline = self._kernel.now() + int(READY_SECONDS * 1e9)
        while not self.record.destroying:
            connection = self._connection
            assert connection is not None
            try:
                self._listen()
            except (Refused, Lost):
                break
            if self.side.over:
                break
            if connection.lost is not None:
                yield from self._ask_again()
            elif self.side.phase is SourcePhase.SENT and self._kernel.now() > deadline:
                self._why = f"{self.peer} was not ready in time"
                break
            else:
                yield from self._kernel.until(partial(has_come, connection), connection.changed, timeout=1.0)
            self.settled.send()
        if not self.side.over:  # unless it is in doubt, and destroyed: then nothing is said
            self._perform(self.side.cancelled(), self._why or "it was destroyed")
        if self.side.phase is SourcePhase.MOVED:
            yield from self._domain.destroy()
            if self._connection is not None:
                self._connection.say(Word.GONE)
        self._end()

    def _ask_again(self) -> Task[None]:
        yield from self._kernel.rest(ASK_SECONDS)
        try:
            connection = yield from self._reach()
        except Lost:
            return
        self._connection = connection
        connection.say(Word.ASK, body_of(Question(self.id)))

    def _perform(self, steps: tuple[Step, ...], why: str = "") -> None:
        for step in steps:
            if step is Do.RESUME:
                self._domain.resume()
                self._domain.rename(away=False)
            elif step is Word.GO:
                if self._in_doubt_since is None:
                    self._in_doubt_since = self._kernel.now()
                    self._domain.rename(away=True)
                self._say(Word.GO)
            elif step is Word.CANCEL:
                self._say(Word.CANCEL, reason(why))
            # DESTROY and GONE follow in _settle, when it is gone; ASK_AGAIN is that loop's own

    def _say(self, word: Word, body: bytes = b"") -> None:
        if self._connection is not None:
            self._connection.say(word, body)

    # --- what its user is told -------------------------------------------------------------------

    def _known(self) -> bool:
        """Whether there is something to answer."""
        if self.side.over or self.record.destroying:
            return True
        since = self._in_doubt_since
        return since is not None and self._kernel.now() - since > DOUBT_SECONDS * 1e9

    def _outcome(self) -> Migrated:
        course, phase = self._course, self.side.phase
        if phase is SourcePhase.MOVED:
            stood = course.stood_since if course.stood_since is not None else course.ran
            return Migrated(
                course.domid,
                (course.ran - course.began) / 1e9,
                (course.ran - stood) / 1e9,
                sum(done.bytes for done in course.rounds),
                tuple(course.rounds),
                course.warnings,
            )
        if phase is SourcePhase.KEPT:
            raise ToolstackError(self._stays())
        if self.record.destroying:
            raise ToolstackError(f"domain {self._name} was destroyed while it migrated")
        raise ToolstackError(
            f"whether domain {self._name} runs on {self.peer} is not known: the connection was lost when it was to begin there."
            " It stays suspended here until that machine answers; if it never will, 'xenctl destroy' it, or"
            " 'xenctl resume' it when it is certain that it does not run there",
            Exit.TIMED_OUT,
        )


def has_come(connection: Connection) -> bool:
    """Whether a word has come, or the connection's end."""
    return bool(connection.words) or connection.lost is not None
