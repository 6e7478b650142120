"""Which of two machines runs a domain that migrates: what each of them does, whatever it hears and whenever that ends.

    source                                                        target
    OFFERED ──────────── OFFER ─────────────────────────────────► CHECKING
       │  ◄───────────── ACCEPT, or REFUSE: it goes on here         │
    SENDING ════════════ rounds, then suspended, the rest ══════► RECEIVING    it is made, paused
    SENT    ◄─────────── READY ───────────────────────────────── WAITING
    IN_DOUBT ─────────── GO ───────────────────────────────────► DECIDING      the decision is written to the disk
    MOVED   ◄─────────── RAN ─────────────────────────────────── RUNNING       it is unpaused
       └──────────────── GONE ─────────────────────────────────►               the decision can be forgotten

    KEPT: it goes on at the source                                DROPPED: it never runs at the target

**Exactly one runs.** Before GO the domain is the source's: whatever fails, is silent or breaks off, it goes on there (KEPT), and
the target, which unpauses only after GO, takes its own apart (DROPPED). With GO the source gives it up: it never again goes on
of itself. The target decides, once, and what it has decided never changes: it runs, or it is dropped.

**What cannot be had.** Two who talk over a connection that may break cannot both know at once (the two generals' problem): when
it breaks after GO, the source does not know whether GO came. It is the one that waits then: its domain stays suspended; it asks
again, over a new connection, by the migration's id, until the target says what it has decided. RAN: the source destroys its own.
DROPPED: it goes on. WAITING: GO was lost, and is said again. A target that never answers keeps it waiting until its user decides;
Xen's xl gives up at the same place and says so ("Domain state is now undefined").

The target remembers what it decided in a file (journal.py), written before the domain runs: it is asked again even if its machine
has ended and been started again. Of an id that it does not know it says DROPPED, which is true. The source needs no file: its
memory of the migration ends with its domain, when its machine does.

No sockets, no guests: each method is something that has happened, and returns what is to be done, in order.
Sources: Xen tools/xl/xl_migrate.c; Gray, Notes on Data Base Operating Systems, 1978 (two-phase commit, the generals).
"""

from __future__ import annotations

from enum import Enum, auto

from domains.carrier.frames import Word


class Broken(Exception):
    """The other side says what cannot be said now: it is no machine of this version, or it is broken."""


class Do(Enum):
    """What a side does, besides saying something."""

    RESUME = auto()
    """Source: let the domain go on, if it has been suspended."""
    DESTROY = auto()
    """Source: destroy the suspended domain."""
    ASK_AGAIN = auto()
    """Source: connect anew, and say ASK."""
    WRITE = auto()
    """Target: write the decision to the disk; `written` follows."""
    UNPAUSE = auto()
    """Target: give the domain its name and let it run."""
    TAKE_APART = auto()
    """Target: nothing of the domain stays."""
    BE_PATIENT = auto()
    """Target: wait for so long that the source can connect anew; `expired` follows."""
    FORGET = auto()
    """Target: the decision's file can go."""


Step = Word | Do
"""A Word is to be said to the other side, if there is a connection."""


class SourcePhase(Enum):
    """How far the source is."""

    OFFERED = auto()
    SENDING = auto()
    SENT = auto()
    IN_DOUBT = auto()
    MOVED = auto()
    KEPT = auto()


UNDECIDED = (SourcePhase.OFFERED, SourcePhase.SENDING, SourcePhase.SENT)
"""Before GO: the domain is the source's."""


class SourceSide:
    """The machine where the domain has run so far."""

    def __init__(self) -> None:
        self.phase = SourcePhase.OFFERED

    @property
    def over(self) -> bool:
        """Whether it is known who runs the domain."""
        return self.phase in (SourcePhase.MOVED, SourcePhase.KEPT)

    def heard(self, word: Word) -> tuple[Step, ...]:
        """The target has said something. Raises Broken."""
        phase = self.phase
        if word is Word.ACCEPT and phase is SourcePhase.OFFERED:
            self.phase = SourcePhase.SENDING
            return ()
        if word is Word.READY and phase is SourcePhase.SENT:
            self.phase = SourcePhase.IN_DOUBT
            return (Word.GO,)
        if word is Word.WAITING and phase is SourcePhase.IN_DOUBT:
            return (Word.GO,)
        if word is Word.RAN and phase in (SourcePhase.IN_DOUBT, SourcePhase.MOVED):
            return self._moved()
        if word in (Word.REFUSE, Word.DROPPED) and phase is not SourcePhase.MOVED:
            return self._kept()
        if (
            phase is SourcePhase.KEPT and word is not Word.RAN
        ):  # it was on its way when this side ended the migration
            return ()
        raise Broken(f"the target said {word.name}")

    def sent(self) -> None:
        """The domain is suspended, and all of it is on its way."""
        self.phase = SourcePhase.SENT

    def lost(self) -> tuple[Step, ...]:
        """The connection is broken, or the target has been silent for too long, or has said what cannot be."""
        if self.phase in UNDECIDED:
            return self._kept()
        return (Do.ASK_AGAIN,) if self.phase is SourcePhase.IN_DOUBT else ()

    def cancelled(self) -> tuple[Step, ...]:
        """The migration is not to be: its user, or something at this machine, has ended it. After GO it cannot be taken back."""
        return (Word.CANCEL, *self._kept()) if self.phase in UNDECIDED else ()

    def decided_by_user(self) -> tuple[Step, ...]:
        """The target never answers, and the user is certain that the domain does not run there."""
        return self._kept() if self.phase is SourcePhase.IN_DOUBT else ()

    def _moved(self) -> tuple[Step, ...]:
        if self.phase is SourcePhase.MOVED:
            return (Word.GONE,)
        self.phase = SourcePhase.MOVED
        return (Do.DESTROY, Word.GONE)

    def _kept(self) -> tuple[Step, ...]:
        if self.phase is SourcePhase.KEPT:
            return ()
        self.phase = SourcePhase.KEPT
        return (Do.RESUME,)


