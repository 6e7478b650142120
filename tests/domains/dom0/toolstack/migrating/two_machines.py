"""Everything that can happen to a migration between two machines, as a graph that is walked through whole.

A world is the two sides of the agreement, the domain's two copies, what is on its way between them, and the target's file. A step
is one thing that happens: a word arrives, the connection breaks with any part of what was on its way lost, an end notices, a user
cancels, a machine is killed or started again. `explore` visits every world that can be reached and checks each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from domains.carrier.frames import Word
from domains.dom0.toolstack.migrating.agreement import (
    UNDECIDED,
    Broken,
    Do,
    SourcePhase,
    SourceSide,
    Step,
    TargetPhase,
    TargetSide,
)

Words = tuple[Word, ...]


class World(NamedTuple):
    """`source`, `target`: None when the machine is dead; a target that was started again is True: it remembers nothing. `here`,
    `there`: the copies of the domain, at the source and at the target. `up`: the connection; `source_end`, `target_end`: what
    each of them believes of it.
    """

    source: SourcePhase | None = SourcePhase.OFFERED
    target: TargetPhase | bool | None = TargetPhase.CHECKING
    here: str = "runs"
    there: str = "none"
    up: bool = True
    source_end: bool = True
    target_end: bool = True
    to_target: Words = (Word.OFFER,)
    to_source: Words = ()
    asking: bool = False
    writing: bool = False
    patient: bool = False
    file: bool = False
    received: bool = False
    ran: bool = False
    breaks: int = 0
    kills: int = 0
    bad: str = ""


class Sides(NamedTuple):
    """The code that is examined."""

    source: type[SourceSide] = SourceSide
    target: type[TargetSide] = TargetSide


def explore(sides: Sides, breaks: int = 2, kills: int = 2) -> tuple[int, list[str]]:
    """How many worlds there are, and what is wrong in some of them."""
    todo, seen = deque([World()]), {World()}
    wrong: list[str] = []
    while todo and len(wrong) < 5:
        world = todo.popleft()
        following = list(steps(world, sides, breaks, kills))
        if why := judge(world, settled=not any(natural for natural, _ in following)):
            wrong.append(f"{why}: {world}")
        for _, new in following:
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return len(seen), wrong


def judge(world: World, *, settled: bool) -> str:
    """What is wrong in a world; `settled`: nothing happens any more unless something breaks."""
    if world.bad:
        return world.bad
    if world.here == "runs" and world.there == "runs":
        return "it runs twice"
    if world.here == "runs" and world.ran:
        return "it goes on at the source after it has run at the target"
    if settled and not (world.here == "runs" or world.ran or world.source is None):
        if world.target is None and world.here == "suspended":
            return ""  # in doubt, as long as the target's machine is not started again
        return "it runs nowhere"
    if settled and world.here == "runs" and world.there != "none":
        return "the target keeps a copy"
    if (
        settled
        and world.ran
        and world.here != "gone"
        and world.source is not None
        and world.target is not None
    ):
        return "the source keeps a copy"
    return ""


def steps(world: World, sides: Sides, breaks: int, kills: int) -> Iterator[tuple[bool, World]]:
    """What can happen now, and whether it is in the nature of things (or a misfortune, which need not happen)."""
    yield from ((True, new) for new in arrivals(world, sides))
    yield from ((True, new) for new in doings(world, sides))
    yield from ((False, new) for new in misfortunes(world, sides))
    if world.up and world.breaks < breaks:
        yield from ((False, new) for new in broken(world._replace(breaks=world.breaks + 1)))
    if world.kills < kills:
        dying = world._replace(kills=world.kills + 1)
        if world.source is not None:
            for new in broken(dying):
                yield False, new._replace(source=None, here="killed", asking=False, source_end=False)
        if world.target is not None:
            for new in broken(dying):
                yield False, dead(new)
                if (
                    world.writing
                ):  # it had just decided: the domain has run there for no time, and died with it
                    yield False, dead(new)._replace(file=True, ran=True)
    if world.target is None:
        yield True, world._replace(target=True)


def dead(world: World) -> World:
    """The target's machine has been killed."""
    return world._replace(target=None, there="none", writing=False, patient=False, target_end=False)


def broken(world: World) -> Iterator[World]:
    """The connection breaks: of what is on its way any first part still arrives."""
    for mine in range(len(world.to_target) + 1):
        for yours in range(len(world.to_source) + 1):
            yield world._replace(
                up=False, to_target=world.to_target[:mine], to_source=world.to_source[:yours]
            )


def source_of(world: World, sides: Sides) -> SourceSide:
    side = sides.source()
    assert world.source is not None
    side.phase = world.source
    return side


