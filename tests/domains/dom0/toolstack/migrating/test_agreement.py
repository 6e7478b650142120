"""The agreement between two machines, in every order in which words can be lost, connections break and machines die.

Negative controls: five ways to be wrong, each of which must be found (`test_the_walk_finds_what_is_wrong`).
"""

from __future__ import annotations

import pytest

from domains.carrier.frames import Word
from domains.dom0.toolstack.migrating.agreement import (
    Broken,
    Do,
    SourcePhase,
    SourceSide,
    Step,
    TargetPhase,
    TargetSide,
)
from tests.domains.dom0.toolstack.migrating.two_machines import Sides, explore


def test_exactly_one_runs_whatever_breaks_and_whoever_is_killed() -> None:
    worlds, wrong = explore(Sides())
    assert not wrong, "\n".join(wrong)
    assert worlds > 1000


class GoesOnAfterGo(SourceSide):
    """It takes the domain back when the connection breaks."""

    def lost(self) -> tuple[Step, ...]:
        return self._kept()


class DestroysWithGo(SourceSide):
    """It does not wait for RAN."""

    def heard(self, word: Word) -> tuple[Step, ...]:
        todo = super().heard(word)
        return (*todo, Do.DESTROY) if Word.GO in todo else todo


class RunsWithoutGo(TargetSide):
    """It takes a broken connection for the source's death."""

    def lost(self) -> tuple[Step, ...]:
        if self.phase is TargetPhase.WAITING:
            self.connected, self.phase = False, TargetPhase.DECIDING
            return (Do.WRITE,)
        return super().lost()


class WritesNothing(TargetSide):
    """It runs the domain at once."""

    def heard(self, word: Word) -> tuple[Step, ...]:
        todo = super().heard(word)
        return self.written() if Do.WRITE in todo else todo


class NeverExpires(TargetSide):
    """It waits for the source for ever."""

    def expired(self) -> tuple[Step, ...]:
        return ()


@pytest.mark.parametrize(
    ("sides", "found"),
    [
        (Sides(source=GoesOnAfterGo), "runs twice"),
        (Sides(source=DestroysWithGo), "runs nowhere"),
        (Sides(target=RunsWithoutGo), "runs twice"),
        (Sides(target=WritesNothing), "goes on at the source after it has run at the target"),
        (Sides(target=NeverExpires), "the target keeps a copy"),
    ],
)
def test_the_walk_finds_what_is_wrong(sides: Sides, found: str) -> None:
    assert any(found in why for why in explore(sides)[1])


def test_a_word_out_of_turn_is_refused() -> None:
    source, target = SourceSide(), TargetSide()
    with pytest.raises(Broken):
        source.heard(Word.READY)
    with pytest.raises(Broken):
        source.heard(Word.RAN)
    with pytest.raises(Broken):
        target.heard(Word.GO)
    assert source.phase is SourcePhase.OFFERED
    assert target.phase is TargetPhase.CHECKING


def test_after_go_nothing_but_the_targets_word_lets_the_source_go_on() -> None:
    source = SourceSide()
    source.heard(Word.ACCEPT)
    source.sent()
    assert source.heard(Word.READY) == (Word.GO,)
    assert source.cancelled() == ()
    assert source.lost() == (Do.ASK_AGAIN,)
    assert source.heard(Word.WAITING) == (Word.GO,)
    assert source.heard(Word.DROPPED) == (Do.RESUME,)
    assert source.over