class TargetPhase(Enum):
    """How far the target is."""

    CHECKING = auto()
    RECEIVING = auto()
    WAITING = auto()
    DECIDING = auto()
    RUNNING = auto()
    DROPPED = auto()


BEFORE_READY = (TargetPhase.CHECKING, TargetPhase.RECEIVING)
NOT_DECIDED = (*BEFORE_READY, TargetPhase.WAITING)


class TargetSide:
    """The machine that the domain is to come to."""

    def __init__(self) -> None:
        self.phase = TargetPhase.CHECKING
        self.connected = True

    def accepted(self) -> tuple[Step, ...]:
        """The offer can be taken."""
        self.phase = TargetPhase.RECEIVING
        return (Word.ACCEPT,)

    def refused(self) -> tuple[Step, ...]:
        """The offer cannot be taken; nothing was begun."""
        self.phase = TargetPhase.DROPPED
        return (Word.REFUSE,)

    def restored(self) -> tuple[Step, ...]:
        """The domain is here, whole and paused."""
        if self.phase is not TargetPhase.RECEIVING:
            return ()
        self.phase = TargetPhase.WAITING
        return (Word.READY,)

    def failed(self) -> tuple[Step, ...]:
        """The domain cannot be made, or has been destroyed, before it was decided that it runs."""
        if self.phase not in NOT_DECIDED:
            return ()
        return (*self._dropped(), Word.DROPPED)

    def heard(self, word: Word) -> tuple[Step, ...]:
        """The source has said something. Raises Broken."""
        if word is Word.GO and self.phase is TargetPhase.WAITING:
            self.phase = TargetPhase.DECIDING
            return (Do.WRITE,)
        if word is Word.GO and self.phase not in BEFORE_READY:
            return self._answer()
        if word is Word.ASK:
            return self.asked()
        if word is Word.CANCEL and self.phase in (*NOT_DECIDED, TargetPhase.DROPPED):
            return self._dropped()
        if word is Word.GONE and self.phase is TargetPhase.RUNNING:
            return (Do.FORGET,)
        raise Broken(f"the source said {word.name}")

    def asked(self) -> tuple[Step, ...]:
        """The source is in doubt, and has connected anew."""
        self.connected = True
        if self.phase in BEFORE_READY:  # it cannot have said GO; what it offered is in another's hands
            return (*self._dropped(), Word.DROPPED)
        return self._answer()

    def written(self) -> tuple[Step, ...]:
        """The decision is on the disk."""
        self.phase = TargetPhase.RUNNING
        return (Do.UNPAUSE, Word.RAN)

    def not_written(self) -> tuple[Step, ...]:
        """The decision cannot be written, so it is another: the domain does not run here."""
        self.phase = TargetPhase.DROPPED
        return (Do.TAKE_APART, Word.DROPPED)

    def lost(self) -> tuple[Step, ...]:
        """The connection is broken, or the source has been silent for too long, or has said what cannot be."""
        self.connected = False
        if self.phase in BEFORE_READY:
            return self._dropped()
        return (Do.BE_PATIENT,) if self.phase is TargetPhase.WAITING else ()

    def expired(self) -> tuple[Step, ...]:
        """The source has not connected anew in time: it never will, or it will hear that the domain did not run here."""
        return self._dropped() if self.phase is TargetPhase.WAITING and not self.connected else ()

    def _answer(self) -> tuple[Step, ...]:
        """What is decided; nothing yet while the decision is being written, for RAN follows."""
        answers: dict[TargetPhase, tuple[Step, ...]] = {
            TargetPhase.WAITING: (Word.WAITING,),
            TargetPhase.RUNNING: (Word.RAN,),
            TargetPhase.DROPPED: (Word.DROPPED,),
        }
        return answers.get(self.phase, ())

    def _dropped(self) -> tuple[Step, ...]:
        if self.phase is TargetPhase.DROPPED:
            return ()
        self.phase = TargetPhase.DROPPED
        return (Do.TAKE_APART,)