def arrivals(world: World, sides: Sides) -> Iterator[World]:
    """A word arrives, or an end notices that there is no connection any more."""
    if world.to_source and world.source_end and world.source is not None:
        side, word = source_of(world, sides), world.to_source[0]
        new = world._replace(to_source=world.to_source[1:])
        try:
            yield at_source(new, side, side.heard(word))
        except Broken:
            yield new._replace(bad=f"the source does not understand {word.name}")
    elif world.source_end and not world.up and world.source is not None:
        side = source_of(world, sides)
        yield at_source(world._replace(source_end=False), side, side.lost())
    if world.to_target and world.target_end and world.target is not None:
        yield from arrival_at_target(world, sides)
    elif world.target_end and not world.up and isinstance(world.target, TargetPhase):
        yield at_target(world._replace(target_end=False), sides, lambda side: side.lost())


def arrival_at_target(world: World, sides: Sides) -> Iterator[World]:
    word, new = world.to_target[0], world._replace(to_target=world.to_target[1:])
    if world.target is True:
        answer = Word.RAN if world.file else Word.DROPPED
        yield (
            new._replace(to_source=(*new.to_source, answer) if new.up else new.to_source)
            if word is Word.ASK
            else new._replace(file=False)
        )
        return
    if word is Word.OFFER:
        yield at_target(new, sides, lambda side: side.accepted())
        yield at_target(new, sides, lambda side: side.refused())
    elif word is Word.DATA:
        yield new._replace(received=world.target is TargetPhase.RECEIVING)
    else:
        try:
            yield at_target(new, sides, lambda side: side.heard(word))
        except Broken:
            yield new._replace(bad=f"the target does not understand {word.name} when {world.target}")


def doings(world: World, sides: Sides) -> Iterator[World]:
    """What each side does in its own time."""
    if world.source is SourcePhase.SENDING:
        side = source_of(world, sides)
        side.sent()
        data = (*world.to_target, Word.DATA) if world.up else world.to_target
        yield world._replace(source=side.phase, here="suspended", to_target=data)
    if world.asking and not world.up and world.target is not None:
        yield world._replace(
            asking=False,
            up=True,
            source_end=True,
            target_end=True,
            to_target=(Word.ASK,),
            to_source=(),
        )
    if not isinstance(world.target, TargetPhase):
        return
    if world.target is TargetPhase.RECEIVING and world.received:
        yield at_target(world._replace(there="paused"), sides, lambda side: side.restored())
    if world.writing:
        yield at_target(world._replace(writing=False, file=True), sides, lambda side: side.written())
        yield at_target(world._replace(writing=False), sides, lambda side: side.not_written())
    if world.patient:
        yield at_target(world._replace(patient=False), sides, lambda side: side.expired())


def misfortunes(world: World, sides: Sides) -> Iterator[World]:
    """The user cancels; the target's domain fails."""
    if world.source in UNDECIDED:
        side = source_of(world, sides)
        yield at_source(world, side, side.cancelled())
    if isinstance(world.target, TargetPhase) and world.target is not TargetPhase.CHECKING:
        yield at_target(world, sides, lambda side: side.failed())


def at_source(world: World, side: SourceSide, todo: tuple[Step, ...]) -> World:
    """The world after the source has done that."""
    world = world._replace(source=side.phase)
    for step in todo:
        match step:
            case Do.RESUME:
                world = world._replace(here="runs" if world.here == "suspended" else world.here)
            case Do.DESTROY:
                world = world._replace(here="gone")
            case Do.ASK_AGAIN:
                world = world._replace(asking=True)
            case Word() if world.up and world.source_end:
                world = world._replace(to_target=(*world.to_target, step))
    return world


def at_target(world: World, sides: Sides, happens: Callable[[TargetSide], tuple[Step, ...]]) -> World:
    """The world after that has happened at the target, and it has done what follows. Raises Broken."""
    side = sides.target()
    assert isinstance(world.target, TargetPhase)
    side.phase, side.connected = world.target, world.target_end
    todo = happens(side)
    world = world._replace(target=side.phase)
    for step in todo:
        match step:
            case Do.WRITE:
                world = world._replace(writing=True)
            case Do.UNPAUSE:
                world = world._replace(there="runs", ran=True)
            case Do.TAKE_APART:
                world = world._replace(there="none", received=False)
            case Do.BE_PATIENT:
                world = world._replace(patient=True)
            case Do.FORGET:
                world = world._replace(file=False)
            case Word() if world.up and world.target_end:
                world = world._replace(to_source=(*world.to_source, step))
    return world
