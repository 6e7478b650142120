"""What Dom0's toolstack can be asked about moving a domain to another machine: the records of xl's migrate. A part of
`operations.py`, which has the table of all.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from domains.control.arguments import Arguments, Count, DomIdNumber, Duration, Stream
from domains.control.description import DomainText, PathText
from domains.control.records import Length, Matches, Range, Record

PLACE: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}")
"""HOST:PORT, where HOST is a name, an IPv4 address, or an IPv6 address in brackets."""
PUBLIC_KEY: Final = re.compile("[0-9a-f]{64}")
DEFAULT_ROUNDS: Final = 5
"""Rounds of pre-copy, as Xen's (tools/libs/guest/xg_sr_save.c, SPP_MAX_ITERATIONS)."""
MOST_ROUNDS: Final = 100
MAX_RATE: Final = 1e6
"""MiB a second."""

PlaceText = Annotated[str, Matches(PLACE)]
KeyText = Annotated[str, Matches(PUBLIC_KEY)]


def is_place(text: str) -> bool:
    """Whether it is HOST:PORT, with a port that there may be."""
    return PLACE.fullmatch(text) is not None and 0 < int(text.rpartition(":")[2]) < 1 << 16


class Round(Record):
    """Some of a domain's memory that went over: `number` is None for what was sent when the domain was suspended already."""

    number: Count | None
    pages: Count
    bytes: Count
    seconds: Duration


class Migrated(Record):
    """A domain that runs on the other machine: its id there, how long it all took, how long the domain did not run, all bytes,
    and the rounds; `warnings`: in what it differs there.
    """

    domid: DomIdNumber | None
    total_seconds: Duration
    downtime_seconds: Duration
    bytes: Count
    rounds: tuple[Round, ...]
    warnings: tuple[str, ...] = ()


class Migrate(Stream[Round, Migrated]):
    """Move a domain to another machine while it runs. The other machine is one of the same user's, by its `folder`, or the one
    at `place`, which has this public `key`.

    `bandwidth`: MiB a second, at most; 0: as many as go. `rounds`: of pre-copy at most; 0: the domain is suspended first.
    `copy_disks`: the images go along. `paused`: it does not run there until it is unpaused.
    """

    domain: DomainText
    folder: PathText | None = None
    place: PlaceText | None = None
    key: KeyText | None = None
    bandwidth: Annotated[float, Range(0, MAX_RATE)] = 0.0
    rounds: Annotated[int, Range(0, MOST_ROUNDS)] = DEFAULT_ROUNDS
    copy_disks: bool = False
    paused: bool = False

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.place is None) or (self.place is None) != (self.key is None):
            raise ValueError("name a machine by its folder, or by its place and its key")
        if self.place is not None and not is_place(self.place):
            raise ValueError(f"'{self.place}' is no HOST:PORT, such as 10.0.0.2:7800 or [fd00::2]:7800")


class Migration(Record):
    """A migration that has not ended: `domain`, whether it comes here or goes, from or to whom, and how far it is."""

    id: Annotated[str, Length(32)]
    domain: DomainText
    comes: bool
    peer: str
    phase: str


class Migrations(Arguments[tuple[Migration, ...]]):
    """The migrations that have not ended."""


class Resume(Arguments[None]):
    """Let a domain that stands still, suspended, go on here. Of one that is in doubt between two machines its user decides so."""

    domain: DomainText


MIGRATION_OPERATIONS: Final[dict[str, type[Arguments[Any]]]] = {
    "migrate": Migrate,
    "migrations": Migrations,
    "resume": Resume,
}
"""These operations by their names."""
